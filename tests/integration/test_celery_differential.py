"""What a program saw otherwise when it was run with Celery 5.7 and with this face side by side."""

from __future__ import annotations

from typing import Any

import pytest

from futurebroker.celery import Celery, chain
from futurebroker.celery.exceptions import EncodeError, ImproperlyConfigured, Retry, TaskError, TaskRevokedError
from futurebroker.celery.schedules import solar
from futurebroker.celery.signals import task_success

app = Celery("side", set_as_current=False, changes={"task_always_eager": True})
SEEN: list[Any] = []


@app.task
def add(x: Any, y: Any) -> Any:
    return x + y


@app.task
def fail() -> None:
    raise ValueError("no")


@app.task
def told(request: Any, error: Any, traceback: Any) -> None:
    SEEN.append((request.id, error, traceback is not None))


@app.task
def named(task_id: str) -> None:
    SEEN.append(task_id)


def test_eager_errbacks_of_both_kinds_are_called_as_workers_do() -> None:
    """One that takes several arguments failed with TypeError in the test of who wrote it, and worked in production."""
    SEEN.clear()
    result = fail.apply_async(link_error=[told.s(), named.s()])
    assert [(result.id, result.result, True), result.id] == SEEN


def test_a_chain_of_one_in_a_list_is_sent_when_it_is_called() -> None:
    """Programs build lists of steps, of which there may be one; a signature would call the task in place."""
    assert chain([add.s(1, 2)])().get() == 3
    assert chain(add.s(i, i) for i in range(1))().get() == 0
    assert (chain([add.s(1, 2)]) | add.s(3))().get() == 6
    assert chain(add.s(1, 2)) == add.s(1, 2)


def test_a_serializer_that_is_given_with_the_call_counts_in_eager_mode() -> None:
    with pytest.raises(EncodeError):
        add.apply_async(({1}, {2}), serializer="json")


def test_successes_are_told_with_the_time_they_took() -> None:
    """What measures tasks by signals reads it."""
    times: list[float] = []

    def receive(runtime: float, **_: Any) -> None:
        times.append(runtime)

    task_success.connect(receive, sender=add)
    try:
        add.delay(1, 2)
    finally:
        task_success.disconnect(receive, sender=add)
    (seconds,) = times
    assert 0 <= seconds < 60


def test_names_that_programs_import_are_there_and_say_what_is_not() -> None:
    with pytest.raises(Retry, match="Task can be retried"):
        add.retry()
    assert issubclass(TaskRevokedError, TaskError)
    with pytest.raises(ImproperlyConfigured, match="no sunset at -37, 144"):
        solar("sunset", -37, 144)
    with pytest.raises(AttributeError, match="autoscale.*adapt"):
        app.control.autoscale(1, 2)
    assert repr(add) == "<@task: tests.integration.test_celery_differential.add of side>"
