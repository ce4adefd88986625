"""Apps: how they are made, set up, and come by their tasks.

Each test shows a row of the table in docs/from-celery.md.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from futurebroker.celery import (
    Celery,
    Task,
    shared_task,
)
from futurebroker.celery import exceptions as errors
from futurebroker.celery.conf import DEFAULTS
from futurebroker.celery.exceptions import (
    ImproperlyConfigured,
    UnknownSettingWarning,
)
from tests.integration import celery_tasks as t
from tests.integration.celery_rows import shows
from tests.integration.celery_tasks import app
from tests.integration.celery_waits import get

pytestmark = pytest.mark.usefixtures("celery_cluster")


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
    "settings about brokers, backends, events and log formats are accepted and have no effect; `worker_concurrency`, "
    "`worker_max_tasks_per_child` and `worker_max_memory_per_child` are options of the worker's command instead, because "
    "only executors import an app",
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
        import time
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
        end = time.monotonic() + 20
        while 1 not in DONE:  # another thread runs it, perhaps after those
            assert time.monotonic() < end, DONE
            time.sleep(0.01)
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
