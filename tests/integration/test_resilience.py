"""Every part of a cluster dies here in turn, and what was asked of the cluster is done all the same, once."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from futurebroker import Client
from futurebroker.exceptions import ExecutorDiedError
from tests.chaos.ledger import Ledger, write_down
from tests.chaos.rig import Outpost, Rig
from tests.integration.gate import Gate, pass_gate
from tests.integration.programs import FUTUREBROKER, lines_until, running

#: how the scheduler is told to behave: as always, only sooner
QUICK: dict[str, Any] = {"suspect_grace": 0.5, "heartbeat_interval": 0.2}
#: what was sent to a worker stays there until that goes
NO_STEALING: dict[str, Any] = {"policy": {"stealing": False}}
PATIENCE = 40.0


@pytest.fixture
def gate() -> Iterator[Gate]:
    """Where tasks wait for the test."""
    with Gate() as gate:
        yield gate


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """Where executions are counted."""
    return Ledger(tmp_path)


def until(condition: Callable[[], Any]) -> None:
    """Ask until it is so; each question goes to the scheduler and back, so this is no busy loop."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it has not come to that"


def made_of(ledger: str, key: str, size: int) -> bytes:
    """A result of that size."""
    write_down(ledger, key)
    return bytes(size)


def kill_itself(ledger: str = "", key: str = "") -> None:
    if ledger:
        write_down(ledger, key)
    os.kill(os.getpid(), signal.SIGKILL)


def noted(ledger: str, key: str, value: int) -> int:
    write_down(ledger, key)
    return value + 1


def prefer(outpost: Outpost) -> dict[str, Any]:
    """Options: run on this worker while it is there."""
    return {"workers": [outpost.name], "allow_other_workers": True}


def status_of(client: Client, outpost: Outpost) -> str:
    """What the scheduler holds of a worker."""
    workers = client.scheduler_info()["workers"].values()
    return next((str(worker["status"]) for worker in workers if worker["name"] == outpost.name), "unknown")


def test_the_work_and_data_of_a_killed_worker_are_made_again(gate: Gate, ledger: Ledger) -> None:
    """SIGKILL, as by the kernel when memory is short: what ran runs elsewhere, what lay there is computed again."""
    with Rig(2, **QUICK, **NO_STEALING) as rig, rig.client() as client:
        first, second = rig.outposts
        data = client.submit(made_of, ledger.path, "data", 200_000, **prefer(first))
        assert len(data.result(PATIENCE)) == 200_000
        futures = [client.submit(pass_gate, gate.port, ledger.path, f"t{i}", **prefer(first)) for i in range(3)]
        assert gate.arrival().pid in first.executors()
        first.kill()
        for _ in futures:
            arrival = gate.arrival()
            assert arrival.pid in second.executors()
            arrival.release()
        assert all(future.result(PATIENCE)[0] in second.executors() for future in futures)
        assert client.submit(len, data).result(PATIENCE) == 200_000
        assert ledger.count("data") == 2
        assert sorted(ledger.count(f"t{i}") for i in range(3)) == [1, 1, 2]


def test_a_worker_that_is_seen_to_be_dead_gets_no_grace(gate: Gate, ledger: Ledger) -> None:
    """On the scheduler's own machine nobody has to wait to see whether it comes back."""
    with Rig(2, suspect_grace=600.0, **NO_STEALING) as rig, rig.client() as client:
        first, second = rig.outposts
        future = client.submit(pass_gate, gate.port, ledger.path, "t", **prefer(first))
        assert gate.arrival().pid in first.executors()
        first.kill()
        began = time.monotonic()
        arrival = gate.arrival()
        assert time.monotonic() - began <= 3
        assert arrival.pid in second.executors()
        arrival.release()
        assert future.result(PATIENCE)[0] == arrival.pid


