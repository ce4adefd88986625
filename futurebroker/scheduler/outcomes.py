"""What becomes of tasks, for who asks by key and holds no future: states, failures, children, saved groups."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from futurebroker.scheduler import keeping, recording, shelving
from futurebroker.scheduler.records import TaskRecord
from futurebroker.scheduler.state import ERRED, MEMORY, PROCESSING, UNFINISHED, SchedulerState
from futurebroker.types import Key

#: states of failures that aren't failures of the task
_STATES = {"TaskRevokedError": "REVOKED", "Ignore": "IGNORED", "Reject": "REJECTED"}
#: groups that are remembered; the oldest go first
SAVED_MOST = 100_000


def task_metas(state: SchedulerState, keys: list[Key]) -> list[dict[str, Any] | None]:
    """Of each key, what is known of its task; None if nothing is."""
    return [_meta(state, key) for key in keys]


def _meta(state: SchedulerState, key: Key) -> dict[str, Any] | None:
    task = state.tasks.get(key)
    if task is None:
        return {"status": "REVOKED"} if key in state.revoked else None
    terms, options = task.terms, task.pool.options
    meta: dict[str, Any] = {
        "status": _status(task),
        "name": task.kind.name,
        "queue": options.queue or "celery",
        "children": [],
        "retries": 0,
        "worker": task.worker.name if task.worker is not None else None,
        "state": task.state.value,
    }
    if task.state not in UNFINISHED and state.kept in task.each_client():
        meta["date_done"] = task.span + state.clock_offset
    failure = task.failure
    if terms is not None:
        meta |= {"retries": terms.retries, "joins": terms.joins, "parent": terms.parent or None}
        meta["children"] = terms.children or []
        if (terms.custom is not None and task.state in UNFINISHED) or _was_ignored(task):
            meta["custom"] = terms.custom[1] if terms.custom is not None else None
        failure = failure or terms.failure
    if failure is not None:
        meta["failure"] = failure
    return meta


def _was_ignored(task: TaskRecord) -> bool:
    return task.failure is not None and task.failure.type == "Ignore"


def _status(task: TaskRecord) -> str:
    """Celery's name of where the task is."""
    terms = task.terms
    if task.state is MEMORY:
        return "SUCCESS"
    if task.state is ERRED and task.failure is not None:
        if _was_ignored(task) and terms is not None and terms.custom is not None:
            return terms.custom[0]
        return _STATES.get(task.failure.type, "FAILURE")
    if terms is not None and terms.custom is not None:
        return terms.custom[0]
    if terms is not None and terms.retries and task.state is not PROCESSING:
        return "RETRY"
    worker = task.worker
    if worker is not None and task.pool.options.tracked:
        running = list(worker.processing.values())[: worker.slots] if len(worker.processing) > worker.slots else ()
        return "STARTED" if not running or task in running else "PENDING"
    return "PENDING"


def forget_results(state: SchedulerState, keys: list[Key]) -> int:
    """Don't keep these results; how many were kept."""
    known = [task for key in keys if (task := state.tasks.get(key)) is not None and task.state not in UNFINISHED]
    for task in known:
        keeping.forget(state, task)
    shelving.drop(state, keys)
    return len(known)


def save_group(state: SchedulerState, about: Any) -> None:
    """``[id, tuple]``: remember a group; with None forget it."""
    name, group = about
    state.groups.pop(name, None)
    if group is not None:
        state.groups[name] = group
        if len(state.groups) > SAVED_MOST:
            del state.groups[next(iter(state.groups))]


def saved_group(state: SchedulerState, name: str) -> Any:
    """A group that was remembered."""
    return state.groups.get(name)


#: questions that are answered at once
TOPICS: dict[str, Callable[[SchedulerState, Any], Any]] = {
    "task_metas": task_metas,
    "forget_results": forget_results,
    "save_group": save_group,
    "saved_group": saved_group,
}
recording.KEPT_TOPICS.update(("forget_results", "save_group"))
