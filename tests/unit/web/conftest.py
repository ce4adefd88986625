"""A real cluster in this process and its site, asked without a network."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from flask import Flask
from flask.testing import FlaskClient

from futurebroker import Client, LocalCluster
from futurebroker.config import Settings
from futurebroker.protocol.messages import TaskOptions
from futurebroker.protocol.serialize import dumps
from futurebroker.web.app import create_app
from futurebroker.web.auth import OPERATOR, VIEWER
from futurebroker.web.site import EXTENSION, Site
from futurebroker.worker.later import tell_scheduler

TOKEN = "operator-token-of-this-test"
VIEWER_TOKEN = "viewer-token-of-this-test"


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(n_workers=1, executors_per_worker=2, processes=False) as cluster:
        yield cluster


@pytest.fixture
def work(cluster: LocalCluster) -> Iterator[Client]:
    with Client(cluster) as client:
        yield client


@pytest.fixture
def app(cluster: LocalCluster) -> Iterator[Flask]:
    settings = Settings(cluster=cluster.name, web_token=TOKEN, web_viewer_token=VIEWER_TOKEN)
    app = create_app(settings, url=cluster.scheduler_address, secret=cluster.secret, loop=cluster.loop)
    yield app
    app.extensions[EXTENSION].close()


@pytest.fixture
def site(app: Flask) -> Site:
    site = app.extensions[EXTENSION]
    assert isinstance(site, Site)
    site.collector.start()
    return site


#: an entry as apps tell of it: runs abs(-7) once a year; see `futurebroker.scheduler.beat.Entry`
SCHEDULE = [
    "<b>yearly", "shop", ["crontab", "30", "7", "*", "1", "1", None], "shop.total", b"d" * 16, dumps(abs),
    dumps(((-7,), {})), msgspec.to_builtins(TaskOptions()), 0.0, True,
]  # fmt: skip


def plan(work: Client, *entries: list[Any]) -> None:
    """Have the worker tell of an app with these schedules, as one that imports such an app does."""
    work.submit(tell_scheduler, "app", "", {"app": "shop", "tasks": [], "queues": [], "schedules": entries}).result()
    while len(work._ask("schedules", None)) != len(entries):
        pass


class Visitor:
    """Somebody with a token, or with none."""

    def __init__(self, client: FlaskClient, role: str | None) -> None:
        self.client = client
        token = {OPERATOR: TOKEN, VIEWER: VIEWER_TOKEN}.get(role or "")
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}

    def get(self, path: str, **more: str) -> tuple[int, str]:
        answer = self.client.get(path, headers={**self.headers, **more})
        return answer.status_code, answer.get_data(as_text=True)

    def json(self, path: str) -> dict[str, object]:
        answer = self.client.get(path, headers=self.headers)
        assert answer.status_code == 200, answer.get_data(as_text=True)
        value = answer.get_json()
        assert isinstance(value, dict)
        return value

    def post(self, path: str, body: object, **more: str) -> tuple[int, str]:
        answer = self.client.post(path, json=body, headers={**self.headers, **more})
        return answer.status_code, answer.get_data(as_text=True)


@pytest.fixture
def operator(app: Flask) -> Visitor:
    return Visitor(app.test_client(), OPERATOR)


@pytest.fixture
def viewer(app: Flask) -> Visitor:
    return Visitor(app.test_client(), VIEWER)


@pytest.fixture
def nobody(app: Flask) -> Visitor:
    return Visitor(app.test_client(), None)
