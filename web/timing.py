"""Schedules in words: what a crontab or an interval means, as people say it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from futurebroker.schedules import Crontab, Interval, schedule_of

_DAYS = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
_UNITS = ((86400.0, "day"), (3600.0, "hour"), (60.0, "minute"), (1.0, "second"))
#: times of a day that are named one by one
TIMES_MOST = 4


def in_words(data: Any) -> str:
    """A schedule, as `futurebroker.schedules` has it as data, in words; what can't be read is shown as it is."""
    try:
        schedule = schedule_of(data)
        return _interval(schedule) if isinstance(schedule, Interval) else _crontab(schedule)
    except (TypeError, ValueError, IndexError):
        return str(data)


def _interval(schedule: Interval) -> str:
    seconds = schedule.seconds
    for size, unit in _UNITS:
        if seconds >= size and seconds % size == 0:
            words = _every(int(seconds // size), unit)
            return f"{words}, on the {unit}" if schedule.relative else words
    return f"every {seconds:g} seconds"


def _every(number: int, unit: str) -> str:
    return f"every {unit}" if number == 1 else f"every {number:,} {unit}s"


def _crontab(schedule: Crontab) -> str:
    day = _day(schedule)
    time, is_exact = _time(sorted(schedule.minute), sorted(schedule.hour))
    if time.startswith("at ") and not day:
        day = "every day"
    zone = f" ({schedule.tz})" if schedule.tz else " (UTC)" if is_exact or day else ""
    return " ".join(part for part in ((day, time) if day == "every day" else (time, day)) if part) + zone


def _time(minutes: Sequence[int], hours: Sequence[int]) -> tuple[str, bool]:
    """The time of a day, and whether it is named exactly."""
    minute_step, hour_step = _step(minutes, 60), _step(hours, 24)
    if len(minutes) * len(hours) <= TIMES_MOST:
        return "at " + _and(f"{hour:02}:{minute:02}" for hour in hours for minute in minutes), True
    if minute_step and hour_step == 1:
        return _every(minute_step, "minute"), False
    if len(minutes) == 1 and hour_step:
        past = f" at {minutes[0]} past" if minutes[0] else ""
        return _every(hour_step, "hour") + past, False
    span = len(_runs(hours)) == 1 and hour_step != 1
    minute = _every(minute_step, "minute") if minute_step else f"at minute{_s(minutes)} {_ranges(minutes)}"
    if minute_step and span:
        return f"{minute} from {hours[0]:02}:{minutes[0]:02} to {hours[-1]:02}:{minutes[-1]:02}", True
    hour = _every(hour_step, "hour") if hour_step else f"hour{_s(hours)} {_ranges(hours)}"
    return f"{minute} of {hour}", not hour_step


def _day(schedule: Crontab) -> str:
    parts = []
    weekdays = sorted(schedule.day_of_week, key=lambda day: (day - 1) % 7)
    if len(weekdays) < 7:
        parts.append(f"on {_named([(day - 1) % 7 for day in weekdays], [*_DAYS[1:], _DAYS[0]])}")
    days = sorted(schedule.day_of_month)
    if len(days) < 31:
        parts.append(f"on day{_s(days)} {_ranges(days)} of the month")
    months = sorted(schedule.month_of_year)
    if len(months) < 12:
        parts.append(f"in {_named([month - 1 for month in months], _MONTHS)}")
    return " ".join(parts)


def _step(numbers: Sequence[int], count: int) -> int:
    """N where these are every n-th from 0 on, else 0."""
    step = numbers[1] - numbers[0] if len(numbers) > 1 else 0
    return step if step and list(numbers) == list(range(0, count, step)) else 0


def _named(numbers: Sequence[int], names: Sequence[str]) -> str:
    return _and(f"{names[low]} to {names[high]}" if high > low else names[low] for low, high in _runs(numbers))


def _ranges(numbers: Sequence[int]) -> str:
    return _and(f"{low} to {high}" if high > low else str(low) for low, high in _runs(numbers))


def _runs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Three and more that follow each other are one run."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return [
        pair for run in runs for pair in ([(run[0], run[-1])] if len(run) > 2 else [(number, number) for number in run])
    ]


def _s(numbers: Sequence[int]) -> str:
    return "s" if len(numbers) > 1 else ""


def _and(words: Iterable[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last
