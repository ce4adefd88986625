"""The scheduler in the simulator: the real machine and sessions, the laws checked after every event."""

from __future__ import annotations

from functools import partial
from math import inf
from typing import Any

from futurebroker.protocol.messages import Free
from futurebroker.scheduler import invariants, leases
from futurebroker.scheduler.commands import (
    ClientGone,
    ClientJoined,
    ClientSaid,
    Command,
    Event,
    Forget,
    Tick,
    WorkerBeat,
    WorkerJoined,
    WorkerLost,
    WorkerReturned,
    WorkerSaid,
    WorkerSuspected,
)
from futurebroker.scheduler.machine import SchedulerMachine
from tests.sim.ledger import CommandLedger
from tests.sim.network import End, Hub, Line
from tests.sim.shared import TopicBooks
from tests.sim.world import World

SILENCE = 2.5
WORKER_GRACE = 4.0
CLIENT_GRACE = 12.0
SWEEP_EVERY = 0.5
LAZY = 0.02
#: seconds that sums of times may be off by
SLACK = 1e-6


class SimScheduler(Hub):
    """Events of all lines go into one machine; its commands go out by line, an envelope a peer."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.machine = SchedulerMachine()
        self.ledger = CommandLedger(self.machine.state)
        self.topics = TopicBooks()
        self.lines: dict[str, Line] = {}
        self.ends: dict[str, End] = {}
        self.lazy: dict[str, list[Any]] = {}
        self.heard: dict[str, float] = {}
        self.suspected: dict[str, float] = {}
        #: when the machine has to be woken, as far as it was arranged
        self.tick_due = inf
        #: workers lost that did not say goodbye
        self.losses = 0
        #: workers gone, in whatever way, with what they held
        self.departures = 0
        self.restarts = 0
        #: times the scheduler ended, whatever the next one knew
        self.ends_of_lives = 0
        #: schedule -> how often it has fired in this scheduler's time, and the last moment
        self.fired: dict[str, tuple[int, float]] = {}
        #: stops the laws from being checked, for planted bugs that must show in the outcome
        self.checked = True
        world.after(SWEEP_EVERY, self._sweep)

    def apply(self, event: Event) -> None:
        """One event, all laws, all commands."""
        commands = self.machine.handle(event, self.world.now)
        self.world.trace(f"{event} -> {commands}")
        if self.checked:
            invariants.check(self.machine.state)
            self.ledger.check(event, commands)
            self.topics.check(event, commands)
            self._check_schedules()
        self.departures += isinstance(event, WorkerLost)
        self.losses += isinstance(event, WorkerLost) and not event.expected
        self.let_out(commands)
        self._set_tick()

    def _check_schedules(self) -> None:
        """I7: an entry fires when it is due, and once for each moment at which it is."""
        for name, planned in self.machine.state.beat.items():
            runs, last = self.fired.get(name, (planned.runs, planned.last))
            assert planned.runs - runs <= 1, f"I7: {name} fired {planned.runs - runs} times at once"
            if planned.runs > runs:
                least = planned.schedule.following(last)
                assert least - SLACK <= planned.last <= self.world.now, (
                    f"I7: {name} fired at {planned.last}, not {least}"
                )
            self.fired[name] = planned.runs, planned.last

    def let_out(self, commands: list[Command]) -> None:
        """Carry commands out."""
        outgoing: dict[str, list[Any]] = {}
        for command in commands:
            if isinstance(command, Forget):
                self._forget(command.peer)
                outgoing.pop(command.peer, None)
            else:
                outgoing.setdefault(command.peer, []).append(command.message)
        for peer, messages in outgoing.items():
            waiting = self.lazy.setdefault(peer, [])
            waiting += messages
            if any(not isinstance(message, Free) for message in messages):
                self._send(peer)
            else:  # frees ride along, as in the service
                self.world.after(LAZY, partial(self._send, peer))

    def _set_tick(self) -> None:
        machine, due = self.machine, self.machine.state.timers.due
        if due == self.tick_due or due == inf:
            return
        self.tick_due = due

        def tick() -> None:
            if self.machine is machine and self.tick_due == due:
                self.tick_due = inf
                self.apply(Tick())

        self.world.after(max(0.0, due - self.world.now), tick)

    def _send(self, peer: str) -> None:
        messages = self.lazy.pop(peer, [])
        if (end := self.ends.get(peer)) is not None:
            end.send(messages)

    def _forget(self, name: str) -> None:
        end = self.ends.pop(name, None)
        if end is not None:
            end.closed = True
        self.lazy.pop(name, None)
        self.heard.pop(name, None)
        self.suspected.pop(name, None)

    def restart(self, within: float = 2.0) -> None:
        """The process ends, and one that knows nothing takes its place; who was connected comes again."""
        self.world.trace("the scheduler is restarted")
        self.restarts += 1
        self.ends_of_lives += 1
        lines, self.lines = self.lines, {}
        for end in self.ends.values():
            end.closed = True
        for books in (self.ends, self.lazy, self.heard, self.suspected, self.fired):
            books.clear()
        self.machine.state.close()
        self.machine = SchedulerMachine()
        self.tick_due = inf
        self.ledger = CommandLedger(self.machine.state)
        self.topics = TopicBooks()
        for line in lines.values():
            if line.up and not line.dead:
                line.cut(noticed=False)
                self.world.after(self.world.random.uniform(0.01, within), line.connect)

    # -- what lines tell --------------------------------------------------------------------------------------------

    def greet(self, line: Line) -> End:
        """See `Hub.greet`."""
        end = self.ends.get(line.name)
        is_former = end is None and line.was_welcomed
        if end is None:
            end = self.ends[line.name] = self._end(line)
            self.lines[line.name] = line
            self.world.trace(f"{line.name} is new")
        if is_former:
            leases.expect_reunion(self.machine.state, self.world.now)
        self._hear(line)
        if line.is_worker:
            self.apply(WorkerJoined(line.name, {**line.info, **line.more()}))
        else:
            self.apply(ClientJoined(line.name, line.info))
        return end

    def _end(self, line: Line) -> End:
        direction = "from_worker" if line.is_worker else "from_client"
        end = End(self.world, direction, lambda outgoing: line.transmit_far(end, outgoing))
        said = WorkerSaid if line.is_worker else ClientSaid
        end.deliver = lambda messages: self.apply(said(line.name, messages))
        return end

    def cut(self, line: Line) -> None:
        """See `Hub.cut`."""
        if line.name in self.ends:
            self._suspect(line.name)

    def beat(self, line: Line, status: str, round_trip: float) -> None:
        """See `Hub.beat`."""
        if line.name not in self.ends:
            line.meet_again()
        else:
            self._hear(line)
            if line.is_worker:
                self.apply(WorkerBeat(line.name, status, {}, round_trip))

    def gone(self, line: Line) -> None:
        """See `Hub.gone`."""
        if line.name in self.ends:
            self.apply(WorkerLost(line.name, True) if line.is_worker else ClientGone(line.name))

    def _hear(self, line: Line) -> None:
        self.heard[line.name] = self.world.now
        if self.suspected.pop(line.name, None) is not None and line.is_worker:
            self.apply(WorkerReturned(line.name))

    def _suspect(self, name: str) -> None:
        if name not in self.suspected:
            self.suspected[name] = self.world.now
            if self.lines[name].is_worker:
                self.apply(WorkerSuspected(name))

    def _sweep(self) -> None:
        now = self.world.now
        self.world.after(SWEEP_EVERY, self._sweep)
        for name in list(self.ends):
            line = self.lines[name]
            since = self.suspected.get(name)
            if since is None:
                if now - self.heard[name] > SILENCE:
                    self._suspect(name)
            elif now - since > (WORKER_GRACE if line.is_worker else CLIENT_GRACE):
                self.apply(WorkerLost(name) if line.is_worker else ClientGone(name))
