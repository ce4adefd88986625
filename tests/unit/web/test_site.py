"""The site over a real cluster in this process: every page and its JSON, live ticks, actions, report and metrics."""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from futurebroker import Client, LocalCluster, performance_report
from futurebroker.config import Settings
from futurebroker.persistence.history import Writer
from futurebroker.protocol.history import Batch
from futurebroker.web.app import create_blueprint, history_url_for, make_site
from futurebroker.web.contents import DETAILS, VIEWS
from futurebroker.web.queries import History
from futurebroker.web.registry import PAGES
from futurebroker.web.site import Site
from futurebroker.web.streaming import MARKS, Run, lay_out
from futurebroker.web.views.happenings import flame, together
from tests.unit.persistence.histories import BEGIN, ended, orders, sample
from tests.unit.web.conftest import SCHEDULE, TOKEN, Visitor, plan

HOSTILE = "<script>alert(1)</script>'\"&-🙂-" + "x" * 900


#: ends what runs `wait_here`
END = threading.Event()


def wait_here(what: str, password: str) -> None:
    """A task that ends, badly, when it is told to."""
    END.wait()
    raise ValueError(what)


def test_every_page_of_the_navigation_is_there() -> None:
    """A name in the navigation without a page behind it is a dead link."""
    assert {page.name for page in (*PAGES, *DETAILS.values())} == set(VIEWS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_is_complete_without_scripts_and_has_a_twin(operator: Visitor, work: Client, page: Any) -> None:
    """The first byte already says all; programs get the same as JSON."""
    work.submit(pow, 2, 5).result()
    status, text = operator.get(page.path)
    assert status == 200
    assert f"<h1>{page.title}</h1>" in text
    assert isinstance(operator.json(f"/api/v1/{page.name}"), dict)


def test_what_users_named_is_escaped_everywhere(operator: Visitor, work: Client) -> None:
    """Keys, types and errors are whatever users wrote, and half a page of it is shortened."""

    def fail() -> None:
        raise ValueError(HOSTILE * 100)

    fail.__name__ = "<b>fail"
    future = work.submit(fail, key=HOSTILE[:1000])
    future.exception()
    for path in ("/", "/tasks", "/types", "/graph", "/graph?by=task", "/backlog", "/memory"):
        status, text = operator.get(path)
        assert status == 200
        assert "<script>alert" not in text
        assert "<b>fail" not in text
        assert len(text) < 200_000
    answer = operator.client.get("/task", query_string={"key": HOSTILE[:1000]}, headers=operator.headers)
    text = answer.get_data(as_text=True)
    assert "ValueError" in text
    assert "<script>alert" not in text


def test_a_task_s_page_tells_its_arguments_and_where_it_is(operator: Visitor, work: Client) -> None:
    """The first questions about a task that failed, or doesn't end; what it was given is as hostile as any text."""
    END.clear()
    future = work.submit(wait_here, HOSTILE, password="hunter2")
    while "END.wait()" not in (text := operator.get(f"/task?key={future.key}")[1]):
        pass
    assert "Where it is" in text
    assert "runs on worker local-1" in text
    END.set()
    assert future.exception() is not None
    for path in (f"/task?key={future.key}", f"/api/v1/task?key={future.key}"):
        status, text = operator.get(path)
        assert status == 200
        assert "password=***" in text
        assert "hunter2" not in text
    assert "<script>alert" not in operator.get(f"/task?key={future.key}")[1]


def test_a_task_that_has_not_ended_tells_what_happened_so_far(operator: Visitor, work: Client) -> None:
    """Submitted, then retried because of an error: why it takes so long is in its page before it has ended."""
    END.clear()
    future = work.submit(wait_here, "", password="", retries=1)
    END.set()
    while "retry 1" not in (text := operator.get(f"/task?key={future.key}")[1]):
        pass
    assert "What happened" in text
    assert "submitted" in text
    assert future.exception() is not None


def test_unknown_things_have_pages_that_say_so(operator: Visitor, work: Client) -> None:
    """A link to what was forgotten is no error of the reader's."""
    status, text = operator.get("/task?key=gone-1")
    assert status == 200
    assert "No such task" in text
    for path in ("/worker?name=nobody", "/run?id=99", "/run?id=x", "/nowhere", "/worker"):
        status, text = operator.get(path)
        assert status == 404
        assert "Not here" in text


def test_a_search_without_a_database_asks_the_scheduler(operator: Visitor, work: Client) -> None:
    """The words are the same; what only a history can answer says so."""
    futures = work.map(int, ["1", "no"], key="searched")
    futures[1].exception()
    found: Any = operator.json("/api/v1/tasks?q=state:failed")
    assert [row["key"] for row in found["rows"]] == [futures[1].key]
    assert "ValueError" in found["rows"][0]["error"]
    assert "needs a history" in str(operator.json("/api/v1/tasks?q=since:1h")["error"])
    assert "no state" in str(operator.json("/api/v1/tasks?q=state:odd")["error"])


def test_an_operator_retries_by_query_and_it_is_noted(operator: Visitor, work: Client, tmp_path: Path) -> None:
    """A dry run counts, a real one runs, and the events name who did it."""
    mark = tmp_path / "ran"

    def flaky(path: Path) -> int:
        if not path.exists():
            path.touch()
            raise OSError("first time")
        return 7

    future = work.submit(flaky, mark)
    future.exception()
    assert json.loads(operator.post("/api/v1/retry", {"query": "flaky", "dry_run": True})[1])["count"] == 1
    assert future.status == "error"
    assert operator.post("/api/v1/retry", {"query": "flaky"})[0] == 200
    assert future.result(timeout=10) == 7
    rows: Any = operator.json("/api/v1/events")["rows"]
    assert any(row["kind"] == "operator_retry" and future.key in row["text"] for row in rows)


def test_an_operator_cancels_what_nobody_serves(operator: Visitor, work: Client) -> None:
    """The way out of a backlog that will never be served."""
    stuck = work.submit(pow, 2, 3, resources={"GPU": 1})
    work.submit(pow, 2, 2).result()
    body = operator.json("/api/v1/backlog")
    assert [queue["demand"] for queue in body["unserved"]] == ["GPU=1"]  # type: ignore[attr-defined]
    assert operator.post("/api/v1/cancel", {"keys": [stuck.key]})[0] == 200
    with pytest.raises(Exception, match="operator"):
        stuck.result(timeout=10)


@pytest.mark.parametrize("body", [None, [], {"keys": "x"}, {"keys": [1]}, {"query": 3}, {"keys": [""] * 2}])
def test_bad_actions_are_refused_with_a_sentence(operator: Visitor, body: object) -> None:
    """What can't be understood changes nothing."""
    status, text = operator.post("/api/v1/cancel", body)
    assert status == 400
    assert json.loads(text)["title"]


def test_a_tick_sends_columns_and_the_page(operator: Visitor, site: Site, work: Client) -> None:
    """The figures' traces came with the page; a tick has columns only."""
    site.snapshot()
    tick = operator.json("/api/v1/tick?page=overview&since=0")
    assert set(tick) == {"id", "html", "figures", "append", "standing"}
    append: Any = tick["append"]
    assert set(append["throughput"]) == {"time", "rate"}
    again: Any = operator.json(f"/api/v1/tick?page=overview&since={tick['id']}")
    assert len(again["append"]["throughput"]["time"]) <= 1


def test_a_stream_begins_at_once_and_gives_its_place_back(operator: Visitor, site: Site, work: Client) -> None:
    """Too many streams are told to poll; one that ends makes room."""
    site.streams = 1
    answer = operator.client.get("/api/v1/live?page=overview", headers=operator.headers, buffered=False)
    events = answer.iter_encoded()
    assert next(events).startswith(b"retry:")
    assert b"event: tick" in next(events)
    refused = operator.client.get("/api/v1/live?page=overview", headers=operator.headers)
    assert refused.status_code == 503
    assert refused.headers["Retry-After"]
    answer.close()
    again = operator.client.get("/api/v1/live?page=workers", headers=operator.headers, buffered=False)
    assert again.status_code == 200
    again.close()


def test_without_a_scheduler_the_last_state_is_shown_with_its_age(operator: Visitor, site: Site, work: Client) -> None:
    """The site outlives the cluster and says that what it shows is old."""
    work.submit(pow, 2, 2).result()
    assert site.snapshot() is not None
    site.collector.trouble = "the connection is lost"
    status, text = operator.get("/")
    assert status == 200
    assert "Last known state" in text
    assert operator.client.get("/healthz").get_data() == b"degraded\n"


def test_metrics_speak_prometheus(operator: Visitor, nobody: Visitor, site: Site, work: Client) -> None:
    """Names and labels are what docs/dashboard.md maps to those of dask and Flower."""
    work.gather(work.map(pow, range(5), range(5)))
    site.snapshot()
    deadline = time.monotonic() + 10
    text = ""
    while 'futurebroker_tasks_finished_total{type="pow"} 5.0' not in text:
        assert time.monotonic() < deadline, text
        site.collector.since(site.collector.latest().number, patience=2)  # type: ignore[union-attr]
        text = operator.get("/metrics")[1]
    assert "futurebroker_up 1.0" in text
    assert 'futurebroker_scheduler_workers{state="running"} 1.0' in text
    assert nobody.get("/metrics")[0] == 401


def test_the_report_is_one_file_that_fetches_nothing(work: Client, tmp_path: Any) -> None:
    """It is sent to people without an account, and opened on a train."""
    path = tmp_path / "run.html"
    with contextlib.suppress(ZeroDivisionError), performance_report(path, client=work):
        work.gather(work.map(pow, range(20), range(20)))
        work.submit(divmod, 1, 0).result()  # a run that fails is the one that people want to look at
    text = path.read_text()
    assert "Task stream" in text
    head = text.partition("<script>")[0]
    assert re.findall(r"<[^>]*\b(?:src|href)=", head) == []
    assert "default-src 'none'" in head


def test_the_export_is_for_downloading(operator: Visitor, site: Site, work: Client) -> None:
    """It has scripts of its own, so it must not run as a page of the site."""
    site.snapshot()
    answer = operator.client.get("/report.html", headers=operator.headers)
    assert answer.headers["Content-Disposition"].startswith("attachment")
    assert answer.headers["Content-Security-Policy"] == "sandbox"


def test_it_can_be_mounted_in_another_application(cluster: LocalCluster, work: Client) -> None:
    """The host decides who may see it, and every link stays below the prefix."""
    site = make_site(
        Settings(cluster=cluster.name), url=cluster.scheduler_address, secret=cluster.secret, loop=cluster.loop,
        host_role=lambda request: request.headers.get("X-Role"),
    )  # fmt: skip
    host = Flask("host")
    host.register_blueprint(create_blueprint(site=site), url_prefix="/jobs")
    browser = host.test_client()
    assert browser.get("/jobs/").status_code == 401
    text = browser.get("/jobs/", headers={"X-Role": "viewer"}).get_data(as_text=True)
    assert 'href="/jobs/workers"' in text
    assert 'href="/workers"' not in text
    with browser.get("/jobs/static/site.css") as answer:
        assert answer.status_code == 200
    site.close()


def test_the_link_of_a_client_opens_the_site(cluster: LocalCluster, work: Client) -> None:
    """What `Client()` gives is all that a newcomer needs."""
    link = work.dashboard_link
    assert link == cluster.dashboard_link
    assert "?token=" in link
    assert link in work._repr_html_()
    other = Client(cluster)
    assert other.dashboard_link == link
    other.close()


def test_history_is_looked_for_where_the_scheduler_keeps_it() -> None:
    """A site beside a scheduler that listens itself finds its file by the port."""
    by_port = history_url_for(Settings(port=1), "amqp://127.0.0.1:4567")
    assert by_port == history_url_for(Settings(port=4567), "amqp://127.0.0.1:4567")
    assert history_url_for(Settings(history=False), "amqp://h:1") is None
    assert history_url_for(Settings(database_url="postgresql://db/x"), "amqp://h:1") == "postgresql://db/x"


def test_a_window_with_100_000_runs_is_drawn_in_few_marks() -> None:
    """The answer is bounded by lanes and pixels, and no run is left uncounted."""
    runs = [
        Run(n * 0.001, n * 0.001 + 0.0008, f"t{n % 12}", f"w · {n % 4}", n % 997 == 0, f"k{n}") for n in range(100_000)
    ]
    drawn = lay_out(runs, 0.0, 100.0)
    assert drawn["runs"] == 100_000
    columns = drawn["columns"]
    assert sum(len(columns[f"t{n}"]["start"]) for n in range(10)) + len(columns["failed"]["start"]) <= MARKS
    assert len(json.dumps(drawn)) < 600_000


def test_what_is_too_thin_to_be_seen_has_the_colour_that_most_time_went_to() -> None:
    """Two types in turns would else be drawn as the one that is drawn last, and a failure among them not at all."""
    runs = []
    for number in range(400):
        runs.append(Run(number, number + 0.7, "long", "w · 1", number == 250, f"l{number}"))
        runs.append(Run(number + 0.7, number + 0.99, "short", "w · 1", False, f"s{number}"))
    drawn = lay_out([*runs, Run(500.0, 520.0, "short", "w · 1", False, "alone")], 0.0, 1200.0, pixels=600)
    columns = {drawn["columns"][f"t{n}"]["name"]: drawn["columns"][f"t{n}"] for n in range(2)}
    assert (drawn["runs"], drawn["lanes"]) == (801, 1)
    assert [round(length) for length in columns["long"]["length"]] == [247_990, 147_990]
    assert columns["long"]["text"] == ["496 runs in 4 min 08 s, mostly long", "296 runs in 2 min 28 s, mostly long"]
    assert drawn["columns"]["failed"]["text"] == ["8 runs in 3.99 s, some failed"]
    assert (columns["short"]["start"], columns["short"]["links"]) == ([500_000], ["alone"])


def test_events_of_one_kind_in_a_row_are_told_as_one() -> None:
    """Two hundred retries must not hide the worker that was lost before them."""
    retries = [{"at": 100.0 - n, "kind": "task-retried", "about": f"w{n % 2}", "text": str(n)} for n in range(50)]
    lost = {"at": 1.0, "kind": "worker-lost", "about": "w1", "text": ""}
    assert together([*retries, lost]) == [
        {**retries[0], "about": "2 of them", "count": 50, "first": 51.0}, {**lost, "count": 1, "first": 1.0},
    ]  # fmt: skip
    assert [row["count"] for row in together(retries[:3])] == [1, 1, 1]


def test_a_flame_graph_counts_every_sample_once() -> None:
    """What a call took itself is what its callees did not."""
    leaf = {"name": "leaf", "file": "f.py", "line": 3, "count": 3, "children": []}
    tree = {"name": "", "file": "", "line": 0, "count": 4,
            "children": [{"name": "task", "file": "", "line": 0, "count": 4, "children": [leaf]}]}  # fmt: skip
    columns, hot = flame(tree)
    assert columns["values"] == [4, 4, 3]
    assert columns["parents"] == ["", "0", "1"]
    assert [(call["name"], call["samples"]) for call in hot] == [("leaf", 3), ("task", 1)]


def test_the_token_opens_nothing_but_by_its_whole() -> None:
    """Half a token is no token."""
    assert len(TOKEN) > 20


def test_schedules_say_when_and_operators_run_them_now(
    operator: Visitor, viewer: Visitor, site: Site, work: Client
) -> None:
    """What runs at night is checked by day, and run once by hand; its name is as hostile as any."""
    assert "Nothing is scheduled" in operator.get("/schedules")[1]
    plan(work, SCHEDULE, ["off", *SCHEDULE[1:9], False])
    status, text = operator.get("/schedules")
    assert status == 200
    assert "&lt;b&gt;yearly" in text
    assert "<b>yearly" not in text
    assert "at 07:30 on day 1 of the month in January (UTC)" in text
    assert "Run now" in text
    assert "Run now" not in viewer.get("/schedules")[1]
    rows = operator.json("/api/v1/schedules")["rows"]
    assert isinstance(rows, list)
    assert [(row["name"], row["enabled"], row["runs"], row["last"]) for row in rows] == [
        ("<b>yearly", True, 0, None), ("off", False, 0, None),
    ]  # fmt: skip
    assert rows[0]["next"] > time.time()
    status, text = operator.post("/api/v1/run_schedule", {"name": "off"})
    assert status == 200
    key = json.loads(text)["key"]
    while not operator.json("/api/v1/schedules")["rows"][1]["runs"]:  # type: ignore[index]
        pass
    assert [(action.what, action.about) for action in site.actions] == [("run_schedule", f"off: {key}")]
    form = {"data": {"name": "off"}, "headers": {**operator.headers, "Sec-Fetch-Site": "same-origin"}}
    assert operator.client.post("/actions/run_schedule", **form).status_code == 303
    assert viewer.post("/api/v1/run_schedule", {"name": "off"})[0] == 403
    assert operator.post("/api/v1/run_schedule", {"name": "nightly"})[0] == 404
    bad: list[object] = [{}, {"name": 7}, [], "off"]
    for body in bad:
        assert operator.post("/api/v1/run_schedule", body)[0] == 400


def test_a_window_that_is_over_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that stays open on last night's stream must not read a hundred thousand rows every three seconds."""
    url = f"sqlite:///{tmp_path / 'h.db'}"
    writer = Writer(orders(url))
    writer.write(sample())
    history = History(url, "c")
    seen = history.runs_between(BEGIN, BEGIN + 10)
    assert {run.key for run in seen} == {"a", "b", "c"}
    writer.write([Batch([ended("late", started=BEGIN + 1)])])
    assert history.runs_between(BEGIN, BEGIN + 10) is seen
    assert {run.key for run in history.runs_between(BEGIN, BEGIN + 11)} == {"a", "b", "c", "late"}
    now = time.time()
    assert history.runs_between(now - 10, now) is not history.runs_between(now - 10, now)
    history.close()
    writer.end()