def test_a_worker_that_stood_still_does_not_count_twice(gate: Gate, ledger: Ledger) -> None:
    """SIGSTOP with its link cut, as when a machine sleeps: it is lost, comes back with its result, and one counts."""
    with Rig(2, **QUICK) as rig, rig.client() as client:
        first, second = rig.outposts
        future = client.submit(pass_gate, gate.port, ledger.path, "t", **prefer(first))
        early = gate.arrival()
        first.signal(signal.SIGSTOP)
        first.wire.cut()
        late = gate.arrival()
        assert late.pid in second.executors()
        early.release()
        assert early.gone()  # the executor has run it to its end, and its agent will find the result
        first.wire.mend()
        first.signal(signal.SIGCONT)
        client.wait_for_workers(2, timeout=PATIENCE)
        again = client.submit(pass_gate, gate.port, ledger.path, "again", **prefer(first))
        arrival = gate.arrival()
        arrival.release()
        assert again.result(PATIENCE)[0] in first.executors()
        # What it kept is taken when it comes back, though another has begun the same; that one's end counts no more.
        assert future.result(PATIENCE)[0] == early.pid
        late.release()
        assert late.gone()
        client.submit(abs, 1).result(PATIENCE)
        assert client.scheduler_info()["kinds"]["pass_gate"]["ended"] == 1


def ready_at(client: Client, outpost: Outpost) -> int:
    """How many tasks a worker said last that it has and hasn't begun."""
    workers = client.scheduler_info()["workers"].values()
    return next((worker["metrics"].get("ready", 0) for worker in workers if worker["name"] == outpost.name), 0)


@pytest.mark.parametrize("way", ["cut", "hold"])
def test_what_a_worker_runs_is_not_run_again_while_its_link_is_away(gate: Gate, ledger: Ledger, way: str) -> None:
    """A closed connection proves nothing: within the grace the tasks go on, and their results come when it is back."""
    with Rig(2, suspect_grace=PATIENCE, heartbeat_interval=0.2, **NO_STEALING) as rig, rig.client() as client:
        first, _ = rig.outposts
        futures = [client.submit(pass_gate, gate.port, ledger.path, f"t{i}", **prefer(first)) for i in range(2)]
        after = client.submit(noted, ledger.path, "after", 1, **prefer(first))
        running = gate.arrival()
        until(lambda: ready_at(client, first) > 0)
        (first.wire.cut if way == "cut" else first.wire.hold)()
        until(lambda: status_of(client, first) == "suspect")
        running.release()
        follower = gate.arrival()  # it was sent ahead, and begins without a word from the scheduler
        assert follower.pid == running.pid
        follower.release()
        assert follower.gone()
        assert not any(future.done() for future in futures)
        first.wire.mend()
        assert [future.result(PATIENCE)[0] for future in futures] == [running.pid] * 2
        assert after.result(PATIENCE) == 2
        assert sorted(key for key, _, _ in ledger.rows()) == ["after", "t0", "t1"]
        assert gate.nobody_waits()


def test_a_task_outlives_its_executor(gate: Gate, ledger: Ledger) -> None:
    """Killed from outside, for which the task can't help: it runs again, in another process."""
    with Rig(1, executors=2, **QUICK) as rig, rig.client() as client:
        future = client.submit(pass_gate, gate.port, ledger.path, "t")
        beside = client.submit(pass_gate, gate.port, ledger.path, "u")
        arrivals = {arrival.key: arrival for arrival in (gate.arrival(), gate.arrival())}
        os.kill(arrivals["t"].pid, signal.SIGKILL)
        again = gate.arrival()
        assert (again.key, again.pid != arrivals["t"].pid) == ("t", True)
        again.release()
        arrivals["u"].release()
        assert future.result(PATIENCE)[0] == again.pid
        assert beside.result(PATIENCE)[0] == arrivals["u"].pid
        assert (ledger.count("t"), ledger.count("u")) == (2, 1)


