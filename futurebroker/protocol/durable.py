"""An endpoint that acknowledges only what its owner has written down, and goes on with the sessions of a former one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from futurebroker.protocol.conversation import Conversation
from futurebroker.protocol.endpoint import Endpoint
from futurebroker.protocol.messages import Message
from futurebroker.transport.base import Link
from futurebroker.types import Peer

#: a delivery of a link; acknowledging it acknowledges all before it
Delivery = tuple[Link, int]


class DurableEndpoint(Endpoint):
    """See the top of this file: sessions are acknowledged by `clear`, and deliveries of the broker by `settle`."""

    #: told when a delivery has to be settled
    on_delivery: Callable[[], None] | None = None
    _newest: Delivery | None = None

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        #: parties that live in this process and have no session: what takes the messages for each
        self.inside: dict[str, Callable[[Sequence[Message]], None]] = {}

    def send_all(self, name: str, messages: Sequence[Message]) -> bool:
        """See `Endpoint.send_all`."""
        inside = self.inside.get(name)
        if inside is None:
            return super().send_all(name, messages)
        inside(messages)
        return True

    def send_lazily(self, name: str, message: Message) -> None:
        """See `Endpoint.send_lazily`."""
        if name in self.inside:
            self.inside[name]([message])
        else:
            super().send_lazily(name, message)

    def _begin(self, peer: Peer, destination: str) -> Conversation:
        conversation = super()._begin(peer, destination)
        conversation.session.hold_acks()
        return conversation

    def restore(self, peer: Peer, destination: str, received: int) -> None:
        """Know the session of ``peer``, of whom everything up to ``received`` is written; it has yet to say hello."""
        conversation = self._begin(peer, destination)
        conversation.connected = False
        conversation.session.restore(received)
        self._conversations[peer.name] = conversation

    def skip(self, name: str, number: int) -> None:
        """The peer can't send envelopes up to ``number`` again: they were acknowledged without being written."""
        self._conversations[name].session.restore(number)

    def clear(self, arrived: Iterable[tuple[str, int]]) -> None:
        """What came of these peers, up to these numbers, is written."""
        now = self._loop.time()
        for name, number in arrived:
            conversation = self._conversations.get(name)
            if conversation is not None:
                conversation.session.clear(number, now)
                self._acknowledge(conversation)

    def _ack(self, link: Link, tag: int) -> None:
        if not self.is_deaf:
            self._newest = (link, tag)
            if self.on_delivery is not None:
                self.on_delivery()

    def take_delivery(self) -> Delivery | None:
        """The newest delivery that `settle` has yet to be called for."""
        newest, self._newest = self._newest, None
        return newest

    def settle(self, delivery: Delivery) -> None:
        """What this delivery and those before it brought is written."""
        link, tag = delivery
        if link is self._link:
            link.ack(tag)
            self._schedule_flush()
