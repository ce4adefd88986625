"""What runs in an executor: threads that read packets of tasks, run them and report, and one that listens for control.

The thread that reads a packet runs it: there is no queue and no hand-over between threads. Only here, and in the
client, is what a user sent unpickled. An executor ends when its sockets do.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import mmap
import os
import pickle
import signal
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from pathlib import Path
from time import perf_counter_ns
from types import CoroutineType, FrameType
from typing import Any

from futurebroker.data.files import map_value
from futurebroker.data.sealed import DamagedFileError
from futurebroker.exceptions import ResultError, SerializationError, TaskError
from futurebroker.logs import start_logging
from futurebroker.protocol.messages import INLINE_LIMIT
from futurebroker.protocol.refs import open_arguments
from futurebroker.protocol.serialize import Buffer, dump_frames, frames_size, layout, loads, loads_writable
from futurebroker.types import Digest
from futurebroker.worker.context import Place, current_task
from futurebroker.worker.coroutines import CoroutineRunner
from futurebroker.worker.failures import failure_of
from futurebroker.worker.packets import (
    CRUMB,
    CRUMB_BYTES,
    PACKET_BYTES,
    REPORT_BYTES,
    REPORT_LIMIT,
    Call,
    Called,
    Control,
    Ready,
    Rest,
    Result,
    ReturnRest,
    Setup,
    Stop,
    Task,
    Trim,
    ValueFile,
    decode_packet,
    encode_control,
    encode_results,
    take_controls,
)
from futurebroker.worker.results import ResultWriter, trim

#: functions an executor keeps open; the one opened first goes first
FUNCTIONS_KEPT = 2000
#: nanoseconds after which finished tasks of a packet are reported though others of it are still to run
REPORT_AFTER = 5_000_000
#: bytes a value returned by a call out of line may have
CALL_LIMIT = 4 * 1024 * 1024
#: seconds an executor told to stop has for its user's exit handlers
EXIT_TIMEOUT = 2.0
_PR_SET_PDEATHSIG = 1
_EMPTY_TUPLE_ARGS: tuple[tuple[()], dict[str, Any]] = ((), {})
#: what plain pickles begin with; `loads_writable` opens everything else
_PICKLE = pickle.PROTO[0]
#: types of which a value, itself and not of a subclass, needs nothing but plain pickle; of the second if it is short
_PLAIN = frozenset({int, float, bool, complex, type(None)})
_TEXT = frozenset({str, bytes})


class _InputGone(Exception):  # noqa: N818 - not an error of the task's
    """The file of input ``index`` isn't there any more."""

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self.index = index


class _InputFailed(Exception):  # noqa: N818 - not an error of the task's
    """An earlier task of the packet has no result."""


class _Slot:
    """One reading thread: the packet it runs, and what it hasn't reported.

    Both queues are deques because the control thread takes from them too: each pop is atomic, so a task is begun or
    handed back, and a result reported, exactly once.
    """

    __slots__ = ("measured", "number", "results", "todo")

    def __init__(self, number: int) -> None:
        self.number = number
        self.measured = 0  #: nanoseconds at which the time of the last task ended
        self.todo: deque[Task] = deque()
        self.results: deque[Result] = deque()


