"""A worker's or client's half of its conversation with the scheduler: it joins, stays, and comes back after a cut.

A `Member` opens the link (in a thread of its own, because that may block), says hello until it is welcomed, and from
then on sends and delivers in the session. When the link is lost it opens another with growing pauses and goes on where
the session stood. A scheduler that fell silent, or asks for it, gets another hello on the link that is there; one that
doesn't know the session (any more) makes the member come as another incarnation. A member belongs to one asyncio loop
and is used from its thread only.
"""

from __future__ import annotations

import asyncio
import logging
import random
import sys
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from futurebroker import __version__
from futurebroker.config import hide_password
from futurebroker.exceptions import BrokerRefusedError, ClusterConnectionError, NoSchedulerError, RefusedError
from futurebroker.processes import has_ended
from futurebroker.protocol.endpoint import Endpoint
from futurebroker.protocol.messages import (
    PROTOCOL,
    Goodbye,
    Heard,
    Heartbeat,
    HeartbeatWanted,
    Hello,
    LookedFor,
    LookFor,
    MeetAgain,
    Message,
    Refused,
    Welcome,
)
from futurebroker.protocol.queues import command_queue, inbox, token_queue
from futurebroker.protocol.wire import Keyring
from futurebroker.transport.base import Link, Queue, QueueKind
from futurebroker.transport.opening import open_in_thread
from futurebroker.types import Peer, Role

logger = logging.getLogger("futurebroker.member")

#: the scheduler's name on the network
SCHEDULER = "scheduler"
#: seconds between hellos that go unanswered
HELLO_EVERY = 1.0
#: seconds between heartbeats, unless the scheduler says otherwise
HEARTBEAT_INTERVAL = 1.0
#: heartbeats in a row that go unanswered before the member says hello again
BEATS_UNANSWERED = 5
#: seconds one attempt to open a link may take
OPEN_TIMEOUT = 5.0
#: seconds a scheduler has to answer at one of several brokers before the next is tried
ANSWER_TIMEOUT = 3.0
#: seconds that who leaves waits for the broker to confirm what no scheduler has acknowledged
CONFIRM_TIMEOUT = 2.0
#: seconds before the first and at most before any attempt to reconnect; the pause doubles in between
RECONNECT_FIRST = 0.1
RECONNECT_MAX = 2.0


class MemberEvents(Protocol):
    """What a member tells its owner, on the loop's thread."""

    def deliver(self, messages: list[Any]) -> None:
        """Numbered messages of the scheduler, in order, each once."""

    def welcomed(self, welcome: Welcome, fresh: bool) -> None:
        """The scheduler accepted us, at each (re)connection. ``fresh``: it has no session of ours yet."""

    def heard(self, round_trip: float) -> None:
        """A heartbeat was answered after ``round_trip`` seconds."""

    def paced(self, seconds: float) -> None:
        """The scheduler wants the next heartbeat in ``seconds``; 0 is now."""

    def lost(self, error: Exception | None) -> None:
        """The link is gone; reconnecting goes on by itself and what is sent meanwhile is kept."""

    def refused(self, reason: str) -> None:
        """The scheduler won't have us; the member has stopped for good."""


