"""Restarts, workers that are to leave, and the environments that executors run in (sans-IO)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from futurebroker.protocol.messages import (
    Answer,
    Ask,
    Cancel,
    Leave,
    Parcel,
    ParcelPart,
    ParcelWanted,
    Prepare,
    RestartExecutors,
    RunOnScheduler,
    ToPeer,
)
from futurebroker.scheduler import intake, placement, recording, rounds, standing
from futurebroker.scheduler.commands import Noticed, PassOn
from futurebroker.scheduler.operations import Environment, Leaving, Round
from futurebroker.scheduler.records import ClientRecord, WorkerRecord
from futurebroker.scheduler.state import UNFINISHED, SchedulerState
from futurebroker.scheduler.stories import wall
from futurebroker.states import WorkerStatus

#: seconds a worker that retires lets its tasks run on: as long as they take
PATIENCE = 7 * 86400.0
#: seconds what runs gets to finish before its executor is replaced by one in another environment
CHANGE_PATIENCE = 5.0


# -- restarting --------------------------------------------------------------------------------------------------------


def restart(state: SchedulerState, client: ClientRecord, message: Ask) -> None:
    """Give up all tasks of all clients and replace all executors; what is published stays."""
    for other in [*state.clients.values(), state.detached]:
        cancel = Cancel([task.key for task in other.wants], False, "the cluster was restarted")
        if cancel.keys:
            if state.facts is not None:
                recording.said(state, other, cancel)
            intake.cancel(state, other, cancel)
    _renew(state, client, message, list(state.workers.values()))


def restart_workers(state: SchedulerState, client: ClientRecord, message: Ask) -> None:
    """Replace the executors of the workers named; what they run, runs again."""
    names = message.about
    if strange := rounds.unknown(state, names):
        state.send(client.client_id, Answer(message.number, None, strange))
        return
    _renew(state, client, message, rounds.named(state, names))


def _renew(state: SchedulerState, client: ClientRecord, message: Ask, workers: list[WorkerRecord]) -> None:
    def finish(done: Round) -> None:
        state.send(done.client, Answer(message.number, _outcomes(state, done), _complaints(state, done)))

    rounds.begin(state, client, workers, lambda number: RestartExecutors(number), finish)


def _outcomes(state: SchedulerState, done: Round) -> dict[str, str]:
    return {worker: "failed" if reason else "OK" for worker, reason in done.reasons.items()}


def _complaints(state: SchedulerState, done: Round) -> str:
    """What workers complained of, each sentence once."""
    reasons: dict[str, list[str]] = {}
    for worker_id, reason in done.reasons.items():
        if reason:
            worker = state.workers.get(worker_id)
            reasons.setdefault(reason, []).append(worker.name if worker is not None else worker_id)
    return "; ".join(f"{reason} (worker {', '.join(names)})" for reason, names in reasons.items())


# -- leaving -----------------------------------------------------------------------------------------------------------


def retire_workers(state: SchedulerState, client: ClientRecord, message: Ask) -> None:
    """Have workers finish what they run, hand over what only they hold, and leave; answered when they have."""
    about = message.about if isinstance(message.about, dict) else {}
    names, count = about.get("workers"), about.get("n")
    if strange := rounds.unknown(state, names):
        state.send(client.client_id, Answer(message.number, None, strange))
        return
    workers = rounds.named(state, names) if names else leavers(state, len(state.workers) if count is None else count)
    answer = {worker.worker_id: {"name": worker.name, "host": worker.host} for worker in workers}
    for worker in workers:
        state.send(worker.worker_id, Leave("it is retired", PATIENCE))
    leaving = Leaving(client.client_id, message.number, set(answer), answer)
    state.operations.leaving.append(leaving)
    _answer_leaving(state)


def leavers(state: SchedulerState, count: int) -> list[WorkerRecord]:
    """The ``count`` workers that are missed least: those that run nothing, then those that hold the fewest bytes."""
    running = [worker for worker in state.workers.values() if worker.status is not WorkerStatus.CLOSING]
    running.sort(key=lambda worker: (len(worker.processing), sum(task.nbytes for task in worker.holds)))
    return running[: max(0, count)]


def _answer_leaving(state: SchedulerState) -> None:
    operations = state.operations
    for leaving in operations.leaving:
        if not leaving.missing:
            state.send(leaving.client, Answer(leaving.number, leaving.answer))
    operations.leaving = [leaving for leaving in operations.leaving if leaving.missing]


def _note(state: SchedulerState, worker: WorkerRecord, action: str, **more: str) -> None:
    event = {"action": action, "worker": worker.name, **more}
    state.operations.log_event((worker.worker_id,), wall(state, state.now), event)


def worker_lost(state: SchedulerState, worker: WorkerRecord) -> None:
    """A worker is gone, as some may have waited for."""
    rounds.worker_lost(state, worker)
    notice(state, "remove_worker", worker.worker_id)
    state.operations.log_event(
        (worker.worker_id,), wall(state, state.now), {"action": "remove-worker", "worker": worker.name}
    )
    for leaving in state.operations.leaving:
        leaving.missing.discard(worker.worker_id)
    _answer_leaving(state)


def client_gone(state: SchedulerState, client: str) -> None:
    """Nobody waits for what this client asked."""
    rounds.client_gone(state, client)
    operations = state.operations
    operations.leaving = [leaving for leaving in operations.leaving if leaving.client != client]
    operations.channels = {name: ends for name, ends in operations.channels.items() if client not in ends}
    notice(state, "remove_client", client)


def notice(state: SchedulerState, what: str, who: str) -> None:
    """Tell plugins, if there are any."""
    if state.operations.is_watched:
        state.commands.append(PassOn("", Noticed(what, who)))


def worker_joined(state: SchedulerState, worker: WorkerRecord) -> None:
    """A new worker's executors run in the same environment, and make the same calls, before their first task."""
    state.operations.log_event(
        (worker.worker_id,), wall(state, state.now), {"action": "add-worker", "worker": worker.name}
    )
    notice(state, "add_worker", worker.worker_id)
    standing.worker_joined(state, worker)
    before = state.operations.environment_mark
    if standing.must_change(state, worker):
        _change(state, worker)
    elif state.operations.environment_mark != before:  # those that came back sooner changed before
        for other in standing.outdated(state):
            _change(state, other)


