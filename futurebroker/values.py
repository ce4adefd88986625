"""What settings accept: each function takes text or a value of its kind and returns the value.

All of them raise ValueError or KeyError for what isn't accepted; `config` makes the error that people see.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from futurebroker.amounts import parse_duration

_CLUSTER_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
LOG_FORMATS = ("text", "json")
JOURNALS = ("none", "process", "full")
LOG_LEVELS = ("debug", "info", "warning", "error", "critical")
_TRUTHS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def interval(value: object) -> float:
    """Seconds of a duration that isn't 0."""
    seconds = parse_duration(value)
    if seconds == 0:
        raise ValueError(value)
    return seconds


def integer(value: object, minimum: int, maximum: int | None = None) -> int:
    """A whole number from ``minimum`` to ``maximum``."""
    if isinstance(value, str) and value.strip().isdecimal():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        raise ValueError(value)
    if maximum is not None and value > maximum:
        raise ValueError(value)
    return value


def count(value: object) -> int:
    """0 or more."""
    return integer(value, 0)


def positive(value: object) -> int:
    """1 or more."""
    return integer(value, 1)


def port(value: object) -> int:
    """A TCP port; 0 is any free one."""
    return integer(value, 0, 65535)


def boolean(value: object) -> bool:
    """true, yes, on, 1, and their opposites."""
    if isinstance(value, bool):
        return value
    return _TRUTHS[str(value).strip().lower()]


def text(value: object) -> str:
    """One line of text that isn't empty."""
    if not isinstance(value, str) or not value.strip() or any(character in value for character in "\0\r\n"):
        raise ValueError(value)
    return value.strip()


def address(value: object) -> str:
    """Text without blanks."""
    address = text(value)
    if re.search(r"\s", address):
        raise ValueError(value)
    return address


def database_url(value: object) -> str:
    """A URL; one that begins with postgres:// is taken for postgresql://."""
    url = address(value)
    if "://" not in url:
        raise ValueError(value)
    # Heroku and others still hand out a scheme that SQLAlchemy no longer knows.
    return re.sub(r"^postgres://", "postgresql://", url)


def cluster_name(value: object) -> str:
    """A cluster's name."""
    if not isinstance(value, str) or not _CLUSTER_NAME.fullmatch(value):
        raise ValueError(value)
    return value


def path(value: object) -> Path:
    """A path; ``~`` is the user's home."""
    return Path(value if isinstance(value, Path) else text(value)).expanduser()


def log_level(value: object) -> str:
    """The name of a level of `logging`."""
    level = text(value).lower()
    if level not in LOG_LEVELS:
        raise ValueError(value)
    return level


def log_format(value: object) -> str:
    """How lines are logged."""
    log_format = text(value).lower()
    if log_format not in LOG_FORMATS:
        raise ValueError(value)
    return log_format


def data_address(value: object) -> str:
    """Where a worker listens for direct connections."""
    where = address(value)
    return where.lower() if where.lower() in ("auto", "none") else where


def journal(value: object) -> str:
    """What the scheduler's journal survives."""
    mode = text(value).lower()
    if mode not in JOURNALS:
        raise ValueError(value)
    return mode


def ways(value: object) -> tuple[str, ...]:
    """Ways by which data may move."""
    if isinstance(value, str):
        value = [part.strip().lower() for part in value.split(",")]
    if not isinstance(value, (list, tuple)) or not value or not set(value) <= {"map", "direct", "bulk", "relay"}:
        raise ValueError(value)
    return tuple(value)


def switch(value: object) -> bool | Literal["auto"]:
    """A boolean, or "auto"."""
    return "auto" if isinstance(value, str) and value.strip().lower() == "auto" else boolean(value)
