"""When something is due again and again: cron expressions and intervals, as pure data."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from functools import cached_property
from math import floor
from typing import Any
from zoneinfo import ZoneInfo

_WEEKDAYS = ("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday")
_MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
    "december",
)  # fmt: skip
_PART = re.compile(r"(?:(\*)|(\w+)(?:-(\w+))?)(?:/(\d+))?")
#: share of an interval by which a multiple of it may be missed: they are sums and quotients of floats
NEAR = 1e-4
#: days that are looked through for the next moment: a 29th of February may be eight years away
_HORIZON = 366 * 9


class ParseException(ValueError):  # noqa: N818 - Celery's name
    """A cron field that can't be read; the text says which part."""


def _expand(text: Any, low: int, high: int, names: tuple[str, ...] = ()) -> frozenset[int]:
    """The numbers that a field of a cron expression means."""
    if isinstance(text, int):
        text = str(text)
    if isinstance(text, str):
        found = {number for part in text.replace(" ", "").split(",") for number in _part(part, low, high, names)}
    elif isinstance(text, Iterable):
        found = {int(number) for number in text}
    else:
        raise TypeError(f"a cron field is a number, text or several numbers, not {text!r}")
    if names is _WEEKDAYS:
        found = {number % 7 for number in found}
    wrong = sorted(number for number in found if not low <= number <= high)
    if wrong:
        raise ValueError(f"Invalid crontab pattern. Valid range is {low}-{high}. {wrong[0]!r} was found.")
    if not found:
        raise ParseException("empty filter")
    return frozenset(found)


def _part(part: str, low: int, high: int, names: tuple[str, ...]) -> Sequence[int]:
    match = _PART.fullmatch(part)
    if match is None:
        raise ParseException(f"{part!r} can't be read; a part of a cron field is *, 5, 1-5, */15 or mon-fri")
    every, first, last, step = match.groups()
    if every:
        start, end = low, high
    else:
        start = _number(first, low, names)
        end = _number(last, low, names) if last else start if not step else high
    if step == "0":
        raise ParseException(f"{part!r} has steps of 0")
    if end < start and not every and start <= high:  # wraps round, as fri-mon does
        count = high - low + 1
        return [low + (number - low) % count for number in range(start, end + count + 1, int(step or 1))]
    return range(start, end + 1, int(step or 1))


def _number(text: str, low: int, names: tuple[str, ...]) -> int:
    if text.isdigit():
        return int(text)
    for number, name in enumerate(names):
        if len(text) >= 3 and name.startswith(text.lower()):
            return number + (low if names is _MONTHS else 0)
    raise ParseException(f"Invalid weekday literal {text!r}.")


class _Recurring(ABC):
    """What `following` says, in Celery's words."""

    @abstractmethod
    def following(self, last: float) -> float:
        """The first moment after ``last`` at which it is due; both in seconds since 1970."""

    def is_due(self, last_run_at: datetime) -> tuple[bool, float]:
        """Whether it is due now, and in how many seconds to look again."""
        now = datetime.now(UTC).timestamp()
        due = self.following(_aware(last_run_at).timestamp())
        return (True, self.following(now) - now) if due <= now else (False, due - now)

    def remaining_estimate(self, last_run_at: datetime) -> timedelta:
        """Until it is due."""
        due = self.following(_aware(last_run_at).timestamp())
        return timedelta(seconds=due - datetime.now(UTC).timestamp())


class Interval(_Recurring):
    """Every so many seconds.

    Args:
        relative: at whole multiples of that since the epoch, not counted from the last run.
    """

    def __init__(self, run_every: float | timedelta, relative: bool = False, **_: Any) -> None:
        self.run_every = run_every if isinstance(run_every, timedelta) else timedelta(seconds=run_every)
        if self.run_every.total_seconds() <= 0:
            raise ValueError(f"an interval is longer than nothing, not {run_every!r}")
        self.relative = relative

    @property
    def seconds(self) -> float:
        """Of an interval."""
        return max(self.run_every.total_seconds(), 0)

    def following(self, last: float) -> float:
        """The first moment after ``last`` at which it is due; both in seconds since 1970."""
        every = self.run_every.total_seconds()
        return (floor(last / every + NEAR) + 1) * every if self.relative else last + every

    def data(self) -> list[Any]:
        """What `schedule_of` makes it of again."""
        return ["interval", self.run_every.total_seconds(), self.relative]

    @property
    def human_seconds(self) -> str:
        return f"{self.run_every.total_seconds():g} seconds"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Interval) and self.data() == other.data()

    def __hash__(self) -> int:
        return hash(tuple(self.data()))

    def __repr__(self) -> str:
        return f"<freq: {self.human_seconds}>"


