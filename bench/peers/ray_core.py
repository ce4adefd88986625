"""Ray core on this host, with two CPUs for tasks and no dashboard."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import ray

from bench.arrays import make_array, total
from bench.tasks import add, inc

#: The array workload's array must fit twice.
OBJECT_STORE_BYTES = 1 << 30


class RayPeer:
    """Remote functions are made once; results come by one ``ray.get`` of all references."""

    inc: Any
    add: Any
    make_array: Any
    total: Any

    def start(self) -> None:
        ray.init(
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="error",
            object_store_memory=OBJECT_STORE_BYTES,
            _node_ip_address="127.0.0.1",
        )
        self.inc, self.add = ray.remote(inc), ray.remote(add)
        self.make_array, self.total = ray.remote(make_array), ray.remote(total)

    def stop(self) -> None:
        ray.shutdown()

    def submit_gather(self, n: int) -> int:
        return sum(ray.get([self.inc.remote(i) for i in range(n)]))

    def map_gather(self, n: int, chunksize: int) -> int:
        return self.submit_gather(n)

    def round_trip(self, n: int) -> list[float]:
        seconds = []
        for i in range(n):
            start = perf_counter()
            ray.get(self.inc.remote(i))
            seconds.append(perf_counter() - start)
        return seconds

    def chain(self, n: int) -> int:
        reference = self.inc.remote(0)
        for _ in range(n - 1):
            reference = self.inc.remote(reference)
        return int(ray.get(reference))

    def tree(self, leaves: int) -> int:
        level = [self.inc.remote(i) for i in range(leaves)]
        while len(level) > 1:
            level = [self.add.remote(a, b) for a, b in zip(level[::2], level[1::2])]
        return int(ray.get(level[0]))

    def array(self, nbytes: int) -> float:
        return float(ray.get(self.total.remote(self.make_array.remote(nbytes))))
