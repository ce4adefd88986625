"""`futurebroker.print` and `warn`, and log records on their way: what a task says to the programs of its cluster.

It goes past the results, by the executor's control socket, to the clients that want it, and is kept nowhere. An
executor may say a thousand things at once and two hundred a second; what is beyond that is counted and left out.
"""

from __future__ import annotations

import builtins
import logging
import sys
import threading
import warnings
import weakref
from time import monotonic
from typing import Any, TextIO

from futurebroker.inside import NO_TASK, Host, current_task
from futurebroker.types import Key

#: things that an executor may say a second, and at once after a pause; characters of one
PER_SECOND = 200
AT_ONCE = 1000
LENGTH = 16 * 1024
#: what is there of a log record when it arrives
_FIELDS = (
    "name",
    "levelno",
    "levelname",
    "pathname",
    "lineno",
    "funcName",
    "created",
    "msecs",
    "process",
    "threadName",
)

#: connections of this process that show what tasks print
showing: weakref.WeakSet[Any] = weakref.WeakSet()


class _Meter:
    """How much may still be said now."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._left = float(AT_ONCE)
        self._at = monotonic()
        self._left_out = 0

    def take(self) -> int:
        """How many were left out before one that may be said; -1: this one is left out as well."""
        with self._lock:
            now = monotonic()
            self._left = min(AT_ONCE, self._left + (now - self._at) * PER_SECOND)
            self._at = now
            if self._left < 1:
                self._left_out += 1
                return -1
            self._left -= 1
            left_out, self._left_out = self._left_out, 0
            return left_out


_meter = _Meter()


def _tell(host: Host, key: Key, topic: str, event: dict[str, Any]) -> None:
    left_out = _meter.take()
    if left_out >= 0 and host.say is not None:
        if left_out:
            event["left_out"] = left_out
        host.say("event", key, {"topic": topic, "event": event})


def _host() -> tuple[Host | None, Key]:
    place, key, *_ = current_task.get(NO_TASK)
    return (place.host if place is not None else None), key


# -- in a task ---------------------------------------------------------------------------------------------------------


def print(
    *args: Any, sep: str | None = " ", end: str | None = "\n", file: TextIO | None = None, flush: bool = False
) -> None:
    """`print` that in a task prints at all programs of the cluster as well, where they have a default client.

    Outside of tasks it is the built-in.

    Args:
        file: None, ``sys.stdout`` or ``sys.stderr`` in a task.

    Raises:
        TypeError: it is another file, which the programs don't have.
    """
    host, key = _host()
    if host is None or host.say is None:
        builtins.print(*args, sep=sep, end=end, file=file, flush=flush)
        return
    streams = {None: 1, sys.stdout: 1, sys.__stdout__: 1, sys.stderr: 2, sys.__stderr__: 2}
    if file not in streams:
        raise TypeError(f"from a task one can print to sys.stdout and sys.stderr, not to {file!r}")
    text = [str(one) for one in args]
    if not showing:  # else it would be there twice
        builtins.print(*text, sep=sep, end=end, file=file, flush=flush)
    whole = (" " if sep is None else sep).join(text)
    if len(whole) > LENGTH:
        whole = f"{whole[:LENGTH]}… {len(whole) - LENGTH:,} characters left out"
    _tell(host, key, "print", {"args": [whole], "end": end, "file": streams[file], "flush": flush})


def warn(
    message: str | Warning, category: type[Warning] | None = UserWarning, stacklevel: int = 1, source: Any = None
) -> None:
    """`warnings.warn` that in a task warns all programs of the cluster as well, where they have a default client.

    Their own filters decide what becomes of it. A category that they have not imported is a UserWarning there.
    """
    host, key = _host()
    if host is not None and host.say is not None:
        kind = type(message) if isinstance(message, Warning) else category or UserWarning
        event = {"message": str(message)[:LENGTH], "category": f"{kind.__module__}:{kind.__qualname__}"}
        _tell(host, key, "warn", event)
    warnings.warn(message, category, stacklevel + 1, source)


# -- log records of executors ------------------------------------------------------------------------------------------


class _Sender(logging.Handler):
    def __init__(self, level: int | str, topic: str, host: Host) -> None:
        super().__init__(level)
        self.topic = topic
        self.host = host
        self.users = 1

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "forwarded", False):
            return
        place, key, *_ = current_task.get(NO_TASK)
        try:
            event = {name: getattr(record, name) for name in _FIELDS}
            event["msg"] = record.getMessage()[:LENGTH]
            if record.exc_info:
                event["exc_text"] = logging.Formatter().formatException(record.exc_info)[:LENGTH]
            event["task"], event["worker"] = key, place.name if place is not None else self.host.worker
            _tell(self.host, key, self.topic, event)
        except Exception:  # noqa: BLE001 - as handlers of logging do
            self.handleError(record)


#: those of this process, which may be several executors, by topic and name of the logger
_senders: dict[tuple[str, str], _Sender] = {}


class LogForwarding:
    """In executors: send what a logger takes, and those below it, to the client that asked for it."""

    def __init__(self, logger: str, level: int | str, topic: str) -> None:
        self.logger = logger
        self.level = level
        self.topic = topic

    def setup(self, worker: Any) -> None:
        """See `WorkerPlugin`."""
        host, _ = _host()
        sender = _senders.get((self.topic, self.logger))
        if sender is not None:
            sender.users += 1
        elif host is not None:
            sender = _senders[self.topic, self.logger] = _Sender(self.level, self.topic, host)
            logging.getLogger(self.logger).addHandler(sender)

    def teardown(self, worker: Any) -> None:
        """See `WorkerPlugin`."""
        sender = _senders.get((self.topic, self.logger))
        if sender is not None:
            sender.users -= 1
            if not sender.users:
                del _senders[self.topic, self.logger]
                logging.getLogger(self.logger).removeHandler(sender)


# -- at a client -------------------------------------------------------------------------------------------------------


def show_print(event: tuple[float, Any]) -> None:
    """Print what a task prints; whatever else was logged under this topic as it is."""
    _, said = event
    if not isinstance(said, dict) or not isinstance(said.get("args"), (list, tuple)):
        builtins.print(said)
        return
    _show_left_out(said)
    file = sys.stderr if said.get("file") == 2 else sys.stdout
    builtins.print(*said["args"], sep=said.get("sep"), end=said.get("end"), file=file, flush=bool(said.get("flush")))


def show_warning(event: tuple[float, Any]) -> None:
    """Warn as a task does."""
    _, said = event
    if not isinstance(said, dict):
        warnings.warn(str(said), stacklevel=2)
        return
    _show_left_out(said)
    module, _, name = str(said.get("category")).partition(":")
    # Looked up and not imported: a name is no reason to run code.
    found = getattr(sys.modules.get(module), name, None)
    category = found if isinstance(found, type) and issubclass(found, Warning) else UserWarning
    warnings.warn(str(said.get("message")), category, stacklevel=2)


def show_record(event: tuple[float, Any]) -> None:
    """Hand a log record of an executor to the logger of the same name, if that takes its level."""
    _, said = event
    _show_left_out(said)
    record = logging.makeLogRecord({**said, "forwarded": True})
    logger = logging.getLogger(record.name)
    if logger.isEnabledFor(record.levelno):
        logger.handle(record)


def _show_left_out(said: dict[str, Any]) -> None:
    if said.get("left_out"):
        builtins.print(f"… {said['left_out']:,} lines of tasks left out", file=sys.stderr)
