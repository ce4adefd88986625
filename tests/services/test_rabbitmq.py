"""What is true of the engine at a real RabbitMQ: what it sends there, what it is refused, what it does when blocked."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from amqp.serialization import loads
from kombu.connection import Connection
from kombu.entity import Queue as KombuQueue
from kombu.messaging import Consumer, Producer

from futurebroker import Client, Future
from futurebroker.broker_adapters.frames import BASIC_PUBLISH, signature
from futurebroker.exceptions import IntakeError
from futurebroker.protocol.messages import PROTOCOL, Finished, Hello, Run, Welcome, decode, encode
from futurebroker.protocol.queues import command_queue, dead_queue, inbox
from futurebroker.protocol.serialize import dumps
from futurebroker.protocol.wire import Header, Keyring, Kind
from futurebroker.transport.base import Queue, QueueKind
from futurebroker.types import Role
from tests.integration.brokers import Owner, connect, run
from tests.integration.programs import FUTUREBROKER, ROOT, lines_until, running
from tests.integration.programs import run as run_program
from tests.services.clusters import Deployment, scheduler_at, up_at
from tests.services.links import rabbitmqctl, refused
from tests.services.taps import tap_on

pytestmark = pytest.mark.service("rabbitmq")
CERTIFICATE = ROOT / "tests" / "integration" / "tls" / "server.pem"


def test_only_what_rabbitmq_4_allows_is_declared_and_sent(rabbitmq_url: str, tmp_path: Path) -> None:
    """Version 4 refuses transient queues that aren't exclusive and global prefetch, and bodies over 16 MiB."""
    with tap_on(rabbitmq_url) as tap, up_at(tap.url, tmp_path) as deployment, deployment.client() as client:
        assert client.gather(client.map(abs, range(-500, 0))) == list(range(500, 0, -1))
        assert len(client.scatter(bytes(20_000_000)).result(timeout=30)) == 20_000_000
    seen: dict[bytes, int] = {}
    for incoming in tap.methods():
        method, payload = incoming.payload[:4], incoming.payload
        seen[method] = seen.get(method, 0) + 1
        if method == signature(50, 10):
            _, name, passive, durable, exclusive, auto_delete, _, arguments = loads("BsbbbbbF", payload, 4)[0]
            assert not passive
            assert durable is not exclusive, name
            assert auto_delete is exclusive, name
            assert arguments["x-queue-type"] == "classic", name
        elif method == signature(60, 10):
            _, count, is_global = loads("lBb", payload, 4)[0]
            assert count > 0
            assert not is_global
        elif method == BASIC_PUBLISH:
            assert incoming.body is not None
            assert len(incoming.body) < 16 * 1024 * 1024
    assert len(tap.sent) >= 3
    assert seen[signature(50, 10)] >= 4
    assert seen[BASIC_PUBLISH] > 20
    assert signature(40, 10) not in seen  # no exchange of ours: the default one suffices
    assert signature(60, 10) in seen


class KombuWorker:
    """A worker made of stock Kombu: its inbox is declared, read and answered by Kombu's own classes."""

    def __init__(self, connection: Any, deployment: Deployment) -> None:
        self._name, self._incarnation = "kombu", "1"
        self._keyring = Keyring(deployment.secret.encode())
        self._cluster = deployment.cluster
        self.inbox = inbox(deployment.cluster, self._name, 1)
        channel = connection.channel()
        queue = KombuQueue(self.inbox, channel=channel, durable=False, exclusive=True, auto_delete=True)  # type: ignore[no-untyped-call]
        queue.declare()  # type: ignore[no-untyped-call]
        consumer: Any = Consumer(channel, [queue], no_ack=True, on_message=self._take)  # type: ignore[no-untyped-call]
        consumer.consume()
        self._connection = connection
        self._producer: Any = Producer(channel)  # type: ignore[no-untyped-call]
        self._arrived: list[Any] = []

    def _take(self, message: Any) -> None:
        assert message.delivery_info["routing_key"] == self.inbox
        _, header, body = self._keyring.open(bytes(message.body), Role.WORKER)
        if header.kind != Kind.ACK:
            self._arrived += decode("to_worker", body)

    def send(self, queue: str, kind: Kind, message: Any) -> None:
        header = Header(kind, self._cluster, self._name, self._incarnation, "scheduler", 1, int(kind is Kind.DATA))
        envelope = self._keyring.seal(Role.WORKER, Role.SCHEDULER, header, encode([message]))
        self._producer.publish(envelope, routing_key=queue, content_type="application/data", content_encoding="binary")

    def wait_for(self, kind: type[Any]) -> Any:
        """The next message of a kind."""
        deadline = time.monotonic() + 20
        while True:
            for message in self._arrived:
                if isinstance(message, kind):
                    self._arrived.remove(message)
                    return message
            self._connection.drain_events(timeout=deadline - time.monotonic())


