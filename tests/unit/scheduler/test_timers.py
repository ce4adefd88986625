"""What is to happen later happens in order, once, and not after it was called off."""

from math import inf

from hypothesis import given
from hypothesis import strategies as st

from futurebroker.scheduler.timers import DEAD_MAX, Timer, Timers


def test_what_is_due_is_done_in_order() -> None:
    """Of one moment, first come is first done; what is not due stays."""
    timers, done = Timers(), []
    for name, due in (("b", 2.0), ("a", 1.0), ("c", 2.0), ("d", 3.0)):
        timers.at(due, lambda name=name: done.append(name))  # type: ignore[misc]
    assert timers.due == 1.0
    timers.run_due(2.0)
    assert done == ["a", "b", "c"]
    assert (timers.due, len(timers)) == (3.0, 1)


def test_a_timer_may_call_off_and_add_others() -> None:
    """Both happen all the time: a lease that ends makes another begin."""
    timers, done = Timers(), []
    later = timers.at(1.0, lambda: done.append("later"))

    def act() -> None:
        done.append("first")
        timers.cancel(later)
        timers.at(1.0, lambda: done.append("added"))

    timers.at(0.5, act)
    timers.run_due(1.0)
    timers.run_due(1.0)
    assert done == ["first", "added"]
    assert (len(timers), timers.due) == (0, inf)


def test_timers_called_off_take_no_room() -> None:
    """A lease that is renewed a million times must not leave a million timers behind."""
    timers = Timers()
    timers.at(9.0, lambda: None)
    for _ in range(10 * DEAD_MAX):
        timers.cancel(timers.at(10.0, lambda: None))
    assert len(timers) == 1
    assert len(timers._heap) < 3 * DEAD_MAX


@given(st.lists(st.tuples(st.sampled_from(["at", "cancel", "run"]), st.integers(0, 9)), max_size=60))
def test_timers_do_what_a_sorted_list_would(steps: list[tuple[str, int]]) -> None:
    """`due` and the length are right after every step."""
    timers = Timers()
    open_timers: dict[int, Timer] = {}
    done: list[int] = []
    now = 0.0
    for number, (step, value) in enumerate(steps):
        if step == "at":
            open_timers[number] = timers.at(now + value, lambda number=number: done.append(number))  # type: ignore[misc]
        elif step == "cancel" and open_timers:
            timers.cancel(open_timers.pop(sorted(open_timers)[value % len(open_timers)]))
        elif step == "run":
            now += value
            done.clear()
            expected = [n for n, t in sorted(open_timers.items(), key=lambda item: item[1].due) if t.due <= now]
            timers.run_due(now)
            assert done == expected
            for n in expected:
                del open_timers[n]
        assert len(timers) == len(open_timers)
        assert timers.due == min((timer.due for timer in open_timers.values()), default=inf)
