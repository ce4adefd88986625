"""What an executor tells of itself when it is asked to look: call stacks, its profile, the versions of packages."""

from __future__ import annotations

import linecache
import sys
from typing import Any

from futurebroker.versions import versions
from futurebroker.worker.packets import Look
from futurebroker.worker.profiling import Profiler
from futurebroker.worker.seats import Seats


def look(record: Look, seats: Seats, profiler: Profiler) -> Any:
    """What ``record`` asks for, as plain data; None when it isn't known here."""
    about = record.about if isinstance(record.about, dict) else {}
    if record.topic == "call_stack":
        return call_stacks(about.get("keys"), seats)
    if record.topic == "profile":
        return profiler.view(about)
    if record.topic == "versions":
        return versions(about.get("packages") or ())
    return None


def call_stacks(keys: list[str] | None, seats: Seats) -> dict[str, list[str]]:
    """By the key of each task that runs here, its stack as a traceback would print it, outermost call first."""
    frames = sys._current_frames()
    stacks = {}
    for slot in list(seats.slots):
        if not slot.task or (keys is not None and slot.key not in keys):
            continue
        lines = []
        frame = frames.get(slot.thread)
        while frame is not None and frame.f_code.co_qualname != "Executor._run":
            code = frame.f_code
            text = linecache.getline(code.co_filename, frame.f_lineno, frame.f_globals).strip()
            lines.append(f'File "{code.co_filename}", line {frame.f_lineno}, in {code.co_name}\n    {text}')
            frame = frame.f_back
        stacks[slot.key] = lines[::-1]
    return stacks