def test_a_task_can_be_tapped_off_a_queue_that_kombu_declared(rabbitmq_url: str, tmp_path: Path) -> None:
    """Tasks travel over AMQP queues: stock Kombu declares one, reads a task from it and answers with the result."""
    with (
        scheduler_at(rabbitmq_url, tmp_path) as deployment,
        Connection(rabbitmq_url) as connection,  # type: ignore[no-untyped-call]
        deployment.client() as client,
    ):
        worker = KombuWorker(connection, deployment)
        python = f"{sys.version_info.major}.{sys.version_info.minor}"
        info = {"name": "kombu", "host": "here", "pid": os.getpid(), "executors": 1, "threads": 1, "slots": 1}
        worker.send(command_queue(deployment.cluster), Kind.MEETING, Hello(worker.inbox, PROTOCOL, python, 0, 0, info))
        welcome = worker.wait_for(Welcome)
        future = client.submit(abs, -5)
        client.submit(abs, -6)  # so that the I/O thread has looked; its task stays where it is
        task = worker.wait_for(Run)
        assert task.key == future.key
        worker.send(welcome.inbox, Kind.DATA, Finished(task.key, task.attempt, 1, 1, dumps("from Kombu")))
        assert future.result(timeout=20) == "from Kombu"


def test_clusters_share_a_broker_by_name(rabbitmq_url: str, tmp_path: Path) -> None:
    """Neither sees the other's workers, under one broker and with one user."""
    with (
        up_at(rabbitmq_url, tmp_path) as one,
        up_at(rabbitmq_url, tmp_path) as two,
        one.client() as first,
        two.client() as second,
    ):
        ours, theirs = first.run(os.getpid), second.run(os.getpid)
        assert len(ours) == len(theirs) == 1
        assert set(ours).isdisjoint(theirs)
        assert first.submit(os.getpid).result(timeout=20) != second.submit(os.getpid).result(timeout=20)


def test_commands_that_nobody_signed_are_parked_with_a_reason(rabbitmq_url: str, tmp_path: Path) -> None:
    """An operator finds them in a queue of their own, and the scheduler goes on."""
    with up_at(rabbitmq_url, tmp_path) as deployment:
        forged = Keyring(b"a secret of somebody else").seal(
            Role.CLIENT, Role.SCHEDULER, Header(Kind.MEETING, deployment.cluster, "x", "1", "scheduler"), b"\x90"
        )

        async def forge() -> None:
            owner = await connect(rabbitmq_url)
            owner.link.send(command_queue(deployment.cluster), b"no envelope at all")
            owner.link.send(command_queue(deployment.cluster), forged)
            owner.link.close()

        run(forge)
        with deployment.client() as client:
            assert client.submit(abs, -3).result(timeout=20) == 3
    with Connection(rabbitmq_url) as connection:  # type: ignore[no-untyped-call]
        channel = connection.channel()
        parked = [bytes(channel.basic_get(dead_queue(deployment.cluster), no_ack=True).body) for _ in range(2)]
        channel.queue_delete(dead_queue(deployment.cluster))
        channel.queue_delete(command_queue(deployment.cluster))
    about = [json.loads(body.partition(b"\n")[0]) for body in parked]
    assert [one["reason"] for one in about] == ["garbage", "signature"]
    assert about[1]["queue"] == command_queue(deployment.cluster)
    assert [body.partition(b"\n")[2] for body in parked] == [b"no envelope at all", forged]


