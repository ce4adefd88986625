"""What follows a task in its graph, for the task itself: Celery's ``request.chain``, ``chord`` and callbacks.

And what a task was called with.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from futurebroker.scheduler.records import TaskRecord
from futurebroker.scheduler.state import SchedulerState
from futurebroker.types import Key

#: calls, and bytes of their arguments, that an answer has at most; what is nearest comes first
CALLS_MOST = 10_000
BYTES_MOST = 1024 * 1024


def followers(state: SchedulerState, key: Key) -> dict[str, Any]:
    """Topic ``followers``: the calls that wait for ``key``, for these and so on, and those planned for its failure.

    Each is ``[key, name, arguments, keys it waits for, request, whether it joins]``, nearest first.
    """
    task = state.tasks.get(key)
    if task is None:
        return {"calls": [], "planned": []}
    found: dict[Key, list[Any]] = {}
    line, size = deque([task]), 0
    while line:
        for follower in line.popleft().each_dependent():
            if follower.key in found or follower.function is None:
                continue
            size += len(follower.args)
            if len(found) == CALLS_MOST or size > BYTES_MOST:
                line.clear()
                break
            found[follower.key] = _call(follower)
            line.append(follower)
    planned = []
    for call in (task.terms.planned if task.terms is not None else None) or ():
        function, agreed = state.functions.get(call.function), call.conditions
        if function is not None:
            request, joins = (agreed.request, agreed.joins) if agreed is not None else (b"", False)
            planned.append([call.key, function.kind.name, call.args, list(call.dependencies), request, joins])
    return {"calls": list(found.values()), "planned": planned}


def _call(task: TaskRecord) -> list[Any]:
    terms = task.terms
    request, joins = (terms.request, terms.joins) if terms is not None else (b"", False)
    return [task.key, task.kind.name, task.args, [one.key for one in task.dependencies], request, joins]


def call_of(state: SchedulerState, key: Key) -> list[Any] | None:
    """Topic ``call_of``: ``[arguments, keys of the results in them]``; None if they aren't known (any more)."""
    task = state.tasks.get(key)
    return [task.args, [one.key for one in task.dependencies]] if task is not None and task.args else None


#: questions that are answered at once
QUESTIONS: dict[str, Callable[[SchedulerState, Any], Any]] = {"followers": followers, "call_of": call_of}
