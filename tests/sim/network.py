"""Lines between the scheduler and its peers: they lose, double, delay and reorder envelopes, and get cut.

Each end of a line has a real `Session`. After a cut the peer says hello until it is welcomed; then both go on where the
other's session stands, or begin anew when the scheduler has given the peer up meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from futurebroker.protocol import messages as m
from futurebroker.protocol.session import Outgoing, Session
from tests.sim.world import World

#: seconds between hellos that go unanswered
HELLO_EVERY = 1.0


@dataclass
class Weather:
    """How bad the network is."""

    drop: float = 0.0
    double: float = 0.0
    slow: float = 0.0  #: share of envelopes that take `SLOW` times as long
    delay: float = 0.005


SLOW = 40


class End:
    """One side's half: a session, what waits while there is no line, and the timer that time alone needs."""

    def __init__(self, world: World, direction: str, transmit: Callable[[Outgoing], None]) -> None:
        self.world = world
        self.direction = direction  #: of what arrives here
        self.session = Session()
        self.connected = False
        self.closed = False
        #: drops what arrives, as if it had been lost
        self.deaf = False
        #: what an end and those that go on with its session have in common
        self.conversation: object = self
        self.deliver: Callable[[list[Any]], None] = lambda messages: None
        self._batch: list[m.Message] = []
        self._transmit = transmit
        self._timer: float | None = None

    def send(self, messages: list[Any]) -> None:
        """Send these in one envelope, now or when there is a line again."""
        if not self.connected:
            self._batch += messages
        elif messages:
            self._transmit(self.session.send(m.encode(messages), self.world.now))
            self._arm()

    def receive(self, sequence: int, ack: int, body: bytes) -> None:
        """An envelope came out of the line."""
        if self.closed or self.deaf:
            return
        bodies = self.session.receive(sequence, ack, body, self.world.now)
        self._arm()
        for each in bodies:
            self.deliver(m.decode(self.direction, each))
        if self.session.ack_overdue():
            self._tick()

    def look(self) -> None:
        """An acknowledgement may be due."""
        self._arm()
        if self.session.ack_overdue():
            self._tick()

    def open(self, received: int) -> None:
        """There is a line, and the other side has everything up to ``received``."""
        self.connected = True
        for outgoing in self.session.resume(received, self.world.now):
            self._transmit(outgoing)
        batch, self._batch = self._batch, []
        self.send(batch)
        self._arm()

    def begin_anew(self) -> None:
        """The other side knows nothing of this conversation."""
        self.session = Session()
        self._batch = []

    def _arm(self) -> None:
        deadline = self.session.deadline()
        if deadline is not None and (self._timer is None or deadline < self._timer):
            self._timer = deadline
            self.world.at(deadline, self._due)

    def _due(self) -> None:
        if self._timer is not None and self.world.now >= self._timer:
            self._timer = None
            self._tick()

    def _tick(self) -> None:
        if self.connected and not self.closed:
            for outgoing in self.session.due(self.world.now):
                self._transmit(outgoing)
            self._arm()


class Hub:
    """What a line needs of the scheduler's side."""

    def greet(self, line: Line) -> End:
        """A peer says hello; returns our end for it, a new one when the peer is not known."""
        raise NotImplementedError

    def cut(self, line: Line) -> None:
        """The connection of this peer is seen to be closed."""
        raise NotImplementedError

    def beat(self, line: Line, status: str, round_trip: float) -> None:
        """A heartbeat came."""
        raise NotImplementedError

    def gone(self, line: Line) -> None:
        """A goodbye came."""
        raise NotImplementedError


