"""What clients and tasks share by name: records of semaphores, events, queues and variables, and who waits for them."""

from __future__ import annotations

from collections import Counter, deque
from typing import Any

import msgspec

from futurebroker.scheduler.timers import Timer
from futurebroker.types import ClientId, Key


class Request(msgspec.Struct, omit_defaults=True):
    """Base of what requests are about."""

    name: str
    op: str = ""  #: names this request; its asker's own
    timeout: float | None = None  #: seconds until the answer is None


class Waiting:
    """A request that can't be met yet."""

    __slots__ = ("about", "client", "number", "timer")

    def __init__(self, client: ClientId, number: int, about: Any) -> None:
        self.client = client
        self.number = number
        self.about = about
        self.timer: Timer | None = None


#: those that wait for one thing, first come first, by the names of their requests
Line = dict[str, Waiting]
#: bytes, and the keys of futures in them
Item = tuple[bytes, list[Key]]


class Semaphore:
    """The leases of one name."""

    __slots__ = ("holders", "line", "max_leases")

    def __init__(self, max_leases: int) -> None:
        self.max_leases = max_leases
        self.holders: dict[str, ClientId] = {}  #: by lease
        self.line: Line = {}


class Flag:
    """An event: set or not, and who waits for it."""

    __slots__ = ("is_set", "line")

    def __init__(self) -> None:
        self.is_set = False
        self.line: Line = {}


class Mailbox:
    """A queue: what is in it, and who waits to put more in or to take something out."""

    __slots__ = ("items", "maxsize", "putters", "takers")

    def __init__(self, maxsize: int) -> None:
        self.maxsize = maxsize  #: items it may have; 0: any number
        self.items: deque[Item] = deque()
        self.putters: Line = {}
        self.takers: Line = {}


class Slate:
    """A variable: what it is set to, and who waits for that."""

    __slots__ = ("item", "line")

    def __init__(self) -> None:
        self.item: Item | None = None
        self.line: Line = {}


class Shared:
    """All of it, by name."""

    def __init__(self) -> None:
        self.semaphores: dict[str, Semaphore] = {}
        self.flags: dict[str, Flag] = {}
        #: by request for several leases, until when it waits
        self.limits: dict[str, tuple[Timer, Any]] = {}
        self.mailboxes: dict[str, Mailbox] = {}
        self.slates: dict[str, Slate] = {}
        #: how often each key is kept, by the name of the holder that wants it
        self.kept: dict[str, Counter[Key]] = {}
        #: answers to requests that may come again
        self.answers: dict[str, Any] = {}
        #: until when no lease is given, because clients of a former scheduler may hold some
        self.reunion_until = 0.0
