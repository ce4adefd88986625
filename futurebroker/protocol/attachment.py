"""Has an asyncio loop read and write a link's socket, and run on its thread what the link asks for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from futurebroker.transport.base import Link, LinkEvents


class Attachment:
    """One link on one loop, from its thread.

    Args:
        turn: runs what reads the link, and sends what that led to.
        written: called after the link wrote what had waited for its socket.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        link: Link,
        turn: Callable[[Callable[[], None]], object],
        written: Callable[[], None] | None = None,
    ) -> None:
        self._loop = loop
        self._link = link
        self._turn = turn
        self._written = written
        self._thread = threading.get_ident()
        #: what is read; kept because a link that broke doesn't know it any more
        self.socket: int | None = None
        self._is_writing = False
        self._is_over = False

    def begin(self, events: LinkEvents) -> None:
        """Start the link, and read it from now on."""
        self._link.start(events, self.wake)
        self.socket = None if self._is_over else self._link.fileno()
        if self.socket is not None:
            self._loop.add_reader(self.socket, self._turn, self._link.on_readable)

    def end(self) -> None:
        """Let go of the socket; closing the link is the caller's."""
        self._is_over = True
        if self.socket is not None:
            self._loop.remove_reader(self.socket)
            if self._is_writing:
                self._loop.remove_writer(self.socket)
        self.socket = None

    def wake(self, call: Callable[[], None]) -> None:
        """Run a link's ``call`` soon; from our own thread without the system calls that interrupt a sleeping loop."""
        if threading.get_ident() == self._thread:
            self._loop.call_soon(self._turn, call)
        else:
            self._loop.call_soon_threadsafe(self._turn, call)

    def watch_writes(self) -> None:
        """Write on when the socket takes more, if something waits for that; to be called after each flush."""
        if self.socket is None:
            return
        wants = self._link.wants_write()
        if wants == self._is_writing:
            return
        self._is_writing = wants
        if wants:
            self._loop.add_writer(self.socket, self._writable)
        else:
            self._loop.remove_writer(self.socket)

    def _writable(self) -> None:
        self._link.on_writable()
        if self._written is not None:
            self._written()
        self.watch_writes()
