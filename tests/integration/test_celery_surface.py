"""Names and surfaces that Celery programs use, each as a line of the table in docs/from-celery.md."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from futurebroker import Client, LocalCluster, as_completed
from futurebroker import celery as face
from futurebroker.celery import Celery, Task, chain, chord, chunks, crontab, group, schedule, shared_task, signals
from futurebroker.celery import exceptions as errors
from futurebroker.celery.conf import DEFAULTS
from futurebroker.celery.exceptions import ImproperlyConfigured, UnknownSettingWarning
from futurebroker.celery.groups import result_from_tuple
from futurebroker.celery.results import AsyncResult
from futurebroker.celery.states import ALL_STATES, FAILURE, PENDING, SUCCESS, state
from futurebroker.exceptions import TaskError
from futurebroker.schedules import Crontab, Interval, ParseException, schedule_of
from tests.integration import celery_tasks as t
from tests.integration.celery_rows import PAGE, page_with_table, shows
from tests.integration.celery_tasks import app

WAIT = 20.0


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    with (
        LocalCluster(processes=False, executors_per_worker=1, threads_per_worker=3) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        app.use_client(client)
        app.set_current()
        t.calls_another.delay(1).get(timeout=WAIT)  # makes the client inside the executor, which stays
        t.coroutine.delay(1).get(timeout=WAIT)  # and its event loop
        t.add.delay(1, 1).then(lambda _: None)  # and the thread for callbacks
        yield
    app._sender = None


def get(result: Any) -> Any:
    """The result, waited for."""
    return result.get(timeout=WAIT)


# -- apps ----------------------------------------------------------------------------------------------------------------


@shows(
    "app",
    "`Celery(main, broker=, backend=, include=, changes=, config_source=, namespace=, set_as_current=, task_cls=)`",
    "differs",
    "`backend` is ignored: the scheduler keeps results",
)
def test_arguments_of_apps() -> None:
    made = Celery("m", broker="h:1", backend="rpc://", include=["json"], task_always_eager=True, set_as_current=False)
    assert made.conf.broker_url == "h:1"
    assert made.conf.result_backend == "rpc://"
    assert made.conf.task_always_eager is True
    made.close()


@shows("app", "`@app.task` with and without options, `bind`, `name`, `base`")
def test_task_decorators() -> None:
    made = Celery("m", set_as_current=False)

    @made.task
    def plain() -> int:
        return 1

    @made.task(name="named", bind=True, max_retries=7)
    def named(self: Any) -> Any:
        return self.name

    assert plain() == 1
    assert named() == "named"
    assert named.max_retries == 7
    with pytest.warns(errors.DuplicateTaskNameWarning):
        assert made.task(name="named")(lambda: 2) is named
    made.close()


@shows("app", "`shared_task`")
def test_shared_tasks() -> None:
    @shared_task(name="shared.one")
    def one() -> int:
        return 1

    made = Celery("m")
    assert "shared.one" in made.tasks
    assert one.name == "shared.one"
    assert one() == 1
    made.close()
    app.set_current()


@shows(
    "app",
    "`config_from_object`, `config_from_envvar`, `conf.update`, `add_defaults`",
    "differs",
    "a name that nobody knows is warned of, with the nearest",
)
def test_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Celery("m", set_as_current=False)
    made.config_from_object({"task_acks_late": True, "timezone": "Europe/Berlin"})
    made.add_defaults({"task_track_started": True})
    assert made.conf.task_acks_late is True
    assert made.conf["task_track_started"] is True
    assert str(made.timezone) == "Europe/Berlin"
    with pytest.warns(UnknownSettingWarning, match="did you mean 'task_acks_late'"):
        made.conf.task_ack_late = True
    with pytest.raises(ImproperlyConfigured, match="can't be mixed"):
        Celery("m", config_source={"CELERY_ACKS_LATE": 1, "task_acks_late": 1}, set_as_current=False).conf["enable_utc"]
    spaced = Celery("m", set_as_current=False)
    spaced.config_from_object({"CELERY_TASK_ALWAYS_EAGER": True, "OTHER": 1}, namespace="CELERY")
    assert spaced.conf.task_always_eager is True
    monkeypatch.setenv("APP_SETTINGS", "no_such_module")
    with pytest.raises(ImproperlyConfigured):
        made.config_from_envvar("APP_SETTINGS", force=True)
    for one in (made, spaced):
        one.close()


@shows(
    "app",
    "settings of tier A and B",
    "differs",
    "broker, backend and event settings about transport are accepted and have no effect",
)
def test_known_settings() -> None:
    assert {"task_routes", "beat_schedule", "result_expires", "task_time_limit", "worker_concurrency"} <= set(DEFAULTS)
    assert Celery("m", set_as_current=False).conf.worker_prefetch_multiplier is None


@shows(
    "app", "`send_task`, `signature`, `AsyncResult`, `GroupResult`, `ResultSet`, `tasks`, `register_task`, `finalize`"
)
def test_parts_of_apps() -> None:
    assert get(app.send_task(t.add.name, (1, 2))) == 3
    assert get(app.signature(t.add.name, args=(1, 2)).apply_async()) == 3
    assert t.add.name in app.tasks
    made = Celery("m", set_as_current=False)

    class Own(Task):
        name = "own"

        def run(self, value: int) -> int:
            return value + 1

    task = made.register_task(Own())
    assert made.tasks["own"] is task
    assert task(1) == 2
    made.close()


@shows("app", "`autodiscover_tasks`, `import_modules` signal")
def test_autodiscovery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "found_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "tasks.py").write_text("FOUND = True\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    made = Celery("m", set_as_current=False)
    made.autodiscover_tasks(["found_package"])
    assert "found_package.tasks" not in sys.modules
    made.import_tasks()
    assert "found_package.tasks" in sys.modules
    made.close()


@shows("app", "`on_after_configure`, `on_after_finalize`, `add_periodic_task`")
def test_periodic_tasks_are_added() -> None:
    made = Celery("m", set_as_current=False)

    @made.task(name="m.tick")
    def tick() -> None:
        """Nothing."""

    def add(sender: Any, **_: Any) -> None:
        sender.add_periodic_task(10.0, tick.s(), name="every ten")

    made.on_after_configure.connect(add, weak=False)
    made.import_tasks()
    assert made.conf.beat_schedule["every ten"]["task"] == "m.tick"
    made.close()


@shows("app", "Django: `namespace='CELERY'`, autodiscovery in installed apps, `delay_on_commit`")
def test_a_django_project(tmp_path: Path) -> None:
    (tmp_path / "proj").mkdir()
    (tmp_path / "shop").mkdir()
    for name in ("proj/__init__.py", "shop/__init__.py"):
        (tmp_path / name).touch()
    (tmp_path / "proj/settings.py").write_text(
        "SECRET_KEY='x'\nINSTALLED_APPS=['shop']\nUSE_TZ=True\n"
        "DATABASES={'default': {'ENGINE': 'django.db.backends.sqlite3', 'NAME': ':memory:'}}\n"
        "CELERY_BROKER_URL='memory://'\nCELERY_TASK_TRACK_STARTED=True\n"
    )
    (tmp_path / "proj/celery.py").write_text(
        "import os\nfrom futurebroker.celery import Celery\n"
        "os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'proj.settings')\napp = Celery('proj')\n"
        "app.config_from_object('django.conf:settings', namespace='CELERY')\napp.autodiscover_tasks()\n"
    )
    (tmp_path / "shop/tasks.py").write_text(
        "from futurebroker.celery import shared_task\nDONE = []\n"
        "@shared_task\ndef order(n):\n    DONE.append(n)\n    return n\n"
    )
    program = textwrap.dedent(
        """
        from proj.celery import app
        from futurebroker.celery import entry
        about = entry.start("proj")
        assert "shop.tasks.order" in about["tasks"], about
        from django.db import transaction
        from shop.tasks import DONE, order
        assert app.conf.task_track_started is True
        with transaction.atomic():
            order.delay_on_commit(1)
            assert order.delay(2).get(timeout=20) == 2
            assert 1 not in DONE
        assert order.delay(3).get(timeout=20) == 3
        assert 1 in DONE, DONE
        app.close()
        """
    )
    root = Path(__file__).parents[2]
    environ = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{root}"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environ,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr


# -- tasks ---------------------------------------------------------------------------------------------------------------


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
    "`self.request`",
    "differs",
    "`chain`, `chord`, `callbacks` and `errbacks` are None, and setting them changes nothing: what follows a task is in the "
    "scheduler's graph, where `revoke` ends it",
)
def test_requests() -> None:
    request = get(t.request_of.delay())
    followed = chord([t.request_of.s()], t.identity.s()) | t.identity.s()
    (seen,) = get(followed())
    assert [seen[name] for name in ("chain", "chord", "callbacks", "errbacks")] == [None] * 4
    assert request["root_id"] == request["id"]
    assert request["called_directly"] is False
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


# -- results -------------------------------------------------------------------------------------------------------------


@shows(
    "result",
    "`AsyncResult`: get, ready, successful, failed, state, result, traceback, forget, revoke, then, children, parent, collect, as_tuple",
    "differs",
    "`args` and `kwargs` are None; `result_backend` is not needed for any of them",
)
def test_results() -> None:
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


# -- states and names ------------------------------------------------------------------------------------------------------


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
    "in `futurebroker.celery.exceptions`; `IncompleteStream`, `Terminated` and the like exist and are never raised",
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


# -- canvas --------------------------------------------------------------------------------------------------------------


@shows("canvas", "signatures: partials, `set`, `clone`, `replace`, `link`, `link_error`, `on_error`, `|`, `~`, JSON")
def test_signatures() -> None:
    sig = t.add.s(1).set(priority=3)
    assert sig.clone((2,)).args == (2, 1)
    assert ~t.add.s(1, 1) == 2
    assert sig.options["priority"] == 3


@shows("canvas", "`chain`, `group`, `chord`, nested in any way")
def test_nested_canvases() -> None:
    sig = chain(group(chain(t.add.s(1, 1), t.add.s(1)), t.add.s(2, 2)), t.total.s(), group(t.add.s(1), t.add.s(2)))
    assert get(sig()) == [8, 9]
    nested = chord([chord([t.add.s(1, 1), t.add.s(2, 2)], t.total.s()), t.add.s(3, 3)], t.total.s())
    assert get(nested()) == 12


@shows("canvas", "`chunks`, `xmap`, `xstarmap`, `group.skew`, `freeze`")
def test_other_canvases() -> None:
    assert get(chunks(t.add.s(), [(1, 1)], 1)()) == [[2]]
    sig = t.add.s(1, 1)
    frozen = sig.freeze()
    sig.apply_async()
    assert get(frozen) == 2


@shows("canvas", "stamping", "not", "not built yet; `headers` travel with each call")
def test_stamping_is_missing() -> None:
    assert not hasattr(t.add.s(), "stamp")


# -- the rest --------------------------------------------------------------------------------------------------------------


@shows(
    "rest",
    "`app.control`: revoke, terminate, rate_limit, time_limit, add_consumer, cancel_consumer, pool_grow, pool_shrink, shutdown, ping, purge",
    "differs",
    "`autoscale`, `pool_restart`, `broadcast`, `election`, `enable_events` are missing; futurebroker's own adaptive scaling and restarts take their place",
)
def test_control() -> None:
    (name,) = app.control.inspect().ping()
    assert app.control.ping() == [{name: {"ok": "pong"}}]
    assert app.control.rate_limit(t.limited.name, "20/s", reply=True) == [
        {name: {"ok": "new rate limit set successfully"}}
    ]
    result = t.add.apply_async((1, 1), countdown=60)
    app.control.revoke(result.id)
    assert result.state == "REVOKED"
    assert app.control.purge() == 0


@shows(
    "rest",
    "`inspect`: ping, stats, active, reserved, scheduled, revoked, registered, active_queues, query_task, conf, report, clock",
    "differs",
    "the scheduler answers, at once; `args` are not shown, and `memdump` and `objgraph` are missing",
)
def test_inspect() -> None:
    asked = app.control.inspect()
    (name,) = asked.ping()
    assert asked.stats()[name]["pool"]["max-concurrency"] == 3
    assert asked.active_queues()[name][0]["name"] == "celery"
    for method in ("active", "reserved", "scheduled", "revoked", "registered", "conf", "report", "clock"):
        assert name in getattr(asked, method)()
    assert app.control.inspect(destination=["nobody"]).ping() is None


@shows(
    "rest",
    "custom control commands, bootsteps, event receivers",
    "not",
    "`client.run`, worker plugins and `client.events` take their place",
)
def test_commands_of_ones_own_are_missing() -> None:
    assert not hasattr(app, "steps")


@shows(
    "rest",
    "`crontab`, `schedule`, seconds and timedeltas, `relative`, `enabled`",
    "differs",
    "the scheduler itself fires, exactly once a tick, and keeps the last runs; `solar` and scheduler classes of one's own are missing",
)
def test_schedules() -> None:
    assert crontab(minute="*/15", hour="8-10", day_of_week="mon-fri").hour == {8, 9, 10}
    assert schedule_of(schedule(timedelta(seconds=5)).data()) == Interval(5)
    data = crontab(minute=0, hour=12).data()
    noon = schedule_of(data).following(1_700_000_000)
    assert (noon % 86400) == 12 * 3600
    with pytest.raises(ValueError, match="Valid range is 0-59"):
        crontab(minute=60)
    with pytest.raises(ParseException):
        crontab(day_of_week="noday")
    leap = Crontab(0, 0, day_of_month=29, month_of_year=2).following(1_709_251_200)
    assert leap > 1_709_251_200


@shows(
    "rest",
    "signals of tasks, workers and apps",
    "differs",
    "those about the worker are sent in each executor, where tasks run; `beat_init` and pool signals are never sent",
)
def test_signals() -> None:
    seen: list[Any] = []

    def before(sender: Any = None, headers: Any = None, **_: Any) -> None:
        seen.append((sender, headers["task"]))

    signals.before_task_publish.connect(before)
    get(t.add.delay(1, 1))
    signals.before_task_publish.disconnect(before)
    assert seen == [(t.add.name, t.add.name)]


@shows("rest", "`get_task_logger`")
def test_task_loggers() -> None:
    assert face.get_task_logger("tests.somewhere").parent.name == "celery.task"  # type: ignore[union-attr]


@shows(
    "rest",
    "pytest fixtures: celery_app, celery_worker, celery_session_app, celery_session_worker, celery_config, celery_parameters, celery_includes, the mark `celery`",
    "differs",
    'enabled by `pytest_plugins = ["futurebroker.celery.testing"]`; `celery_worker_pool` has no effect; `futurebroker_client` is new',
)
def test_the_plugin_for_tests_of_users(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["futurebroker.celery.testing"]\n')
    (tmp_path / "test_users.py").write_text(
        textwrap.dedent(
            """
            import pytest

            def test_worker(celery_app, celery_worker, futurebroker_client):
                @celery_app.task(name="users.add")
                def add(x, y):
                    return x + y
                assert add.delay(1, 2).get(timeout=20) == 3
                assert futurebroker_client.submit(sum, [1, 2]).result(timeout=20) == 3

            @pytest.mark.celery(task_always_eager=True)
            def test_eager(celery_app):
                @celery_app.task(name="users.f")
                def f():
                    return 5
                assert f.delay().get() == 5

            def test_session(celery_session_app, celery_session_worker):
                @celery_session_app.task(name="users.g")
                def g():
                    return 6
                assert g.delay().get(timeout=20) == 6
            """
        )
    )
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    environ = {**os.environ, "PYTHONPATH": root}
    done = subprocess.run(command, env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=55, check=False)
    assert "3 passed" in done.stdout, done.stdout + done.stderr


def test_the_page_has_the_table() -> None:
    assert PAGE.read_text() == page_with_table()


def test_the_example_shop_processes_its_orders() -> None:
    """The example of the guide runs as it is."""
    root = Path(__file__).parents[2]
    command = [sys.executable, str(root / "docs" / "examples" / "shop.py")]
    environ = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=55, check=False)
    assert done.stdout.splitlines() == [f"order {n}: 8 things done" for n in range(3)], done.stdout + done.stderr
