"""Messages of workers to the scheduler."""

from __future__ import annotations

from futurebroker.protocol.messages.parts import Failure, Message
from futurebroker.types import Digest, Key, WorkerId


class Finished(Message, tag=60):
    """A task is done; ``value`` is the result when it is small, else it lies in the worker's store at ``path``."""

    key: Key
    attempt: int
    nbytes: int
    duration: int  #: microseconds in user code
    value: bytes | None = None
    path: str = ""
    type: str = ""  #: name of the result's type
    started: int = 0  #: microseconds since 1970, by the worker's clock, when user code began; 0 if that isn't known
    executor: int = 0  #: the worker's number of the executor that ran it


class Erred(Message, tag=61):
    """A task raised."""

    key: Key
    attempt: int
    failure: Failure
    duration: int = 0
    started: int = 0  #: these two as of `Finished`
    executor: int = 0


class ExecutorDied(Message, tag=62):
    """The executor process ended while it ran this task; ``how`` is its exit code or signal."""

    key: Key
    attempt: int
    how: str
    innocent: bool = False  #: the task had begun, but isn't what ended the executor: it waited, or we ended it


class GaveBack(Message, tag=63):
    """This attempt was never begun and won't be."""

    key: Key
    attempt: int


class InputsMissing(Message, tag=64):
    """A task can't start: these inputs could not be fetched from any holder."""

    key: Key
    attempt: int
    missing: list[tuple[Key, WorkerId]]  #: (input, holder that didn't have it)


class Stored(Message, tag=65):
    """A value is kept here now."""

    key: Key
    nbytes: int
    path: str


class NotStored(Message, tag=66):
    """A value can't be kept here; ``reason`` says why."""

    key: Key
    reason: str


class FunctionCalled(Message, tag=67):
    """What CallFunction came to."""

    number: int
    value: bytes | None = None
    failure: Failure | None = None


class TaskAway(Message, tag=170):
    """A task waits for others, or has seceded: it runs and takes no slot."""

    key: Key
    attempt: int


class TaskReturned(Message, tag=171):
    """A task that was away takes a slot again."""

    key: Key
    attempt: int


class ResultHolds(Message, tag=172):
    """Comes before a Finished: the result has futures of these keys in it, which are kept as long as it is."""

    key: Key
    attempt: int
    keys: list[Key]


class Inventory(Message, tag=68):
    """What a worker kept of its time with a former scheduler; first of all that it tells the new one."""

    held: list[tuple[Key, int, str]]  #: (key, bytes, path), as in Finished
    values: list[tuple[Key, bytes]] = []  #: results small enough for the scheduler to keep
    running: list[tuple[Key, Digest]] = []  #: (key, function) of what executors have; perhaps answered by Adopt
    last: bool = False  #: this was all
