"""Whatever users name things, and whatever is away: pages stay whole, say so, and come back by themselves."""

from __future__ import annotations

import asyncio
import html
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from futurebroker import Client, LocalCluster
from futurebroker.config import Settings
from futurebroker.persistence.history import Writer
from futurebroker.protocol.history import Batch, Happened, HistoryOrders, Noted, Stood, Submitted
from futurebroker.web import queries
from futurebroker.web.app import create_app
from futurebroker.web.contents import DETAILS
from futurebroker.web.registry import PAGES
from futurebroker.web.site import EXTENSION
from futurebroker.worker.service import WorkerService
from tests.unit.persistence.histories import BEGIN, ended
from tests.unit.web.conftest import TOKEN, Visitor

HOSTILE = "</script></pre><img src=x onerror=alert(1)>'\"&{{7*7}}{%x%}🙂\u202e\0"
#: what must not stand in a page, whoever wrote it
FORBIDDEN = ("<img src=x", "</script></pre>", "49🙂")
#: bytes of a page that holds any number of such names
LARGEST = 400_000


def pages(client: FlaskClient, **things: str) -> Iterator[tuple[str, str]]:
    """Every page and its JSON, of what ``things`` names."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    arguments = {"task": {"key": things["task"]}, "worker": {"name": things["worker"]}, "run": {"id": "1"}}
    for page in (*PAGES, *DETAILS.values()):
        for path in (page.path, f"/api/v1/{page.name}"):
            answer = client.get(path, query_string=arguments.get(page.name, {}), headers=headers)
            # Without a history there is no run to show.
            expected = (200, 404) if page.name == "run" else (200,)
            assert answer.status_code in expected, (path, answer.get_data(as_text=True))
            yield path, answer.get_data(as_text=True)


def is_harmless(found: Iterator[tuple[str, str]]) -> None:
    for path, text in found:
        assert len(text) < LARGEST, path
        if "/api/" not in path:
            for word in FORBIDDEN:
                assert word not in text, path


@pytest.fixture
def hostile_worker(cluster: LocalCluster) -> Iterator[str]:
    """A worker whose name is as bad as names get."""
    name = HOSTILE + "w" * 100

    async def start() -> WorkerService:
        service = WorkerService(
            url=cluster.scheduler_address, cluster=cluster.name, secret=bytes(cluster.secret), name=name, executors=1,
            resources={HOSTILE: 1}, processes=False,
        )  # fmt: skip
        await service.start(10)
        return service

    assert cluster.loop is not None
    service = asyncio.run_coroutine_threadsafe(start(), cluster.loop).result(30)
    yield name
    asyncio.run_coroutine_threadsafe(service.close(), cluster.loop).result(30)


def test_hostile_names_and_100_kb_texts_are_shown_harmlessly(app: Flask, work: Client, hostile_worker: str) -> None:
    """Types, keys, workers, demands, errors, arguments: each as HTML, as a template, as emoji, and as 100 KB."""

    def fail(text: str) -> None:
        raise ValueError(text)

    fail.__name__ = fail.__qualname__ = HOSTILE + "🙂" * 25_000
    key = HOSTILE + "k" * 900
    failed = work.submit(fail, HOSTILE + "t" * 100_000, key=key, workers=[hostile_worker])
    assert failed.exception() is not None
    held = work.submit(bytes, 200_000, key=HOSTILE + "held", workers=[hostile_worker])
    held.result()
    work.publish_dataset(held, name="d" * 200)
    stuck = work.submit(abs, 1, key=HOSTILE + "stuck", resources={HOSTILE + "GPU": 1})
    assert not stuck.done()
    is_harmless(pages(app.test_client(), task=key, worker=hostile_worker))
    shown = dict(pages(app.test_client(), task=key, worker=hostile_worker))
    assert html.escape("<img src=x onerror=alert(1)>") in shown["/task"]
    assert html.escape("<img src=x onerror=alert(1)>") in shown["/worker"]


@pytest.fixture
def kept(cluster: LocalCluster, tmp_path: Path) -> Iterator[tuple[Flask, Path]]:
    """The site of a cluster with a history, and the file of that."""
    path = tmp_path / "history.db"
    url = f"sqlite:///{path}"
    writer = Writer(HistoryOrders(url, 0.0, 0, cluster.name, "host", "1", BEGIN))
    long = HOSTILE * 2_000
    bad = ended(HOSTILE + "old", kind=HOSTILE, outcome="failed", worker=HOSTILE)
    bad.error_type, bad.error, bad.traceback, bad.inputs = HOSTILE, long[:1000], long[:20_000], (HOSTILE, long[:1000])
    notes = [Noted(BEGIN, bad.key, HOSTILE, long[:1000], long[:1000], long[:16_000])]
    happened = [Happened(BEGIN, HOSTILE[:30], HOSTILE, bad.key, HOSTILE, long[:1000])]
    stood = [Stood(BEGIN + at, "", {"tasks": {"processing": at, "memory": 7}}) for at in (1, 2)]
    stood += [Stood(BEGIN + 2, HOSTILE + name, {"managed": 5, "unmanaged": 7, "cpu": 1.5}) for name in "ab"]
    graph = Submitted("aa", HOSTILE, BEGIN, BEGIN, {HOSTILE: 2})
    rows = [bad, ended("good-1")]
    writer.write([Batch(rows, happened, {}, 0, stood, notes, graphs=[graph], spans=[(0, "aa")])])
    writer.end()
    settings = Settings(cluster=cluster.name, web_token=TOKEN)
    app = create_app(settings, url=cluster.scheduler_address, secret=cluster.secret, loop=cluster.loop, history_url=url)
    yield app, path
    app.extensions[EXTENSION].close()


def test_a_hostile_history_is_shown_harmlessly(kept: tuple[Flask, Path], work: Client) -> None:
    """Rows outlive the version that wrote them, and nobody cleans them."""
    app, _ = kept
    is_harmless(pages(app.test_client(), task=HOSTILE + "old", worker=HOSTILE))


def test_a_past_run_shows_its_memory_and_backlog(kept: tuple[Flask, Path], work: Client) -> None:
    """The pages of a run that is over answer as those of one that is on: all workers together, at each moment."""
    app, _ = kept
    found: Any = Visitor(app.test_client(), "operator").json("/api/v1/run?id=1")["columns"]
    at = 1000 * (BEGIN + 2)
    assert found["memory"] == {"time": [at], "managed": [10], "unmanaged": [14], "spilled": [0]}
    assert found["backlog"]["time"] == [1000 * (BEGIN + 1), at]
    assert found["backlog"]["processing"] == [1, 2]


def test_a_past_run_shows_its_graphs(kept: tuple[Flask, Path], work: Client) -> None:
    """What programs submitted, and what it came to."""
    app, _ = kept
    operator = Visitor(app.test_client(), "operator")
    found: Any = operator.json("/api/v1/run?id=1")["run"]
    (graph,) = found["graphs"]
    assert (graph["client"], graph["tasks"], graph["state"]) == (HOSTILE.replace("\0", ""), 2, "failed")
    assert "What programs submitted together" in operator.get("/run?id=1")[1]


def test_while_the_database_is_away_the_scheduler_answers(
    kept: tuple[Flask, Path], work: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages of now go on, those of the past say what is wrong, and all is there again when the database is."""
    monkeypatch.setattr(queries, "PATIENCE", 0.0)
    app, path = kept
    operator = Visitor(app.test_client(), "operator")
    now = work.submit(abs, -1, key="now-1")
    now.result()
    assert "good-1" in operator.get("/tasks")[1]
    whole = path.read_bytes()
    app.extensions[EXTENSION].history.close()
    path.write_bytes(b"no database at all" * 1000)
    for page in (*PAGES, DETAILS["run"]):
        status, text = operator.get(page.path + ("?id=1" if page.name == "run" else ""))
        assert status == 200, text
    for name in ("tasks", "stream", "runs", "events"):
        status, text = operator.get(f"/{name}")
        assert "The database can&#39;t be read" in text, name
    assert "now-1" in operator.get("/tasks")[1]
    status, text = operator.get("/task?key=now-1")
    assert "The database can&#39;t be read" in text
    assert ">done<" in text
    assert operator.get("/healthz") == (200, "ok\n")
    path.write_bytes(whole)
    text = operator.get("/tasks")[1]
    assert "good-1" in text
    assert "can&#39;t be read" not in text


