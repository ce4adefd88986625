"""A worker's agent: carries out what its machine says, and keeps executors, store and heartbeats going.

It runs on one asyncio loop and never runs or opens what a user sent: executors do.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets as random_names
import socket
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from futurebroker import logs
from futurebroker.data.valuefiles import ValueFiles
from futurebroker.exceptions import FuturebrokerError, RefusedError
from futurebroker.processes import apart
from futurebroker.protocol.member import HEARTBEAT_INTERVAL, Member
from futurebroker.protocol.messages import Happened, Said, Welcome
from futurebroker.secret import is_loopback
from futurebroker.states import WorkerStatus
from futurebroker.types import Role
from futurebroker.worker import commands, filework, place, upkeep
from futurebroker.worker.apps import AppHost, AppPlan
from futurebroker.worker.commands import Event
from futurebroker.worker.executors import Executor
from futurebroker.worker.figures import task_counts
from futurebroker.worker.filework import FileWork
from futurebroker.worker.hearing import ExecutorWords
from futurebroker.worker.importing import handed_down_path
from futurebroker.worker.link import LinkFactory
from futurebroker.worker.machine import WorkerMachine
from futurebroker.worker.monitor import Monitor
from futurebroker.worker.packets import Call, Look, ReturnRest, Setup
from futurebroker.worker.relaying import Relay
from futurebroker.worker.renewing import Renewal
from futurebroker.worker.software import Software
from futurebroker.worker.transfers import Transfers
from futurebroker.worker.upkeep import Upkeep

logger = logging.getLogger("futurebroker.worker")

#: seconds what runs gets to finish when the worker closes, and then others to fetch what only it has; 25 in all, for
#: platforms kill after 30
DRAIN_TIMEOUT = 18.0
MOVE_TIMEOUT = 4.0
#: seconds that executors get to be ready, however short the time to find the scheduler is
EXECUTORS_TIMEOUT = 30.0
#: seconds before an executor that died before it was ready is started again; doubles up to the maximum
RESTART_FIRST = 0.2
RESTART_MAX = 30.0


class WorkerService(ExecutorWords):
    """See the top of this file.

    Args:
        executors: how many processes run tasks; default one a CPU.
        threads: tasks each of them runs at once.
        resources: abstract amounts tasks may ask for.
        memory_limit, memory_share, thresholds: see `Upkeep`.
        transfer: see `Transfers`.
        notes: see `Notebook`; default all.
        processes: False makes the executors threads of this process.
        local_folder: where to make the folder of results on disk.
        make_link: makes the conversation with the scheduler, with `Member`'s arguments.
        hosted: this process is another's, too, whose memory isn't ours to count.
    """

    def __init__(
        self,
        *,
        url: str,
        cluster: str,
        secret: bytes,
        name: str | None = None,
        executors: int | None = None,
        threads: int = 1,
        resources: dict[str, float] | None = None,
        memory_limit: int | float | Literal["auto"] | None = "auto",
        memory_share: float = 1.0,
        thresholds: dict[str, float] | None = None,
        transfer: dict[str, Any] | None = None,
        notes: dict[str, bool] | None = None,
        processes: bool = True,
        local_folder: str | None = None,
        app: AppPlan | None = None,
        make_link: LinkFactory = Member,
        hosted: bool = False,
    ) -> None:
        self.id = f"w-{random_names.token_hex(6)}"
        self.name = name or f"{socket.gethostname()}-{self.id[2:6]}"
        self.executors = executors or os.cpu_count() or 1
        self.threads = threads
        self.resources = dict(resources or {})
        self._transfer, self._notes = transfer or {}, notes or {}
        self._memory = (memory_limit, memory_share, thresholds or {}, local_folder, processes, not hosted)
        self.processes = processes
        self._app = AppHost(app or AppPlan(), lambda message: self._link.send(message))
        self._where: dict[str, Any] = {"url": url, "cluster": cluster, "secret": secret}
        self._make_link = make_link
        self._status = WorkerStatus.RUNNING
        self._running: dict[int, Executor] = {}
        self._last_executor = 0
        self._restart_pause = RESTART_FIRST
        self._events: deque[Event] = deque()
        self._busy = False
        self._timers: set[asyncio.TimerHandle] = set()
        self._renewal: Renewal
        self._tick_timer: asyncio.TimerHandle | None = None
        self._heartbeat_timer: asyncio.TimerHandle | None = None
        self._interval = HEARTBEAT_INTERVAL
        self._monitor = Monitor()
        self._round_trip = 0.0
        self._closing: asyncio.Task[None] | None = None
        self._finished = asyncio.Event()
        self._drained = asyncio.Event()
        self._may_go = asyncio.Event()
        self._patience = DRAIN_TIMEOUT
        #: whether executors are ended by us, so that what they run isn't to blame
        self._is_ending = False
        self._all_ready: asyncio.Future[None] | None = None
        #: whether `start` has succeeded
        self.started = False
        #: why the scheduler refused us, once it did
        self.refusal: RefusedError | None = None

    # -- life -------------------------------------------------------------------------------------------------------

    async def start(self, timeout: float = 30.0) -> None:
        """Start the executors and join the cluster; returns when tasks can run.

        Args:
            timeout: seconds to find the scheduler.

        Raises:
            NoSchedulerError, RefusedError, ClusterConnectionError: see `Member.connect`.
            FuturebrokerError: the executors don't start; their own output says why.
        """
        self._loop = asyncio.get_running_loop()
        self._upkeep = Upkeep(*self._memory)
        self._folder = self._upkeep.folder
        self._files = ValueFiles(self._folder.path, self._upkeep.disk.path, self._upkeep.freed)
        self._transfers = Transfers(
            self.id, self._transfer, self._where, self._files, self.feed, self._loop, lambda: self._link.bulk_url
        )
        self._machine = WorkerMachine(self.name, self._files.new_path, self._upkeep.plan, self._transfers.ways)
        self._machine.wear.limit(self._app.plan.max_tasks, self._app.plan.max_bytes)
        self._transfers.start(self._machine.store, self._machine.memory)
        self._all_ready = self._loop.create_future()
        where = self._where
        self._relay = Relay(where["secret"], where["cluster"], self.id, self._loop, lambda: self._link.flush())
        self._link = self._make_link(
            Role.WORKER, self.id, **where, events=self, loop=self._loop, info=self._info, share=self._relay.share
        )
        self._file_work = FileWork(self._files, self.feed, self._link.send, self._loop, self._transfers.bulk)
        self._renewal = Renewal(
            Software(self._where["secret"], self._link.send, self._memory[3]),
            self._start_executor,
            lambda number: self.feed(commands.Retire(number)),
            self._running,
            self._link.send,
            self._loop,
            processes=self.processes,
        )
        self._upkeep.start(self, self._machine, self._loop)
        try:
            for _ in range(self.executors):
                self._start_executor("")
            await self._link.connect(timeout)
            timeout = max(timeout, EXECUTORS_TIMEOUT)
            async with asyncio.timeout(timeout):
                await self._all_ready
        except BaseException as error:
            await self._end("could not start")
            if isinstance(error, TimeoutError):
                raise FuturebrokerError(f"the executors of worker {self.name} weren't ready in {timeout:g} s") from None
            raise
        self.started = True
        self._app.tell(joined=True)
        self._beat()

    @property
    def has_finished(self) -> bool:
        """Whether the worker has closed, for whatever reason."""
        return self._finished.is_set()

    async def finished(self) -> None:
        """Wait until the worker has closed, for whatever reason."""
        await self._finished.wait()

    async def close(self, drain: bool = True) -> None:
        """Hand back what hasn't begun, let the rest finish (with ``drain``), and clean up. May be called twice."""
        if self._all_ready is None:
            return
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._close(drain, "closed"))
        await asyncio.shield(self._closing)

    async def _close(self, drain: bool, reason: str) -> None:
        self._status = WorkerStatus.CLOSING
        if drain:
            # First, or what is handed back would be sent here again.
            self._link.heartbeat(self._status.value, self.metrics())
        self.feed(commands.Drain())
        if drain:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._drained.wait(), self._patience)
            await self._stop_executors()
            await self._hand_over()
        await self._end(reason)

    async def _hand_over(self) -> None:
        """Wait until other workers have what only this one holds; the scheduler says when."""
        if not len(self._machine.store):
            return
        self._link.flush()
        self._link.heartbeat(self._status.value, self.metrics())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._may_go.wait(), MOVE_TIMEOUT)

    async def _stop_executors(self) -> None:
        """End them all; what still runs is handed back."""
        self._is_ending = True
        executors = list(self._running.values())
        for executor in () if self._drained.is_set() else executors:
            executor.kill()
        await asyncio.gather(*(executor.close() for executor in executors))

    async def _end(self, reason: str) -> None:
        self._status = WorkerStatus.CLOSING
        for timer in (self._tick_timer, self._heartbeat_timer, *self._timers):
            if timer is not None:
                timer.cancel()
        self._heartbeat_timer = None
        await self._renewal.close()
        await self._stop_executors()
        await self._link.close(reason)
        self._transfers.bulk.close()
        await apart(self._transfers.close)
        self._file_work.close()
        await self._upkeep.close()
        self._finished.set()

    # -- executors --------------------------------------------------------------------------------------------------

    def _start_executor(self, python: str) -> Executor:
        self._last_executor += 1
        number = self._last_executor
        setup = Setup(
            self.name, self.id, str(self._folder.path), self.threads, "", "", self.resources, handed_down_path(python)
        )
        self._upkeep.set_up(setup)
        setup.output, setup.arguments = (self._notes.get(name, True) for name in ("output", "arguments"))
        setup.cluster, setup.broker_is_local = self._where["cluster"], is_loopback(self._where["url"])
        setup.app = self._app.plan.name
        executor = self._running[number] = Executor(number, setup, self, self._loop)
        if self.processes:
            executor.start_process(place.environment(self.executors * self.threads), python)
            self._upkeep.begun(executor)
        else:
            executor.start_threads()
        return executor

    def ready(self, executor: Executor) -> None:
        """See `ExecutorEvents`."""
        self._restart_pause = RESTART_FIRST
        self.feed(commands.ExecutorReady(executor.number, executor.threads))
        self._renewal.ready(executor)
        if self._all_ready is not None and not self._all_ready.done():
            if sum(other.is_ready for other in self._running.values()) == self.executors:
                self._all_ready.set_result(None)

    def ended(self, executor: Executor, how: str) -> None:
        """See `ExecutorEvents`."""
        how = self._upkeep.explain(how)
        del self._running[executor.number]
        self._relay.executor_ended(executor.number)
        task = ""
        if executor.is_ready:
            running, expected = executor.running(), self._is_ending or executor.number in self._renewal.leaving
            sent = self._machine.dispatcher.sent
            task = ", ".join(sent[number].key for number in running if number in sent)
            self.feed(commands.ExecutorEnded(executor.number, running, how, expected))
        self._file_work.sweep(executor.folder.name, self._machine.store.paths())
        if self._renewal.ended(executor, how) or self._status is WorkerStatus.CLOSING:
            return
        about = {"worker": self.name, "task": task}
        logger.warning("executor %d ended with %s; starting another", executor.pid, how, extra=about)
        if executor.is_ready:
            self._start_another()
            return
        if self._all_ready is not None and not self._all_ready.done():
            self._all_ready.set_exception(FuturebrokerError(f"an executor can't start: it ended with {how}"))
            return
        self._later(self._restart_pause, self._start_another)
        self._restart_pause = min(self._restart_pause * 2, RESTART_MAX)

    def _start_another(self) -> None:
        if len(self._running) < self.executors:
            self._start_executor(self._renewal.python)

    def _grow(self, instruction: commands.Grow) -> None:
        self.executors += instruction.more
        for _ in range(instruction.more):
            self._start_another()
        self._link.send(Said("slots", "", self.executors * self.threads))

    def _later(self, seconds: float, call: Callable[[], None]) -> None:
        def run() -> None:
            self._timers.discard(timer)
            call()

        timer = self._loop.call_later(seconds, run)
        self._timers.add(timer)

    # -- the scheduler ----------------------------------------------------------------------------------------------

    def deliver(self, messages: list[Any]) -> None:
        """See `MemberEvents`."""
        self.feed(commands.Delivered(messages))

    def welcomed(self, welcome: Welcome, fresh: bool) -> None:
        """See `MemberEvents`."""
        self._interval = welcome.settings.get("heartbeat", HEARTBEAT_INTERVAL)
        if fresh:
            self.feed(commands.Fresh())
        self._app.tell(joined=self.started, fresh=fresh)

    def heard(self, round_trip: float) -> None:
        """See `MemberEvents`."""
        self._round_trip = round_trip

    def paced(self, seconds: float) -> None:
        """See `MemberEvents`."""
        if self._heartbeat_timer is not None:
            self._heartbeat_timer.cancel()
            self._heartbeat_timer = self._loop.call_later(seconds, self._beat)

    def lost(self, error: Exception | None) -> None:
        """See `MemberEvents`: what runs goes on, and its results wait for the link."""
        logger.warning("lost the scheduler (%s); reconnecting", error or "closed", extra={"worker": self.name})

    def refused(self, reason: str) -> None:
        """See `MemberEvents`."""
        self.refusal = RefusedError(reason)
        logger.error("%s", self.refusal, extra={"worker": self.name})
        if self._closing is None:
            self._closing = self._loop.create_task(self._close(False, reason))

    def _info(self) -> dict[str, Any]:
        return {
            **place.facts(self.executors, self.threads),
            "name": self.name,
            "standing": self._machine.standing(),
            **self._renewal.info(),
            **self._app.info(),
            "resources": self.resources,
            "memory_limit": self._upkeep.limit.nbytes or None,
            "store": str(self._folder.path),
            "data": self._transfers.address,
        }

    def _beat(self) -> None:
        # An unanswered one is repeated soon; the answer says when the next is due.
        self._heartbeat_timer = self._loop.call_later(self._interval, self._beat)
        self._link.heartbeat(self._status.value, self.metrics())

    def metrics(self) -> dict[str, Any]:
        """What a heartbeat tells; CPU is measured since the call before."""
        statuses = {e.pid: "ready" if e.is_ready else "starting" for e in self._running.values()}
        return {
            **self._monitor.sample(statuses),
            **task_counts(self._machine),
            **self._upkeep.figures(),
            **self._transfers.figures(),
            "round_trip": self._round_trip,
        }

    # -- what `Upkeep` needs ----------------------------------------------------------------------------------------

    def pause(self, paused: bool) -> None:
        """See `upkeep.Agent`."""
        if self._status is not WorkerStatus.CLOSING:
            self._status = WorkerStatus.PAUSED if paused else WorkerStatus.RUNNING
            if self.started:
                self._link.heartbeat(self._status.value, self.metrics())

    def executor(self, number: int) -> Executor | None:
        """See `upkeep.Agent`."""
        return self._running.get(number)

    def pids(self) -> dict[int, list[int]]:
        """See `upkeep.Agent`."""
        if not self.processes:
            return {}
        running = self._running.items()
        return {number: [e.pid, *self._monitor.children_of(e.pid)] for number, e in running if e.is_ready}

    # -- the machine ------------------------------------------------------------------------------------------------

    def feed(self, event: Event, urgent: bool = False) -> None:
        """Let the machine handle ``event`` and carry out what it says; events that arise meanwhile wait their turn.

        Args:
            urgent: what it says to the scheduler leaves at once, because little may follow that it could go with.
        """
        self._events.append(event)
        if self._busy:
            return
        self._busy = True
        machine, perform = self._machine, _PERFORM
        messages: list[Any] = []
        try:
            while self._events:
                for instruction in machine.handle(self._events.popleft(), self._loop.time()):
                    carry_out = perform.get(type(instruction))
                    if carry_out is None:
                        messages.append(instruction)
                        if type(instruction) is Happened:
                            self._upkeep.happened(instruction, self.name)
                    else:
                        carry_out(self, instruction)
        finally:
            self._busy = False
            if messages:
                send = self._link.send_now if urgent else self._link.send
                send(*messages)
        at, timer = machine.wake_at, self._tick_timer
        if at is not None and (timer is None or at < timer.when()):
            if timer is not None:
                timer.cancel()
            self._tick_timer = self._loop.call_at(at, self._tick)

    def _tick(self) -> None:
        self._tick_timer = None
        self.feed(commands.Tick())

    def _send_packet(self, instruction: commands.SendPacket) -> None:
        self._running[instruction.executor].send(instruction.packet)
        self._upkeep.hurry()

    def _recall(self, instruction: commands.Recall) -> None:
        executor = self._running.get(instruction.executor)
        if executor is not None:
            self._events.append(commands.Recalled(instruction.executor, executor.recall()))

    def _ask_rest(self, instruction: commands.AskRest) -> None:
        if (executor := self._running.get(instruction.executor)) is not None:
            executor.tell(ReturnRest())

    def _leave_now(self, instruction: commands.LeaveNow) -> None:
        if self._closing is None:
            self._patience = instruction.patience or DRAIN_TIMEOUT
            self._closing = self._loop.create_task(self._close(not instruction.hurry, instruction.reason))
            return
        self._may_go.set()
        if instruction.hurry:
            self._is_ending = True
            for executor in self._running.values():
                executor.kill()


