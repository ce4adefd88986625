"""What an endpoint keeps of its talk with one peer: session, destination, and the batch that waits to leave."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from futurebroker.protocol import pieces
from futurebroker.protocol.messages import Message, decode, encode
from futurebroker.protocol.session import Outgoing, Session
from futurebroker.protocol.wire import BATCH_BYTES, BATCH_MESSAGES
from futurebroker.types import Peer, Role

_ROLE_NAMES = {Role.WORKER: "worker", Role.CLIENT: "client", Role.WEB: "client"}


#: seconds that what isn't urgent waits for something to go with
LAZY = 0.02


@cache
def direction_of(receiver: Role, sender: Role) -> str:
    """The key of `messages.DECODERS` for what ``sender`` says to ``receiver``."""
    if receiver is Role.SCHEDULER:
        return f"from_{_ROLE_NAMES[sender]}"
    return f"to_{_ROLE_NAMES[receiver]}"


@dataclass(slots=True)
class Conversation:
    """A session, where to send it, and what waits to be put into envelopes."""

    peer: Peer
    destination: str
    session: Session = field(default_factory=Session)
    batch: list[Message] = field(default_factory=list)
    batch_limit: int = BATCH_MESSAGES
    connected: bool = True
    durable: bool = False  #: the broker can keep its numbered envelopes
    #: numbered and not sent, because the broker asked to stop
    withheld: list[Outgoing] = field(default_factory=list)
    joiner: pieces.Joiner = field(default_factory=pieces.Joiner)

    def resume_with(self, peer: Peer) -> None:
        """Go on with another incarnation of the peer, which has all that the former acknowledged."""
        self.peer = peer
        self.session.receive_anew()
        self.joiner = pieces.Joiner()

    def bodies(self, refuse: Callable[[str, str], None]) -> Iterable[bytes]:
        """What waits, as bodies of envelopes; ``refuse`` is told of messages too large for anything."""
        batch, self.batch = self.batch, []
        if not batch:
            return ()
        if len(batch) > self.batch_limit:
            return self._parts(batch, None, refuse)
        body = encode(batch)
        if len(body) * 4 < BATCH_BYTES and self.batch_limit == BATCH_MESSAGES:
            return (body,)  # as nearly always
        return self._parts(batch, body, refuse)

    def _parts(self, batch: list[Message], body: bytes | None, refuse: Callable[[str, str], None]) -> Iterator[bytes]:
        """A batch in as many bodies as it takes; ``body`` is all of it, if that is one part."""
        start = 0
        while start < len(batch):
            part = batch[start : start + self.batch_limit]
            body = encode(part) if body is None else body
            if len(body) > BATCH_BYTES and len(part) > 1:
                self.batch_limit = max(1, len(part) * BATCH_BYTES // (len(body) * 2))
                body = None
                continue
            if len(body) * 4 < BATCH_BYTES:
                self.batch_limit = min(BATCH_MESSAGES, self.batch_limit * 2)
            start += len(part)
            if len(body) <= pieces.PIECE_BYTES:
                yield body
            elif len(body) <= pieces.WHOLE_BYTES:
                yield from pieces.cut(body)
            else:
                # Not numbered: the other side would wait for it for ever.
                refuse("oversize", f"a {type(part[0]).__name__} of {len(body):,} bytes for {self.peer.name}")
            body = None

    def open(self, direction: str, body: bytes | memoryview) -> list[Any]:
        """The messages of a body that is due; none while more pieces of it have to come.

        Raises:
            ProtocolError: it isn't one.
        """
        if body and body[0] == pieces.MARK:
            whole = self.joiner.add(body)
            return decode(direction, whole) if whole is not None else []
        return decode(direction, body)


class Unhurried:
    """Conversations whose batch waits a moment for something to go with, and leaves alone after that.

    Args:
        hurry: told of those that have waited.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, hurry: Callable[[list[Conversation]], object]) -> None:
        self._loop = loop
        self._hurry = hurry
        self._waiting: dict[int, Conversation] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, conversation: Conversation) -> None:
        """Something was put into the batch of this one."""
        self._waiting[id(conversation)] = conversation
        if self._timer is None:
            self._timer = self._loop.call_later(LAZY, self._end)

    def cancel(self) -> None:
        """Nothing leaves any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end(self) -> None:
        self._timer = None
        waiting, self._waiting = self._waiting, {}
        self._hurry(list(waiting.values()))
