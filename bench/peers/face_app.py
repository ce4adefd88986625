"""The tasks of `celery_app`, with the imports of the Celery face."""

from __future__ import annotations

import time
from typing import Any

from futurebroker.celery import Celery

app = Celery("bench", set_as_current=False)


@app.task
def inc(number: int) -> int:
    return number + 1


@app.task
def add(x: int, y: int) -> int:
    return x + y


@app.task
def ended(_number: int) -> float:
    """When a task of a header ends."""
    return time.time()


@app.task
def began(times: list[Any]) -> tuple[float, float]:
    """When the last of the header ended, and when the body begins."""
    return max(times), time.time()
