"""Pages that show the cluster as it is now: overview, types, workers, memory, backlog and system."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from futurebroker.protocol.messages import PROTOCOL
from futurebroker.snapshot import KindView, QueueView, Snapshot, WorkerView
from futurebroker.web.collector import UnansweredError
from futurebroker.web.site import Missing, Site

#: bars of the overview; more are on the page of types
BARS = 96
#: up to how many bars each size of them is for
DENSITIES = ((3, "a"), (8, "b"), (24, "c"), (BARS, "d"))
#: types of which memory and durations are drawn
TYPES_DRAWN = 30
#: call stacks shown of what a worker runs
STACKS = 16
#: workers drawn one by one
WORKERS_DRAWN = 60

_PARTS = ("done", "failed", "processing", "queued", "waiting", "no_worker")


def overview(site: Site, args: Mapping[str, str]) -> dict[str, Any]:
    """How far, where the memory is, what waits, what failed."""
    snapshot = site.snapshot()
    if snapshot is None:
        return _nothing(site)
    kinds = [kind for kind in snapshot.kinds if kind.total]
    shown = kinds[:BARS]
    return {
        **_about(snapshot),
        "bars": [bar(kind) for kind in shown],
        "density": next(name for most, name in DENSITIES if len(shown) <= most),
        "types": len(kinds) + snapshot.kinds_left_out,
        "totals": {
            "done": snapshot.done,
            "total": snapshot.total,
            "failed": snapshot.failed,
            "rate": snapshot.rate,
            "seconds_left": snapshot.seconds_left,
            "oldest": snapshot.oldest,
            "running": sum(worker.executing for worker in snapshot.workers),
            "slots": sum(worker.slots for worker in snapshot.workers),
            "waiting": sum(kind.queued + kind.waiting + kind.no_worker for kind in snapshot.kinds),
        },
        "memory": snapshot.memory,
        "alerts": [asdict(alert) for alert in snapshot.alerts],
        "workers": len(snapshot.workers),
    }


def bar(kind: KindView) -> dict[str, Any]:
    """One progress bar: counts, and the share of its width that each part has."""
    counts = {part: getattr(kind, part) for part in _PARTS}
    whole = sum(counts.values()) or 1
    parts, left = [], 0.0
    for part, count in counts.items():
        if count:
            width = 100 * count / whole
            parts.append({"part": part, "left": round(left, 3), "width": round(width, 3), "count": count})
            left += width
    return {**asdict(kind), "unfinished": kind.unfinished, "parts": parts, "words": _words(kind)}


def _words(kind: KindView) -> str:
    names = {
        "no_worker": "that nobody serves",
        "queued": "ready",
        "waiting": "waiting for inputs",
        "processing": "running",
    }
    rest = [f"{getattr(kind, part):,} {names.get(part, part)}" for part in _PARTS[1:] if getattr(kind, part)]
    return ", ".join([f"{kind.done:,} of {kind.total:,} done", *rest])


def types(site: Site, args: Mapping[str, str]) -> dict[str, Any]:
    """All task types with their figures."""
    snapshot = site.snapshot()
    if snapshot is None:
        return _nothing(site)
    kinds = snapshot.kinds
    return {
        **_about(snapshot),
        "types": [bar(kind) for kind in kinds],
        "left_out": snapshot.kinds_left_out,
        "columns": {"durations": duration_columns(kinds)},
    }


def duration_columns(kinds: Iterable[KindView]) -> dict[str, list[Any]]:
    """The types that took most time in all, with their mean."""
    spent = sorted(((kind.duration * kind.ended, kind) for kind in kinds if kind.duration), key=lambda item: -item[0])
    drawn = spent[:TYPES_DRAWN]
    return {
        "name": [kind.name for _, kind in drawn],
        "mean": [kind.duration for _, kind in drawn],
        "spent": [seconds for seconds, _ in drawn],
    }


# -- workers -------------------------------------------------------------------------------------------------------


def workers(site: Site, args: Mapping[str, str]) -> dict[str, Any]:
    """All workers, side by side."""
    snapshot = site.snapshot()
    if snapshot is None:
        return _nothing(site)
    rows = [worker_row(worker, snapshot) for worker in snapshot.workers]
    return {
        **_about(snapshot),
        "workers": rows,
        "start": start_command(site),
        "columns": {
            "cpu": {
                "worker": [row["name"] for row in rows[:WORKERS_DRAWN]],
                "cpu": [row["cpu"] / max(row["cores"], 1) for row in rows[:WORKERS_DRAWN]],
                "busy": [100 * row["executing"] / row["slots"] for row in rows[:WORKERS_DRAWN]],
            }
        },
    }


def worker_row(worker: WorkerView, snapshot: Snapshot) -> dict[str, Any]:
    """A worker with what is worked out of its figures; ages are by the scheduler's and its own clock."""
    behind = snapshot.scheduler.get("time")
    age = max(0.0, behind - worker.heard) if behind and worker.heard else None
    return {
        **asdict(worker),
        "fill": worker.fill,
        "age": age,
        "cores": worker.info.get("executors") or worker.slots,
        "parts": memory_parts(worker),
    }


