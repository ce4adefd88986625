"""Tasks: how they are called, what they know while they run, and how they end.

Each test shows a row of the table in docs/from-celery.md.
"""

from __future__ import annotations

import itertools
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from futurebroker.celery import (
    Celery,
    chain,
    chord,
    group,
    signals,
    states,
)
from futurebroker.celery.autoretry import backoff_delay
from futurebroker.celery.context import Context
from futurebroker.celery.exceptions import (
    Ignore,
    MaxRetriesExceededError,
    Reject,
    TaskRevokedError,
)
from futurebroker.exceptions import TaskError
from tests.integration import celery_tasks as t
from tests.integration.celery_rows import shows
from tests.integration.celery_tasks import GATES, LOG, MyError, app
from tests.integration.celery_waits import WAIT, get, until

pytestmark = pytest.mark.usefixtures("celery_cluster")


@shows(
    "task",
    "`delay`, `apply_async` with countdown, eta, expires, priority, queue, link, link_error, headers, task_id, shadow, time limits",
    "differs",
    "options about exchanges, serializers and publishing have no effect",
)
def test_ways_to_call() -> None:
    assert get(t.add.delay(1, y=2)) == 3
    assert get(t.add.apply_async((1,), {"y": 2}, task_id="mine", retry=False, routing_key="x")) == 3
    assert app.AsyncResult("mine").successful()


@shows(
    "task",
    "`self.request`: ids, group, retries, headers, limits and all else",
    "differs",
    "`origin`, `reply_to` and `properties` are None, and `delivery_info` has the queue if the call itself named one",
)
def test_requests() -> None:
    request = get(t.request_of.delay())
    assert request["root_id"] == request["id"]
    assert request["called_directly"] is False
    called = Context(request, args=(1, "x"), kwargs={"k": 2})
    assert (called.argsrepr, called.kwargsrepr, Context().argsrepr) == ("(1, 'x')", "{'k': 2}", None)
    options = called.as_execution_options()
    assert (options["task_id"], options["retries"], options["link"]) == (request["id"], 0, None)
    first, second = get(group(t.request_of.s(), t.request_of.s())())
    assert first["group"] == second["group"]
    assert [first["group_index"], second["group_index"]] == [0, 1]
    _, last = None, get(chain(t.identity.si(1), t.request_of.si())())
    assert last["parent_id"]


@shows(
    "task",
    "`retry`, `autoretry_for`, handlers, `update_state`, `replace`",
    "differs",
    "`retry` can change arguments, time, queue, priority and time limits; other options stay as they were",
)
def test_what_tasks_do() -> None:
    assert get(t.retry_with.delay(1)) == (3, 2)
    moved = t.retry_elsewhere.apply_async(headers={"tenant": "a"})
    assert get(moved) == ("elsewhere", 7, 30.0, {"tenant": "a"})
    assert moved.queue == "elsewhere"


@shows(
    "task",
    "hard limits where executors are threads",
    "differs",
    "refused with `LocalCluster(processes=False)`, where Celery's threads ignore them",
)
def test_hard_limits_need_processes() -> None:
    with pytest.raises(TaskError, match="time_limit"):
        get(t.add.apply_async((1, 1), time_limit=5))


@shows(
    "task",
    "`add_to_chord`",
    "differs",
    "the task that calls it is ready when what it added is; what was added comes last; not in eager mode",
)
def test_tasks_are_added_to_a_chord() -> None:
    """The body waits for what comes from its header while it runs, and each task keeps its own result."""
    header = group(t.adds_to_chord.s(1, [10, 20]), t.add.s(2, 2), t.adds_to_chord.s(3, []))
    assert get(chord(header, t.identity.s())()) == [1, 4, 3, 10, 20]
    result = group(t.adds_to_chord.s(5, [6]), t.add.s(1, 1))()
    assert result.get(timeout=WAIT) == [5, 2]
    with pytest.raises(ValueError, match="not member of any chord"):
        get(t.adds_to_chord.delay(1, [2]))


@shows("task", "`s`, `si`, `signature`, `subtask`, `chunks`, `map`, `starmap`, `apply`")
def test_signatures_of_tasks() -> None:
    assert get(t.add.chunks([(1, 1), (2, 2), (3, 3)], 2)()) == [[2, 4], [6]]
    assert get(t.total.map([[1, 2], [3]]).apply_async()) == [3, 3]
    assert get(t.add.starmap([(1, 2), (3, 4)]).apply_async()) == [3, 7]
    assert t.add.apply((1, 2)).get() == 3
    assert t.add.s(1)(2) == 3


class _Order(BaseModel):
    number: int


