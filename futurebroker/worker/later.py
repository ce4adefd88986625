"""How a running task looks at the terms of its run, tells the scheduler something, and asks to be run again."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from futurebroker.exceptions import TaskError
from futurebroker.protocol.messages import Failure, RunTerms
from futurebroker.types import Key
from futurebroker.worker.packets import Again

#: key and terms of the last task that had any; another key's has none
current_terms: ContextVar[tuple[Key, RunTerms]] = ContextVar("current_terms", default=("", RunTerms()))
#: sends (topic, key, about) to the scheduler; set in executors
say: ContextVar[Callable[[str, Key, Any], None] | None] = ContextVar("say", default=None)

#: seconds until a task that raised `Reschedule` runs again, the first time and at most
PAUSE_FIRST = 0.05
PAUSE_MOST = 10.0
#: of a task that has none
NO_TERMS = RunTerms()


class RunAgain(BaseException):
    """Raised by a task that is not done: run it again, after ``delay`` seconds.

    Args:
        retries: how often it will have asked for this.
        args: its arguments from now on, pickled; None: those it has.
        inputs: the results that ``args`` refer to.
        failure: why, for who asks meanwhile.
        options: fields of `TaskOptions` that are others from now on.
        request: in place of that of its terms.
    """

    def __init__(
        self,
        delay: float = 0.0,
        retries: int = 0,
        args: bytes | None = None,
        inputs: tuple[Key, ...] = (),
        failure: Failure | None = None,
        options: dict[str, Any] | None = None,
        request: bytes | None = None,
    ) -> None:
        super().__init__(delay, retries)
        self.delay = delay
        self.retries = retries
        self.arguments = args
        self.inputs = inputs
        self.failure = failure
        self.options = options
        self.request = request


def rescheduled(terms: RunTerms | None) -> Again:
    """What is reported of a task that raised `Reschedule`: each time in a row it waits twice as long."""
    before = terms.retries if terms is not None else 0
    return Again(pause(before), before + 1)


def pause(before: int) -> float:
    """Seconds until a task runs again that has raised `Reschedule`, as it did ``before`` times in a row."""
    return min(PAUSE_FIRST * float(2 ** min(before, 30)), PAUSE_MOST)


def tell_scheduler(topic: str, key: Key, about: Any) -> None:
    """Tell the scheduler something about the task ``key``.

    Raises:
        TaskError: this isn't a task on a worker.
    """
    tell = say.get()
    if tell is None:
        raise TaskError("only a task that runs on a worker can tell the scheduler something")
    tell(topic, key, about)
