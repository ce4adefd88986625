"""What messages are made of, the limits they keep to, and the version of them all."""

from __future__ import annotations

from typing import Any

import msgspec

from futurebroker.types import Key, WorkerId

#: version of messages, envelope and queues; peers of another version are refused
PROTOCOL = 1

#: bytes up to which a result travels inside its completion and on to the clients that want it
INLINE_LIMIT = 64 * 1024
#: bytes up to which the scheduler keeps a result itself, so that it can't be lost with a worker
KEEP_LIMIT = 4 * 1024


class Message(msgspec.Struct, array_like=True, gc=False, omit_defaults=True, tag_field="tag"):
    """Base of all records that travel."""


class Part(msgspec.Struct, array_like=True, gc=False, omit_defaults=True, frozen=True):
    """Base of what messages are made of."""


class TaskOptions(Part, frozen=True):
    """How a task may run; one record is shared by all tasks of a call to ``map``."""

    workers: tuple[str, ...] = ()  #: worker names, ids or host names that may run it; empty means any
    allow_other_workers: bool = False  #: run elsewhere when none of ``workers`` is connected
    resources: dict[str, float] | None = None  #: abstract amounts taken from the worker's while it runs
    retries: int = 0  #: how many times an exception of the task is answered by another run
    priority: int = 0  #: larger runs earlier
    durable: bool = False  #: the result is kept by the scheduler, in its journal or database, so that no loss undoes it
    keep: float = 0.0  #: seconds for which the end is kept although nobody wants it
    idempotent: bool = False  #: the key stands for the work, whatever function and arguments come with it again
    at_most_once: bool = False  #: fail rather than run again what may have begun
    fails_with_executor: bool = False  #: fail if the executor ends that runs it; what is lost with a worker runs again
    queue: str = ""  #: only workers that take from it run the task
    time_limit: float = 0.0  #: seconds after which its executor is ended; 0: never
    soft_time_limit: float = 0.0  #: seconds after which the task is told to end; 0: never
    rate_limit: float = 0.0  #: runs a second that are begun of tasks with its name, on each worker; 0: any number
    rate_for_all: bool = False  #: whether ``rate_limit`` counts all workers together
    tracked: bool = False  #: whether who asks is told that it has begun
    unwanted: bool = False  #: run it to its end though nobody wants the result; with ``keep`` a failure is kept
    leaves: bool = False  #: the key never comes again, so that the kept result need not stay in the scheduler's memory


class Held(Part, frozen=True):
    """A result that lies in a worker's store."""

    key: Key
    nbytes: int = 0
    #: who has it, and the path of its file on that worker's host; empty: the worker this is sent to
    holders: list[tuple[WorkerId, str]] = []
    addresses: list[str] = []  #: where each of them serves its values; may be empty


class Failure(Part, frozen=True):
    """Why a task failed: the exception itself for who may open it, and its text for everybody."""

    type: str  #: name of the exception's type
    message: str
    traceback: str  #: as the interpreter would print it, bounded
    key: Key  #: the task that failed first
    worker: str  #: name of the worker it ran on; empty when the scheduler failed it
    payload: bytes | None = None  #: pickled exception with its traceback
    fields: list[Any] | None = None  #: arguments of ``type``, one of our own, when the scheduler failed it
