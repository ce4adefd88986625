"""Where results lie, and having them lie elsewhere: copies on request, an even load, memory by worker and kind.

Every copy is made by the worker that is to have it (`Replicate`); a request is answered when each of its copies is
there, or turned out not to be possible.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from futurebroker.protocol.messages import Answer, Ask, Replicate
from futurebroker.scheduler.records import ClientRecord, Copying, TaskRecord, WorkerRecord
from futurebroker.scheduler.state import MEMORY, SchedulerState
from futurebroker.states import WorkerStatus
from futurebroker.types import Key

#: part of the mean by which workers' loads may differ before anything is moved (dask's figure)
UNEVEN = 0.05
#: results one request to even out moves at most
MOVES_MAX = 10_000
#: metrics of a worker that tell of its memory; docs/memory.md says what each is
FIGURES = (
    "limit", "process", "managed", "spilled", "unmanaged", "task_memory", "overhead", "freed", "mapped", "peak",
    "stored", "paused", "spill_error", "memory_counts", "direct_sent", "direct_received",
)  # fmt: skip


def storing_place(state: SchedulerState, names: list[str]) -> dict[str, str] | None:
    """The worker to which a client may send data, by a connection; None: there is none that can be connected to."""
    running = [
        worker
        for worker in _chosen(state, names)
        if worker.status is WorkerStatus.RUNNING and worker.address and worker.worker_id
    ]
    best = min(running, key=lambda worker: len(worker.holds) + len(worker.processing), default=None)
    return {"worker": best.worker_id, "address": best.address} if best is not None else None


def _chosen(state: SchedulerState, names: list[str] | None) -> list[WorkerRecord]:
    workers = state.workers.values()
    return [worker for worker in workers if not names or any(worker.answers_to(name) for name in names)]


def _held(state: SchedulerState, keys: list[Key] | None) -> list[TaskRecord]:
    tasks = state.tasks.values() if keys is None else (state.tasks.get(key) for key in keys)
    return [task for task in tasks if task is not None and task.state is MEMORY and task.holders is not None]


# -- copies --------------------------------------------------------------------------------------------------------


def replicate(state: SchedulerState, client: ClientRecord, message: Ask) -> None:
    """Have ``n`` workers, of those named, hold each of ``keys``; all of them when ``n`` is None."""
    about = message.about
    workers = [worker for worker in _chosen(state, about["workers"]) if worker.status is WorkerStatus.RUNNING]
    request = Copying(client.client_id, message.number)
    for task in _held(state, about["keys"]):
        holders = task.holder_paths()
        wanted = len(workers) if about["n"] is None else min(about["n"], len(workers))
        others = sorted((worker for worker in workers if worker not in holders), key=lambda one: len(one.holds))
        for worker in others[: max(0, wanted - sum(worker in holders for worker in workers))]:
            _copy(state, request, task, worker, None)
    _answer(state, request)


def rebalance(state: SchedulerState, client: ClientRecord, message: Ask) -> None:
    """Move results from workers that hold more bytes than others to those, until they hold about the same."""
    about = message.about
    workers = [worker for worker in _chosen(state, about["workers"]) if worker.status is WorkerStatus.RUNNING]
    request = Copying(client.client_id, message.number)
    if len(workers) > 1:
        for task, donor, taker in _plan(workers, _held(state, about["keys"])):
            _copy(state, request, task, taker, donor)
    _answer(state, request)


def _plan(workers: list[WorkerRecord], tasks: list[TaskRecord]) -> list[tuple[TaskRecord, WorkerRecord, WorkerRecord]]:
    """Which result goes from whom to whom: always from the fullest to the emptiest, and the largest that fits."""
    held: dict[WorkerRecord, list[TaskRecord]] = {worker: [] for worker in workers}
    for task in tasks:
        holders = list(task.holder_paths())
        if len(holders) == 1 and holders[0] in held:
            held[holders[0]].append(task)
    load = {worker: sum(task.nbytes for task in mine) for worker, mine in held.items()}
    for mine in held.values():
        mine.sort(key=lambda task: task.nbytes)
    mean = sum(load.values()) / len(workers)
    moves: list[tuple[TaskRecord, WorkerRecord, WorkerRecord]] = []
    while len(moves) < MOVES_MAX:
        donor, taker = max(workers, key=load.__getitem__), min(workers, key=load.__getitem__)
        gap = load[donor] - load[taker]
        fitting = [task for task in held[donor] if 0 < task.nbytes < gap]
        if load[donor] - mean <= mean * UNEVEN or not fitting:
            return moves
        best = max((task for task in fitting if 2 * task.nbytes <= gap), key=_nbytes, default=fitting[0])
        held[donor].remove(best)
        load[donor] -= best.nbytes
        load[taker] += best.nbytes
        moves.append((best, donor, taker))
    return moves


def _nbytes(task: TaskRecord) -> int:
    return task.nbytes


def _copy(
    state: SchedulerState, request: Copying, task: TaskRecord, taker: WorkerRecord, donor: WorkerRecord | None
) -> None:
    pair = (task.key, taker.worker_id)
    request.missing[pair] = donor.worker_id if donor is not None else ""
    state.copying.setdefault(pair, []).append(request)
    state.send(taker.worker_id, Replicate(task.held()))


def copied(state: SchedulerState, worker: WorkerRecord, key: Key, *, there: bool) -> None:
    """A worker has its copy of a result, or won't have one: who asked for it is told when all of them are through."""
    for request in state.copying.pop((key, worker.worker_id), ()):
        donor = state.workers.get(request.missing.pop((key, worker.worker_id)))
        task = state.tasks.get(key)
        if not there:
            request.failed += 1
        elif donor is not None and task is not None and donor in task.holder_paths() and worker in task.holder_paths():
            task.discard_holder(donor)
            state.free(donor, key)
        _answer(state, request)


