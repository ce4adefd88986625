"""Large results through RabbitMQ: past the scheduler, by second connections, and never much of them in the broker."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from futurebroker import Client, Future
from futurebroker.broker_adapters.frames import BASIC_PUBLISH, split_route
from futurebroker.scheduler.relay import RELAYED_BYTES
from tests.services.clusters import up_at
from tests.services.links import rabbitmqctl
from tests.services.taps import tap_on

pytestmark = pytest.mark.service("rabbitmq")
MiB = 2**20
WAYS = "bulk,relay"


@pytest.fixture(autouse=True)
def _through_the_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or all of this would be mapped, on one machine."""
    monkeypatch.setenv("FUTUREBROKER_DATA_WAYS", WAYS)


def make(number: int, nbytes: int) -> Any:
    """An array that is different everywhere."""
    return np.arange(number, number + nbytes // 8)


def right(array: Any, number: int) -> bool:
    """Whether it is that array to its end."""
    return bool((array == np.arange(number, number + len(array))).all())


def received(client: Client) -> int:
    """Bytes that came to it by its second connection."""
    return client._connection._bulk.received_bytes


def is_second(sent: bytes | bytearray) -> bool:
    """Whether that is what went by a second connection: it says so when it is opened."""
    return b" bulk" in sent[:1000]


def wait_until(is_true: Callable[[], object]) -> None:
    """Look until it is true; a thread makes it so."""
    ended = threading.Event()
    while not is_true():
        assert not ended.wait(0.01)


def test_large_results_go_past_the_scheduler_by_second_connections(rabbitmq_url: str, tmp_path: Path) -> None:
    """One for each process that needs one, and one queue for each that reads; the rest takes the first, as before."""
    with tap_on(rabbitmq_url) as tap, up_at(tap.url, tmp_path) as deployment, deployment.client() as client:
        assert client.submit(abs, -1).result(timeout=20) == 1
        assert not any(map(is_second, tap.sent))
        for number in range(3):
            assert right(client.submit(make, number, 20 * MiB).result(timeout=60), number)
        assert sum(map(is_second, tap.sent)) == 2
    sizes: dict[str, list[int]] = {}
    for incoming in tap.methods():
        if incoming.payload[:4] == BASIC_PUBLISH:
            queue = split_route(incoming.payload[6:-1])[1]
            sizes.setdefault(queue.split(".")[2], []).append(len(incoming.body or b""))
    assert 60 * MiB < sum(sizes["bulk"]) < 61 * MiB
    assert max(sizes["bulk"]) < MiB
    for kind in sizes.keys() - {"bulk"}:
        assert sum(sizes[kind]) < MiB, kind


@contextlib.contextmanager
def standing_still(client: Client) -> Iterator[None]:
    """Who asked reads nothing meanwhile, as if it were stopped."""
    goes_on = threading.Event()
    client._connection._loop.call_soon_threadsafe(goes_on.wait, 60)
    try:
        yield
    finally:
        goes_on.set()


def second_connection_of(name: str) -> str:
    """What RabbitMQ calls it."""
    lines = rabbitmqctl("-q", "list_connections", "pid", "client_properties").splitlines()
    (pid,) = (line.split()[0] for line in lines if f"{name} bulk" in line)
    return pid


def cut_our_end(client: Client) -> None:
    """What a network does that fails."""
    link = client._connection._bulk._link
    assert link is not None
    number = link.fileno()
    assert number is not None
    with socket.socket(fileno=os.dup(number)) as connection:
        connection.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("end", ["asker", "holder"])
def test_a_cut_costs_only_what_was_on_its_way(end: str, rabbitmq_url: str, tmp_path: Path) -> None:
    """The transfer goes on from there, by another connection."""
    size = 100 * MiB
    with up_at(rabbitmq_url, tmp_path) as deployment, deployment.client() as client:
        (worker,) = client.scheduler_info()["workers"]
        assert right(client.submit(make, 0, 4 * MiB).result(timeout=60), 0)
        pid = second_connection_of(worker)
        before = received(client)
        arrays: list[Any] = []
        future = client.submit(make, 1, size)
        thread = threading.Thread(target=lambda: arrays.append(future.result(timeout=60)))
        thread.start()
        wait_until(lambda: received(client) > before)
        with standing_still(client):
            came = received(client) - before
            if end == "asker":
                cut_our_end(client)
            else:
                rabbitmqctl("close_connection", pid, "cut by a test")
        thread.join()
        assert right(arrays[0], 1)
        assert 0 < came < size
        assert size < received(client) - before < size + 20 * MiB
        assert client._connection._bulk.opened == (2 if end == "asker" else 1)


def sent(client: Client) -> int:
    """Bytes that it sent by its second connection."""
    return client._connection._bulk.sent_bytes


def test_what_is_scattered_goes_past_the_scheduler_as_well(rabbitmq_url: str, tmp_path: Path) -> None:
    """A client that can't reach its worker is asked for parts, as another worker would be; nothing is left of them."""
    with tap_on(rabbitmq_url) as tap, up_at(tap.url, tmp_path) as deployment, deployment.client() as client:
        futures = [client.scatter(make(number, 20 * MiB)) for number in range(3)]
        assert [future.done() for future in futures] == [True] * 3, "or it could not be changed yet"
        assert client.submit(lambda *arrays: all(map(right, arrays, range(3))), *futures).result(timeout=60)
        assert 60 * MiB < sent(client) < 61 * MiB
        assert not client._connection.givings
        assert client.submit(right, make(5, MiB), 5).result(timeout=60), "large arguments too"
    sizes: dict[str, int] = {}
    for incoming in tap.methods():
        if incoming.payload[:4] == BASIC_PUBLISH:
            kind = split_route(incoming.payload[6:-1])[1].split(".")[2]
            sizes[kind] = sizes.get(kind, 0) + len(incoming.body or b"")
    assert 61 * MiB < sizes.pop("bulk") < 62 * MiB
    assert sum(sizes.values()) < MiB


@pytest.mark.parametrize("end", ["client", "worker"])
def test_a_cut_costs_scattered_data_only_what_was_on_its_way(end: str, rabbitmq_url: str, tmp_path: Path) -> None:
    """It goes on from there, by another connection."""
    size = 100 * MiB
    with up_at(rabbitmq_url, tmp_path) as deployment, deployment.client() as client:
        (worker,) = client.scheduler_info()["workers"]
        assert client.submit(right, client.scatter(make(0, 4 * MiB)), 0).result(timeout=60)
        pid = second_connection_of(worker)
        before = sent(client)
        futures: list[Future[Any]] = []
        thread = threading.Thread(target=lambda: futures.append(client.scatter(make(1, size))))
        thread.start()
        wait_until(lambda: sent(client) > before)
        with standing_still(client):
            went = sent(client) - before
            if end == "client":
                cut_our_end(client)
            else:
                rabbitmqctl("close_connection", pid, "cut by a test")
        thread.join()
        assert client.submit(right, futures[0], 1).result(timeout=60)
        assert 0 < went < size
        assert size < sent(client) - before < size + 20 * MiB


def broker_bytes() -> int:
    """What RabbitMQ keeps of messages, wherever."""
    rabbitmqctl("force_gc")
    return int(rabbitmqctl("eval", "erlang:memory(binary).").split()[-1])


def test_little_is_in_the_broker_while_who_asked_stands_still(rabbitmq_url: str, tmp_path: Path) -> None:
    """RabbitMQ has to keep what nobody reads, and stops everybody who writes when it has no room."""
    with up_at(rabbitmq_url, tmp_path) as deployment, deployment.client() as client:
        futures: list[Future[Any]] = client.map(make, range(10), [24 * MiB] * 10)
        client.submit(len, futures).result(timeout=60)
        before = broker_bytes()
        threads = [threading.Thread(target=future.result) for future in futures]
        for thread in threads:
            thread.start()
        wait_until(lambda: received(client))
        with standing_still(client):
            kept = [broker_bytes() - before for _ in range(3)]
        for thread in threads:
            thread.join()
        assert all(right(future.result(), number) for number, future in enumerate(futures))
    assert RELAYED_BYTES // 2 < max(kept) < 64 * MiB
