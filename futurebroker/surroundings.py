"""What a worker takes from where it runs, when nobody said otherwise: its name, its processes, its memory.

A dyno of 512 MB tells eight cores; a worker that started eight executors there would be killed for its memory. So the
number of executors follows the memory, and the name is the dyno's own.
"""

from __future__ import annotations

from collections.abc import Mapping

#: bytes that an executor with the usual libraries takes, and the agent beside them
EXECUTOR_BYTES = 150 * 1024 * 1024
AGENT_BYTES = 60 * 1024 * 1024


def is_dyno(environ: Mapping[str, str]) -> bool:
    """Whether this process runs on Heroku, or where the same is promised."""
    return bool(environ.get("DYNO"))


def worker_name(environ: Mapping[str, str]) -> str | None:
    """``worker.1`` and the like; None where nothing gives processes names."""
    return environ.get("DYNO") or None


def dyno_memory(environ: Mapping[str, str]) -> int | None:
    """Bytes of the dyno, as its start script tells (``DYNO_RAM``, in megabytes); None if it doesn't."""
    text = environ.get("DYNO_RAM", "")
    return int(text) * 1024 * 1024 if text.isdecimal() and int(text) else None


def executors(environ: Mapping[str, str], cores: int, memory: int | None) -> int:
    """How many executor processes suit the machine: one a core, and on a dyno no more than its memory carries."""
    if not is_dyno(environ):
        return cores
    known = [nbytes for nbytes in (memory, dyno_memory(environ)) if nbytes]
    if not known:
        return 1
    return max(1, min(cores, (min(known) - AGENT_BYTES) // EXECUTOR_BYTES))
