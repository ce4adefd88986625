"""Tasks that answer exceptions of some types by asking to be run again, later and later."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable
from functools import wraps
from typing import Any

from futurebroker.celery.exceptions import Ignore, Retry
from futurebroker.exceptions import Reschedule


def autoretrying(
    task: Any,
    function: Callable[..., Any],
    autoretry_for: tuple[type[BaseException], ...],
    retry_kwargs: dict[str, Any],
    dont_autoretry_for: tuple[type[BaseException], ...] = (),
    retry_backoff: Any = False,
    retry_backoff_max: float = 600,
    retry_jitter: bool = True,
) -> Callable[..., Any]:
    """``function``, with exceptions of these types answered by `Task.retry`."""
    passed: tuple[type[BaseException], ...] = (Ignore, Retry, Reschedule, *dont_autoretry_for)
    backoff = float(1 if retry_backoff is True else retry_backoff)

    def again(error: BaseException) -> Retry:
        given = dict(retry_kwargs)
        if backoff:
            given["countdown"] = backoff_delay(backoff, task.request.retries, retry_backoff_max, retry_jitter)
        return task.retry(exc=error, **given)  # type: ignore[no-any-return]

    if inspect.iscoroutinefunction(function):

        @wraps(function)
        async def run_async(*args: Any, **kwargs: Any) -> Any:
            try:
                return await function(*args, **kwargs)
            except passed:
                raise
            except autoretry_for as error:
                raise again(error) from error

        return run_async

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except passed:
            raise
        except autoretry_for as error:
            raise again(error) from error

    return run


def backoff_delay(factor: float, retries: int, maximum: float, full_jitter: bool) -> float:
    """Seconds before the next try: doubling, up to ``maximum``, and any part of that with ``full_jitter``."""
    delay = min(maximum, factor * 2**retries)
    return random.randrange(int(delay) + 1) if full_jitter else max(0.0, delay)
