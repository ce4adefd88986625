"""One process's place on the network: a link, a session with each peer, and the batches on their way.

An endpoint belongs to one asyncio loop and is used from its thread only. Messages for a peer collect while the loop is
busy and leave together when it comes round: nothing waits for a timer, and a burst becomes few envelopes. Envelopes
that aren't ours (garbage, a wrong signature, another cluster) are counted, logged once a kind, and dropped unparsed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from futurebroker.exceptions import ProtocolError, SignatureError
from futurebroker.protocol.attachment import Attachment
from futurebroker.protocol.conversation import Conversation, Unhurried, direction_of
from futurebroker.protocol.events import EndpointEvents
from futurebroker.protocol.messages import Message, decode, encode
from futurebroker.protocol.parking import Rejections, parked
from futurebroker.protocol.queues import command_queue
from futurebroker.protocol.session import ACK_DELAY, ACK_EVERY, RESEND_AFTER, Outgoing
from futurebroker.protocol.sessions import Sessions
from futurebroker.protocol.wire import Header, Keyring, Kind
from futurebroker.transport.base import Link
from futurebroker.types import Peer

logger = logging.getLogger("futurebroker.endpoint")

#: bytes a message outside of sessions may have
MEETING_BYTES = 1024 * 1024


class Endpoint(Sessions):
    """See the top of this file.

    Args:
        me: this process.
        cluster: envelopes of other clusters are dropped.
        epoch: of the scheduler; carried by every envelope.
        on_blocked: told when the broker asks to stop sending, and when it takes messages again.
        dead_queue: where commands go that aren't ours or whose signature doesn't fit, if the link keeps such a queue.
    """

    def __init__(
        self,
        me: Peer,
        cluster: str,
        keyring: Keyring,
        events: EndpointEvents,
        loop: asyncio.AbstractEventLoop,
        *,
        on_blocked: Callable[[bool], None] | None = None,
        dead_queue: str = "",
    ) -> None:
        super().__init__()
        self.me = me
        self.cluster = cluster
        self.epoch = 0
        #: envelopes dropped, by reason
        self.rejected = Rejections()
        #: whether numbered envelopes are dropped unread; their senders keep them
        self.is_deaf = False
        self._keyring = keyring
        self._events = events
        self._loop = loop
        self._on_blocked = on_blocked
        self._dead_queue = dead_queue
        self._is_blocked = False
        self._link: Link | None = None
        #: what reads the link
        self.attachment: Attachment | None = None
        self._waiting: dict[str, Conversation] = {}
        self._unhurried = Unhurried(loop, self._hurry)
        self._flush_due = False
        self._in_turn = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._confirmed: asyncio.Future[None] | None = None

    # -- the link ---------------------------------------------------------------------------------------------------

    @property
    def has_link(self) -> bool:
        """Whether a link is attached and has not ended."""
        return self._link is not None

    @property
    def token(self) -> str:
        """What the scheduler is told by the broker when our connection ends; empty where it isn't told."""
        return self._link.capabilities.token if self._link is not None else ""

    @property
    def hears(self) -> bool:
        """Whether peers could be heard: False without a link, and while the broker takes nothing from anybody."""
        return self._link is not None and not self._is_blocked

    def attach(self, link: Link) -> None:
        """Use a freshly opened ``link``; sessions go on only when `open` says where their peers are now."""
        self._link = link
        self._set_blocked(False)
        for conversation in self._conversations.values():
            conversation.connected = False
        self.attachment = Attachment(self._loop, link, self.turn)
        self.attachment.begin(self)
        self._arm(link.tick(self._loop.time()))
        self._schedule_flush()

    def close(self) -> None:
        """Send what waits, as far as that needs no waiting, and close the link. May be called twice."""
        if self._link is not None:
            self.flush()
            link = self._detach()
            if link is not None:
                link.close()
        self._unhurried.cancel()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _detach(self) -> Link | None:
        link, self._link = self._link, None
        if self.attachment is not None:
            self.attachment.end()
            self.attachment = None
        return link

    def turn(self, call: Callable[[], object]) -> None:
        """Run ``call`` and send at once what it led to: going round the loop first would only cost time."""
        outer, self._in_turn = self._in_turn, True
        try:
            call()
        finally:
            self._in_turn = outer
            if self._flush_due and not outer:
                self.flush()

    # -- sending ----------------------------------------------------------------------------------------------------

    def open(self, peer: Peer, destination: str, received: int, *, resumed: bool = False) -> None:
        """Begin or go on with the session of ``peer``, who has everything up to envelope ``received``.

        Args:
            resumed: the peer took up the session of its former incarnation.

        Raises:
            ProtocolError: that many were never sent.
        """
        conversation = self._conversations.get(peer.name)
        if resumed and conversation is not None and conversation.peer != peer:
            conversation.resume_with(peer)
        elif conversation is None or conversation.peer != peer:
            self.forget(peer.name)
            conversation = self._begin(peer, destination)
        again = conversation.session.resume(received, self._loop.time())
        self._conversations[peer.name] = conversation
        conversation.destination = destination
        conversation.durable = self._is_durable(destination)
        conversation.connected = True
        conversation.withheld.clear()
        for outgoing in again:
            self._transmit(conversation, outgoing)
        if conversation.batch:
            self._waiting[peer.name] = conversation
        self._schedule_flush()

    def received(self, queue: str, body: bytes, tag: int) -> None:
        """A link's delivery; see `LinkEvents.received`."""
        try:
            role, header, content = self._keyring.open(body, self.me.role)
        except ProtocolError as error:
            reason = "signature" if isinstance(error, SignatureError) else "garbage"
            self.rejected.note(reason, str(error))
            if tag:
                self._park(queue, body, reason, str(error))
        else:
            if header.cluster != self.cluster or header.recipient != self.me.name:
                self.rejected.note("address", f"an envelope for {header.recipient} of cluster {header.cluster}")
            else:
                conversation = self._conversations.get(header.sender)
                if conversation is not None:
                    peer = conversation.peer
                    if peer.incarnation != header.incarnation or peer.role is not role:
                        conversation = None
                if header.kind == Kind.MEETING:
                    self._meet(Peer(role, header.sender, header.incarnation), content)
                elif header.kind == Kind.DATA and self.is_deaf:
                    self.rejected["deaf"] += 1
                elif conversation is None:
                    self.rejected["stranger"] += 1
                    self._tell(self._events.stranger, Peer(role, header.sender, header.incarnation))
                else:
                    self._take(conversation, header, content)
        if tag and self._link is not None:
            self._ack(self._link, tag)
            self._schedule_flush()

    def _begin(self, peer: Peer, destination: str) -> Conversation:
        return Conversation(peer, destination)

    def _ack(self, link: Link, tag: int) -> None:
        link.ack(tag)

    def forget(self, name: str) -> None:
        """End the session of ``name``; what it hasn't acknowledged is dropped."""
        self._conversations.pop(name, None)
        self._waiting.pop(name, None)

    def renew(self, incarnation: str) -> None:
        """Be another incarnation from now on: all sessions end, and what they held is dropped."""
        self.me = replace(self.me, incarnation=incarnation)
        self.epoch = 0
        self._conversations.clear()
        self._waiting.clear()

    def send(self, name: str, message: Message) -> None:
        """Send ``message`` to the peer ``name`` in its session; dropped if there is none."""
        self.send_all(name, (message,))

    def send_all(self, name: str, messages: Sequence[Message]) -> bool:
        """Send ``messages`` to the peer ``name`` in its session, in order; False if there is none: they are dropped."""
        conversation = self._conversations.get(name)
        if conversation is None:
            return False
        if messages:
            conversation.batch += messages
            if conversation.connected:
                self._waiting[name] = conversation
                if not self._flush_due:
                    self._schedule_flush()
        return True

    def send_now(self, name: str, messages: Sequence[Message]) -> bool:
        """As `send_all`, and let them leave at once instead of when the loop comes round: little may follow."""
        outer, self._in_turn = self._in_turn, True
        try:
            return self.send_all(name, messages)
        finally:
            self._in_turn = outer
            if self._flush_due and not outer:
                self.flush()

    def send_lazily(self, name: str, message: Message) -> None:
        """As `send`, for what isn't urgent: it goes with the next message to that peer, or alone after a moment."""
        conversation = self._conversations.get(name)
        if conversation is None:
            return
        conversation.batch.append(message)
        self._unhurried.add(conversation)

    def _hurry(self, conversations: list[Conversation]) -> None:
        for conversation in conversations:
            name = conversation.peer.name
            if conversation.batch and self._conversations.get(name) is conversation:
                self._waiting[name] = conversation
        self._schedule_flush()

    def probe(self, name: str) -> None:
        """Ask the broker whether the inbox of ``name`` is still there; `EndpointEvents.returned` tells if it isn't.

        Without effect on links whose broker can't tell.
        """
        conversation, link = self._conversations.get(name), self._link
        if conversation is None or link is None or self._is_blocked or not link.capabilities.mandatory:
            return
        envelope = self._seal(Kind.ACK, conversation.peer, b"", ack=conversation.session.received)
        link.send(conversation.destination, envelope, mandatory=True)
        self._schedule_flush()

    def send_meeting(
        self, peer: Peer, destination: str, message: Message, *, mandatory: bool = False, durable: bool = False
    ) -> None:
        """Send ``message`` outside any session; it may be lost, and is while the broker asks to stop.

        Args:
            durable: keep its place behind what `keep_open` sent.
            mandatory: have `EndpointEvents.returned` told, where links can, when there is no such destination.
        """
        if self._link is not None and not self._is_blocked:
            kept = durable and self._is_durable(destination)
            envelope = self._seal(Kind.MEETING, peer, encode([message]))
            self._link.send(destination, envelope, mandatory=mandatory, durable=kept)
            self._schedule_flush()

    def keep_open(self) -> asyncio.Future[None] | None:
        """Send what our peers haven't acknowledged once more, for the broker to keep when we are gone.

        Settled once the broker has that and what is sent durably after it, or the link is lost. None where there is
        nothing to keep, since our peers have acknowledged everything, or nobody who would.
        """
        link = self._link
        kept = [one for one in self._conversations.values() if one.durable and one.connected and one.session.unacked]
        if link is None or not kept or not link.capabilities.confirms or self._is_blocked:
            return None
        self._confirmed = self._loop.create_future()
        link.begin_confirms()
        for conversation in kept:
            for outgoing in conversation.session.open_envelopes():
                self._transmit(conversation, outgoing, durable=True)
        self._schedule_flush()
        return self._confirmed

    def _schedule_flush(self) -> None:
        if not self._flush_due and self._link is not None:
            self._flush_due = True
            if not self._in_turn:
                self._loop.call_soon(self._flush_if_due)

    def _flush_if_due(self) -> None:
        if self._flush_due:
            self.flush()

    def flush(self) -> None:
        """Send now what collected."""
        self._flush_due = False
        link = self._link
        if link is None:
            return
        if self._waiting:
            waiting, self._waiting = self._waiting, {}
            now = self._loop.time()
            for conversation in waiting.values():
                self._flush_conversation(conversation, now)
        link.flush()
        if self.attachment is not None:
            self.attachment.watch_writes()

    def _flush_conversation(self, conversation: Conversation, now: float) -> None:
        if not conversation.connected:
            return
        session = conversation.session
        for body in conversation.bodies(self.rejected.note):
            self._transmit(conversation, session.send(body, now))
        if self._timer is None or self._timer_at > now + RESEND_AFTER:
            self._arm(session.deadline())  # what was sent makes nothing due before

    def _transmit(self, conversation: Conversation, outgoing: Outgoing, *, durable: bool = False) -> None:
        if self._link is None:
            return
        if self._is_blocked:
            # kept here: in the link's buffer every repetition would come on top
            if outgoing.sequence:
                conversation.withheld.append(outgoing)
            return
        me, peer, sequence = self.me, conversation.peer, outgoing.sequence
        kind = Kind.DATA if sequence else Kind.ACK
        ids = (self.cluster, me.name, me.incarnation, peer.name, self.epoch)
        envelope = self._keyring.seal(me.role, peer.role, Header(kind, *ids, sequence, outgoing.ack), outgoing.body)
        # Who acknowledges in time has it before a broker could have written it down.
        kept = conversation.durable and sequence > 0 and (durable or conversation.session.is_unheard)
        self._link.send(conversation.destination, envelope, durable=kept)

    def _seal(self, kind: Kind, peer: Peer, body: bytes, ack: int = 0) -> bytes:
        me = self.me
        header = Header(kind, self.cluster, me.name, me.incarnation, peer.name, self.epoch, ack=ack)
        return self._keyring.seal(me.role, peer.role, header, body)

    def _is_durable(self, destination: str) -> bool:
        """Whether what is sent there outlives the broker: commands do, inboxes end with it in any case."""
        link = self._link
        return link is not None and link.capabilities.durable and destination == command_queue(self.cluster)

    # -- receiving --------------------------------------------------------------------------------------------------

    def _meet(self, peer: Peer, content: memoryview) -> None:
        if len(content) > MEETING_BYTES:
            self.rejected.note("oversize", f"{len(content):,} bytes of {peer.name} outside of its session")
            return
        try:
            messages = decode(direction_of(self.me.role, peer.role), content)
        except ProtocolError as error:
            self.rejected.note("garbage", str(error))
            return
        for message in messages:
            self._tell(self._events.meet, peer, message)

    def _take(self, conversation: Conversation, header: Header, content: memoryview) -> None:
        peer, session = conversation.peer, conversation.session
        now = self._loop.time()
        try:
            bodies = session.receive(header.sequence, header.ack, content, now)
        except ProtocolError as error:
            self.rejected.note("garbage", str(error))
            return
        for body in bodies:
            try:
                messages = conversation.open(direction_of(self.me.role, peer.role), body)
            except ProtocolError as error:
                self.rejected.note("garbage", str(error))
                continue
            if messages:
                try:
                    self._events.deliver(peer, messages)
                except Exception as error:  # noqa: BLE001 - handed on
                    self._raised(self._events.deliver, error)
            if self._conversations.get(peer.name) is not conversation:
                return
        if session.owed >= ACK_EVERY:
            self._acknowledge(conversation)
        elif self._timer is None or self._timer_at > now + ACK_DELAY:
            self._arm(session.deadline())  # what came makes nothing due before

    def _acknowledge(self, conversation: Conversation) -> None:
        """See to it that the peer learns in time what arrived."""
        session = conversation.session
        if not session.ack_overdue() or not conversation.connected or self._is_blocked:
            self._arm(session.deadline())
            return
        if conversation.batch:
            self._waiting[conversation.peer.name] = conversation  # its envelope carries the acknowledgement
        else:
            for outgoing in session.due(self._loop.time()):
                self._transmit(conversation, outgoing)
        self._schedule_flush()

    def _tell(self, call: Callable[..., None], *arguments: object) -> None:
        """Call our owner. Its mistakes are not the link's: that goes on with what came after."""
        try:
            call(*arguments)
        except Exception as error:  # noqa: BLE001 - handed on
            self._raised(call, error)

    def _raised(self, call: Callable[..., None], error: Exception) -> None:
        self._loop.call_exception_handler(
            {"message": f"{call.__name__} of {type(self._events).__name__} raised", "exception": error}
        )

    def _park(self, queue: str, body: bytes, reason: str, text: str) -> None:
        link = self._link
        if link is None or not self._dead_queue or not link.capabilities.durable or self._is_blocked:
            return
        link.send(self._dead_queue, parked(queue, body, reason, text), durable=True)

    # -- link events ------------------------------------------------------------------------------------------------

    def returned(self, destination: str) -> None:
        """See `LinkEvents.returned`."""
        self._tell(self._events.returned, destination)

    def confirmed(self) -> None:
        """See `LinkEvents.confirmed`."""
        if self._confirmed is not None and not self._confirmed.done():
            self._confirmed.set_result(None)

    def blocked(self, is_blocked: bool) -> None:
        """See `LinkEvents.blocked`."""
        if is_blocked != self._is_blocked:
            logger.warning("the broker %s", "asks to stop sending" if is_blocked else "takes messages again")
            self._set_blocked(is_blocked)
            self._schedule_flush()

    def _set_blocked(self, is_blocked: bool) -> None:
        if is_blocked == self._is_blocked:
            return
        self._is_blocked = is_blocked
        if not is_blocked:
            for conversation in self._conversations.values():
                withheld, conversation.withheld = conversation.withheld, []
                if conversation.connected:
                    for outgoing in withheld:
                        self._transmit(conversation, outgoing)
            self._arm(self._loop.time())
        if self._on_blocked is not None:
            self._on_blocked(is_blocked)

    def disconnected(self, error: Exception | None) -> None:
        """See `LinkEvents.disconnected`."""
        self.confirmed()
        if self._detach() is not None:
            for conversation in self._conversations.values():
                conversation.connected = False
            self._events.disconnected(error)

    # -- time -------------------------------------------------------------------------------------------------------

    def _arm(self, deadline: float | None) -> None:
        if deadline is None or (self._timer is not None and self._timer_at <= deadline):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = deadline
        self._timer = self._loop.call_at(deadline, self._tick)

    def _tick(self) -> None:
        self._timer = None
        link = self._link
        if link is None:
            return
        now = self._loop.time()
        earliest = link.tick(now)
        for conversation in self._conversations.values():
            if not conversation.connected or self._is_blocked:
                continue
            session = conversation.session
            for outgoing in session.due(now):
                self._transmit(conversation, outgoing)
            earliest = min(earliest, session.deadline() or earliest)
        self._schedule_flush()
        self._arm(earliest)
