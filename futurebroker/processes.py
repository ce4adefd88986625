"""Processes of our own: how a parent starts one and tells it what to be, and how a child runs, reports and ends.

Parent and child share a socket pair. Down it come the child's orders, so that no secret stands in a command line or an
environment; up it goes one report, that it serves or why it can't, and then the answers to later orders. The pair is
also their lifeline: when the parent closes its end, or dies in whatever way, the child ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from futurebroker.exceptions import FuturebrokerError, StartError
from futurebroker.logs import passwords_of, start_logging
from futurebroker.polling import new_loop

Result = TypeVar("Result")

#: the environment variable with the import path of the program, as JSON; executors take it over
SYS_PATH_VARIABLE = "FUTUREBROKER_SYS_PATH"
#: the environment variable that may hold the cluster's secret
SECRET_VARIABLE = "FUTUREBROKER_SECRET"
#: the order that asks a child to finish what it does before it ends
DRAIN = {"drain": True}
#: seconds a child has to end once it is told to
END_TIMEOUT = 5.0

#: characters of a child's last words that an error repeats
_LAST_WORDS = 4000
#: -P keeps the current folder, where anything may be called `queue.py`, out of the child's import path
_PROGRAM = "import sys; sys.path.append({root!r}); from {module} import main; main()"


class Service(Protocol):
    """What a process is there for: a scheduler or a worker."""

    async def finished(self) -> None:
        """Return when the service has ended by itself."""

    async def close(self) -> None:
        """End the service; may be called after it has ended by itself."""


#: begins a service as its orders say, and returns it with the facts its parent wants to know
Start = Callable[[dict[str, Any]], Awaitable[tuple[Service, dict[str, Any]]]]
#: carries out an order that came after the first; returns the answer, or None when the process has nothing left to do
Obey = Callable[[Service, dict[str, Any]], Awaitable[dict[str, Any] | None]]


def without_secret(environ: Mapping[str, str]) -> dict[str, str]:
    """An environment for children: the secret comes with their orders, and user code has no need of it."""
    return {name: value for name, value in environ.items() if name != SECRET_VARIABLE}


def import_path() -> str:
    """This program's import path as executors need it: what is relative here would be something else there."""
    return json.dumps([os.path.abspath(entry) for entry in sys.path])


# -- whether a process lives ----------------------------------------------------------------------------------------


def process_mark() -> str:
    """What names this process among all that ever ran; empty where the system doesn't tell."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        space = os.stat("/proc/self/ns/pid").st_ino
        return f"{boot} {space} {os.getpid()} {_life(os.getpid())[1]}"
    except OSError:
        return ""


def has_ended(mark: str) -> bool:
    """Whether the process that gave this `process_mark` is known to be dead; False for those of other machines."""
    here, parts = process_mark().split(), mark.split()
    if len(here) != 4 or len(parts) != 4 or parts[:2] != here[:2] or not parts[2].isdecimal():
        return False
    try:
        state, began = _life(int(parts[2]))
    except (FileNotFoundError, ProcessLookupError):
        return True
    except OSError:
        return False
    return state in "ZX" or began != parts[3]


def _life(pid: int) -> tuple[str, str]:
    """The state of a process, and when it began; its name before them may hold anything."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return fields[0], fields[19]


# -- the parent's side ---------------------------------------------------------------------------------------------


