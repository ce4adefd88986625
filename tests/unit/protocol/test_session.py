"""The session: over a channel that loses, doubles, reorders and breaks, all arrives once, in order, and it rests."""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from futurebroker.exceptions import ProtocolError
from futurebroker.protocol import session as rules
from futurebroker.protocol.session import ACK_DELAY, ACK_EVERY, EARLY_LIMIT, RESEND_AFTER, RESEND_BURST, Session


def take(receiver: Session, sequence: int, body: bytes = b"", now: float = 0.0, ack: int = 0) -> list[bytes]:
    """What becomes due when an envelope arrives."""
    return [bytes(due) for due in receiver.receive(sequence, ack, body, now)]


# -- examples ------------------------------------------------------------------------------------------------------


def test_envelopes_are_numbered_from_one() -> None:
    """Zero is a bare acknowledgement's number."""
    sender = Session()
    assert [sender.send(b"x", 0.0).sequence for _ in range(3)] == [1, 2, 3]
    assert (sender.sent, sender.unacked, sender.unacked_bytes) == (3, 3, 3)


def test_what_comes_early_waits_for_what_is_missing() -> None:
    """Order is what the scheduler's machine relies on: a function before its calls, a result before its release."""
    receiver = Session()
    assert take(receiver, 2, b"b") == []
    assert take(receiver, 3, b"c") == []
    assert take(receiver, 1, b"a") == [b"a", b"b", b"c"]
    assert receiver.received == 3


def test_what_comes_again_is_dropped_counted_and_acknowledged_at_once() -> None:
    """A repetition means that the acknowledgement was lost; waiting would bring another repetition."""
    receiver = Session()
    take(receiver, 1, b"a")
    assert [one.ack for one in receiver.due(ACK_DELAY)] == [1]
    assert take(receiver, 1, b"a") == []
    assert receiver.duplicates == 1
    assert receiver.ack_overdue()
    assert [(one.sequence, one.ack) for one in receiver.due(0.0)] == [(0, 1)]


def test_what_comes_early_twice_counts_once() -> None:
    """Both copies of an envelope may overtake the one before it."""
    receiver = Session()
    take(receiver, 2, b"b")
    take(receiver, 2, b"b")
    assert receiver.duplicates == 1
    assert take(receiver, 1, b"a") == [b"a", b"b"]


def test_an_acknowledgement_covers_all_before_it() -> None:
    """One is enough for many envelopes, and a lost one is made good by the next."""
    sender = Session()
    for _ in range(5):
        sender.send(b"xx", 0.0)
    sender.acknowledge(3, 0.0)
    assert (sender.unacked, sender.unacked_bytes) == (2, 4)
    sender.acknowledge(2, 0.0)  # an old one that was overtaken
    assert sender.unacked == 2
    sender.acknowledge(5, 0.0)
    assert (sender.unacked, sender.unacked_bytes, sender.deadline()) == (0, 0, None)


def test_an_acknowledgement_of_what_was_never_sent_is_refused() -> None:
    """It belongs to another session; believing it would drop what is still needed."""
    sender = Session()
    sender.send(b"x", 0.0)
    with pytest.raises(ProtocolError, match="2 was acknowledged, but only 1"):
        sender.acknowledge(2, 0.0)
    with pytest.raises(ProtocolError):
        sender.receive(1, 9, b"", 0.0)
    assert sender.received == 0
    assert sender.unacked == 1


def test_an_acknowledgement_rides_on_what_is_sent() -> None:
    """A reply tells that the question arrived; nothing else has to leave for it."""
    receiver = Session()
    take(receiver, 1)
    assert receiver.send(b"reply", 0.0).ack == 1
    assert receiver.due(ACK_DELAY) == []


def test_an_acknowledgement_alone_leaves_after_a_moment_and_once() -> None:
    """Forgotten, it would make the other side repeat itself; endless, it would keep both awake for nothing."""
    receiver = Session()
    take(receiver, 1, now=1.0)
    assert receiver.deadline() == 1.0 + ACK_DELAY
    assert receiver.due(1.0) == []
    assert [(one.sequence, one.ack, one.body) for one in receiver.due(1.0 + ACK_DELAY)] == [(0, 1, b"")]
    assert receiver.due(100.0) == []
    assert receiver.deadline() is None