def _change(state: SchedulerState, worker: WorkerRecord) -> None:
    """Have a worker run in the environment that the others run in; it gets no task until it does."""
    parcel, at = state.operations.environment, state.operations.environment_mark
    worker.status = WorkerStatus.PAUSED
    worker.changing = True
    placement.update_room(state, worker)

    def finish(done: Round) -> None:
        if state.workers.get(worker.worker_id) is not worker:
            return
        reason = done.reasons.get(worker.worker_id, "")
        worker.changing = False
        worker.status = WorkerStatus.RUNNING
        placement.update_room(state, worker)
        state.touched[worker] = None
        if reason:
            _note(state, worker, "environment-refused", reason=reason)
            state.send(worker.worker_id, Leave(reason))
        else:
            standing.changed(worker, parcel, at)

    def message(number: int) -> RestartExecutors:
        return RestartExecutors(number, True, parcel, CHANGE_PATIENCE, at)

    rounds.begin(state, ClientRecord("", {}), [worker], message, finish)


# -- environments ------------------------------------------------------------------------------------------------------


def add_environment(state: SchedulerState, about: dict[str, Any]) -> bool:
    """An environment is going to come in parts; whether it is there already."""
    parcel = Parcel(about["name"], about["digest"], about["nbytes"], about["signature"])
    known = [one for one in state.operations.environments.values() if one.parcel.digest == parcel.digest]
    complete = any(standing.is_there(state, one) for one in known)
    state.operations.environments[parcel.name] = Environment(parcel, str(about["python"]), complete)
    return complete


def environment_complete(state: SchedulerState, parcel: str) -> None:
    """All bytes of the environments with this hash are there, and they are right."""
    for environment in state.operations.environments.values():
        if environment.parcel.digest == parcel:
            environment.is_complete = True


def list_environments(state: SchedulerState, _: object) -> dict[str, Any]:
    """What was uploaded, and which of it the executors run in."""
    current = state.operations.environment
    return {
        name: {
            "digest": one.parcel.digest,
            "nbytes": one.parcel.nbytes,
            "python": one.python,
            "complete": standing.is_there(state, one),
            "current": current is not None and current.name == name,
        }
        for name, one in state.operations.environments.items()
    }


def use_environment(state: SchedulerState, client: ClientRecord, message: Ask) -> None:
    """Have all executors run in another environment: first all workers fetch and try it, then they change.

    If one can't, nothing changes anywhere, and the answer says why.
    """
    about = message.about
    name, patience = about.get("name"), about.get("patience")
    parcel = None
    if name is not None:
        environment = state.operations.environments.get(name)
        if environment is None or not (state.replaying or standing.is_there(state, environment)):
            known = ", ".join(state.operations.environments) or "none"
            error = f"there is no environment {name!r}; uploaded are: {known}"
            state.send(client.client_id, Answer(message.number, None, error))
            return
        parcel = environment.parcel

    def change() -> None:
        at = about["mark"] if state.replaying else standing.mark(state)
        operations = state.operations
        operations.environment, operations.environment_mark = parcel, at
        recording.accepted(state, client, Ask(message.number, message.topic, {"name": name, "mark": at}))
        seconds = CHANGE_PATIENCE if patience is None else float(patience)
        rounds.begin(
            state,
            client,
            state.workers.values(),
            lambda number: RestartExecutors(number, True, parcel, seconds, at),
            changed,
        )

    def changed(done: Round) -> None:
        for worker_id, reason in done.reasons.items():
            if not reason and worker_id in state.workers:
                standing.changed(state.workers[worker_id], parcel, state.operations.environment_mark)
        state.operations.log_event(("environment",), wall(state, state.now), {"action": "environment", "name": name})
        state.send(done.client, Answer(message.number, _outcomes(state, done), _complaints(state, done)))

    def prepared(done: Round) -> None:
        if error := _complaints(state, done):
            state.send(done.client, Answer(message.number, None, error))
        else:
            change()

    if parcel is None:
        change()
    else:
        rounds.begin(state, client, state.workers.values(), lambda number: Prepare(number, parcel), prepared)