def test_a_blocked_broker_makes_submit_wait_and_loses_nothing(rabbitmq_url: str, tmp_path: Path) -> None:
    """Calls must not pile up in memory while the broker takes nothing; and no worker is blamed for its silence."""
    with up_at(rabbitmq_url, tmp_path) as deployment, deployment.client(timeout=2) as client:
        assert client.submit(abs, -1).result(timeout=20) == 1
        (worker,) = client.run(os.getpid)
        rabbitmqctl("set_vm_memory_high_watermark", "absolute", "1MB")
        futures: list[Future[int]] = []
        try:
            with pytest.raises(IntakeError, match="the broker has no room"):
                _submit(client, 200_000, futures)
        finally:
            rabbitmqctl("set_vm_memory_high_watermark", "absolute", "512MB")
        assert 10_000 <= len(futures) < 200_000
        assert client.gather(futures) == list(range(len(futures)))
        assert list(client.run(os.getpid)) == [worker]


def _submit(client: Client, count: int, futures: list[Future[int]]) -> None:
    for number in range(count):
        futures.append(client.submit(abs, -number))


def test_what_rabbitmq_refuses_is_said_in_one_sentence(rabbitmq_url: str) -> None:
    """Each with what to change, and never with a password."""
    parts = urlsplit(rabbitmq_url)
    place = f"{parts.hostname}:{parts.port}"
    queue = f"fbtest.otherwise.{os.getpid()}"

    async def test() -> None:
        login = f"{parts.username}:{parts.password}"
        text = await refused(f"amqp://{parts.username}:hidden@{place}//")
        assert "not accepted for the user 'futurebroker'" in text
        assert "hidden" not in text
        assert "the virtual host 'elsewhere' is not there" in await refused(f"amqp://{login}@{place}/elsewhere")
        assert "there is no host 'nowhere.invalid'" in await refused(f"amqp://{login}@nowhere.invalid")
        assert "nothing listens there" in await refused(f"amqp://{login}@127.0.0.1:1")
        await asyncio.to_thread(rabbitmqctl, "add_user", "visitor", "password")
        try:
            await asyncio.to_thread(rabbitmqctl, "set_permissions", "visitor", "^$", "^$", "^$")
            text = await refused(f"amqp://visitor:password@{place}//", Queue(queue, QueueKind.COMMAND))
            assert "the user 'visitor' needs configure, write and read permission" in text
        finally:
            await asyncio.to_thread(rabbitmqctl, "delete_user", "visitor")
        with Connection(rabbitmq_url) as connection:  # type: ignore[no-untyped-call]
            channel = connection.channel()
            channel.queue_declare(queue, durable=True, auto_delete=False)
            text = await refused(rabbitmq_url, Queue(queue, QueueKind.COMMAND))
            channel.queue_delete(queue)
        assert "a queue exists with other settings; delete it or use another cluster name" in text
        # of a list, the first that works
        owner = await connect(f"amqp://{login}@127.0.0.1:1//;{rabbitmq_url}")
        owner.link.close()

    run(test)


def test_a_virtual_host_is_a_place_of_its_own(rabbitmq_url: str) -> None:
    """What is sent to a queue of one doesn't come to the queue of that name in another."""
    parts, vhost, queue = urlsplit(rabbitmq_url), f"fbtest{os.getpid()}", f"fbtest.vhost.{os.getpid()}"

    async def test() -> None:
        await asyncio.to_thread(rabbitmqctl, "add_vhost", vhost)
        try:
            await asyncio.to_thread(rabbitmqctl, "set_permissions", "-p", vhost, str(parts.username), ".*", ".*", ".*")
            there = await connect(f"amqp://{parts.netloc}/{vhost}", [Queue(queue, QueueKind.INBOX)])
            here = await connect(rabbitmq_url, [Queue(queue, QueueKind.INBOX)])
            for owner, body in ((there, b"there"), (here, b"here")):
                owner.link.send(queue, body)
                owner.flush()
                await owner.until(lambda owner: owner.received_bodies)
                assert owner.received_bodies == [body]
                owner.link.close()
        finally:
            await asyncio.to_thread(rabbitmqctl, "delete_vhost", vhost)

    run(test)


def test_a_queue_that_is_deleted_ends_the_link_that_reads_it(rabbitmq_url: str) -> None:
    """RabbitMQ cancels the consumer; who went on would wait for what can't come, so it connects again."""
    queue = f"fbtest.cancel.{os.getpid()}"

    async def test() -> None:
        owner = await connect(rabbitmq_url, [Queue(queue, QueueKind.COMMAND)])
        await asyncio.to_thread(rabbitmqctl, "delete_queue", queue)
        await owner.until(lambda owner: owner.ends)
        assert f"the queue {queue} was deleted" in str(owner.ends[0])

    run(test)


