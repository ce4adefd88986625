"""Calls out of line with tasks, as `Client.run` makes them: which executor has which (sans-IO)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from futurebroker.protocol.messages import CallFunction, Failure, FunctionCalled
from futurebroker.worker.commands import CallEnded, CallOut, Instruction
from futurebroker.worker.records import ExecutorRecord
from futurebroker.worker.rounds import Rounds


class Calls:
    """See the top of this file.

    Args:
        worker: its name, for the failures of calls whose executor ended.
        executors: those that tasks may be given to.
    """

    def __init__(self, worker: str, executors: dict[int, ExecutorRecord], emit: Callable[[Instruction], None]) -> None:
        #: calls that every executor makes
        self.rounds = Rounds(worker, executors, emit)
        self._worker = worker
        self._emit = emit
        self._open = executors
        self._executors: dict[int, int] = {}
        self._waiting: list[CallFunction] = []

    def __len__(self) -> int:
        """How many are being made."""
        return len(self._executors)

    def is_calling(self, executor: int) -> bool:
        """Whether ``executor`` makes a call."""
        return executor in self._executors.values()

    def make(self, message: CallFunction, executors: Iterable[int]) -> None:
        """Have one of ``executors`` make the call; without any it waits for the next to be ready."""
        number = next(iter(executors), None)
        if number is None:
            self._waiting.append(message)
            return
        self._executors[message.number] = number
        self._emit(CallOut(number, message.number, message.code, message.args))

    def executor_ready(self, executor: ExecutorRecord) -> None:
        """There is an executor for those that wait."""
        if not self.rounds.executor_ready(executor):
            return
        number = executor.number
        waiting, self._waiting = self._waiting, []
        for message in waiting:
            self.make(message, (number,))

    def ended(self, event: CallEnded) -> None:
        """A call came to something."""
        if self.rounds.ended(event):
            waiting, self._waiting = self._waiting, []
            for message in waiting:
                self.make(message, self._open)
            return
        if self._executors.pop(event.number, None) is not None:
            self._emit(FunctionCalled(event.number, event.value, event.failure))

    def executor_ended(self, executor: int, how: str) -> None:
        """Those that ``executor`` made failed with it."""
        self.rounds.executor_ended(executor, how)
        for number in [call for call, where in self._executors.items() if where == executor]:
            del self._executors[number]
            text = f"the executor that ran the call on worker {self._worker} ended with {how}"
            failure = Failure("ExecutorDiedError", text, text, "", self._worker)
            self._emit(FunctionCalled(number, None, failure))

    def clear(self) -> None:
        """Nobody wants to hear of any of them."""
        self._executors.clear()
        self._waiting.clear()
        self.rounds.clear()
