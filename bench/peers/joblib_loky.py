"""joblib on its loky processes. It only has the parallel map, so single calls are maps of one."""

from __future__ import annotations

from time import perf_counter

from joblib import Parallel, delayed
from joblib.externals.loky import get_reusable_executor

from bench.arrays import make_array, total
from bench.tasks import add, inc


class JoblibPeer:
    """One `Parallel` kept open, as its documentation advises for repeated calls."""

    def start(self) -> None:
        self.parallel = Parallel(n_jobs=2, backend="loky", batch_size=1)
        self.parallel.__enter__()

    def stop(self) -> None:
        self.parallel.__exit__(None, None, None)
        get_reusable_executor().shutdown(wait=True)

    def submit_gather(self, n: int) -> int:
        return sum(self.parallel(delayed(inc)(i) for i in range(n)))

    def map_gather(self, n: int, chunksize: int) -> int:
        self.parallel.batch_size = chunksize
        try:
            return sum(self.parallel(delayed(inc)(i) for i in range(n)))
        finally:
            self.parallel.batch_size = 1

    def round_trip(self, n: int) -> list[float]:
        seconds = []
        for i in range(n):
            start = perf_counter()
            self.parallel([delayed(inc)(i)])
            seconds.append(perf_counter() - start)
        return seconds

    def chain(self, n: int) -> int:
        value = 0
        for _ in range(n):
            [value] = self.parallel([delayed(inc)(value)])
        return value

    def tree(self, leaves: int) -> int:
        level: list[int] = list(self.parallel(delayed(inc)(i) for i in range(leaves)))
        while len(level) > 1:
            level = list(self.parallel(delayed(add)(a, b) for a, b in zip(level[::2], level[1::2])))
        return level[0]

    def array(self, nbytes: int) -> float:
        [array] = self.parallel([delayed(make_array)(nbytes)])
        [result] = self.parallel([delayed(total)(array)])
        return float(result)
