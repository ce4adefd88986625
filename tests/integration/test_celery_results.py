"""Results: states, values, exceptions and names, as Celery has them.

Each test shows a row of the table in docs/from-celery.md.
"""

from __future__ import annotations

import io
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from futurebroker import as_completed
from futurebroker import celery as face
from futurebroker.celery import (
    Celery,
    chain,
    chord,
    group,
    states,
)
from futurebroker.celery import exceptions as errors
from futurebroker.celery.exceptions import (
    EncodeError,
    IncompleteStream,
    NotRegistered,
)
from futurebroker.celery.groups import result_from_tuple
from futurebroker.celery.local import Proxy
from futurebroker.celery.results import AsyncResult
from futurebroker.celery.states import ALL_STATES, FAILURE, PENDING, SUCCESS, state
from futurebroker.exceptions import DuplicateKeyError
from tests.integration import celery_tasks as t
from tests.integration.celery_rows import shows
from tests.integration.celery_tasks import GATES, LOG, MyError, app
from tests.integration.celery_waits import WAIT, get, until

pytestmark = pytest.mark.usefixtures("celery_cluster")


@shows(
    "result",
    "`AsyncResult`: get, ready, successful, failed, state, result, traceback, forget, revoke, then, children, parent, as_tuple",
    "differs",
    "`args` and `kwargs` are None once the result has left the scheduler's memory, `worker` once the task has ended; "
    "`result_backend` and `result_extended` are not needed for any of them",
)
def test_results() -> None:
    summed = (t.identity.s(1) | t.add.s(y=2)).apply_async()
    assert get(summed) == 3
    assert (summed.args, summed.kwargs, summed.retries) == ((None,), {"y": 2}, 0)
    failed = (t.identity.s(1) | t.fail.s(2)).apply_async()
    assert isinstance(failed.get(timeout=WAIT, propagate=False), MyError)
    assert failed.args == (failed.parent, 2)
    assert (app.AsyncResult("unheard of").args, t.identity.apply((1,)).kwargs) == (None, None)
    result = t.calls_another.delay(1)
    child = get(result)
    assert result.ready()
    assert result.successful()
    assert [one.id for one in result.children] == [child]
    assert result_from_tuple(result.as_tuple(), app) == result
    result.forget()
    assert app.AsyncResult(result.id).state == PENDING
    called: list[Any] = []
    other = t.add.delay(1, 1)
    other.then(called.append)
    get(other)
    assert len({other, AsyncResult(other.id, app=app)}) == 1


def test_a_failed_result_is_retried_under_its_id(tmp_path: Path) -> None:
    """What is seen of it is what came of the last run; retrying what didn't fail does nothing."""
    result = t.fails_without.delay(str(tmp_path / "mended"))
    with pytest.raises(MyError):
        get(result)
    assert result.state == FAILURE
    (tmp_path / "mended").touch()
    result.retry()
    assert get(result) == "there"
    result.retry()
    assert (result.state, result.result) == (SUCCESS, "there")


@shows(
    "result",
    "`AsyncResult`: iterdeps, collect, get_leaf, build_graph, graph, `DependencyGraph.to_dot`",
    "differs",
    "each task below is a node of its own, in no GroupResult; as in Celery a chord's body isn't below its header",
)
def test_what_is_below_a_result() -> None:
    """The walk waits for each node before it goes on."""
    last = chain(t.identity.si(1), t.add.s(1), group(t.add.s(2), t.add.s(3)), t.total.s())()
    assert get(last) == 9
    second = last.parent.parent
    first, (one, two) = second.parent, last.parent
    assert list(first.collect(timeout=WAIT)) == [(first, 1), (second, 2), (one, 4), (two, 5)]
    assert list(first.iterdeps()) == [(None, first), (first, second), (second, one), (second, two)]
    assert first.get_leaf() == 5
    graph = first.graph
    assert graph is first.graph
    assert dict(graph.items()) == {first: [second], second: [one, two], one: [], two: []}
    assert graph.topsort() == [one, two, second, first]
    assert (graph.valency_of(first), graph.valency_of("unheard of"), first in graph, len(graph)) == (3, 0, True, 4)
    text = io.StringIO()
    graph.to_dot(text)
    lines = text.getvalue().splitlines()
    assert lines[0] == "digraph dependencies {"
    assert sum(f'"{second.id}" -> "{one.id}"' in line for line in lines) == 1
    assert sum("->" in line for line in lines) == 3


