"""Channels between a client and a kernel: opened only for who knows the operator's secret, then passed on unopened.

The other end is a client inside an executor, or the scheduler's own console. Frames travel as messages of sessions, so
they need no connection but the one to the broker.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Any

from futurebroker.exceptions import FuturebrokerError
from futurebroker.protocol.messages import Answer, Ask, FromPeer, Message, ToPeer
from futurebroker.scheduler.state import SchedulerState
from futurebroker.secret import operator_proof

#: the other end of a channel to the scheduler's own process
SCHEDULER = ""


class Gate:
    """See the top of this file; arguments as in `errands.Errands`."""

    def __init__(
        self, state: SchedulerState, send: Callable[[str, Message], object], secret: bytes | None, is_local: bool
    ) -> None:
        self._state = state
        self._send = send
        self._secret = secret
        self._is_local = is_local

    def _why_not(self, channel: str, given: bytes) -> str:
        """Why this channel may not be opened; empty if it may."""
        if self._secret is None:
            if self._is_local:
                return ""
            return (
                "IPython kernels are off at a broker that others can reach; set FUTUREBROKER_OPERATOR_SECRET for the "
                "scheduler and for the client"
            )
        if not hmac.compare_digest(operator_proof(self._secret, channel), given):
            return "the operator's secret is not that of the scheduler; set FUTUREBROKER_OPERATOR_SECRET"
        return ""

    def open(self, peer: str, message: Ask, console: Any, refused: str) -> None:
        """A client wants a channel; a kernel in an executor joins it under the same name."""
        about = message.about if isinstance(message.about, dict) else {}
        channel, given = str(about.get("channel")), about.get("proof") or b""
        ends = self._state.operations.channels
        error, value = "", None
        if about.get("kernel"):  # the kernel's own end, inside an executor
            opened = ends.get(channel)
            if opened is None:
                error = "nobody opened this channel"
            else:
                ends[channel] = (opened[0], peer)
        elif error := self._why_not(channel, given):
            pass
        elif about.get("scheduler"):
            if console is None:
                error = refused
            else:
                try:
                    value = console.open_kernel(channel, lambda frames: self._send(peer, FromPeer(channel, frames)))
                except FuturebrokerError as failure:
                    error = str(failure)
                else:
                    ends[channel] = (peer, SCHEDULER)
        else:
            ends[channel] = (peer, SCHEDULER)
        self._send(peer, Answer(message.number, value, error))

    def forward(self, peer: str, message: ToPeer, console: Any) -> None:
        """Frames for the other end."""
        ends = self._state.operations.channels.get(message.channel)
        if ends is None or peer not in ends:
            return
        other = ends[1] if peer == ends[0] else ends[0]
        if other == SCHEDULER:
            if console is not None:
                console.feed(message.channel, message.frames)
        else:
            self._send(other, FromPeer(message.channel, message.frames))
