"""What the tests of links share: the places they run at, parties that talk through sessions, and peers to kill."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from futurebroker.broker_adapters.embedded.server import EmbeddedBroker
from futurebroker.exceptions import ClusterConnectionError
from futurebroker.protocol.endpoint import Endpoint
from futurebroker.protocol.queues import inbox
from futurebroker.protocol.wire import Keyring
from futurebroker.transport.base import Link, Queue, QueueKind
from futurebroker.transport.registry import open_link
from futurebroker.types import Peer, Role
from tests.integration.brokers import SECRET, embedded_broker
from tests.integration.programs import ROOT, environment

#: link -> what it is in the matrix of docs/links.md
LINKS = {
    "memory": "in process",
    "embedded": "embedded broker",
    "rabbitmq": "RabbitMQ",
    "redis": "Redis (Kombu)",
}
_SERVICES = ("rabbitmq", "redis")


@dataclass(frozen=True)
class Row:
    """One test of the matrix."""

    title: str
    places: tuple[str, ...]
    without: str  #: why it isn't run at the others


#: name of a test -> its row
ROWS: dict[str, Row] = {}


def on(*names: str, without: str = "") -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Run a test at these links, and give it a row in the matrix; ``without`` says why it isn't run at the others."""
    assert set(names) <= set(LINKS)
    assert bool(without) is (len(names) < len(LINKS))
    places = [pytest.param(name, marks=[pytest.mark.service(name)] if name in _SERVICES else []) for name in names]

    def register(test: Callable[..., None]) -> Callable[..., None]:
        title = " ".join((test.__doc__ or "").split()).rstrip(".")
        ROWS[test.__name__] = Row(title, names, without)
        marked: Callable[..., None] = pytest.mark.parametrize("place", places, indirect=True)(test)
        return marked

    return register


@dataclass
class Place:
    """A broker to test a link at; what is named by it belongs to one test."""

    name: str
    url: str
    broker: EmbeddedBroker | None = None
    token: str = field(default_factory=lambda: f"t{secrets.token_hex(5)}")

    def queue(self, what: str) -> str:
        """The name of a queue of this test's own."""
        return f"fbtest.{self.token}.{what}"


@contextlib.contextmanager
def place_of(name: str) -> Iterator[Place]:
    """The place of a link's name."""
    if name == "memory":
        yield Place(name, f"memory://{secrets.token_hex(5)}")
    elif name == "embedded":
        with embedded_broker() as broker:
            yield Place(name, broker.url, broker)
    else:
        yield Place(name, os.environ[f"FUTUREBROKER_TEST_{name.upper()}_URL"])


class Party:
    """An endpoint of its own on the running loop, with what it was told."""

    def __init__(self, place: Place, role: Role, name: str) -> None:
        self.place = place
        self.me = Peer(role, name, uuid.uuid4().hex[:12])
        self.endpoint = Endpoint(self.me, place.token, Keyring(SECRET), self, asyncio.get_running_loop())
        self.queue = ""
        self.link: Link
        self.delivered: list[Any] = []
        self.returns: list[str] = []
        self.cuts = 0
        self._generation = 0
        self._changed = asyncio.Event()

    async def attach(self, *more: Queue) -> None:
        """Open a link with a new inbox and use it."""
        self._generation += 1
        self.queue = inbox(self.place.token, f"{self.me.name}-{self.me.incarnation}", self._generation)
        wanted = [Queue(self.queue, QueueKind.INBOX), *more]
        self.link = await asyncio.to_thread(
            open_link, self.place.url, wanted, secret=SECRET, timeout=10, name=self.me.name
        )
        self.endpoint.attach(self.link)

    def meet_again(self, other: Party) -> None:
        """Go on with the session to ``other``, as after a hello; it does the same."""
        for one, two in ((self, other), (other, self)):
            one.endpoint.open(two.me, two.queue, two.endpoint.received_up_to(one.me.name))

    async def until(self, is_true: Callable[[Party], object], timeout: float = 90) -> None:
        """Wait until what was told makes ``is_true`` so."""
        async with asyncio.timeout(timeout):
            while not is_true(self):
                self._changed.clear()
                await self._changed.wait()

    # -- EndpointEvents ----------------------------------------------------------------------------------------------

    def deliver(self, peer: Peer, messages: list[Any]) -> None:
        self.delivered += messages
        self._changed.set()

    def meet(self, peer: Peer, message: Any) -> None:
        self.delivered.append(message)
        self._changed.set()

    def stranger(self, peer: Peer) -> None:
        pass

    def returned(self, destination: str) -> None:
        self.returns.append(destination)
        self._changed.set()

    def turn(self, call: Callable[[], None]) -> None:
        call()

    def disconnected(self, error: Exception | None) -> None:
        self.cuts += 1
        self._changed.set()


async def pair_at(place: Place) -> tuple[Party, Party]:
    """A scheduler and a client that have met."""
    scheduler, client = Party(place, Role.SCHEDULER, "scheduler"), Party(place, Role.CLIENT, "client-1")
    await scheduler.attach()
    await client.attach()
    scheduler.meet_again(client)
    return scheduler, client


@contextlib.contextmanager
def peer_process(place: Place, mode: str, queue: str, reply_to: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process with a link of its own, to be killed; see `tests.services.link_peer`."""
    command = [sys.executable, "-m", "tests.services.link_peer", place.url, mode, queue, reply_to]
    with subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def own_redis(folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A Redis for one test, which may fill or kill it; its address and its process."""
    process, address = start_redis(folder)
    try:
        yield address, process
    finally:
        process.kill()
        process.wait()


def start_redis(folder: Path, port: int = 0) -> tuple[subprocess.Popen[bytes], str]:
    """Start a Redis on a free port, or on that of one that was killed, and wait until it answers."""
    port = port or _free_port()
    process = subprocess.Popen(
        ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)],
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            if b"Ready to accept connections" in line:
                return process, f"redis://127.0.0.1:{port}/0"
    raise AssertionError("redis-server did not start")


def rabbitmqctl(*arguments: str) -> str:
    """Order the RabbitMQ of the tests to do something; takes a second or two; what it prints."""
    folder = os.environ["FUTUREBROKER_TEST_SERVICES_DIR"]
    done = subprocess.run(
        [str(ROOT / ".ci" / "services"), "rabbitmqctl", *arguments],
        env={**os.environ, "FUTUREBROKER_SERVICES_DIR": folder},
        check=True,
        capture_output=True,
        text=True,
        timeout=50,
    )
    return done.stdout


async def refused(url: str, *queues: Queue) -> str:
    """The text of the error with which opening a link fails."""
    with pytest.raises(ClusterConnectionError) as caught:
        await asyncio.to_thread(open_link, url, queues, secret=SECRET, timeout=5, name="refused")
    return str(caught.value)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
