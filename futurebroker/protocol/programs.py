"""Small programs of calls: what a task of a dask graph does that is more than one call.

A task that makes several calls, or puts its inputs into containers before one, is a `Program` and its values. Tasks of
one layer differ in the values only, so the program travels once, as a function does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

#: how a value is made: ("v", place among the values), ("r", number of an earlier step), ("l", list of makers and so on
#: for containers), or ("c", place among the functions, makers of arguments, pairs of keyword and maker)
Maker: TypeAlias = tuple[Any, ...]


class Program:
    """Called with its values it takes its steps in order and returns what the last makes.

    Args:
        name: what keys of its tasks start with.
        functions: that it calls.
        steps: each a `Maker`.
    """

    __slots__ = ("__name__", "functions", "steps")

    def __init__(self, name: str, functions: tuple[Callable[..., Any], ...], steps: tuple[Maker, ...]) -> None:
        self.__name__ = name
        self.functions = functions
        self.steps = steps

    def __call__(self, *values: Any) -> Any:
        results: list[Any] = []
        for step in self.steps:
            results.append(_make(step, values, results, self.functions))
        return results[-1]

    def __reduce__(self) -> tuple[Any, ...]:
        return Program, (self.__name__, self.functions, self.steps)


def _make(maker: Maker, values: tuple[Any, ...], results: list[Any], functions: tuple[Callable[..., Any], ...]) -> Any:
    kind = maker[0]
    if kind == "v":
        return values[maker[1]]
    if kind == "r":
        return results[maker[1]]
    if kind == "l":
        return [_make(one, values, results, functions) for one in maker[1]]
    if kind == "t":
        return tuple([_make(one, values, results, functions) for one in maker[1]])
    _, place, arguments, keywords = maker
    made = [_make(one, values, results, functions) for one in arguments]
    if keywords:
        return functions[place](*made, **{name: _make(one, values, results, functions) for name, one in keywords})
    return functions[place](*made)


def given(value: Any) -> Any:
    """The task that has its value already."""
    return value
