"""Commands that a client has published outlive the broker; what need not is not written to its disk."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from futurebroker.broker_adapters.frames import BASIC_PUBLISH, DURABLE_PROPERTIES, split_route
from futurebroker.protocol import messages as m
from futurebroker.protocol.queues import command_queue
from futurebroker.protocol.wire import Keyring, Kind
from futurebroker.transport.base import Queue, QueueKind
from futurebroker.types import Peer, Role
from tests.integration.brokers import SECRET, connect, run
from tests.services.clusters import up_at
from tests.services.links import Party, Place, rabbitmqctl
from tests.services.taps import tap_on

pytestmark = pytest.mark.service("rabbitmq")

SCHEDULER = Peer(Role.SCHEDULER, "scheduler", "1")


def test_what_a_client_published_is_there_after_the_broker_s_restart(rabbitmq_url: str) -> None:
    """The client is gone by then and can't send it again; acknowledgements outside of the session may be lost."""

    async def scenario() -> None:
        place = Place("rabbitmq", rabbitmq_url)
        queue = Queue(command_queue(place.token), QueueKind.COMMAND)
        reader = await connect(place.url, [queue])
        reader.link.close()
        client = Party(place, Role.CLIENT, "client-1")
        await client.attach()
        client.endpoint.open(SCHEDULER, queue.name, 0)
        for number in range(3):
            client.endpoint.send("scheduler", m.Release([f"k{number}"]))
            client.endpoint.flush()
        client.endpoint.send_meeting(SCHEDULER, queue.name, m.Heartbeat())
        kept = client.endpoint.keep_open()
        assert kept is not None
        client.endpoint.send_meeting(SCHEDULER, queue.name, m.Goodbye(), durable=True)
        await asyncio.wait_for(kept, 20)
        client.endpoint.close()
        await asyncio.to_thread(rabbitmqctl, "stop_app")
        await asyncio.to_thread(rabbitmqctl, "start_app")
        reader = await connect(place.url, [queue])
        try:
            await reader.until(lambda owner: len(owner.received_bodies) == 4)
            opened = [Keyring(SECRET).open(body, Role.SCHEDULER)[1:] for body in reader.received_bodies]
            assert [header.kind for header, _ in opened] == [Kind.DATA] * 3 + [Kind.MEETING]
            assert [header.sequence for header, _ in opened] == [1, 2, 3, 0]
            assert m.decode("from_client", opened[3][1]) == [m.Goodbye()]
        finally:
            reader.link.close()
            await asyncio.to_thread(rabbitmqctl, "delete_queue", queue.name)

    run(scenario)


def test_what_is_acknowledged_in_time_is_not_written_to_a_disk(rabbitmq_url: str, tmp_path: Path) -> None:
    """A disk write for every task and result would cost a fifth of the speed and save nothing."""
    with tap_on(rabbitmq_url) as tap, up_at(tap.url, tmp_path) as deployment:
        with deployment.client() as client:
            assert client.gather(client.map(abs, range(-500, 0))) == list(range(500, 0, -1))
        commands = command_queue(deployment.cluster)
    keyring = Keyring(deployment.secret.encode())
    #: sender and number of the session's commands: those sent to be forgotten with the broker, those sent to be kept
    passing: list[tuple[str, int]] = []
    kept: list[tuple[str, int]] = []
    for incoming in tap.methods():
        if incoming.payload[:4] == BASIC_PUBLISH and incoming.body is not None:
            is_durable = incoming.properties == DURABLE_PROPERTIES
            if split_route(incoming.payload[6:-1])[1] != commands:
                assert not is_durable
                continue
            header = keyring.open(incoming.body, Role.SCHEDULER)[1]
            if header.kind == Kind.DATA:
                (kept if is_durable else passing).append((header.sender, header.sequence))
    # Only who leaves with something open sends that once more, to be kept.
    assert len(passing) == len(set(passing)) > 0
    assert set(kept) <= set(passing)
    assert len(kept) <= 2