class Crontab(_Recurring):
    """At minutes that fit all fields, as cron has them: ``Crontab(minute=0, hour="*/3", day_of_week="mon-fri")``.

    Unlike in cron, a day has to fit ``day_of_month`` and ``day_of_week`` both (as in Celery). In the hour that a change
    of clocks skips nothing is due, and in one that comes twice each minute counts once.

    Args:
        tz: name of the time zone; default UTC.
    """

    def __init__(
        self,
        minute: Any = "*",
        hour: Any = "*",
        day_of_week: Any = "*",
        day_of_month: Any = "*",
        month_of_year: Any = "*",
        tz: str | None = None,
        **_: Any,
    ) -> None:
        self._orig = {
            "minute": _text(minute), "hour": _text(hour), "day_of_week": _text(day_of_week),
            "day_of_month": _text(day_of_month), "month_of_year": _text(month_of_year),
        }  # fmt: skip
        self.tz = tz
        self.minute = _expand(minute, 0, 59)
        self.hour = _expand(hour, 0, 23)
        self.day_of_week = _expand(day_of_week, 0, 6, _WEEKDAYS)
        self.day_of_month = _expand(day_of_month, 1, 31)
        self.month_of_year = _expand(month_of_year, 1, 12, _MONTHS)

    @classmethod
    def from_string(cls, crontab: str) -> Crontab:
        """Of the five fields of a cron line."""
        fields = crontab.split()
        if len(fields) != 5:
            raise ParseException(f"{crontab!r} doesn't have the five fields of a cron line")
        minute, hour, day_of_month, month_of_year, day_of_week = fields
        return cls(minute, hour, day_of_week, day_of_month, month_of_year)

    @cached_property
    def _zone(self) -> tzinfo:
        return ZoneInfo(self.tz) if self.tz else UTC

    def following(self, last: float) -> float:
        """The first moment after ``last`` at which it is due; both in seconds since 1970.

        Raises:
            ValueError: there is none, as on a 30th of February.
        """
        moment = datetime.fromtimestamp(last, self._zone).replace(second=0, microsecond=0, tzinfo=None)
        moment += timedelta(minutes=1)
        day = moment.date()
        for _ in range(_HORIZON):
            if self._has_day(day):
                after = moment.time() if day == moment.date() else None
                for hour in sorted(self.hour):
                    for minute in sorted(self.minute):
                        if after is not None and (hour, minute) < (after.hour, after.minute):
                            continue
                        due = datetime(day.year, day.month, day.day, hour, minute, tzinfo=self._zone)
                        if _exists(due) and due.timestamp() > last:
                            return due.timestamp()
            day += timedelta(days=1)
        raise ValueError(f"{self!r} is never due")

    def _has_day(self, day: Any) -> bool:
        return (
            day.month in self.month_of_year
            and day.day in self.day_of_month
            and day.isoweekday() % 7 in self.day_of_week
        )

    def data(self) -> list[Any]:
        """What `schedule_of` makes it of again."""
        return ["crontab", *self._orig.values(), self.tz]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Crontab) and self.data() == other.data()

    def __hash__(self) -> int:
        return hash(tuple(self.data()))

    def __repr__(self) -> str:
        one = self._orig
        fields = " ".join(one[name] for name in ("minute", "hour", "day_of_month", "month_of_year", "day_of_week"))
        return f"<crontab: {fields} (m/h/dM/MY/d)>"


def _text(field: Any) -> str:
    if isinstance(field, (str, int)):
        return str(field)
    return ",".join(str(number) for number in sorted(field))


def _exists(moment: datetime) -> bool:
    """Whether clocks show this time at all, on the day they are put forward."""
    return moment.astimezone(UTC).astimezone(moment.tzinfo).replace(tzinfo=None) == moment.replace(tzinfo=None)


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


Schedule = Interval | Crontab


def schedule_of(data: Any) -> Schedule:
    """The schedule of what `data` gave, or of seconds, a timedelta or a schedule.

    Raises:
        ValueError, TypeError: it is none.
    """
    if isinstance(data, (Interval, Crontab)):
        return data
    if isinstance(data, (int, float, timedelta)):
        return Interval(data)
    if isinstance(data, (list, tuple)) and data and data[0] == "interval":
        return Interval(data[1], data[2])
    if isinstance(data, (list, tuple)) and data and data[0] == "crontab":
        minute, hour, day_of_week, day_of_month, month_of_year, tz = data[1:]
        return Crontab(minute, hour, day_of_week, day_of_month, month_of_year, tz)
    raise TypeError(f"a schedule is seconds, a timedelta, or a crontab, not {data!r}")
