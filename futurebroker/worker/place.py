"""Where an agent runs, for who asks, and what its executors find in their environment."""

from __future__ import annotations

import os
import platform
import socket
from typing import Any

from futurebroker.processes import process_mark

#: what keeps an executor's allocator from holding on to memory that its tasks have freed
_ALLOCATION = {"MALLOC_ARENA_MAX": "2", "MALLOC_TRIM_THRESHOLD_": "65536"}
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def facts(executors: int, threads: int) -> dict[str, Any]:
    """This process and its machine, as a hello tells them, and how many executors it has."""
    return {
        "executors": executors,
        "threads": threads,
        "slots": executors * threads,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "process": process_mark(),
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def environment(tasks: int) -> dict[str, str]:
    """An executor's environment: ours; native libraries share the CPUs among the ``tasks`` that can run at once."""
    share = str(max(1, (os.cpu_count() or 1) // tasks))
    return {**dict.fromkeys(_THREAD_VARIABLES, share), **_ALLOCATION, **os.environ}
