"""Messages of clients to the scheduler."""

from __future__ import annotations

from typing import Any

from futurebroker.protocol.messages.parts import Failure, Message, TaskOptions
from futurebroker.protocol.messages.terms import Conditions
from futurebroker.types import Digest, Key, WorkerId


class AddFunction(Message, tag=10):
    """A function, once per digest: from client to scheduler, and on to each worker before its first task."""

    digest: Digest
    name: str  #: what keys of its calls start with
    code: bytes


class Submit(Message, tag=11):
    """Calls of one function with equal options, column by column. The client wants every key."""

    function: Digest
    keys: list[Key]
    args: list[bytes]
    dependencies: list[tuple[Key, ...]] | None = None  #: one tuple a call; None when no call has any
    options: TaskOptions | None = None
    parent: Key = ""  #: the task that makes these calls; they end with it if it is cancelled
    conditions: list[Conditions | None] | None = None  #: one a call; None when no call has any
    graph: str = ""  #: the client wants none of them for itself, but the whole graph of this name, until EndGraph
    #: its user chose the keys and makes these calls now: what a worker still has of the same key is other work's
    is_new: bool = False
    #: one of these keys meant another call of this client before: that may be all that workers have of it
    is_reused: bool = False


class EndGraph(Message, tag=173):
    """All calls of a graph were submitted: the client wants these keys, and else nothing for itself."""

    graph: str
    keys: list[Key]
    parent: Key = ""  #: as in Submit


class Release(Message, tag=12):
    """The client holds no future of these keys any more."""

    keys: list[Key]


class Want(Message, tag=13):
    """The client got hold of futures of these keys otherwise than by submitting them."""

    keys: list[Key]
    patient: bool = False  #: a former scheduler knew them: wait for a worker to say that it has them


class Cancel(Message, tag=14):
    """The client doesn't want these, nor what depends on them; with ``force`` no other client gets them either."""

    keys: list[Key]
    force: bool = False
    reason: str = ""


class Retry(Message, tag=15):
    """Run failed tasks again, from the one that failed first."""

    keys: list[Key]


class Detach(Message, tag=16):
    """Keep these tasks until they are done, whether or not a client wants them (``fire_and_forget``)."""

    keys: list[Key]


class PutValue(Message, tag=17):
    """Scattered data small enough to travel in its message."""

    key: Key
    value: bytes
    workers: tuple[str, ...] = ()
    broadcast: bool = False
    given: bool = False  #: the result of a task, given back to a scheduler that knows nothing of it


class GiveFailure(Message, tag=199):
    """How a task ended, given back to a scheduler that knows nothing of it: what needs its result fails by it."""

    key: Key
    failure: Failure


class PutFile(Message, tag=18):
    """Scattered data in a file that the client wrote, or sent to a worker; a worker there takes the file over."""

    key: Key
    path: str
    nbytes: int
    workers: tuple[str, ...] = ()
    broadcast: bool = False
    worker: WorkerId = ""  #: that the client sent it to; empty: any on the client's host


class PutPart(Message, tag=19):
    """A piece of scattered data, for workers that can't open the client's file; the last piece completes it.

    The only one, without bytes, says that the worker shall ask for them (`DataWanted`).
    """

    key: Key
    offset: int
    nbytes: int  #: of the whole
    data: bytes
    workers: tuple[str, ...] = ()
    broadcast: bool = False


class Ask(Message, tag=20):
    """A question of a client (``who_has``, ``nthreads``, ...), answered by Answer with the same number."""

    number: int
    topic: str
    about: Any = None


class RunOnWorkers(Message, tag=21):
    """Call a function once on every worker named, out of line with tasks; answered by RanOnWorkers."""

    number: int
    code: bytes
    args: bytes
    workers: tuple[str, ...] = ()  #: names, ids or hosts; empty means all
    wait: bool = True
