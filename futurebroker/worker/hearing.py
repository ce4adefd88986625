"""What executors say, handed to who it is for: the agent's machine, its host of apps, or the scheduler."""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod

from futurebroker.worker import commands
from futurebroker.worker.apps import AppHost
from futurebroker.worker.commands import Event
from futurebroker.worker.executors import Executor
from futurebroker.worker.machine import WorkerMachine
from futurebroker.worker.packets import Called, LinkWanted, Result, Saying, Seen
from futurebroker.worker.relaying import Relay

#: tasks at executors below which a report goes on at once; with more of them, others may join it
FEW = 8


class ExecutorWords(ABC):
    """The part of `ExecutorEvents` that is only passed on."""

    _machine: WorkerMachine
    _relay: Relay
    _app: AppHost

    @abstractmethod
    def feed(self, event: Event, urgent: bool = False) -> None:
        """Let the machine handle ``event``."""

    def reported(self, executor: Executor, results: list[Result]) -> None:
        """See `ExecutorEvents`."""
        self.feed(commands.Reported(executor.number, results), len(self._machine.dispatcher.sent) - len(results) < FEW)

    def rest_returned(self, executor: Executor, numbers: list[int]) -> None:
        """See `ExecutorEvents`."""
        self.feed(commands.RestReturned(executor.number, numbers))

    def away(self, executor: Executor, task: int, is_away: bool) -> None:
        """See `ExecutorEvents`."""
        event = commands.TaskLeft if is_away else commands.TaskBack
        self.feed(event(executor.number, task), True)

    def link_wanted(self, executor: Executor, wanted: LinkWanted, sock: socket.socket) -> None:
        """See `ExecutorEvents`."""
        self._relay.admit(executor.number, wanted, sock)

    def called(self, executor: Executor, called: Called) -> None:
        """See `ExecutorEvents`."""
        self.feed(commands.CallEnded(called.number, called.value, called.failure, executor.number), True)

    def seen(self, executor: Executor, seen: Seen) -> None:
        """See `ExecutorEvents`."""
        self.feed(commands.Inspected(executor.number, seen.number, seen.view), True)

    def said(self, saying: Saying) -> None:
        """See `ExecutorEvents`."""
        self._app.said(saying)
