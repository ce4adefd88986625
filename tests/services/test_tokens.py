"""RabbitMQ tells at once that a worker is gone, by the token that its connection held."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from futurebroker.broker_adapters import tokens
from futurebroker.protocol.queues import token_queue
from futurebroker.transport.base import Queue, QueueKind
from tests.integration.brokers import Owner, broker_here, connect, run
from tests.integration.programs import FUTUREBROKER, lines_until, running
from tests.services.clusters import scheduler_at
from tests.services.links import Place

pytestmark = pytest.mark.service("rabbitmq")


def _crash(owner: Owner) -> None:
    """End its connection as the kernel does for a process that is killed."""
    owner.disconnected(None)
    owner.link._sock.close()  # type: ignore[attr-defined]


async def _holders(place: Place, count: int) -> tuple[Owner, list[Owner]]:
    """Who watches, and who holds tokens; these come all at once."""
    name = token_queue(place.token)
    watcher = await connect(place.url, [Queue(name, QueueKind.WATCH)])
    holding = [connect(place.url, [Queue(name, QueueKind.TOKEN)]) for _ in range(count)]
    return watcher, list(await asyncio.gather(*holding))


def test_who_watches_is_told_which_holder_is_gone(rabbitmq_url: str) -> None:
    """Each of ten that came at the same moment, however its connection ends; and nobody while all live."""

    async def scenario() -> None:
        watcher, holders = await _holders(Place("rabbitmq", rabbitmq_url), 10)
        names = [holder.link.capabilities.token for holder in holders]
        assert len(set(names)) == 10
        assert watcher.link.capabilities.token == ""
        early = len(watcher.returned_names)
        assert set(watcher.returned_names).isdisjoint(names)
        for number, holder in enumerate(holders):
            begun = time.monotonic()
            holder.link.close() if number % 2 else _crash(holder)
            await watcher.until(lambda owner: len(owner.returned_names) > early + number)  # noqa: B023
            assert watcher.returned_names[early + number] == names[number]
            assert time.monotonic() - begun < 3
        watcher.link.close()

    run(scenario)


def test_a_renewed_token_is_still_held(rabbitmq_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """RabbitMQ closes a channel that keeps a delivery for half an hour."""

    async def scenario() -> None:
        watcher, (holder, other) = await _holders(Place("rabbitmq", rabbitmq_url), 2)
        token = holder.link._token  # type: ignore[attr-defined]
        name, tag = token.name, token._tag
        monkeypatch.setattr(tokens, "RENEWAL", 0.0)
        for _ in range(3):
            before = token._tag
            token.renew(holder.link._pieces, time.monotonic())  # type: ignore[attr-defined]
            holder.flush()
            async with asyncio.timeout(10):
                while token._tag == before:
                    await asyncio.sleep(0.01)
        assert token._tag != tag
        early = list(watcher.returned_names)
        assert name not in early
        monkeypatch.setattr(tokens, "RENEWAL", 600.0)
        holder.link.close()
        await watcher.until(lambda owner: len(owner.returned_names) > len(early))
        assert watcher.returned_names[len(early) :] == [name]
        other.link.close()
        watcher.link.close()

    run(scenario)


def test_the_embedded_broker_needs_no_tokens() -> None:
    """It tells of every inbox that ends."""

    async def scenario() -> None:
        async with broker_here() as broker:
            owner = await connect(broker.url, [Queue("t", QueueKind.TOKEN), Queue("t", QueueKind.WATCH)])
            assert owner.link.capabilities.token == ""
            owner.link.close()

    run(scenario)


def test_an_idle_worker_that_is_killed_is_noticed_though_nothing_is_sent_to_it(
    rabbitmq_url: str, tmp_path: Path
) -> None:
    """With a minute between heartbeats nothing but the broker can tell."""
    slow = {"FUTUREBROKER_HEARTBEAT_INTERVAL": "60"}
    with scheduler_at(rabbitmq_url, tmp_path, **slow) as deployment, deployment.client() as client:
        command = [*FUTUREBROKER, "worker", rabbitmq_url, "--executors", "1", "--name", "victim"]
        with running(command, tmp_path, **deployment.variables) as victim:
            lines_until(victim, "serves the scheduler")
            assert client.submit(os.getpid, workers="victim").result(timeout=30)
            begun = time.monotonic()
            victim.send_signal(signal.SIGKILL)
            while client.nthreads():
                assert time.monotonic() - begun < 10, "nobody noticed"
            seconds = time.monotonic() - begun
            assert victim.wait(10) == -signal.SIGKILL
    # noticed at once, and its process, which is of this machine, is seen to be dead at the next look
    assert seconds < 3
