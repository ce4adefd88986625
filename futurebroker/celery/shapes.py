"""Whether a task takes the arguments of a call, found out without binding them as long as counting and names tell."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class Shape:
    """The parameters of a function, looked at once.

    Raises:
        ValueError: it is a builtin that doesn't tell them.
    """

    __slots__ = ("_named", "_places", "_required", "_signature", "least", "most")

    def __init__(self, function: Callable[..., Any]) -> None:
        self._signature = inspect.signature(function)
        parameters = list(self._signature.parameters.values())
        takes_any = any(one.kind is inspect.Parameter.VAR_POSITIONAL for one in parameters)
        places = [one for one in parameters if one.kind in _POSITIONAL]
        needed = [one for one in parameters if one.default is one.empty and one.kind in (*_POSITIONAL, *_NAMED)]
        #: how many arguments will do that come by place alone; none where a keyword is needed
        self.least = len([one for one in needed if one.kind in _POSITIONAL])
        self.most = sys.maxsize if takes_any else len(places)
        if any(one.kind is inspect.Parameter.KEYWORD_ONLY for one in needed):
            self.most = -1
        self._places = [one.name for one in places]
        self._named = frozenset(one.name for one in parameters if one.kind in _NAMED)
        self._required = frozenset(one.name for one in needed)

    def check(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raise TypeError if the function doesn't take them."""
        count = len(args)
        if not kwargs:
            if self.least <= count <= self.most:
                return
        elif count <= len(self._places):
            given = self._places[:count]
            names = kwargs.keys()
            if names <= self._named and names.isdisjoint(given) and self._required <= names | set(given):
                return
        self._signature.bind(*args, **kwargs)