def memory_parts(worker: WorkerView) -> list[dict[str, Any]]:
    """The parts of a worker's memory bar, in percent of its limit, or of what it uses."""
    whole = max(worker.limit or 0, worker.managed + worker.unmanaged + worker.spilled) or 1
    parts, left = [], 0.0
    for part, nbytes in (("managed", worker.managed), ("unmanaged", worker.unmanaged), ("spilled", worker.spilled)):
        if nbytes:
            width = 100 * nbytes / whole
            parts.append({"part": part, "left": round(left, 3), "width": round(width, 3), "nbytes": nbytes})
            left += width
    return parts


def worker(site: Site, args: Mapping[str, str], name: str) -> dict[str, Any]:
    """One worker: what it runs, holds and uses. ``name`` is its id or its name."""
    snapshot = site.snapshot()
    if snapshot is None:
        return {**_nothing(site), "name": name}
    found = next((worker for worker in snapshot.workers if name in (worker.id, worker.name)), None)
    if found is None:
        past = site.history.worker(name)
        if past is None:
            raise Missing(f"No worker called “{name[:200]}” is connected, and none is in the history.")
        return {**_about(snapshot), "name": name, "worker": None, "past": past}
    stacks: dict[str, str] = {}
    try:
        tasks = site.collector.ask("worker_tasks", found.id)
        trouble = ""
    except UnansweredError as error:
        tasks, trouble = None, str(error)
    else:
        with contextlib.suppress(UnansweredError):
            looked = site.collector.ask("call_stack", {"workers": [found.id]})
            stacks = {key: "\n".join(lines)[:20_000] for key, lines in list(looked.items())[:STACKS]}
    series = [
        (earlier.time, row) for earlier in site.collector.since(0) for row in earlier.workers if row.id == found.id
    ]
    return {
        **_about(snapshot),
        "name": found.name,
        "worker": worker_row(found, snapshot),
        "tasks": tasks,
        "stacks": stacks,
        "trouble": trouble,
        "columns": {
            "worker": {
                "time": [1000 * when for when, _ in series],
                "cpu": [row.cpu for _, row in series],
                "memory": [row.memory for _, row in series],
                "managed": [row.managed for _, row in series],
            }
        },
    }


def start_command(site: Site) -> str:
    """What adds a worker, as far as the site can tell."""
    return (
        "futurebroker worker ADDRESS"
        if site.cluster == "default"
        else f"futurebroker worker ADDRESS --cluster {site.cluster}"
    )


# -- memory --------------------------------------------------------------------------------------------------------


def memory(site: Site, args: Mapping[str, str]) -> dict[str, Any]:
    """Where the memory is: by worker and by type of task."""
    snapshot = site.snapshot()
    if snapshot is None:
        return _nothing(site)
    rows = [worker_row(worker, snapshot) for worker in snapshot.workers]
    rows.sort(key=lambda row: -(row["fill"] or 0))
    kinds = sorted((kind for kind in snapshot.kinds if kind.nbytes or kind.memory), key=lambda kind: -kind.nbytes)
    drawn, shown = rows[:WORKERS_DRAWN], [kind for kind in kinds[:TYPES_DRAWN] if kind.nbytes]
    rest = sum(kind.nbytes for kind in kinds[TYPES_DRAWN:])
    return {
        **_about(snapshot),
        "memory": snapshot.memory,
        "workers": rows,
        "types": [
            {
                "name": kind.name,
                "nbytes": kind.nbytes,
                "results": kind.memory,
                "mean": kind.nbytes / kind.memory if kind.memory else None,
            }
            for kind in kinds
        ],
        "columns": {
            "memory_by_worker": {
                "worker": [row["name"] for row in drawn],
                "managed": [row["managed"] for row in drawn],
                "unmanaged": [row["unmanaged"] for row in drawn],
                "spilled": [row["spilled"] for row in drawn],
                # A limit far above what is used would press the bars flat.
                "limit": [row["limit"] if (row["fill"] or 0) > 0.2 else None for row in drawn],
            },
            "memory_by_type": {
                "type": [kind.name for kind in shown] + ["other types"] * bool(rest),
                "nbytes": [kind.nbytes for kind in shown] + [rest] * bool(rest),
            },
        },
    }


# -- backlog -------------------------------------------------------------------------------------------------------


