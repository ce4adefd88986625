"""What a worker does about its memory: spill, start nothing more, end an executor (sans-IO).

Four thresholds, parts of the limit. Over ``target``, of the bytes of results in memory, the least recently used are
moved to disk. The others look at the memory of the agent, its executors and results together: over ``spill`` results
are moved until it is at ``target``; over ``pause`` no task is started, and executors that have grown are replaced once
they are idle; over ``terminate`` the largest executor that runs something is killed and its task reported. A worker
that is paused, runs nothing and can free nothing starts one task at a time: slow is better than never. Results are
moved as well while work on the machine stalls for want of memory, which others may have taken.

How much more may be written to memory is told to the executors (`SetRoom`); what is larger they write to disk at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from futurebroker.data.objectstore import ObjectStore
from futurebroker.protocol.messages import DataLost, Happened
from futurebroker.types import Key
from futurebroker.worker.commands import (
    AskRest,
    Instruction,
    KeepFreed,
    KillExecutor,
    Measured,
    Recall,
    RecycleExecutor,
    Relink,
    SetPaused,
    SetRoom,
    Spill,
    Spilled,
    TrimExecutor,
    Unlink,
)
from futurebroker.worker.records import ExecutorRecord

#: part of the limit below a threshold at which what it began ends
HYSTERESIS = 0.05
#: seconds before a value that was mapped, or a disk that couldn't be written to, is tried again
AGAIN = 1.0
DISK_AGAIN = 5.0
#: part of the limit that an executor must have grown by to be replaced, and seconds it gets to shrink by itself
GROWN = 0.05
TRIM_TIME = 0.3
#: part of ten seconds in which nothing may go on for want of memory
STALLED = 0.10
#: seconds for which freed files are kept that nobody takes
FREED_TIME = 10.0
#: seconds before another executor is killed, if the one that was hasn't ended yet
KILL_TIME = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """A worker's limit, in bytes, and the parts of it at which something is done; 0 turns each off."""

    limit: int = 0
    target: float = 0.60
    spill: float = 0.70
    pause: float = 0.80
    terminate: float = 0.95
    reusable: int = 0  #: bytes of freed files that may be kept for other values
    in_memory: bool = True  #: whether there is tmpfs to keep results in; else all that is large goes to disk
    own_processes: bool = True  #: whether executors are processes, which can be replaced and killed


#: no limit at all
UNLIMITED = MemoryPlan()


