"""IPython kernels in the scheduler and in executors, used as Jupyter's own programs use them: by a connection file."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_core.utils import ensure_event_loop

from futurebroker import Client, LocalCluster
from futurebroker.exceptions import FuturebrokerError
from tests.integration.software import wait_for

pytestmark = pytest.mark.timeout(120)

# Jupyter's client keeps an event loop for each thread; made here, it belongs to no test.
ensure_event_loop()


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    """Two workers, and a scheduler that may run code."""
    with LocalCluster(n_workers=2, executors_per_worker=1, allow_run_on_scheduler=True) as cluster:
        yield cluster


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where connection files go."""
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    return tmp_path / "runtime"


@pytest.fixture
def client(cluster: LocalCluster, runtime: Path) -> Iterator[Client]:
    """A client of it."""
    with Client(cluster) as client:
        yield client


@contextmanager
def console(info: dict[str, Any]) -> Iterator[BlockingKernelClient]:
    """What ``jupyter console --existing`` connects with."""
    kernel = BlockingKernelClient(connection_file=info["connection_file"])
    kernel.load_connection_file()
    kernel.start_channels()
    try:
        kernel.wait_for_ready(timeout=60)
        yield kernel
    finally:
        kernel.stop_channels()


def evaluate(kernel: BlockingKernelClient, code: str) -> str:
    """The text that the kernel shows as the result."""
    shown: list[str] = []

    def hook(message: dict[str, Any]) -> None:
        content = message["content"]
        if message["header"]["msg_type"] == "execute_result":
            shown.append(content["data"]["text/plain"])
        elif message["header"]["msg_type"] in ("stream", "error"):
            shown.append(content.get("text") or content["ename"])

    kernel.execute_interactive(code, timeout=60, output_hook=hook, allow_stdin=False)
    return "".join(shown)


def ports_of(pid: int) -> list[int]:
    """TCP ports that a process listens on."""
    return [c.laddr.port for c in psutil.Process(pid).net_connections("tcp") if c.status == psutil.CONN_LISTEN]


