"""What a dashboard asks: the whole cluster in one answer a second, one task with its surroundings, and the graph.

All of it is made when somebody asks and at no other time, so that an open page costs the scheduler one walk over its
kinds and workers a second, and a closed one nothing. Lists are bounded, and say what was left out.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

from futurebroker.scheduler import observe, placement
from futurebroker.scheduler.recent import End
from futurebroker.scheduler.records import ORDER_MASK, Kind, Pool, TaskRecord, WorkerRecord
from futurebroker.scheduler.state import UNFINISHED, SchedulerState
from futurebroker.states import TaskState

#: kinds of tasks an answer tells of, the busiest first
KINDS = 400
#: pools of waiting tasks an answer tells of
POOLS = 200
#: neighbours of a task an answer names, in each direction
NEIGHBOURS = 200
#: tasks a graph may have to be told task by task, and those that are looked at for one by kind
GRAPH_TASKS = 400
GRAPH_SCAN = 50_000
#: tasks a search lists
FOUND = 200
#: keys that one answer of `keys` names
KEYS = 10_000
#: keys a worker's page lists
WORKER_TASKS = 200


def overview(state: SchedulerState, _: object) -> dict[str, Any]:
    """Everything a snapshot is made of; see `futurebroker.snapshot`."""
    state.asked_at = state.now
    if state.chronicle is None:
        state.recent.keep(state.now)  # no history will tell what ended while somebody looked
    kinds: Iterable[Kind] = state.kinds.values()
    left_out = len(state.kinds) - KINDS
    if left_out > 0:
        kinds = sorted(kinds, key=_business, reverse=True)[:KINDS]
    return {
        "now": state.now,
        "scheduler": state.about,
        "kinds": {kind.name: _kind(kind) for kind in kinds},
        "kinds_left_out": max(left_out, 0),
        "tasks": observe.task_counts(state),
        "workers": {worker.worker_id: _worker(worker) for worker in state.workers.values()},
        "queues": _queues(state),
        "waiting_since": _oldest(state, _first_waiting(state)),
        "programs": {client.client_id: client.info for client in state.clients.values()},
        "counters": dict(state.counters),
        "rejected": dict(state.rejected),
        "records": len(state.tasks),
    }


def _business(kind: Kind) -> tuple[int, int]:
    counts = kind.counts
    return sum(counts[state] for state in UNFINISHED), kind.ended


def _kind(kind: Kind) -> dict[str, Any]:
    return {
        "states": {state.value: count for state, count in kind.counts.items() if count},
        "duration": kind.duration,
        "ended": kind.ended,
        "errors": kind.errors,
        "nbytes": kind.nbytes,
    }


def _worker(worker: WorkerRecord) -> dict[str, Any]:
    return {**observe.worker_info(worker), "nbytes": worker.nbytes, "window": worker.limit}


def _queues(state: SchedulerState) -> list[dict[str, Any]]:
    waiting = (pool for pool in state.pools.values() if pool.queue.length or pool.stranded)
    return [
        {**observe.queue_info(pool), "since": _oldest(state, _first_of(pool)), "reason": _reason(state, pool)}
        for pool in islice(waiting, POOLS)
    ]


def _first_of(pool: Pool) -> TaskRecord | None:
    return pool.queue.peek() or next(iter(pool.stranded), None)


def _first_waiting(state: SchedulerState) -> TaskRecord | None:
    """The task that has been ready for longest, as far as the fronts of the queues tell."""
    fronts = [task for pool in state.pools.values() if (task := _first_of(pool)) is not None]
    return min(fronts, key=lambda task: task.order & ORDER_MASK, default=None)


def _oldest(state: SchedulerState, task: TaskRecord | None) -> float | None:
    """Seconds since the work that ``task`` belongs to was submitted."""
    when = state.moments.when(task.order & ORDER_MASK) if task is not None else None
    return None if when is None else max(0.0, state.now - when)


def _reason(state: SchedulerState, pool: Pool) -> str:
    stranded = next(iter(pool.stranded), None)
    return placement.explain(state, stranded) if stranded is not None else ""


# -- one task ------------------------------------------------------------------------------------------------------


def task(state: SchedulerState, key: str) -> dict[str, Any] | None:
    """A task as the scheduler knows it now; None for one that it doesn't."""
    record = state.tasks.get(key)
    if record is None:
        return None
    dependents = list(record.each_dependent())
    return {
        **_node(record),
        "why": placement.explain(state, record),
        "submitted": _oldest(state, record),
        "worker": record.worker.name if record.worker is not None else None,
        "worker_id": record.worker.worker_id if record.worker is not None else None,
        "attempt": record.attempt,
        "retried": record.retried,
        "deaths": record.deaths,
        "options": {
            "workers": list(record.pool.options.workers),
            "resources": record.pool.resources,
            "retries": record.pool.options.retries,
            "priority": record.pool.options.priority,
        },
        "holders": ["scheduler"] * (record.value is not None) + [worker.name for worker in record.holder_paths()],
        "clients": [client.client_id for client in record.each_client()][:NEIGHBOURS],
        "inputs": [_node(other) for other in record.dependencies[:NEIGHBOURS]],
        "inputs_count": len(record.dependencies),
        "outputs": [_node(other) for other in dependents[:NEIGHBOURS]],
        "outputs_count": len(dependents),
        "failure": None if record.failure is None else {
            "type": record.failure.type, "message": record.failure.message, "traceback": record.failure.traceback,
            "key": record.failure.key, "worker": record.failure.worker,
        },
        "note": notes(state, [key]).get(key),
    }  # fmt: skip


