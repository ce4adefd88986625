"""Dask-style futures over the message broker a team already has.

The public names, resolved on first use (PEP 562), so that ``import futurebroker`` stays cheap; ``__init__.pyi`` tells
type checkers and editors the same.
"""

import importlib

__version__ = "0.1.0"

#: Public name -> the module it lives in, grouped by what a reader looks for.
_HOMES = {
    # a cluster and the way to it
    # from above its home, where it learns to start a LocalCluster
    "Client": "futurebroker.local",
    "Executor": "futurebroker.local",
    "LocalCluster": "futurebroker.local",
    # futures and waiting for them
    "Future": "futurebroker.client.futures",
    "as_completed": "futurebroker.client.waiting",
    "wait": "futurebroker.client.waiting",
    "progress": "futurebroker.client.progress",
    "fire_and_forget": "futurebroker.client.waiting",
    "futures_of": "futurebroker.client.collections",
    "performance_report": "futurebroker.reporting",
    "default_client": "futurebroker.client.watching",
    "get_task_stream": "futurebroker.client.watching",
    "get_task_metadata": "futurebroker.client.watching",
    # coordination
    "Event": "futurebroker.client.coordination",
    "Lock": "futurebroker.client.coordination",
    "Queue": "futurebroker.client.mailboxes",
    "Semaphore": "futurebroker.client.coordination",
    "Variable": "futurebroker.client.mailboxes",
    "MultiLock": "futurebroker.client.coordination",
    # looking after a cluster
    "SchedulerPlugin": "futurebroker.client.tending",
    "WorkerPlugin": "futurebroker.client.tending",
    "pack_environment": "futurebroker.data.environments",
    "print": "futurebroker.client.printing",
    "warn": "futurebroker.client.printing",
    # inside a task
    "get_client": "futurebroker.client.inside",
    "get_worker": "futurebroker.worker.context",
    "local_client": "futurebroker.client.inside",
    "rejoin": "futurebroker.client.inside",
    "secede": "futurebroker.client.inside",
    "worker_client": "futurebroker.client.inside",
    # errors
    "CancelledError": "futurebroker.exceptions",
    "TimeoutError": "builtins",
    "KilledWorker": "futurebroker.exceptions",
    "Reschedule": "futurebroker.exceptions",
}

__all__ = [
    "CancelledError",
    "Client",
    "Event",
    "Executor",
    "Future",
    "KilledWorker",
    "LocalCluster",
    "Lock",
    "MultiLock",
    "Queue",
    "Reschedule",
    "SchedulerPlugin",
    "Semaphore",
    "TimeoutError",
    "Variable",
    "WorkerPlugin",
    "__version__",
    "as_completed",
    "default_client",
    "fire_and_forget",
    "futures_of",
    "get_client",
    "get_task_metadata",
    "get_task_stream",
    "get_worker",
    "local_client",
    "pack_environment",
    "performance_report",
    "print",
    "progress",
    "rejoin",
    "secede",
    "wait",
    "warn",
    "worker_client",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