class Memory:
    """See the top of this file.

    Args:
        executors: of the machine, by number.
        new_path: a fresh path; True: on disk, of a sealed file.
        is_occupied: whether an executor has more to do than its packets.
    """

    def __init__(
        self,
        plan: MemoryPlan,
        store: ObjectStore,
        executors: dict[int, ExecutorRecord],
        emit: Callable[[Instruction], None],
        new_path: Callable[[bool], str],
        is_occupied: Callable[[int], bool],
    ) -> None:
        self.plan = plan
        #: bytes of results that may be in memory
        self.target = int(plan.limit * plan.target) if plan.limit and plan.target else 1 << 62
        self.paused = False
        #: bytes of agent, executors and results when last measured, the most there were, and those of each executor
        self.process = self._others = 0
        self.peak = 0
        self.executing: dict[int, int] = {}
        #: bytes of the executor, when it was first measured
        self.baselines: dict[int, int] = {}
        #: why the disk takes nothing; empty: it does
        self.fault = ""
        #: what happened since the start
        self.counts = {"spilled": 0, "spilled_bytes": 0, "spill_failed": 0, "paused": 0, "killed": 0, "recycled": 0}
        self._store = store
        self._executors = executors
        self._emit = emit
        self._new_path = new_path
        self._is_occupied = is_occupied
        #: whether work stands still for want of memory, whatever our own limit is
        self.stalled = False
        self._told_paused = False
        self._retry_at = 0.0
        self._trimmed: dict[int, float] = {}
        self._leaving: dict[int, float] = {}
        self._room = -1
        #: bytes of freed files that are kept, since when they are that many, and how many may be
        self.freed = self._freed_most = 0
        self._freed_since = 0.0
        #: bytes of files in memory when executors were last told how many more there may be
        self._in_files = 0
        self._searched_at = -1.0

    @property
    def may_start(self) -> bool:
        """Whether a task may begin: not while paused, but for one at a time when nothing else could end that."""
        if not self.paused:
            return True
        return self._is_stuck()

    def _is_stuck(self) -> bool:
        idle = not any(executor.packets for executor in self._executors.values())
        return idle and not self._store.spilling and not self._leaving and not self._grown()

    def to_disk(self, nbytes: int) -> bool:
        """Whether a value of ``nbytes`` that comes from elsewhere goes to disk at once."""
        # Freed files that are too much then go at once.
        return not self.plan.in_memory or (nbytes > self._room_beside(0) and not self.fault)

    @property
    def room(self) -> int:
        """Bytes of results that may be added to memory before others have left it."""
        return self._room_beside(self.freed)

    def _room_beside(self, freed: int) -> int:
        plan, store = self.plan, self._store
        if not plan.in_memory or (self.stalled and plan.limit and plan.spill and not self.fault):
            return 0
        if plan.limit and plan.spill:
            taken = self._others + store.in_files + freed
            return max(0, min(self.target, int(plan.limit * plan.spill) - taken))
        return max(0, self.target - store.managed)

    # -- what is measured -------------------------------------------------------------------------------------------

    def measured(self, event: Measured, now: float) -> None:
        """See the top of this file."""
        plan, store = self.plan, self._store
        self.executing = event.executors
        for number, nbytes in event.executors.items():
            self.baselines[number] = min(nbytes, self.baselines.get(number, nbytes))
        for known in (self.baselines, self._trimmed, self._leaving):
            for number in known.keys() - event.executors.keys():
                del known[number]
        self._others = event.agent + sum(event.executors.values())
        self.process = self._others + store.in_files + event.freed
        self.peak = max(self.peak, self.process)
        if event.freed != self.freed:
            self.freed, self._freed_since = event.freed, now
        self._set_stalled(event.stalled)
        self._tell_freed(now)
        if not plan.limit:
            return
        self._searched_at = -1.0
        if plan.spill and self._needed > plan.limit * plan.spill:
            self._spill(self._needed - int(plan.limit * (plan.target or plan.spill)) - store.spilling, now)
        elif plan.spill and self.stalled and not store.spilling:
            self._spill(int(plan.limit * HYSTERESIS), now)
        self._set_paused()
        if self.paused and plan.own_processes:
            self._shrink(now)
        if plan.terminate and self._needed > plan.limit * plan.terminate and plan.own_processes:
            self._kill(now)
        self.tell_room()

    def _set_stalled(self, part: float) -> None:
        """Others have taken what the limit leaves us: what can be given back is, step by step, until work goes on."""
        stalled = part >= (STALLED / 2 if self.stalled else STALLED)
        if stalled and not self.stalled:
            text = f"for {part:.0%} of ten seconds nothing went on for want of memory; results go to disk"
            self._emit(Happened("stalled", text))
        self.stalled = stalled

    @property
    def _needed(self) -> int:
        """Bytes that don't go by themselves: freed files do when memory is short."""
        return self.process - self.freed

    def _tell_freed(self, now: float) -> None:
        """Have freed files deleted that nobody took for long, and sooner where memory is needed for other things."""
        plan = self.plan
        most = plan.reusable
        if plan.limit:
            most = min(most, int(plan.limit * (plan.target or plan.spill or 1)) - self._others - self._store.in_files)
        if self.stalled or (now - self._freed_since >= FREED_TIME and self.freed):
            most = 0
        most = max(0, most)
        if most != self._freed_most and (abs(most - self._freed_most) > most // 32 or self.freed > most):
            self._freed_most = most
            self._emit(KeepFreed(most))

    def tell_room(self) -> None:
        """Tell executors how much each of them may write to memory, if that changed much."""
        room = self.room // max(1, len(self._executors))
        if room != self._room and (abs(room - self._room) > self._room // 32 or not room):
            self._room = room
            self._emit(SetRoom(room))

    # -- spilling ---------------------------------------------------------------------------------------------------

    def look(self, now: float) -> None:
        """After every event: is there more in memory than the target, or more or less than before?"""
        store = self._store
        if store.managed > self.target and self._searched_at < 0:
            self._spill(store.managed - self.target - store.spilling, now)
        if store.in_files != self._in_files:
            self._in_files = store.in_files
            self._tell_freed(now)
            self.tell_room()

    def _spill(self, nbytes: int, now: float) -> None:
        if nbytes <= 0 or now < self._retry_at:
            return
        store = self._store
        for key, value in store.to_spill(nbytes, now):
            store.spill_begins(value)
            nbytes -= value.nbytes
            self._emit(Spill(key, value.path, value.data, self._new_path(True)))
        if nbytes > 0:
            self._searched_at = now  # nothing is left to choose: not to be looked for at every event

    def spilled(self, event: Spilled, now: float) -> None:
        """A value was copied to disk, or could not be."""
        store = self._store
        value = store.get(event.key)
        if value is None or not value.spilling or value.path != event.path:
            if not event.reason:
                self._emit(Unlink(event.target))  # it was freed meanwhile
            return
        if not event.reason:
            self.fault = ""
            self.counts["spilled"] += 1
            self.counts["spilled_bytes"] += value.nbytes
            if value.path:
                self._emit(Relink(value.path, event.target))
            store.spill_ends(event.key, value, event.target)
            return
        store.spill_ends(event.key, value, "")
        if event.is_mapped:
            value.busy_until = now + AGAIN
            return
        self.counts["spill_failed"] += 1
        self._retry_at = now + DISK_AGAIN
        if self.fault != event.reason:
            self.fault = event.reason
            self._emit(Happened("spill_failed", f"results stay in memory, the disk can't take them: {event.reason}"))

    def damaged(self, key: Key, path: str, reason: str) -> None:
        """The file of a value can't be read as it was written: it is computed again, or who wants it is told."""
        value = self._store.get(key)
        if value is not None and value.path == path:
            self._store.free(key)  # tasks that it is pinned to find out by themselves
            self._emit(DataLost(key, reason))

    # -- pausing ----------------------------------------------------------------------------------------------------

    def _set_paused(self) -> None:
        plan = self.plan
        if not plan.pause:
            return
        # Where results can't leave memory, more is left to what runs.
        pause = min(plan.pause, plan.spill or plan.pause) if self.fault else plan.pause
        paused = self._needed > plan.limit * (pause - (HYSTERESIS if self.paused else 0))
        changed, self.paused = paused != self.paused, paused
        stuck = paused and self._is_stuck()
        if (paused and not stuck) != self._told_paused:
            # A scheduler that thinks nobody takes work would wait for ever.
            self._told_paused = not self._told_paused
            self._emit(SetPaused(self._told_paused))
            if stuck:
                self._emit(Happened("stuck", "nothing that takes memory can be freed; tasks are started one at a time"))
        if not changed:
            return
        self._trimmed.clear()
        text = f"memory is at {self.process:,} of {plan.limit:,} bytes"
        if paused:
            self.counts["paused"] += 1
            self.recall_all()
            self._emit(Happened("paused", f"{text}; no task is started"))
        else:
            self._emit(Happened("resumed", f"{text}; tasks are started again"))

    def recall_all(self) -> None:
        """Have executors hand back what they haven't begun."""
        for executor in self._executors.values():
            if executor.packets:
                self._emit(Recall(executor.number))
                self._emit(AskRest(executor.number))

    def _grown(self) -> list[int]:
        """Idle executors that take much more than when they began, the largest first."""
        least = self.plan.limit * GROWN
        grown = [
            (nbytes - self.baselines.get(number, nbytes), number)
            for number, nbytes in self.executing.items()
            if number in self._executors
            and not (self._executors[number].packets or self._executors[number].leaving or self._is_occupied(number))
        ]
        return [number for growth, number in sorted(grown, reverse=True) if growth > least]

    def _shrink(self, now: float) -> None:
        """Have idle executors that have grown give memory back; replace them where that doesn't help."""
        for number in self._grown():
            trimmed_at = self._trimmed.get(number)
            if trimmed_at is None:
                self._trimmed[number] = now
                self._emit(TrimExecutor(number))
            elif now - trimmed_at >= TRIM_TIME:
                self._leaving[number] = now
                self._executors[number].leaving = True
                self.counts["recycled"] += 1
                grown = self.executing[number] - self.baselines[number]
                self._emit(RecycleExecutor(number))
                self._emit(Happened("recycled", f"executor {number} had grown by {grown:,} bytes and was replaced"))
                return

    # -- ending -----------------------------------------------------------------------------------------------------

    def _kill(self, now: float) -> None:
        if self._store.spilling and self.process <= self.plan.limit:
            return  # memory is about to be freed
        if any(now - since < KILL_TIME for since in self._leaving.values()):
            return
        running = [
            (nbytes, number)
            for number, nbytes in self.executing.items()
            if number in self._executors
            and (self._executors[number].packets or self._is_occupied(number))
            and number not in self._leaving
        ]
        if not running:
            return
        nbytes, number = max(running)
        self._leaving[number] = now
        self.counts["killed"] += 1
        how = (
            f"SIGKILL of its worker, whose memory was at {self.process:,} of {self.plan.limit:,} bytes, "
            f"{nbytes:,} of them this executor's"
        )
        self._emit(KillExecutor(number, how))
        self._emit(Happened("killed", f"executor {number}: {how}"))
