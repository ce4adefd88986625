"""futurebroker itself: one worker with two executor processes, signing and sessions on as by default."""

from __future__ import annotations

from time import perf_counter

from bench.arrays import make_array, total
from bench.tasks import add, inc
from futurebroker import Client


class FuturebrokerPeer:
    """One worker, as on any host, whose two executor processes do the work."""

    def start(self) -> None:
        self.client = Client(n_workers=1, executors_per_worker=2, threads_per_worker=1)

    def stop(self) -> None:
        self.client.close()

    def submit_gather(self, n: int) -> int:
        client = self.client
        return sum(client.gather([client.submit(inc, i) for i in range(n)]))

    def map_gather(self, n: int, chunksize: int) -> int:
        return sum(self.client.gather(self.client.map(inc, range(n), chunksize=chunksize)))

    def round_trip(self, n: int) -> list[float]:
        seconds = []
        for i in range(n):
            start = perf_counter()
            self.client.submit(inc, i).result()
            seconds.append(perf_counter() - start)
        return seconds

    def chain(self, n: int) -> int:
        future = self.client.submit(inc, 0)
        for _ in range(n - 1):
            future = self.client.submit(inc, future)
        return int(future.result())

    def tree(self, leaves: int) -> int:
        level = [self.client.submit(inc, i) for i in range(leaves)]
        while len(level) > 1:
            level = [self.client.submit(add, a, b) for a, b in zip(level[::2], level[1::2])]
        return int(level[0].result())

    def array(self, nbytes: int) -> float:
        return float(self.client.submit(total, self.client.submit(make_array, nbytes)).result())
