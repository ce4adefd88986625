"""The standard library's two pools. Neither takes a future as an argument, so graphs wait for results in the caller."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from time import perf_counter
from typing import Any

from bench.arrays import make_array, total
from bench.tasks import add, inc


class ProcessPoolPeer:
    """``concurrent.futures.ProcessPoolExecutor``; processes start at the first submit."""

    def start(self) -> None:
        self.pool = ProcessPoolExecutor(max_workers=2)

    def stop(self) -> None:
        self.pool.shutdown()

    def submit_gather(self, n: int) -> int:
        futures = [self.pool.submit(inc, i) for i in range(n)]
        return sum(future.result() for future in futures)

    def map_gather(self, n: int, chunksize: int) -> int:
        return sum(self.pool.map(inc, range(n), chunksize=chunksize))

    def round_trip(self, n: int) -> list[float]:
        seconds = []
        for i in range(n):
            start = perf_counter()
            self.pool.submit(inc, i).result()
            seconds.append(perf_counter() - start)
        return seconds

    def chain(self, n: int) -> int:
        value = 0
        for _ in range(n):
            value = self.pool.submit(inc, value).result()
        return value

    def tree(self, leaves: int) -> int:
        futures = [self.pool.submit(inc, i) for i in range(leaves)]
        while len(futures) > 1:
            level = [future.result() for future in futures]
            futures = [self.pool.submit(add, a, b) for a, b in zip(level[::2], level[1::2])]
        return futures[0].result()

    def array(self, nbytes: int) -> float:
        return self.pool.submit(total, self.pool.submit(make_array, nbytes).result()).result()


class MultiprocessingPeer:
    """``multiprocessing.Pool``: ``imap`` for maps, ``apply_async`` for submits."""

    def start(self) -> None:
        self.pool = multiprocessing.Pool(2)

    def stop(self) -> None:
        self.pool.close()
        self.pool.join()

    def _submit(self, function: Callable[..., Any], *args: object) -> Any:
        return self.pool.apply_async(function, args)

    def submit_gather(self, n: int) -> int:
        results = [self._submit(inc, i) for i in range(n)]
        return sum(result.get() for result in results)

    def map_gather(self, n: int, chunksize: int) -> int:
        return sum(self.pool.imap(inc, range(n), chunksize=chunksize))

    def round_trip(self, n: int) -> list[float]:
        seconds = []
        for i in range(n):
            start = perf_counter()
            self._submit(inc, i).get()
            seconds.append(perf_counter() - start)
        return seconds

    def chain(self, n: int) -> int:
        value = 0
        for _ in range(n):
            value = self._submit(inc, value).get()
        return value

    def tree(self, leaves: int) -> int:
        results = [self._submit(inc, i) for i in range(leaves)]
        while len(results) > 1:
            level = [result.get() for result in results]
            results = [self._submit(add, a, b) for a, b in zip(level[::2], level[1::2])]
        return int(results[0].get())

    def array(self, nbytes: int) -> float:
        return float(self._submit(total, self._submit(make_array, nbytes).get()).get())
