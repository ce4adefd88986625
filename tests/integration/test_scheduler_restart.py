"""The scheduler is killed and another takes its place, while workers and clients stay."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from pathlib import Path

import pytest

from futurebroker import Client, fire_and_forget
from futurebroker.client.waiting import as_completed
from tests.chaos.ledger import Ledger
from tests.integration.celery_tasks import app, identity
from tests.integration.gate import Gate, pass_gate
from tests.integration.programs import FUTUREBROKER, lines_until, running

SECRET = {"FUTUREBROKER_SECRET": "known to these tests"}
CHAINS, LENGTH = 200, 10
MEBIBYTE = 1 << 20
ROOT = Path(__file__).parents[2]


def free_port() -> int:
    """A port that nobody listens on now; the scheduler must come back on the same."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(number: int) -> int:
    return number


def step(number: int, *others: int) -> int:
    time.sleep(0.001)
    return number * 3 + sum(others) + 1


def expected() -> list[int]:
    """What the ends of the chains come to."""
    values = list(range(CHAINS))
    for _ in range(LENGTH - 1):
        values = [values[i] * 3 + values[i - 1] + 1 for i in range(CHAINS)]
    return values


@pytest.mark.parametrize("done", [1, CHAINS])
def test_a_killed_scheduler_takes_nothing_with_it(done: int, tmp_path: Path) -> None:
    """Two thousand calls that depend on one another, and a client that holds only the last of them."""
    command = [*FUTUREBROKER, "scheduler", "--port", str(free_port())]
    with running(command, tmp_path, **SECRET) as first:
        lines_until(first, "stop with")
        address = f"127.0.0.1:{command[-1]}"
        worker = [*FUTUREBROKER, "worker", address, "--executors", "2", "--name", "w1"]
        with running(worker, tmp_path, **SECRET) as second:
            lines_until(second, "worker w1 serves")
            with Client(address, secret=SECRET["FUTUREBROKER_SECRET"]) as client:
                data = client.scatter(bytes(MEBIBYTE))
                large = client.submit(bytes, MEBIBYTE)
                assert len(large.result(30)) == MEBIBYTE
                layer = client.map(start, range(CHAINS))
                early = layer
                for _ in range(LENGTH - 1):
                    layer = [client.submit(step, layer[i], layer[i - 1]) for i in range(CHAINS)]
                finished = as_completed(early)
                for _ in range(done):
                    next(finished)
                del early, finished
                os.kill(first.pid, signal.SIGKILL)
                first.wait(10)
                with running(command, tmp_path, **SECRET) as third:
                    lines_until(third, "stop with")
                    assert client.gather(layer) == expected()
                    assert client.gather([client.submit(len, one) for one in (data, large)]) == [MEBIBYTE, MEBIBYTE]
                    assert client.submit(step, layer[0], layer[1]).result(30) == expected()[0] * 3 + expected()[1] + 1


def listed(number: int) -> list[int]:
    return [number]


def test_what_runs_is_run_once_and_what_was_forgotten_runs(tmp_path: Path) -> None:
    """A worker goes on with what it runs, calls without a future are sent again, and opened results stay inputs."""
    command = [*FUTUREBROKER, "scheduler", "--port", str(free_port())]
    address = f"127.0.0.1:{command[-1]}"
    worker = [*FUTUREBROKER, "worker", address, "--executors", "2", "--name", "w1"]
    ledger = Ledger(tmp_path)
    with Gate() as gate, running(command, tmp_path, **SECRET) as first:
        lines_until(first, "stop with")
        with running(worker, tmp_path, **SECRET) as second:
            lines_until(second, "worker w1 serves")
            with Client(address, secret=SECRET["FUTUREBROKER_SECRET"]) as client:
                opened = client.submit(listed, 7)
                assert opened.result(30) == [7]
                slow = client.submit(pass_gate, gate.port, ledger.path, "slow", 100)
                fire_and_forget(client.submit(pass_gate, gate.port, ledger.path, "forgotten"))
                waiting = {arrival.key: arrival for arrival in (gate.arrival(), gate.arrival())}
                fire_and_forget(client.submit(pass_gate, gate.port, ledger.path, "later"))
                os.kill(first.pid, signal.SIGKILL)
                first.wait(10)
                with running(command, tmp_path, **SECRET) as third:
                    lines_until(third, "stop with")
                    waiting["slow"].release()
                    assert slow.result(30)[0] == waiting["slow"].pid
                    waiting["forgotten"].release()
                    late = gate.arrival()
                    assert late.key == "later"
                    late.release()
                    assert client.submit(sum, opened).result(30) == 7
                    assert late.gone()
        assert sorted(key for key, _, _ in ledger.rows()) == ["forgotten", "later", "slow"]