def test_who_waits_is_told_of_states_and_of_the_time() -> None:
    """Celery's guide shows progress by `on_message`; a bar that isn't called looks like a task that stands still."""
    bodies: list[Any] = []
    intervals: list[int] = []
    gate = GATES.setdefault("told", threading.Event())

    def tell(body: Any) -> None:
        bodies.append((body["status"], body["result"]))
        gate.set()

    result = t.progress.delay("told")
    assert result.get(timeout=WAIT, interval=0.01, on_message=tell, on_interval=lambda: intervals.append(1)) == "done"
    assert bodies == [("PROGRESS", {"done": 5}), (SUCCESS, "done")]
    assert intervals
    bodies.clear()
    assert app.GroupResult("g", [t.add.delay(1, 1)]).get(timeout=WAIT, on_message=tell) == [2]
    assert bodies == [(SUCCESS, 2)]
    GATES.setdefault("never", threading.Event())
    with pytest.raises(TimeoutError):
        t.waits_for.delay("never").get(timeout=0.05, interval=0.01, on_interval=lambda: None)


def test_what_is_below_a_task_that_runs_is_not_complete() -> None:
    """As in Celery, the walk says so unless it may stop there."""
    result = t.waits_for.delay("walk")
    with pytest.raises(IncompleteStream):
        list(result.iterdeps())
    assert list(result.iterdeps(intermediate=True)) == [(None, result)]
    assert list(result.build_graph(intermediate=True)) == [result]
    GATES.setdefault("walk", threading.Event()).set()
    assert [value for _, value in result.collect(timeout=WAIT)] == ["walk"]


@shows("result", "`GroupResult` and `ResultSet`: get, join, iterate, completed_count, add, remove, revoke")
def test_sets_of_results() -> None:
    results = app.ResultSet([t.add.delay(n, 1) for n in range(3)])
    assert get(results) == [1, 2, 3]
    assert results.completed_count() == 3
    assert {meta["result"] for _, meta in results.iter_native()} == {1, 2, 3}
    results.remove(results[0])
    assert len(results) == 2


@shows(
    "result",
    "results and futures are two faces of one graph",
    "differs",
    "Celery has none: `AsyncResult.future`, `AsyncResult.of(future)`, and each may be an argument of the other's calls",
)
def test_two_faces_of_one_graph() -> None:
    client = app.client
    result = t.add.delay(1, 2)
    future = client.submit(pow, result, 2)
    assert future.result(timeout=WAIT) == 9
    assert get(t.add.delay(future, 1)) == 10
    assert [one.result() for one in as_completed([result.future])] == [3]
    assert get(AsyncResult.of(future, app)) == 9


@shows("state", "states, and their precedence")
def test_state_names() -> None:
    assert {PENDING, SUCCESS, FAILURE} <= ALL_STATES
    assert state(SUCCESS) > state(PENDING)
    assert state("PROGRESS") > state(PENDING)
    assert state(FAILURE) > state("PROGRESS")


@shows(
    "state",
    "exceptions of tier A and B",
    "differs",
    "in `futurebroker.celery.exceptions`; `Terminated` and the like exist and are never raised",
)
def test_exception_names() -> None:
    names = (
        "Retry MaxRetriesExceededError SoftTimeLimitExceeded TimeLimitExceeded TimeoutError Ignore Reject "
        "TaskRevokedError NotRegistered ImproperlyConfigured OperationalError ChordError WorkerLostError Terminated "
        "InvalidTaskError IncompleteStream QueueNotFound BackendStoreError BackendGetMetaError SecurityError "
        "AlwaysEagerIgnored WorkerShutdown WorkerTerminate"
    )
    for name in names.split():
        assert isinstance(getattr(errors, name), type), name


@shows("state", "names of the top level")
def test_top_level_names() -> None:
    names = (
        "Celery Task shared_task current_app current_task signature Signature maybe_signature subtask chain group chord "
        "chunks xmap xstarmap uuid"
    )
    for name in names.split():
        assert hasattr(face, name), name
    assert face.current_app.main == app.main


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
    "an id that is taken is refused, in place of running the task a second time, as long as its result is in the scheduler's "
    "memory; one whose result has left for the database runs again, as in Celery",
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


@shows(
    "semantics",
    "27. ignored results: `get` gives None at once, by call and by task; a chord still gets them; `store_errors_even_if_ignored`",
)
def test_ignored_results() -> None:
    assert t.unkept.delay().get() is None
    until(lambda: LOG)
    assert t.add.apply_async((1, 1), ignore_result=True).get() is None
    assert get(chord([t.unkept.s(), t.identity.s("x")], t.identity.s())()) == ["value", "x"]
    failed, ended = t.unkept_but_for_errors.delay(True).id, t.unkept_but_for_errors.delay(False).id
    until(lambda: app.AsyncResult(failed).state == FAILURE)
    until(lambda: LOG.count("unkept") == 4)
    until(lambda: not app.AsyncResult(ended).exists())
    assert app.AsyncResult(ended).state == PENDING


@shows(
    "semantics",
    "34. events carry representations of results",
    "not",
    "no event messages: the site and `client.get_events` show what happens",
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
