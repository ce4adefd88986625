"""How threads and event loops wait for keys, with one object for any number of keys.

A waiter is registered with the states it waits for and told of those that are settled, many at a time: by the I/O
thread, with the connection's lock held, so `Waiter.ready` must be short and must not call anything of the user's.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Final, Protocol

from futurebroker.amounts import parse_duration
from futurebroker.inside import NO_TASK, current_task, waiting
from futurebroker.states import FutureState

#: seconds a task waits before it gives up its slot
BRIEF = 0.0005

_FINISHED: Final = FutureState.FINISHED.value


class Settled(Protocol):
    """What a waiter is told of: a key that is finished, failed or cancelled."""

    @property
    def status(self) -> str:
        """Its state now."""


class Waiter(Protocol):
    """Wants to know when keys are settled."""

    def ready(self, settled: Sequence[Any]) -> None:
        """Some of the keys this was registered for are settled. Called with the connection's lock held."""


class Countdown:
    """Blocks a thread, or suspends a coroutine, until ``count`` keys are settled.

    Args:
        eager: also end as soon as a key is settled otherwise than with a result.
    """

    __slots__ = ("_asleep", "_eager", "_wake", "count")

    def __init__(self, count: int, eager: bool = False) -> None:
        self.count = count
        self._eager = eager
        self._wake: Callable[[], object] | None = None
        # A plain lock, held until the end, is the cheapest thing a thread can wait for.
        self._asleep = threading.Lock()
        self._asleep.acquire()

    def ready(self, settled: Sequence[Settled]) -> None:
        """See `Waiter.ready`."""
        self.count -= len(settled)
        if self.count <= 0:
            self.end()
        elif self._eager:
            for one in settled:
                if one.status is not _FINISHED:
                    self.end()
                    return

    def end(self) -> None:
        """Let go who waits. May be called more than once and from any thread."""
        try:
            self._asleep.release()
        except RuntimeError:
            return
        wake = self._wake
        if wake is not None:
            wake()

    def call_at_end(self, call: Callable[[], object] | None) -> None:
        """Have ``call`` run by who ends this, if it hasn't ended."""
        self._wake = call

    def has_ended(self) -> bool:
        """Whether the end has come; for who waits, instead of `wait`."""
        return self._asleep.acquire(False)

    def wait(self, timeout: float | None = None) -> bool:
        """Block until the end; False when ``timeout`` seconds went by first."""
        return self._asleep.acquire(True, -1 if timeout is None else max(0.0, min(timeout, threading.TIMEOUT_MAX)))

    async def wait_async(self, timeout: float | None = None) -> bool:
        """As `wait`, in the running event loop, which goes on meanwhile."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()

        def settle() -> None:
            if not ended.done():
                ended.set_result(None)

        self._wake = lambda: post(loop, settle)
        # The end may have come between registering and the line above: the lock tells.
        if self._asleep.acquire(False):
            return True
        try:
            async with asyncio.timeout(timeout):
                await ended
        except TimeoutError:
            if not ended.done():
                return False
            raise
        return True


def seconds(timeout: float | str | None) -> float | None:
    """Seconds of a ``timeout=``, which may be text like ``"5s"`` or ``"200ms"`` as in dask.distributed.

    Raises:
        ValueError, TypeError: it is no time.
    """
    if timeout is None or (isinstance(timeout, (int, float)) and not isinstance(timeout, bool)):
        return timeout
    try:
        return parse_duration(timeout)
    except ValueError:
        kind = ValueError if isinstance(timeout, str) else TypeError
        raise kind(f'timeout= takes seconds, or text like "5s" or "200ms", got {timeout!r}') from None


def post(loop: asyncio.AbstractEventLoop, call: Callable[..., object], *arguments: object) -> bool:
    """Run ``call`` on the loop's thread; False when the loop has been closed."""
    try:
        loop.call_soon_threadsafe(call, *arguments)
    except RuntimeError:
        return False
    return True


async def pause(
    countdown: Countdown,
    blocking: bool,
    timeout: float | None = None,
    wait: Callable[[Countdown, float | None], bool] = Countdown.wait,
) -> bool:
    """Wait for ``countdown``: by blocking this thread in ``wait``, or in the running loop.

    With ``blocking`` the coroutine that awaits this never suspends, so `run_blocking` can drive it; that is how every
    method of the client works both ways with one body. A task that waits gives its slot to others meanwhile.
    """
    _, _, slot, number = current_task.get(NO_TASK)
    if slot is None:
        return wait(countdown, timeout) if blocking else await countdown.wait_async(timeout)
    if blocking:
        if countdown.wait(BRIEF):
            return True
        with waiting():
            return countdown.wait(None if timeout is None else timeout - BRIEF)
    gave_up = slot.give_up(number)
    try:
        return await countdown.wait_async(timeout)
    finally:
        if gave_up:
            # In a thread: what runs in our slot may be a coroutine of this very loop.
            await asyncio.to_thread(slot.take_back, number)


def _without_ours(trace: TracebackType | None) -> TracebackType | None:
    """A traceback from the first line that isn't the client's, so that an error shows the task; all if none is."""
    inner = trace
    while inner is not None and inner.tb_frame.f_globals.get("__name__", "").startswith("futurebroker.client."):
        inner = inner.tb_next
    return inner or trace


def run_blocking(coroutine: Any) -> Any:
    """The result of a coroutine that blocks instead of suspending; see `pause`."""
    try:
        coroutine.send(None)
    except StopIteration as finished:
        return finished.value
    except BaseException as error:
        cause = error.__cause__
        if isinstance(cause, StopIteration) and str(error) == "coroutine raised StopIteration":
            # A task raised it, and a coroutine can't.
            cause.__traceback__ = _without_ours(cause.__traceback__)
            raise cause from None
        error.__traceback__ = _without_ours(error.__traceback__)
        raise
    coroutine.close()
    raise RuntimeError("a call that must block was suspended; this is a bug in futurebroker")
