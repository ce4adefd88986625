"""IPython kernels in the scheduler and in executors, and how programs of this machine reach them.

For each kernel a `LocalEnd` listens on loopback as if it were the kernel, with a connection file as Jupyter's tools
expect; everything between here and the kernel travels over the broker.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import pkgutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

from futurebroker.client.calls import worker_names
from futurebroker.client.core import ClientCore
from futurebroker.exceptions import FuturebrokerError
from futurebroker.kernels import CHANNELS, Carrier
from futurebroker.protocol.messages import RunOnWorkers, ToPeer
from futurebroker.protocol.serialize import dumps, load_failure, loads_writable
from futurebroker.secret import operator_proof


class _StartKernel:
    """The function that only executors have; found there by its name."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return pkgutil.resolve_name, ("futurebroker.worker.consoles:start",)


class LocalEnd:
    """What stands for a kernel on this machine: sockets on loopback, and a connection file that only we can read.

    Args:
        key: what Jupyter's messages to this kernel are signed with.
        send: takes frames for the kernel, on any thread.
    """

    def __init__(self, name: str, key: str, send: Callable[[list[bytes]], None]) -> None:
        zmq, paths = _need("zmq"), _need("jupyter_core.paths")
        context = zmq.Context()
        kinds = {"iopub": zmq.PUB, "hb": zmq.REP}
        sockets = {channel: context.socket(kinds.get(channel, zmq.ROUTER)) for channel in (*CHANNELS, "hb")}
        self.info: dict[str, Any] = {"transport": "tcp", "ip": "127.0.0.1", "key": key, "kernel_name": ""}
        self.info["signature_scheme"] = "hmac-sha256"
        for channel, end in sockets.items():
            end.linger = 0
            self.info[f"{channel}_port"] = end.bind_to_random_port("tcp://127.0.0.1")
        folder = Path(paths.jupyter_runtime_dir())
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = folder / f"kernel-futurebroker-{name}.json"
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(self.info, file)
        self.info["connection_file"] = str(path)
        self._carrier = Carrier(context, sockets, send, deaf="iopub", echo="hb")
        #: takes frames of the kernel
        self.feed = self._carrier.feed

    def close(self) -> None:
        """Stand for it no more."""
        self._carrier.close()
        Path(self.info["connection_file"]).unlink(missing_ok=True)