def taker_lost(state: SchedulerState, worker: WorkerRecord) -> None:
    """A worker is gone: the copies that it was to have won't come."""
    for key, _ in [pair for pair in state.copying if pair[1] == worker.worker_id]:
        copied(state, worker, key, there=False)


def _answer(state: SchedulerState, request: Copying) -> None:
    if not request.missing and request.client in state.clients:
        state.send(request.client, Answer(request.number, {"failed": request.failed}))


# -- memory --------------------------------------------------------------------------------------------------------


def memory(state: SchedulerState, _: object) -> dict[str, Any]:
    """By worker and by kind of task, what takes memory, in bytes; see docs/memory.md."""
    state.asked_at = state.now
    spilled: dict[str, int] = {}
    workers = {}
    for worker in state.workers.values():
        metrics = worker.metrics
        workers[worker.worker_id] = {
            "name": worker.name,
            "status": worker.status.value,
            **{name: metrics.get(name) for name in FIGURES},
            "bandwidth": worker.bandwidth,
            "events": [{"at": at, "kind": kind, "text": text} for at, kind, text in worker.events],
        }
        for kind, nbytes in (metrics.get("spilled_kinds") or {}).items():
            spilled[kind] = spilled.get(kind, 0) + nbytes
    kinds: dict[str, dict[str, int]] = {}
    for worker in state.workers.values():
        for task in worker.holds:
            figures = kinds.setdefault(task.kind.name, {"stored": 0, "results": 0, "spilled": 0})
            figures["stored"] += task.nbytes
            figures["results"] += 1
    for kind, nbytes in spilled.items():
        kinds.setdefault(kind, {"stored": 0, "results": 0, "spilled": 0})["spilled"] = nbytes
    return {"workers": workers, "kinds": kinds, "bandwidth": state.bandwidth}


QUESTIONS: dict[str, Callable[[SchedulerState, Any], Any]] = {"storing_place": storing_place, "memory": memory}
REQUESTS: dict[str, Callable[[SchedulerState, ClientRecord, Ask], None]] = {
    "replicate": replicate,
    "rebalance": rebalance,
}
