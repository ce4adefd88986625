"""IPython kernels inside processes of a cluster, reached without a port: each channel is a stream of frames.

A kernel listens on sockets of the file system only, in a folder that only its user can enter. A `Carrier` carries what
they say as lists of frames, of which the first names the Jupyter channel; whoever made it brings the frames to
the client, over the broker. Needs the extra ``futurebroker[ipython]`` where kernels run.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import secrets
import socket
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from futurebroker.exceptions import FuturebrokerError

#: the channels of Jupyter that kernels have
CHANNELS = ("shell", "control", "stdin", "iopub")
#: seconds a kernel may take to begin
START_TIMEOUT = 30.0


class Carrier:
    """A thread that carries frames between the sockets of Jupyter's channels and whoever has the other end.

    Args:
        sockets: by channel; the carrier's own from now on, with their context.
        send: takes frames that came from a socket, on the carrier's thread.
        deaf: the channel on which nothing comes; ``mute`` the one to which nothing is written.
        echo: the channel whose messages go back as they came.
    """

    def __init__(
        self,
        context: Any,
        sockets: Mapping[str, Any],
        send: Callable[[list[bytes]], None],
        *,
        deaf: str = "",
        mute: str = "",
        echo: str = "",
    ) -> None:
        self._context = context
        self._sockets = sockets
        self._send = send
        self._deaf, self._mute, self._echo = deaf, mute, echo
        self._waiting: deque[list[bytes]] = deque()
        self._wake, self._woken = socket.socketpair()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="futurebroker-ipython", daemon=True)
        self._thread.start()

    def feed(self, frames: list[bytes]) -> None:
        """Write frames, of which the first names the channel; may be called from any thread."""
        self._waiting.append(frames)
        self._nudge()

    def close(self) -> None:
        """Carry no more."""
        self._closed = True
        self._nudge()
        self._thread.join()
        self._wake.close()
        self._woken.close()

    def _nudge(self) -> None:
        with contextlib.suppress(OSError):
            self._wake.send(b"x")

    def _run(self) -> None:
        zmq = import_module("zmq")
        poller = zmq.Poller()
        names = {end: channel for channel, end in self._sockets.items() if channel != self._deaf}
        for end in names:
            poller.register(end, zmq.POLLIN)
        poller.register(self._woken.fileno(), zmq.POLLIN)
        try:
            while not self._closed:
                for ready, _ in poller.poll():
                    channel = names.get(ready)
                    if channel is None:
                        self._woken.recv(4096)
                        self._write()
                    elif channel == self._echo:
                        ready.send_multipart(ready.recv_multipart())
                    else:
                        self._send([channel.encode(), *ready.recv_multipart()])
        finally:
            self._context.destroy(linger=0)

    def _write(self) -> None:
        while self._waiting:
            name, *frames = self._waiting.popleft()
            channel = name.decode(errors="replace")
            if channel in self._sockets and channel != self._mute:
                self._sockets[channel].send_multipart(frames)


def _bridge(addresses: Mapping[str, str], identity: str, send: Callable[[list[bytes]], None]) -> Carrier:
    """A way to the kernel that listens at ``addresses``, which knows it by ``identity``."""
    zmq = import_module("zmq")
    context = zmq.Context()
    sockets = {channel: context.socket(zmq.SUB if channel == "iopub" else zmq.DEALER) for channel in CHANNELS}
    for channel, end in sockets.items():
        if channel == "iopub":
            end.setsockopt(zmq.SUBSCRIBE, b"")
        else:
            # The same for all: a kernel asks for input on stdin by the identity that shell knows.
            end.setsockopt(zmq.IDENTITY, identity.encode())
        end.linger = 0
        end.connect(addresses[channel])
    return Carrier(context, sockets, send, mute="iopub")


class _ByThread:
    """Standard output of a process in which a kernel lives: what the kernel's threads write goes to its clients."""

    def __init__(self, usual: Any, kernel: Any, is_kernel: Callable[[], bool]) -> None:
        self._usual = usual
        self._kernel = kernel
        self._is_kernel = is_kernel

    def __getattr__(self, name: str) -> Any:
        return getattr(self._kernel if self._is_kernel() else self._usual, name)


def _without_pipe(app: Any) -> None:
    """Keep the kernel from opening a port on loopback, which ipykernel has for the output of forked processes."""
    module: Any = import_module("ipykernel.kernelapp")
    usual, make = app.init_iopub, module.IOPubThread

    def init_iopub(context: Any) -> None:
        module.IOPubThread = lambda socket, **others: make(socket, **{**others, "pipe": False})
        try:
            usual(context)
        finally:
            module.IOPubThread = make

    app.init_iopub = init_iopub


