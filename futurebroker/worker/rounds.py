"""Calls and looks that reach every executor, and calls that each new executor makes before its first task (sans-IO).

`client.upload_file`, plugins and callbacks are such standing calls: an executor that starts later, because another died
or the software was changed, gets no task before it has made them. The agent keeps them as opaque bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from futurebroker.protocol.messages import CallExecutors, ExecutorsAnswered, Failure, Inspect, StandingGiven
from futurebroker.worker.commands import CallEnded, CallOut, InspectAgent, Inspected, InspectOut, Instruction
from futurebroker.worker.records import ExecutorRecord

#: topics of `Inspect` that the agent answers itself
OF_THE_AGENT = frozenset({"logs"})


class _Round:
    """A call or look on its way through the executors."""

    __slots__ = ("answers", "missing", "views")

    def __init__(self, missing: set[int]) -> None:
        self.missing = missing
        self.answers: list[tuple[bytes | None, Failure | None]] = []
        self.views: list[Any] = []


class Rounds:
    """See the top of this file.

    Args:
        worker: its name, for the failures of calls whose executor ended.
        executors: those that tasks may be given to; one that has calls to make first is held back from it.
    """

    def __init__(self, worker: str, executors: dict[int, ExecutorRecord], emit: Callable[[Instruction], None]) -> None:
        self._worker = worker
        self._executors = executors
        self._emit = emit
        self._rounds: dict[int, _Round] = {}
        self._standing: dict[str, CallExecutors] = {}
        self._held: dict[int, ExecutorRecord] = {}
        #: by the executor that is held back, numbers of the calls it has to make first
        self._first: dict[int, set[int]] = {}
        self._last = 0

    def call(self, message: CallExecutors) -> None:
        """Have every executor make a call; idle ones get no task before they have."""
        self._standing.pop(message.drop, None)
        if message.keep:
            self._standing.pop(message.keep, None)
            self._standing[message.keep] = message
        number = message.number or self._own_number()
        everyone = {**self._executors, **self._held}
        for executor in everyone.values():
            if message.keep and not executor.packets:
                self._hold(executor).add(number)
            self._emit(CallOut(executor.number, number, message.code, message.args))
        if message.number:
            self._begin(number, set(everyone))

    def _own_number(self) -> int:
        """For a call of which nobody wants to hear; those of the scheduler are positive."""
        self._last -= 1
        return self._last

    def marks(self) -> dict[str, float]:
        """Of the calls that stand, when they were said, by name."""
        return {name: message.mark for name, message in self._standing.items()}

    def give(self, names: Iterable[str]) -> None:
        """A new scheduler asks for calls that it doesn't know."""
        for message in [self._standing[name] for name in names if name in self._standing]:
            self._emit(StandingGiven(message.keep, message.mark, message.code, message.args))

    def look(self, message: Inspect) -> None:
        """Ask every executor, or the agent, for what ``message`` is about."""
        if message.topic in OF_THE_AGENT:
            self._begin(message.number, {0})
            self._emit(InspectAgent(message.number, message.topic, message.about))
            return
        everyone = {**self._executors, **self._held}
        for number in everyone:
            self._emit(InspectOut(number, message.number, message.topic, message.about))
        self._begin(message.number, set(everyone))

    def _begin(self, number: int, missing: set[int]) -> None:
        self._rounds[number] = _Round(missing)
        self._finish(number)

    def _finish(self, number: int) -> None:
        done = self._rounds[number]
        if not done.missing:
            del self._rounds[number]
            self._emit(ExecutorsAnswered(number, done.answers, done.views))

    def executor_ready(self, executor: ExecutorRecord) -> bool:
        """Whether it may be given tasks now; if not it is once it has made the standing calls."""
        for message in self._standing.values():
            number = self._own_number()
            self._hold(executor).add(number)
            self._emit(CallOut(executor.number, number, message.code, message.args))
        return executor.number not in self._first

    def _hold(self, executor: ExecutorRecord) -> set[int]:
        self._executors.pop(executor.number, None)
        self._held[executor.number] = executor
        return self._first.setdefault(executor.number, set())

    def ended(self, event: CallEnded) -> bool:
        """A call came to something; returns whether it was one of these."""
        first = self._first.get(event.executor)
        mine = event.number < 0
        if first is not None and event.number in first:
            first.discard(event.number)
            if not first:
                del self._first[event.executor]
                self._executors[event.executor] = self._held.pop(event.executor)
        current = self._rounds.get(event.number)
        if current is not None and event.executor in current.missing:
            mine = True
            current.missing.discard(event.executor)
            current.answers.append((event.value, event.failure))
            self._finish(event.number)
        return mine

    def inspected(self, event: Inspected) -> None:
        """An executor, or the agent as number 0, has looked."""
        current = self._rounds.get(event.number)
        if current is not None and event.executor in current.missing:
            current.missing.discard(event.executor)
            current.views.append(event.view)
            self._finish(event.number)

    def executor_ended(self, executor: int, how: str) -> None:
        """What it had to answer came to nothing."""
        self._held.pop(executor, None)
        self._first.pop(executor, None)
        text = f"an executor of worker {self._worker} ended with {how} before it answered"
        failure = Failure("TaskError", text, text, "", self._worker, None, [text])
        for number, current in list(self._rounds.items()):
            if executor in current.missing:
                current.missing.discard(executor)
                current.answers.append((None, failure))
                self._finish(number)

    def clear(self) -> None:
        """Another scheduler: nobody waits for answers. What stands does so still."""
        self._rounds.clear()
