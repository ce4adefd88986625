"""A thread that waits for a result reads it itself, at first, while the I/O thread sleeps on.

A result that comes soon would else cost two changes of threads. Only for the first moments: a thread that waits long
gains nothing by it, and while it reads, handlers of signals wait.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
from time import monotonic

from futurebroker.client.interrupts import Uninterrupted
from futurebroker.client.waiters import Countdown
from futurebroker.polling import TurnPoller
from futurebroker.protocol.member import Member

#: seconds for which a thread that waits reads
READ_HERE = 0.005


class Reading:
    """See the top of this file. Used from any thread; one of them reads at a time.

    Args:
        poller: of the loop that the member belongs to; None where its turn can't be had.
    """

    def __init__(self, member: Member, poller: TurnPoller | None) -> None:
        self.seconds = READ_HERE
        self._member = member
        self._poller = poller
        self._lock = threading.Lock()
        #: whether the thread that reads is taking something in, and looks after that whether its countdown has ended
        self._is_taking = False
        self._bell = None if poller is None else _Bell()

    def wait(self, countdown: Countdown, timeout: float | None) -> bool:
        """Block until ``countdown`` has ended; False when ``timeout`` seconds went by first."""
        poller, bell = self._poller, self._bell
        if poller is None or bell is None:
            return countdown.wait(timeout)
        begun = 0.0 if timeout is None else monotonic()
        seconds = self.seconds if timeout is None else min(timeout, self.seconds)
        with Uninterrupted():
            if self._lock.acquire(False):
                try:
                    if self._read(poller, bell, countdown, seconds):
                        return True
                finally:
                    self._lock.release()
        return countdown.wait(None if timeout is None else timeout - (monotonic() - begun))

    @property
    def is_underway(self) -> bool:
        """Whether a thread reads."""
        return self._lock.locked()

    def _read(self, poller: TurnPoller, bell: _Bell, countdown: Countdown, seconds: float) -> bool:
        """Read until ``countdown`` has ended; False when it didn't in time, or this isn't for us to do."""
        if not poller.turn.acquire(False):
            return False
        try:
            socket = self._member.socket
            if socket is None:
                return False
            call = poller.mute(socket)
        finally:
            poller.turn.release()
        is_muted = True
        countdown.call_at_end(self._ring)
        try:
            bell.listen(socket)
            until = monotonic() + seconds
            has_ended = countdown.has_ended()
            while not has_ended and bell.wait(seconds):
                with poller.turn:
                    if poller.reader(socket) is not call:
                        return False  # the link has ended
                    self._is_taking = True
                    poller.call(call)
                    self._is_taking = False
                    has_ended = countdown.has_ended()
                    if has_ended:
                        poller.unmute(socket)
                        is_muted = False
                seconds = until - monotonic()
            return has_ended
        finally:
            self._is_taking = False
            countdown.call_at_end(None)
            if is_muted:
                with poller.turn:
                    poller.unmute(socket)

    def _ring(self) -> None:
        if not self._is_taking and self._bell is not None:
            self._bell.ring()


class _Bell:
    """Waits for a socket, or for another thread that rings."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll.register(self._bell, select.POLLIN)
        self._socket = -1

    def listen(self, socket: int) -> None:
        """Wait for this socket from now on."""
        if socket != self._socket:
            if self._socket >= 0:
                self._poll.unregister(self._socket)
            self._poll.register(socket, select.POLLIN)
            self._socket = socket

    def wait(self, seconds: float) -> bool:
        """Whether the socket can be read, or the bell rang."""
        ready = self._poll.poll(max(0.0, seconds) * 1000)
        for number, _ in ready:
            if number == self._bell:
                os.eventfd_read(number)
        return bool(ready)

    def ring(self) -> None:
        """Wake who waits; from any thread."""
        with contextlib.suppress(BlockingIOError):  # it rings already
            os.eventfd_write(self._bell, 1)

    def __del__(self) -> None:
        os.close(self._bell)
