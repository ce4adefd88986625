"""What an executor tells of itself when it is asked to look: call stacks, what tasks print, its profile, versions."""

from __future__ import annotations

import linecache
import sys
import threading
from types import FrameType
from typing import Any

from futurebroker.versions import versions
from futurebroker.worker.notes import NEVER, Notebook, clean
from futurebroker.worker.packets import Look
from futurebroker.worker.profiling import Profiler
from futurebroker.worker.seats import Seats
from futurebroker.worker.words import call_in_words


def look(record: Look, seats: Seats, profiler: Profiler, notes: Notebook) -> Any:
    """What ``record`` asks for, as plain data; None when it isn't known here."""
    about = record.about if isinstance(record.about, dict) else {}
    if record.topic == "call_stack":
        return call_stacks(about.get("keys"), seats)
    if record.topic == "notes":
        return notes_so_far(about.get("keys") or [], seats, notes)
    if record.topic == "profile":
        return profiler.view(about)
    if record.topic == "versions":
        return versions(about.get("packages") or ())
    return None


def frames_of_others() -> dict[int, FrameType]:
    """By thread, the frame that each runs, but for the caller's own.

    With that, whoever holds the dict in a frame would be held by it: the frames of all tasks, and all that is in their
    variables, would stay until the garbage collector comes by.
    """
    frames = sys._current_frames()
    frames.pop(threading.get_ident(), None)
    return frames


def notes_so_far(keys: list[str], seats: Seats, notes: Notebook) -> dict[str, dict[str, str]]:
    """By the key of each of these tasks that runs here: its arguments in words, and what it has printed so far."""
    frames = frames_of_others()
    found = {}
    for slot in list(seats.slots):
        if slot.task and slot.key in keys:
            arguments = _arguments(frames.get(slot.thread)) if notes.after != NEVER else ""
            output = notes.so_far(slot.task)
            # Of one that has just ended, which its slot still names, there is neither.
            if arguments or output:
                found[slot.key] = {"arguments": arguments, "output": output}
    return found


def _arguments(frame: FrameType | None) -> str:
    """Of the task that runs in this frame; tasks leave theirs nowhere else, because that would cost each of them."""
    while frame is not None and frame.f_code.co_qualname != "Executor._run":
        frame = frame.f_back
    if frame is None:
        return ""
    known = frame.f_locals
    return clean(call_in_words(known.get("args", ()), known.get("keywords", {})))


def call_stacks(keys: list[str] | None, seats: Seats) -> dict[str, list[str]]:
    """By the key of each task that runs here, its stack as a traceback would print it, outermost call first."""
    frames = frames_of_others()
    stacks = {}
    for slot in list(seats.slots):
        if not slot.task or (keys is not None and slot.key not in keys):
            continue
        lines = []
        frame = frames.get(slot.thread)
        while frame is not None and frame.f_code.co_qualname != "Executor._run":
            code = frame.f_code
            text = linecache.getline(code.co_filename, frame.f_lineno, frame.f_globals).strip()
            lines.append(
                f'File "{code.co_filename}", line {frame.f_lineno}, in {code.co_name}' + f"\n    {text}" * bool(text)
            )
            frame = frame.f_back
        stacks[slot.key] = lines[::-1]
    return stacks
