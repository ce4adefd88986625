"""Arguments and results in words, for people: short whatever the value is, and no more work than the words are worth.

A ``repr`` walks all of a value, and that of a list of a million numbers takes longer than the task did; here only what
is shown is looked at. What is called a password, token, secret or key is not shown.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from itertools import islice
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

#: characters of all arguments together, or of a result; and of one text in it
WORDS_MOST = 1_000
TEXT_MOST = 200
#: items of a collection that are shown, and collections within each other
ITEMS_MOST = 10
DEPTH_MOST = 3
#: bits of a number that is shown whole
BITS_MOST = 512
#: elements of an array that is shown whole
ELEMENTS_MOST = 10
#: names under which secrets are handed on
_SECRET = re.compile(r"pass(word|wd|phrase)|token|secret|credential|authorization|api_?key|private_?key", re.IGNORECASE)
HIDDEN = "***"

_BRACKETS: dict[type[Any], tuple[str, str]] = {
    list: ("[", "]"), tuple: ("(", ")"), set: ("{", "}"), frozenset: ("frozenset({", "})"),
}  # fmt: skip
_WHOLE = frozenset({float, bool, complex, type(None), type(...)})
_FUNCTIONS = (FunctionType, BuiltinFunctionType, MethodType, type)


def call_in_words(args: Iterable[Any], keywords: Mapping[str, Any]) -> str:
    """Arguments as a call would have them."""
    parts = [in_words(value) for value in islice(args, ITEMS_MOST)]
    left = len(args) - len(parts) if isinstance(args, tuple) else 0
    parts += [f"and {left} more"] * bool(left)
    parts += [f"{name}={_named(name, value, DEPTH_MOST)}" for name, value in islice(keywords.items(), ITEMS_MOST)]
    return shorten(", ".join(parts), WORDS_MOST)


def in_words(value: Any) -> str:
    """``value`` in at most `WORDS_MOST` characters; never raises."""
    return shorten(_words(value, DEPTH_MOST), WORDS_MOST)


def shorten(text: str, most: int) -> str:
    """``text``, cut at its end where it is longer."""
    return text if len(text) <= most else text[: most - 1] + "…"


def _words(value: Any, depth: int) -> str:
    kind = type(value)
    try:
        if kind is str or kind is bytes:
            return repr(value) if len(value) <= TEXT_MOST else f"{value[:TEXT_MOST]!r}… ({len(value):,} in all)"
        if kind is int:
            bits = value.bit_length()
            return repr(value) if bits <= BITS_MOST else f"<a number of {bits:,} bits>"
        if kind in _WHOLE:
            return repr(value)
        if isinstance(value, _FUNCTIONS):
            return f"<{getattr(value, '__qualname__', kind.__name__)}>"
        return _made_of_others(value, kind, depth)
    except Exception:  # noqa: BLE001 - whatever the user's classes do when they are looked at
        return f"<{kind.__qualname__}>"


def _made_of_others(value: Any, kind: type[Any], depth: int) -> str:
    shape = getattr(value, "shape", None) if hasattr(kind, "shape") else None
    if shape is not None:
        return _array(value, kind, shape)
    if isinstance(value, dict):
        shown = [f"{_words(key, depth - 1)}: {_named(key, one, depth - 1)}" for key, one in _some(value.items(), depth)]
        return _collection(value, kind, dict, ("{", "}"), shown)
    if isinstance(value, tuple) and hasattr(kind, "_fields"):
        return _fields(kind, zip(kind._fields, value, strict=False), depth)
    for base, brackets in _BRACKETS.items():
        if isinstance(value, base):
            return _collection(value, kind, base, brackets, [_words(one, depth - 1) for one in _some(value, depth)])
    if dataclasses.is_dataclass(value) and hasattr(kind.__repr__, "__wrapped__"):  # made by dataclass()
        names = [field.name for field in dataclasses.fields(value) if field.repr]
        return _fields(kind, ((name, getattr(value, name, None)) for name in names), depth)
    return shorten(repr(value), TEXT_MOST)


def _array(value: Any, kind: type[Any], shape: Any) -> str:
    size = getattr(value, "size", None)
    if isinstance(size, int) and size <= ELEMENTS_MOST:
        return shorten(" ".join(repr(value).split()), TEXT_MOST)
    element = getattr(value, "dtype", "")
    return shorten(f"<{kind.__name__} {shape} {element}".rstrip() + ">", TEXT_MOST)


def _some(values: Any, depth: int) -> Any:
    return islice(values, ITEMS_MOST if depth > 0 else 0)


def _collection(value: Any, kind: type[Any], base: type[Any], brackets: tuple[str, str], shown: list[str]) -> str:
    left = len(value) - len(shown)
    if left > 0:
        shown = [*shown, f"… {left:,} more" if shown else f"{left:,} items"]
    if base is tuple and len(value) == 1:
        shown = [*shown, ""]
    if base is set and not value:
        brackets = ("set(", ")")
    first, last = brackets
    text = f"{first}{', '.join(shown).rstrip() if base is tuple else ', '.join(shown)}{last}"
    return text if kind is base else f"{kind.__name__}({text})"


def _fields(kind: type[Any], pairs: Iterable[tuple[str, Any]], depth: int) -> str:
    shown = [f"{name}={_named(name, one, depth - 1)}" for name, one in _some(pairs, depth)]
    return f"{kind.__name__}({', '.join(shown) if shown else '…'})"


def _named(name: Any, value: Any, depth: int) -> str:
    """A value that has a name, which may say that it isn't for all eyes."""
    return HIDDEN if isinstance(name, str) and _SECRET.search(name) else _words(value, depth)