class _Interruption:
    """Interrupts what a kernel runs on its own thread. A signal, which is Jupyter's way, would end the process."""

    def __init__(self) -> None:
        self._thread = ctypes.c_ulong(threading.get_ident())
        self._lock = threading.Lock()
        self._running = False

    def begin(self, *_: Any) -> None:
        """Code of a user begins."""
        with self._lock:
            self._running = True

    def end(self, *_: Any) -> None:
        """It has ended; an interrupt that comes too late to reach it reaches nothing."""
        with self._lock:
            self._running = False
            ctypes.pythonapi.PyThreadState_SetAsyncExc(self._thread, None)

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt in it."""
        with self._lock:
            if self._running:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(self._thread, ctypes.py_object(KeyboardInterrupt))


class Kernel:
    """An IPython kernel on a thread of this process; there can be one a process.

    Args:
        namespace: what code finds there.
        base: where to make the folder of its sockets; by default among temporary files.
    """

    def __init__(self, namespace: dict[str, Any], base: str | None = None) -> None:
        try:
            import_module("ipykernel.kernelapp")
        except ImportError as error:
            raise FuturebrokerError(
                "an IPython kernel needs ipykernel where it runs: install futurebroker[ipython] there"
            ) from error
        self.key = secrets.token_hex(32)
        self.namespace = namespace
        self._folder = tempfile.TemporaryDirectory(prefix="futurebroker-kernel-", dir=base, ignore_cleanup_errors=True)
        self._begun = threading.Event()
        self._error: BaseException | None = None
        self._bridges: dict[str, Carrier] = {}
        self._app: Any = None
        self._thread = threading.Thread(target=self._run, name="ipython", daemon=True)
        self._thread.start()
        if not self._begun.wait(START_TIMEOUT):
            raise FuturebrokerError(f"the IPython kernel did not begin within {START_TIMEOUT:g} s")
        if self._error is not None:
            raise FuturebrokerError(f"the IPython kernel can't begin: {self._error}") from self._error

    def _run(self) -> None:
        try:
            asyncio.set_event_loop(asyncio.new_event_loop())
            usual = sys.stdout, sys.stderr, sys.displayhook
            self._app = self._make_app()
            ours = threading.get_ident()

            def is_kernel() -> bool:
                return threading.get_ident() == ours

            sys.stdout = _ByThread(usual[0], sys.stdout, is_kernel)
            sys.stderr = _ByThread(usual[1], sys.stderr, is_kernel)
        except BaseException as error:  # noqa: BLE001 - it is told to who wants the kernel
            self._error = error
            self._begun.set()
            return
        self._begun.set()
        self._app.start()

    def _make_app(self) -> Any:
        application = import_module("ipykernel.kernelapp").IPKernelApp
        path = os.path.join(self._folder.name, "kernel")
        app = application.instance(
            transport="ipc",
            ip=path,
            connection_file=os.path.join(self._folder.name, "connection.json"),
            user_ns=self.namespace,
            log_level=50,
            quiet=True,
            capture_fd_output=False,
        )
        app.session.key = self.key.encode()
        app.init_signal = lambda: None  # signals belong to the main thread
        app.init_crash_handler = lambda: None
        _without_pipe(app)
        app.initialize([])
        # An exit typed by a user ends the console, not the process that others rely on; nor does an interrupt.
        leave = {"source": "ask_exit", "keepkernel": True}
        app.shell.ask_exit = lambda *_: app.shell.payload_manager.write_payload(leave)
        app.kernel.do_shutdown = lambda restart: {"status": "ok", "restart": restart}
        interruption = _Interruption()
        app.shell.events.register("pre_run_cell", interruption.begin)
        app.shell.events.register("post_run_cell", interruption.end)
        app.kernel._send_interrupt_children = interruption.interrupt
        return app

    def bridge(self, channel: str, send: Callable[[list[bytes]], None]) -> Carrier:
        """A way to the kernel for one client; one of the same name is kept."""
        known = self._bridges.get(channel)
        if known is None:
            ports = {name: getattr(self._app, f"{name}_port") for name in CHANNELS}
            addresses = {name: f"ipc://{self._app.ip}-{port}" for name, port in ports.items()}
            known = self._bridges[channel] = _bridge(addresses, channel, send)
        return known

    def close(self) -> None:
        """End the bridges; the kernel ends with its process."""
        for bridge in self._bridges.values():
            bridge.close()
        self._bridges.clear()
        self._folder.cleanup()