@pytest.mark.parametrize(
    "path",
    [
        "/tasks?q=state:nonsense", "/tasks?q=since:yesterday", "/tasks?q='", "/tasks?after=x",
        "/tasks?after=" + "9" * 40, "/tasks?q=run:" + "9" * 40, "/tasks?q=took:%3E1e999", "/tasks?q=since:1e999",
        "/tasks?q=" + "x" * 5000, "/stream?from=x&to=y", "/stream?from=2&to=1", "/stream?last=1e300", "/stream?last=-1",
        "/graph?by=nonsense", "/graph?by=task&type=%00", "/events?kind=%F0%9F%99%82", "/profile?last=9999999999999999",
        "/profile?worker=nobody", "/task?key=%FF%FE", "/tasks?q=%00",
    ],
)  # fmt: skip
def test_addresses_that_make_no_sense_have_pages(kept: tuple[Flask, Path], work: Client, path: str) -> None:
    """Links are typed, cut and pasted; none of them may break the site."""
    app, _ = kept
    operator = Visitor(app.test_client(), "operator")
    for one in (path, f"/api/v1{path}"):
        status, _ = operator.get(one)
        assert status == 200, one


def test_of_unknown_things_programs_are_told_in_json(kept: tuple[Flask, Path], work: Client) -> None:
    """A script that asks for what is gone gets a sentence and a status, and no page."""
    app, _ = kept
    operator = Visitor(app.test_client(), "operator")
    for path, expected in (("worker?name=nobody", 404), ("run?id=99", 404), ("nothing", 404), ("worker", 404)):
        answer: Any = operator.client.get(f"/api/v1/{path}", headers=operator.headers)
        assert (answer.status_code, answer.mimetype) == (expected, "application/problem+json")
        assert answer.get_json()["title"]
    assert operator.json("/api/v1/task?key=nobody")["found"] is False