class Member:
    """See the top of this file.

    Args:
        info: asked at each hello for what to tell about this process.
        on_blocked: told when the broker asks to stop sending, and when it takes messages again.
        share: given each link that was opened and the queue it reads, returns the one to use.
    """

    def __init__(
        self,
        role: Role,
        name: str,
        *,
        url: str,
        cluster: str,
        secret: bytes,
        events: MemberEvents,
        loop: asyncio.AbstractEventLoop,
        info: Callable[[], dict[str, Any]],
        on_blocked: Callable[[bool], None] | None = None,
        share: Callable[[Link, str], Link] | None = None,
    ) -> None:
        self.url = url
        self.name = name
        self._cluster = cluster
        self._secret = secret
        self._events = events
        self._loop = loop
        self._info = info
        self._share = share
        me = Peer(role, name, _incarnation())
        self._endpoint = self._make_endpoint(me, cluster, Keyring(secret), self, loop, on_blocked=on_blocked)
        #: of the brokers, the one to try first at the front
        self._urls = deque(url.split(";"))
        self._generation = 0
        #: where we read, and where the scheduler does
        self._inbox = ""
        self._queue = ""
        #: set when the scheduler answers the hello of this link; None while there is none
        self._welcome: asyncio.Future[None] | None = None
        #: whether somebody waits for `_welcome`, and will see to a link that is lost
        self._joining = False
        self._was_welcomed = False
        self._unsent: list[Message] = []
        self._can_bulk = False
        self._heartbeat_sent = 0.0
        self._interval = 0.0
        self._unanswered = 0
        self._reconnecting: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def unacked_bytes(self) -> int:
        """Bytes sent to the scheduler that it hasn't acknowledged."""
        return self._endpoint.unacked_bytes(SCHEDULER)

    @property
    def connected(self) -> bool:
        """Whether the scheduler has welcomed this connection."""
        return self._welcome is not None and self._welcome.done() and self._welcome.exception() is None

    @property
    def socket(self) -> int | None:
        """What the loop reads for us; None without a link, or where that wakes us by itself."""
        attachment = self._endpoint.attachment
        return None if attachment is None else attachment.socket

    @property
    def bulk_url(self) -> str:
        """The addresses of the brokers, ours first, if it is worth its while to connect there twice; else empty."""
        return ";".join(self._urls) if self._can_bulk and self._endpoint.has_link else ""

    async def connect(self, timeout: float) -> None:
        """Join the cluster.

        Raises:
            NoSchedulerError: no scheduler answered within ``timeout`` seconds.
            RefusedError: it answered that secret, protocol or Python don't fit.
            ClusterConnectionError: the broker refused us for a reason that waiting can't heal.
        """
        reason = "the broker did not answer"
        try:
            async with asyncio.timeout(timeout):
                pause = 0.02
                while True:
                    try:
                        await self._join()
                        return
                    except (RefusedError, BrokerRefusedError):
                        raise
                    except ClusterConnectionError as error:
                        if self._closed:
                            raise
                        reason = str(error)
                    await asyncio.sleep(pause)
                    pause = min(pause * 1.5, 0.5)
        except TimeoutError:
            if self._endpoint.has_link:
                reason = "connected to the broker, but no scheduler with this cluster's name and our secret answers"
            await self.close()
            raise NoSchedulerError(hide_password(self.url), timeout, reason) from None
        except BaseException:
            await self.close()
            raise

    def send(self, *messages: Message) -> None:
        """Send ``messages`` in the session; before the first welcome they are kept."""
        if not self._endpoint.send_all(SCHEDULER, messages):
            self._unsent += messages

    def send_now(self, *messages: Message) -> None:
        """As `send`, and let them leave at once instead of when the loop comes round: little may follow."""
        if not self._endpoint.send_now(SCHEDULER, messages):
            self._unsent += messages

    def turn(self, call: Callable[[], object]) -> None:
        """Run ``call``, and let what it sends leave at once."""
        self._endpoint.turn(call)

    def flush(self) -> None:
        """Send now what collected, instead of when the loop comes round."""
        self._endpoint.flush()

    def heartbeat(self, status: str, metrics: dict[str, Any]) -> None:
        """Tell the scheduler that we are alive; `MemberEvents.heard` follows when it answers."""
        if not self.connected or not self._endpoint.hears:
            return
        if self._unanswered >= BEATS_UNANSWERED:
            logger.warning("the scheduler at %s doesn't answer; saying hello again", hide_password(self.url))
            self._meet_again()
            return
        self._unanswered += 1
        self._heartbeat_sent = self._loop.time()
        heartbeat = Heartbeat(status, metrics, self._inbox)
        self._endpoint.send_meeting(self._scheduler(), self._queue, heartbeat, mandatory=True)

    async def close(self, reason: str = "") -> None:
        """Send what waits, say goodbye and close the link. May be called twice."""
        if self._closed:
            return
        self._closed = True
        if self._reconnecting is not None:
            self._reconnecting.cancel()
            await asyncio.gather(self._reconnecting, return_exceptions=True)
        if self.connected:
            self._endpoint.flush()
            kept = self._endpoint.keep_open()
            # By the same way as what was sent before, or it could arrive first.
            durable = kept is not None
            self._endpoint.send_meeting(self._scheduler(), self._queue, Goodbye(reason), durable=durable)
            if kept is not None:
                # What no scheduler has acknowledged is the broker's to keep when we are gone.
                await asyncio.wait([kept], timeout=CONFIRM_TIMEOUT)
        self._endpoint.close()
        self._fail_welcome(ClusterConnectionError("it was closed while it connected"))

    # -- joining ----------------------------------------------------------------------------------------------------

    def _make_endpoint(self, *arguments: Any, **settings: Any) -> Endpoint:
        return Endpoint(*arguments, **settings)

    async def _open(self, url: str, queues: Sequence[Queue]) -> Link:
        return await open_in_thread(url, queues, secret=self._secret, timeout=OPEN_TIMEOUT, name=self.name)

    async def _join(self) -> None:
        """Open a link and say hello until the scheduler answers."""
        self._joining = True
        try:
            self._generation += 1
            name = inbox(self._cluster, f"{self.name}-{self._endpoint.me.incarnation}", self._generation)
            queues = [Queue(name, QueueKind.INBOX)]
            if self._endpoint.me.role is Role.WORKER:
                queues.append(Queue(token_queue(self._cluster), QueueKind.TOKEN))
            url = ";".join(self._urls)
            link = await self._open(url, queues)
            if self._closed:
                link.close()
                raise ClusterConnectionError("it was closed while it connected")
            self._inbox = link.capabilities.inbox or name
            self._can_bulk = link.capabilities.bulk
            self._endpoint.attach(link if self._share is None else self._share(link, name))
            try:
                async with asyncio.timeout(ANSWER_TIMEOUT if len(self._urls) > 1 else None):
                    await self._greet()
            except TimeoutError:
                # The scheduler may have gone on at another of the brokers.
                self._urls.rotate(-1)
                self._endpoint.close()
                raise ClusterConnectionError("no scheduler answers at the broker that was reached first") from None
        finally:
            self._joining = False

    async def _greet(self) -> None:
        """Say hello on the link that is there until the scheduler answers."""
        welcome = self._welcome = self._loop.create_future()
        welcome.add_done_callback(_retrieve)
        while not welcome.done():
            if not self._endpoint.has_link:  # it went before this had begun
                raise ClusterConnectionError("the connection was closed")
            self._say_hello()
            await asyncio.wait([welcome], timeout=HELLO_EVERY)
        welcome.result()
        if not self._endpoint.has_link:
            raise ClusterConnectionError("the connection was closed right after it was welcomed")

    def _say_hello(self) -> None:
        token = self._endpoint.token
        hello = Hello(
            self._inbox,
            PROTOCOL,
            f"{sys.version_info.major}.{sys.version_info.minor}",
            self._endpoint.received_up_to(SCHEDULER),
            self._endpoint.epoch,
            {**self._info(), "version": __version__, **({"token": token} if token else {})},
            self._endpoint.oldest_to(SCHEDULER),
        )
        self._endpoint.send_meeting(self._scheduler(), command_queue(self._cluster), hello)

    def _meet_again(self) -> None:
        """Say hello on the link that is there: now if that is going on anyway, else until it is answered."""
        if self._welcome is not None and not self._welcome.done():
            self._say_hello()
        elif self.connected and not self._joining and not self._closed:
            self._joining = True
            self._unanswered = 0
            self._reconnecting = self._loop.create_task(self._greet_again())

    async def _greet_again(self) -> None:
        try:
            await self._greet()
        except RefusedError as error:
            await self._stop(error.reason)
        except ClusterConnectionError as error:
            self._lose(error)
            await self._reconnect()
        finally:
            self._joining = False

    async def _reconnect(self) -> None:
        pause = RECONNECT_FIRST
        while not self._closed:
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            try:
                async with asyncio.timeout(OPEN_TIMEOUT * 2):
                    await self._join()
                return
            except RefusedError as error:
                await self._stop(error.reason)
                return
            except Exception as error:  # noqa: BLE001 - whatever it was, giving up would leave us cut off for ever
                logger.info("%s can't reconnect yet: %s", self.name, error)
                self._endpoint.close()
            pause = min(pause * 2, RECONNECT_MAX)

    async def _stop(self, reason: str) -> None:
        self._closed = True
        self._endpoint.close()
        self._events.refused(reason)

    def _scheduler(self) -> Peer:
        return self._endpoint.peer(SCHEDULER) or Peer(Role.SCHEDULER, SCHEDULER, "")

    # -- endpoint events --------------------------------------------------------------------------------------------

    def deliver(self, peer: Peer, messages: list[Any]) -> None:
        """See `EndpointEvents.deliver`."""
        self._events.deliver(messages)

    def meet(self, peer: Peer, message: Any) -> None:
        """See `EndpointEvents.meet`."""
        if peer.role is not Role.SCHEDULER:
            return
        if isinstance(message, Welcome):
            self._accept(peer, message)
        elif isinstance(message, MeetAgain):
            if message.incarnation == self._endpoint.me.incarnation:
                if message.forgotten:
                    self._endpoint.renew(_incarnation())
                self._meet_again()
        elif isinstance(message, Heard):
            self._unanswered = 0
            self._interval = message.interval or self._interval
            self._events.heard(self._loop.time() - self._heartbeat_sent)
            self._events.paced(self._interval)
        elif isinstance(message, HeartbeatWanted):
            self._events.paced(0.0)
        elif isinstance(message, LookFor):
            seen = LookedFor(message.worker, message.process, has_ended(message.process))
            self._endpoint.send_meeting(peer, self._queue, seen)
        elif isinstance(message, Refused):
            if self._welcome is not None and not self._welcome.done():
                self._welcome.set_exception(RefusedError(message.reason))
            else:
                self._reconnecting = self._loop.create_task(self._stop(message.reason))

    def _accept(self, peer: Peer, welcome: Welcome) -> None:
        if self._welcome is None or self._welcome.done():
            return
        fresh = self._endpoint.peer(SCHEDULER) != peer and not welcome.resumed
        if fresh and self._was_welcomed:
            self._unsent.clear()  # it was meant for a session that is gone
        self._was_welcomed = True
        self._unanswered = 0
        self._interval = welcome.settings.get("heartbeat", HEARTBEAT_INTERVAL)
        self._queue = welcome.inbox
        self._endpoint.epoch = welcome.epoch
        self._endpoint.open(peer, welcome.inbox, welcome.received, resumed=welcome.resumed)
        unsent, self._unsent = self._unsent, []
        for message in unsent:
            self._endpoint.send(SCHEDULER, message)
        self._welcome.set_result(None)
        self._events.welcomed(welcome, fresh)
        self._events.paced(self._interval)

    def stranger(self, peer: Peer) -> None:
        """See `EndpointEvents.stranger`: envelopes of a scheduler that hasn't welcomed us; its welcome comes first."""

    def returned(self, destination: str) -> None:
        """See `EndpointEvents.returned`: the scheduler's queue has ended, and perhaps there is another scheduler."""
        if destination == self._queue:
            self._meet_again()

    def disconnected(self, error: Exception | None) -> None:
        """See `EndpointEvents.disconnected`."""
        self._fail_welcome(ClusterConnectionError(str(error or "the connection was closed")))
        if not self._closed and not self._joining:
            self._lose(error)
            self._reconnecting = self._loop.create_task(self._reconnect())

    def _lose(self, error: Exception | None) -> None:
        self._welcome = None
        self._events.lost(error)

    def _fail_welcome(self, error: ClusterConnectionError) -> None:
        if self._welcome is not None and not self._welcome.done():
            self._welcome.set_exception(error)


def _incarnation() -> str:
    return uuid.uuid4().hex[:12]


def _retrieve(future: asyncio.Future[None]) -> None:
    """Mark a future's exception as seen; whoever waits for it gets it all the same."""
    if not future.cancelled():
        future.exception()
