"""Celery's names of schedules: `crontab` and `schedule`."""

from __future__ import annotations

from futurebroker.schedules import Crontab as crontab  # noqa: N813 - Celery's name
from futurebroker.schedules import Interval as schedule  # noqa: N813 - Celery's name
from futurebroker.schedules import ParseException as ParseException
from futurebroker.schedules import schedule_of as maybe_schedule

__all__ = ["ParseException", "crontab", "maybe_schedule", "schedule"]
