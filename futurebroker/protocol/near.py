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
from futurebroker.protocol.messages import Finished, Free, Run, decode, encode
from futurebroker.transport.base import Link, Queue, QueueKind
from futurebroker.types import Peer

#: messages that make up nearly all of the talk; made for one receiver, and not changed by it
_HANDED_OVER = frozenset((Run, Free, Finished))


class NearEndpoint(Endpoint):
    """An endpoint that others on its loop may be near to."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        #: by the names of their members
        self.near: dict[str, NearEndpoint] = {}

    def _flush_conversation(self, conversation: Conversation, now: float) -> None:
        other = self.near.get(conversation.peer.name)
        if other is None:
            super()._flush_conversation(conversation, now)
        elif conversation.connected and conversation.batch:
            messages, conversation.batch = conversation.batch, []
            me = self.me
            other.turn(lambda: other.take(me, messages))

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
