"""What runs in an executor: threads that read packets of tasks, run them and report, and one that listens for control.

The thread that reads a packet runs it: there is no queue and no hand-over between threads. Only here, and in the
client, is what a user sent unpickled. An executor ends when its sockets do.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import pickle
import signal
import socket
import sys
import threading
from contextvars import copy_context
from importlib import import_module
from pathlib import Path
from time import perf_counter_ns, time_ns
from types import CoroutineType
from typing import Any

from futurebroker.exceptions import Reschedule, ResultError, SerializationError, TaskError
from futurebroker.inside import NO_TASK, Host, Place, current_task, noting_futures
from futurebroker.logs import start_logging
from futurebroker.protocol.messages import INLINE_LIMIT
from futurebroker.protocol.serialize import Buffer, dump_frames, frames_size, layout, loads, loads_writable
from futurebroker.worker import inspecting, lifeline, standing, tasklink
from futurebroker.worker.apps import close_app, open_app
from futurebroker.worker.coroutines import CoroutineRunner
from futurebroker.worker.failures import failure_of
from futurebroker.worker.later import RunAgain, current_terms, rescheduled, say
from futurebroker.worker.notes import Notebook
from futurebroker.worker.opening import InputFailed, InputGone, Opener, cannot_open
from futurebroker.worker.packets import (
    AWAY_MAX,
    CRUMB,
    CRUMB_BYTES,
    PACKET_BYTES,
    REPORT_BYTES,
    REPORT_LIMIT,
    Again,
    Away,
    Call,
    Called,
    Control,
    LinkWanted,
    Look,
    Ready,
    Rest,
    Result,
    Returning,
    ReturnRest,
    Saying,
    Seen,
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
from futurebroker.worker.profiling import Profiler
from futurebroker.worker.relaying import EXECUTOR_SECRET
from futurebroker.worker.results import ResultWriter, trim
from futurebroker.worker.seats import Seats, Slot

#: nanoseconds after which finished tasks of a packet are reported though others of it are still to run
REPORT_AFTER = 5_000_000
#: bytes a value returned by a call out of line may have
CALL_LIMIT = 4 * 1024 * 1024
#: seconds an executor told to stop has for its user's exit handlers
EXIT_TIMEOUT = 2.0
#: types of which a value, itself and not of a subclass, needs nothing but plain pickle; of the second if it is short
_PLAIN = frozenset({int, float, bool, complex, type(None)})
_TEXT = frozenset({str, bytes})


#: module that has dask compute by the clients of tasks; loaded by name, because clients are none of a worker's business
DASK = "futurebroker.client.daskdefault"
#: numbers executors of this process, which with ``processes=False`` may be several
_numbers = itertools.count(1)


class Executor:
    """Runs what arrives at ``data`` until it closes; see the top of this file.

    Args:
        crumbs: where each thread writes the number of its task before it begins.
        notes: what is noted of tasks.
        owns_process: end the process when the agent is gone.
    """

    def __init__(
        self, data: socket.socket, control: socket.socket, setup: Setup, notes: Notebook, *, owns_process: bool
    ) -> None:
        self._data = data
        self._control = control
        self._control_lock = threading.Lock()
        self._setup = setup
        self._owns_process = owns_process
        near = "127.0.0.1" if setup.broker_is_local else "elsewhere"
        address = f"executor://{near}/{next(_numbers)}"
        self._host = Host(address, setup.cluster, EXECUTOR_SECRET, setup.worker_id, say=self.say)
        self._place = Place(setup.worker, setup.worker_id, setup.resources, self._host)
        self._writer = ResultWriter(setup)
        self._opener = Opener(self._writer.read_function)
        self._functions = self._opener.functions
        self._coroutines = CoroutineRunner()
        self._seats = Seats(setup.threads, self._read, self._left, self._returning, self._seated)
        size = CRUMB_BYTES * (setup.threads + AWAY_MAX)
        crumbs = lifeline.map_crumbs(setup.crumbs, size) if setup.crumbs else bytearray(size)
        self._crumbs = memoryview(crumbs).cast(CRUMB)
        self._stopping = False
        self._notes, self._slow, self._noted = notes, notes.after, notes.open
        self._profiler = Profiler(self._seats, Executor._run.__code__)

    def run(self) -> None:
        """Run tasks in this thread and, for more than one slot, in others; returns when the data socket has closed."""
        first, *others = self._seats.slots
        threads = [
            threading.Thread(target=self._read, args=(slot,), name=f"task-{slot.number}", daemon=True)
            for slot in others
        ]
        listener = threading.Thread(target=self._listen, name="control", daemon=True)
        for thread in (*threads, listener):
            thread.start()
        standing.begin(self._place, self._setup.store, self._owns_process, self._seats.alone)
        tasklink.register(self._host.address, self._offer_link)
        self._profiler.start()
        self._tell(Ready(os.getpid()))
        self._read(first)
        self._seats.close()
        self._profiler.stop()
        standing.end(self._place)
        self._host.close()
        tasklink.unregister(self._host.address)
        for thread in (*threads, *self._seats.threads):
            thread.join()
        self._coroutines.close()
        self._writer.close()
        if not self._owns_process:
            listener.join()

    # -- tasks ------------------------------------------------------------------------------------------------------

    def _read(self, slot: Slot) -> None:
        say.set(self.say)
        receive, seats = self._data.recv, self._seats
        slot.thread = threading.get_ident()
        while True:
            try:
                data = receive(PACKET_BYTES)
            except OSError:
                data = b""
            if not data:
                seats.close()
                return
            packet = decode_packet(data)
            if packet.path:
                path = Path(packet.path)
                packet = decode_packet(path.read_bytes())
                path.unlink(missing_ok=True)
            if not seats.enter():
                self._tell(Rest([task.number for task in packet.tasks]))
                continue
            try:
                self._run_packet(slot, packet.tasks)
            except OSError:  # the agent is gone
                seats.close()
                return
            if not seats.leave(slot):
                return

    def _run_packet(self, slot: Slot, tasks: list[Task]) -> None:
        todo, results, run = slot.todo, slot.results, self._run
        todo.extend(tasks)
        done: dict[int, bytes | ValueFile] = {}
        unsent = 0
        before = since = slot.measured = perf_counter_ns()
        epoch = time_ns() - before
        while True:
            try:
                task = todo.popleft()
            except IndexError:  # all are run, or were handed back just now
                break
            slot.started = 0
            result = run(slot, task, done)
            if slot.started:
                result.started = (slot.started + epoch) // 1000
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

    def _left(self, slot: Slot, number: int) -> None:
        """The task that ``slot`` runs is away: what would have to wait for it is handed back."""
        with contextlib.suppress(OSError):
            self._report(slot)
        self._crumbs[slot.number] = 0 if not slot.seceded else number
        numbers = _take_all(slot)
        if numbers:
            self._tell(Rest(numbers))
        self._tell(Away(number))

    def _returning(self, slot: Slot, number: int) -> None:
        self._crumbs[slot.number] = 0  # it waits for its seat, while others run
        self._tell(Returning(number))

    def _seated(self, slot: Slot, number: int) -> None:
        self._crumbs[slot.number] = number

    def _report(self, slot: Slot) -> None:
        results = slot.results
        batch: list[Result] = []
        try:
            while results:
                batch.append(results.popleft())
        except IndexError:  # the control thread reports the rest
            pass
        if not batch:
            return
        if self._noted:
            self._notes.send(batch, self.say)
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

    def _run(self, slot: Slot, task: Task, done: dict[int, bytes | ValueFile]) -> Result:
        self._crumbs[slot.number] = slot.task = task.number
        slot.key = task.key
        if slot.made:
            slot.made = {}
        current_task.set((self._place, task.key, slot, task.number))
        try:
            function = self._functions.get(task.function)
            if function is None:
                function = self._opener.open_function(task.function)
            args, keywords = self._opener.open_arguments(task, done)
        except InputGone as gone:
            return Result(task.number, 0, missing=[gone.index])
        except InputFailed:
            return Result(task.number, 0, not_run=True)
        except BaseException as error:  # noqa: BLE001 - whatever the user's classes raise when they are opened
            return self._failed(task, cannot_open(task, error), 0)
        if task.terms is not None:
            if task.terms.hard and not self._owns_process:
                return self._failed(task, TaskError(f"{task.key} has a time_limit, which threads can't be held to"), 0)
            current_terms.set((task.key, task.terms))
        call = copy_context().run
        start = slot.started = perf_counter_ns()
        try:
            value = call(function, *args, **keywords) if keywords else call(function, *args)
            kind = type(value)
            if kind is CoroutineType:
                value = self._coroutines.run(value)
                kind = type(value)
        except RunAgain as again:
            duration = (perf_counter_ns() - start) // 1000
            told = Again(
                again.delay, again.retries, again.arguments, list(again.inputs), again.failure, again.options,
                again.request,
            )  # fmt: skip
            return Result(task.number, duration, again=told)
        except Reschedule:
            duration = (perf_counter_ns() - start) // 1000
            self._fence(slot, task)
            return Result(task.number, duration, again=rescheduled(task.terms))
        except BaseException as error:  # noqa: BLE001 - SystemExit and KeyboardInterrupt are the task's own as well
            duration = (perf_counter_ns() - start) // 1000
            self._fence(slot, task)
            self._notes.ended(task.number, task.key, args, keywords)
            return self._failed(task, error, duration)
        end = perf_counter_ns()
        if slot.made:
            self._fence(slot, task)
        duration = (end - start) // 1000
        if duration > self._slow or self._noted:
            self._notes.returned(task.number, task.key, args, keywords, value, duration)
        if kind in _PLAIN or (kind in _TEXT and len(value) <= INLINE_LIMIT):
            data = pickle.dumps(value, 5)
            if len(data) <= INLINE_LIMIT:
                slot.measured = end
                return Result(task.number, duration, 0, len(data), data, kind.__name__)
        # What the arguments hold is released before the result is pickled: both may be large.
        del args, keywords
        return self._finished(task, value, duration)

    def _fence(self, slot: Slot, task: Task) -> None:
        """What the task submitted comes before its end, which takes another way to the scheduler."""
        if slot.made:
            current_task.set((self._place, task.key, None, 0))
            self._host.fence()
            current_task.set((self._place, task.key, slot, task.number))

    def _finished(self, task: Task, value: Any, duration: int) -> Result:
        kind = type(value).__name__
        try:
            with noting_futures() as keys:
                frames = dump_frames(value)
            if len(frames) == 1 and len(frames[0]) <= INLINE_LIMIT:
                result = Result(task.number, duration, 0, len(frames[0]), bytes(frames[0]), kind)
            else:
                result = self._finished_large(task, frames, duration, kind)
            if keys:
                result.futures = keys
            return result
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
        slot = current_task.get()[2]
        if slot is not None and slot.calls(task.number):
            failures = self._host.failures
            failures[task.key] = failures.get(task.key, 0) + 1
        return Result(task.number, duration, failure=failure_of(error, task.key, self._place.name))

    # -- control ----------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        if self._owns_process:
            lifeline.die_with_parent()
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
        elif isinstance(record, Look):
            self._tell(Seen(record.number, inspecting.look(record, self._seats, self._profiler, self._notes)))
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
        for slot in list(self._seats.slots):
            numbers += _take_all(slot)
            with contextlib.suppress(OSError):
                self._report(slot)
        self._tell(Rest(numbers))

    def _call(self, call: Call) -> None:
        current_task.set((self._place, "", None, 0))
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

    def say(self, topic: str, key: str, about: Any) -> None:
        """Tell the scheduler something about a task, or about this executor."""
        self._tell(Saying(topic, key, about))

    def _tell(self, record: Control) -> None:
        with self._control_lock, contextlib.suppress(OSError):
            self._control.sendall(encode_control(record))

    def _offer_link(self, wanted: LinkWanted, theirs: socket.socket) -> None:
        data = encode_control(wanted)
        with self._control_lock:
            sent = socket.send_fds(self._control, [data], [theirs.fileno()])
            self._control.sendall(data[sent:])


def _take_all(slot: Slot) -> list[int]:
    """The numbers of all tasks of its packet that the slot hasn't begun; it won't."""
    numbers: list[int] = []
    with contextlib.suppress(IndexError):
        while True:
            numbers.append(slot.todo.pop().number)
    return numbers


def run_in_thread(data: socket.socket, control: socket.socket) -> None:
    """An executor inside the agent's process; the caller's thread is its first."""
    with data, control:
        setup = lifeline.read_setup(control)
        # Standard output is the program's own here.
        notes = Notebook(output=False, arguments=setup.arguments)
        Executor(data, control, setup, notes, owns_process=False).run()


def _log_fields(worker: str) -> dict[str, str]:
    """What a line that is logged now is about."""
    _, key, *_ = current_task.get(NO_TASK)
    return {"worker": worker, "task": key}


def main() -> None:
    """An executor process; its arguments are the numbers of its data and control sockets."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lifeline.ignore)
    data, control = (socket.socket(fileno=int(number)) for number in sys.argv[1:3])
    del sys.argv[1:]
    try:
        setup = lifeline.read_setup(control)
    except (EOFError, OSError):
        return
    places = list(setup.path)
    with contextlib.suppress(OSError):  # the folder may be gone
        places.append(os.getcwd())
    # After all else, so that a `queue.py` where the worker was started shadows nothing.
    sys.path.extend(entry for entry in places if entry not in sys.path)
    notes = Notebook(output=setup.output, arguments=setup.arguments)
    notes.listen()  # before the log is begun, whose lines of a task are among what it prints
    if setup.log_level:
        start_logging(setup.log_level, setup.log_format, fields=lambda: _log_fields(setup.worker))
    import_module(DASK).serve_tasks()
    about = open_app(setup.app)
    # What is imported by now stays: the user's collections needn't walk it.
    gc.freeze()
    executor = Executor(data, control, setup, notes, owns_process=True)
    if about is not None:
        executor.say("app", "", about)
    executor.run()
    close_app(setup.app)