def _to_upkeep(perform: Callable[[Upkeep, Any], None], service: WorkerService, instruction: Any) -> None:
    perform(service._upkeep, instruction)


def _to_files(perform: Callable[[FileWork, Any], None], service: WorkerService, instruction: Any) -> None:
    perform(service._file_work, instruction)


_PERFORM: dict[type[Any], Callable[[WorkerService, Any], None]] = {
    commands.SendPacket: WorkerService._send_packet,
    commands.Recall: WorkerService._recall,
    commands.AskRest: WorkerService._ask_rest,
    commands.CallOut: lambda service, out: service._running[out.executor].tell(Call(out.number, out.code, out.args)),
    commands.Grow: WorkerService._grow,
    commands.InspectOut: lambda service, out: service._running[out.executor].tell(
        Look(out.number, out.topic, out.about)
    ),
    commands.InspectAgent: lambda service, out: service._events.append(
        commands.Inspected(0, out.number, logs.recent())
    ),
    commands.ExecutorIdle: lambda service, instruction: service._renewal.idle(instruction.executor),
    commands.Operate: lambda service, instruction: service._renewal.take(instruction.message),
    commands.Pull: lambda service, instruction: service._transfers.pull(instruction),
    commands.OpenBulk: lambda service, _instruction: service._transfers.bulk.open(),
    commands.Drained: lambda service, _instruction: service._drained.set(),
    commands.LeaveNow: WorkerService._leave_now,
    **{kind: partial(_to_files, perform) for kind, perform in filework.PERFORM.items()},
    **{kind: partial(_to_upkeep, perform) for kind, perform in upkeep.PERFORM.items()},
}
