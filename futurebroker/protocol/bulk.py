"""A process's second connection to the broker, for parts of results: they go from who holds them to who asked.

It is opened when the first part is to go that way, and closed when none did for a while. Parts don't go by the first
connection, because an alarm makes a broker stop reading from who publishes, and what is large holds up what comes
behind it. Each is signed for the inbox it is sent to. They aren't numbered: who asked knows what is missing and asks
again, and no more is on its way than was asked for.
"""

from __future__ import annotations

import asyncio
import logging
import secrets as random_names
from collections.abc import Callable

import msgspec

from futurebroker.exceptions import FuturebrokerError, ProtocolError
from futurebroker.protocol.attachment import Attachment
from futurebroker.protocol.messages import DataPart
from futurebroker.protocol.queues import bulk_inbox
from futurebroker.protocol.wire import Seal
from futurebroker.transport.base import Link, Queue, QueueKind
from futurebroker.transport.opening import open_in_thread

logger = logging.getLogger("futurebroker.bulk")

#: seconds one attempt to open the connection may take, and before it is tried again after it failed
OPEN_TIMEOUT = 5.0
FAILED = 30.0
#: seconds without a part after which it is closed
IDLE = 30.0

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(DataPart).decode


class Bulk:
    """See the top of this file. Used from the loop's thread only, but for `seal`.

    Args:
        where: the address of the broker that the first connection is to; empty: a second one isn't worth its while.
        take: is given the parts that come.
        moved: told where parts can be sent to us from now on; empty: nowhere.
    """

    def __init__(
        self,
        name: str,
        *,
        cluster: str,
        secret: bytes,
        loop: asyncio.AbstractEventLoop,
        where: Callable[[], str],
        take: Callable[[DataPart], None],
        moved: Callable[[str], None],
    ) -> None:
        #: where parts can be sent to us; empty: nowhere
        self.inbox = ""
        #: connections opened, and bytes of parts that came and went by them, since the start
        self.opened = self.received_bytes = self.sent_bytes = 0
        self._name = name
        self._cluster = cluster
        self._secret = secret
        self._loop = loop
        self._where = where
        self._take = take
        self._moved = moved
        self._seal = Seal(secret, b"bulk")
        self._unique = random_names.token_hex(4)
        self._link: Link | None = None
        self._attachment: Attachment | None = None
        self._is_blocked = False
        self._opening: asyncio.Task[None] | None = None
        self._retry_at = 0.0
        self._used = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._rejected = 0
        self._closed = False
        #: what waits to be sent, by its inbox, transfer and offset, and what to do if it can't be
        self._waiting: dict[tuple[str, int, int], tuple[bytes, Callable[[], None]]] = {}

    def open(self) -> None:
        """Have an inbox: ``moved`` is told of it, at once or soon, or that there can't be one."""
        self._used = self._loop.time()
        if self._link is not None:
            self._moved(self.inbox)
        elif self._opening is None:
            if self._closed or self._used < self._retry_at or not self._where():
                self._moved("")
            else:
                self._opening = self._loop.create_task(self._open())

    def seal(self, inbox: str, part: DataPart) -> bytes:
        """What `send` sends; it takes its time, and may be done in any thread."""
        return self._seal.close(inbox, _encode(part))

    def send(self, inbox: str, part: DataPart, sealed: bytes, otherwise: Callable[[], None]) -> None:
        """Send a part to an inbox, or call ``otherwise`` if there can't be a connection."""
        self._used = self._loop.time()
        if self._closed or (self._link is None and self._opening is None and self._used < self._retry_at):
            otherwise()
            return
        # One that was asked for again while it waited would only come twice.
        self._waiting[inbox, part.transfer, part.offset] = sealed, otherwise
        if self._link is not None:
            self._send_waiting()
        elif self._opening is None:
            self._opening = self._loop.create_task(self._open())

    def close(self) -> None:
        """Send what the connection takes, and end it. May be called twice."""
        self._closed = True
        if self._opening is not None:
            self._opening.cancel()
        self._waiting.clear()
        self._end()

    # -- opening and closing ----------------------------------------------------------------------------------------

    async def _open(self) -> None:
        inbox = bulk_inbox(self._cluster, f"{self._name}-{self._unique}", self.opened + 1)
        queues, name = [Queue(inbox, QueueKind.INBOX)], f"{self._name} bulk"
        try:
            link = await open_in_thread(
                self._where(), queues, secret=self._secret, timeout=OPEN_TIMEOUT, name=name
            )  # fmt: skip
        except (FuturebrokerError, OSError) as error:
            logger.warning("no second connection for results, which go by the scheduler instead: %s", error)
            self._retry_at = self._loop.time() + FAILED
            self._opening = None
            waiting, self._waiting = self._waiting, {}
            for _, otherwise in waiting.values():
                otherwise()
            self._moved("")
            return
        self._opening = None
        self.opened += 1
        self._attach(link, inbox)
        self._moved(self.inbox)
        self._send_waiting()

    def _attach(self, link: Link, inbox: str) -> None:
        self._link = link
        self.inbox = link.capabilities.inbox or inbox
        self._used = self._loop.time()
        self._is_blocked = False
        self._attachment = Attachment(self._loop, link, self.turn, self._written)
        self._attachment.begin(self)
        self._tick()

    def _detach(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._attachment is not None:
            self._attachment.end()
        self._link, self._attachment, self._timer = None, None, None
        self.inbox = ""

    def _end(self) -> None:
        link = self._link
        if link is not None:
            self._detach()
            link.close()

    def _tick(self) -> None:
        link, now = self._link, self._loop.time()
        if link is None:
            return
        if not self._waiting and not link.wants_write() and now - self._used >= IDLE:
            self._end()
            self._moved("")
            return
        at = link.tick(now)
        if self._link is link:
            self._timer = self._loop.call_at(min(at, now + IDLE / 4), self._tick)

    # -- sending ----------------------------------------------------------------------------------------------------

    def _send_waiting(self) -> None:
        """Give the connection as much as it takes at once: what waits here can still be asked for again."""
        link = self._link
        while link is not None and self._waiting and not self._is_blocked and not link.wants_write():
            place = next(iter(self._waiting))
            sealed, _ = self._waiting.pop(place)
            link.send(place[0], sealed)
            self.sent_bytes += len(sealed)
            link.flush()
        if self._attachment is not None:
            self._attachment.watch_writes()

    def _written(self) -> None:
        self._used = self._loop.time()
        self._send_waiting()

    # -- link events ------------------------------------------------------------------------------------------------

    def received(self, queue: str, body: bytes, tag: int) -> None:
        """See `LinkEvents.received`."""
        self._used = self._loop.time()
        self.received_bytes += len(body)
        try:
            part = _decode(self._seal.open(self.inbox, body))
        except (ProtocolError, msgspec.DecodeError, UnicodeDecodeError) as error:
            self._rejected += 1
            if self._rejected == 1:
                logger.warning("dropped what came as a part of a result; more are only counted: %s", error)
            return
        self._take(part)

    def turn(self, call: Callable[[], None]) -> None:
        """See `LinkEvents.turn`: what is taken here leads to nothing that leaves by this link."""
        call()

    def returned(self, destination: str) -> None:
        """See `LinkEvents.returned`: who asked has another inbox by now, and asks again, or is gone."""

    def confirmed(self) -> None:
        """See `LinkEvents.confirmed`: nothing durable is sent here."""

    def blocked(self, is_blocked: bool) -> None:
        """See `LinkEvents.blocked`."""
        self._is_blocked = is_blocked
        self._send_waiting()

    def disconnected(self, error: Exception | None) -> None:
        """See `LinkEvents.disconnected`."""
        if self._link is None:
            return
        logger.info("the second connection is lost: %s", error or "it was closed")
        self._detach()
        self._moved("")
        if self._waiting and self._opening is None and not self._closed:
            self._opening = self._loop.create_task(self._open())
