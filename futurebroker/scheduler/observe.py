"""Answers questions about the scheduler's state: who holds what, who does what, and why something doesn't happen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from futurebroker.protocol.messages import Answer, Ask, CallFunction, RanOnWorkers, RunOnWorkers
from futurebroker.scheduler import placement
from futurebroker.scheduler.calls import PendingCall, PendingCount
from futurebroker.scheduler.records import ClientRecord, Pool, TaskRecord, WorkerRecord
from futurebroker.scheduler.state import SchedulerState

#: the program that a site calls itself; nobody means it by a client
DASHBOARD = "dashboard"
#: keys an answer lists for each worker at most
KEYS_SHOWN = 10_000


def wait_for_workers(state: SchedulerState, client: ClientRecord, message: Ask) -> None:
    """Answer when there are as many workers as it asks for."""
    at_least = message.about if isinstance(message.about, int) else 0
    state.counts_awaited.append(PendingCount(client.client_id, message.number, at_least))
    answer_counts(state)


def answer_counts(state: SchedulerState) -> None:
    """Answer who waits for no more workers than there are."""
    present = len(state.workers)
    for count in state.counts_awaited:
        if count.at_least <= present:
            state.send(count.client, Answer(count.number, present))
    state.counts_awaited = [count for count in state.counts_awaited if count.at_least > present]


def run_on_workers(state: SchedulerState, client: ClientRecord, message: RunOnWorkers) -> None:
    """Pass a function to the workers named, and collect what it returns."""
    workers = _named(state, message.workers)
    state.call_number += 1
    if message.wait and workers:
        missing = dict.fromkeys(worker.worker_id for worker in workers)
        state.calls[state.call_number] = PendingCall(client.client_id, message.number, missing)
    else:
        state.send(client.client_id, RanOnWorkers(message.number, {}))
    for worker in workers:
        state.send(worker.worker_id, CallFunction(state.call_number, message.code, message.args))


def _named(state: SchedulerState, names: tuple[str, ...] | list[str] | None) -> list[WorkerRecord]:
    workers = state.workers.values()
    return [worker for worker in workers if not names or any(worker.answers_to(name) for name in names)]


def _tasks(state: SchedulerState, keys: list[str] | None) -> list[TaskRecord]:
    if keys is None:
        return list(state.tasks.values())
    return [task for key in keys if (task := state.tasks.get(key)) is not None]


def who_has(state: SchedulerState, keys: list[str] | None) -> dict[str, list[str]]:
    """By key, the workers that hold the result; ``scheduler`` for what the scheduler keeps itself."""
    holders = {}
    for task in _tasks(state, keys):
        names = [worker.worker_id for worker in task.holder_paths()]
        holders[task.key] = ["scheduler", *names] if task.value is not None else names
    return holders


def has_what(state: SchedulerState, workers: list[str] | None) -> dict[str, list[str]]:
    """By worker, the keys of the results it holds."""
    return {worker.worker_id: [task.key for task in worker.holds] for worker in _named(state, workers)}


def nthreads(state: SchedulerState, workers: list[str] | None) -> dict[str, int]:
    """By worker, how many tasks it runs at a time."""
    return {worker.worker_id: worker.slots for worker in _named(state, workers)}


def processing(state: SchedulerState, workers: list[str] | None) -> dict[str, list[str]]:
    """By worker, the keys of the tasks it was sent and has not reported back."""
    return {
        worker.worker_id: [task.key for task in list(worker.processing.values())[:KEYS_SHOWN]]
        for worker in _named(state, workers)
    }


def nbytes(state: SchedulerState, keys: list[str] | None) -> dict[str, int]:
    """By key, the bytes of its result."""
    return {task.key: task.nbytes for task in _tasks(state, keys)}


def why(state: SchedulerState, key: str) -> str:
    """Where a task stands and what it waits for, in a sentence."""
    task = state.tasks.get(key)
    if task is None:
        return f"{key} is not known: it was never submitted, or it was released or cancelled"
    return f"{key} {placement.explain(state, task)}"


def scheduler_info(state: SchedulerState, _: object) -> dict[str, Any]:
    """The workers, and counts of everything."""
    state.asked_at = state.now
    return {
        "workers": {worker.worker_id: worker_info(worker) for worker in state.workers.values()},
        "clients": sum(client.info.get("program") != DASHBOARD for client in state.clients.values()),
        "programs": {client.client_id: client.info for client in state.clients.values()},
        "scheduler": state.about,
        "tasks": task_counts(state),
        "kinds": {name: kind_info(state, name) for name in state.kinds},
        "queues": [queue_info(pool) for pool in state.pools.values() if pool.queue.length or pool.stranded],
        "counters": dict(state.counters),
        "rejected": dict(state.rejected),
    }


def worker_info(worker: WorkerRecord) -> dict[str, Any]:
    """What is known of one worker."""
    return {
        "name": worker.name,
        "host": worker.host,
        "status": worker.status.value,
        "nthreads": worker.slots,
        "resources": worker.resources,
        "used_resources": {name: amount for name, amount in worker.used.items() if amount},
        "processing": len(worker.processing),
        "holds": len(worker.holds),
        "occupancy": worker.occupancy,
        "latency": worker.latency,
        "data": worker.address,
        "metrics": worker.metrics,
        "events": [{"at": at, "kind": kind, "text": text} for at, kind, text in worker.events],
        **{
            name: worker.info.get(name)
            for name in ("pid", "executors", "threads", "memory_limit", "python", "platform", "version")
        },
    }


def queue_info(pool: Pool) -> dict[str, Any]:
    """How many tasks with the same options wait on the scheduler, for what, and how many workers may run them."""
    options = pool.options
    return {
        "queued": pool.queue.length,
        "no_worker": len(pool.stranded),
        "workers": list(options.workers),
        "resources": options.resources or {},
        "priority": options.priority,
        "eligible": len(pool.eligible),
    }


def task_counts(state: SchedulerState) -> dict[str, int]:
    """How many tasks are in each state."""
    counts: dict[str, int] = {}
    for kind in state.kinds.values():
        for task_state, count in kind.counts.items():
            if task_state.value != "forgotten":
                counts[task_state.value] = counts.get(task_state.value, 0) + count
    return counts


def kind_info(state: SchedulerState, name: str) -> dict[str, Any]:
    """Counts and mean duration of the tasks with one name."""
    kind = state.kinds[name]
    return {
        "states": {task_state.value: count for task_state, count in kind.counts.items() if count},
        "duration": kind.duration,
        "ended": kind.ended,
        "errors": kind.errors,
    }


#: questions that are answered at once from the state alone
TOPICS: dict[str, Callable[[SchedulerState, Any], Any]] = {
    "who_has": who_has,
    "has_what": has_what,
    "nthreads": nthreads,
    "processing": processing,
    "nbytes": nbytes,
    "why": why,
    "scheduler_info": scheduler_info,
}