class Executor:
    """Runs what arrives at ``data`` until it closes; see the top of this file.

    Args:
        crumbs: where each thread writes the number of its task before it begins.
        owns_process: end the process when the agent is gone.
    """

    def __init__(self, data: socket.socket, control: socket.socket, setup: Setup, *, owns_process: bool) -> None:
        self._data = data
        self._control = control
        self._control_lock = threading.Lock()
        self._setup = setup
        self._owns_process = owns_process
        self._place = Place(setup.worker, setup.worker_id, setup.resources)
        self._writer = ResultWriter(setup)
        self._functions: dict[Digest, Callable[..., Any]] = {}
        self._coroutines = CoroutineRunner()
        self._slots = [_Slot(number) for number in range(setup.threads)]
        size = CRUMB_BYTES * setup.threads
        crumbs = _map_crumbs(setup.crumbs, size) if setup.crumbs else bytearray(size)
        self._crumbs = memoryview(crumbs).cast(CRUMB)
        self._stopping = False

    def run(self) -> None:
        """Run tasks in this thread and, for more than one slot, in others; returns when the data socket has closed."""
        threads = [
            threading.Thread(target=self._read, args=(slot,), name=f"task-{slot.number}", daemon=True)
            for slot in self._slots[1:]
        ]
        listener = threading.Thread(target=self._listen, name="control", daemon=True)
        for thread in (*threads, listener):
            thread.start()
        self._tell(Ready(os.getpid()))
        self._read(self._slots[0])
        for thread in threads:
            thread.join()
        self._coroutines.close()
        if not self._owns_process:
            listener.join()

    # -- tasks ------------------------------------------------------------------------------------------------------

    def _read(self, slot: _Slot) -> None:
        receive = self._data.recv
        while True:
            try:
                data = receive(PACKET_BYTES)
            except OSError:
                return
            if not data:
                return
            packet = decode_packet(data)
            if packet.path:
                path = Path(packet.path)
                packet = decode_packet(path.read_bytes())
                path.unlink(missing_ok=True)
            try:
                self._run_packet(slot, packet.tasks)
            except OSError:  # the agent is gone
                return

    def _run_packet(self, slot: _Slot, tasks: list[Task]) -> None:
        todo, results, run = slot.todo, slot.results, self._run
        todo.extend(tasks)
        done: dict[int, bytes | ValueFile] = {}
        unsent = 0
        before = since = slot.measured = perf_counter_ns()
        while True:
            try:
                task = todo.popleft()
            except IndexError:  # all are run, or were handed back just now
                break
            result = run(slot, task, done)
            end = slot.measured
            if end == before:
                end = slot.measured = perf_counter_ns()
            result.cost = (end - before) // 1000
            before = end
            unsent += 64
            if result.value is not None:
                done[task.number] = result.value
                unsent += len(result.value)
            elif result.path:
                done[task.number] = ValueFile(result.path)
            elif result.failure is not None:
                unsent += len(result.failure.payload or b"")
            results.append(result)
            if unsent > REPORT_BYTES or end - since > REPORT_AFTER:
                self._report(slot)
                unsent = 0
                since = end
        self._report(slot)

    def _report(self, slot: _Slot) -> None:
        results = slot.results
        batch: list[Result] = []
        try:
            while results:
                batch.append(results.popleft())
        except IndexError:  # the control thread reports the rest
            pass
        if not batch:
            return
        data = encode_results(batch)
        if len(data) <= REPORT_LIMIT:
            self._data.send(data)
            return
        for result in batch:
            self._report_large(result)

    def _report_large(self, result: Result) -> None:
        """Report one of many or large results, through a file if it must be; without room for that it is a failure."""
        data = encode_results([result])
        if len(data) > REPORT_LIMIT:
            try:
                data = encode_results(self._writer.write([data]))
            except OSError as error:
                key = result.failure.key if result.failure is not None else ""
                kind = result.failure.type if result.failure is not None else result.type
                reason = ResultError(f"{key} came to {kind}, of {len(data):,} bytes, which can't be stored: {error}")
                failure = failure_of(reason, key, self._place.name)
                data = encode_results([Result(result.number, result.duration, result.cost, failure=failure)])
        self._data.send(data)

    def _run(self, slot: _Slot, task: Task, done: dict[int, bytes | ValueFile]) -> Result:
        self._crumbs[slot.number] = task.number
        try:
            function = self._functions.get(task.function)
            if function is None:
                function = self._open_function(task.function)
            data = task.args
            if task.inputs:
                args, keywords = open_arguments(loads_writable, data, self._open_inputs(task, done))
            elif data:
                args, keywords = pickle.loads(data) if data[0] == _PICKLE else loads_writable(data)
            else:
                args, keywords = _EMPTY_TUPLE_ARGS
        except _InputGone as gone:
            return Result(task.number, 0, missing=[gone.index])
        except _InputFailed:
            return Result(task.number, 0, not_run=True)
        except BaseException as error:  # noqa: BLE001 - whatever the user's classes raise when they are opened
            return self._failed(task, _cannot_open(task, error), 0)
        current_task.set((self._place, task.key))
        call = copy_context().run
        start = perf_counter_ns()
        try:
            value = call(function, *args, **keywords) if keywords else call(function, *args)
            kind = type(value)
            if kind is CoroutineType:
                value = self._coroutines.run(value)
                kind = type(value)
        except BaseException as error:  # noqa: BLE001 - SystemExit and KeyboardInterrupt are the task's own as well
            return self._failed(task, error, (perf_counter_ns() - start) // 1000)
        end = perf_counter_ns()
        duration = (end - start) // 1000
        if kind in _PLAIN or (kind in _TEXT and len(value) <= INLINE_LIMIT):
            data = pickle.dumps(value, 5)
            if len(data) <= INLINE_LIMIT:
                slot.measured = end
                return Result(task.number, duration, 0, len(data), data, kind.__name__)
        # What the arguments hold is released before the result is pickled: both may be large.
        del args, keywords
        return self._finished(task, value, duration)

    def _finished(self, task: Task, value: Any, duration: int) -> Result:
        kind = type(value).__name__
        try:
            frames = dump_frames(value)
            if len(frames) == 1 and len(frames[0]) <= INLINE_LIMIT:
                return Result(task.number, duration, 0, len(frames[0]), bytes(frames[0]), kind)
            return self._finished_large(task, frames, duration, kind)
        except SerializationError as error:
            reason = ResultError(f"the result of {task.key}, of type {kind}, can't be pickled: {error.cause}")
        except OSError as error:
            reason = ResultError(f"the result of {task.key}, of type {kind}, can't be stored: {error}")
        except BaseException as error:  # noqa: BLE001 - whatever the user's __reduce__ raises
            reason = ResultError(f"the result of {task.key}, of type {kind}, can't be pickled: {error!r}")
        return self._failed(task, reason, duration)

    def _finished_large(self, task: Task, frames: list[Buffer], duration: int, kind: str) -> Result:
        size = frames_size(frames)
        if size <= INLINE_LIMIT:
            return Result(task.number, duration, 0, size, b"".join(layout(frames)), kind)
        return Result(task.number, duration, 0, size, None, kind, self._writer.write(frames, size))

    def _failed(self, task: Task, error: BaseException, duration: int) -> Result:
        return Result(task.number, duration, failure=failure_of(error, task.key, self._place.name))

    def _open_function(self, digest: Digest) -> Callable[..., Any]:
        functions = self._functions
        code = self._writer.read_function(digest)
        function: Callable[..., Any] = loads(code)
        if len(functions) >= FUNCTIONS_KEPT:
            functions.pop(next(iter(functions)), None)
        functions[digest] = function
        return function

    def _open_inputs(self, task: Task, done: dict[int, bytes | ValueFile]) -> list[Any]:
        """Each task gets objects of its own, also of a result made in the same packet: tasks share nothing mutable."""
        opened = []
        for index, source in enumerate(task.inputs):
            if isinstance(source, int):
                made = done.get(source)
                if made is None:
                    raise _InputFailed
                source = made
            if isinstance(source, ValueFile):
                try:
                    opened.append(loads(map_value(source.path)))
                except (FileNotFoundError, DamagedFileError):
                    raise _InputGone(index) from None
            else:
                opened.append(loads_writable(source))
        return opened

    # -- control ----------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        if self._owns_process:
            _die_with_parent()
        buffer = bytearray()
        while True:
            try:
                data = self._control.recv(PACKET_BYTES)
            except OSError:
                data = b""
            if not data:
                break
            buffer += data
            for record in take_controls(buffer):
                self._obey(record)
        if self._owns_process and not self._stopping:
            os._exit(0)

    def _obey(self, record: Control) -> None:
        if isinstance(record, ReturnRest):
            self._return_rest()
        elif isinstance(record, Call):
            threading.Thread(target=self._call, args=(record,), name="call", daemon=True).start()
        elif isinstance(record, Trim):
            trim()
        elif isinstance(record, Stop):
            self._stopping = True
            if self._owns_process:
                watchdog = threading.Timer(EXIT_TIMEOUT, os._exit, (0,))
                watchdog.daemon = True
                watchdog.start()

    def _return_rest(self) -> None:
        numbers: list[int] = []
        for slot in self._slots:
            with contextlib.suppress(IndexError):
                while True:
                    numbers.append(slot.todo.pop().number)
            with contextlib.suppress(OSError):
                self._report(slot)
        self._tell(Rest(numbers))

    def _call(self, call: Call) -> None:
        current_task.set((self._place, ""))
        try:
            function = loads(call.code)
            args, keywords = loads_writable(call.args)
            value = function(*args, **keywords)
            if type(value) is CoroutineType:
                value = self._coroutines.run(value)
            data = b"".join(layout(dump_frames(value, f"what the call returned, of type {type(value).__name__}")))
            if len(data) > CALL_LIMIT:
                raise ResultError(
                    f"the call returned {len(data):,} bytes, more than the {CALL_LIMIT:,} it may; submit it"
                )
        except BaseException as error:  # noqa: BLE001 - it is the caller's
            self._tell(Called(call.number, None, failure_of(error, "", self._place.name)))
        else:
            self._tell(Called(call.number, data))

    def _tell(self, record: Control) -> None:
        with self._control_lock, contextlib.suppress(OSError):
            self._control.sendall(encode_control(record))


def _cannot_open(task: Task, error: BaseException) -> TaskError:
    reason = TaskError(
        f"{task.key} can't be opened in the executor: {type(error).__name__}: {error}; "
        "what its function and arguments import must be installed where the worker runs"
    )
    reason.__cause__ = error
    return reason


def _map_crumbs(path: str, size: int) -> mmap.mmap:
    number = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        return mmap.mmap(number, size)
    finally:
        os.close(number)


def _die_with_parent() -> None:
    """Code that holds the interpreter lock can't notice a closed socket; the kernel's signal reaches it anyhow."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """Ending the executors is the agent's business; unlike SIG_IGN, this isn't inherited by what a task starts."""


def read_setup(control: socket.socket) -> Setup:
    """The first record on the control socket.

    Raises:
        EOFError: the agent is gone already.
    """
    buffer = bytearray()
    while True:
        data = control.recv(4096)
        if not data:
            raise EOFError
        buffer += data
        for record in take_controls(buffer):
            if isinstance(record, Setup):
                return record


def run_in_thread(data: socket.socket, control: socket.socket) -> None:
    """An executor inside the agent's process; the caller's thread is its first."""
    with data, control:
        Executor(data, control, read_setup(control), owns_process=False).run()


def _log_fields(worker: str) -> dict[str, str]:
    """What a line that is logged now is about."""
    _, key = current_task.get((None, ""))
    return {"worker": worker, "task": key}


def main() -> None:
    """An executor process; its arguments are the numbers of its data and control sockets."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _ignore)
    data, control = (socket.socket(fileno=int(number)) for number in sys.argv[1:3])
    del sys.argv[1:]
    try:
        setup = read_setup(control)
    except (EOFError, OSError):
        return
    places = list(setup.path)
    with contextlib.suppress(OSError):  # the folder may be gone
        places.append(os.getcwd())
    # After all else, so that a `queue.py` where the worker was started shadows nothing.
    sys.path.extend(entry for entry in places if entry not in sys.path)
    if setup.log_level:
        start_logging(setup.log_level, setup.log_format, fields=lambda: _log_fields(setup.worker))
    # What is imported by now stays: the user's collections needn't walk it.
    gc.freeze()
    Executor(data, control, setup, owns_process=True).run()
