"""How often peers are to be heard of, and when silence means that they are gone."""

from __future__ import annotations

import pytest

from futurebroker.scheduler import presence
from futurebroker.scheduler import service as rules
from futurebroker.scheduler.presence import Contact, Rhythm
from futurebroker.scheduler.state import Policy, SchedulerState
from futurebroker.types import Peer, Role
from tests.unit.scheduler.served import World, in_a_world


def contact(interval: float) -> Contact:
    """A worker heard of at 100."""
    return Contact(Peer(Role.WORKER, "w1", "1"), "inbox", 100.0, interval)


@pytest.mark.parametrize(
    ("interval", "late", "silent"),
    [(0.1, 100.125, 105.0), (1.0, 101.25, 110.0), (presence.IDLE_BEAT, 111.0, 114.0), (30.0, 131.0, 134.0)],
)
def test_silence_is_measured_by_what_the_peer_was_told(interval: float, late: float, silent: float) -> None:
    """A worker told to come every 10 s must not be suspected after 5; none may be dead for 15 s unnoticed."""
    assert contact(interval).late_at == pytest.approx(late)
    assert contact(interval).silent_at == pytest.approx(silent)


def test_questions_keep_the_rhythm_as_work_does() -> None:
    """Who watches a cluster wants figures of now; five seconds after the last look it may rest."""
    state, rhythm = SchedulerState(Policy()), Rhythm(1.0)
    rhythm.look(state, 100.0)
    assert rhythm.interval(Role.WORKER) == 1.0
    state.asked_at = 104.0
    rhythm.look(state, 108.9)
    assert rhythm.interval(Role.WORKER) == 1.0
    rhythm.look(state, 109.1)
    assert (rhythm.interval(Role.WORKER), rhythm.interval(Role.CLIENT)) == (
        presence.IDLE_BEAT,
        presence.IDLE_CLIENT_BEAT,
    )


def test_a_slower_rhythm_than_that_of_rest_is_kept() -> None:
    """Who set a minute between heartbeats doesn't get more of them because nothing goes on."""
    rhythm = Rhythm(60.0)
    rhythm.look(SchedulerState(Policy()), 100.0)
    rhythm.look(SchedulerState(Policy()), 200.0)
    assert rhythm.interval(Role.WORKER) == 60.0


def test_a_worker_at_rest_is_asked_for_a_heartbeat_when_work_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """From then on the short silence counts; one that died at rest is found out by the question coming back."""
    monkeypatch.setattr(rules, "SWEEP_EVERY", 0.01)
    monkeypatch.setattr(presence, "IDLE_AFTER", 0.05)

    async def scenario(world: World) -> None:
        worker, client = await world.worker(), await world.client()
        worker.works = False
        known = world.service._contacts["w1"]
        while known.interval == 1.0:
            await worker.beat()
        assert known.interval == worker.paces[-1] == presence.IDLE_BEAT
        client.submit("a")
        await worker.until(lambda: worker.paces[-1] == 0.0)
        await worker.beat()
        assert known.interval == worker.paces[-1] == 1.0

    in_a_world(scenario, heartbeat_interval=1.0)
