"""The query language of the history: what people type to find tasks, as conditions on the table (pure).

Words are joined by "and": ``state:failed type:train* since:1h took:>2s shape``. A word without a colon is part of a key
or of an error's message; ``-`` before a word negates it; quotes keep blanks together. Columns are named by the first
words of their names that are clear.
"""

from __future__ import annotations

import datetime
import difflib
import re
import shlex
from collections.abc import Callable

from sqlalchemy import ColumnElement, func, or_, select

from futurebroker.exceptions import QueryError
from futurebroker.persistence.history_tables import runs, tasks

#: what is taken for an outcome
OUTCOMES = {
    "failed": "failed", "error": "failed", "erred": "failed", "failure": "failed", "done": "finished",
    "finished": "finished", "memory": "finished", "success": "finished", "cancelled": "cancelled",
    "canceled": "cancelled", "revoked": "cancelled",
}  # fmt: skip
#: of a database's whole numbers
LARGEST = 2**63 - 1
#: states that tasks of a history can't be in any more; the scheduler knows those
UNFINISHED = frozenset(("running", "processing", "ready", "queued", "waiting", "no_worker", "unfinished", "pending"))
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)", re.IGNORECASE)
_COMPARED = re.compile(r"(<=|>=|<|>|=)?(.*)", re.DOTALL)

Condition = ColumnElement[bool]


def conditions(query: str, now: float) -> list[Condition]:
    """What tasks must meet to be found.

    Args:
        now: seconds since 1970, which ``since:1h`` counts from.

    Raises:
        QueryError: a word can't be understood; it says which, and what there is.
    """
    try:
        words = shlex.split(query)
    except ValueError as error:
        raise QueryError(query, f"{error}; close the quotes, or leave them out") from error
    return [_condition(word, now) for word in words]


def _condition(word: str, now: float) -> Condition:
    if word.startswith("-") and len(word) > 1:
        return ~_condition(word[1:], now)
    name, colon, value = word.partition(":")
    if not colon or not name.isidentifier():
        return or_(_contains(tasks.c.key, word), _contains(tasks.c.error, word))
    make = WORDS.get(name.lower())
    if make is None:
        nearest = difflib.get_close_matches(name.lower(), WORDS, 1)
        hint = f"did you mean {nearest[0]}:? " if nearest else ""
        raise QueryError(word, f"{hint}there are {', '.join(f'{one}:' for one in WORDS)}; quote text with a colon")
    if not value:
        raise QueryError(word, f"say what after {name}:")
    return make(value, now)


def _contains(column: ColumnElement[str], text: str) -> Condition:
    return func.lower(column).contains(text.lower(), autoescape=True)


def _named(column: ColumnElement[str]) -> Callable[[str, float], Condition]:
    def make(value: str, _now: float) -> Condition:
        choices = [_like(column, one) for one in value.split(",") if one]
        return or_(*choices)

    return make


def _like(column: ColumnElement[str], value: str) -> Condition:
    if "*" not in value:
        return column == value
    escaped = value.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return column.like(escaped.replace("*", "%"), escape="\\")


def _state(value: str, _now: float) -> Condition:
    wanted = set()
    for one in value.lower().split(","):
        if one in UNFINISHED:
            raise QueryError(f"state:{one}", "such tasks are not history yet; ask the scheduler: futurebroker status")
        if one not in OUTCOMES:
            raise QueryError(f"state:{one}", "there are failed, done and cancelled")
        wanted.add(OUTCOMES[one])
    return tasks.c.outcome.in_(sorted(wanted))


def _seconds(word: str, value: str) -> float:
    match = _QUANTITY.fullmatch(value.strip())
    if match is None or (match[2] or "s").lower() not in _UNITS:
        raise QueryError(f"{word}:{value}", "times read 500ms, 5s, 10m, 2h, 1d")
    return float(match[1]) * _UNITS[(match[2] or "s").lower()]


def _moment(word: str, value: str, now: float) -> float:
    """``1h`` (ago), ``2026-11-24``, ``2026-11-24T10:30`` (in the local zone unless it says another), or seconds."""
    if _QUANTITY.fullmatch(value) and not value.isdecimal():
        return now - _seconds(word, value)
    if value.isdecimal() and len(value) >= 9:
        return float(value)
    try:
        return datetime.datetime.fromisoformat(value).timestamp()
    except ValueError:
        raise QueryError(f"{word}:{value}", "moments read 1h (ago), 2026-11-24 or 2026-11-24T10:30") from None


def _compared(column: ColumnElement[float], word: str) -> Callable[[str, float], Condition]:
    def make(value: str, _now: float) -> Condition:
        match = _COMPARED.fullmatch(value)
        assert match is not None
        seconds = _seconds(word, match[2])
        return {"<": column < seconds, "<=": column <= seconds, ">": column > seconds}.get(match[1], column >= seconds)

    return make


def _run(value: str, _now: float) -> Condition:
    if value == "last":
        return tasks.c.run == select(func.max(runs.c.id)).scalar_subquery()
    if not value.isdecimal():
        raise QueryError(f"run:{value}", "runs are numbers, see: futurebroker runs; or: run:last")
    return tasks.c.run == min(int(value), LARGEST)


#: what may stand before a colon
WORDS: dict[str, Callable[[str, float], Condition]] = {
    "state": _state,
    "type": _named(tasks.c.type),
    "worker": _named(tasks.c.worker),
    "client": _named(tasks.c.client),
    "key": _named(tasks.c.key),
    "error": _named(tasks.c.error_type),
    "run": _run,
    "since": lambda value, now: tasks.c.ended_at >= _moment("since", value, now),
    "until": lambda value, now: tasks.c.ended_at < _moment("until", value, now),
    "took": _compared(tasks.c.duration, "took"),
}
