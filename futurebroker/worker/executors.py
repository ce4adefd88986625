"""One executor as the agent sees it: its process or threads, its sockets, its breadcrumbs.

The agent keeps the executor's end of the data socket open as well. So it can itself take back packets that the executor
hasn't read, however busy that is; the kernel gives each packet to exactly one of the two. That end must stay blocking:
the flag is the executor's too.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from importlib import import_module
from pathlib import Path
from typing import Protocol

import futurebroker
from futurebroker import logs
from futurebroker.processes import without_secret
from futurebroker.protocol.messages import Failure
from futurebroker.worker.packets import (
    AWAY_MAX,
    CRUMB,
    CRUMB_BYTES,
    PACKET_BYTES,
    REPORT_LIMIT,
    SOCKET_BUFFER,
    Away,
    Called,
    Control,
    LinkWanted,
    Packet,
    Ready,
    Rest,
    Result,
    Returning,
    Saying,
    Seen,
    Setup,
    Stop,
    Task,
    decode_packet,
    decode_results,
    encode_control,
    encode_packet,
    take_controls,
)

logger = logging.getLogger("futurebroker.worker")

#: module of the code that runs in executors; loaded by name, because the agent itself must not be able to unpickle
CHILD = "futurebroker.worker.child"
#: an executor's program; ours is found where the agent found it, after all else, so that it shadows nothing. For the
#: same reason -P keeps the current folder out of its import path at first.
_PROGRAM = f"import sys; sys.path += filter(None, [sys.argv.pop()]); from {CHILD} import main; main()"
_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(futurebroker.__file__)))
#: reports read at a time before other executors get their turn
_REPORTS = 16
#: sockets that may come with what is read at a time
_DESCRIPTORS = 16
_CLOSE_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
#: seconds an executor that was told to stop may take before it is killed
_STOP_TIMEOUT = 3.0


class ExecutorEvents(Protocol):
    """What an executor tells its agent, on the loop's thread."""

    def ready(self, executor: Executor) -> None:
        """It takes packets."""

    def reported(self, executor: Executor, results: list[Result]) -> None:
        """Tasks are done."""

    def rest_returned(self, executor: Executor, numbers: list[int]) -> None:
        """It hands back tasks it hasn't begun."""

    def called(self, executor: Executor, called: Called) -> None:
        """A call out of line has ended."""

    def said(self, saying: Saying) -> None:
        """It tells the scheduler something."""

    def away(self, executor: Executor, task: int, is_away: bool) -> None:
        """A task waits for others or has seceded, or takes a slot again."""

    def link_wanted(self, executor: Executor, wanted: LinkWanted, sock: socket.socket) -> None:
        """A client in it wants to reach the scheduler."""

    def seen(self, executor: Executor, seen: Seen) -> None:
        """It has looked."""

    def ended(self, executor: Executor, how: str) -> None:
        """It is gone; what it could still report has been reported."""


