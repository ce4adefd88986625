"""Schedules in words: read by who never learned crontab."""

from __future__ import annotations

import pytest

from futurebroker.schedules import Crontab, Interval, Schedule
from futurebroker.web.timing import in_words


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        (Interval(1), "every second"),
        (Interval(90), "every 90 seconds"),
        (Interval(0.5), "every 0.5 seconds"),
        (Interval(3600), "every hour"),
        (Interval(2 * 86400), "every 2 days"),
        (Interval(60, relative=True), "every minute, on the minute"),
        (Crontab(), "every minute"),
        (Crontab(minute="*/15"), "every 15 minutes"),
        (Crontab(minute=0), "every hour"),
        (Crontab(minute=5, hour="*/3"), "every 3 hours at 5 past"),
        (Crontab(minute="*", hour="*/2"), "every minute of every 2 hours"),
        (Crontab(minute=30, hour=7), "every day at 07:30 (UTC)"),
        (
            Crontab(minute=30, hour="7,19", day_of_week="mon-fri", tz="Europe/Berlin"),
            "at 07:30 and 19:30 on Monday to Friday (Europe/Berlin)",
        ),
        (Crontab(minute=0, hour=12, day_of_week="sun"), "at 12:00 on Sunday (UTC)"),
        (Crontab(minute=0, hour=0, day_of_month=1), "at 00:00 on day 1 of the month (UTC)"),
        (
            Crontab(minute=0, hour=0, day_of_month="1-7,9", month_of_year="1,2,6-8"),
            "at 00:00 on days 1 to 7 and 9 of the month in January, February and June to August (UTC)",
        ),
        (Crontab(minute="*/10", hour="8-17"), "every 10 minutes from 08:00 to 17:50 (UTC)"),
        (
            Crontab(minute="*/10", hour="8-17", day_of_week="sat,sun"),
            "every 10 minutes from 08:00 to 17:50 on Saturday and Sunday (UTC)",
        ),
        (Crontab(minute="1,2,3,30", hour="8-17"), "every day at minutes 1 to 3 and 30 of hours 8 to 17 (UTC)"),
    ],
)
def test_a_schedule_reads_as_people_say_it(schedule: Schedule, words: str) -> None:
    """Whoever looks when something runs next can check that against what was meant."""
    assert in_words(schedule.data()) == words


@pytest.mark.parametrize("data", [["interval"], ["crontab", "x"], "soon", None, [], ["crontab", "61", *"****", None]])
def test_what_can_t_be_read_is_shown_as_it_is(data: object) -> None:
    """A scheduler of a later version may have kinds that this site doesn't know."""
    assert in_words(data) == str(data)
