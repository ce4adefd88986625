"""What dask.distributed 1.13.0 announced, run here with our names.

Kernels and environments have tests of their own; here are the programs of the announcement that need nothing but
commands, clients and CSV files.
"""

from __future__ import annotations

import ast
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import dask.dataframe
import pytest

from futurebroker import Client, Executor, fire_and_forget
from tests.chaos.ledger import Ledger
from tests.integration.gate import Gate, pass_gate
from tests.integration.programs import FUTUREBROKER, lines_until, run, running
from tests.integration.test_scheduler_restart import free_port

SECRET = {"FUTUREBROKER_SECRET": "known to these tests"}

NAMES = """
from futurebroker import Executor
from futurebroker import Client

if __name__ == "__main__":
    e = Executor()
    c = Client()
    assert type(e) is type(c)
    print(e.submit(sum, [1, 2]).result() + c.submit(sum, [3, 4]).result())
    c.close()
    e.close()
"""


def test_the_old_name_and_the_new_one(tmp_path: Path) -> None:
    """``Executor()`` and ``Client()``, each with a cluster of its own."""
    (tmp_path / "names.py").write_text(NAMES)
    done = run([sys.executable, "names.py"], tmp_path)
    assert (done.stdout, done.returncode) == ("10\n", 0), done.stderr
    assert Executor is Client


@pytest.fixture
def port() -> int:
    """Of the scheduler, before and after its restart."""
    return free_port()


@pytest.fixture
def address(port: int, tmp_path: Path) -> Iterator[str]:
    """Where a scheduler and two workers meet; one of the workers spills."""
    address = f"127.0.0.1:{port}"
    with running([*FUTUREBROKER, "scheduler", "--port", str(port)], tmp_path, **SECRET) as scheduler:
        lines_until(scheduler, "stop with")
        plain = [*FUTUREBROKER, "worker", address, "--executors", "1", "--name", "plain"]
        spilling = [*FUTUREBROKER, "worker", address, "--executors", "1", "--name", "spilling", "--memory-limit=auto"]
        with running(plain, tmp_path, **SECRET) as first, running(spilling, tmp_path, **SECRET) as second:
            lines_until(first, "worker plain serves")
            lines_until(second, "worker spilling serves")
            yield address


def func() -> int:
    from futurebroker import local_client  # noqa: PLC0415 - as in the announcement

    with local_client() as c2:
        future = c2.submit(sum, [1, 2, 3])
        return int(future.result())


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_accounts_are_read_filtered_persisted_and_looked_at(address: str, tmp_path: Path) -> None:
    """The announcement's own example, with tasks that launch tasks, and parts that are pinned to workers."""
    for number in range(3):
        rows = "".join(f"{number * 100 + row},{row - 50}\n" for row in range(100))
        (tmp_path / f"accounts-{number}.csv").write_text("id,balance\n" + rows)
    with Client(address, secret=SECRET["FUTUREBROKER_SECRET"]) as client:
        df = dask.dataframe.read_csv(str(tmp_path / "accounts-*.csv"))
        df2 = df[df.balance < 0]
        df2 = client.persist(df2)
        assert df2.head().balance.tolist() == [-50, -49, -48, -47, -46]
        future = client.submit(func)
        assert future.result(30) == 6
        total = df2.balance.sum()
        assert client.compute(total, workers={total: "spilling"}, sync=True) == -3 * 1275
        assert client.submit(os.getpid, workers="plain").result(30) != os.getpid()


