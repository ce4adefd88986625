"""What the database's table of datasets has to say, for the journal's writer (sans-IO).

Names of datasets that were published, replaced or removed collect until the next batch is written; so do those whose
last result has come, since the size is known then.
"""

from __future__ import annotations

from math import isfinite
from typing import Any

from futurebroker.scheduler.published import Dataset
from futurebroker.scheduler.records import TaskRecord
from futurebroker.scheduler.state import MEMORY, SchedulerState

#: bytes that a column of sizes can tell
SIZE_MOST = (1 << 63) - 1


def published(state: SchedulerState, name: str, dataset: Dataset) -> None:
    """A dataset is there from now on."""
    if state.facts is None or state.replaying:
        return
    state.published.changed[name] = None
    _await_parts(state, name, dataset)


def removed(state: SchedulerState, name: str, dataset: Dataset) -> None:
    """A dataset is gone, or about to be replaced."""
    if state.facts is None or state.replaying:
        return
    state.published.changed[name] = None
    for key in dataset.keys:
        names = state.published.unready.get(key)
        if names is not None:
            names.pop(name, None)
            if not names:
                del state.published.unready[key]


def has_come(state: SchedulerState, task: TaskRecord) -> None:
    """A result that datasets lacked is there: the last one of a dataset makes its size known."""
    for name in state.published.unready.pop(task.key):
        dataset = state.published.datasets[name]
        dataset.unready -= 1
        if not dataset.unready:
            state.published.changed[name] = None


def take(state: SchedulerState) -> dict[str, dict[str, Any] | None]:
    """What has changed since the last call, by name; None is one that is gone."""
    changed, state.published.changed = state.published.changed, {}
    known = state.published.datasets
    return {name: _row(state, known[name]) if name in known else None for name in changed}


def begin(state: SchedulerState) -> dict[str, dict[str, Any]]:
    """All there are, after a replay; from here on changes are noted."""
    state.published.changed.clear()
    state.published.unready.clear()
    for name, dataset in state.published.datasets.items():
        _await_parts(state, name, dataset)
    return {name: _row(state, dataset) for name, dataset in state.published.datasets.items()}


def _await_parts(state: SchedulerState, name: str, dataset: Dataset) -> None:
    dataset.unready = 0
    for key in dict.fromkeys(dataset.keys):
        task = state.tasks.get(key)
        if task is not None and task.state is not MEMORY:
            state.published.unready.setdefault(key, {})[name] = None
            dataset.unready += 1


def _row(state: SchedulerState, dataset: Dataset) -> dict[str, Any]:
    entry = dataset.entry
    about = entry.about
    return {
        "type": about.type,
        "size": min(size_of(state, dataset), SIZE_MOST),
        "parts": len(dataset.keys),
        "persist": entry.persist,
        "who": about.who,
        "client": dataset.client,
        "program": about.program,
        "published_at": about.when if isfinite(about.when) else 0.0,
        "graph": dataset.graph,
        "graph_tasks": dataset.graph_tasks,
        "environment": about.environment,
    }


def size_of(state: SchedulerState, dataset: Dataset) -> int:
    """Bytes of its value, with the results behind it that are there."""
    tasks = (state.tasks.get(key) for key in dataset.keys)
    return dataset.size + sum(task.nbytes for task in tasks if task is not None and task.state is MEMORY)
