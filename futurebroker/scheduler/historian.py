"""Hands what the chronicle noted to the process that writes the history, without ever waiting for it.

What that process hasn't read yet is kept here up to a bound; beyond it rows are dropped and counted, and only totals
and events go on. A writer that dies is started again.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

import msgspec

from futurebroker.processes import apart, without_secret
from futurebroker.protocol.history import Batch, Ended, HistoryOrders, Stood, add_finished, add_graphs
from futurebroker.scheduler import observe
from futurebroker.scheduler.chronicle import Chronicle
from futurebroker.scheduler.state import SchedulerState

logger = logging.getLogger("futurebroker.scheduler")

#: bytes that wait for the writer at the most
WAITING_MOST = 64 << 20
#: tasks that end between two looks in a burst; and how long, and for how many bytes, the writer is left alone in one
BURST_ROWS = 500
HOLD_FOR = 5.0
HELD_MOST = 16 << 20
#: seconds between two snapshots of how the cluster stands
SNAPSHOT_EVERY = 5.0
#: seconds before a writer that died is started again, and that one has to end
RESTART_AFTER = 5.0
END_TIMEOUT = 8.0
#: bytes that a pipe may hold, where the system allows it
_PIPE_BYTES = 1 << 20
_F_SETPIPE_SZ = 1031
#: it comes after all others, from its imports on. Not as SCHED_IDLE: what wakes is put beside such a process as if none
#: were there, and in a session of its own that doesn't make way at once (calls then took milliseconds now and then).
_PROGRAM = (
    "import os, sys; os.nice(19); os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0)); "
    "sys.path.append({root!r}); from futurebroker.persistence.history import main; main()"
)

_encode = msgspec.msgpack.Encoder().encode


class Historian:
    """Feeds one writer; used on the loop's thread only."""

    def __init__(self, state: SchedulerState, loop: asyncio.AbstractEventLoop, orders: HistoryOrders) -> None:
        self._state = state
        self._loop = loop
        self._orders = orders
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe = -1
        self._watches = False
        self._waiting: deque[memoryview] = deque()
        self._bytes = 0
        self._started_at = 0.0
        self._snapshot_at = 0.0
        self._held_since = 0.0
        self._was_busy = False
        self._said_dropped = False
        #: rows left out because the writer was too slow or away
        self.dropped = 0
        when = state.moments.when
        self._chronicle = state.chronicle = Chronicle(when, state.graphs)
        self._set_clock()
        self._start()

    def look(self) -> None:
        """Send what was noted; to be called several times a second."""
        self._set_clock()
        now = self._loop.time()
        batch = self._chronicle.take()
        snapshots: list[Stood] = []
        if now - self._snapshot_at >= SNAPSHOT_EVERY:
            is_busy = any(worker.processing for worker in self._state.workers.values())
            # One more after the last work, or a plot would end in mid-air.
            if is_busy or self._was_busy or batch is not None:
                self._snapshot_at = now
                snapshots = _snapshots(self._state)
            self._was_busy = is_busy
        if batch is not None or snapshots:
            batch = batch or Batch()
            batch.snapshots = snapshots
            self._add(batch)
        if self._process is None:
            if now - self._started_at > RESTART_AFTER:
                self._start()
        elif self._waiting and not self._watches and not self._holds(batch, now):
            self._write()

    async def close(self) -> None:
        """Hand over the last, and wait a while for it to be written. May be called twice."""
        if self._state.chronicle is None:
            return
        batch = self._chronicle.take()
        if batch is not None:
            self._add(batch)
        self._state.chronicle = None
        process = self._process
        if process is None:
            return
        self._process = None
        self._unwatch()
        with contextlib.suppress(OSError):  # from here on somebody waits for it
            os.setpriority(os.PRIO_PROCESS, process.pid, 0)
        writing = asyncio.create_task(apart(self._write_rest))
        if not (await asyncio.wait([writing], timeout=END_TIMEOUT))[0]:
            process.kill()  # which ends the write as well
        await writing
        self._close_pipe()
        try:
            await apart(process.wait, END_TIMEOUT)
        except subprocess.TimeoutExpired:
            logger.warning("the history's last part could not be written in time")
            process.kill()
            process.wait()

    def _write_rest(self) -> None:
        os.set_blocking(self._pipe, True)
        with contextlib.suppress(OSError):
            while self._waiting:
                view = self._waiting.popleft()
                while view:
                    view = view[os.write(self._pipe, view) :]

    # -- inside -----------------------------------------------------------------------------------------------------

    def _holds(self, batch: Batch | None, now: float) -> bool:
        """Whether to let the writer sleep: a burst of tasks is on, and what was noted has waited for a moment only."""
        if batch is None or len(batch.rows) < BURST_ROWS or self._bytes > HELD_MOST:
            self._held_since = now
            return False
        return now - self._held_since < HOLD_FOR

    def _set_clock(self) -> None:
        self._chronicle.offset = time.time() - self._loop.time()

    def _add(self, batch: Batch) -> None:
        if self._bytes > WAITING_MOST:
            batch.dropped += len(batch.rows)
            rows = msgspec.convert(batch.rows, list[Ended])
            add_finished(batch.totals, rows)
            add_graphs(batch.ends, rows, batch.spans)
            batch.rows, batch.notes, batch.spans = [], [], []
        self.dropped += batch.dropped
        if batch.dropped and not self._said_dropped:
            self._said_dropped = True
            logger.warning("the history leaves out tasks, because it can't be written as fast; its totals stay right")
        frame = _frame(batch)
        self._waiting.append(frame)
        self._bytes += len(frame)

    def _start(self) -> None:
        self._started_at = self._loop.time()
        root = str(Path(__file__).parents[2])
        program = _PROGRAM.format(root=root)
        try:
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", program],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                env=without_secret(os.environ),
                start_new_session=True,
            )
        except OSError as error:
            logger.error("the history can't be written: %s", error)
            return
        assert process.stdin is not None
        self._process = process
        # The file object would only stand between us and the pipe.
        self._pipe = os.dup(process.stdin.fileno())
        process.stdin.close()
        os.set_blocking(self._pipe, False)
        with contextlib.suppress(OSError):
            fcntl.fcntl(self._pipe, _F_SETPIPE_SZ, _PIPE_BYTES)
        frame = _frame(self._orders)
        self._waiting.appendleft(frame)
        self._bytes += len(frame)
        self._write()

    def _write(self) -> None:
        waiting = self._waiting
        try:
            while waiting:
                view = waiting[0]
                written = os.write(self._pipe, view)
                self._bytes -= written
                if written < len(view):
                    waiting[0] = view[written:]
                else:
                    waiting.popleft()
        except BlockingIOError:
            if not self._watches:
                self._watches = True
                self._loop.add_writer(self._pipe, self._write)
            return
        except OSError:
            self._lost()
            return
        self._unwatch()

    def _unwatch(self) -> None:
        if self._watches:
            self._watches = False
            self._loop.remove_writer(self._pipe)

    def _close_pipe(self) -> None:
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1

    def _lost(self) -> None:
        """The writer has died; what it had read and not written is lost, and the frame it was reading as well."""
        self._unwatch()
        self._close_pipe()
        process, self._process = self._process, None
        code = process.wait() if process is not None else None
        logger.error("the history's writer ended with %s; it is started again", code)
        if self._waiting:
            self._bytes -= len(self._waiting.popleft())


def _frame(content: Batch | HistoryOrders) -> memoryview:
    body = _encode(content)
    return memoryview(len(body).to_bytes(4, "big") + body)


def _snapshots(state: SchedulerState) -> list[Stood]:
    """How the whole cluster and each worker stand."""
    assert state.chronicle is not None
    at = state.now + state.chronicle.offset
    figures = {"tasks": observe.task_counts(state), "workers": len(state.workers), "clients": len(state.clients)}
    found = [Stood(at, "", figures)]
    for worker in state.workers.values():
        metrics = {name: value for name, value in worker.metrics.items() if isinstance(value, (int, float))}
        found.append(Stood(at, worker.name, {**metrics, "processing": len(worker.processing)}))
    return found
