"""Fixtures for tests of programs with tasks; enable them with ``pytest_plugins = ["futurebroker.celery.testing"]``.

Those named ``celery_...`` have the names and meanings of Celery's own plugin. A worker runs inside the test's process,
so that it sees what the test patches.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from futurebroker.celery import local
from futurebroker.celery.app import Celery
from futurebroker.local import Client, LocalCluster


def pytest_configure(config: pytest.Config) -> None:
    """Know the mark that gives settings to one test."""
    config.addinivalue_line("markers", "celery(**overrides): override settings of the app of this test.")


class _Worker:
    """A worker of a test: a cluster inside this process, and the app that uses it."""

    def __init__(self, app: Celery, cluster: LocalCluster) -> None:
        self.app = app
        self.cluster = cluster

    def reload(self) -> None:
        """Of Celery's: tasks that were added since the start are known already."""

    ensure_started = reload


@contextmanager
def start_worker(app: Celery, concurrency: int = 2, **_: Any) -> Iterator[_Worker]:
    """Run a worker for ``app`` in this process, within."""
    with (
        LocalCluster(processes=False, executors_per_worker=concurrency) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        before, owned = app._sender, app._owns_client
        app.use_client(client)
        try:
            yield _Worker(app, cluster)
        finally:
            app._sender, app._owns_client = before, owned


@contextmanager
def _app(config: dict[str, Any], parameters: dict[str, Any], tasks: Any = ()) -> Iterator[Celery]:
    settings = {"broker_url": "memory://", **config}
    before = local._Defaults.app
    app = Celery("celery.tests", changes=settings, **parameters)
    for task in tasks:
        app.register_task(task)
    try:
        yield app
    finally:
        app.close()
        local.set_current_app(before)


@pytest.fixture(scope="session")
def celery_config() -> dict[str, Any]:
    """Override this: settings of the app."""
    return {}


@pytest.fixture(scope="session")
def celery_parameters() -> dict[str, Any]:
    """Override this: arguments of `Celery`."""
    return {}


@pytest.fixture(scope="session")
def celery_includes() -> tuple[str, ...]:
    """Override this: modules to import when a worker starts."""
    return ()


@pytest.fixture(scope="session")
def celery_class_tasks() -> list[Any]:
    """Override this: classes of tasks to register."""
    return []


@pytest.fixture(scope="session")
def celery_enable_logging() -> bool:
    """Override this; of Celery's."""
    return False


@pytest.fixture(scope="session")
def celery_worker_pool() -> str:
    """Override this; of Celery's. Executors are threads of the test's process."""
    return "threads"


@pytest.fixture(scope="session")
def celery_worker_parameters() -> dict[str, Any]:
    """Override this: arguments of `start_worker`."""
    return {}


@pytest.fixture(scope="session")
def use_celery_app_trap() -> bool:
    """Override this; of Celery's."""
    return False


@pytest.fixture(scope="session")
def celery_session_app(
    celery_config: dict[str, Any], celery_parameters: dict[str, Any], celery_class_tasks: list[Any]
) -> Iterator[Celery]:
    """An app for the whole run."""
    with _app(celery_config, celery_parameters, celery_class_tasks) as app:
        yield app


@pytest.fixture(scope="session")
def celery_session_worker(
    celery_session_app: Celery, celery_includes: tuple[str, ...], celery_worker_parameters: dict[str, Any]
) -> Iterator[_Worker]:
    """A worker for the whole run."""
    celery_session_app.conf.include = tuple(celery_includes)
    celery_session_app.import_tasks()
    with start_worker(celery_session_app, **celery_worker_parameters) as worker:
        yield worker


@pytest.fixture
def celery_app(
    request: pytest.FixtureRequest, celery_config: dict[str, Any], celery_parameters: dict[str, Any]
) -> Iterator[Celery]:
    """An app for one test; ``@pytest.mark.celery(...)`` gives it settings."""
    marks = list(request.node.iter_markers("celery"))
    overrides = {name: value for mark in reversed(marks) for name, value in mark.kwargs.items()}
    with _app({**celery_config, **overrides}, celery_parameters) as app:
        yield app


@pytest.fixture
def celery_worker(
    celery_app: Celery, celery_includes: tuple[str, ...], celery_worker_parameters: dict[str, Any]
) -> Iterator[_Worker]:
    """A worker for one test."""
    celery_app.conf.include = tuple(celery_includes)
    celery_app.import_tasks()
    with start_worker(celery_app, **celery_worker_parameters) as worker:
        yield worker


@pytest.fixture
def depends_on_current_app(celery_app: Celery) -> None:
    """Have the test's app be the current one."""
    celery_app.set_current()


@pytest.fixture
def futurebroker_client(celery_worker: _Worker) -> Any:
    """A `Client` of the test's cluster."""
    return celery_worker.app.client