@shows("task", "`pydantic=True`")
def test_pydantic_tasks() -> None:
    made = Celery("m", set_as_current=False)

    @made.task(pydantic=True, name="m.double")
    def double(order: _Order) -> _Order:
        return _Order(number=order.number * 2)

    assert double({"number": 2}) == {"number": 4}
    made.close()


@shows("task", "`async def` tasks", "differs", "they run; Celery has none")
def test_coroutine_tasks() -> None:
    assert get(t.coroutine.delay(3)) == 3


@shows(
    "semantics",
    "7. order of signals and handlers",
    "differs",
    "what follows a task is begun after `on_success` and `after_return`, when the result is reported, and not before",
)
def test_order_of_signals_and_handlers() -> None:
    def prerun(sender: Any = None, **_: Any) -> None:
        LOG.append("prerun")

    def success(sender: Any = None, **_: Any) -> None:
        LOG.append("success")

    def postrun(sender: Any = None, **_: Any) -> None:
        LOG.append("postrun")

    signals.task_prerun.connect(prerun, sender=t.logged)
    signals.task_success.connect(success, sender=t.logged)
    signals.task_postrun.connect(postrun, sender=t.logged)
    try:
        get(t.logged.delay(1))
        until(lambda: "postrun" in LOG)
    finally:
        signals.task_prerun.disconnect(prerun, sender=t.logged)
        signals.task_success.disconnect(success, sender=t.logged)
        signals.task_postrun.disconnect(postrun, sender=t.logged)
    assert LOG == ["prerun", "before_start", "run", "on_success", "success", "after_return SUCCESS", "postrun"]


@shows("semantics", "8. `after_return` comes after the end, not after a retry")
def test_after_return_is_not_called_for_a_retry() -> None:
    assert get(t.logged_retry.delay()) == "done"
    assert LOG == [
        "before_start", "run", "on_retry", "before_start", "run", "on_success", "after_return SUCCESS",
    ]  # fmt: skip


@shows("semantics", "13. a retry keeps the id, links and place in its canvas")
def test_a_retry_keeps_the_id() -> None:
    result = chain(t.flaky.s(2), t.add.s(10)).apply_async()
    assert get(result) == 12
    assert [retries for _, retries in LOG] == [0, 1, 2]
    assert len({name for name, _ in LOG}) == 1
    assert get(t.retry_with.delay(1)) == (3, 2)


@shows(
    "semantics",
    "14. `max_retries`: exceeding raises the exception given, else MaxRetriesExceededError; called as a function `retry` raises the exception",
)
def test_retries_end() -> None:
    with pytest.raises(MyError):
        get(t.flaky.delay(5))
    with pytest.raises(MaxRetriesExceededError):
        get(t.flaky_without_reason.delay())
    with pytest.raises(MyError):
        t.flaky(5)
    assert t.flaky.default_retry_delay == 180


@shows("semantics", "15. eager mode: retries without delay; errors are in the result unless `task_eager_propagates`")
def test_eager_mode() -> None:
    eager = Celery("eager", set_as_current=False, task_always_eager=True)

    @eager.task(bind=True, max_retries=3, name="eager.flaky")
    def flaky(self: Any) -> int:
        if self.request.retries < 2:
            raise self.retry(countdown=100)
        return int(self.request.retries)

    @eager.task(name="eager.fail")
    def fail() -> None:
        raise MyError("no")

    assert flaky.delay().get() == 2
    result = fail.delay()
    assert result.state == states.FAILURE
    assert isinstance(result.result, MyError)
    eager.conf.task_eager_propagates = True
    with pytest.raises(MyError):
        fail.delay()
    eager.close()


@shows("semantics", "16. autoretry: backoff with full jitter, capped; the exception itself when it is over")
def test_retries_by_themselves() -> None:
    assert get(t.by_itself.delay()) == 2
    with pytest.raises(MyError, match="always"):
        get(t.by_itself_too_often.delay())
    assert [backoff_delay(1, n, 600, False) for n in (0, 3, 20)] == [1, 8, 600]
    assert all(0 <= backoff_delay(2, 3, 600, True) <= 16 for _ in range(100))


@shows(
    "semantics",
    "18. `Reject` fails the task, with `requeue` it runs again; `Ignore` leaves the state it gave itself",
    "differs",
    "`get` of an ignored task raises Ignore in place of waiting for ever, and what depends on it fails; the state of a "
    "rejected one is REJECTED, which Celery 5.7 calls FAILURE",
)
def test_reject_and_ignore() -> None:
    assert isinstance(t.rejects.delay()._value(WAIT), Reject)
    assert get(t.rejects_once.delay()) == "done"
    ignored = t.ignores.delay()
    assert isinstance(ignored._value(WAIT), Ignore)
    assert ignored.state == "LOOKED"


