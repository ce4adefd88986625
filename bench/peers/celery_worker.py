"""Celery with one prefork worker of two processes, started as a user starts it: by its command."""

from __future__ import annotations

import os
import subprocess
import sys
from time import perf_counter
from typing import Any

from celery import chain, group

from bench.peers.celery_app import add, app, inc

TIMEOUT = 300  #: seconds until a lost result fails the run instead of hanging it


class CeleryPeer:
    """Calls by ``delay``, maps by ``chunks``, the chain by canvas."""

    def start(self) -> None:
        self.worker = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "bench.peers.celery_app", "worker"]
            + ["--concurrency=2", "--pool=prefork", "--loglevel=ERROR", f"--hostname=bench-{os.getpid()}@%h"],
            stdout=subprocess.DEVNULL,
        )

    def stop(self) -> None:
        self.worker.terminate()
        self.worker.wait(60)
        with app.connection_for_write() as connection:
            connection.default_channel.queue_delete(app.conf.task_default_queue)
        app.close()

    def _results(self, group_result: Any) -> list[Any]:
        return list(group_result.get(timeout=TIMEOUT))

    def submit_gather(self, n: int) -> int:
        results = [inc.delay(i) for i in range(n)]
        return sum(result.get(timeout=TIMEOUT) for result in results)

    def map_gather(self, n: int, chunksize: int) -> int:
        if chunksize == 1:
            return sum(self._results(group(inc.s(i) for i in range(n))()))
        chunked = self._results(inc.chunks([(i,) for i in range(n)], chunksize)())
        return sum(sum(chunk) for chunk in chunked)

    def round_trip(self, n: int) -> list[float]:
        seconds = []
        for i in range(n):
            start = perf_counter()
            inc.delay(i).get(timeout=TIMEOUT)
            seconds.append(perf_counter() - start)
        return seconds

    def chain(self, n: int) -> int:
        return int(chain(inc.s(0), *(inc.s() for _ in range(n - 1)))().get(timeout=TIMEOUT))

    def tree(self, leaves: int) -> int:
        level = self._results(group(inc.s(i) for i in range(leaves))())
        while len(level) > 1:
            level = self._results(group(add.s(a, b) for a, b in zip(level[::2], level[1::2]))())
        return int(level[0])

    def array(self, nbytes: int) -> float:
        raise NotImplementedError("too large for a message of a broker")
