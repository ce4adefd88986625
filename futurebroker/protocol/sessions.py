"""What can be asked about the sessions of one endpoint."""

from __future__ import annotations

from futurebroker.protocol.conversation import Conversation
from futurebroker.types import Peer


class Sessions:
    """The conversations of one process, by the name of the other side."""

    def __init__(self) -> None:
        self._conversations: dict[str, Conversation] = {}

    def received_up_to(self, name: str) -> int:
        """Number of the last envelope of ``name`` that was delivered; 0 without a session."""
        conversation = self._conversations.get(name)
        return conversation.session.received if conversation is not None else 0

    def sent_up_to(self, name: str) -> int:
        """Number of the last envelope sent to ``name``; 0 without a session."""
        conversation = self._conversations.get(name)
        return conversation.session.sent if conversation is not None else 0

    def oldest_to(self, name: str) -> int:
        """Number of the first envelope that could be sent to ``name`` again."""
        conversation = self._conversations.get(name)
        return conversation.session.oldest if conversation is not None else 1

    def is_open(self, name: str) -> bool:
        """Whether there is a session with ``name``, and `open` said where it is since the link was attached."""
        conversation = self._conversations.get(name)
        return conversation is not None and conversation.connected

    def peer(self, name: str) -> Peer | None:
        """The incarnation of ``name`` that a session is open with."""
        conversation = self._conversations.get(name)
        return conversation.peer if conversation is not None else None

    def unacked_bytes(self, name: str) -> int:
        """Bytes sent to ``name`` that it hasn't acknowledged."""
        conversation = self._conversations.get(name)
        return conversation.session.unacked_bytes if conversation is not None else 0