def notes(state: SchedulerState, keys: list[str]) -> dict[str, dict[str, Any]]:
    """What executors noted of these tasks, by key, as far as it is kept."""
    known = {key: note for key in keys if (note := state.notes.get(key)) is not None}
    return {
        key: {
            "at": note.at, "worker": note.worker, "arguments": note.arguments, "result": note.result,
            "output": note.output,
        }
        for key, note in known.items()
    }  # fmt: skip


def _node(record: TaskRecord) -> dict[str, Any]:
    return {"key": record.key, "type": record.kind.name, "state": record.state.value, "nbytes": record.nbytes}


def worker_tasks(state: SchedulerState, worker_id: str) -> dict[str, Any] | None:
    """What a worker was sent and what it holds; None for a worker that isn't there."""
    worker = state.workers.get(worker_id)
    if worker is None:
        return None
    largest = sorted(islice(worker.holds, GRAPH_SCAN), key=lambda record: record.nbytes, reverse=True)
    return {
        "processing": [_node(record) for record in islice(worker.processing.values(), WORKER_TASKS)],
        "processing_count": len(worker.processing),
        "holds": [_node(record) for record in largest[:WORKER_TASKS]],
        "holds_count": len(worker.holds),
        "resources": worker.resources,
        "used": {name: amount for name, amount in worker.used.items() if amount},
    }


def find(state: SchedulerState, about: dict[str, Any]) -> dict[str, Any]:
    """Tasks that the scheduler knows now, newest first: for a cluster without a history.

    Args:
        about: ``state``, ``type`` and ``worker`` to be met exactly, ``text`` to be part of the key.
    """
    wanted, kind, worker, text = (str(about.get(name) or "") for name in ("state", "type", "worker", "text"))
    found: list[TaskRecord] = []
    matches = scanned = 0
    for record in islice(reversed(state.tasks.values()), GRAPH_SCAN):
        scanned += 1
        if (wanted and record.state.value != wanted) or (kind and record.kind.name != kind) or text not in record.key:
            continue
        if worker and not any(
            place.answers_to(worker) for place in (*record.holder_paths(), record.worker) if place is not None
        ):
            continue
        matches += 1
        if len(found) < FOUND:
            found.append(record)
    ends = state.recent.last_of({record.key for record in found})
    rows = [
        {**_node(record), "attempt": record.attempt, "submitted": _oldest(state, record),
         "error": f"{record.failure.type}: {record.failure.message}" if record.failure is not None else "",
         **_run(state, record, ends.get(record.key))}
        for record in found
    ]  # fmt: skip
    return {"rows": rows, "matches": matches, "scanned": scanned, "known": len(state.tasks)}


def _run(state: SchedulerState, record: TaskRecord, end: End | None) -> dict[str, Any]:
    """Where a task runs, or where it ran last, for how many seconds and how many seconds ago, if that is kept."""
    if record.worker is not None or end is None:
        return {"worker": record.worker.name if record.worker is not None else None, "took": None, "ended": None}
    return {"worker": end.worker, "took": end.duration, "ended": state.now - end.at}


