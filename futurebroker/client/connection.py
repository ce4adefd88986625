"""A client's half of its talk with the scheduler: it joins, sends what user threads want, and takes in what comes."""

from __future__ import annotations

import asyncio
import copy
import logging
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from futurebroker.client import fetching
from futurebroker.client.futures import CANCELLED, Future, Home, KeyState
from futurebroker.client.giving import Giving
from futurebroker.client.intake import Intake
from futurebroker.client.ledger import Ledger
from futurebroker.client.outbox import Outbox
from futurebroker.client.reading import Reading
from futurebroker.client.replies import Replies, introduce
from futurebroker.client.threads import LoopThread
from futurebroker.client.waiters import Countdown, post
from futurebroker.config import hide_password
from futurebroker.data.pool import Pool
from futurebroker.data.ways import BULK, WAYS, credentials_of
from futurebroker.exceptions import (
    CancelledError,
    ClientClosedError,
    FuturebrokerError,
    RefusedError,
    SchedulerRestartedError,
    SecretRefusedError,
)
from futurebroker.protocol.bulk import Bulk
from futurebroker.protocol.member import Member
from futurebroker.protocol.messages import (
    Answer,
    Ask,
    DataPart,
    DataWanted,
    FromPeer,
    Held,
    Message,
    Published,
    RanOnExecutors,
    RanOnScheduler,
    RanOnWorkers,
    Want,
    Welcome,
)
from futurebroker.types import Key, Role

logger = logging.getLogger("futurebroker.client")

#: bytes of data on their way to the scheduler at a time
STREAM_WINDOW = 8 * 1024 * 1024


