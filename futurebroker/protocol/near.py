"""Two members of a cluster in one process: what they say in their session is handed over as it is.

They meet, beat and part by envelopes over the broker's link inside the process, as everybody does. What they say in
between needs none: nobody can come between them, and nothing gets lost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from futurebroker.protocol.conversation import Conversation, direction_of
from futurebroker.protocol.endpoint import Endpoint
from futurebroker.protocol.member import SCHEDULER, Member
from futurebroker.protocol.messages import Finished, Free, Message, Run, decode, encode
from futurebroker.transport.base import Link, Queue, QueueKind
from futurebroker.types import Peer

#: messages that make up nearly all of the talk; made for one receiver, and not changed by it
_HANDED_OVER = frozenset((Run, Free, Finished))
#: answers to answers that follow at once; further ones come when the loop comes round, as they would by a link
_AT_ONCE = 8


class NearEndpoint(Endpoint):
    """An endpoint that others on its loop may be near to."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        #: by the names of their members
        self.near: dict[str, NearEndpoint] = {}
        #: whether what is said waits for the loop to come round, and how many of our messages are being answered
        self._waits = False
        self._depth = 0

    def send_meeting(
        self, peer: Peer, destination: str, message: Message, *, mandatory: bool = False, durable: bool = False
    ) -> None:
        """See `Endpoint.send_meeting`. It goes by the link, and what is said after it mustn't come first."""
        super().send_meeting(peer, destination, message, mandatory=mandatory, durable=durable)
        if peer.name in self.near:
            self._wait()

    def close(self) -> None:
        """See `Endpoint.close`."""
        self._waits = False  # what waits leaves now or never
        super().close()

    def _wait(self) -> None:
        if not self._waits:
            self._waits = True
            self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._waits = False
        self.flush()

    def _flush_conversation(self, conversation: Conversation, now: float) -> None:
        name = conversation.peer.name
        other = self.near.get(name)
        if other is None:
            super()._flush_conversation(conversation, now)
        elif conversation.connected and conversation.batch:
            if self._waits or self._depth >= _AT_ONCE:
                self._waiting[name] = conversation
                self._wait()
                return
            messages, conversation.batch = conversation.batch, []
            me = self.me
            self._depth += 1
            try:
                other.turn(lambda: other.take(me, messages))
            finally:
                self._depth -= 1

    def take(self, peer: Peer, messages: list[Any]) -> None:
        """What ``peer``, who is near, says in its session; it is dropped without one, as an envelope is."""
        conversation = self._conversations.get(peer.name)
        if conversation is None or conversation.peer.incarnation != peer.incarnation:
            self._tell(self._events.stranger, peer)
            return
        if not _HANDED_OVER.issuperset(map(type, messages)):
            # As it would be from elsewhere: with lists for tuples, and nothing that the sender can change.
            messages = decode(direction_of(self.me.role, peer.role), encode(messages))
        self._tell(self._events.deliver, conversation.peer, messages)


class NearMember(Member):
    """A member in the process of its scheduler and of the broker that serves it.

    Args:
        scheduler: the scheduler's endpoint.
        open_link: opens a link to its broker; what links inside the process don't have is left out.
    """

    def __init__(
        self, *arguments: Any, scheduler: NearEndpoint, open_link: Callable[[Sequence[Queue]], Link], **settings: Any
    ) -> None:
        super().__init__(*arguments, **settings)
        self._open_link = open_link
        assert isinstance(self._endpoint, NearEndpoint)
        self._endpoint.near[SCHEDULER] = scheduler
        scheduler.near[self.name] = self._endpoint

    def _make_endpoint(self, *arguments: Any, **settings: Any) -> NearEndpoint:
        return NearEndpoint(*arguments, **settings)

    async def _open(self, url: str, queues: Sequence[Queue]) -> Link:
        # Nobody has to be told by a token that a connection inside the process has ended.
        return self._open_link([queue for queue in queues if queue.kind is not QueueKind.TOKEN])