class IPython(ClientCore):
    """Each method returns its answer, or an awaitable with an asynchronous client. Needs ``futurebroker[ipython]``."""

    def start_ipython_workers(
        self,
        workers: str | Iterable[str] | None = None,
        magic_names: str | Iterable[str] | bool = False,
        qtconsole: bool = False,
        qtconsole_args: list[str] | None = None,
    ) -> Any:
        """Start an IPython kernel in an executor of each worker; returns connection infos, by worker id.

        In it ``worker`` is a read-only view (``worker.active`` is the set of the keys that run, also ``processing``,
        ``data``, ``name``, ``id``, ``pid``), and ``client`` submits tasks. In IPython, ``%remote info[worker] code``
        runs code there; ``jupyter console --existing`` takes ``info[worker]["connection_file"]``.

        The channels travel over the broker; no port is opened but on this machine's loopback. At a broker that others
        can reach, scheduler and client must have the same FUTUREBROKER_OPERATOR_SECRET.

        Args:
            workers: names, ids or hosts; by default all.
            magic_names: also make a magic of this name for each worker, in IPython; ``"w_*"`` numbers them.
            qtconsole: open a QtConsole for each.

        Raises:
            FuturebrokerError: it isn't allowed, or ipykernel is missing there.
        """

        async def work(blocking: bool) -> dict[str, dict[str, Any]]:
            connection = self._connection
            wanted = list(worker_names(workers))
            names = await connection.ask("named_workers", wanted, blocking)
            infos = {}
            for worker in names:
                channel = f"{self.id}/{worker}"
                about = {"channel": channel, "proof": self._proof(channel)}
                await connection.ask("open_channel", about, blocking)
                number = connection.number()
                code, args = dumps(_StartKernel(), "the kernel"), dumps(((channel,), {}), "the kernel")
                answers = await connection.question(number, RunOnWorkers(number, code, args, (worker,), True), blocking)
                value, failure = answers[worker]
                if failure is not None:
                    raise load_failure(failure)
                infos[worker] = self._local_end(channel, loads_writable(value)["key"])
            self._offer(infos, magic_names, qtconsole, qtconsole_args)
            return infos

        return self._enter(work)

    def start_ipython_scheduler(
        self,
        magic_name: str | bool = "scheduler_if_ipython",
        qtconsole: bool = False,
        qtconsole_args: list[str] | None = None,
    ) -> Any:
        """Start an IPython kernel in the scheduler's process; returns its connection info.

        In it ``scheduler`` is a read-only view: ``scheduler.processing`` is ``{worker: [keys]}``; also ``tasks``,
        ``workers``, ``clients``, ``who_has``, ``has_what`` and ``info()``. In IPython the magic ``%scheduler`` runs
        code there. See `start_ipython_workers` for the rest.

        Raises:
            FuturebrokerError: the scheduler wasn't started with ``--allow-run-on-scheduler``, or the operator's secret
                is another.
        """

        async def work(blocking: bool) -> dict[str, Any]:
            channel = f"{self.id}/scheduler"
            about = {"channel": channel, "proof": self._proof(channel), "scheduler": True}
            answer = await self._connection.ask("open_channel", about, blocking)
            info = self._local_end(channel, answer["key"])
            name = "scheduler" if magic_name == "scheduler_if_ipython" else magic_name
            self._offer({"scheduler": info}, name, qtconsole, qtconsole_args)
            return info

        return self._enter(work)

    def _proof(self, channel: str) -> bytes:
        secret = self._settings.operator_secret
        return operator_proof(secret.encode(), channel) if secret else b""

    def _local_end(self, channel: str, key: str) -> dict[str, Any]:
        connection = self._connection

        def send(frames: list[bytes]) -> None:
            with contextlib.suppress(FuturebrokerError):
                connection.put(ToPeer(channel, frames))
                connection.flush()

        if channel in connection.ends:
            connection.ends.pop(channel).close()
        end = LocalEnd(channel.replace("/", "-"), key, send)
        connection.ends[channel] = end
        connection.channels[channel] = end.feed
        return end.info

    def _offer(
        self,
        infos: dict[str, dict[str, Any]],
        magic_names: str | Iterable[str] | bool,
        qtconsole: bool,
        arguments: list[str] | None,
    ) -> None:
        shell = _shell()
        if shell is not None:
            register_remote(shell)
            if isinstance(magic_names, str):
                several = len(infos) > 1 or "*" in magic_names
                marks = [magic_names.replace("*", str(i)) for i in range(len(infos))]
                magic_names = marks if several else [magic_names]
            for name, info in zip(magic_names or (), infos.values()):  # type: ignore[arg-type]
                register_magic(shell, name, info)
        for info in infos.values() if qtconsole else ():
            if importlib.util.find_spec("qtconsole") is None:
                raise FuturebrokerError("qtconsole=True needs the package qtconsole; or use jupyter console --existing")
            command = [sys.executable, "-m", "qtconsole", "--existing", info["connection_file"]]
            subprocess.Popen([*command, *(arguments or [])], start_new_session=True)


# -- magics ------------------------------------------------------------------------------------------------------------


def _shell() -> Any:
    """The IPython that this program runs in, if it does."""
    module = sys.modules.get("IPython")
    return module.get_ipython() if module is not None else None


def register_magic(shell: Any, name: str, info: dict[str, Any]) -> None:
    """Make ``%name code`` and ``%%name`` run code in one kernel."""

    def magic(line: str, cell: str | None = None) -> None:
        """Run code in a process of the cluster."""
        run_remote(info, line if cell is None else cell)

    shell.register_magic_function(magic, magic_kind="line_cell", magic_name=name)


def register_remote(shell: Any) -> None:
    """Make ``%remote info code`` and ``%%remote info`` run code in the kernel of a connection info."""

    def remote(line: str, cell: str | None = None) -> None:
        """Run code in the process whose connection info comes first."""
        expression, _, code = line.strip().partition(" ")
        run_remote(shell.ev(expression), code if cell is None else cell)

    shell.register_magic_function(remote, magic_kind="line_cell", magic_name="remote")


def run_remote(info: dict[str, Any], code: str, timeout: float | None = None) -> dict[str, Any]:
    """Run ``code`` in a kernel, show here what it shows there, and return Jupyter's reply."""
    client = _need("jupyter_client").BlockingKernelClient(connection_file=info["connection_file"])
    client.load_connection_file()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=timeout or 30)
        reply: dict[str, Any] = client.execute_interactive(code, output_hook=_show, timeout=timeout)
        return reply
    finally:
        client.stop_channels()


def _show(message: dict[str, Any]) -> None:
    content = message["content"]
    kind = message["header"]["msg_type"]
    if kind == "stream":
        (sys.stderr if content["name"] == "stderr" else sys.stdout).write(content["text"])
    elif kind in ("execute_result", "display_data"):
        if _shell() is not None:
            import_module("IPython.display").display(content["data"], raw=True)
        else:
            print(content["data"].get("text/plain", ""))
    elif kind == "error":
        print("\n".join(content["traceback"]), file=sys.stderr)


def _need(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise FuturebrokerError(f"IPython kernels need {name}: install futurebroker[ipython]") from error
