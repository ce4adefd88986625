"""Looks at what runs."""

from __future__ import annotations

import gc
import threading
import weakref
from types import SimpleNamespace
from typing import Any

from futurebroker.worker.inspecting import call_stacks
from futurebroker.worker.profiling import Profiler


class Large:
    """Something that a task has in a variable."""


def test_a_look_at_what_runs_keeps_nothing_of_it_alive() -> None:
    """A task's arrays would stay until the garbage collector comes by, which may be many tasks later."""
    begun, end = threading.Event(), threading.Event()
    seen: list[weakref.ref[Large]] = []

    def work() -> None:
        large = Large()
        seen.append(weakref.ref(large))
        begun.set()
        end.wait(30)

    thread = threading.Thread(target=work)
    gc.disable()
    try:
        thread.start()
        assert begun.wait(30)
        slot = SimpleNamespace(task=1, is_away=False, thread=thread.ident, key="work-1")
        seats: Any = SimpleNamespace(slots=[slot])
        assert Profiler(seats, threading.Thread.run.__code__).sample(1.0)
        assert list(call_stacks(None, seats)) == ["work-1"]
        end.set()
        thread.join()
        assert seen[0]() is None
    finally:
        end.set()
        gc.enable()