class Connection(Ledger):
    """The keys of one client, and its place in the cluster.

    Args:
        asynchronous: whether methods that wait return awaitables.
        origin: where the secret comes from, for the error when it isn't the scheduler's.
        loop: run on this loop of a cluster in the same process instead of in a thread of our own.
        about: what else to tell the scheduler of this program.
        transfer: how data may move; see `futurebroker.orders.data_transfer`.
        patience: seconds that `submit` may block because the scheduler takes no more.
    """

    def __init__(
        self,
        name: str,
        *,
        url: str,
        cluster: str,
        secret: bytes,
        asynchronous: bool,
        patience: float,
        heartbeat: float,
        origin: str = "",
        loop: asyncio.AbstractEventLoop | None = None,
        about: dict[str, Any] | None = None,
        transfer: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(name, patience)
        self.name = name
        self.url: str = url
        self.cluster = cluster
        self.secret = secret
        self.asynchronous = asynchronous
        #: by channel, who takes the frames that come on it, on the I/O thread
        self.channels: dict[str, Callable[[list[bytes]], None]] = {}
        #: by channel, what stands for a kernel on this machine
        self.ends: dict[str, Any] = {}
        #: by topic that this client subscribed to, who takes its events, on the I/O thread
        self.topics: dict[str, Callable[[tuple[float, Any]], None]] = {}
        self.routes: dict[int, Callable[[DataPart], None]] = {}
        #: by which data may move; see `futurebroker.data.ways`
        self.ways: frozenset[str] = frozenset((transfer or {}).get("ways", WAYS))
        #: keys that are being fetched, and who waits for that; see `fetching`
        self.underway: dict[Key, list[Countdown]] = {}
        self._credentials = credentials_of(transfer or {}, secret, cluster)
        self._pool: Pool | None = None
        #: futures of dask keys, as long as anybody holds them
        self.computed: weakref.WeakValueDictionary[Any, Future[Any]] = weakref.WeakValueDictionary()
        #: leases that this client holds, by the name of what they are of, with the most that there may be
        self.leases: dict[str, tuple[int, dict[str, None]]] = {}
        #: seconds between a heartbeat and its answer, as of the last one
        self.round_trip: float | None = None
        #: why nothing can be sent any more
        self.ended: Exception | None = None
        self._heartbeat = heartbeat
        self._origin = origin
        self._beating: asyncio.TimerHandle | None = None
        self._welcomed = False
        self._replies = Replies(self.wait)
        self._io = LoopThread(f"futurebroker-client-{name}", loop)
        self._loop = self._io.loop
        self._member = self._make_member(cluster, about or {})
        self.outbox = Outbox(self, self._member, self._io)
        self._reading = Reading(self._member, self._loop, self._io.poller)
        self._bulk = self._make_bulk(cluster)
        #: what is scattered and asked for in parts
        self.givings: dict[Key, Giving] = {}
        #: who waits to be told where parts of results can be sent to
        self._inbox_wanted: list[Callable[[str], None]] = []

    def _make_member(self, cluster: str, about: dict[str, Any]) -> Member:
        """Our conversation with the scheduler."""
        return Member(
            Role.CLIENT,
            self.name,
            url=self.url,
            cluster=cluster,
            secret=self.secret,
            events=self,
            loop=self._loop,
            info=lambda: {**introduce(), **about, "topics": list(self.topics)},
            on_blocked=self.intake.block,
        )

    def _make_bulk(self, cluster: str) -> Bulk:
        """What data moves by that would hold up the rest."""
        return Bulk(
            self.name,
            cluster=cluster,
            secret=self.secret,
            loop=self._loop,
            where=lambda: self._member.bulk_url if BULK in self.ways else "",
            take=self.answered,
            moved=self._found_inbox,
        )

    # -- opening and closing ----------------------------------------------------------------------------------------

    async def open(self, timeout: float, blocking: bool) -> None:
        """Join the cluster; see `Member.connect` for what it raises."""
        try:
            if blocking:
                self._io.run(self._member.connect(timeout))
            else:
                await self._io.run_async(self._member.connect(timeout))
        except BaseException as error:
            self.ended = ClientClosedError("this client could not connect")
            self._io.stop()
            if isinstance(error, SecretRefusedError):
                raise SecretRefusedError(error.url, error.reason, self._origin) from None
            raise

    async def close(self, blocking: bool) -> None:
        """Send what waits, say goodbye, cancel what is pending and end the threads. May be called twice."""
        with self.lock:
            if self.ended is not None and not isinstance(self.ended, RefusedError):
                return
            self.ended = ClientClosedError("this client is closed; create another one to go on")
        # The loop may have been that of a cluster in this process, which has ended before us.
        if not self._loop.is_closed():
            if blocking:
                self._io.run(self._close())
            else:
                await self._io.run_async(self._close())
        self.fail(CancelledError("the client was closed"))
        for end in self.ends.values():
            end.close()
        self._io.stop()
        self.callbacks.stop()
        self.part()

    def end_copy(self, owner: int) -> None:
        """As `close`, for the copy in a process that ``owner`` has forked: what is sent would be said in its name."""
        # Whoever held the locks is not in this process.
        self.lock = threading.RLock()
        self.intake = Intake(self.lock, 0.0)
        self.noticed = True
        self.ended = ClientClosedError(
            f"this client belongs to process {owner}, and this one is a fork of it; make a client here"
        )
        self.fail(self.ended)
        self.part()

    @property
    def pool(self) -> Pool:
        """Direct connections to workers."""
        with self.lock:
            if self._pool is None:
                self._pool = Pool(self._credentials)
            return self._pool

    async def _close(self) -> None:
        if self._pool is not None:
            self._pool.close()
        if self._beating is not None:
            self._beating.cancel()
        self.outbox.stop()
        self._bulk.close()
        await self._member.close("the client was closed")

    def check_open(self) -> None:
        """Raise why nothing can be sent any more, if so."""
        if self.ended is not None:
            raise copy.copy(self.ended)  # a copy, so that tracebacks don't grow

    def attach(self, key: Key) -> KeyState:
        """The state of a key that came by another way than submitting it; for one more future of it."""
        with self.lock:
            state = self.states.get(key)
            if state is not None and state.status is not CANCELLED:
                state.refs += 1
                return state
            state = self.states[key] = KeyState(key, Home(self), -1)
            # With the lock held: a release of the same key goes out before or after both.
            self.put(Want([key]))
        return state

    # -- from user threads -------------------------------------------------------------------------------------------

    def put(self, message: Message) -> None:
        """See `Outbox.put`."""
        self.outbox.put(message)

    def flush(self) -> None:
        """See `Outbox.flush`."""
        self.outbox.flush()

    def wait(self, countdown: Countdown, timeout: float | None) -> bool:
        """See `Ledger.wait`."""
        if self.outbox.awake:  # and with it the I/O thread, in the middle of a burst
            return countdown.wait(timeout)
        return self._reading.wait(countdown, timeout)

    def notice(self) -> None:
        """See `Outbox.notice`."""
        self.outbox.notice()

    async def stream(self, messages: Iterator[Message], blocking: bool) -> None:
        """Send ``messages`` no faster than the scheduler takes them, after all that was put before."""
        if blocking:
            self._io.run(self._stream(messages))
        else:
            await self._io.run_async(self._stream(messages))

    async def _stream(self, messages: Iterator[Message]) -> None:
        self.outbox.send()
        for message in messages:
            self.check_open()
            self._member.send(message)
            # Nothing tells of acknowledgements; one comes at least every 50 ms while something is on its way.
            while self._member.unacked_bytes > STREAM_WINDOW and self.ended is None:
                await asyncio.sleep(0.002)

    def number(self) -> int:
        """A number for a question or a transfer."""
        return self._replies.number()

    async def ask(self, topic: str, about: Any, blocking: bool, timeout: float | None = None) -> Any:
        """The scheduler's answer to a question."""
        number = self.number()
        return await self.question(number, Ask(number, topic, about), blocking, timeout)

    async def question(self, number: int, message: Message, blocking: bool, timeout: float | None = None) -> Any:
        """Send ``message`` and wait for the answer with its number."""
        self.check_open()
        return await self._replies.ask(number, message, self._put_now, blocking, timeout)

    def _put_now(self, message: Message) -> None:
        self.put(message)
        self.flush()

    def wait_for_room(self, number: int) -> None:
        """Block until the scheduler takes the call counted as ``number``; see `Intake.wait`."""
        self.intake.wait(number, self.flush, self.check_open)

    async def fetch(self, state: KeyState, held: Held, blocking: bool) -> Any:
        """See `fetching.fetch`."""
        return await fetching.fetch(self, state, held, blocking)

    def fail(self, error: Exception) -> None:
        """Settle all that is pending with ``error``, and answer all questions with it."""
        self.fail_pending(error)
        self._replies.fail(ClientClosedError(str(error)) if isinstance(error, CancelledError) else error)
        self.intake.tell(self.ended is not None)

    @property
    def gives_past_the_scheduler(self) -> bool:
        """Whether parts of data can be sent by a second connection."""
        return BULK in self.ways and bool(self._member.bulk_url)

    def find_inbox(self, then: Callable[[str], None]) -> None:
        """Have ``then`` told, on the I/O thread, where parts can be sent past the scheduler; empty: nowhere."""
        post(self._loop, self._find_inbox, then)

    def _find_inbox(self, then: Callable[[str], None]) -> None:
        self._inbox_wanted.append(then)
        self._bulk.open()

    def _found_inbox(self, inbox: str) -> None:
        wanted, self._inbox_wanted = self._inbox_wanted, []
        for then in wanted:
            then(inbox)

    # -- what the scheduler says, on the I/O thread -------------------------------------------------------------------

    def deliver(self, messages: list[Any]) -> None:
        """See `MemberEvents.deliver`."""
        self.take(messages)
        self.outbox.expect_drops()

    def answered(self, message: Any) -> None:
        """See `Ledger.answered`."""
        if isinstance(message, Answer):
            error = FuturebrokerError(message.error) if message.error else None
            self._replies.answer(message.number, message.value, error)
            if self.chosen.former:
                self.chosen.answered(message.number)
        elif isinstance(message, RanOnExecutors):
            self._replies.answer(message.number, message.outcomes, None)
        elif isinstance(message, RanOnScheduler):
            self._replies.answer(message.number, message, None)
        elif isinstance(message, FromPeer):
            channel = self.channels.get(message.channel)
            if channel is not None:
                channel(message.frames)
        elif isinstance(message, Published):
            told = self.topics.get(message.topic)
            if told is not None:
                told((message.at, message.event))
        elif isinstance(message, RanOnWorkers):
            self._replies.answer(message.number, message.results, None)
        elif isinstance(message, DataPart):
            route = self.routes.get(message.transfer)
            if route is not None:
                route(message)
        elif isinstance(message, DataWanted):
            self._give(message)

    def _give(self, wanted: DataWanted) -> None:
        """A worker asks for a part of what is scattered."""
        giving = self.givings.get(wanted.key)
        if giving is None:
            self._member.send(DataPart(wanted.transfer, wanted.key, wanted.offset, -1, b"", wanted.asker))
            return
        part = giving.answer(wanted)
        if wanted.inbox:
            sealed = self._bulk.seal(wanted.inbox, part)
            self._bulk.send(wanted.inbox, part, sealed, lambda: self._member.send(part))
        else:
            self._member.send(part)

    def welcomed(self, welcome: Welcome, fresh: bool) -> None:
        """See `MemberEvents.welcomed`."""
        self.intake.allow(welcome.limits.get("tasks", sys.maxsize), welcome.limits.get("bytes", sys.maxsize))
        if fresh and self._welcomed:
            self._start_over()
        elif welcome.resumed:
            self._go_on()
        self._welcomed = True
        self._heartbeat = welcome.settings.get("heartbeat", self._heartbeat)
        if self._beating is None:
            self._beat()

    def _start_over(self) -> None:
        """Another scheduler answers, which knows nothing of us: all that is open is sent again."""
        logger.warning("the scheduler at %s was restarted; what is not done is sent again", hide_password(self.url))
        self._replies.fail(SchedulerRestartedError())
        # Before anything that may ask for more.
        for name, (most, held) in self.leases.items():
            self.put(Ask(self.number(), "lease_assert", {"name": name, "max_leases": most, "leases": list(held)}))
        self.outbox.start_over()
        for giving in self.givings.values():
            self.put(giving.announcement)

    def _go_on(self) -> None:
        """Another scheduler goes on where the former stopped; what was only asked has to be asked again."""
        logger.warning("the scheduler at %s was restarted, and goes on", hide_password(self.url))
        self._replies.fail(SchedulerRestartedError())
        for number, route in list(self.routes.items()):
            route(DataPart(number, "", 0, -1, b""))
        self.outbox.go_on()

    def _beat(self) -> None:
        self._member.heartbeat("running", {})
        self._beating = self._loop.call_later(self._heartbeat, self._beat)

    def heard(self, round_trip: float) -> None:
        """See `MemberEvents.heard`."""
        self.round_trip = round_trip

    def paced(self, seconds: float) -> None:
        """See `MemberEvents.paced`."""
        if self._beating is not None and self.ended is None:
            self._beating.cancel()
            self._beating = self._loop.call_later(seconds, self._beat)

    def lost(self, error: Exception | None) -> None:
        """See `MemberEvents.lost`."""
        logger.warning(
            "the connection to %s is lost, reconnecting: %s", hide_password(self.url), error or "it was closed"
        )

    def refused(self, reason: str) -> None:
        """See `MemberEvents.refused`."""
        error = RefusedError(reason)
        if self.ended is None:
            self.ended = error
        self.fail(error)
