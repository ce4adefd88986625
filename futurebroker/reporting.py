"""``futurebroker.performance_report``: watches a cluster during a ``with`` and writes what it saw to one file."""

from __future__ import annotations

import contextlib
import inspect
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from futurebroker.client.client import Client
from futurebroker.exceptions import FuturebrokerError
from futurebroker.snapshot import Snapshot, Tracker
from futurebroker.web import report
from futurebroker.web.streaming import Packing, Run, lay_out

#: seconds between two looks
EVERY = 0.5
#: snapshots a report holds; of a longer run every other one is left out again and again
KEPT = 1200
#: seconds the scheduler has to answer
TIMEOUT = 5.0
#: runs a report draws
RUNS = 200_000


class _Watch:
    """Asks the scheduler from a thread of its own until it is stopped."""

    def __init__(self, client: Client) -> None:
        self.snapshots: list[Snapshot] = []
        self.runs: list[Run] = []
        self.missed = 0
        self._client = client
        self._tracker = Tracker()
        self._packing = Packing()
        self._last = 0
        self._every = EVERY
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="futurebroker-report", daemon=True)

    def start(self) -> None:
        self.look()
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        with contextlib.suppress(TimeoutError, FuturebrokerError):
            self.look()

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            # A scheduler that is away for a moment leaves a gap, and no failed run.
            with contextlib.suppress(TimeoutError, FuturebrokerError):
                self.look()

    def look(self) -> None:
        """One snapshot, and the runs that ended since the one before."""
        answer = self._client.overview(timeout=TIMEOUT)
        self.snapshots.append(self._tracker.take(answer, time.time()))
        if len(self.snapshots) > KEPT:
            del self.snapshots[1:-1:2]
            self._every *= 2
        while True:
            ends = self._client.recent(self._last, timeout=TIMEOUT)
            ahead = time.time() - ends["now"]
            self.missed += ends["missed"] if self._last else 0
            columns = [ends[name] for name in ("end", "duration", "type", "worker", "failed", "key")]
            for end, took, name, worker, failed, key in zip(*columns, strict=True):
                start, stop = ahead + end - took, ahead + end
                if len(self.runs) < RUNS:
                    self.runs.append(Run(start, stop, name, self._packing.lane(worker, start, stop), failed, key))
            before, self._last = self._last, ends["last"]
            if not columns[0] or self._last == before:
                return


@contextlib.contextmanager
def performance_report(
    filename: str | Path = "report.html", *, client: Client | None = None, title: str = "futurebroker report"
) -> Iterator[None]:
    """Write a report of everything the cluster does during the ``with`` to one file that needs nothing else.

    As in dask.distributed::

        with performance_report("run.html"):
            client.gather(client.map(work, data))

    The file is written also when the block raises: a failed run is the one that people want to look at.

    Args:
        client: whose cluster to watch; by default `Client.current`. It must not be an asynchronous one.

    Raises:
        ValueError: there is no client.
        OSError: the file can't be written.
    """
    watched = client or Client.current()
    if watched.asynchronous:
        raise TypeError(
            "performance_report needs a client that isn't asynchronous: performance_report(client=Client(...))"
        )
    watch = _Watch(watched)
    source = _calling_code()
    began = time.time()
    watch.start()
    try:
        yield
    finally:
        watch.stop()
        stream = lay_out(watch.runs, began, time.time())
        report.write(filename, watch.snapshots, title=title, began=began, stream=stream, source=source)


def _calling_code() -> str:
    """The source of who wrote ``with performance_report``, as far as it can be found."""
    frame: Any = inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__", "").startswith(("contextlib", __name__)):
        frame = frame.f_back
    if frame is None:
        return ""
    try:
        return inspect.getsource(frame)[:20_000]
    except (OSError, TypeError):
        return ""
