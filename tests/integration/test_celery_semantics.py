"""The semantics that clones of Celery get wrong, one by one, on a cluster inside this process."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from futurebroker import Client, LocalCluster
from futurebroker.celery import Celery, chain, chord, group, signals, states
from futurebroker.celery.autoretry import backoff_delay
from futurebroker.celery.exceptions import (
    ChordError,
    EncodeError,
    Ignore,
    MaxRetriesExceededError,
    NotRegistered,
    Reject,
    TaskRevokedError,
)
from futurebroker.celery.local import Proxy
from futurebroker.celery.results import AsyncResult
from futurebroker.exceptions import DuplicateKeyError
from tests.integration import celery_tasks as t
from tests.integration.celery_rows import shows
from tests.integration.celery_tasks import GATES, LOG, MyError, app

WAIT = 20.0


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    one_executor = LocalCluster(processes=False, executors_per_worker=1, threads_per_worker=3)
    with one_executor as cluster, Client(cluster, set_as_default=False) as client:
        app.use_client(client)
        app.set_current()
        get(t.calls_another.delay(1))  # makes the client inside the executor, which stays
        yield
    app._sender = None


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    LOG.clear()
    yield
    for gate in GATES.values():
        gate.set()


def get(result: Any) -> Any:
    """The result, waited for."""
    return result.get(timeout=WAIT)


def until(condition: Callable[[], Any]) -> Any:
    """Wait for what another process says only when asked."""
    end = time.monotonic() + WAIT
    while not (found := condition()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)
    return found


@shows("semantics", "1. partial arguments come first, keywords override")
def test_partial_arguments_come_first() -> None:
    assert get(t.keywords.s(3, a=1).apply_async((2,), {"a": 2})) == ((2, 3), {"a": 2})
    assert get((t.identity.s(2) | t.keywords.s(3))()) == ((2, 3), {})


@shows("semantics", "2. immutable signatures take neither results nor partial arguments")
def test_immutable_signatures_take_nothing() -> None:
    assert get((t.identity.s(2) | t.keywords.si(3))()) == ((3,), {})
    assert get(t.keywords.si(3).apply_async((2,))) == ((3,), {})


@shows("semantics", "3. a chain's result is its last task's; `parent` leads back; `get` raises what failed first")
def test_a_chain_is_its_last_task() -> None:
    result = chain(t.add.s(1, 1), t.add.s(2), t.add.s(3))()
    assert get(result) == 7
    assert get(result.parent) == 4
    assert get(result.parent.parent) == 2
    with pytest.raises(MyError):
        get(chain(t.fail.s(), t.add.s(1))())


@shows(
    "semantics",
    "4. the rest of a chain travels in each message, reversed",
    "not",
    "a chain is one graph; no message carries what follows",
)
def test_a_chain_sends_each_task_once() -> None:
    sig = t.add.s(1, 1) | t.add.s(2)
    before = json.dumps(sig)
    get(sig())
    assert json.dumps(sig) == before


@shows(
    "semantics",
    "5. group then task is a chord; chord then task extends the body; task then group stays a group; a group of one inside a chain gives its value",
)
def test_upgrades_of_groups() -> None:
    assert get((group(t.add.s(1, 1), t.add.s(2, 2)) | t.total.s())()) == 6
    assert get((group(t.add.s(1, 1), t.add.s(2, 2)) | t.total.s() | t.add.s(1))()) == 7
    assert get((t.add.s(1, 1) | group(t.add.s(1), t.add.s(2)))()) == [3, 4]
    assert get((t.add.s(1, 1) | group(t.add.s(1)) | t.identity.s())()) == 3


@shows("semantics", "6. empty groups and headers")
def test_empty_groups_and_headers() -> None:
    assert get(chord([], t.total.s())()) == 0
    empty = group([]).apply_async()
    assert get(empty) == []
    assert get(chain(t.add.s(1, 1), group([]))()) == 2


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


@shows("semantics", "9. a body gets results in the header's order, and chains count by their last task")
def test_a_body_gets_results_in_order() -> None:
    GATES["first"] = threading.Event()
    result = chord([t.waits_for.s("first"), t.identity.s(2), chain(t.add.s(1, 1), t.add.s(1))], t.identity.s())()
    until(lambda: result.parent[1].ready())
    GATES["first"].set()
    assert get(result) == ["first", 2, 3]


@shows("semantics", "10. errbacks of a chain are every task's, links the last one's; links of a group the first one's")
def test_links_of_compositions() -> None:
    sig = chain(t.add.s(1, 1), t.add.s(2))
    sig.link(t.log.s("end"))
    get(sig())
    until(lambda: LOG)
    assert LOG == [(4, "end")]
    with pytest.raises(TypeError, match="cannot add link to a group"):
        group(t.add.s(1, 1)).apply_async(link=t.log.s())


@shows("semantics", "11. links of a chord are the body's; errbacks of the body are called when the header fails")
def test_errbacks_of_a_body_hear_of_the_header() -> None:
    result = chord([t.fail.s(), t.add.s(1, 1)], t.total.s().on_error(t.old_errback.s()))()
    with pytest.raises(ChordError, match="MyError"):
        get(result)
    until(lambda: LOG)
    assert [("old", result.id)] == LOG


@shows(
    "semantics",
    "12. errbacks with one argument get the id, others request, exception and traceback",
    "differs",
    "both kinds run as tasks of their own, and `request` has only the id",
)
def test_two_kinds_of_errbacks() -> None:
    result = t.fail.apply_async(link_error=[t.new_errback.s(), t.old_errback.s()])
    with pytest.raises(MyError):
        get(result)
    until(lambda: len(LOG) == 2)
    assert sorted(LOG) == [("new", result.id, "MyError('no')", True), ("old", result.id)]


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
    "`get` of an ignored task raises Ignore in place of waiting for ever, and what depends on it fails",
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


@shows("semantics", "21. `get` inside a task is refused, unless it is allowed")
def test_waiting_inside_a_task_is_refused() -> None:
    with pytest.raises(RuntimeError, match="Never call result.get"):
        get(t.waits_inside.delay())
    assert get(t.may_wait_inside.delay()) == 2


@shows(
    "semantics",
    "22. unknown ids are PENDING; a retry carries its exception; `date_done` of ended tasks only",
)
def test_states_of_unknown_and_retried_tasks() -> None:
    assert app.AsyncResult("unknown").state == states.PENDING
    result = t.flaky.delay(1, countdown=60)
    until(lambda: result.state == states.RETRY)
    assert isinstance(result.result, MyError)
    assert result.date_done is None
    before = datetime.now(UTC)
    ended = t.add.delay(1, 2)
    result.revoke()
    until(lambda: result.state == states.REVOKED)
    assert get(ended) == 3
    for one in (result, ended):
        done = one.date_done
        assert done is not None
        assert before <= done <= datetime.now(UTC)


@shows(
    "semantics",
    "23. a result never changes",
    "differs",
    "an id that is taken is refused, in place of running the task a second time",
)
def test_a_result_never_changes() -> None:
    result = t.add.apply_async((1, 1), task_id="once")
    assert get(result) == 2
    with pytest.raises(DuplicateKeyError):
        get(t.add.apply_async((5, 5), task_id="once"))
    assert get(result) == 2
    assert app.sender.metas(["once"])[0]["status"] == "SUCCESS"  # type: ignore[index]


@shows("semantics", "24. exceptions come back as themselves")
def test_exceptions_come_back() -> None:
    result = t.fail.delay()
    error = result.get(timeout=WAIT, propagate=False)
    assert type(error) is MyError
    assert result.traceback is not None
    assert "MyError" in result.traceback


@shows("semantics", "25. arguments are checked when the task is called, not for `send_task`")
def test_arguments_are_checked_by_delay() -> None:
    with pytest.raises(TypeError, match="missing a required argument"):
        t.add.delay(1)
    with pytest.raises(TypeError, match="missing 1 required positional"):
        get(app.send_task(t.add.name, (1,)))


@shows(
    "semantics",
    "26. values: JSON's limits only with `task_serializer='json'`",
    "differs",
    "the default is pickle: tuples, sets and numpy arrays arrive as they were sent",
)
def test_values_arrive_as_they_were_sent() -> None:
    value = {(1, 2): {3}, "t": (1, 2)}
    assert get(t.identity.delay(value)) == value
    with pytest.raises(EncodeError):
        t.identity.apply_async(({1, 2},), serializer="json")


@shows("semantics", "27. ignored results: `get` gives None at once, by call and by task; a chord still gets them")
def test_ignored_results() -> None:
    assert t.unkept.delay().get() is None
    until(lambda: LOG)
    assert t.add.apply_async((1, 1), ignore_result=True).get() is None
    assert get(chord([t.unkept.s(), t.identity.s("x")], t.identity.s())()) == ["value", "x"]


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
    GATES["hold"] = threading.Event()
    gates = [t.waits_for.delay("hold") for _ in range(8)]
    results = [t.log.apply_async((n,), priority=n) for n in (1, 9, 5, 3)]
    app.sender.metas([result.id for result in results])
    GATES["hold"].set()
    for result in [*gates, *results]:
        get(result)
    assert LOG.index((9,)) < LOG.index((1,))


@shows(
    "semantics",
    "34. events carry representations of results",
    "not",
    "no event messages: the site and `client.events` show what happens",
)
def test_the_scheduler_tells_what_happens() -> None:
    get(t.add.delay(1, 1))
    assert app.client.scheduler_info()["kinds"][t.add.name]["ended"] > 0


@shows("semantics", "35. names: module and function, `main` in place of `__main__`")
def test_names() -> None:
    named = Celery("proj", set_as_current=False)
    assert named.gen_task_name("f", "__main__") == "proj.f"
    assert named.gen_task_name("f", "a.b") == "a.b.f"
    assert t.add.name == "tests.integration.celery_tasks.add"
    named.close()


@shows(
    "semantics",
    "36. decorating connects to nothing; a pickled task is its name",
    "differs",
    "tasks are made when they are decorated, those of `shared_task` when they are first used",
)
def test_decorating_connects_to_nothing() -> None:
    lazy = Celery("lazy", broker="nowhere.invalid:1", set_as_current=False)

    @lazy.task(name="lazy.f")
    def f() -> None:
        """Does nothing."""

    assert lazy._sender is None
    assert f.name in lazy.tasks
    lazy.close()


@shows("semantics", "37. `GroupResult`: truth, equality, iteration, `save` and `restore`")
def test_group_results() -> None:
    result = group(t.add.s(1, 1), t.add.s(2, 2))()
    assert bool(result)
    assert [type(one) for one in result] == [AsyncResult, AsyncResult]
    assert result.id
    assert app.GroupResult("g") != result
    result.save()
    from_store = type(result).restore(result.id, app=app)
    assert get(from_store) == [2, 4]
    result.delete()
    assert type(result).restore(result.id, app=app) is None


@shows("semantics", "38. the same link twice counts once")
def test_links_count_once() -> None:
    sig = t.add.s(1, 1)
    sig.link(t.log.s("x"))
    sig.link(t.log.s("x"))
    sig.link(t.log.s("y"))
    get(sig.apply_async())
    until(lambda: len(LOG) == 2)
    assert sorted(LOG) == [(2, "x"), (2, "y")]


@shows("semantics", "41. a state of the task's own lasts until the result")
def test_custom_states() -> None:
    result = t.progress.delay("progress")
    until(lambda: result.state == "PROGRESS")
    assert result.info == {"done": 5}
    GATES["progress"].set()
    assert get(result) == "done"
    assert result.state == states.SUCCESS


@shows("state", "unknown task names", "differs", "NotRegistered names the nearest tasks")
def test_unknown_tasks_name_the_nearest() -> None:
    with pytest.raises(NotRegistered, match="did you mean 'tests.integration.celery_tasks.add'"):
        get(app.send_task("tests.integration.celery_tasks.ad"))


def test_a_proxy_is_what_it_stands_for() -> None:
    """What `shared_task` gives is used as the task itself."""
    proxy = Proxy(lambda: t.add)
    assert proxy == t.add
    assert isinstance(proxy, type(t.add))
