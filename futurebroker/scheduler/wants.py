"""Keys that are wanted on behalf of a place and not of a client: a queue, a variable, a dataset (sans-IO)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import partial

from futurebroker.scheduler import sharing, transitions
from futurebroker.scheduler.state import RELEASED, SchedulerState
from futurebroker.types import Key

#: what is kept for who took it out
TRANSIT = "transit"


def hold(state: SchedulerState, place: str, keys: Iterable[Key]) -> None:
    """Keep the results of ``keys`` on behalf of ``place``, once more for each that is kept there already."""
    counts = state.shared.kept.setdefault(place, Counter())
    for key in keys:
        task = state.tasks.get(key)
        if task is None:
            continue
        counts[key] += 1
        task.add_client(state.holder(place))
        if task.state is RELEASED:
            transitions.compute(state, task)
    if not counts:
        del state.shared.kept[place]


def let_go(state: SchedulerState, place: str, keys: Iterable[Key]) -> None:
    """Undo a `hold`."""
    counts = state.shared.kept.get(place)
    if counts is None:
        return
    holder = state.holder(place)
    for key in keys:
        if key not in counts:
            continue
        counts[key] -= 1
        if counts[key]:
            continue
        del counts[key]
        task = state.tasks.get(key)
        if task is not None:
            task.discard_client(holder)
            state.look_at(task)
    if not counts:
        del state.shared.kept[place]
        state.drop_holder(place)


def lend(state: SchedulerState, keys: list[Key], seconds: float) -> None:
    """Keep what is on its way to a client, which will say within ``seconds`` that it wants it."""
    if keys:
        hold(state, TRANSIT, keys)
        state.timers.at(state.now + seconds, partial(let_go, state, TRANSIT, keys))


def hand_over(state: SchedulerState, place: str, keys: list[Key]) -> None:
    """What ``place`` kept is taken out of it by a client."""
    lend(state, keys, sharing.KEPT)
    let_go(state, place, keys)
