"""Looking at what other threads run, while they run."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator

from futurebroker.worker.profiling import stack_of


def deep(depth: int, then: Callable[[], object]) -> None:
    """Call itself so many times, and then something."""
    if depth:
        deep(depth - 1, then)
    else:
        then()


def through(depth: int) -> Iterator[int]:
    """A generator of generators."""
    yield depth
    if depth:
        yield from through(depth - 1)


def test_a_stack_is_told_from_the_innermost_call_on() -> None:
    """Down to where the thread began; a thread that has ended has none."""
    here, go = threading.Event(), threading.Event()

    def wait() -> None:
        here.set()
        go.wait(10)

    thread = threading.Thread(target=deep, args=(3, wait))
    thread.start()
    here.wait(10)
    assert thread.ident is not None
    names = [code.co_name for code in stack_of(thread.ident)]
    go.set()
    thread.join()
    at = names.index("deep")
    assert names[at - 1 : at + 5] == ["wait", "deep", "deep", "deep", "deep", "run"]
    assert stack_of(thread.ident) == []


def test_a_thread_that_goes_on_all_the_time_can_be_looked_at() -> None:
    """However often threads take turns, what is seen is of one moment; few stacks lack what called a generator."""
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            deep(40, lambda: sum(through(20)))

    thread = threading.Thread(target=work)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread.start()
    try:
        assert thread.ident is not None
        stacks = [stack_of(thread.ident) for _ in range(2000)]
        assert all(hasattr(code, "co_qualname") for stack in stacks for code in stack)
        assert sum(stack[-1].co_name == "_bootstrap" for stack in stacks) > 1900
    finally:
        sys.setswitchinterval(before)
        stop.set()
        thread.join()
