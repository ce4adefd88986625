"""What a task can reach of the executor it runs in: its slot, its worker, and the way to the scheduler.

An executor fills this in and a client uses it; neither may import the other. Outside of tasks it is empty.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from futurebroker.types import Key, WorkerId


class Slot(Protocol):
    """The place among its executor's threads that a task occupies; ``number`` says which task is meant.

    A number that isn't the current one is that of a task that has ended: then nothing happens.
    """

    def give_up(self, number: int) -> bool:
        """The task waits from now on, and others may run in its place. True if `take_back` must follow."""

    def take_back(self, number: int) -> None:
        """The task has what it waited for; blocks until it may run again."""

    def secede(self, number: int) -> None:
        """The task runs on beside those that have a slot."""

    def rejoin(self, number: int) -> None:
        """Undo `secede`; blocks until there is room."""

    def calls(self, number: int) -> dict[bytes, int]:
        """How often the task has made the same call, by what tells calls apart; for the caller to count in."""


@dataclass(slots=True)
class Host:
    """An executor, as the clients in it see it."""

    address: str  #: URL that `transport.registry` opens a link of this executor for
    cluster: str
    secret: bytes  #: for the way to the agent only; the cluster's own secret never comes here
    worker: WorkerId
    #: the clients of this executor, made when a task asks for one: by whether they are asynchronous
    clients: dict[bool, Any] = field(default_factory=dict)
    #: tells the scheduler something of a task: topic, key, what
    say: Callable[[str, Key, Any], None] | None = None
    making: threading.Lock = field(default_factory=threading.Lock)
    #: how often tasks have failed here, by key: what they began then isn't what the next run of them begins
    failures: dict[Key, int] = field(default_factory=dict)

    def fence(self) -> None:
        """Return once the scheduler has taken what the clients sent up to now."""
        for client in list(self.clients.values()):
            client.fence()

    def close(self) -> None:
        """Close the clients."""
        with self.making:
            clients = list(self.clients.values())
            self.clients.clear()
        for client in clients:
            client.end()


@dataclass(frozen=True, slots=True)
class Place:
    """An executor's worker; the same for all tasks it runs."""

    name: str
    id: WorkerId
    resources: dict[str, float] = field(default_factory=dict)
    host: Host | None = None


#: where a task runs, its key (empty for a call that isn't a task, as `Client.run` makes them), its slot, and its number
#: there; a plain tuple, because it is set far more often than read
CurrentTask: TypeAlias = tuple[Place, Key, Slot | None, int]

#: set by the executor for each task
current_task: ContextVar[CurrentTask] = ContextVar("current_task")

#: stands for the current task where there is none
NO_TASK: tuple[None, Key, None, int] = (None, "", None, 0)


@contextlib.contextmanager
def waiting() -> Iterator[None]:
    """Within this a task waits for something that other tasks may have to do: its slot is theirs meanwhile."""
    _, _, slot, number = current_task.get(NO_TASK)
    if slot is None or not slot.give_up(number):
        yield
        return
    try:
        yield
    finally:
        slot.take_back(number)


class _Pickled(threading.local):
    """Keys of the futures that this thread pickles now; None while nobody wants to know."""

    keys: list[Key] | None = None


pickled = _Pickled()


@contextlib.contextmanager
def noting_futures() -> Iterator[list[Key]]:
    """Collects the keys of futures that are pickled by this thread within."""
    before = pickled.keys
    keys: list[Key] = []
    pickled.keys = keys
    try:
        yield keys
    finally:
        pickled.keys = before
