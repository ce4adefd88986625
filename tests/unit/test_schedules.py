"""When schedules are due: moments rise, and none is named twice, left out, or made up."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from futurebroker.schedules import Crontab, Interval, schedule_of

SINCE = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
moments = st.floats(SINCE, SINCE + 2 * 365 * 86400)
seconds = st.one_of(st.sampled_from([0.05, 0.1, 1 / 3, 0.7, 1.1, 5, 60, 3600, 86400]), st.floats(0.05, 1e5))


@given(moments, seconds)
def test_multiples_of_an_interval_follow_each_other(last: float, every: float) -> None:
    """A quotient of floats may fall short of the whole number it is: the moment would fire for ever."""
    schedule = Interval(every, relative=True)
    first = schedule.following(last)
    assert first > last
    length = schedule.run_every.total_seconds()
    for number in range(1, 5):
        following = schedule.following(first)
        assert following - first == pytest.approx(length, rel=1e-3), number
        first = following


@given(moments, seconds)
def test_an_interval_counts_from_the_last_time(last: float, every: float) -> None:
    """Unless it is relative."""
    assert Interval(every).following(last) == last + timedelta(seconds=every).total_seconds()


@given(
    moments,
    st.sampled_from(["*", "0", "*/7", "5-10", "0,59"]),
    st.sampled_from(["*", "3", "*/5", "22-2"]),
    st.sampled_from(["*", "mon-fri", "sunday"]),
)
def test_a_crontab_names_the_next_minute_that_fits(last: float, minute: str, hour: str, weekday: str) -> None:
    """Compared with looking at every minute."""
    schedule = Crontab(minute, hour, weekday)
    due = datetime.fromtimestamp(last, UTC).replace(second=0, microsecond=0)
    while True:
        due += timedelta(minutes=1)
        fits = due.minute in schedule.minute and due.hour in schedule.hour
        if fits and due.isoweekday() % 7 in schedule.day_of_week:
            break
    assert schedule.following(last) == due.timestamp()
    assert schedule_of(schedule.data()) == schedule


@pytest.mark.parametrize(
    ("last", "due"),
    [
        ("2026-03-29T00:59:30+00:00", "2026-03-30T00:30:00+00:00"),  # half past two is skipped that night in Berlin
        ("2026-10-24T23:59:30+00:00", "2026-10-25T00:30:00+00:00"),  # and comes twice in this one, but counts once
        ("2026-10-25T00:30:00+00:00", "2026-10-26T01:30:00+00:00"),
    ],
)
def test_changes_of_clocks_neither_double_nor_make_up_moments(last: str, due: str) -> None:
    """What runs at night runs once a night, or not in the night that lacks its hour."""
    schedule = Crontab(30, 2, tz="Europe/Berlin")
    found = schedule.following(datetime.fromisoformat(last).timestamp())
    assert datetime.fromtimestamp(found, UTC) == datetime.fromisoformat(due)