@pytest.mark.parametrize("command", [["scheduler", "--broker"], ["worker"], ["up", "--broker"]])
def test_a_wrong_password_ends_a_command_in_one_line(command: list[str], rabbitmq_url: str, tmp_path: Path) -> None:
    """At once and not after a timeout: waiting would not heal it."""
    parts = urlsplit(rabbitmq_url)
    url = f"amqp://{parts.username}:wrong-one@{parts.hostname}:{parts.port}//"
    own = {"FUTUREBROKER_SECRET": "s" * 32, "XDG_STATE_HOME": str(tmp_path)}
    done = run_program([*FUTUREBROKER, *command, url], tmp_path, **own)
    lines = [line for line in done.stderr.splitlines() if line]
    assert done.returncode == 1
    assert len(lines) == 1, lines
    assert "not accepted for the user 'futurebroker'" in lines[0]
    assert "wrong-one" not in done.stderr + done.stdout


def test_tls_is_spoken_with_rabbitmq_and_its_host_name_is_checked(rabbitmq_url: str) -> None:
    """The certificate is for localhost, and signed by nobody we trust unless told."""
    parts, port = urlsplit(rabbitmq_url), os.environ["FUTUREBROKER_TEST_RABBITMQ_TLS_PORT"]
    login = f"{parts.username}:{parts.password}"

    async def test() -> None:
        trusted = f"?cacertfile={CERTIFICATE}"
        queue = f"fbtest.tls.{os.getpid()}"
        owner: Owner = await connect(f"amqps://{login}@localhost:{port}//{trusted}", [Queue(queue, QueueKind.INBOX)])
        bodies = [bytes((number,)) * size for number in range(5) for size in (1, 300, 16_384, 200_000, 3_000_000)]
        for body in bodies:
            owner.link.send(queue, body)
        owner.flush()
        await owner.until(lambda owner: len(owner.received_bodies) == len(bodies))
        assert owner.received_bodies == bodies
        owner.link.close()
        assert "IP address mismatch" in await refused(f"amqps://{login}@127.0.0.1:{port}//{trusted}")
        assert "certificate is not valid here" in await refused(f"amqps://{login}@localhost:{port}//")

    run(test)


def stays_the_first_time(sign: str) -> int:
    """Ends its own agent with SIGKILL where ``sign`` isn't there yet; the second run returns."""
    if not os.path.exists(sign):
        Path(sign).write_text(str(time.time()))
        os.kill(os.getppid(), signal.SIGKILL)
        threading.Event().wait(60)
    return os.getpid()


def test_a_killed_worker_is_noticed_within_three_seconds(rabbitmq_url: str, tmp_path: Path) -> None:
    """Its inbox is gone with it and RabbitMQ says so when asked; silence alone would take ten seconds."""
    with up_at(rabbitmq_url, tmp_path, FUTUREBROKER_SUSPECT_GRACE="0") as deployment:
        command = [*FUTUREBROKER, "worker", rabbitmq_url, "--executors", "1", "--name", "victim"]
        with running(command, tmp_path, **deployment.variables) as victim, deployment.client() as client:
            lines_until(victim, "serves the scheduler")
            sign = tmp_path / "sign"
            future = client.submit(stays_the_first_time, str(sign), workers="victim", allow_other_workers=True)
            future.result(timeout=30)
            seconds = time.time() - float(sign.read_text())
            assert victim.wait(10) == -signal.SIGKILL
    # a heartbeat and a quarter until one is missed, a quarter of a second until that is seen, and a busy machine
    assert seconds < 3


def test_a_restarted_rabbitmq_takes_nothing_with_it(
    rabbitmq_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Everybody connects again and sends again what was on its way, within seconds; no password is logged."""
    with up_at(rabbitmq_url, tmp_path) as deployment, deployment.client() as client:
        futures = client.map(abs, range(-5000, 0))
        futures[0].result(timeout=20)
        rabbitmqctl("stop_app")
        later = client.map(abs, range(-1000, 0))
        rabbitmqctl("start_app")
        started = time.monotonic()
        assert later[0].result(timeout=20) == 1000
        assert time.monotonic() - started < 5
        assert sum(client.gather([*futures, *later])) == 12_502_500 + 500_500
    assert "is lost, reconnecting" in caplog.text
    assert str(urlsplit(rabbitmq_url).password) not in caplog.text