def backlog(site: Site, args: Mapping[str, str]) -> dict[str, Any]:
    """What waits, where, for what, and for how long."""
    snapshot = site.snapshot()
    broker = site.probes["broker"]() if "broker" in site.probes else None
    if snapshot is None:
        return {**_nothing(site), "broker": broker}
    kinds, rows = snapshot.kinds, snapshot.workers
    reasons = [
        ("ready, and every worker that may run it is busy", "queued", sum(queue.queued for queue in snapshot.queues)),
        ("nobody serves it", "no_worker", sum(kind.no_worker for kind in kinds)),
        ("waits for the results of other tasks", "waiting", sum(kind.waiting for kind in kinds)),
        ("sent to a worker that has not begun it", "sent", sum(worker.backlog for worker in rows)),
    ]
    laden = sorted(rows, key=lambda worker: -worker.seconds)
    return {
        **_about(snapshot),
        "oldest": snapshot.oldest,
        "reasons": [{"reason": reason, "part": part, "count": count} for reason, part, count in reasons],
        "queues": [asdict(queue) for queue in snapshot.queues],
        "unserved": [asdict(queue) for queue in _unserved(snapshot.queues)],
        "workers": [
            {
                "id": worker.id,
                "name": worker.name,
                "backlog": worker.backlog,
                "executing": worker.executing,
                "seconds": worker.seconds,
                "slots": worker.slots,
                "status": worker.status,
            }
            for worker in laden
        ],
        "types": [
            {
                "name": kind.name,
                "queued": kind.queued,
                "waiting": kind.waiting,
                "no_worker": kind.no_worker,
                "processing": kind.processing,
                "duration": kind.duration,
            }
            for kind in kinds
            if kind.unfinished
        ],
        "broker": broker,
        "columns": {
            "backlog_by_worker": {
                "worker": [worker.name for worker in laden[:WORKERS_DRAWN]],
                "executing": [worker.executing for worker in laden[:WORKERS_DRAWN]],
                "backlog": [worker.backlog for worker in laden[:WORKERS_DRAWN]],
            }
        },
    }


def _unserved(queues: Iterable[QueueView]) -> list[QueueView]:
    return [queue for queue in queues if queue.no_worker]


# -- the system itself ---------------------------------------------------------------------------------------------


def system(site: Site, args: Mapping[str, str]) -> dict[str, Any]:
    """How scheduler, journal, broker and database do."""
    snapshot = site.snapshot()
    broker = site.probes["broker"]() if "broker" in site.probes else None
    common = {
        "broker": broker,
        "database": site.history.about(),
        "site": {"cluster": site.cluster, "protocol": PROTOCOL},
    }
    if snapshot is None:
        return {**_nothing(site), **common}
    programs = [
        {"id": name, **{field: str(info.get(field, "")) for field in ("program", "user", "host", "pid", "version")}}
        for name, info in snapshot.programs.items()
        if info  # what the scheduler does on its own account is nobody's program
    ]
    return {
        **_about(snapshot),
        **common,
        "scheduler": snapshot.scheduler,
        "programs": programs,
        "connections": len(programs) + len(snapshot.workers) + 1,
        "counters": snapshot.counters,
        "rejected": snapshot.rejected,
        "records": snapshot.records,
        "states": snapshot.states,
    }


# -- what they share -----------------------------------------------------------------------------------------------


def _about(snapshot: Snapshot) -> dict[str, Any]:
    return {
        "number": snapshot.number,
        "time": snapshot.time,
        "level": snapshot.level,
        "health": snapshot.health,
        "available": True,
    }


def _nothing(site: Site) -> dict[str, Any]:
    return {"available": False, "trouble": site.collector.trouble, "number": 0, "time": None}


# -- columns over time ---------------------------------------------------------------------------------------------


def series(site: Site, names: Iterable[str], since: int) -> dict[str, dict[str, list[Any]]]:
    """The columns of figures over time, of the snapshots after number ``since``."""
    wanted = [name for name in names if name in _SERIES]
    if not wanted:
        return {}
    snapshots = site.collector.since(since)
    return {name: columns_over_time(name, snapshots) for name in wanted}


def columns_over_time(name: str, snapshots: Iterable[Snapshot]) -> dict[str, list[Any]]:
    """The columns of one such figure."""
    shown = list(snapshots)
    columns = {column: [value(snapshot) for snapshot in shown] for column, value in _SERIES[name].items()}
    return {"time": [1000 * snapshot.time for snapshot in shown], **columns}


def _sum(part: str) -> Any:
    return lambda snapshot: sum(getattr(kind, part) for kind in snapshot.kinds)


_SERIES: dict[str, dict[str, Any]] = {
    "throughput": {"rate": lambda snapshot: round(snapshot.rate, 2) if snapshot.number > 1 else None},
    "memory": {
        "managed": lambda snapshot: snapshot.memory["managed"],
        "unmanaged": lambda snapshot: snapshot.memory["unmanaged"],
        "spilled": lambda snapshot: snapshot.memory["spilled"],
    },
    "backlog": {part: _sum(part) for part in ("processing", "queued", "waiting", "no_worker")},
    "lag": {
        "lag": lambda snapshot: snapshot.scheduler.get("lag", 0.0),
        "cpu": lambda snapshot: snapshot.scheduler.get("cpu", 0.0),
    },
}
