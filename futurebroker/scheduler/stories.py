"""What became of tasks, and what was noted: stories, the task stream, events, and a dump of all (sans-IO).

The usual way of a task is in its record and costs nothing more; the unusual is noted when it happens (`note`): pulled
back, lost, failed, given up. The newest `STORIES` notes of all tasks are kept. Ends of tasks are kept only while
somebody records the stream, or looks at a dashboard without a history.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter
from typing import Any

from futurebroker.scheduler import placement
from futurebroker.scheduler.observe import scheduler_info
from futurebroker.scheduler.records import TaskRecord
from futurebroker.scheduler.state import SchedulerState

#: records that one answer of a dump has at most
PAGE = 2_000


def wall(state: SchedulerState, at: float) -> float:
    """Seconds since 1970 of a monotonic moment."""
    about = state.about
    return float(about.get("time", 0.0)) + at - float(about.get("moment", 0.0))


def story(state: SchedulerState, keys: list[str]) -> list[list[Any]]:
    """What is known of these tasks, oldest first: [wall time, key, what happened, worker, attempt]."""
    wanted = set(keys)
    lines: list[list[Any]] = [
        [wall(state, note.at), note.key, note.what, note.worker, note.attempt]
        for note in state.operations.notes
        if note.key in wanted
    ]
    for end in state.recent.last_of(wanted).values():
        at, task = wall(state, end.at), state.tasks.get(end.key)
        attempt = task.attempt if task is not None else 0
        lines.append([at - end.duration, end.key, "began", end.worker, attempt])
        lines.append([at, end.key, "failed" if end.failed else "finished", end.worker, attempt])
    lines.sort(key=itemgetter(0))
    for key in keys:
        task = state.tasks.get(key)
        if task is not None:
            where = task.worker.name if task.worker is not None else ", ".join(w.name for w in task.holder_paths())
            lines.append([wall(state, state.now), key, placement.explain(state, task), where, task.attempt])
    return lines


def record_stream(state: SchedulerState, on: bool) -> bool:
    """Keep the ends of tasks from now on, or no more; whether that was done before."""
    return state.recent.record(on)


def task_stream(state: SchedulerState, about: dict[str, Any]) -> list[dict[str, Any]]:
    """The ends of tasks between two wall times, oldest first, the newest ``count`` of them."""
    start, stop = about.get("start") or 0.0, about.get("stop") or float("inf")
    ends = [
        {
            "key": end.key,
            "worker": end.worker_id,
            "start": at - end.duration,
            "stop": at,
            "nbytes": end.nbytes,
            "type": end.type,
            "status": "error" if end.failed else "finished",
        }
        for end in (state.recent if state.recent.recorded else ())
        if start <= (at := wall(state, end.at)) <= stop
    ]
    count = about.get("count")
    return ends[-count:] if count else ends


def log_event(state: SchedulerState, about: dict[str, Any]) -> None:
    """Remember what a client, or a task, says."""
    topics = about["topics"]
    state.operations.log_event([topics] if isinstance(topics, str) else topics, wall(state, state.now), about["event"])


def get_events(state: SchedulerState, topic: str | None) -> Any:
    """The events of a topic, as (wall time, event), or of all by topic."""
    events = state.operations.events
    if topic is not None:
        return list(events.get(topic, ()))
    return {name: list(kept) for name, kept in events.items()}


def dump(state: SchedulerState, offset: int) -> dict[str, Any]:
    """A page of everything: the cluster as a whole with the first, then `PAGE` task records each."""
    keys = list(state.tasks)[offset : offset + PAGE]
    page: dict[str, Any] = {"tasks": {key: _record(state.tasks[key]) for key in keys}}
    if offset + PAGE < len(state.tasks):
        page["next"] = offset + PAGE
    if not offset:
        page |= {
            "info": scheduler_info(state, None),
            "events": get_events(state, None),
            "environment": state.operations.environment.name if state.operations.environment else None,
            "standing": list(state.operations.standing),
        }
    return page


def _record(task: TaskRecord) -> dict[str, Any]:
    return {
        "state": task.state.value,
        "kind": task.kind.name,
        "dependencies": [dependency.key for dependency in task.dependencies],
        "dependents": [dependent.key for dependent in task.each_dependent()],
        "waiting_on": task.waiting_on,
        "needed_by": task.needed_by,
        "wanted_by": [client.client_id or client.holds_for for client in task.each_client()],
        "worker": task.worker.worker_id if task.worker is not None else None,
        "attempt": task.attempt,
        "holders": [worker.worker_id for worker in task.holder_paths()],
        "nbytes": task.nbytes,
        "failure": task.failure.message if task.failure is not None else None,
        "retried": task.retried,
        "deaths": task.deaths,
        "order": task.order,
    }


#: see `requests.QUESTIONS`
QUESTIONS: dict[str, Callable[[SchedulerState, Any], Any]] = {
    "story": story,
    "record_stream": record_stream,
    "task_stream": task_stream,
    "log_event": log_event,
    "get_events": get_events,
    "dump": dump,
}