class Executor:
    """See the top of this file. `start` it, then use it from the loop's thread only."""

    def __init__(self, number: int, setup: Setup, events: ExecutorEvents, loop: asyncio.AbstractEventLoop) -> None:
        self.number = number
        self.threads = setup.threads
        #: 0 until it has started; our own for threads
        self.pid = 0
        self.is_ready = False
        #: what is said of its end, where we bring it about
        self.epitaph = ""
        self.gone = asyncio.Event()
        self._setup = setup
        self._events = events
        self._loop = loop
        self._unsent: deque[bytes] = deque()
        self._untold = bytearray()
        self._buffer = bytearray()
        #: sockets that came and of which nobody has said what they are for
        self._received: deque[int] = deque()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread: threading.Thread | None = None
        self._pidfd: int | None = None
        self._data, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control, self._their_control = socket.socketpair()
        for end in (self._data, self._theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER)
        self._data.setblocking(False)
        self._control.setblocking(False)
        #: for the files it writes and is given; what is in it when it has ended may be half written
        self.folder = Path(setup.store) / f"executor-{number}"
        self.folder.mkdir(mode=0o700)
        setup.folder = str(self.folder)
        if setup.disk:
            setup.disk = str(Path(setup.disk) / self.folder.name)
            Path(setup.disk).mkdir(mode=0o700, exist_ok=True)
        self._crumbs = self.folder / "crumbs"

    # -- starting ---------------------------------------------------------------------------------------------------

    def start_process(self, environment: dict[str, str], python: str = "") -> None:
        """Start it as a process, of our own interpreter or of ``python``; `ExecutorEvents.ready` follows.

        Call this on a thread that lives as long as the executor may: the kernel ends it with the thread that made it.
        """
        self._crumbs.write_bytes(bytes(CRUMB_BYTES * (self.threads + AWAY_MAX)))
        data, control = self._theirs.fileno(), self._their_control.fileno()
        self._process = subprocess.Popen(
            [python or sys.executable, "-u", "-P", "-c", _PROGRAM, str(data), str(control), "" if python else _ROOT],
            stdin=subprocess.DEVNULL,
            pass_fds=(data, control),
            env=without_secret(environment),
            start_new_session=True,
        )
        self.pid = self._process.pid
        self._setup.log_level, self._setup.log_format = logs.current()
        self._their_control.close()
        if hasattr(os, "pidfd_open"):
            self._pidfd = os.pidfd_open(self.pid)
            self._loop.add_reader(self._pidfd, self._died)
        self._begin(str(self._crumbs))

    def start_threads(self) -> None:
        """Start it as threads of this process."""
        run = import_module(CHILD).run_in_thread
        self.pid = os.getpid()
        theirs = socket.socket(fileno=os.dup(self._theirs.fileno()))
        name = f"executor-{self.number}"
        self._thread = threading.Thread(target=run, args=(theirs, self._their_control), name=name, daemon=True)
        self._thread.start()
        self._begin("")

    def _begin(self, crumbs: str) -> None:
        setup = self._setup
        setup.crumbs = crumbs
        self._loop.add_reader(self._data.fileno(), self._readable)
        self._loop.add_reader(self._control.fileno(), self._control_readable)
        self.tell(setup)

    # -- giving -----------------------------------------------------------------------------------------------------

    def send(self, packet: Packet) -> None:
        """Give it a packet, through a file if it is large. Never blocks."""
        data = encode_packet(packet)
        if len(data) > PACKET_BYTES:
            path = self.folder / secrets.token_hex(16)
            try:
                path.write_bytes(data)
            except OSError as error:
                path.unlink(missing_ok=True)
                self._events.reported(self, [self._not_sent(task, error) for task in packet.tasks])
                return
            data = encode_packet(Packet(packet.number, [], str(path)))
        if self._unsent:
            self._unsent.append(data)
            return
        try:
            self._data.send(data)
        except BlockingIOError:
            self._unsent.append(data)
            self._loop.add_writer(self._data.fileno(), self._writable)
        except OSError:  # it is dying; the tasks are returned when it is dead
            pass

    def _not_sent(self, task: Task, error: OSError) -> Result:
        text = f"the arguments of {task.key} can't be handed to its executor: {error}"
        return Result(task.number, 0, failure=Failure("TaskError", text, text, task.key, self._setup.worker))

    def _writable(self) -> None:
        try:
            while self._unsent:
                self._data.send(self._unsent[0])
                self._unsent.popleft()
        except BlockingIOError:
            return
        except OSError:
            self._unsent.clear()
        self._loop.remove_writer(self._data.fileno())

    def recall(self) -> list[int]:
        """Take back every packet it hasn't read; their numbers."""
        taken = [decode_packet(data) for data in self._unsent]
        if self._unsent:
            self._unsent.clear()
            self._loop.remove_writer(self._data.fileno())
        with contextlib.suppress(BlockingIOError):
            while data := self._theirs.recv(PACKET_BYTES, socket.MSG_DONTWAIT):
                taken.append(decode_packet(data))
        for packet in taken:
            if packet.path:
                os.unlink(packet.path)
        return [packet.number for packet in taken]

    def tell(self, record: Control) -> None:
        """Send it a control record. Never blocks."""
        waiting = bool(self._untold)
        self._untold += encode_control(record)
        if not waiting:
            self._control_writable()
            if self._untold:
                self._loop.add_writer(self._control.fileno(), self._control_writable)

    def _control_writable(self) -> None:
        try:
            while self._untold:
                del self._untold[: self._control.send(self._untold)]
        except BlockingIOError:
            return
        except OSError:  # it is dying
            self._untold.clear()
        self._loop.remove_writer(self._control.fileno())

    # -- hearing ----------------------------------------------------------------------------------------------------

    def _readable(self) -> None:
        self._read_reports(_REPORTS)

    def _read_reports(self, limit: int) -> None:
        for _ in range(limit):
            try:
                data = self._data.recv(REPORT_LIMIT)
            except (BlockingIOError, ConnectionError):
                return
            if not data:
                return
            results = decode_results(data)
            if isinstance(results, str):
                path = Path(results)
                with contextlib.suppress(FileNotFoundError):
                    results = decode_results(path.read_bytes())
                    path.unlink()
            if isinstance(results, list):
                self._events.reported(self, results)

    def _control_readable(self) -> None:
        try:
            data, descriptors, _, _ = socket.recv_fds(self._control, PACKET_BYTES, _DESCRIPTORS, _CLOSE_ON_EXEC)
        except BlockingIOError:
            return
        except OSError:
            data, descriptors = b"", []
        self._received += descriptors
        if not data:
            self._loop.remove_reader(self._control.fileno())
            self._control_ended()
            return
        self._buffer += data
        for record in take_controls(self._buffer):
            if isinstance(record, Ready):
                self.is_ready = True
                self._events.ready(self)
            elif isinstance(record, Rest):
                self._read_reports(1_000_000)  # what it did report came first, and isn't handed back
                self._events.rest_returned(self, record.numbers)
            elif isinstance(record, Called):
                self._events.called(self, record)
            elif isinstance(record, Seen):
                self._events.seen(self, record)
            elif isinstance(record, Saying):
                self._events.said(record)
            elif isinstance(record, Away | Returning):
                self._events.away(self, record.task, isinstance(record, Away))
            elif isinstance(record, LinkWanted):
                self._events.link_wanted(self, record, socket.socket(fileno=self._received.popleft()))

    def _control_ended(self) -> None:
        """The process is ending, or its sockets were closed by what it ran: then it is of no use any more."""
        if self._process is None:
            self._finish("the end of its threads")
        elif self._pidfd is None:
            self.kill()
            self._died()
        else:
            self._loop.call_later(1.0, self.kill)

    def _died(self) -> None:
        process = self._process
        assert process is not None
        if self._pidfd is not None:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None
            # Before the process is reaped, its number can't be anyone else's.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
        self._read_reports(1_000_000)
        self._finish(self.epitaph or describe_end(code))

    def running(self) -> list[int]:
        """After its end: the number of the task that each of its threads began last."""
        try:
            data = self._crumbs.read_bytes()
        except FileNotFoundError:
            return []
        return [number for number in memoryview(data).cast(CRUMB) if number]

    def _finish(self, how: str) -> None:
        if self.gone.is_set():
            return
        self.gone.set()
        self._loop.remove_reader(self._data.fileno())
        self._loop.remove_writer(self._data.fileno())
        self._loop.remove_reader(self._control.fileno())
        self._loop.remove_writer(self._control.fileno())
        self.recall()  # deletes the files of large packets
        self._events.ended(self, how)
        for descriptor in self._received:
            os.close(descriptor)
        for end in (self._data, self._theirs, self._control, self._their_control):
            end.close()
        self._crumbs.unlink(missing_ok=True)

    # -- ending -----------------------------------------------------------------------------------------------------

    def kill(self) -> None:
        """End the process at once; threads can't be ended."""
        if self._process is not None and not self.gone.is_set():
            self._process.kill()

    async def close(self) -> None:
        """Have it end orderly, and see that it does."""
        if not self.gone.is_set():
            self.tell(Stop())
            self._data.shutdown(socket.SHUT_WR)
            self._control.shutdown(socket.SHUT_WR)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.gone.wait(), _STOP_TIMEOUT)
        if not self.gone.is_set() and self._process is not None:
            self.kill()
            await self.gone.wait()
        if self._thread is not None:
            if not self.gone.is_set():
                self._finish("a task that doesn't end")
            self._thread.join(0.5)


def describe_end(code: int) -> str:
    """A process's return code in words."""
    if code >= 0:
        return f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
    return f"signal {-code} ({name})"
