"""Calls on their way to the scheduler: what is called and how, and many calls as few messages, column by column."""

from __future__ import annotations

import hashlib
import sys
from collections import deque
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec

from futurebroker.exceptions import MessageTooLargeError
from futurebroker.protocol.messages import AddFunction, Conditions, Message, PutValue, Submit, TaskOptions
from futurebroker.protocol.serialize import dump_function, name_of
from futurebroker.protocol.wire import BATCH_BYTES, BATCH_MESSAGES
from futurebroker.types import Digest, Key

#: seconds for which durable and idempotent results are kept after their end, unless told otherwise (Celery's figure)
KEEP = 86400.0
#: bytes a pickled function may have
FUNCTION_LIMIT = 4 * 1024 * 1024
#: characters of a function's name that its keys begin with
NAME_LIMIT = 80


class Call:
    """A function with the options of its calls; calls that share this object travel in one message."""

    __slots__ = ("code", "digest", "is_named", "name", "options", "parent", "prefix")

    def __init__(self, digest: Digest, code: bytes, name: str, options: TaskOptions | None, salt: str) -> None:
        #: the task that makes the calls, if one does
        self.parent: Key = ""
        #: whether users chose the keys of the calls, which may have meant other work before
        self.is_named = False
        self.digest = digest
        self.code = code
        self.name = name
        self.options = options
        #: keys are this and a number; interned, because every key starts with it
        self.prefix = sys.intern(f"{name}-{salt}")

    @classmethod
    def of(cls, function: Callable[..., Any], options: TaskOptions | None, salt: str, name: str = "") -> Call:
        """The call of ``function``, pickled.

        Raises:
            TypeError: it can't be called.
            SerializationError: it can't be pickled.
            MessageTooLargeError: its pickle is over `FUNCTION_LIMIT`.
        """
        if not callable(function):
            raise TypeError(f"the first argument must be callable, got {type(function).__name__}")
        name = (name or name_of(function))[:NAME_LIMIT]
        digest, code = dump_function(function)
        if len(code) > FUNCTION_LIMIT:
            raise MessageTooLargeError(f"the function {name} with what it closes over", len(code), FUNCTION_LIMIT)
        return cls(digest, code, name, options, salt)


#: what the outbox holds of a call: function and options, its key, its arguments, its dependencies
PreparedCall: TypeAlias = tuple[Call, Key, bytes, tuple[Key, ...] | None]


class PreparedColumn:
    """Calls that are one message, or ready to be: at most `BATCH_MESSAGES` and `BATCH_BYTES` of them."""

    __slots__ = ("arguments", "call", "conditions", "dependencies", "graph", "keys", "size")

    def __init__(
        self,
        call: Call,
        keys: list[Key],
        arguments: list[bytes],
        size: int,
        dependencies: list[tuple[Key, ...]] | None = None,
        conditions: list[Conditions | None] | None = None,
        graph: str = "",
    ) -> None:
        #: the graph that they belong to, of which the client holds no futures
        self.graph = graph
        self.call = call
        self.keys = keys
        self.arguments = arguments
        #: one tuple a call; None when none has any
        self.dependencies = dependencies
        #: one a call; None when none has any
        self.conditions = conditions
        #: bytes of all arguments
        self.size = size

    def part(self, rows: list[int]) -> PreparedColumn:
        """Some of its calls."""
        arguments = [self.arguments[row] for row in rows]
        dependencies = None if self.dependencies is None else [self.dependencies[row] for row in rows]
        keys = [self.keys[row] for row in rows]
        conditions = None if self.conditions is None else [self.conditions[row] for row in rows]
        return PreparedColumn(
            self.call, keys, arguments, sum(map(len, arguments)), dependencies, conditions, self.graph
        )


def task_options(
    workers: str | Iterable[str] | None,
    allow_other_workers: bool,
    resources: dict[str, float] | None,
    retries: int,
    priority: int,
    terms: Terms | None = None,
) -> TaskOptions | None:
    """The options of a call as they travel; None when all are the defaults."""
    if workers is None and not resources and not retries and not priority and terms is None:
        if allow_other_workers:
            raise ValueError("allow_other_workers= means something only together with workers=")
        return None
    names = worker_names(workers)
    if allow_other_workers and not names:
        raise ValueError("allow_other_workers= means something only together with workers=")
    amounts = None if not resources else {str(name): float(amount) for name, amount in resources.items()}
    if amounts and min(amounts.values()) < 0:
        raise ValueError("resources= takes amounts of 0 or more")
    if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
        raise ValueError(f"retries= takes 0 or a positive number, got {retries!r}")
    if isinstance(priority, bool) or not isinstance(priority, int):
        raise TypeError(f"priority= takes a whole number, got {priority!r}")
    options = TaskOptions(names, allow_other_workers, amounts, retries, priority)
    return options if terms is None else terms.applied_to(options)


