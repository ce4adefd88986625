"""Calls that depend on each other, before they are sent: `TaskSpec`, `Graph`, and `Ref` for a result to come."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from futurebroker.types import Key


@dataclass(frozen=True, slots=True)
class Ref:
    """Stands for the result of the task ``key``, alone or inside lists and tuples."""

    key: Key


@dataclass(slots=True)
class TaskSpec:
    """One call."""

    key: Key
    name: str  #: of the task
    inputs: tuple[Any, ...] = ()  #: arguments before ``args`` that hold references
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    after: tuple[Ref, ...] = ()  #: results it waits for and doesn't take
    joins: bool = False  #: whether it is given the results of a group
    on_failure: list[Graph] = field(default_factory=list)  #: what is to run when it fails

    def references(self) -> Iterator[Ref]:
        """All results it waits for."""
        yield from self.after
        yield from references_in(self.inputs)


class Graph:
    """Calls in an order in which each comes after those it refers to."""

    def __init__(self) -> None:
        self.tasks: dict[Key, TaskSpec] = {}

    def add(self, task: TaskSpec) -> None:
        """Add a call whose references are known.

        Raises:
            ValueError: the key is used twice, or it refers to a call that isn't here yet, as circles do.
        """
        if task.key in self.tasks:
            raise ValueError(f"two tasks of one canvas have the id {task.key}")
        for reference in task.references():
            if reference.key not in self.tasks:
                raise ValueError(f"{task.name} refers to {reference.key}, which doesn't come before it")
        self.tasks[task.key] = task

    def __len__(self) -> int:
        return len(self.tasks)

    def __iter__(self) -> Iterator[TaskSpec]:
        return iter(self.tasks.values())


def references_in(values: Iterable[Any]) -> Iterator[Ref]:
    """The references among ``values``, and inside lists and tuples there."""
    for value in values:
        if isinstance(value, Ref):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from references_in(value)