def test_an_acknowledgement_is_not_acknowledged() -> None:
    """Two sessions that answer each other's answers would never stop."""
    one = Session()
    one.send(b"x", 0.0)
    assert one.receive(0, 1, b"", 0.0) == []
    assert one.deadline() is None


def test_many_envelopes_are_acknowledged_without_waiting() -> None:
    """The sender keeps what isn't acknowledged; in a burst that must not grow for the whole delay."""
    receiver = Session()
    for number in range(1, ACK_EVERY):
        take(receiver, number)
        assert not receiver.ack_overdue()
    take(receiver, ACK_EVERY)
    assert receiver.ack_overdue()


def test_what_is_not_acknowledged_is_sent_again_with_growing_patience() -> None:
    """A slow peer must not be buried under repetitions of what it hasn't come to yet."""
    sender = Session()
    for _ in range(RESEND_BURST + 1):
        sender.send(b"x", 0.0)
    assert sender.due(RESEND_AFTER - 0.1) == []
    assert [one.sequence for one in sender.due(RESEND_AFTER)] == list(range(1, RESEND_BURST + 1))
    assert sender.deadline() == RESEND_AFTER + 2 * RESEND_AFTER
    deadlines = []
    for _ in range(10):
        deadlines.append(sender.deadline() or 0.0)
        sender.due(deadlines[-1])
    assert deadlines[-1] - deadlines[-2] == rules.RESEND_AFTER_MAX
    assert sender.is_unheard
    sender.acknowledge(1, 0.0)
    assert sender.deadline() == RESEND_AFTER
    assert not sender.is_unheard


def test_a_new_channel_begins_with_all_the_other_side_lacks() -> None:
    """After a reconnect nothing waits for a timer."""
    sender = Session()
    for name in (b"a", b"b", b"c"):
        sender.send(name, 0.0)
    assert [(one.sequence, one.body) for one in sender.resume(1, 9.0)] == [(2, b"b"), (3, b"c")]
    assert sender.deadline() == 9.0 + RESEND_AFTER
    with pytest.raises(ProtocolError):
        sender.resume(4, 9.0)