# -- what the process around the machine does --------------------------------------------------------------------------


def parcel_part(state: SchedulerState, client: ClientRecord, message: ParcelPart) -> None:
    """Bytes of an environment, to be kept."""
    if any(one.parcel.digest == message.digest for one in state.operations.environments.values()):
        state.commands.append(PassOn(client.client_id, message))


def parcel_passed(state: SchedulerState, worker: WorkerRecord, message: ParcelWanted | ParcelPart) -> None:
    """A worker fetches an environment, or gives bytes of it to another."""
    state.commands.append(PassOn(worker.worker_id, message))


def run_on_scheduler(state: SchedulerState, client: ClientRecord, message: RunOnScheduler) -> None:
    """Call a function in the scheduler's process; refused unless that was allowed when it started.

    A plugin is remembered, for the next scheduler of the same journal, unless this one may not have any.
    """
    if state.replaying or state.operations.may_run:
        if message.drop:
            state.operations.plugins.pop(message.drop, None)
        if message.keep:
            state.operations.plugins.pop(message.keep, None)
            state.operations.plugins[message.keep] = message
        if message.keep or message.drop:
            recording.accepted(state, client, message)
    if not state.replaying:
        state.commands.append(PassOn(client.client_id, message))


def forget_plugin(state: SchedulerState, client_id: str, name: str) -> None:
    """A plugin could not be started, as its client is told: it isn't tried again in the next scheduler."""
    state.operations.plugins.pop(name, None)
    client = state.clients.get(client_id)
    if client is not None:
        recording.accepted(state, client, RunOnScheduler(0, b"", b"", drop=name))


def to_peer(state: SchedulerState, client: ClientRecord, message: ToPeer) -> None:
    """Frames for the other end of a channel."""
    state.commands.append(PassOn(client.client_id, message))


def pass_on(state: SchedulerState, client: ClientRecord, message: Ask) -> None:
    """A request that the process around the machine answers."""
    state.commands.append(PassOn(client.client_id, message))


def named_workers(state: SchedulerState, names: list[str] | None) -> list[str]:
    """The ids of the workers that are called so; None or nothing means all."""
    if strange := rounds.unknown(state, names):
        raise ValueError(strange)
    return [worker.worker_id for worker in rounds.named(state, names)]


# -- how many workers there should be ----------------------------------------------------------------------------------


def adaptive_target(state: SchedulerState, about: dict[str, Any]) -> dict[str, Any]:
    """How many workers would be done with all that is submitted in ``target_duration`` seconds, and who may leave.

    As in dask.distributed: the seconds of work that are known of, over the target, in workers of the usual size; no
    more than there are tasks to run, none if there is nothing to do and nothing is held. Tasks that no worker can run
    ask for one more.
    """
    duration = max(float(about.get("target_duration") or 5.0), 0.001)
    workers = list(state.workers.values())
    slots = max(1, round(sum(worker.slots for worker in workers) / len(workers))) if workers else 1
    slots = int(about.get("slots") or slots)
    work, tasks, stranded = 0.0, 0, 0
    for kind in state.kinds.values():
        count = sum(count for one, count in kind.counts.items() if one in UNFINISHED)
        work += kind.expected * count
        tasks += count
    for pool in state.pools.values():
        stranded += len(pool.stranded)
    target = min(math.ceil(work / duration / slots), math.ceil(tasks / slots))
    if stranded:
        target = max(target, len(workers) + 1)
    if not target and any(worker.holds for worker in workers):
        target = 1
    surplus = [worker for worker in leavers(state, len(workers)) if not worker.processing]
    return {
        "target": target,
        "tasks": tasks,
        "names": [worker.name for worker in workers],
        "idle": [worker.name for worker in surplus],
    }


#: see `requests.QUESTIONS` and `requests.REQUESTS`
QUESTIONS: dict[str, Callable[[SchedulerState, Any], Any]] = {
    "named_workers": named_workers,
    "add_environment": add_environment,
    "list_environments": list_environments,
    "adaptive_target": adaptive_target,
}
REQUESTS: dict[str, Callable[[SchedulerState, ClientRecord, Ask], None]] = {
    "restart": restart,
    "restart_workers": restart_workers,
    "retire_workers": retire_workers,
    "use_environment": use_environment,
    "scheduler_logs": pass_on,
    "parcel_done": pass_on,
    "open_channel": pass_on,
}
recording.KEPT_TOPICS.add("add_environment")