def breaks(number: int) -> int:
    raise ValueError(f"no {number} today")


def test_a_failed_future_fails_what_needs_it_by_its_cause_also_after_a_restart(tmp_path: Path) -> None:
    """Without a journal the new scheduler knows of the failure from its client; it is not run again."""
    command = [*FUTUREBROKER, "scheduler", "--port", str(free_port()), "--journal", "none"]
    address, secret = f"127.0.0.1:{command[-3]}", SECRET["FUTUREBROKER_SECRET"]
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(running(command, tmp_path, **SECRET))
        lines_until(first, "stop with")
        worker = [*FUTUREBROKER, "worker", address, "--executors", "1"]
        lines_until(stack.enter_context(running(worker, tmp_path, **SECRET)), "serves")
        client = stack.enter_context(Client(address, secret=secret))
        bad = client.submit(breaks, 7)
        before = client.submit(step, bad)
        assert isinstance(bad.exception(30), ValueError)
        os.kill(first.pid, signal.SIGKILL)
        first.wait(10)
        lines_until(stack.enter_context(running(command, tmp_path, **SECRET)), "stop with")
        after = client.submit(step, bad)
        for future in (after, client.submit(step, after), before, bad):
            with pytest.raises(ValueError, match="no 7 today"):
                future.result(30)
        other = stack.enter_context(Client(address, secret=secret))
        assert isinstance(other.future(bad.key).exception(30), ValueError)


def test_other_work_under_a_chosen_key_gets_its_own_result_after_a_restart(tmp_path: Path) -> None:
    """Workers still have the result of what had this key, and whoever asked for that is gone."""
    command = [*FUTUREBROKER, "scheduler", "--port", str(free_port()), "--journal", "none"]
    address, secret = f"127.0.0.1:{command[-3]}", SECRET["FUTUREBROKER_SECRET"]
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(running(command, tmp_path, **SECRET))
        lines_until(first, "stop with")
        worker = [*FUTUREBROKER, "worker", address, "--executors", "1"]
        lines_until(stack.enter_context(running(worker, tmp_path, **SECRET)), "serves")
        with Client(address, secret=secret) as before:
            future = before.submit(bytes, MEBIBYTE, key="today")
            assert before.submit(len, future).result(30) == MEBIBYTE
            os.kill(first.pid, signal.SIGKILL)
            first.wait(10)
        # It could not say that it needs the result no more, so the worker still has it.
        lines_until(stack.enter_context(running(command, tmp_path, **SECRET)), "stop with")
        client = stack.enter_context(Client(address, secret=secret))
        client.wait_for_workers(1, timeout=30)
        assert client.submit(bytes, 3, key="today").result(30) == bytes(3)


def test_another_call_under_a_celery_id_gets_its_own_result_after_a_restart(tmp_path: Path) -> None:
    """As above: a worker has a result of that id, which nobody knows any more to be another call's."""
    command = [*FUTUREBROKER, "scheduler", "--port", str(free_port()), "--journal", "none"]
    address, secret = f"127.0.0.1:{command[-3]}", SECRET["FUTUREBROKER_SECRET"]
    try:
        with contextlib.ExitStack() as stack:
            first = stack.enter_context(running(command, tmp_path, **SECRET))
            lines_until(first, "stop with")
            worker = [*FUTUREBROKER, "worker", address, "--executors", "1"]
            served = stack.enter_context(running(worker, tmp_path, PYTHONPATH=str(ROOT), **SECRET))
            lines_until(served, "serves")
            with Client(address, secret=secret, set_as_default=False) as before:
                app.use_client(before)
                result = identity.apply_async((bytes(MEBIBYTE),), task_id="today")
                assert before.submit(len, result.future).result(30) == MEBIBYTE
                os.kill(first.pid, signal.SIGKILL)
                first.wait(10)
            lines_until(stack.enter_context(running(command, tmp_path, **SECRET)), "stop with")
            client = stack.enter_context(Client(address, secret=secret, set_as_default=False))
            client.wait_for_workers(1, timeout=30)
            app.use_client(client)
            assert identity.apply_async((1,), task_id="today").get(timeout=30) == 1
            app.AsyncResult("today").forget()
            assert app.send_task(identity.name, (2,), task_id="today").get(timeout=30) == 2
    finally:
        app._sender = None
