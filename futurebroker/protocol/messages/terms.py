"""What is agreed for single tasks beyond their options: when and how long they run, and what follows failures."""

from __future__ import annotations

from typing import Any

from futurebroker.protocol.messages.parts import Failure, Message, Part
from futurebroker.types import Digest, Key


class Conditions(Part, frozen=True):
    """Of one call; most calls have none."""

    eta: float = 0.0  #: not before this time, in seconds since 1970
    expires: float = 0.0  #: not begun after this time, in seconds since 1970
    parent: Key = ""  #: the task that called this one, or whose result it follows
    joins: bool = False  #: whether it takes the results of a group
    request: bytes = b""  #: for the executor; opaque
    stamps: dict[str, list[str]] | None = None  #: names and values by which it can be revoked


class RunTerms(Part, frozen=True):
    """What an executor and its agent must know of a run beyond the call itself."""

    retries: int = 0  #: how often the task asked to be run again
    soft: float = 0.0  #: seconds after which the task is told to end; 0: never
    hard: float = 0.0  #: seconds after which its executor is ended; 0: never
    redelivered: bool = False  #: whether an executor or worker was lost while it ran this task
    request: bytes = b""  #: as in `Conditions`
    failure: Failure | None = None  #: the failure that this task is to deal with


class PlannedCall(Part, frozen=True):
    """A call that is made if a task fails; see `OnFailure`."""

    function: Digest
    key: Key
    args: bytes
    dependencies: tuple[Key, ...] = ()
    options: Any = None  #: a TaskOptions, encoded as one
    conditions: Conditions | None = None


class OnFailure(Message, tag=150):
    """From a client: make these calls, in order, if the task ``of`` fails by itself or by what it joins."""

    of: Key
    calls: list[PlannedCall]


class Await(Message, tag=151):
    """From a client: it wants these keys, also if they are submitted only later, by whomever."""

    keys: list[Key]
    sought: bool = False  #: in a journal: only until it is known whether they are on the shelf


class Continue(Message, tag=152):
    """From a worker: the task did not end; it goes on, now or later, with other arguments or as before."""

    key: Key
    attempt: int
    duration: int  #: microseconds in user code
    delay: float = 0.0  #: seconds until it may run again
    retries: int = 0  #: how often it will have asked for this
    args: bytes | None = None  #: None: those it had
    inputs: list[Key] = []  #: results that the new ``args`` refer to
    failure: Failure | None = None  #: why it is run again
    options: dict[str, Any] | None = None  #: fields of its `TaskOptions` that are others from now on
    request: bytes | None = None  #: in place of that of `Conditions`


class Said(Message, tag=153):
    """From a worker: something that one of its executors tells; ``key`` is the task it is about."""

    topic: str
    key: Key = ""
    about: Any = None


class Kill(Message, tag=154):
    """To a worker: end this attempt, with the executor process that runs it. Nobody waits for its report."""

    key: Key
    attempt: int


class Resize(Message, tag=155):
    """To a worker: have so many executors more, or fewer."""

    more: int