@dataclass(frozen=True, slots=True)
class Terms:
    """What a call is promised about its end."""

    durable: bool = False
    keep: float = 0.0
    at_most_once: bool = False
    idempotent: bool = False

    @classmethod
    def of(cls, durable: bool, keep: float | None, at_most_once: bool, idempotency_key: str | None) -> Terms | None:
        """The terms that keywords speak of; None when nothing is promised.

        Raises:
            ValueError, TypeError: they can't be had.
        """
        if not (durable or keep or at_most_once or idempotency_key is not None):
            return None
        if idempotency_key is not None and (not isinstance(idempotency_key, str) or not idempotency_key):
            raise TypeError(f"idempotency_key= takes a text that isn't empty, got {idempotency_key!r}")
        if keep is not None and (isinstance(keep, bool) or not isinstance(keep, (int, float)) or not 0 <= keep < 1e9):
            raise ValueError(f"keep= takes seconds, got {keep!r}")
        if keep is None:
            keep = KEEP if durable or idempotency_key is not None else 0.0
        return cls(durable, float(keep), at_most_once, idempotency_key is not None)

    def applied_to(self, options: TaskOptions) -> TaskOptions:
        """``options`` with these terms."""
        return msgspec.structs.replace(
            options, durable=self.durable, keep=self.keep, at_most_once=self.at_most_once, idempotent=self.idempotent
        )


def leaving(options: TaskOptions | None) -> TaskOptions | None:
    """The options of calls whose keys are made for them, and so never come again."""
    if options is None or not options.keep or options.idempotent:
        return options
    return msgspec.structs.replace(options, leaves=True)


def result_key(key: Key | None, pure: bool, function: Callable[..., Any], idempotency_key: str | None) -> Key | None:
    """The key that a call's result is given, or that stands for its idempotency key, the same from every client.

    Raises:
        ValueError: both are given.
    """
    if idempotency_key is None:
        return key
    if key is not None or pure:
        raise ValueError("idempotency_key= names the result itself; leave key= and pure= out")
    name = name_of(function)
    return f"{name}-{hashlib.blake2b(idempotency_key.encode(), digest_size=16, person=b'idempotency').hexdigest()}"


def worker_names(workers: str | Iterable[str] | None) -> tuple[str, ...]:
    """Names, ids or host names of workers as they travel; none means all."""
    given = (workers,) if isinstance(workers, str) else workers or ()
    names = tuple(given) if isinstance(given, Iterable) else (given,)
    if not all(isinstance(name, str) for name in names):
        raise TypeError(f"workers= takes names, ids or host names of workers, as text, got {workers!r}")
    return names


class Coalescer:
    """Turns what an outbox holds into messages, on the I/O thread; each function is sent before its first call.

    Args:
        remember: is given all calls and small data that were sent.
        reused: keys that were used for more than one call.
    """

    def __init__(
        self,
        send: Callable[[Message], None],
        remember: Callable[[PreparedColumn | PutValue], None],
        reused: Container[Key],
    ) -> None:
        self._reused = reused
        self._send = send
        self._remember = remember
        self._known: set[Digest] = set()
        self._again = self._is_known = False

    def send_again(self, outbox: deque[PreparedCall | PreparedColumn | Message], *, is_known: bool) -> None:
        """Send what was sent before, to another scheduler.

        Args:
            is_known: whether that goes on where the former stopped, and so may know it.
        """
        self._again, self._is_known = True, is_known
        self.send(outbox)
        self._again = self._is_known = False

    def forget(self) -> None:
        """The scheduler is a new one and knows no function."""
        self._known.clear()

    def send(self, outbox: deque[PreparedCall | PreparedColumn | Message]) -> int:
        """Send what is in ``outbox`` now; returns the bytes of arguments that were sent."""
        total = 0
        size = 0
        current: Call | None = None
        keys: list[Key] = []
        arguments: list[bytes] = []
        dependencies: list[tuple[Key, ...]] | None = None
        # Not "while outbox": a thread that keeps calling must not keep us from sending.
        for _ in range(len(outbox)):
            item = outbox.popleft()
            if type(item) is not tuple:
                if current is not None:
                    self._submit(PreparedColumn(current, keys, arguments, size, dependencies))
                    current = None
                total += self._send_whole(item)  # type: ignore[arg-type]
                continue
            call, key, packed, needs = item
            if call is not current or size > BATCH_BYTES or len(keys) >= BATCH_MESSAGES:
                if current is not None:
                    self._submit(PreparedColumn(current, keys, arguments, size, dependencies))
                current = call
                keys, arguments, dependencies, size = [], [], None, 0
            keys.append(key)
            arguments.append(packed)
            size += len(packed)
            total += len(packed)
            if needs is not None:
                if dependencies is None:
                    dependencies = [()] * (len(keys) - 1)
                dependencies.append(needs)
            elif dependencies is not None:
                dependencies.append(())
        if current is not None:
            self._submit(PreparedColumn(current, keys, arguments, size, dependencies))
        return total

    def _send_whole(self, item: PreparedColumn | Message) -> int:
        if not isinstance(item, PreparedColumn):
            if isinstance(item, PutValue):
                self._remember(item)
            self._send(item)
            return 0
        self._submit(item)
        return 0 if item.graph else item.size

    def _submit(self, column: PreparedColumn) -> None:
        call = column.call
        self._introduce(call)
        calls = (column.keys, column.arguments, column.dependencies)
        agreed = column.conditions
        is_reused = call.is_named and not self._is_known and any(key in self._reused for key in column.keys)
        # What workers have of a key that was used before may be of the call before, also after a restart.
        is_new = is_reused or (call.is_named and not self._again)
        self._send(
            Submit(
                call.digest, *calls, call.options, call.parent, agreed,
                graph=column.graph, is_new=is_new, is_reused=is_reused,
            )
        )  # fmt: skip
        self._remember(column)

    def _introduce(self, call: Call) -> None:
        if call.digest not in self._known:
            self._known.add(call.digest)
            self._send(AddFunction(call.digest, call.name, call.code))
