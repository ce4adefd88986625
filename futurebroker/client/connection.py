"""A client's half of its talk with the scheduler: what user threads buffer, and what its I/O thread sends and takes in.

User threads append to `Connection.outbox` (calls and messages, in order) and to `Connection.dropped` (states of futures
that are gone), and wake the I/O thread only when it isn't awake already. While work keeps coming it stays awake and
looks every `LINGER` seconds, so a burst of calls leaves in few messages and wakes nobody; who waits flushes at once.
Lock-free appends, and one lock for the states that is taken once for many keys, are what makes a call cheap.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from futurebroker.client import fetching
from futurebroker.client.calls import Coalescer, PreparedCall
from futurebroker.client.futures import CANCELLED, ERROR, FINISHED, LOST, PENDING, UNOPENED, KeyState
from futurebroker.client.intake import Intake
from futurebroker.client.replies import Replies, introduce
from futurebroker.client.threads import CallbackThread, CallWhenSettled, LoopThread
from futurebroker.client.waiters import Waiter, post
from futurebroker.config import hide_password
from futurebroker.exceptions import (
    CancelledError,
    ClientClosedError,
    DataLostError,
    DuplicateKeyError,
    FuturebrokerError,
    IntakeError,
    RefusedError,
)
from futurebroker.protocol.member import Member
from futurebroker.protocol.messages import (
    Answer,
    Ask,
    Cancel,
    DataPart,
    Failure,
    Held,
    KeyCancelled,
    KeyErred,
    KeyFinished,
    KeyLost,
    Message,
    RanOnWorkers,
    Release,
    Retry,
    Welcome,
)
from futurebroker.types import Key, Role

logger = logging.getLogger("futurebroker.client")

#: seconds the I/O thread stays awake after it had something to send
LINGER = 0.001
#: seconds that releases may wait for something to leave with
RELEASE_DELAY = 0.01
#: bytes of data on their way to the scheduler at a time
STREAM_WINDOW = 8 * 1024 * 1024


class Connection:
    """See the top of this file.

    Args:
        asynchronous: whether methods that wait return awaitables.
        loop: run on this loop of a cluster in the same process instead of in a thread of our own.
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
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.name = name
        self.url = url
        self.asynchronous = asynchronous
        self.lock = threading.RLock()
        self.states: dict[Key, KeyState] = {}
        self.outbox: deque[PreparedCall | Message] = deque()
        self.dropped: deque[KeyState] = deque()
        self.routes: dict[int, Callable[[DataPart], None]] = {}
        self.intake = Intake(self.lock, patience)
        #: seconds between a heartbeat and its answer, as of the last one
        self.round_trip: float | None = None
        #: why nothing can be sent any more
        self.ended: Exception | None = None
        self.callbacks = CallbackThread(f"futurebroker-callbacks-{name}")
        self._heartbeat = heartbeat
        #: whether the I/O thread will look at the outbox by itself
        self.awake = False
        self._posted = False
        self._lingering: asyncio.TimerHandle | None = None
        self._beating: asyncio.TimerHandle | None = None
        self._welcomed = False
        self._noticed = False
        #: by key, how many of our own cancellations the scheduler has yet to confirm
        self._echoes: dict[Key, int] = {}
        self._replies = Replies()
        self._sent_here = 0.0
        self._io = LoopThread(f"futurebroker-client-{name}", loop)
        self._loop = self._io.loop
        self._member = Member(
            Role.CLIENT,
            name,
            url=url,
            cluster=cluster,
            secret=secret,
            events=self,
            loop=self._loop,
            info=introduce,
            on_blocked=self.intake.block,
        )
        self._coalescer = Coalescer(self._member.send)

    # -- opening and closing ----------------------------------------------------------------------------------------

    async def open(self, timeout: float, blocking: bool) -> None:
        """Join the cluster; see `Member.connect` for what it raises."""
        try:
            if blocking:
                self._io.run(self._member.connect(timeout))
            else:
                await self._io.run_async(self._member.connect(timeout))
        except BaseException:
            self.ended = ClientClosedError("this client could not connect")
            self._io.stop()
            raise

    async def close(self, blocking: bool) -> None:
        """Send what waits, say goodbye, cancel what is pending and end the threads. May be called twice."""
        with self.lock:
            if self.ended is not None and not isinstance(self.ended, RefusedError):
                return
            self.ended = ClientClosedError("this client is closed; create another one to go on")
        if blocking:
            self._io.run(self._close())
        else:
            await self._io.run_async(self._close())
        self.fail(CancelledError("the client was closed"))
        self._io.stop()
        self.callbacks.stop()

    async def _close(self) -> None:
        for timer in (self._lingering, self._beating):
            if timer is not None:
                timer.cancel()
        self._send()
        await self._member.close("the client was closed")

    def check_open(self) -> None:
        """Raise why nothing can be sent any more, if so."""
        if self.ended is not None:
            raise copy.copy(self.ended)  # a copy, so that tracebacks don't grow

    # -- from user threads to the I/O thread -------------------------------------------------------------------------

    def put(self, message: Message) -> None:
        """Send ``message`` after all that was put before."""
        self.outbox.append(message)
        if not self.awake:
            self.wake()

    def notice(self) -> None:
        """Have the I/O thread look at `dropped` in a while. Takes no lock, for `Future.__del__`."""
        if not self._noticed:
            self._noticed = True
            post(self._loop, self._notice)

    def _notice(self) -> None:
        self._loop.call_later(RELEASE_DELAY, self._release_later)

    def _release_later(self) -> None:
        # In this order: who drops a future after this is noticed again.
        self._noticed = False
        self._drain()

    def wake(self) -> None:
        """Send what the outbox holds: the first after a pause at once and here, further ones by the I/O thread."""
        if not self.awake and not self._send_here():
            self.awake = True
            self._posted = True
            post(self._loop, self._drain)

    def _send_here(self) -> bool:
        """Send from this thread while the I/O thread sleeps; False when it doesn't, or a burst is under way."""
        turn = self._io.turn
        now = time.monotonic()
        if turn is None or now - self._sent_here < LINGER or not turn.acquire(False):
            return False
        try:
            self._sent_here = now
            self._send()
            self._member.flush()
        finally:
            turn.release()
        return True

    def flush(self) -> None:
        """Have the I/O thread look now: somebody waits."""
        if self.outbox and not self._posted:
            self._posted = True
            post(self._loop, self._drain)

    def _drain(self) -> None:
        self._posted = False
        if self._send():
            self._member.flush()
            if self._lingering is None:
                self._lingering = self._loop.call_later(LINGER, self._linger)
            return
        if self._lingering is not None:
            return
        # In this order: who appends after the check finds that we sleep, and wakes us.
        self.awake = False
        if self.outbox:
            self.awake = True
            self._lingering = self._loop.call_later(LINGER, self._linger)

    def _linger(self) -> None:
        self._lingering = None
        self._drain()

    def _send(self) -> bool:
        """Hand all that waits to the member; False when nothing did."""
        if self.dropped:
            self._release_dropped()
        if not self.outbox:
            return False
        self.intake.bytes += self._coalescer.send(self.outbox)
        return True

    def _release_dropped(self) -> None:
        gone: list[Key] = []
        dropped = self.dropped
        states = self.states
        with self.lock:
            while dropped:
                state = dropped.popleft()
                state.refs -= 1
                if state.refs:
                    continue
                if states.get(state.key) is state:
                    del states[state.key]
                    gone.append(state.key)
                if state.status is PENDING or state.status is LOST:
                    state.cause = CancelledError(f"{state.key} was released before it was done")
                    self._settle(state, CANCELLED)
                # Gives up the data made of its arguments; that appends to what this loop works off.
                state.inputs = ()
            if gone:
                # With the lock held: who submits the same key again comes after this.
                self.outbox.append(Release(gone))

    async def stream(self, messages: Iterator[Message], blocking: bool) -> None:
        """Send ``messages`` no faster than the scheduler takes them, after all that was put before."""
        if blocking:
            self._io.run(self._stream(messages))
        else:
            await self._io.run_async(self._stream(messages))

    async def _stream(self, messages: Iterator[Message]) -> None:
        self._send()
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

    # -- states ------------------------------------------------------------------------------------------------------

    def watch(self, states: list[KeyState], waiter: Waiter) -> int:
        """Tell ``waiter`` of each of ``states``, at once of those that are settled; how many are not."""
        pending = 0
        single = (waiter,)
        with self.lock:
            for state in states:
                status = state.status
                if status is not PENDING and status is not LOST:
                    waiter.ready(state)
                else:
                    pending += 1
                    state.waiters = single if state.waiters is None else state.waiters + single
        if pending:
            self.flush()
        return pending

    def unwatch(self, states: list[KeyState], waiter: Waiter) -> None:
        """Don't tell ``waiter`` any more."""
        with self.lock:
            for state in states:
                if state.waiters is not None:
                    state.waiters = tuple(other for other in state.waiters if other is not waiter) or None

    def call_back(self, states: list[KeyState], call: Callable[[], object]) -> None:
        """Run ``call`` on the callback thread once all ``states`` are settled."""
        self.callbacks.start()
        self.watch(states, CallWhenSettled(len(states), call, self.callbacks))

    def cancel(self, states: list[KeyState], force: bool, reason: str) -> None:
        """Cancel keys here at once, and at the scheduler."""
        with self.lock:
            self.check_open()
            keys = []
            for state in states:
                if state.status is CANCELLED:
                    continue
                keys.append(state.key)
                self._echoes[state.key] = self._echoes.get(state.key, 0) + 1
                text = f"{state.key} was cancelled" + (f": {reason}" if reason else "")
                self._reopen(state)
                state.cause = CancelledError(text)
                self._settle(state, CANCELLED)
            if force:
                keys = [state.key for state in states]
            if keys:
                self.put(Cancel(keys, force, reason))

    def retry(self, states: list[KeyState]) -> None:
        """Run failed keys again; others are left as they are."""
        with self.lock:
            self.check_open()
            failed = [state for state in states if state.status is ERROR]
            for state in failed:
                self._reopen(state)
                state.status = PENDING
            if failed:
                self.put(Retry([state.key for state in failed]))

    def renew(self, state: KeyState) -> None:
        """Have a key that was refused pending again: it is sent in another way."""
        with self.lock:
            self._reopen(state)
            state.status = PENDING
            self.states[state.key] = state

    async def fetch(self, state: KeyState, held: Held, blocking: bool) -> Any:
        """See `fetching.fetch`."""
        return await fetching.fetch(self, state, held, blocking)

    def _reopen(self, state: KeyState) -> None:
        state.cause = None
        state.value = None
        state.held = None
        state.result = UNOPENED

    def _settle(self, state: KeyState, status: Any) -> None:
        """The end of a key, for now; the lock is held."""
        state.status = status
        if state.size >= 0:
            self.intake.bytes -= state.size
            self.intake.settled += 1
            state.size = -1
        waiters = state.waiters
        if waiters is not None:
            state.waiters = None
            for waiter in waiters:
                waiter.ready(state)

    def fail(self, error: Exception) -> None:
        """Settle all that is pending with ``error``, and answer all questions with it."""
        with self.lock:
            for state in list(self.states.values()):
                if state.status is PENDING or state.status is LOST:
                    state.cause = error
                    self._settle(state, CANCELLED if isinstance(error, CancelledError) else ERROR)
        self._replies.fail(ClientClosedError(str(error)) if isinstance(error, CancelledError) else error)
        self.intake.tell(self.ended is not None)

    # -- what the scheduler says, on the I/O thread -------------------------------------------------------------------

    def deliver(self, messages: list[Any]) -> None:
        """See `MemberEvents.deliver`."""
        states = self.states
        with self.lock:
            for message in messages:
                if type(message) is KeyFinished:
                    state = states.get(message.key)
                    if state is None or state.status is CANCELLED:
                        continue
                    if state.result is UNOPENED:
                        state.value = message.value
                        state.held = message.held
                        state.type = message.type
                    state.cause = None
                    self._settle(state, FINISHED)
                else:
                    self._take(message)
        self.intake.tell(False)

    def _take(self, message: Any) -> None:
        if isinstance(message, KeyErred):
            self._end(message.key, ERROR, message.failure)
        elif isinstance(message, KeyCancelled):
            if not self._is_echo(message.key):
                self._end(message.key, *_meaning(message))
        elif isinstance(message, KeyLost):
            self._lose(self.states.get(message.key))
        elif isinstance(message, Answer):
            error = FuturebrokerError(message.error) if message.error else None
            self._replies.answer(message.number, message.value, error)
        elif isinstance(message, RanOnWorkers):
            self._replies.answer(message.number, message.results, None)
        elif isinstance(message, DataPart):
            route = self.routes.get(message.transfer)
            if route is not None:
                route(message)

    def _is_echo(self, key: Key) -> bool:
        """Whether this answers a cancellation of ours; the key may mean a new task by now, which must not suffer."""
        due = self._echoes.pop(key, 0)
        if due > 1:
            self._echoes[key] = due - 1
        return due > 0

    def _lose(self, state: KeyState | None) -> None:
        """A key is computed again: its result was lost, or it failed and is retried. Results opened here stay."""
        if state is None or state.result is not UNOPENED:
            return
        if state.status is FINISHED or state.status is ERROR:
            state.status = LOST if state.status is FINISHED else PENDING
            self._reopen(state)

    def _end(self, key: Key, status: Any, cause: Failure | Exception) -> None:
        state = self.states.get(key)
        if state is not None and state.status is not CANCELLED:
            self._reopen(state)
            state.cause = cause
            self._settle(state, status)

    def welcomed(self, welcome: Welcome, fresh: bool) -> None:
        """See `MemberEvents.welcomed`."""
        self.intake.allow(welcome.limits.get("tasks", sys.maxsize), welcome.limits.get("bytes", sys.maxsize))
        if fresh and self._welcomed:
            self._start_over()
        self._welcomed = True
        if self._beating is None:
            self._beat()

    def _start_over(self) -> None:
        """Another scheduler answers, which knows nothing of us: what the former one had is gone."""
        logger.warning("the scheduler at %s was restarted; what was pending is lost", hide_password(self.url))
        self._coalescer.forget()
        with self.lock:
            self.outbox.clear()
            self._echoes.clear()
            for state in list(self.states.values()):
                if state.status is FINISHED and state.held is not None and state.result is UNOPENED:
                    self._end(state.key, CANCELLED, DataLostError(f"{state.key} went with the former scheduler"))
        self.fail(CancelledError("the scheduler was restarted and doesn't know this task; submit it again"))

    def _beat(self) -> None:
        self._member.heartbeat("running", {})
        self._beating = self._loop.call_later(self._heartbeat, self._beat)

    def heard(self, round_trip: float) -> None:
        """See `MemberEvents.heard`."""
        self.round_trip = round_trip

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


def _meaning(message: KeyCancelled) -> tuple[Any, Exception]:
    """The status and the error that a cancellation by the scheduler stands for."""
    because = f": {message.reason}" if message.reason else ""
    if message.kind == "lost":
        return CANCELLED, DataLostError(f"the data of {message.key} is lost{because}")
    if message.kind == "duplicate":
        return ERROR, DuplicateKeyError(f"{message.key}{because}")
    if message.kind == "rejected":
        return ERROR, IntakeError(f"the scheduler did not take {message.key}{because}")
    return CANCELLED, CancelledError(f"{message.key} was cancelled{because}")