SESSION = """
from futurebroker import Client
client = Client("{address}")
client.start_ipython_scheduler()
%scheduler scheduler.processing
info = client.start_ipython_workers()
worker = sorted(info)[0]
list(info) == list(client.nthreads())
%remote info[worker] worker.active
client.close()
"""


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_consoles_show_what_runs_where(port: int, tmp_path: Path) -> None:
    """``%scheduler scheduler.processing`` and ``%remote info[worker] worker.active``, in a real IPython."""
    address = f"127.0.0.1:{port}"
    (tmp_path / "session.ipy").write_text(SESSION.format(address=address))
    command = [*FUTUREBROKER, "scheduler", "--port", str(port), "--allow-run-on-scheduler"]
    with running(command, tmp_path, **SECRET) as first:
        lines_until(first, "stop with")
        worker = [*FUTUREBROKER, "worker", address, "--executors", "2", "--name", "w"]
        with running(worker, tmp_path, **SECRET) as second, Gate() as gate:
            lines_until(second, "worker w serves")
            with Client(address, secret=SECRET["FUTUREBROKER_SECRET"]) as client:
                ledger = Ledger(tmp_path)
                for key in ("inc-1", "inc-2"):
                    fire_and_forget(client.submit(pass_gate, gate.port, ledger.path, key, key=key))
                arrivals = [gate.arrival(), gate.arrival()]
                (name,) = client.nthreads()
                shell = [sys.executable, "-m", "IPython", "--no-banner", "--colors=NoColor", "session.ipy"]
                done = run(shell, tmp_path, IPYTHONDIR=str(tmp_path), JUPYTER_RUNTIME_DIR=str(tmp_path / "r"), **SECRET)
                for arrival in arrivals:
                    arrival.release()
            for program in (second, first):  # in good order, so that the kernels' sockets go
                program.terminate()
                assert program.wait(30) == 0
    lines = [ast.literal_eval(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [sorted(lines[0][name]), lines[1]] == [["inc-1", "inc-2"], {"inc-1", "inc-2"}], done


CLIENT_ONE = """
import dask.dataframe
from futurebroker import Client

client = Client("{address}")
df = dask.dataframe.read_csv("accounts-*.csv")
df2 = df[df.balance < 0]
df2 = client.persist(df2)
print(len(df2.head()))
client.publish_dataset(accounts=df2)
client.close()
"""

CLIENT_TWO = """
from futurebroker import Client

client = Client("{address}")
print(client.list_datasets())
df = client.get_dataset("accounts")
print(df.head().balance.tolist(), len(df))
client.close()
"""


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_what_one_client_publishes_another_reopens(port: int, tmp_path: Path) -> None:
    """The two programs of the announcement, one after the other; the second again after a restart of the scheduler."""
    (tmp_path / "accounts-0.csv").write_text("id,balance\n" + "".join(f"{row},{row - 50}\n" for row in range(100)))
    address = f"127.0.0.1:{port}"
    programs = [text.format(address=address) for text in (CLIENT_ONE, CLIENT_TWO)]
    seen = "('accounts',)\n[-50, -49, -48, -47, -46] 50\n"
    command = [*FUTUREBROKER, "scheduler", "--port", str(port)]
    with running(command, tmp_path, **SECRET) as first:
        lines_until(first, "stop with")
        worker = [*FUTUREBROKER, "worker", address, "--executors", "1", "--name", "w", "--memory-limit=auto"]
        with running(worker, tmp_path, **SECRET) as second:
            lines_until(second, "worker w serves")
            outputs = [run([sys.executable, "-c", program], tmp_path, **SECRET) for program in programs]
            assert [(one.stdout, one.returncode) for one in outputs] == [("5\n", 0), (seen, 0)], outputs[1].stderr
            os.kill(first.pid, signal.SIGKILL)
            first.wait(10)
            with running(command, tmp_path, **SECRET) as third:
                lines_until(third, "stop with")
                again = run([sys.executable, "-c", programs[1]], tmp_path, **SECRET)
                assert (again.stdout, again.returncode) == (seen, 0), again.stderr


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_it_all_goes_on_after_a_restart_of_the_scheduler(port: int, tmp_path: Path) -> None:
    """What was persisted before the scheduler was killed is there after it came back."""
    (tmp_path / "accounts-0.csv").write_text("id,balance\n" + "".join(f"{row},{row - 50}\n" for row in range(100)))
    command = [*FUTUREBROKER, "scheduler", "--port", str(port)]
    address = f"127.0.0.1:{port}"
    with running(command, tmp_path, **SECRET) as first:
        lines_until(first, "stop with")
        worker = [*FUTUREBROKER, "worker", address, "--executors", "1", "--name", "w", "--memory-limit=auto"]
        with running(worker, tmp_path, **SECRET) as second:
            lines_until(second, "worker w serves")
            with Client(address, secret=SECRET["FUTUREBROKER_SECRET"]) as client:
                df = dask.dataframe.read_csv(str(tmp_path / "accounts-*.csv"))
                df2 = client.persist(df[df.balance < 0])
                assert len(df2) == 50
                os.kill(first.pid, signal.SIGKILL)
                first.wait(10)
                with running(command, tmp_path, **SECRET) as third:
                    lines_until(third, "stop with")
                    assert df2.head().balance.tolist() == [-50, -49, -48, -47, -46]
                    assert client.submit(func).result(30) == 6
