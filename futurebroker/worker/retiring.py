"""Executors that are to be replaced: they get nothing more, and go once they have nothing to do (sans-IO)."""

from __future__ import annotations

from futurebroker.worker.commands import AskRest, ExecutorIdle, Instruction, Recall
from futurebroker.worker.records import ExecutorRecord


class Retiring:
    """See the top of this file.

    Args:
        executors: those that tasks may be given to.
    """

    def __init__(self, executors: dict[int, ExecutorRecord]) -> None:
        self._executors = executors
        self._leaving: dict[int, ExecutorRecord] = {}

    def __bool__(self) -> bool:
        return bool(self._leaving)

    def get(self, number: int) -> ExecutorRecord | None:
        """An executor that is to go and has something to do."""
        return self._leaving.get(number)

    def pop(self, number: int) -> ExecutorRecord | None:
        """It has ended."""
        return self._leaving.pop(number, None)

    def retire(self, number: int) -> list[Instruction]:
        """Give it nothing more, and take back what it hasn't begun."""
        executor = self._executors.pop(number, None)
        if executor is None:
            return [ExecutorIdle(number)]
        self._leaving[number] = executor
        return [Recall(number), AskRest(number)] if executor.packets else []

    def idle(self) -> list[Instruction]:
        """Those that have nothing to do any more, each once."""
        gone = [number for number, executor in self._leaving.items() if not executor.packets and not executor.away]
        for number in gone:
            del self._leaving[number]
        return [ExecutorIdle(number) for number in gone]