class Line:
    """The way between one peer and the scheduler."""

    def __init__(self, world: World, weather: Weather, hub: Hub, name: str, is_worker: bool, info: dict[str, Any]):
        self.world = world
        self.weather = weather
        self.hub = hub
        self.name = name
        self.is_worker = is_worker
        self.info = info
        self.generation = 0
        self.up = False
        self.welcomed = False
        self.dead = False
        self.near = End(world, "to_worker" if is_worker else "to_client", self._to_hub)
        self.far: End | None = None
        self.on_fresh: Callable[[], None] = lambda: None
        self.on_resumed: Callable[[], None] = lambda: None
        #: what a hello tells beyond that
        self.more: Callable[[], dict[str, Any]] = dict
        self._known: End | None = None  #: whom the peer was last welcomed by
        self.lost_at = 0.0  #: when the peer was last in touch, if it isn't

    @property
    def was_welcomed(self) -> bool:
        """Whether the peer has known a scheduler."""
        return self._known is not None

    # -- connecting -------------------------------------------------------------------------------------------------

    def connect(self) -> None:
        """Open the line and say hello until welcomed."""
        if self.dead or self.up:
            return
        self.generation += 1
        self.up = True
        self.welcomed = False
        self._hello(self.generation)

    def cut(self, noticed: bool) -> None:
        """The connection breaks; what is in it is lost."""
        if self.welcomed:
            self.lost_at = self.world.now
        self.generation += 1
        self.up = self.welcomed = self.near.connected = False
        if self.far is not None:
            self.far.connected = False
        if noticed:
            self.hub.cut(self)

    def meet_again(self) -> None:
        """The scheduler has given the peer up, and hears of it: it has to say hello."""
        self.cut(noticed=False)
        self.connect()

    def end(self) -> None:
        """The peer is gone for good."""
        self.dead = self.near.closed = True
        self.up = False
        self.generation += 1

    def _hello(self, generation: int) -> None:
        if generation == self.generation and self.up and not self.welcomed:
            received, known = self.near.session.received, self._known
            self._carry(lambda: self._greeted(generation, received, known))
            self.world.after(HELLO_EVERY, lambda: self._hello(generation))

    def _greeted(self, generation: int, received: int, known: End | None) -> None:
        if generation != self.generation or self.dead:
            return
        end = self.far = self.hub.greet(self)
        ours = end.session.received
        self._carry(lambda: self._welcome(generation, ours, end))
        end.open(received if known is end else 0)

    def _welcome(self, generation: int, received: int, end: End) -> None:
        if generation != self.generation or self.welcomed or end is not self.far:
            return
        self.welcomed = True
        resumed = False
        if self._known is not None and end is not self._known:
            resumed = end.conversation is self._known.conversation
            if resumed:
                self.near.session.receive_anew()
            else:
                self.near.begin_anew()
                self.on_fresh()
        self._known = end
        self.near.open(received)
        if resumed:
            self.on_resumed()

    # -- carrying ---------------------------------------------------------------------------------------------------

    def transmit_far(self, end: End, outgoing: Outgoing) -> None:
        """From the scheduler to the peer; lost with the connection."""
        generation = self.generation

        def arrive() -> None:
            if generation == self.generation and self.welcomed and self._known is end:
                self.near.receive(outgoing.sequence, outgoing.ack, outgoing.body)

        self._carry(arrive)

    def _to_hub(self, outgoing: Outgoing) -> None:
        end = self._known

        def arrive() -> None:
            if end is not None and end is self.far and not end.closed:  # may come late, from an earlier connection
                end.receive(outgoing.sequence, outgoing.ack, outgoing.body)

        self._carry(arrive)

    def beat(self, status: str) -> None:
        """Send a heartbeat."""
        if self.welcomed:
            trip = self.world.random.uniform(0.5, 2) * self.weather.delay * 2
            generation = self.generation

            def arrive() -> None:
                if generation == self.generation:
                    self.hub.beat(self, status, trip)

            self._carry(arrive)

    def _carry(self, arrive: Callable[[], None]) -> None:
        world, weather = self.world, self.weather
        if not self.up or world.chance(weather.drop):
            return
        for _ in range(2 if world.chance(weather.double) else 1):
            delay = world.random.uniform(0.2, 2) * weather.delay
            world.after(delay * SLOW if world.chance(weather.slow) else delay, arrive)
