"""The rest of Celery's surface of tiers A and B: what is used seldom, and what there is none of."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from click.testing import CliRunner

from futurebroker import Client, LocalCluster
from futurebroker.celery import Celery, Task, group, states
from futurebroker.celery.result import (
    AsyncResult,
    EagerResult,
    GroupResult,
    allow_join_result,
    assert_will_not_block,
    denied_join_result,
    result_from_tuple,
)
from futurebroker.cli.borrowed import adopt
from futurebroker.cli.main import cli
from futurebroker.cli.worker import worker
from futurebroker.exceptions import ConfigError
from tests.integration import celery_tasks as t
from tests.integration.celery_rows import shows
from tests.integration.celery_tasks import app

WAIT = 20.0


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    with (
        LocalCluster(processes=False, executors_per_worker=1, threads_per_worker=2) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        app.use_client(client)
        app.set_current()
        t.may_wait_inside.delay().get(timeout=WAIT)  # makes the client inside the executor, which stays
        yield
    app._sender = None


@shows(
    "app",
    "`now`, `timezone`, `uses_utc_timezone`, `set_current`, `set_default`, `oid`, `gen_task_name`, `user_options`, `close`, `with Celery() as app`",
)
def test_the_rest_of_apps() -> None:
    with Celery("rest", set_as_current=False) as own:
        own.conf.timezone = "Europe/Berlin"
        assert own.now().utcoffset() == datetime.now(UTC).astimezone(own.timezone).utcoffset()
        assert not own.uses_utc_timezone()
        assert own.gen_task_name("send", "__main__") == "rest.send"
        assert own.oid == own.oid == own.thread_oid
        assert own.oid != app.oid
        own.user_options["worker"].add("anything")
        own.set_default()
        assert own.current_task is None
        app.set_current()
    assert own.closed


@shows(
    "app",
    "`amqp`, `events`, `log`, `pool`, `producer_pool`, `connection_for_read`, `connection_for_write`, `steps`",
    "not",
    "users' programs have no messages and connections of their own to look after; the AttributeError names what to use",
)
def test_what_apps_have_not() -> None:
    for name in ("amqp", "events", "log", "pool", "producer_pool", "connection_for_read", "steps"):
        with pytest.raises(AttributeError, match=f"no '{name}' here: .*"):
            getattr(app, name)


class Counting(Task):
    """A class of tasks with a resource of their own."""

    abstract = True
    calls = 0

    def before_start(self, task_id: Any, args: Any, kwargs: Any) -> None:
        self.calls += 1


@shows(
    "task", "`base=`, `abstract`, classes with `run` and `register_task`; one instance a process, whose attributes stay"
)
def test_classes_of_tasks() -> None:
    with Celery("classes", set_as_current=False) as own:
        own.use_client(app.client)

        class Twice(Counting):
            name = "twice"

            def run(self, value: int) -> tuple[int, int]:
                return value * 2, self.calls

        task = own.register_task(Twice())
        assert own.tasks["twice"] is task
        assert [task.delay(number).get(timeout=WAIT) for number in (1, 2)] == [(2, 1), (4, 2)]

        @own.task(base=Counting, bind=True)
        def once(self: Any) -> int:
            return int(self.calls)

        assert isinstance(once, Counting)
        assert once.delay().get(timeout=WAIT) == 1
        own._sender = None


@shows("task", "`task()` runs here, with a request of its own; `request_stack`, `push_request`, `pop_request`")
def test_tasks_are_functions() -> None:
    assert t.add(2, 3) == 5
    assert t.request_of()["called_directly"] is True
    t.add.push_request(id="mine", retries=2)
    try:
        assert (t.add.request.id, t.add.request.retries, len(t.add.request_stack)) == ("mine", 2, 1)
    finally:
        t.add.pop_request()
    assert t.add.request.id is None


@shows("task", "`send_event`", "differs", "nothing is sent; `update_state` and the dashboard tell how far a task is")
def test_events_of_ones_own_go_nowhere() -> None:
    t.add.send_event("task-progress", done=1)


@shows(
    "task",
    "`start_strategy`, `Strategy`",
    "not",
    "when and where a task begins is the scheduler's decision; priorities, queues and rate limits steer it",
)
def test_there_are_no_strategies() -> None:
    assert t.add.Strategy is None
    assert not hasattr(t.add, "start_strategy")


@shows("result", "`EagerResult`")
def test_eager_results() -> None:
    result = t.add.apply((1, 2))
    assert type(result) is EagerResult
    assert (result.get(), result.state, result.ready(), result.successful()) == (3, states.SUCCESS, True, True)
    failed = t.fail.apply()
    assert (failed.state, failed.failed()) == (states.FAILURE, True)
    with pytest.raises(t.MyError):
        failed.get()


@shows("result", "`result_from_tuple`, `allow_join_result`, `denied_join_result`, `assert_will_not_block`, pickling")
def test_results_are_made_of_ids() -> None:
    result = t.add.delay(1, 2)
    assert result.get(timeout=WAIT) == 3
    for same in (result_from_tuple(result.as_tuple()), pickle.loads(pickle.dumps(result))):
        assert type(same) is AsyncResult
        assert same == result
        assert same.get(timeout=WAIT) == 3
    both = group(t.add.s(1, 1), t.add.s(2, 2))()
    again = result_from_tuple(both.as_tuple())
    assert type(again) is GroupResult
    assert again.get(timeout=WAIT) == [2, 4]
    with allow_join_result(), denied_join_result():
        assert_will_not_block()  # outside of tasks nothing is refused
    assert t.may_wait_inside.delay().get(timeout=WAIT)


@shows(
    "rest",
    "worker: `-n`, `-l`, `-P prefork|threads|solo`, `-B`, `-E`, `-O`, `--prefetch-multiplier`, `--without-gossip|mingle|heartbeat`",
    "differs",
    "all are accepted; those from `-B` on say that they change nothing; `gevent` and `eventlet` are refused",
)
def test_options_of_celerys_worker(capsys: pytest.CaptureFixture[str]) -> None:
    own = {"name": None, "log_level": None, "executors": 4, "threads": None}
    assert adopt(own, {}) == own
    adopted = adopt(own, {"hostname": "mail@%h", "loglevel": "INFO", "pool": "threads", "beat": True})
    assert adopted["name"].startswith("mail@")
    assert "%" not in adopted["name"]
    assert (adopted["log_level"], adopted["executors"], adopted["threads"]) == ("info", 1, 4)
    assert "-B has no effect: the scheduler fires" in capsys.readouterr().err
    assert adopt(own, {"pool": "solo"})["executors"] == 1
    with pytest.raises(ConfigError, match="gevent"):
        adopt(own, {"pool": "gevent"})


@shows(
    "rest",
    "worker: `-X`, `-I`, `-S`, `--autoscale`, `--purge`, `--pidfile`, `-D`; commands `beat`, `multi`, `events`, `shell`, `graph`, `migrate`",
    "not",
    "`-Q` names queues, `-A` imports, `Cluster.adapt` scales, `futurebroker purge` purges; a supervisor (systemd, Procfile) starts "
    "and watches processes; `futurebroker top`, `tasks` and the dashboard show what happens",
)
def test_options_that_worker_has_not() -> None:
    for option in ("-X", "-I", "-S", "--autoscale", "--purge", "--pidfile", "-D"):
        refused = CliRunner().invoke(worker, ["-A", "proj", option, "x"])
        assert refused.exit_code == 2
        assert f"No such option '{option}'" in refused.output
    for command in ("beat", "multi", "events", "shell", "graph", "migrate"):
        assert "No such command" in CliRunner().invoke(cli, [command]).output