def test_poison_fails_and_its_neighbours_do_not(ledger: Ledger) -> None:
    """Only who ends executors is blamed, by name, and not those that were to run beside it or after it."""
    with Rig(2, policy={"allowed_failures": 2}, **QUICK) as rig, rig.client() as client:
        before = [client.submit(noted, ledger.path, f"a{i}", i) for i in range(50)]
        poison = [client.submit(kill_itself, ledger.path, f"poison{i}", key=f"poison{i}") for i in range(2)]
        behind = [client.submit(noted, ledger.path, f"b{i}", i) for i in range(50)]
        assert client.gather(before + behind) == [*range(1, 51), *range(1, 51)]
        for future in poison:
            error = future.exception(PATIENCE)
            assert isinstance(error, ExecutorDiedError)
            assert (error.key, error.how, error.deaths) == (future.key, "signal 9 (SIGKILL)", 3)
            assert error.worker in {outpost.name for outpost in rig.outposts}
            assert str(error) == (
                f"task {future.key} ended its executor on worker {error.worker} with signal 9 (SIGKILL), "
                "the last of 3 deaths"
            )
            assert ledger.count(future.key) == 3
        assert sum(ledger.count(f"{group}{i}") for group in "ab" for i in range(50)) == 100


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_fifty_tasks_in_a_row_that_kill_their_process_are_fifty_errors() -> None:
    """One after another, at once after the executor came back: no hang, and the next task runs."""
    with Rig(2, executors=2, policy={"allowed_failures": 0}, **QUICK) as rig, rig.client() as client:
        for _ in range(50):
            assert isinstance(client.submit(kill_itself).exception(PATIENCE), ExecutorDiedError)
        assert client.submit(abs, -1).result(PATIENCE) == 1


def test_sigterm_hands_back_what_has_not_begun_and_moves_results(gate: Gate, ledger: Ledger) -> None:
    """A deployment ends workers all the time: nothing is run twice for that, and nothing is computed again."""
    with Rig(2, **QUICK, **NO_STEALING) as rig, rig.client() as client:
        first, second = rig.outposts
        data = client.submit(made_of, ledger.path, "data", 200_000, **prefer(first))
        data.result(PATIENCE)
        futures = [
            client.submit(pass_gate, gate.port, ledger.path, f"t{i}", 300_000, **prefer(first)) for i in range(3)
        ]
        running = gate.arrival()
        assert running.pid in first.executors()
        began = time.monotonic()
        first.signal(signal.SIGTERM)
        for _ in range(2):
            arrival = gate.arrival()
            assert arrival.pid in second.executors()
            arrival.release()
        first.signal(signal.SIGTERM)  # platforms send several
        running.release()
        assert first.child is not None
        first.child.wait(PATIENCE)
        assert time.monotonic() - began <= 25
        pids = [future.result(PATIENCE)[0] for future in futures]
        assert pids.count(running.pid) == 1
        large = [client.submit(len, future) for future in (data, *(client.submit(second_of, f) for f in futures))]
        assert client.gather(large) == [200_000, 300_000, 300_000, 300_000]
        assert [key for key in ("data", "t0", "t1", "t2") if ledger.count(key) != 1] == []


def test_the_worker_command_drains_though_it_is_told_twice(gate: Gate, ledger: Ledger, tmp_path: Path) -> None:
    """Platforms send SIGTERM to every process, and again; that must not cost what runs."""
    with Rig(0, **QUICK) as rig, rig.client() as client:
        command = [*FUTUREBROKER, "worker", rig.url_through(rig.client_wire), "--executors", "1", "--name", "w"]
        place = {"FUTUREBROKER_SECRET": rig.secret, "FUTUREBROKER_CLUSTER": rig.cluster}
        with running(command, tmp_path, **place) as worker:
            lines_until(worker, "worker w serves")
            future = client.submit(pass_gate, gate.port, ledger.path, "t")
            arrival = gate.arrival()
            worker.terminate()
            until(lambda: [w["status"] for w in client.scheduler_info()["workers"].values()] == ["closing"])
            worker.terminate()
            arrival.release()
            assert future.result(PATIENCE)[0] == arrival.pid
            assert worker.wait(PATIENCE) == 0


def second_of(pair: tuple[int, bytes]) -> bytes:
    return pair[1]


@pytest.mark.slow
def test_sigterm_does_not_wait_for_ever_for_what_runs(gate: Gate, ledger: Ledger) -> None:
    """A platform kills after 30 s: until then what runs is handed to another worker, and isn't blamed."""
    with Rig(2, policy={"allowed_failures": 0}, **QUICK) as rig, rig.client() as client:
        first, second = rig.outposts
        future = client.submit(pass_gate, gate.port, ledger.path, "t", **prefer(first))
        running = gate.arrival()
        began = time.monotonic()
        first.signal(signal.SIGTERM)
        arrival = gate.arrival()
        assert arrival.pid in second.executors()
        assert running.gone()
        assert first.child is not None
        first.child.wait(PATIENCE)
        assert time.monotonic() - began <= 25
        arrival.release()
        assert future.result(PATIENCE)[0] == arrival.pid
