"""What user threads have for the scheduler, and when it leaves.

User threads append to `Outbox.items` (calls and messages, in order) and to `Ledger.dropped` (states of futures that
are gone), without a lock, and wake the I/O thread only when it isn't awake already. While work keeps coming it stays
awake and looks every `LINGER` seconds, so a burst of calls leaves in few messages and wakes nobody; who waits flushes
at once.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque

from futurebroker.client.calls import Coalescer, PreparedCall, PreparedColumn
from futurebroker.client.interrupts import Uninterrupted
from futurebroker.client.ledger import Ledger
from futurebroker.client.remembering import Remembered
from futurebroker.client.threads import LoopThread
from futurebroker.client.waiters import post
from futurebroker.protocol.member import Member
from futurebroker.protocol.messages import Message

#: seconds the I/O thread stays awake after it had something to send
LINGER = 0.001
#: seconds that releases may wait for something to leave with
RELEASE_DELAY = 0.01
#: futures of small results whose release may stay behind a call that is urgent
FEW_DROPPED = 8


class Outbox:
    """See the top of this file."""

    def __init__(self, ledger: Ledger, member: Member, io: LoopThread) -> None:
        self.items: deque[PreparedCall | PreparedColumn | Message] = deque()
        #: whether the I/O thread will look at `items` by itself
        self.awake = False
        self._ledger = ledger
        self._member = member
        self._remembered = Remembered(ledger.states.get, ledger.detached)
        self._coalescer = Coalescer(member.send, self._remembered.add, ledger.chosen.again)
        self._turn = None if io.poller is None else io.poller.turn
        self._loop = io.loop
        self._posted = False
        self._lingering: asyncio.TimerHandle | None = None
        self._sent_here = 0.0

    # -- on user threads ---------------------------------------------------------------------------------------------

    def put(self, message: Message) -> None:
        """Send ``message`` after all that was put before."""
        self.items.append(message)
        if not self.awake:
            self.wake()

    def release(self) -> None:
        """Let go of what was dropped now, as long as nothing is put after that."""
        if self._ledger.dropped:
            self._ledger.release_dropped(self.items)
            if self.items and not self.awake:
                self.wake()

    def wake(self) -> None:
        """Send what waits: the first after a pause at once and here, further ones by the I/O thread."""
        with Uninterrupted():
            if not self.awake and not self._send_here():
                self.awake = True
                self._posted = True
                post(self._loop, self._drain)

    def flush(self) -> None:
        """Have the I/O thread look now: somebody waits."""
        # Who waits for a result and calls again is no burst, however fast the answer comes.
        self._sent_here = 0.0
        if self.items and not self._posted:
            with Uninterrupted():
                self._posted = True
                post(self._loop, self._drain)

    def notice(self) -> None:
        """Have the I/O thread look at dropped futures in a while. Takes no lock, for `Future.__del__`."""
        with Uninterrupted():
            if not self._ledger.noticed:
                self._ledger.noticed = True
                post(self._loop, self._notice)

    def _send_here(self) -> bool:
        """Send from this thread while the I/O thread sleeps; False when it doesn't, or a burst is under way."""
        turn = self._turn
        now = time.monotonic()
        if turn is None or now - self._sent_here < LINGER:
            return False
        if not turn.acquire(False):
            return False
        try:
            self._sent_here = now
            self._member.turn(self._send_calls)
        finally:
            turn.release()
        return True

    def _send_calls(self) -> None:
        """Hand all that waits to the member, but for futures that the I/O thread is about to look at anyway."""
        ledger = self._ledger
        if ledger.dropped and not (ledger.noticed and ledger.takes_little(FEW_DROPPED)):
            ledger.release_dropped(self.items)
        self._send_items()

    # -- on the I/O thread -------------------------------------------------------------------------------------------

    def send(self) -> bool:
        """Hand all that waits to the member; False when nothing did."""
        ledger = self._ledger
        if ledger.dropped:
            ledger.release_dropped(self.items)
        return self._send_items()

    def _send_items(self) -> bool:
        ledger = self._ledger
        if not self.items:
            return False
        sent = self._coalescer.send(self.items)
        if sent:
            with ledger.lock:
                ledger.intake.bytes += sent
        self._remembered.tidy(sent, ledger.intake.settled)
        return True

    def start_over(self) -> None:
        """The scheduler is a new one: tell it what we hold and what we wait for. What was not sent yet stays."""
        ledger = self._ledger
        with ledger.lock:
            self._coalescer.forget()
            self._coalescer.send_again(deque(ledger.start_over(self._remembered)), is_known=False)
        self._member.flush()

    def go_on(self) -> None:
        """Another scheduler goes on with our session: ask it what became of what is open."""
        ledger = self._ledger
        with ledger.lock:
            messages, calls = ledger.go_on(self._remembered)
            self._member.send(*messages)
            self._coalescer.send_again(deque(calls), is_known=True)
        self._member.flush()

    def stop(self) -> None:
        """Send the last, and look no more."""
        if self._lingering is not None:
            self._lingering.cancel()
        self.send()

    def expect_drops(self) -> None:
        """Futures were settled, and are dropped before long: look then, so that who drops them needn't wake us."""
        if not self._ledger.noticed:
            self._ledger.noticed = True
            self._notice()

    def _notice(self) -> None:
        self._loop.call_later(RELEASE_DELAY, self._release_later)

    def _release_later(self) -> None:
        # In this order: who drops a future after this is noticed again.
        self._ledger.noticed = False
        self._drain()

    def _drain(self) -> None:
        self._posted = False
        if self.send():
            self._member.flush()
            if self._lingering is None:
                self._lingering = self._loop.call_later(LINGER, self._linger)
            return
        if self._lingering is not None:
            return
        # In this order: who appends after the check finds that we sleep, and wakes us.
        self.awake = False
        if self.items:
            self.awake = True
            self._lingering = self._loop.call_later(LINGER, self._linger)

    def _linger(self) -> None:
        self._lingering = None
        self._drain()