def test_what_waits_for_an_earlier_one_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer may have a bug; what is dropped here comes again."""
    receiver = Session()
    take(receiver, 1 << 60)
    take(receiver, EARLY_LIMIT + 1)
    for number in range(2, EARLY_LIMIT + 1):
        take(receiver, number)
    assert len(take(receiver, 1)) == EARLY_LIMIT
    monkeypatch.setattr(rules, "EARLY_BYTES", 100)
    take(receiver, EARLY_LIMIT + 2, bytes(60))
    take(receiver, EARLY_LIMIT + 3, bytes(60))
    assert len(take(receiver, EARLY_LIMIT + 1)) == 2
    take(receiver, EARLY_LIMIT + 4, bytes(90))
    assert len(take(receiver, EARLY_LIMIT + 3)) == 2


def test_a_body_that_waits_is_copied() -> None:
    """The buffer an early envelope came in belongs to the link and is used again."""
    receiver = Session()
    buffer = bytearray(b"b")
    receiver.receive(2, 0, memoryview(buffer), 0.0)
    buffer[0] = 0
    assert take(receiver, 1, b"a") == [b"a", b"b"]


# -- any channel ---------------------------------------------------------------------------------------------------


@dataclass
class Side:
    """A session and what came out of it."""

    session: Session = field(default_factory=Session)
    sent: list[bytes] = field(default_factory=list)
    got: list[bytes] = field(default_factory=list)


class Channel:
    """Two sessions in virtual time and what lies between them, which may lose, double, delay and cut."""

    def __init__(self, seed: int, loss: float, doubling: float, jitter: float) -> None:
        self.random = Random(seed)
        self.loss, self.doubling, self.jitter = loss, doubling, jitter
        self.sides = (Side(), Side())
        self.now = 0.0
        self.carried = 0
        self._number = itertools.count()
        #: (when, number, from which side, sequence, ack, body)
        self.under_way: list[tuple[float, int, int, int, int, bytes]] = []

    def say(self, side: int, body: bytes) -> None:
        """One side sends."""
        self.sides[side].sent.append(body)
        self.carry(side, self.sides[side].session.send(body, self.now))

    def carry(self, side: int, outgoing: rules.Outgoing) -> None:
        """An envelope goes its way, if it does."""
        self.carried += 1
        for _ in range(1 + (self.random.random() < self.doubling)):
            if self.random.random() >= self.loss:
                when = self.now + 0.001 + self.random.random() * self.jitter
                entry = (when, next(self._number), side, outgoing.sequence, outgoing.ack, outgoing.body)
                heapq.heappush(self.under_way, entry)

    def cut(self) -> None:
        """The channel breaks with all that is under way; both say hello on another."""
        self.under_way.clear()
        received = [side.session.received for side in self.sides]
        for number, side in enumerate(self.sides):
            for outgoing in side.session.resume(received[1 - number], self.now):
                self.carry(number, outgoing)

    def run(self, until: float) -> None:
        """Let things happen up to a time, or until nothing is going to."""
        while True:
            deadlines = [side.session.deadline() for side in self.sides]
            arrivals = [self.under_way[0][0]] if self.under_way else []
            times = arrivals + [deadline for deadline in deadlines if deadline is not None]
            if not times or min(times) > until:
                break
            self.now = max(self.now, min(times))
            while self.under_way and self.under_way[0][0] <= self.now:
                _, _, sender, sequence, ack, body = heapq.heappop(self.under_way)
                receiver = self.sides[1 - sender]
                receiver.got += [bytes(due) for due in receiver.session.receive(sequence, ack, body, self.now)]
                if receiver.session.ack_overdue():
                    self.settle(1 - sender)
            for number in (0, 1):
                self.settle(number)
        self.now = max(self.now, until) if until < float("inf") else self.now

    def settle(self, number: int) -> None:
        """Send what time alone makes necessary."""
        for outgoing in self.sides[number].session.due(self.now):
            self.carry(number, outgoing)


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("say"), st.integers(0, 1), st.integers(1, 40)),
        st.tuples(st.just("wait"), st.just(0), st.integers(0, 3000)),
        st.tuples(st.just("cut"), st.just(0), st.just(0)),
    ),
    max_size=25,
)


@given(
    actions=ACTIONS,
    seed=st.integers(0, 1 << 32),
    loss=st.floats(0, 0.6),
    doubling=st.floats(0, 0.6),
    jitter=st.floats(0, 3.0),
)
def test_any_channel_delivers_everything_once_and_in_order_and_falls_quiet(
    actions: list[tuple[str, int, int]], seed: int, loss: float, doubling: float, jitter: float
) -> None:
    """This is all that the rest of the system assumes about the network."""
    channel = Channel(seed, loss, doubling, jitter)
    names = itertools.count()
    for action, side, amount in actions:
        if action == "say":
            for _ in range(amount):
                channel.say(side, b"%d" % next(names))
        elif action == "cut":
            channel.cut()
        else:
            channel.run(channel.now + amount / 1000)
    channel.loss = min(channel.loss, 0.5)
    channel.run(channel.now + 3600)
    channel.loss = 0.0
    channel.run(float("inf"))  # ends only because nothing is due any more
    one, two = channel.sides
    assert one.got == two.sent
    assert two.got == one.sent
    for session in (one.session, two.session):
        assert (session.unacked, session.unacked_bytes) == (0, 0)
        assert session.deadline() is None


@given(st.integers(0, 400), st.integers(0, 400))
def test_a_channel_without_faults_carries_little_more_than_what_is_said(forth: int, back: int) -> None:
    """Repetitions and acknowledgements must not cost what sessions are there to save."""
    channel = Channel(0, 0.0, 0.0, 0.0)
    for _ in range(forth):
        channel.say(0, b"x")
    for _ in range(back):
        channel.say(1, b"y")
    channel.run(float("inf"))
    assert channel.carried <= forth + back + forth // ACK_EVERY + back // ACK_EVERY + 2
    assert [side.session.duplicates for side in channel.sides] == [0, 0]