def keys(state: SchedulerState, about: dict[str, Any]) -> list[str]:
    """Keys of tasks that are in one of the given states now.

    Args:
        about: ``states``, and either ``keys`` to choose from, or ``type``, ``worker`` and ``text`` as of `find`.
    """
    states = frozenset(about.get("states") or ())
    kind, worker, text = (str(about.get(name) or "") for name in ("type", "worker", "text"))
    if about.get("keys") is not None:
        records: Iterable[TaskRecord] = filter(None, map(state.tasks.get, about["keys"]))
    else:
        records = state.tasks.values()
    found = (
        record.key
        for record in records
        if record.state.value in states
        and (not kind or record.kind.name == kind)
        and text in record.key
        and (not worker or (record.worker is not None and record.worker.answers_to(worker)))
    )
    return list(islice(found, KEYS))


def recent(state: SchedulerState, about: dict[str, Any] | None) -> dict[str, Any]:
    """Runs that ended after the one numbered ``since``."""
    state.asked_at = state.now
    number = (about or {}).get("since", 0)
    return state.recent.since(number if isinstance(number, int) else 0, state.now)


def note_action(state: SchedulerState, about: dict[str, str]) -> bool:
    """Put what an operator did into the history; whether there is one."""
    chronicle = state.chronicle
    if chronicle is not None:
        chronicle.note(state.now, f"operator_{about['what']}", client=str(about["who"]), text=str(about["about"]))
    return chronicle is not None


# -- the graph -----------------------------------------------------------------------------------------------------


def graph(state: SchedulerState, about: dict[str, Any] | None) -> dict[str, Any]:
    """The graph of what the scheduler knows: by kind, or with ``{"by": "task"}`` task by task while it is small."""
    tasks = list(islice(state.tasks.values(), GRAPH_SCAN))
    wanted = (about or {}).get("type")
    if (about or {}).get("by") == "task":
        if wanted:
            tasks = [record for record in tasks if record.kind.name == wanted]
        tasks.sort(key=lambda record: (record.state not in UNFINISHED, record.order))
        shown = _connected(tasks, wanted)
        among = {record.key for record in shown}
        edges = [[other.key, record.key] for record in shown for other in record.dependencies if other.key in among]
        return {"by": "task", "nodes": [_node(record) for record in shown], "edges": edges, "known": len(state.tasks)}
    links: Counter[tuple[str, str]] = Counter()
    for record in tasks:
        for other in record.dependencies:
            links[other.kind.name, record.kind.name] += 1
    for kind in state.kinds.values():
        for source in kind.inputs:
            links.setdefault((source.name, kind.name), 1)
    busiest = sorted(state.kinds.values(), key=_business, reverse=True)[:GRAPH_TASKS]
    nodes = [
        {"type": kind.name, "states": _kind(kind)["states"], "ended": kind.ended, "errors": kind.errors}
        for kind in busiest
        if kind.ended or any(kind.counts[state_] for state_ in TaskState)
    ]
    return {
        "by": "type",
        "nodes": nodes,
        "edges": [[source, target, count] for (source, target), count in links.most_common(4 * GRAPH_TASKS)],
        "known": len(state.tasks),
        "scanned": len(tasks),
    }


def _connected(tasks: list[TaskRecord], wanted: str | None) -> list[TaskRecord]:
    """The first tasks, each with what it is connected with: of a kind, its neighbours, else all from which lines lead.

    The first of a wide graph alone would be a row of nodes without a line.
    """
    shown: dict[TaskRecord, None] = {}
    for first in tasks:
        todo = deque([first])
        while todo and len(shown) < GRAPH_TASKS:
            record = todo.popleft()
            if record in shown:
                continue
            shown[record] = None
            if not wanted or record.kind.name == wanted:
                todo += record.dependencies[:GRAPH_TASKS]
                todo += islice(record.each_dependent(), GRAPH_TASKS)
    return list(shown)


#: questions of a dashboard, answered at once from the state alone
TOPICS: dict[str, Callable[[SchedulerState, Any], Any]] = {
    "overview": overview,
    "task": task,
    "notes": notes,
    "find": find,
    "keys": keys,
    "note_action": note_action,
    "worker_tasks": worker_tasks,
    "graph": graph,
    "recent": recent,
}
