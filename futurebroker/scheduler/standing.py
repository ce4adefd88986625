"""What every executor has while the cluster lives: calls that stand, and the environment it runs in (sans-IO).

A scheduler may forget it with its process; workers don't. Each of these things has a mark, the moment of the wall clock
at which a scheduler took it in, and a worker tells the marks of what it has with each hello. So a new scheduler asks
for what it doesn't know, a worker that was away gets what it missed, and of two versions the newer counts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from futurebroker.protocol.messages import (
    CallExecutors,
    Parcel,
    RunOnExecutors,
    RunOnScheduler,
    StandingGiven,
    StandingWanted,
)
from futurebroker.scheduler.operations import Environment
from futurebroker.scheduler.records import WorkerRecord
from futurebroker.scheduler.state import SchedulerState

#: calls whose taking away is remembered, for workers that missed it
DROPPED_MOST = 1_000
#: first word of a call's name -> what takes it that is the scheduler's own, when workers or a checkpoint give it back
TAKERS: dict[str, Callable[[SchedulerState, RunOnExecutors], None]] = {}


def mark(state: SchedulerState) -> float:
    """A mark for what is said now."""
    operations = state.operations
    operations.marked_at = max(state.now + state.clock_offset, operations.marked_at + 1e-3)
    return operations.marked_at


def keep(state: SchedulerState, message: RunOnExecutors) -> None:
    """A call is to stand from now on, or not any more."""
    message.mark = message.mark or mark(state)
    operations = state.operations
    if message.drop:
        operations.standing.pop(message.drop, None)
        operations.dropped.pop(message.drop, None)
        operations.dropped[message.drop] = message
        if len(operations.dropped) > DROPPED_MOST:
            del operations.dropped[next(iter(operations.dropped))]
    if message.keep:
        operations.dropped.pop(message.keep, None)
        operations.standing.pop(message.keep, None)
        operations.standing[message.keep] = message


def spread(state: SchedulerState, message: RunOnExecutors) -> None:
    """`keep` a call, and have the workers make it that don't have it; nobody hears what it comes to."""
    keep(state, message)
    for worker in state.workers.values():
        if _has(worker).get(message.keep, 0.0) < message.mark:
            _send(state, worker, message, message.keep, "")


def _taken(state: SchedulerState, message: RunOnExecutors) -> None:
    take = TAKERS.get(message.keep.partition(" ")[0])
    if take is not None:
        take(state, message)


def _known(state: SchedulerState, name: str) -> float:
    """The mark of the newest that is known of a call."""
    operations = state.operations
    message = operations.standing.get(name) or operations.dropped.get(name)
    return message.mark if message is not None else 0.0


def _has(worker: WorkerRecord) -> dict[str, float]:
    """The marks of the calls that stand at a worker."""
    marks: dict[str, float] = worker.info.setdefault("standing", {})
    return marks


def worker_joined(state: SchedulerState, worker: WorkerRecord) -> None:
    """Tell a worker what it missed, and ask for what it alone knows."""
    operations, has = state.operations, _has(worker)
    for name, message in operations.dropped.items():
        if has.get(name, message.mark) < message.mark:
            _send(state, worker, message, "", name)
    for name, message in operations.standing.items():
        if has.get(name, 0.0) < message.mark:
            _send(state, worker, message, name, "")
    if missing := [name for name, at in has.items() if at > _known(state, name)]:
        state.send(worker.worker_id, StandingWanted(missing))
    for row in worker.info.get("environments", ()):
        name, digest, nbytes, signature, python = row
        if name not in operations.environments:
            operations.environments[name] = Environment(Parcel(name, digest, nbytes, signature), python)


def _send(state: SchedulerState, worker: WorkerRecord, message: RunOnExecutors, keep: str, drop: str) -> None:
    if not message.workers or any(worker.answers_to(name) for name in message.workers):
        _has(worker)[keep or drop] = message.mark
        state.send(worker.worker_id, CallExecutors(0, message.code, message.args, keep, drop, message.mark))


