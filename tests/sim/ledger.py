"""A ledger of what went into the scheduler machine and what came out, and the laws that only a history shows.

It keeps its own books: what is in flight, by the commands and reports alone; and what every client wants and was told.
After each event the books must agree with the state, and each command must have been lawful:

    I5   attempts rise over the scheduler's whole life
    I6   an attempt is accepted once, and only from the worker it was sent to
    I9   a task is sent only when each input is given, is held, or is being made where it is sent
    I13  a client hears one end of each future, and nothing of one it gave up
    I14  a stale report leads to nothing but the freeing of what came with it
    I17  nothing new goes to a worker that doesn't run
    I27  what is freed on a worker is not counted on there
    I29  only what is in flight is asked back, never what follows on it; what comes back is counted as stolen once
    I30  a task is sent when its time has come and is not over, and not when it was revoked
    I31  tasks of a limited name keep their distance, on each worker or among all
    I28  every key of a call is known afterwards, or was refused
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NoReturn

from futurebroker.exceptions import InvariantViolation
from futurebroker.protocol import messages as m
from futurebroker.scheduler.commands import (
    ClientGone,
    ClientSaid,
    Command,
    Event,
    Forget,
    Noticed,
    PassOn,
    WorkerLost,
    WorkerSaid,
)
from futurebroker.scheduler.records import TaskRecord
from futurebroker.scheduler.shelving import SHELF, Shelve
from futurebroker.scheduler.state import ERRED, MEMORY, SchedulerState
from futurebroker.states import WorkerStatus
from futurebroker.types import ClientId, Key, WorkerId

#: reports that end an attempt
ENDINGS = (m.Finished, m.Erred, m.ExecutorDied, m.GaveBack, m.InputsMissing, m.Continue)


#: states in which a client that wants the task has been told
ENDED = frozenset((MEMORY, ERRED))


#: seconds that moments may be off by after they were computed in two ways
SLACK = 2e-3


def is_revoked(task: TaskRecord) -> bool:
    """Whether it must not be begun any more."""
    return task.terms is not None and bool(task.terms.revoked)


def broken(law: str, what: str) -> NoReturn:
    """Raise the violation of a law."""
    raise InvariantViolation(law, what)


class CommandLedger:
    """Call `check` after each event with what the machine returned for it."""

    def __init__(self, state: SchedulerState) -> None:
        self.state = state
        #: key -> (worker, attempt), by the messages alone
        self.in_flight: dict[Key, tuple[WorkerId, int]] = {}
        #: client -> key -> whether the client was told of the end
        self.told: dict[ClientId, dict[Key, bool]] = {}
        self.accepted: Counter[int] = Counter()
        #: worker -> (key, attempt) that it was last asked to hand back
        self.asked: dict[WorkerId, set[tuple[Key, int]]] = {}
        self.stolen = 0
        self._attempt = 0
        self._functions: set[tuple[WorkerId, bytes]] = set()
        #: (name, worker or None for all) -> when a task of this name may begin there
        self._free_at: dict[tuple[str, WorkerId | None], float] = {}
        #: when a task that asked to be run again may be
        self._due: dict[Key, float] = {}
        #: keys named by the event at hand, and how often
        self._named: Counter[Key] = Counter()

    def check(self, event: Event, commands: Sequence[Command]) -> None:
        """Enter ``event`` and the ``commands`` that followed.

        Raises:
            InvariantViolation: a law does not hold.
        """
        self._named.clear()
        if isinstance(event, ClientSaid):
            self._said(event)
        elif isinstance(event, ClientGone):
            self.told.pop(event.client, None)
        elif isinstance(event, WorkerLost):
            self.in_flight = {key: at for key, at in self.in_flight.items() if at[0] != event.worker}
            self._functions = {pair for pair in self._functions if pair[0] != event.worker}
        elif isinstance(event, WorkerSaid):
            self._reported(event, commands)
        forgotten: set[str] = set()
        for command in commands:
            if isinstance(command, PassOn) and isinstance(command.message, Noticed):
                continue  # for the process around the machine
            if command.peer in forgotten:
                broken("I17", f"{command} after the peer was forgotten")
            if isinstance(command, Forget):
                forgotten.add(command.peer)
            elif command.peer in self.state.workers:
                self._to_worker(command.peer, command.message)
            elif command.peer in self.state.clients:
                self._to_client(command.peer, command.message)
            elif command.peer not in self.state.archives and (command.peer != SHELF or self.state.shelf is None):
                broken("I17", f"{command} goes to nobody")
        self._agree()

    # -- events -----------------------------------------------------------------------------------------------------

    def _said(self, event: ClientSaid) -> None:
        told = self.told.setdefault(event.client, {})
        for message in event.messages:
            if isinstance(message, m.Ask) and message.topic == "control" and message.about[0] == "rate_limit":
                name = message.about[2][0]
                self._free_at = {place: at for place, at in self._free_at.items() if place[0] != name}
            keys = getattr(message, "keys", None)
            if keys is None:
                keys = [message.key] if hasattr(message, "key") else []
            self._named.update(keys)
            for key in keys:
                self._due.pop(key, None)
                if isinstance(message, (m.Submit, m.Want, m.Await, m.PutValue, m.PutFile, m.PutPart, m.GiveFailure)):
                    if getattr(message, "offset", 0) == 0:
                        told[key] = False
                elif isinstance(message, m.Release):
                    told.pop(key, None)

    def _reported(self, event: WorkerSaid, commands: Sequence[Command]) -> None:
        stale = 0
        messages = list(event.messages)
        for message in messages:
            if not isinstance(message, ENDINGS):
                continue
            if self.in_flight.get(message.key) == (event.worker, message.attempt):
                del self.in_flight[message.key]
                self._accept(message)
                if isinstance(message, m.Continue):
                    self._due[message.key] = self.state.now + message.delay
                if isinstance(message, m.GaveBack):
                    asked = self.asked.get(event.worker, ())
                    self.stolen += (message.key, message.attempt) in asked
            else:
                stale += not isinstance(message, m.InputsMissing)
        if stale and stale == len(messages):
            for command in commands:
                # A request to steal is due at a time, whatever event brings it.
                if isinstance(command, Forget) or not isinstance(command.message, m.Free | m.GiveBack | Shelve):
                    broken("I14", f"{event} is stale, and led to {command}")

    def _accept(self, message: Any) -> None:
        self.accepted[message.attempt] += 1
        if self.accepted[message.attempt] > 1:
            broken("I6", f"{message} was accepted before")
        task = self.state.tasks.get(message.key)
        if isinstance(message, m.Finished) and task is not None and task.needed:
            if task.state is not MEMORY and task.attempt == message.attempt:
                broken("I6", f"{message} was not accepted: {task}")

    # -- commands ---------------------------------------------------------------------------------------------------

    def _to_worker(self, worker_id: WorkerId, message: Any) -> None:
        state = self.state
        worker = state.workers[worker_id]
        if isinstance(message, m.AddFunction):
            self._functions.add((worker_id, message.digest))
        elif isinstance(message, m.Run):
            if message.attempt <= self._attempt:
                broken("I5", f"{message} has a number that was used")
            self._attempt = message.attempt
            if worker.status is not WorkerStatus.RUNNING:
                broken("I17", f"{message} was sent to {worker}")
            if (worker_id, message.function) not in self._functions:
                broken("I9", f"{message} was sent before its function")
            if message.key in self.in_flight:
                broken("I6", f"{message} was sent while {self.in_flight[message.key]} has it")
            self.in_flight[message.key] = (worker_id, message.attempt)
            self._may_begin(worker_id, message)
            for source in message.inputs:
                if isinstance(source, m.Held) and not source.holders:
                    self._made_there(worker_id, message, source)
        elif isinstance(message, m.Adopt):
            if message.attempt <= self._attempt:
                broken("I5", f"{message} has a number that was used")
            self._attempt = message.attempt
            if message.key in self.in_flight:
                broken("I6", f"{message} was sent while {self.in_flight[message.key]} has it")
            self.in_flight[message.key] = (worker_id, message.attempt)
        elif isinstance(message, m.GiveBack):
            if any(self.in_flight.get(key) != (worker_id, attempt) for key, attempt in message.tasks):
                broken("I29", f"{message} asks {worker} for what it doesn't have")
            tasks = [task for key, _ in message.tasks if (task := state.tasks.get(key)) is not None]
            if all(map(is_revoked, tasks)):
                return  # it is asked whether it has begun, and perhaps for somebody else as well
            if any(task.waiting_on for task in tasks):
                broken("I29", f"{message} asks {worker} for what follows on something made there")
            self.asked[worker_id] = set(message.tasks)
        elif isinstance(message, (m.Drop, m.Kill)):
            if self.in_flight.get(message.key) == (worker_id, message.attempt):
                del self.in_flight[message.key]
        elif isinstance(message, m.Free):
            for key in message.keys:
                task = state.tasks.get(key)
                if task is not None and worker in task.holder_paths():
                    broken("I27", f"{key} was freed on {worker}, and is counted on there")

    def _may_begin(self, worker_id: WorkerId, message: m.Run) -> None:
        """I30 and I31: its time has come and isn't over, nobody revoked it, and it isn't too soon for its name."""
        state = self.state
        task = state.tasks[message.key]
        terms = task.terms
        if terms is not None:
            expires = terms.expires and terms.expires - state.clock_offset
            if terms.due or terms.revoked or (expires and expires < state.now - SLACK):
                broken("I30", f"{message} was sent: due {terms.due}, expires {expires}, {terms.revoked!r}")
        if self._due.pop(message.key, 0.0) > state.now + SLACK:
            broken("I30", f"{message} was sent sooner than it asked for")
        rate = task.kind.rate
        if rate is not None:
            place = (task.kind.name, None if rate.for_all else worker_id)
            if state.now < self._free_at.get(place, 0.0) - SLACK:
                broken("I31", f"{message} was sent at {state.now}, and may not before {self._free_at[place]}")
            self._free_at[place] = state.now + 1.0 / rate.per_second

    def _made_there(self, worker_id: WorkerId, message: m.Run, source: m.Held) -> None:
        task = self.state.tasks.get(source.key)
        worker = self.state.workers[worker_id]
        if task is None or not (task.worker is worker or worker in task.holder_paths()):
            broken("I9", f"{message} was sent, and {source.key} is not there: {task}")

    def _to_client(self, client_id: ClientId, message: Any) -> None:
        told = self.told.setdefault(client_id, {})
        match message:
            case m.KeyFinished(key=key) | m.KeyErred(key=key):
                if key in self._named and (key not in told or told[key]):
                    return  # given up, or asked for twice, in the same envelope
                if key not in told:
                    broken("I13", f"{client_id} gave up {key} and got {message}")
                scattered = isinstance(message, m.KeyErred) and message.failure.type == "DataLostError"
                if told[key] and not scattered:  # it had arrived, and is lost now
                    broken("I13", f"{client_id} was told twice of the end of {key}: {message}")
                told[key] = True
            case m.KeyLost(key=key):
                if key not in told and key in self._named:
                    return
                if key not in told:
                    broken("I13", f"{client_id} gave up {key} and got {message}")
                told[key] = False
            case m.KeyCancelled(key=key, kind=kind):
                client = self.state.clients[client_id]
                task = self.state.tasks.get(key)
                again = kind == "duplicate" or self._named[key] > 1
                if again and task is not None and client in task.each_client():
                    # The future it had under this key is none the worse; nor is the one that it asked for next.
                    told[key] = task.state in ENDED and task not in self.state.untold
                else:
                    told.pop(key, None)

    def _agree(self) -> None:
        state = self.state
        if state.counters["stolen"] != self.stolen:
            broken("I29", f"{state.counters['stolen']} are said to be stolen, counted are {self.stolen}")
        processing = {
            task.key: (worker_id, task.attempt)
            for worker_id, worker in state.workers.items()
            for task in worker.processing.values()
            if task.function is not None
        }
        if processing != self.in_flight:
            broken("I6", f"in flight are {self.in_flight}, believed are {processing}")
        for client_id, client in state.clients.items():
            wants = {task.key for task in client.wants}
            wants |= {key for key, clients in state.expected.items() if client in clients}
            if wants != self.told.get(client_id, {}).keys():
                broken("I28", f"{client_id} wants {self.told.get(client_id)}, believed are {wants}")
            for task in client.wants:
                ended = task.state in ENDED and task not in state.untold
                if self.told[client_id][task.key] != ended:
                    broken("I13", f"{client_id} was told of the end of {task}: {not ended}")
