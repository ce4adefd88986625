"""The rest of what Celery programs use: control, schedules, signals, a plugin, and the table of it all.

Each test shows a row of the table in docs/from-celery.md.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from futurebroker import celery as face
from futurebroker.celery import (
    crontab,
    schedule,
    signals,
)
from futurebroker.schedules import Crontab, Interval, ParseException, schedule_of
from tests.integration import celery_tasks as t
from tests.integration.celery_rows import PAGE, page_with_table, shows
from tests.integration.celery_tasks import app
from tests.integration.celery_waits import get

pytestmark = pytest.mark.usefixtures("celery_cluster")


@shows(
    "rest",
    "`app.control`: revoke, terminate, rate_limit, time_limit, add_consumer, cancel_consumer, pool_grow, pool_shrink, shutdown, ping, purge",
    "differs",
    "`autoscale`, `pool_restart`, `broadcast`, `election`, `enable_events` are missing, and the AttributeError says what takes their place",
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
    "`client.run`, worker plugins and `client.get_events` take their place",
)
def test_commands_of_ones_own_are_missing() -> None:
    assert not hasattr(app, "steps")


@shows(
    "rest",
    "`crontab`, `schedule`, seconds and timedeltas, `relative`, `enabled`",
    "differs",
    "the scheduler itself fires, exactly once a tick, and keeps the last runs; `solar` says what to do in its place, scheduler classes of one's own are missing",
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
