"""What is true of the engine at a Redis, through Kombu: the same work, what is refused, and what stays behind."""

from __future__ import annotations

import signal
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis

from futurebroker.broker_adapters.kombu_link import open_link
from futurebroker.exceptions import ConfigError
from futurebroker.transport.base import Queue, QueueKind
from tests.integration.brokers import SECRET, Owner, connect, run
from tests.integration.programs import FUTUREBROKER
from tests.integration.programs import run as run_program
from tests.services.clusters import up_at
from tests.services.links import own_redis, refused, start_redis

pytestmark = pytest.mark.service("redis")


def test_the_engine_runs_at_redis_by_changing_one_url(redis_url: str, tmp_path: Path) -> None:
    """Small and large work; and what the cluster wrote there is gone with it, or expires."""
    with up_at(redis_url, tmp_path) as deployment, deployment.client() as client:
        assert sum(client.gather(client.map(abs, range(-2000, 0)))) == 2_001_000
        assert len(client.scatter(bytes(3_000_000)).result(timeout=30)) == 3_000_000
        assert client.submit(bytes, 1_000_000).result(timeout=30) == bytes(1_000_000)
    with redis.Redis.from_url(redis_url) as store:
        left = [key for key in store.keys("*") if deployment.cluster.encode() in key]
        assert all(0 < store.ttl(key) <= 600 for key in left), left


def test_a_killed_redis_takes_nothing_with_it(tmp_path: Path) -> None:
    """It keeps nothing on disk; when it is back, sessions send again what it held, and futures resolve."""
    with own_redis(tmp_path) as (url, server), up_at(url, tmp_path) as deployment, deployment.client() as client:
        futures = client.map(abs, range(-3000, 0))
        futures[0].result(timeout=20)
        server.send_signal(signal.SIGKILL)
        server.wait()
        futures += client.map(abs, range(-1000, 0))
        again, _ = start_redis(tmp_path, port=int(urlsplit(url).port or 0))
        try:
            assert sum(client.gather(futures)) == 4_501_500 + 500_500
        finally:
            client.close()
            again.kill()
            again.wait()


def test_what_redis_refuses_is_said_in_one_sentence(redis_url: str) -> None:
    """Each with what to change, and never with a password."""
    place = f"127.0.0.1:{urlsplit(redis_url).port}"

    async def test() -> None:
        text = await refused(f"redis://:hidden@{place}/0")
        assert "user and password were not accepted" in text
        assert "hidden" not in text
        assert "user and password were not accepted" in await refused(f"redis://{place}/0")
        assert "DB index is out of range" in await refused(redis_url.replace("/0", "/999"))
        assert "no host of that name" in await refused("redis://:hidden@nowhere.invalid:6379/0")
        assert "nothing listens there" in await refused("redis://127.0.0.1:1/0")
        assert "rediss" in await refused(redis_url.replace("redis://", "rediss://"))
        owner: Owner = await connect(f"redis://127.0.0.1:1/0;{redis_url}")
        owner.link.close()

    run(test)


def test_a_wrong_password_ends_a_worker_in_one_line(redis_url: str, tmp_path: Path) -> None:
    """At once and not after a timeout: waiting would not heal it."""
    url = f"redis://:wrong-one@127.0.0.1:{urlsplit(redis_url).port}/0"
    done = run_program([*FUTUREBROKER, "worker", url], tmp_path, FUTUREBROKER_SECRET="s" * 32)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].count("user and password were not accepted") == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "wrong-one" not in done.stderr + done.stdout


def test_other_transports_of_kombu_are_reached_by_a_prefix() -> None:
    """Kombu's own in-memory transport stands for those that need an account somewhere."""

    async def test() -> None:
        owner: Owner = await connect("kombu+memory://", [Queue("fbtest.prefix", QueueKind.INBOX)])
        bodies = [bytes((number,)) * 1000 for number in range(100)]
        for body in bodies:
            owner.link.send("fbtest.prefix", body)
        owner.flush()
        await owner.until(lambda owner: len(owner.received_bodies) == len(bodies))
        assert owner.received_bodies == bodies
        owner.link.close()

    run(test)


@pytest.mark.parametrize("url", ["kombu+amqp://hidden@127.0.0.1:1//", "kombu+nothing://u:hidden@127.0.0.1"])
def test_an_address_that_is_no_virtual_transport_is_refused_without_its_password(url: str) -> None:
    """AMQP has a link of its own, and an unknown scheme no link at all."""
    with pytest.raises(ConfigError) as caught:
        open_link(url, [], secret=SECRET, timeout=2, name="t")
    assert ":hidden" not in str(caught.value)
