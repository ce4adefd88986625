"""dask.distributed on a LocalCluster of two worker processes, without its dashboard."""

from __future__ import annotations

from time import perf_counter

from distributed import Client, LocalCluster

from bench.arrays import make_array, total
from bench.tasks import add, inc


class DaskPeer:
    """Every call is ``pure=False``: each submit must run, and dask need not hash the arguments."""

    def start(self) -> None:
        self.cluster = LocalCluster(
            n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None, silence_logs=50
        )
        self.client = Client(self.cluster)

    def stop(self) -> None:
        self.client.close()
        self.cluster.close()

    def submit_gather(self, n: int) -> int:
        return sum(self.client.gather([self.client.submit(inc, i, pure=False) for i in range(n)]))

    def map_gather(self, n: int, chunksize: int) -> int:
        return sum(self.client.gather(self.client.map(inc, range(n), pure=False)))

    def round_trip(self, n: int) -> list[float]:
        seconds = []
        for i in range(n):
            start = perf_counter()
            self.client.submit(inc, i, pure=False).result()
            seconds.append(perf_counter() - start)
        return seconds

    def chain(self, n: int) -> int:
        future = self.client.submit(inc, 0, pure=False)
        for _ in range(n - 1):
            future = self.client.submit(inc, future, pure=False)
        return int(future.result())

    def tree(self, leaves: int) -> int:
        level = [self.client.submit(inc, i, pure=False) for i in range(leaves)]
        while len(level) > 1:
            level = [self.client.submit(add, a, b, pure=False) for a, b in zip(level[::2], level[1::2])]
        return int(level[0].result())

    def array(self, nbytes: int) -> float:
        made = self.client.submit(make_array, nbytes, pure=False)
        return float(self.client.submit(total, made, pure=False).result())
