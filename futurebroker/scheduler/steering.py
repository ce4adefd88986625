"""What operators ask of workers and do to them, by the names that Celery's ``inspect`` and ``control`` have."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

from futurebroker.protocol.messages import Leave, Resize, Said
from futurebroker.scheduler import placement, terms
from futurebroker.scheduler.admission import SLOTS_MAX
from futurebroker.scheduler.eligibility import refresh_all
from futurebroker.scheduler.placement import DEFAULT_QUEUE
from futurebroker.scheduler.records import TaskRecord, WorkerRecord
from futurebroker.scheduler.state import MEMORY, SCHEDULED, SchedulerState

#: tasks that an answer lists for a worker at most
SHOWN = 10_000


def _chosen(state: SchedulerState, names: list[str] | None, pattern: str | None = None) -> list[WorkerRecord]:
    workers = state.workers.values()
    if pattern:
        return [worker for worker in workers if fnmatchcase(worker.name, pattern)]
    return [worker for worker in workers if not names or any(worker.answers_to(name) for name in names)]


# -- asking ----------------------------------------------------------------------------------------------------------


def _info(task: TaskRecord, worker: WorkerRecord | None) -> dict[str, Any]:
    options = task.pool.options
    return {
        "id": task.key,
        "name": task.kind.name,
        "type": task.kind.name,
        "args": None,
        "kwargs": None,
        "hostname": worker.name if worker is not None else None,
        "time_start": None,
        "acknowledged": True,
        "delivery_info": {
            "exchange": "",
            "routing_key": options.queue or DEFAULT_QUEUE,
            "priority": options.priority,
            "redelivered": task.deaths > 0,
        },
        "worker_pid": worker.info.get("pid") if worker is not None else None,
    }


def _running(worker: WorkerRecord) -> list[TaskRecord]:
    return list(worker.processing.values())[: worker.slots]


def _ping(_state: SchedulerState, _worker: WorkerRecord, _about: Any) -> Any:
    return {"ok": "pong"}


def _active(_state: SchedulerState, worker: WorkerRecord, _about: Any) -> Any:
    return [_info(task, worker) for task in _running(worker)]


def _reserved(_state: SchedulerState, worker: WorkerRecord, _about: Any) -> Any:
    return [_info(task, worker) for task in list(worker.processing.values())[worker.slots : SHOWN]]


def _scheduled(state: SchedulerState, worker: WorkerRecord, _about: Any) -> Any:
    found = []
    for task in state.tasks.values():
        if task.state is SCHEDULED and task.terms is not None and next(iter(task.pool.eligible), None) is worker:
            eta = task.terms.due + state.clock_offset
            found.append({"eta": eta, "priority": task.pool.options.priority, "request": _info(task, worker)})
            if len(found) == SHOWN:
                break
    return found


def _revoked(state: SchedulerState, _worker: WorkerRecord, _about: Any) -> Any:
    return list(state.revoked)


def _registered(state: SchedulerState, worker: WorkerRecord, _about: Any) -> Any:
    return sorted(state.apps.get(worker.worker_id, {}).get("tasks", ()))


def _conf(state: SchedulerState, worker: WorkerRecord, _about: Any) -> Any:
    return state.apps.get(worker.worker_id, {}).get("conf", {})


def _active_queues(_state: SchedulerState, worker: WorkerRecord, _about: Any) -> Any:
    names = [DEFAULT_QUEUE] if worker.queues is None else list(worker.queues)
    return [
        {"name": name, "exchange": {"name": name, "type": "direct"}, "routing_key": name, "durable": True}
        for name in names
    ]


def _stats(state: SchedulerState, worker: WorkerRecord, _about: Any) -> Any:
    metrics = worker.metrics
    return {
        "total": {kind.name: kind.ended for kind in state.kinds.values() if kind.ended},
        "pid": worker.info.get("pid"),
        "clock": str(state.attempts),
        "uptime": metrics.get("uptime"),
        "prefetch_count": len(worker.processing),
        "pool": {
            "implementation": "futurebroker",
            "max-concurrency": worker.slots,
            "processes": list(metrics.get("executors") or ()),
        },
        "broker": {"transport": "amqp"},
        "rusage": {key: metrics[key] for key in ("cpu", "memory") if key in metrics},
    }


def _report(_state: SchedulerState, worker: WorkerRecord, _about: Any) -> Any:
    info = worker.info
    return {"ok": f"futurebroker on Python {info.get('python')}, {info.get('platform')}, {worker.slots} slots"}


def _clock(state: SchedulerState, _worker: WorkerRecord, _about: Any) -> Any:
    return {"clock": state.attempts}


def _query_task(state: SchedulerState, worker: WorkerRecord, ids: Any) -> Any:
    found = {}
    for key in ids or ():
        task = state.tasks.get(key)
        if task is None or task.state is MEMORY:
            continue
        if task.worker is worker:
            found[key] = ["active" if task in _running(worker) else "reserved", _info(task, worker)]
        elif task.state is SCHEDULED and next(iter(task.pool.eligible), None) is worker:
            found[key] = ["scheduled", _info(task, worker)]
    return found


_QUESTIONS: dict[str, Callable[[SchedulerState, WorkerRecord, Any], Any]] = {
    "ping": _ping,
    "active": _active,
    "reserved": _reserved,
    "scheduled": _scheduled,
    "revoked": _revoked,
    "registered": _registered,
    "conf": _conf,
    "active_queues": _active_queues,
    "stats": _stats,
    "report": _report,
    "clock": _clock,
    "query_task": _query_task,
}


def inspect(state: SchedulerState, about: Any) -> dict[str, Any]:
    """``[method, names, pattern, argument]``: the answer of each worker, by its name."""
    method, names, pattern, argument = about
    question = _QUESTIONS.get(method)
    if question is None:
        raise ValueError(f"there is no {method!r}; there are {', '.join(sorted(_QUESTIONS))}")
    return {worker.name: question(state, worker, argument) for worker in _chosen(state, names, pattern)}


# -- doing -----------------------------------------------------------------------------------------------------------


def _add_consumer(state: SchedulerState, workers: list[WorkerRecord], about: Any) -> str:
    taking = [worker for worker in workers if worker.queues is not None]
    if not taking:
        return f"already consuming from {about}"
    for worker in taking:
        if worker.queues is not None:
            worker.queues[str(about)] = None
    refresh_all(state)
    return f"add consumer {about}"


def _cancel_consumer(state: SchedulerState, workers: list[WorkerRecord], about: Any) -> str:
    for worker in workers:
        if worker.queues is None:
            worker.queues = {DEFAULT_QUEUE: None}
        worker.queues.pop(str(about), None)
    refresh_all(state)
    return f"no longer consuming from {about}"


def _pool_grow(state: SchedulerState, workers: list[WorkerRecord], about: Any) -> str:
    for worker in workers:
        state.send(worker.worker_id, Resize(int(about)))
    return "pool will grow"


def _pool_shrink(state: SchedulerState, workers: list[WorkerRecord], about: Any) -> str:
    for worker in workers:
        state.send(worker.worker_id, Resize(-int(about)))
    return "pool will shrink"


def _shutdown(state: SchedulerState, workers: list[WorkerRecord], about: Any) -> str:
    for worker in workers:
        state.send(worker.worker_id, Leave("it was told to shut down"))
    return "shutting down"


_ACTIONS: dict[str, Callable[[SchedulerState, list[WorkerRecord], Any], str]] = {
    "add_consumer": _add_consumer,
    "cancel_consumer": _cancel_consumer,
    "pool_grow": _pool_grow,
    "pool_shrink": _pool_shrink,
    "shutdown": _shutdown,
}


def control(state: SchedulerState, about: Any) -> dict[str, Any]:
    """``[method, names, argument]``: done to the workers named; what is said of each."""
    method, names, argument = about
    action = _ACTIONS.get(method)
    if action is None:
        raise ValueError(f"there is no {method!r}; there are {', '.join(sorted(_ACTIONS))}")
    workers = _chosen(state, names)
    said = action(state, workers, argument)
    return {worker.name: {"ok": said} for worker in workers}


def resized(state: SchedulerState, worker: WorkerRecord, message: Said) -> None:
    """A worker has more or fewer slots from now on."""
    if isinstance(message.about, int) and 0 < message.about <= SLOTS_MAX:
        worker.slots = message.about
        placement.open_window(state, worker)
        placement.update_room(state, worker)


terms.SAYINGS["slots"] = resized
#: questions that are answered at once
TOPICS: dict[str, Callable[[SchedulerState, Any], Any]] = {
    "inspect": inspect,
    "control": control,
}
