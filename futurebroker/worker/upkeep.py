"""An agent's care for its memory: measures it, carries out what the machine's `Memory` says, tells of both.

It measures often while tasks run, the more often the less is left for them, and seldom while nothing happens.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import mmap
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Protocol

import psutil

from futurebroker.data.folders import StoreFolder, memory_folder_reason
from futurebroker.data.reuse import FreedFiles
from futurebroker.protocol.messages import Happened
from futurebroker.worker import commands
from futurebroker.worker.commands import Event
from futurebroker.worker.executors import Executor
from futurebroker.worker.gauge import can_swap, own_bytes, own_bytes_of
from futurebroker.worker.limits import Limit, resolve_limit
from futurebroker.worker.machine import WorkerMachine
from futurebroker.worker.memory import MemoryPlan
from futurebroker.worker.outofmemory import KillCounts
from futurebroker.worker.packets import ROOM, ROOM_BYTES, Setup, Trim
from futurebroker.worker.pressure import Pressure

logger = logging.getLogger("futurebroker.worker")

#: seconds between two measurements: while nothing runs, while tasks do, and when memory may soon be short
IDLE_EVERY = 1.0
MEASURE_EVERY = 0.1
SHORT_EVERY = 0.01
#: part of the limit that freed files may take until they are written again
REUSE = 0.10
#: bytes that an executor may take in a second: fresh pages are zeroed and written at about this rate
TAKEN = 4 << 30
#: how ready the kernel is to end an executor before the agent when memory is out; 0 is as ready as for others
OUT_OF_MEMORY_SCORE = 500


class Agent(Protocol):
    """What the care for memory needs of its agent."""

    def feed(self, event: Event) -> None:
        """Let the machine handle an event."""

    def pause(self, paused: bool) -> None:
        """Tell the scheduler whether tasks are started."""

    def executor(self, number: int) -> Executor | None:
        """The running executor with this number."""

    def pids(self) -> dict[int, list[int]]:
        """By executor, its process and what that has started; empty for threads."""


class Upkeep:
    """See the top of this file. Used from the loop's thread only.

    Args:
        limit: bytes, a part of the machine's memory (a float up to 1), "auto", or None and 0 for no limit.
        share: of workers on this machine, what this one's "auto" is.
        thresholds: ``target``, ``spill``, ``pause``, ``terminate``, ``reuse`` as parts of the limit; 0 turns one off.
        local_folder: where to make the folder of what is on disk.
        own_processes: whether executors are processes.
        own_agent: whether this process is the agent's alone.
    """

    def __init__(
        self,
        limit: int | float | Literal["auto"] | None,
        share: float,
        thresholds: dict[str, float],
        local_folder: str | None,
        own_processes: bool,
        own_agent: bool = True,
    ) -> None:
        self.limit: Limit = resolve_limit(limit, share)
        reason = memory_folder_reason()
        self.disk = StoreFolder.make_on_disk(local_folder)
        self.folder = self.disk if reason else StoreFolder.make()
        reuse = thresholds.get("reuse", REUSE)
        #: files that may be written again; None: none, because they lie on disk or nobody can tell who uses them
        self.freed = FreedFiles.begin(self.folder.path) if reuse and not reason else None
        self.plan = MemoryPlan(
            limit=self.limit.nbytes,
            in_memory=not reason,
            own_processes=own_processes,
            reusable=int((self.limit.nbytes or psutil.virtual_memory().total) * reuse) if self.freed is not None else 0,
            **{name: part for name, part in thresholds.items() if name != "reuse"},
        )
        if reason:
            logger.warning("large results go to %s on disk, because %s", self.disk.path, reason)
        if self.disk.is_memory:
            logger.warning("%s lies in memory: what is spilled there frees none; name another folder", self.disk.path)
        self._room_path = self.folder.path / "room"
        self._room_path.write_bytes(bytes(ROOM_BYTES))
        with open(self._room_path, "r+b") as file:
            self._room = mmap.mmap(file.fileno(), ROOM_BYTES)
        self._kills = KillCounts()
        self._swaps = can_swap()
        self._own_agent = own_agent
        self._pressure = Pressure()
        self._timer: asyncio.TimerHandle | None = None
        self._closing: set[asyncio.Task[None]] = set()

    def start(self, agent: Agent, machine: WorkerMachine, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to measure."""
        self._agent = agent
        self._machine = machine
        self._loop = loop
        self._measure()

    def set_up(self, setup: Setup) -> None:
        """Tell an executor where to write, and how much."""
        setup.room = str(self._room_path)
        setup.disk = str(self.disk.path)
        setup.reuse = self.freed is not None

    def begun(self, executor: Executor) -> None:
        """An executor's process was started: it is what the kernel shall end when memory is out."""
        with contextlib.suppress(OSError):
            Path(f"/proc/{executor.pid}/oom_score_adj").write_text(str(OUT_OF_MEMORY_SCORE))

    def explain(self, how: str) -> str:
        """How an executor ended, with the kernel named if it was that for want of memory."""
        return self._kills.explain(how, self._loop.time())

    def hurry(self) -> None:
        """Tasks begin: measure soon, if that was to come later."""
        if self._timer is not None and self._timer.when() - self._loop.time() > MEASURE_EVERY:
            self._timer.cancel()
            self._timer = self._loop.call_later(MEASURE_EVERY, self._measure)

    def _measure(self) -> None:
        swaps = self._swaps
        executors = {number: own_bytes_of(pids, swaps) for number, pids in self._agent.pids().items()}
        freed = self.freed.nbytes if self.freed is not None else 0
        stalled = self._pressure.look(self._loop.time())
        store = self._machine.store
        agent = own_bytes(os.getpid(), swaps) if self._own_agent else store.managed - store.in_files
        self._agent.feed(commands.Measured(agent, executors, freed, stalled))
        self._timer = self._loop.call_later(self._pause(len(executors)), self._measure)

    def _pause(self, executors: int) -> float:
        """Seconds until the next measurement: no more than it takes to fill what is left before tasks are held back."""
        machine = self._machine
        plan = machine.memory.plan
        is_short = bool(plan.limit) and machine.memory.process > plan.limit * plan.target
        if not (is_short or machine.dispatcher.sent or machine.dispatcher.ready):
            return IDLE_EVERY
        if not plan.limit:
            return MEASURE_EVERY
        left = plan.limit * (plan.pause or 1) - machine.memory.process
        return min(MEASURE_EVERY, max(SHORT_EVERY, left / (TAKEN * max(1, executors))))

    def figures(self) -> dict[str, Any]:
        """What heartbeats tell of memory, in bytes; docs/memory.md says what each is."""
        memory, store = self._machine.memory, self._machine.store
        executing = sum(
            max(0, nbytes - memory.baselines.get(number, nbytes)) for number, nbytes in memory.executing.items()
        )
        managed = store.managed
        self._kills.look(self._loop.time())
        return {
            "managed": managed,
            "spilled": store.spilled,
            "spilled_kinds": dict(store.spilled_kinds),
            "stored": len(store),
            "process": memory.process,
            "peak": memory.peak,
            "unmanaged": max(0, memory.process - managed),
            "task_memory": executing,
            "overhead": max(0, memory.process - managed - executing),
            "freed": memory.freed,
            "mapped": self._machine.dispatcher.mapped_bytes(),
            "bandwidth": self._machine.arrivals.bandwidth,
            "limit": memory.plan.limit,
            "paused": memory.paused,
            "spill_error": memory.fault,
            "memory_counts": dict(memory.counts),
        }

    async def close(self) -> None:
        """Stop measuring, wait for executors that are being replaced, and remove the folders."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        await asyncio.gather(*self._closing)
        self._room.close()
        self.folder.close()
        self.disk.close()

    # -- instructions -----------------------------------------------------------------------------------------------

    def set_room(self, instruction: commands.SetRoom) -> None:
        """Tell executors how much each may write to memory."""
        self._room[:] = ROOM.pack(instruction.nbytes)

    def set_paused(self, instruction: commands.SetPaused) -> None:
        """Tell the scheduler."""
        self._agent.pause(instruction.paused)

    def trim(self, instruction: commands.TrimExecutor) -> None:
        """Have an executor give back what it doesn't use."""
        executor = self._agent.executor(instruction.executor)
        if executor is not None:
            executor.tell(Trim())

    def recycle(self, instruction: commands.RecycleExecutor) -> None:
        """End an executor in good order; another is started when it has ended."""
        executor = self._agent.executor(instruction.executor)
        if executor is not None:
            executor.epitaph = "its worker's word, because it had grown"
            task = self._loop.create_task(executor.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def kill(self, instruction: commands.KillExecutor) -> None:
        """Kill an executor; its tasks are reported when it has ended."""
        executor = self._agent.executor(instruction.executor)
        if executor is not None:
            executor.epitaph = instruction.how
            executor.kill()

    def happened(self, event: Happened, name: str) -> None:
        """Log what the scheduler is told of."""
        event.at = time.time()
        level = logging.INFO if event.kind in ("resumed",) else logging.WARNING
        logger.log(level, "%s", event.text, extra={"worker": name, "event": event.kind})


PERFORM: dict[type[Any], Callable[[Upkeep, Any], None]] = {
    commands.SetRoom: Upkeep.set_room,
    commands.SetPaused: Upkeep.set_paused,
    commands.TrimExecutor: Upkeep.trim,
    commands.RecycleExecutor: Upkeep.recycle,
    commands.KillExecutor: Upkeep.kill,
}
