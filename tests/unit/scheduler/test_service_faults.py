"""Nothing that a peer says stops the scheduler, and nor does a mistake of our own."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from futurebroker.exceptions import InvariantViolation
from futurebroker.protocol import messages as m
from futurebroker.scheduler import admission, intake
from futurebroker.scheduler import machine as machine_rules
from futurebroker.scheduler.commands import WorkerBeat
from tests.unit.scheduler.served import World, in_a_world

# -- bounds on what is said ----------------------------------------------------------------------------------------


def test_calls_that_cannot_be_taken_are_rejected_with_the_reason_and_the_others_run() -> None:
    """A future must never wait for a task that nobody has."""

    async def scenario(world: World) -> None:
        client = await world.client()
        await world.worker()
        long = "k" * (admission.KEY_LENGTH + 1)
        client.submit("a", long, "")
        client.submit("b", options=m.TaskOptions(resources={"gpu": -1.0}))
        client.submit("c", options=m.TaskOptions(workers=("w" * admission.OPTIONS_BYTES,)))
        client.member.send(m.PutValue(long, b"v"))
        client.member.send(m.PutPart(long, 0, 2, b"v"))
        client.member.send(m.PutPart(long, 1, 2, b"v"))
        reasons = [(told.key, told.kind, told.reason) for told in await client.told(m.KeyCancelled, 6)]
        assert {kind for _, kind, _ in reasons} == {"rejected"}
        assert [key for key, _, _ in reasons] == [long, "", "b", "c", long, long]
        for (_, _, reason), words in zip(
            reasons, ["1,025", "this one 0", "negative", "65,536", "1,024", ""], strict=True
        ):
            assert words in reason
        assert [told.key for told in await client.told(m.KeyFinished)] == ["a"]
        assert world.mistakes == []

    in_a_world(scenario)


def test_a_message_of_too_many_calls_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """While one message is worked off, nobody else is."""
    monkeypatch.setattr(intake, "KEYS_PER_MESSAGE", 2)

    async def scenario(world: World) -> None:
        client = await world.client()
        client.submit("a", "b", "c")
        told = await client.told(m.KeyCancelled, 3)
        assert all("submits 3 calls, and may submit 2" in one.reason for one in told)

    in_a_world(scenario)


# -- mistakes of our own -------------------------------------------------------------------------------------------


def _stumble(*_: Any) -> None:
    raise ZeroDivisionError("a bug in the machine")


def test_a_bug_in_the_machine_costs_one_message_and_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The scheduler goes on with what came in the same envelope; the log has the traceback, once, and the message."""
    from_clients: dict[Any, Any] = machine_rules._FROM_CLIENT
    monkeypatch.setitem(from_clients, m.Detach, _stumble)
    events: dict[Any, Any] = machine_rules._APPLY
    monkeypatch.setitem(events, WorkerBeat, _stumble)

    async def scenario(world: World) -> None:
        client, worker = await world.client(), await world.worker()
        for key in ("a", "b", "c"):
            client.submit(key)
            client.member.send(m.Detach([key]))
        assert [told.key for told in await client.told(m.KeyFinished, 3)] == ["a", "b", "c"]
        await worker.beat()
        assert world.service.faults == {"Detach of a client": 3, "WorkerBeat": 1}
        assert world.mistakes == []

    with caplog.at_level(logging.ERROR, "futurebroker.scheduler"):
        in_a_world(scenario, validate=False)
    assert len(caplog.records) == 2
    assert "Detach of a client raised" in caplog.text
    assert caplog.text.count("ZeroDivisionError: a bug in the machine") == 2
    assert "in _stumble" in caplog.text


def test_with_validation_a_bug_in_the_machine_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests and simulations must not pass over it."""
    from_clients: dict[Any, Any] = machine_rules._FROM_CLIENT
    monkeypatch.setitem(from_clients, m.Detach, _stumble)

    async def scenario(world: World) -> None:
        client = await world.client()
        client.member.send(m.Detach(["a"]))
        await client.beat()
        assert [type(mistake) for mistake in world.mistakes] == [ZeroDivisionError]

    in_a_world(scenario)


def test_with_validation_the_laws_are_checked_after_each_event() -> None:
    """A state that breaks them is found where it was made."""

    async def scenario(world: World) -> None:
        client = await world.client()
        client.submit("a")
        await client.beat()
        task = world.service.machine.state.tasks["a"]
        task.needed_by = 5
        client.member.send(m.Want([]))
        await client.beat()
        assert isinstance(world.mistakes[0], InvariantViolation)
        task.needed_by = 0

    in_a_world(scenario)