def given(state: SchedulerState, worker: WorkerRecord, message: StandingGiven) -> None:
    """A worker gives back a call that stood in the time of a former scheduler: those that joined since lack it."""
    if message.mark <= _known(state, message.name):
        return
    call = RunOnExecutors(0, message.code, message.args, keep=message.name, mark=message.mark)
    spread(state, call)
    _taken(state, call)
    standing = state.operations.standing
    state.operations.standing = dict(sorted(standing.items(), key=lambda entry: entry[1].mark))


# -- environments ------------------------------------------------------------------------------------------------------


def holders(state: SchedulerState, digest: str) -> list[WorkerRecord]:
    """The workers that have the zip of an environment."""
    return [
        worker
        for worker in state.workers.values()
        if any(row[1] == digest for row in worker.info.get("environments", ()))
    ]


def is_there(state: SchedulerState, environment: Environment) -> bool:
    """Whether somebody has all its bytes."""
    return environment.is_complete or bool(holders(state, environment.parcel.digest))


def must_change(state: SchedulerState, worker: WorkerRecord) -> bool:
    """Whether a worker that joins runs in another environment than it should; it may be the one that knows."""
    operations = state.operations
    name, at = worker.info.get("environment", ("", 0.0))
    if at > operations.environment_mark:
        known = operations.environments.get(name)
        operations.environment = known.parcel if known is not None else None
        operations.environment_mark = at
    current = operations.environment
    return at != operations.environment_mark and (current.digest if current is not None else "") != _digest(worker)


def _digest(worker: WorkerRecord) -> str:
    name, _ = worker.info.get("environment", ("", 0.0))
    return next((row[1] for row in worker.info.get("environments", ()) if name and row[0] == name), "")


def outdated(state: SchedulerState) -> list[WorkerRecord]:
    """The workers that run in another environment than they should, and aren't told to change."""
    current = state.operations.environment
    digest = current.digest if current is not None else ""
    return [worker for worker in state.workers.values() if not worker.changing and _digest(worker) != digest]


def changed(worker: WorkerRecord, parcel: Parcel | None, at: float, python: str = "") -> None:
    """A worker runs in this environment now."""
    worker.info["environment"] = (parcel.name if parcel is not None else "", at)
    if parcel is not None:
        rows = [row for row in worker.info.get("environments", ()) if row[0] != parcel.name]
        worker.info["environments"] = [*rows, (parcel.name, parcel.digest, parcel.nbytes, parcel.signature, python)]


# -- what stands in a checkpoint ---------------------------------------------------------------------------------------


def dump(state: SchedulerState) -> dict[str, Any]:
    """All of it."""
    operations = state.operations
    return {
        "standing": [(name, one.code, one.args, one.mark) for name, one in operations.standing.items()],
        "dropped": [(name, one.code, one.args, one.mark) for name, one in operations.dropped.items()],
        "plugins": [(name, one.code, one.args) for name, one in operations.plugins.items()],
        "environments": [
            (one.parcel.name, one.parcel.digest, one.parcel.nbytes, one.parcel.signature, one.python)
            for one in operations.environments.values()
        ],
        "environment": operations.environment.name if operations.environment is not None else "",
        "mark": operations.environment_mark,
    }


def load(state: SchedulerState, rows: dict[str, Any]) -> None:
    """Take in what `dump` gave."""
    operations = state.operations
    for name, code, args, at in rows["standing"]:
        operations.standing[name] = RunOnExecutors(0, code, args, keep=name, mark=at)
        _taken(state, operations.standing[name])
    for name, code, args, at in rows["dropped"]:
        operations.dropped[name] = RunOnExecutors(0, code, args, drop=name, mark=at)
    operations.marked_at = max([operations.marked_at, *(at for *_, at in (*rows["standing"], *rows["dropped"]))])
    for name, code, args in rows.get("plugins", ()):  # older checkpoints have none
        operations.plugins[name] = RunOnScheduler(0, code, args, keep=name)
    for name, digest, nbytes, signature, python in rows["environments"]:
        operations.environments[name] = Environment(Parcel(name, digest, nbytes, signature), python)
    current = operations.environments.get(rows["environment"])
    operations.environment = current.parcel if current is not None else None
    operations.environment_mark = rows["mark"]