@shows("semantics", "19. what expires before it begins is revoked, and never PENDING for ever")
def test_expired_tasks_are_revoked() -> None:
    result = t.add.apply_async((1, 1), countdown=60, expires=0.05)
    with pytest.raises(TaskRevokedError, match="expired"):
        get(result)
    assert result.state == states.REVOKED
    late = t.add.apply_async((1, 1), expires=datetime.now(UTC) - timedelta(seconds=1))
    with pytest.raises(TaskRevokedError):
        get(late)


@shows("semantics", "20. a soft limit longer than the hard one is refused when it is sent")
def test_limits_are_checked() -> None:
    with pytest.raises(ValueError, match="soft_time_limit must be"):
        t.add.apply_async((1, 1), time_limit=1, soft_time_limit=2)
    assert get(t.soft.delay()) == "SoftTimeLimitExceeded"


@shows("semantics", "28. `request.headers` has only headers of one's own; tasks called inside don't inherit them")
def test_headers_are_ones_own() -> None:
    assert get(t.request_of.apply_async(headers={"tenant": "a"}))["headers"] == {"tenant": "a"}
    assert get(t.request_of.delay())["headers"] is None


@shows(
    "semantics",
    "29. `replace` takes the task's place, also inside a canvas; a group becomes its list of results",
    "differs",
    "what replaces a task has ids of its own; the task keeps its id and gets the result",
)
def test_replace() -> None:
    assert get(t.countdown_from.delay(5)) == 120
    assert get(chain(t.countdown_from.s(3), t.add.s(1))()) == 7
    assert get(chain(t.identity.si([1, 2]), t.replaced_by_group.s(), t.total.s())()) == 3
    assert get(t.calls_replaced_twice.delay("replaced-child")) == 24  # its second run makes the same call again


@shows(
    "semantics",
    "30. revocation reaches what hasn't begun; running tasks only with `terminate`",
    "differs",
    "it is kept with the scheduler's state, reaches all that depends on the task, and `terminate` needs executor processes",
)
def test_revocation_covers_what_depends() -> None:
    result = chain(t.add.s(1, 1), t.add.s(2)).apply_async(countdown=60)
    result.parent.revoke()
    with pytest.raises(TaskRevokedError):
        get(result)
    app.control.revoke("never-sent")
    with pytest.raises(TaskRevokedError):
        get(t.add.apply_async((1, 1), task_id="never-sent"))


@shows("semantics", "31. rate limits count per worker; `rate_limit_for_all=True` counts the cluster")
def test_rate_limits_keep_runs_apart() -> None:
    times = sorted(get(group(t.limited.s() for _ in range(4))()))
    assert all(later - earlier > 0.04 for earlier, later in itertools.pairwise(times))


@shows("semantics", "32. tasks with an ETA wait in the scheduler, not at workers")
def test_tasks_with_an_eta_wait_in_the_scheduler() -> None:
    result = t.add.apply_async((1, 1), countdown=0.3)
    assert app.sender.metas([result.id])[0]["state"] == "scheduled"  # type: ignore[index]
    (listed,) = [one for found in app.control.inspect().scheduled().values() for one in found]
    assert listed["request"]["id"] == result.id
    assert get(result) == 2
    at = datetime.now(UTC) + timedelta(seconds=0.1)
    assert get(t.add.apply_async((1, 2), eta=at)) == 3


@shows("semantics", "33. larger priorities run first, exactly")
def test_priorities_are_exact() -> None:
    first, rest = (GATES.setdefault(name, threading.Event()) for name in ("first", "rest"))
    gates = [t.waits_for.delay(name) for name in ("first", "rest", "rest")]
    until(lambda: sum(map(len, app.control.inspect().active().values())) == len(gates))
    results = group(t.log.s(n).set(priority=n) for n in (1, 9, 5, 3)).delay()
    first.set()  # one thread takes them all, or who has logged first would be by chance
    get(results)
    rest.set()
    for result in gates:
        get(result)
    assert LOG == [(9,), (5,), (3,), (1,)]


@shows(
    "task",
    "dask's `Reschedule`",
    "differs",
    "Celery has none: the task runs again after a pause that grows, which is no retry and which handlers don't hear of",
)
def test_a_task_that_is_rescheduled_has_not_been_retried() -> None:
    """It must not eat up `max_retries`, nor be taken for an exception to retry; what it was called with stays."""
    result = t.reschedules.apply_async((3,), headers={"of": "mine"})
    assert get(result) == {"of": "mine"}
    assert [one for one in LOG if one != "before_start"] == [
        0,
        0,
        0,
        0,
        "on_retry",
        1,
        "on_success",
        "after_return SUCCESS",
    ]
    LOG.clear()
    assert t.reschedules.apply((1,)).get() is None
    assert [one for one in LOG if one != "before_start"] == [0, 0, "on_retry", 1, "on_success", "after_return SUCCESS"]
