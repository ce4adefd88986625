"""A scheduler with a journal in the simulator: batches, commits that fail or come late, and crashes in between.

What is written is a list of bytes. As in the service, what tells a client, acknowledges or frees waits for the commit;
a crash loses what was not written, or comes when it was written and nobody told.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from functools import partial
from math import inf
from typing import Any

from futurebroker.protocol import messages as m
from futurebroker.protocol.facts import VERSION, Batch, Cursor, Said, decode_batch, encode_batch
from futurebroker.scheduler import beat, recovery, resuming
from futurebroker.scheduler.commands import Command, Event, Forget, Send, WorkerSaid, WorkersBack
from futurebroker.scheduler.machine import SchedulerMachine
from futurebroker.scheduler.shelving import SHELF
from futurebroker.scheduler.state import MEMORY, Policy, SchedulerState, Shelf
from tests.sim.ledger import CommandLedger
from tests.sim.network import End, Line
from tests.sim.scheduler import SimScheduler
from tests.sim.shared import TopicBooks
from tests.sim.shelf import SimShelf
from tests.sim.world import World
from tests.unit.scheduler.projection import projection

#: seconds until a commit is done, at most, and between attempts at one that fails
COMMIT = 0.02
AGAIN = 0.1
#: seconds a journal may fail before nobody is heard any more, and that it fails at most
PATIENCE = 0.5
FAILING = 3.0
#: seconds that workers have to come back
COME_BACK = 3.0
#: kept results leave soon, and sooner when they are many
POLICY = Policy(results_kept=3, results_leave=0.4)


class _NoLedger(CommandLedger):
    """What a former scheduler was told is not in the books of the next; the outcome has to be right."""

    def check(self, event: Event, commands: Sequence[Command]) -> None:
        """Nothing."""


class DurableSimScheduler(SimScheduler):
    """See the top of this file."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.rows: list[bytes] = []
        self.epoch = 0
        self.lives = 0
        self._failing_until = 0.0
        #: seconds within which peers come again after it is killed in the next commit, if it is to be
        self._doomed: float | None = None
        #: keys that clients were told to be finished
        self._told_keys: set[str] = set()
        #: keys that mean one thing after the other
        self.reused: Container[str] = ()
        self.shelf = SimShelf(world, lambda: world.now < self._failing_until)
        self._begin_life()

    def _begin_life(self) -> None:
        self.lives += 1
        self.epoch += 1
        self.machine = SchedulerMachine(POLICY)
        state = self.machine.state
        recovery.begin(state)
        cursors: dict[str, Cursor] = {}
        for row in self.rows:
            batch = decode_batch(row)
            recovery.replay(state, batch.facts, 0.0)
            for cursor in batch.cursors:
                if cursor.received < 0:
                    cursors.pop(cursor.name, None)
                else:
                    cursors[cursor.name] = cursor
        state.facts = []
        self.cursors = cursors
        self._batch: bytes | None = None
        self._held: list[Command] = []
        self._later: list[Command] = []
        self._arrived: dict[str, None] = {}
        self._dirty: dict[str, None] = {}
        self._looking = False
        self._awaited = {name for name, cursor in cursors.items() if cursor.role}
        self.tick_due = inf
        self.ledger = CommandLedger(state) if self.lives == 1 else _NoLedger(state)
        self.topics = TopicBooks()
        state.shelf = Shelf()
        self.shelf.begin(lambda messages: self.apply(WorkerSaid(SHELF, messages)))
        resuming.ready(state, self.epoch, self.world.now, COME_BACK)
        self._set_tick()
        if not self._awaited:
            self.apply(WorkersBack())

    # -- batches ----------------------------------------------------------------------------------------------------

    def let_out(self, commands: list[Command]) -> None:
        """Let out what may leave, and keep the rest; see `durability`."""
        state = self.machine.state
        if not state.facts and self._batch is None and not self._later:
            self._leave(commands)
            return
        now: list[Command] = []
        for command in commands:
            if isinstance(command, Forget):
                self._later = [one for one in self._later if one.peer != command.peer]
                now.append(command)
            elif command.peer not in state.workers or self._waits(command.peer, command.message):
                self._later.append(command)
            else:
                self._keep_given(command.peer, command.message)
                now.append(command)
        self._leave(now)
        self._look_soon()

    def _leave(self, commands: list[Command]) -> None:
        """These leave now; what is for the shelf is a matter of this process."""
        for command in commands:
            if command.peer == SHELF and isinstance(command, Send):
                self.shelf.tell(command.message)
        super().let_out([command for command in commands if command.peer != SHELF])

    def _waits(self, peer: str, message: Any) -> bool:
        """Whether a message to a worker must not leave before what led to it is written."""
        if isinstance(message, m.Run) and message.key in self.machine.state.guarded:
            return True
        sent = (one for one in (*self._held, *self._later) if isinstance(one, Send))
        held = any(one.peer == peer and isinstance(one.message, m.Run) for one in sent)
        return held or isinstance(message, (m.Free, m.Leave))

    def _keep_given(self, peer: str, message: Any) -> None:
        """A result that a worker is given anew must not go with a Free of the former."""
        if not isinstance(message, (m.Run, m.Store, m.AdoptFile, m.StorePart, m.Replicate)):
            return
        key = message.source.key if isinstance(message, m.Replicate) else message.key
        for commands in (self._later, self._held):
            for place, one in enumerate(commands):
                if isinstance(one, Send) and one.peer == peer and isinstance(one.message, m.Free):
                    commands[place] = Send(one.peer, m.Free([free for free in one.message.keys if free != key]))

    def _look_soon(self) -> None:
        if not self._looking:
            self._looking = True
            self.world.after(0.0, partial(self._look, self.lives))

    def _look(self, life: int) -> None:
        if life != self.lives:
            return
        self._looking = False
        if self._batch is not None:
            return
        state = self.machine.state
        arrived = {name: end.session.received for name in self._arrived if (end := self.ends.get(name)) is not None}
        self._arrived.clear()
        self._held, self._later = self._later, []
        if not state.facts and not self._dirty:
            self._told(arrived)
            return
        names = {**arrived, **self._dirty}
        self._dirty = {}
        state.guarded.clear()
        cursors = []
        for name in names:
            end = self.ends.get(name)
            is_worker = name in self.lines and self.lines[name].is_worker
            cursors.append(Cursor(int(is_worker), name, "", -1 if end is None else end.session.received))
        self._batch = encode_batch(Batch(VERSION, self.world.now, self.world.now, state.facts or [], cursors))
        state.facts = []
        self._commit_later(arrived, self.world.now)

    def restart_in_a_commit(self, within: float) -> None:
        """As `restart`, once there is something that was applied and is not written."""
        self._doomed = within

    def _commit_later(self, arrived: dict[str, int], began: float) -> None:
        failing = self.world.now < self._failing_until
        if failing and self.world.now - began > PATIENCE:
            for end in self.ends.values():
                end.deaf = True
        pause = AGAIN if failing else self.world.random.uniform(0, COMMIT)
        if self._doomed is not None:
            within, self._doomed = self._doomed, None
            self.world.after(0.9 * pause, partial(self.restart, within))
        self.world.after(pause, partial(self._commit, self.lives, arrived, began))

    def _commit(self, life: int, arrived: dict[str, int], began: float) -> None:
        if life != self.lives:
            return
        if self.world.now < self._failing_until:
            self._commit_later(arrived, began)
            return
        assert self._batch is not None
        self.rows.append(self._batch)
        self._batch = None
        for end in self.ends.values():
            end.deaf = False
        self._told(arrived)

    def _told(self, arrived: dict[str, int]) -> None:
        for name, number in arrived.items():
            end = self.ends.get(name)
            if end is not None:
                end.session.clear(number, self.world.now)
                end.look()
        held, self._held = self._held, []
        self._leave(held)
        told = [one.message.key for one in held if isinstance(one, Send) and isinstance(one.message, m.KeyFinished)]
        self._told_keys.update(key for key in told if key not in self.reused)
        if self.machine.state.facts or self._later or self._arrived or self._dirty:
            self._look_soon()

    def fail(self) -> None:
        """The database can't be written for a while."""
        self._failing_until = self.world.now + self.world.random.uniform(0.1, FAILING)
        self.world.trace(f"the database fails until {self._failing_until:.3f}")

    # -- peers ------------------------------------------------------------------------------------------------------

    def greet(self, line: Line) -> End:
        """See `Hub.greet`."""
        end = self.ends.get(line.name)
        if end is not None and not line.is_worker:
            # What it can't send again was acknowledged, and so is written or did not need to be.
            end.session.restore(line.near.session.oldest - 1)
        end = super().greet(line)
        self._dirty[line.name] = None
        self._look_soon()
        return end

    def _end(self, line: Line) -> End:
        end = super()._end(line)
        end.session.hold_acks()
        take = end.deliver

        def deliver(messages: list[Any]) -> None:
            take(messages)
            self._arrived[line.name] = None
            self._look_soon()
            if line.name in self._awaited and any(isinstance(one, m.Inventory) and one.last for one in messages):
                self._came_back(line.name)

        end.deliver = deliver
        return end

    def _came_back(self, name: str) -> None:
        self._awaited.discard(name)
        if not self._awaited:
            self.apply(WorkersBack())

    def _forget(self, name: str) -> None:
        super()._forget(name)
        self._dirty[name] = None
        self._look_soon()

    # -- crashes ----------------------------------------------------------------------------------------------------

    def restart(self, within: float = 2.0) -> None:
        """The process ends: before, inside or after a commit; another goes on where what is written ends."""
        self.ends_of_lives += 1
        written = self._batch is not None and self.world.chance(0.5)
        self.world.trace(f"the scheduler is killed, a batch {'is' if written else 'is not'} written, and goes on")
        if self._batch is not None and written:
            self.rows.append(self._batch)
        before = self.machine.state
        was_whole = self._batch is None and not before.facts
        lines, ends = self.lines, self.ends
        for end in ends.values():
            end.closed = True
        self.lines, self.ends = {}, {}
        for books in (self.lazy, self.heard, self.suspected, self.fired):
            books.clear()
        before.now = self.world.now
        was = projection(before) if was_whole else None
        known = self._told_keys & finished_keys(before)
        self._begin_life()
        forgotten = known - finished_keys(self.machine.state) - self.shelf.rows.keys()
        assert not forgotten, f"I12: clients were told that {forgotten} had finished, which is not written"
        if was is not None:
            now = projection(self.machine.state)
            assert now["tasks"].keys() == was["tasks"].keys(), "what was written is not all"
            terms, written = was["extras"]["terms"], now["extras"]["terms"]
            assert written == terms, f"what was agreed is not all written: {terms}, but {written}"
        before.close()
        for name, cursor in self.cursors.items():
            if not cursor.role and name in ends:
                self._go_on(lines[name], ends[name], cursor)
        for line in lines.values():
            if line.up and not line.dead:
                line.cut(noticed=False)
                self.world.after(self.world.random.uniform(0.01, within), line.connect)

    def _go_on(self, line: Line, former: End, cursor: Cursor) -> None:
        end = self.ends[line.name] = self._end(line)
        end.conversation = former.conversation
        end.session.restore(cursor.received)
        self.lines[line.name] = line
        self.heard[line.name] = self.suspected[line.name] = self.world.now

    def firings(self) -> dict[str, float]:
        """What schedules ran, as it is written: ids, with the moments at which they were due, in order."""
        facts = [fact for row in self.rows for fact in decode_batch(row).facts]
        said = [one for fact in facts if isinstance(fact, Said) and fact.client == beat.CLIENT for one in fact.messages]
        moments = [one.about[1] for one in said if isinstance(one, m.Ask) and one.topic == "beat_ran"]
        (entry,) = [planned.entry for planned in self.machine.state.beat.values()]
        return {beat.key_of(entry, moment): moment for moment in moments}


def finished_keys(state: SchedulerState) -> set[str]:
    """Keys whose results can't be lost any more."""
    return {key for key, task in state.tasks.items() if task.state is MEMORY and task.value is not None}
