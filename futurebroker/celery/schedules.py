"""Celery's names of schedules: `crontab` and `schedule`."""

from __future__ import annotations

from typing import Any, NoReturn

from futurebroker.celery.exceptions import ImproperlyConfigured
from futurebroker.schedules import Crontab as crontab  # noqa: N813 - Celery's name
from futurebroker.schedules import Interval as schedule  # noqa: N813 - Celery's name
from futurebroker.schedules import ParseException as ParseException
from futurebroker.schedules import schedule_of as maybe_schedule

__all__ = ["ParseException", "crontab", "maybe_schedule", "schedule", "solar"]


def solar(event: str, lat: float, lon: float, **_: Any) -> NoReturn:
    """Celery's schedules by the sun, which there are none of here.

    Raises:
        ImproperlyConfigured: always.
    """
    raise ImproperlyConfigured(
        f"the scheduler knows no {event} at {lat}, {lon}: there are no solar schedules here. Have a crontab call a "
        "task every day that works the moment out, with astral or ephem, and sends the task with eta="
    )
