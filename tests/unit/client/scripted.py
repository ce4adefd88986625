"""A scheduler that does what a test tells it: it welcomes a client, keeps what that says, and says what it is told."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import threading
from collections.abc import Callable
from typing import Any

from futurebroker.client.client import Client
from futurebroker.client.threads import LoopThread
from futurebroker.protocol import messages as m
from futurebroker.protocol.endpoint import Endpoint
from futurebroker.protocol.queues import command_queue
from futurebroker.protocol.serialize import dumps
from futurebroker.protocol.wire import Keyring
from futurebroker.transport.base import Queue, QueueKind
from futurebroker.transport.registry import open_link
from futurebroker.types import Peer, Role

SECRET = "a secret for tests"


class ScriptedScheduler:
    """Serves the client of one test over a memory link; `script` maps a type of message to what answers it.

    Attributes:
        heard: everything clients sent, in order, heartbeats left out.
    """

    def __init__(self, name: str | None = None, limits: dict[str, int] | None = None) -> None:
        self.cluster = name or f"scripted-{secrets.token_hex(4)}"
        self.url = f"memory://{self.cluster}"
        self.limits = limits or {}
        self.heard: list[Any] = []
        self.script: dict[type, Callable[[ScriptedScheduler, Any], object]] = {}
        self.client = ""
        self._changed = threading.Condition()
        self._epochs = itertools.count(1)
        self._io = LoopThread("futurebroker-scripted")
        self._endpoint: Endpoint
        self._io.run(self._open())

    async def _open(self) -> None:
        me = Peer(Role.SCHEDULER, "scheduler", secrets.token_hex(4))
        self._endpoint = Endpoint(me, self.cluster, Keyring(SECRET.encode()), self, asyncio.get_running_loop())
        self._endpoint.epoch = next(self._epochs)
        queue = Queue(command_queue(self.cluster), QueueKind.COMMAND)
        link = open_link(self.url, [queue], secret=SECRET.encode(), timeout=1, name="scripted")
        self._endpoint.attach(link)

    def restart(self, client: Client) -> None:
        """Come back as another incarnation that knows nothing, and cut the link of ``client``."""
        self._io.run(self._restart())
        cut(client)

    async def _restart(self) -> None:
        self._endpoint.close()
        await self._open()

    def close(self) -> None:
        """End the scheduler."""
        self._io.loop.call_soon_threadsafe(self._endpoint.close)
        self._io.stop()

    def __enter__(self) -> ScriptedScheduler:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- for tests ---------------------------------------------------------------------------------------------------

    def say(self, *messages: Any) -> None:
        """Send messages to the client; from any thread."""

        def send() -> None:
            for message in messages:
                self._endpoint.send(self.client, message)

        self._io.loop.call_soon_threadsafe(send)

    def wait_for(self, kind: type, count: int = 1, timeout: float = 5) -> list[Any]:
        """The messages of a kind, once there are ``count`` of them."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self._of(kind)) >= count, timeout), self.heard
            return self._of(kind)

    def wait_for_keys(self, count: int, timeout: float = 5) -> list[str]:
        """The keys submitted, once there are ``count`` of them."""

        def keys() -> list[str]:
            return [key for message in self._of(m.Submit) for key in message.keys]

        with self._changed:
            assert self._changed.wait_for(lambda: len(keys()) >= count, timeout), self.heard
            return keys()

    def _of(self, kind: type) -> list[Any]:
        return [message for message in self.heard if isinstance(message, kind)]

    # -- endpoint events ---------------------------------------------------------------------------------------------

    def deliver(self, peer: Peer, messages: list[Any]) -> None:
        """See `EndpointEvents.deliver`."""
        with self._changed:
            self.heard += messages
            self._changed.notify_all()
        for message in messages:
            answer = self.script.get(type(message))
            if answer is not None:
                answer(self, message)

    def meet(self, peer: Peer, message: Any) -> None:
        """See `EndpointEvents.meet`."""
        if isinstance(message, m.Hello):
            self.client = peer.name
            # What a former scheduler sent is not of this session.
            known = message.epoch == self._endpoint.epoch
            self._endpoint.open(peer, message.inbox, message.received if known else 0)
            received = self._endpoint.received_up_to(peer.name)
            welcome = m.Welcome(self._endpoint.epoch, received, command_queue(self.cluster), self.limits)
            self._endpoint.send_meeting(peer, message.inbox, welcome)
        elif isinstance(message, m.Goodbye):
            with self._changed:
                self.heard.append(message)
                self._changed.notify_all()

    def stranger(self, peer: Peer) -> None:
        """See `EndpointEvents.stranger`."""

    def returned(self, destination: str) -> None:
        """See `EndpointEvents.returned`."""

    def disconnected(self, error: Exception | None) -> None:
        """See `EndpointEvents.disconnected`."""


def cut(client: Client) -> None:
    """Close the link of a client, as a broken network does."""
    connection = client._connection
    link = connection._member._endpoint._link
    assert link is not None
    connection._loop.call_soon_threadsafe(link.close)


def finish_at_once(scheduler: ScriptedScheduler, submit: m.Submit) -> None:
    """Answers a Submit: every call results in its own key."""
    for key in submit.keys:
        scheduler._endpoint.send(scheduler.client, m.KeyFinished(key, dumps(key), None, "str"))