class Child:
    """A process that runs the ``main`` of ``module``; it ends with this object's `end`, or with this process.

    What it writes goes where this process's output goes, except before it can report: then it becomes part of the
    error.
    """

    def __init__(self, title: str, module: str, environ: Mapping[str, str] | None = None) -> None:
        self.title = title
        self._report: dict[str, Any] | None = None
        self._asked = 0
        self._asking = threading.Lock()
        self._lifeline, theirs = socket.socketpair()
        self._first_words = os.memfd_create("first-words")
        stderr = _stderr_descriptor()
        command = _PROGRAM.format(root=str(Path(__file__).parent.parent), module=module)
        numbers = [str(theirs.fileno()), str(stderr), str(os.getpid())]
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", command, *numbers],
                stdin=subprocess.DEVNULL,
                stderr=self._first_words,
                pass_fds=(theirs.fileno(), stderr),
                env={**without_secret(os.environ), **(environ or {})},
                # Ctrl-C belongs to the parent, which ends its children in order.
                start_new_session=True,
            )
        except BaseException:
            self._lifeline.close()
            os.close(self._first_words)
            raise
        finally:
            theirs.close()
            os.close(stderr)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def code(self) -> int:
        """What it exits with; for one that is ending, see `fileno`."""
        try:
            return self._process.wait(END_TIMEOUT)
        except subprocess.TimeoutExpired:
            return 1

    def fileno(self) -> int:
        """A number to watch: it becomes readable when the process, having reported, ends."""
        return self._lifeline.fileno()

    def order(self, orders: Mapping[str, Any]) -> None:
        """Tell it something; a child that is gone hears nothing, and its `report` says so."""
        with contextlib.suppress(OSError):
            self._lifeline.sendall(json.dumps(orders).encode() + b"\n")

    def report(self, timeout: float) -> dict[str, Any]:
        """What it says once it serves.

        Raises:
            StartError: it ended or could not begin, or said nothing for ``timeout`` seconds.
        """
        if self._report is None:
            line = self._read_line(timeout)
            report: dict[str, Any] = json.loads(line) if line else {"failure": self._last_words()}
            if "failure" in report:
                raise StartError(self.title, report["failure"])
            self._report = report
            os.close(self._first_words)
        return self._report

    def ask(self, order: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        """What it answers to an order after its report; empty if it has ended or doesn't in ``timeout`` seconds."""
        with self._asking, contextlib.suppress(StartError):
            self._asked += 1
            self.order({**order, "number": self._asked})
            deadline = time.monotonic() + timeout
            while lines := self._read_line(deadline - time.monotonic()).splitlines():
                answer: dict[str, Any] = json.loads(lines[-1])
                if answer.get("number") == self._asked:  # else it is to one that was given up
                    return answer
        return {}

    def tell_end(self) -> None:
        """Tell it to end, without waiting for that."""
        with contextlib.suppress(OSError):
            self._lifeline.shutdown(socket.SHUT_WR)

    def end(self, timeout: float = END_TIMEOUT) -> None:
        """End it, by force after ``timeout`` seconds; once it has ended, do nothing."""
        self.tell_end()
        self.wait(timeout)

    def wait(self, timeout: float) -> None:
        """Wait until it has ended; kill it after ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        # The kernel closes the child's end when it dies, which is news sooner than a poll of the process.
        with contextlib.suppress(OSError):
            self._lifeline.settimeout(max(timeout, 0.001))
            while self._lifeline.recv(4096):
                self._lifeline.settimeout(max(deadline - time.monotonic(), 0.001))
        try:
            self._process.wait(max(deadline - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._lifeline.close()
        if self._report is None:
            self._report = {}
            os.close(self._first_words)

    def _read_line(self, timeout: float) -> bytes:
        deadline = time.monotonic() + timeout
        line = b""
        try:
            while not line.endswith(b"\n"):
                self._lifeline.settimeout(max(deadline - time.monotonic(), 0.001))
                received = self._lifeline.recv(65536)
                if not received:
                    return b""
                line += received
        except TimeoutError:
            raise StartError(self.title, f"it did not report within {timeout:g} s") from None
        except OSError:
            return b""
        return line

    def _last_words(self) -> str:
        """How it ended, and what it wrote before."""
        code = self._process.wait()
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        words = os.pread(self._first_words, os.fstat(self._first_words).st_size, 0).decode(errors="replace").strip()
        return f"it ended with {how}" + (f":\n{words[-_LAST_WORDS:]}" if words else " and wrote nothing")


def _stderr_descriptor() -> int:
    """A copy of where this process's errors go, or of nowhere if that is closed."""
    try:
        return os.dup(2)
    except OSError:
        return os.open(os.devnull, os.O_WRONLY)


# -- the child's side ----------------------------------------------------------------------------------------------


def quiet_collector() -> None:
    """Keep Python's cycle collector off what lives long in a process of our own.

    A full collection walks every task record: half a second at a million tasks. What a service drops is freed by its
    counts; the young generations still catch what exceptions and loops leave behind.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 1_000_000)


def serve_parent(start: Start, obey: Obey | None = None) -> None:
    """The ``main`` of a `Child`: begin the service as ordered, report, and run until it ends or the parent does."""
    lifeline, stderr, parent = (int(number) for number in sys.argv[1:4])
    os.set_inheritable(lifeline, False)
    # From here on a failure is reported, so what is written may be seen at once.
    os.dup2(stderr, 2)
    os.close(stderr)
    # The number stays open until the process is gone; see Child.wait.
    channel = socket.socket(fileno=os.dup(lifeline))
    # Unbuffered, because a second line is for the loop to read.
    with channel, channel.makefile("rb", buffering=0) as down:
        line = down.readline()
        if line.endswith(b"\n"):
            orders = json.loads(line)
            _start_logging(orders)
            quiet_collector()
            with asyncio.Runner(loop_factory=new_loop) as runner:
                runner.run(_serve_parent(start, obey, orders, channel, parent))


def _start_logging(orders: dict[str, Any]) -> None:
    """As ordered; what else the orders hold of secrets appears in no line."""
    hidden = [orders.get("secret", ""), *passwords_of((orders.get("url"), orders.get("broker_url")))]
    about = {"worker": orders["name"]} if "name" in orders else {}
    start_logging(orders.pop("log_level"), orders.pop("log_format", "text"), hidden=hidden, fields=lambda: about)


async def _serve_parent(
    start: Start, obey: Obey | None, orders: dict[str, Any], channel: socket.socket, parent: int
) -> None:
    """See `serve_parent`; a failure to begin is the parent's to show, a later one is this process's own."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    threading.Thread(target=_outlive, args=(parent,), name="parent-watch", daemon=True).start()
    obeying: set[asyncio.Task[None]] = set()
    service: Service | None = None
    begun = b""

    def readable() -> None:
        nonlocal begun
        try:
            received = channel.recv(65536)
        except OSError:
            received = b""
        if received and obey is not None and service is not None:
            *lines, begun = (begun + received).split(b"\n")
            for order in map(json.loads, lines):
                work = loop.create_task(_obey(obey(service, order), order, channel, stop))
                obeying.add(work)
                work.add_done_callback(obeying.discard)
            return
        loop.remove_reader(channel)
        end()

    def end() -> None:
        # All of the parent's children end now, and nobody wants to read that they miss each other.
        logging.disable(logging.WARNING)
        stop.set()

    loop.add_reader(channel, readable)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    watch = _watch_parent(parent, loop, end)
    try:
        beginning = asyncio.ensure_future(start(orders))
        if not await _first(beginning, stop):
            return
        try:
            service, facts = beginning.result()
        except Exception as error:
            _say(channel, {"failure": _reason(error)})
            raise SystemExit(1) from error
        _say(channel, facts)
        await run_until(service, stop)
    finally:
        loop.remove_reader(channel)
        if watch is not None:
            loop.remove_reader(watch)
            os.close(watch)


async def _obey(
    work: Awaitable[dict[str, Any] | None], order: Mapping[str, Any], channel: socket.socket, stop: asyncio.Event
) -> None:
    """See `Obey`; a process that can't do as it is told ends."""
    answer = None
    try:
        answer = await work
    finally:
        if answer is None:
            stop.set()
    if answer is not None:
        _say(channel, {**answer, "number": order.get("number")})


async def _first(work: asyncio.Future[Any], stop: asyncio.Event) -> bool:
    """Whether ``work`` was done before ``stop`` was set; if not, it is cancelled."""
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait([work, stopping], return_when=asyncio.FIRST_COMPLETED)
        return work.done()
    finally:
        for task in (work, stopping):
            if not task.done():
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task


async def run_until(service: Service, stop: asyncio.Event) -> bool:
    """Run ``service`` until it ends by itself or ``stop`` is set, then close it; returns whether it was stopped."""
    try:
        ended = asyncio.ensure_future(service.finished())
        if await _first(ended, stop):
            ended.result()
            return False
        return True
    finally:
        await service.close()


def _watch_parent(parent: int, loop: asyncio.AbstractEventLoop, end: Callable[[], None]) -> int | None:
    """Call ``end`` when the parent dies: a process that it forked may hold its end of the lifeline open for longer."""
    try:
        watch = os.pidfd_open(parent)
    except ProcessLookupError:
        end()
        return None
    except OSError:
        # No such call here; the lifeline must do.
        return None

    def died() -> None:
        # It stays readable, and once is enough.
        loop.remove_reader(watch)
        end()

    loop.add_reader(watch, died)
    return watch


def _outlive(parent: int) -> None:
    """End this process some time after its parent died, should its loop stand still and not do so itself."""
    try:
        watch = os.pidfd_open(parent)
    except ProcessLookupError:
        pass
    except OSError:
        return
    else:
        select.select([watch], [], [])
    time.sleep(2 * END_TIMEOUT)
    os._exit(1)


def _say(channel: socket.socket, report: Mapping[str, Any]) -> None:
    with contextlib.suppress(OSError):
        channel.sendall(json.dumps(report).encode() + b"\n")


def _reason(error: BaseException) -> str:
    """Our own errors are sentences for the user; of others the traceback is wanted."""
    if isinstance(error, FuturebrokerError):
        return str(error)
    if isinstance(error, OSError):
        return f"{type(error).__name__}: {error}"
    return "".join(traceback.format_exception(error))[-_LAST_WORDS:].strip()


async def apart(call: Callable[..., Result], *arguments: Any) -> Result:
    """What ``call`` gives, run on a thread of its own; here, where the program is ending and has no thread any more."""
    try:
        work = asyncio.get_running_loop().run_in_executor(None, partial(call, *arguments))
    except RuntimeError:
        return call(*arguments)
    return await work
