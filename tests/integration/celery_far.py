"""A module that no worker of a test has imported before its tasks are called by a map."""

from __future__ import annotations

from futurebroker.celery import Celery

app = Celery("far", set_as_current=False)


@app.task
def double(number: int) -> int:
    return 2 * number
