"""Schedulers with a journal over many seeds: killed before, inside and after commits, with a database that fails."""

from __future__ import annotations

import os
from typing import Any

import pytest

from futurebroker.protocol.facts import Shelved
from futurebroker.protocol.messages import GiveBack, KeyFinished
from futurebroker.protocol.session import Session
from futurebroker.scheduler import adoption, beat, claims, recording, revoking, shelving, terms, transitions
from futurebroker.scheduler.commands import Command, Send
from futurebroker.scheduler.records import TaskRecord
from futurebroker.scheduler.state import SchedulerState
from tests.sim.durable import DurableSimScheduler
from tests.sim.scenario import HARSH_QUIET, Scenario, SimulationFailed
from tests.sim.scheduler import SimScheduler

CHUNK = 25
SEEDS = int(os.environ.get("FUTUREBROKER_TEST_SEEDS", "1000")) // 5


@pytest.mark.parametrize("first", range(200_000, 200_000 + SEEDS, CHUNK))
def test_every_seed_ends_right(first: int) -> None:
    """Whatever a client was told is still so afterwards (I12), and everything ends as if nothing had happened."""
    for seed in range(first, first + CHUNK):
        Scenario(seed, quiet_within=HARSH_QUIET if seed % 2 else 12.0, harsh=seed % 2 == 1, durable=True).run()


def tell_at_once(scheduler: DurableSimScheduler, commands: list[Command]) -> None:
    """A planted bug: clients hear of results before these are written."""
    told = [one for one in commands if isinstance(one, Send) and isinstance(one.message, KeyFinished)]
    SimScheduler.let_out(scheduler, list(told))
    scheduler._told_keys |= {one.message.key for one in told if isinstance(one.message, KeyFinished)}
    _LET_OUT(scheduler, [one for one in commands if one not in told])


_LET_OUT = DurableSimScheduler.let_out


def give_up_by_what_is_seen(state: SchedulerState, tasks: list[TaskRecord], why: str) -> None:
    """A planted bug: a replay, which doesn't see what runs, revokes what had begun."""
    for task in tasks:
        terms.terms_of(task).revoked = why
        if task.worker is None:
            transitions.give_up(state, task)
        elif task.worker is not state.nowhere:
            state.send(task.worker.worker_id, GiveBack([(task.key, task.attempt)]))


def fire_at_the_hour_of_the_clock(state: SchedulerState, planned: beat.Planned) -> None:
    """A planted bug: a firing is known by when it took place, and not by when it was due."""
    beat.run(state, planned, state.now + state.clock_offset, is_now=False)


def let_go_before_it_is_written(state: SchedulerState, task: TaskRecord) -> shelving.Row:
    """A planted bug: a kept result leaves the memory when its row is made, and not when it is there."""
    row = _ROW(state, task)
    assert state.facts is not None
    state.facts.append(Shelved(state.now, [task.key]))
    shelving.put_away(state, [task.key])
    return row


def take_back_without_a_word(state: SchedulerState, message: shelving.Sought) -> None:
    """A planted bug: what was read back is not among the facts."""
    assert state.shelf is not None
    shelving.take_back(state, message.rows)
    state.shelf.sought.pop(message.number)()


_ROW = shelving._row


@pytest.mark.timeout(300)  # some are rare
@pytest.mark.parametrize(
    ("place", "name", "bug"),
    [
        (DurableSimScheduler, "let_out", tell_at_once),
        (Session, "hold_acks", lambda session: None),
        (revoking, "_give_up", give_up_by_what_is_seen),
        (recording, "told", lambda state, worker, message: None),
        (beat, "_fire", fire_at_the_hour_of_the_clock),
        (shelving, "_row", let_go_before_it_is_written),
        (shelving, "_found", take_back_without_a_word),
        (shelving, "may_leave", lambda state, task: state.tasks.get(task.key) is task),
        (claims, "may_be_others", lambda state, message: state.facts is None and not state.replaying),
        (adoption, "is_renounced", lambda state, task, worker: False),
    ],
)
def test_the_simulator_finds_what_is_told_or_forgotten(
    monkeypatch: pytest.MonkeyPatch, place: Any, name: str, bug: Any
) -> None:
    """A result that a client knows of, or an envelope that nobody sends again, must not be lost; nor what is agreed."""
    monkeypatch.setattr(place, name, bug)
    with pytest.raises(SimulationFailed):
        _run_all(range(2500))


def _run_all(seeds: range) -> None:
    for seed in seeds:
        Scenario(seed, durable=True).run()
