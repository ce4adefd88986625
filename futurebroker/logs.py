"""Log lines of our processes: text for people or JSON for machines, with what must stay secret taken out.

Who logs about a task or a worker names it in ``extra={"task": key, "worker": name}``; in JSON these are fields of their
own. Lines are written to standard error.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from urllib.parse import unquote, urlsplit

#: what `start_logging` takes as format
FORMATS = ("text", "json")
#: fields that a record may have beside what all have
FIELDS = ("worker", "task")

_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
#: user and password of a URL, whoever wrote it
_CREDENTIALS = re.compile(r"(?<=://)([^\s/@:]*):[^\s/@]+(?=@)")
#: shorter ones would be found in everything
_SHORTEST = 4


def passwords_of(urls: Iterable[str | None]) -> list[str]:
    """The passwords in these URLs, or failover lists of them, as they stand there and as they are meant."""
    found = []
    for part in (part for url in urls if url for part in url.split(";")):
        try:
            password = urlsplit(part).password
        except ValueError:
            continue
        if password:
            found += [password, unquote(password)]
    return found


class _Formatter(logging.Formatter):
    """Takes secrets out of what it has formatted."""

    def __init__(self, hidden: Iterable[str], fields: Callable[[], Mapping[str, str]]) -> None:
        super().__init__(_TEXT)
        self._hidden = sorted({text for text in hidden if len(text) >= _SHORTEST}, key=len, reverse=True)
        self._fields = fields

    def scrub(self, text: str) -> str:
        """``text`` as it may be read by anyone."""
        for secret in self._hidden:
            text = text.replace(secret, "***")
        return _CREDENTIALS.sub(r"\1:***", text)

    def fields(self, record: logging.LogRecord) -> dict[str, str]:
        """What the record is about; what it says itself counts before what holds for its process or thread."""
        around = self._fields()
        pairs = ((name, getattr(record, name, None) or around.get(name)) for name in FIELDS)
        return {name: self.scrub(str(value)) for name, value in pairs if value}


class TextFormatter(_Formatter):
    """One line for people, with traceback lines below it; what it is about stands at the end."""

    def format(self, record: logging.LogRecord) -> str:
        first, newline, rest = self.scrub(super().format(record)).partition("\n")
        said = self.scrub(record.getMessage())
        about = " ".join(f"{name}={value}" for name, value in self.fields(record).items() if value not in said)
        return f"{first} [{about}]{newline}{rest}" if about else first + newline + rest


class JsonFormatter(_Formatter):
    """One object a line: time, level, logger, message, pid; ``worker``, ``task`` and ``exception`` where they apply."""

    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, object] = {
            "time": f"{at}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self.scrub(record.getMessage()),
            "pid": record.process,
            **self.fields(record),
        }
        if record.exc_info:
            line["exception"] = self.scrub(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False)


#: the newest lines of this process, for who asks from afar
KEPT = 1_000
_recent: deque[tuple[float, str, str]] = deque(maxlen=KEPT)


def recent() -> list[tuple[float, str, str]]:
    """The newest lines that this process logged since `start_logging`: wall time, level, and the line itself."""
    return list(_recent)


class _Keeper(logging.Handler):
    """Keeps the newest lines."""

    def emit(self, record: logging.LogRecord) -> None:
        _recent.append((record.created, record.levelname.lower(), self.format(record)))


def _nothing() -> Mapping[str, str]:
    return {}


#: level and format that `start_logging` was told, for processes that are to do the same
_started: list[tuple[str, str]] = []


def current() -> tuple[str, str]:
    """Level and format of this process's log; empty where `start_logging` has not set it up."""
    return _started[-1] if _started else ("", "")


#: libraries whose course of things is none of our users' business
_TALKATIVE = ("alembic", "werkzeug")


def start_logging(
    level: str,
    log_format: str,
    *,
    hidden: Iterable[str] = (),
    fields: Callable[[], Mapping[str, str]] = _nothing,
) -> None:
    """Log from ``level`` on, unless the program has set up its own logging.

    Args:
        log_format: one of `FORMATS`.
        hidden: secrets and passwords that no line may show.
        fields: asked at each line for `FIELDS` of the thread that logs.
    """
    root = logging.getLogger()
    if root.handlers:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter((JsonFormatter if log_format == "json" else TextFormatter)(hidden, fields))
    root.addHandler(handler)
    keeper = _Keeper()
    keeper.setFormatter(TextFormatter(hidden, fields))
    root.addHandler(keeper)
    root.setLevel(level.upper())
    for library in _TALKATIVE:
        logging.getLogger(library).setLevel(max(logging.WARNING, root.level))
    _started.append((level, log_format))
