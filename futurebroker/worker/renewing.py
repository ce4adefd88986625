"""How an agent replaces its executors, in its own Python or in another environment, while results stay stored.

The new ones are started first: what can't start is found out while the old ones still work. Then the old get nothing
more, and go once they have nothing to do; what they still run when patience ends is handed back, and blamed on nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any

from futurebroker.exceptions import EnvironmentRefusedError
from futurebroker.protocol.messages import Message, Parcel, ParcelPart, ParcelWanted, Prepare, RestartExecutors, Settled
from futurebroker.worker.executors import Executor
from futurebroker.worker.software import Software

logger = logging.getLogger("futurebroker.worker")

#: seconds that new executors get to be ready
READY_TIMEOUT = 60.0


class Renewal:
    """See the top of this file. Used from the loop's thread only.

    Args:
        start: starts an executor with an interpreter, '' for the agent's own.
        retire: gives it nothing more; `idle` follows.
        running: all executors, by number.
        send: takes a message for the scheduler.
        processes: whether executors are processes.
    """

    def __init__(
        self,
        software: Software,
        start: Callable[[str], Executor],
        retire: Callable[[int], None],
        running: dict[int, Executor],
        send: Callable[[Message], None],
        loop: asyncio.AbstractEventLoop,
        *,
        processes: bool,
    ) -> None:
        self._software = software
        self._start = start
        self._retire = retire
        self._running = running
        self._send = send
        self._loop = loop
        self._processes = processes
        self._tasks: set[asyncio.Task[None]] = set()
        self._one_at_a_time = asyncio.Lock()
        self._idle: dict[int, asyncio.Event] = {}
        #: by number, executors that are replaced on purpose
        self.leaving: set[int] = set()
        #: executors on trial, and what becomes of them
        self._trial: dict[int, asyncio.Future[str]] = {}
        #: of what runs now, and of what starts from now on
        self.python = ""
        self.environment = ""
        self._mark = 0.0

    def info(self) -> dict[str, Any]:
        """What a hello tells: the environment that executors run in, and those whose zips are here."""
        return {"environment": (self.environment, self._mark), "environments": self._software.offers()}

    def take(self, message: RestartExecutors | Prepare | ParcelPart | ParcelWanted) -> None:
        """Do what a message of the scheduler says."""
        if isinstance(message, ParcelPart):
            self._software.part(message)
            return
        if isinstance(message, ParcelWanted):
            self._send(self._software.read(message))
            return
        work = self._prepare(message) if isinstance(message, Prepare) else self._renew(message)
        task = self._loop.create_task(self._answer(message.number, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, number: int, work: Any) -> None:
        reason = ""
        try:
            await work
        except (EnvironmentRefusedError, OSError, ValueError) as error:
            reason = str(error)
        except TimeoutError:
            reason = f"new executors weren't ready in {READY_TIMEOUT:g} s"
        self._send(Settled(number, reason))

    async def _prepare(self, message: Prepare) -> None:
        await self._find(message.environment)

    async def _find(self, environment: Parcel | None) -> str:
        if environment is None:
            return ""
        if not self._processes:
            raise EnvironmentRefusedError(
                environment.name, "the executors of this worker are threads of its own process (processes=False)"
            )
        return await self._software.find(environment)

    async def _renew(self, message: RestartExecutors) -> None:
        async with self._one_at_a_time:
            python = await self._find(message.environment) if message.change else self.python
            old = [executor for executor in self._running.values() if executor.number not in self.leaving]
            new = [self._start(python) for _ in old]
            self._trial = {executor.number: self._loop.create_future() for executor in new}
            try:
                async with asyncio.timeout(READY_TIMEOUT):
                    ends = await asyncio.gather(*self._trial.values())
            finally:
                trial, self._trial = self._trial, {}
                failed = [number for number, end in trial.items() if not end.done() or end.cancelled() or end.result()]
                if failed:
                    await self._end(new)
            if failed:
                name = message.environment.name if message.environment is not None else "the worker's own"
                raise EnvironmentRefusedError(name, f"an executor can't start in it: it ended with {max(ends)}")
            if message.change:
                self.python = python
                self.environment = message.environment.name if message.environment is not None else ""
                self._mark = message.mark
            await asyncio.gather(*(self._replace(executor, message.patience) for executor in old))

    async def _end(self, executors: list[Executor]) -> None:
        self.leaving.update(executor.number for executor in executors)
        for executor in executors:
            self._retire(executor.number)
        await asyncio.gather(*(executor.close() for executor in executors))

    async def _replace(self, executor: Executor, patience: float) -> None:
        number = executor.number
        self.leaving.add(number)
        idle = self._idle[number] = asyncio.Event()
        self._retire(number)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(idle.wait(), patience)
        if not idle.is_set():
            executor.kill()
        await executor.close()
        self._idle.pop(number, None)

    def idle(self, number: int) -> None:
        """An executor that was retired has nothing to do any more."""
        if number in self._idle:
            self._idle[number].set()

    def ready(self, executor: Executor) -> None:
        """An executor is ready."""
        trial = self._trial.get(executor.number)
        if trial is not None and not trial.done():
            trial.set_result("")

    def ended(self, executor: Executor, how: str) -> bool:
        """An executor has ended; whether that was meant, so that none is to be started in its place."""
        trial = self._trial.get(executor.number)
        if trial is not None and not trial.done():
            trial.set_result(how)
        if executor.number in self.leaving:
            self.leaving.discard(executor.number)
            return True
        return trial is not None

    async def close(self) -> None:
        """Give up what is being done."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._software.close()
