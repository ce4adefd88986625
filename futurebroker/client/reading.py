"""A thread that waits for a result reads it itself, at first, while the I/O thread sleeps on.

A result that comes soon would else cost two changes of threads. Only for the first moments: a thread that waits long
gains nothing by it, and while it reads, handlers of signals wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import threading
from collections.abc import Callable
from time import monotonic

from futurebroker.client.interrupts import Uninterrupted
from futurebroker.client.waiters import Countdown, post
from futurebroker.polling import TurnPoller
from futurebroker.protocol.member import Member

#: seconds for which a thread that waits reads
READ_HERE = 0.005
#: seconds to wait for the I/O thread, which is seldom awake for longer than a fraction of that
PATIENCE = 0.001


class Reading:
    """See the top of this file. Used from any thread; one of them reads at a time.

    Args:
        loop: that the member belongs to.
        poller: the loop's; None where its turn can't be had.

    Attributes:
        seconds: for which a thread that waits reads.
    """

    def __init__(self, member: Member, loop: asyncio.AbstractEventLoop, poller: TurnPoller | None) -> None:
        self.seconds = READ_HERE
        self._member = member
        self._loop = loop
        self._poller = poller
        self._lock = threading.Lock()
        #: the thread that reads, and what; -1 once the I/O thread reads that again
        self._reader = 0
        self._socket = -1
        #: whether it is taking something in, and looks after that whether its countdown has ended
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
                    self._reader = threading.get_ident()
                    if self._read(poller, bell, countdown, seconds):
                        return True
                finally:
                    self._reader = 0
                    self._lock.release()
            elif self._reader == threading.get_ident():
                self._give_back(poller, 0.0)  # a finalizer, in the middle of reading, which can't go on before it ends
        return countdown.wait(None if timeout is None else timeout - (monotonic() - begun))

    @property
    def is_underway(self) -> bool:
        """Whether a thread reads."""
        return self._lock.locked()

    def _read(self, poller: TurnPoller, bell: _Bell, countdown: Countdown, seconds: float) -> bool:
        """Read until ``countdown`` has ended; False when it didn't in time, or this isn't for us to do."""
        turn = poller.turn
        if not turn.acquire(timeout=PATIENCE):
            return False
        try:
            socket = self._member.socket
            if socket is None:
                return False
            self._socket = socket
            call = poller.mute(socket)
        finally:
            turn.release()
        until = monotonic() + seconds
        try:
            countdown.call_at_end(self._ring)
            bell.listen(socket)
            has_ended = countdown.has_ended()
            while not has_ended and seconds > 0 and bell.wait(seconds):
                if not turn.acquire(timeout=seconds):
                    break
                try:
                    if poller.reader(socket) is not call:
                        break  # the link has ended
                    self._is_taking = True
                    poller.call(call)
                    self._is_taking = False
                    has_ended = countdown.has_ended()
                    if has_ended:
                        self._socket = -1
                        poller.unmute(socket)
                finally:
                    turn.release()
                seconds = until - monotonic()
            return has_ended
        finally:
            self._is_taking = False
            countdown.call_at_end(None)
            if self._socket >= 0:
                self._give_back(poller, until - monotonic())

    def _give_back(self, poller: TurnPoller, patience: float) -> None:
        """Have the I/O thread read again; by itself if its turn takes longer than ``patience`` seconds."""
        socket, self._socket = self._socket, -1
        if socket < 0:
            return
        if not poller.turn.acquire(timeout=max(0.0, patience)):
            post(self._loop, poller.unmute, socket)
            return
        try:
            poller.unmute(socket)
        finally:
            poller.turn.release()

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
        """Whether the socket can be read, or the bell rang, within so many seconds."""
        ready = self._poll.poll(seconds * 1000)
        for number, _ in ready:
            if number == self._bell:
                os.eventfd_read(number)
        return bool(ready)

    def ring(self) -> None:
        """Wake who waits; from any thread."""
        with contextlib.suppress(BlockingIOError):  # it rings already
            os.eventfd_write(self._bell, 1)

    def __del__(self, close: Callable[[int], object] = os.close) -> None:
        close(self._bell)