def test_consoles_see_what_runs(client: Client, runtime: Path, tmp_path: Path) -> None:
    """As in the announcement of dask.distributed 1.13: ``scheduler.processing`` and ``worker.active``."""
    before = ports_of(client.scheduler_info()["scheduler"]["pid"])
    info = client.start_ipython_scheduler()
    infos = client.start_ipython_workers()
    assert set(infos) == set(client.nthreads())
    futures = [client.submit(wait_for, str(tmp_path / "end"), workers=name) for name in infos]
    while set(client.call_stack()) != {future.key for future in futures}:
        pass
    keys = dict(zip(infos, [[future.key] for future in futures]))
    with console(info) as kernel:
        assert eval(evaluate(kernel, "scheduler.processing")) == keys
        assert evaluate(kernel, "import os; print(os.getpid())").strip() == str(
            client.scheduler_info()["scheduler"]["pid"]
        )
        assert evaluate(kernel, "1 / 0") == "ZeroDivisionError"
        assert evaluate(kernel, "scheduler.processing = {}") == "AttributeError"
        assert eval(evaluate(kernel, "scheduler.tasks"))[futures[0].key] == "processing"
        assert ports_of(client.scheduler_info()["scheduler"]["pid"]) == before
    for (worker, one), future in zip(infos.items(), futures):
        with console(one) as kernel:
            assert eval(evaluate(kernel, "worker.active")) == {future.key}
            assert evaluate(kernel, "worker.id") == repr(worker)
            assert not ports_of(int(evaluate(kernel, "worker.pid")))
    (tmp_path / "end").touch()
    client.gather(futures)
    with console(infos[worker]) as kernel:
        assert eval(evaluate(kernel, "worker.active")) == set()
        assert evaluate(kernel, "client.submit(sum, [1, 2]).result()") == "3"
    path = Path(info["connection_file"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    client.close()
    assert not list(runtime.iterdir())


def test_what_tasks_print_stays_out_of_consoles(client: Client) -> None:
    """The kernel shares its process with tasks."""
    (worker,) = list(client.start_ipython_workers("local-1"))
    (info,) = client.start_ipython_workers([worker]).values()  # again: the same kernel, and a new connection file
    with console(info) as kernel:
        assert evaluate(kernel, "x = 5; print('said by the console')") == "said by the console\n"
        client.submit(print, "said by a task", workers=worker).result(30)
        assert evaluate(kernel, "x") == "5"


def test_a_console_ends_and_interrupts_only_what_it_runs(client: Client) -> None:
    """Jupyter's own way to interrupt is a signal, which would end the scheduler."""
    infos = [client.start_ipython_scheduler(), *client.start_ipython_workers("local-1").values()]
    for info in infos:
        with console(info) as kernel:
            pid = evaluate(kernel, "import os; os.getpid()")
            reply = kernel.execute_interactive("exit", timeout=60)
            assert reply["content"]["payload"] == [{"source": "ask_exit", "keepkernel": True}]
            kernel.execute("print('it runs', flush=True)\nwhile True: pass", stop_on_error=False)
            while kernel.get_iopub_msg(timeout=60)["header"]["msg_type"] != "stream":
                pass
            kernel.control_channel.send(kernel.session.msg("interrupt_request", {}))
            assert kernel.get_control_msg(timeout=60)["content"]["status"] == "ok"
            message = kernel.get_iopub_msg(timeout=60)
            while message["header"]["msg_type"] != "error":
                message = kernel.get_iopub_msg(timeout=60)
            assert message["content"]["ename"] == "KeyboardInterrupt"
            kernel.control_channel.send(kernel.session.msg("interrupt_request", {}))  # nothing runs
            assert kernel.get_control_msg(timeout=60)["content"]["status"] == "ok"
            assert evaluate(kernel, "os.getpid()") == pid
    assert client.submit(sum, [1, 2]).result(30) == 3


def test_magics_run_code_in_the_cluster(cluster: LocalCluster, runtime: Path, tmp_path: Path) -> None:
    """In a real IPython: ``%scheduler``, ``%remote``, and magics by name."""
    script = tmp_path / "session.ipy"
    script.write_text(
        "from futurebroker import Client\n"
        f"client = Client({cluster.scheduler_address!r}, cluster={cluster.name!r})\n"
        "client.start_ipython_scheduler()\n"
        "infos = client.start_ipython_workers(magic_names='w_*')\n"
        "worker = list(infos)[0]\n"
        "%scheduler len(scheduler.workers)\n"
        "%remote infos[worker] worker.active\n"
        "%w_1 print('here is', worker.name)\n"
        "%scheduler no_such_name\n"
        "client.close()\n"
    )
    environ = {**os.environ, "FUTUREBROKER_SECRET": cluster.secret.decode(), "IPYTHONDIR": str(tmp_path)}
    ran = subprocess.run(
        [sys.executable, "-m", "IPython", "--no-banner", "--colors=NoColor", str(script)],
        capture_output=True, text=True, env=environ, timeout=100, check=True,
    )  # fmt: skip
    lines = ran.stdout.splitlines()
    assert lines[:2] == ["2", "set()"], ran
    assert lines[2].startswith("here is local-")
    assert "no_such_name" in ran.stderr


def test_what_is_not_allowed_is_refused(runtime: Path) -> None:
    """A scheduler that runs no code has no kernel, and threads of the program have none."""
    with LocalCluster(executors_per_worker=1, processes=False) as cluster, Client(cluster) as client:
        with pytest.raises(FuturebrokerError, match="--allow-run-on-scheduler"):
            client.start_ipython_scheduler()
        with pytest.raises(FuturebrokerError, match="processes=False"):
            client.start_ipython_workers()
        with pytest.raises(FuturebrokerError, match="no worker is called 'nobody'"):
            client.start_ipython_workers("nobody")


def test_the_operators_secret_is_needed_where_one_is_set(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cluster's own secret isn't enough then."""
    monkeypatch.setenv("FUTUREBROKER_OPERATOR_SECRET", "of the operators")
    with LocalCluster(executors_per_worker=1) as cluster:
        with Client(cluster) as client:
            assert len(client.start_ipython_workers()) == 1
        monkeypatch.setenv("FUTUREBROKER_OPERATOR_SECRET", "of somebody else")
        with Client(cluster) as client, pytest.raises(FuturebrokerError, match="operator's secret is not that"):
            client.start_ipython_workers()
        monkeypatch.delenv("FUTUREBROKER_OPERATOR_SECRET")
        with Client(cluster) as client, pytest.raises(FuturebrokerError, match="FUTUREBROKER_OPERATOR_SECRET"):
            client.start_ipython_workers()
