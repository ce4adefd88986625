"""How a task's arguments name the results of other tasks: by a typed reference that opens to the result itself.

The client replaces each future in a call by `TaskRef(i)`, where ``i`` is the place of the future's key among the
task's dependencies. Unpickling a reference calls `resolve`, which returns input ``i`` of the task whose arguments are
being opened in this thread; so an executor never walks through arguments in search of references.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any


class _Opening(threading.local):
    """The inputs of the task whose arguments this thread opens now; None outside an executor."""

    inputs: Sequence[Any] | None = None


_opening = _Opening()


def resolve(index: int) -> Any:
    """Input ``index`` of the task being opened in this thread; a `TaskRef` again where no task is being opened."""
    inputs = _opening.inputs
    return TaskRef(index) if inputs is None else inputs[index]


def open_arguments(loads: Callable[[bytes], Any], data: bytes, inputs: Sequence[Any]) -> Any:
    """``loads(data)`` with each `TaskRef` in it opened to its place in ``inputs``."""
    before = _opening.inputs
    _opening.inputs = inputs
    try:
        return loads(data)
    finally:
        _opening.inputs = before


class TaskRef:
    """Stands in arguments for the result of the task's dependency number ``index``."""

    __slots__ = ("index",)

    def __init__(self, index: int) -> None:
        self.index = index

    def __reduce__(self) -> tuple[Callable[[int], Any], tuple[int]]:
        return resolve, (self.index,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TaskRef) and other.index == self.index

    def __hash__(self) -> int:
        return hash((TaskRef, self.index))

    def __repr__(self) -> str:
        return f"TaskRef({self.index})"
