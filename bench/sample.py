"""One peer measured once in a process of its own: ``python -m bench.sample PEER PLAN OUT``.

A fresh process for each peer and repeat keeps one peer's threads, caches and idle daemons out of another's figures and
makes the CPU sum simple: all that descends from here belongs to the peer. PLAN is JSON, a list of [workload, size]. A
finished sample is appended to OUT at once, one line of JSON, so what was measured survives a later crash.
"""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path
from time import perf_counter

from bench import cpu, workloads
from bench.peers.base import Peer
from bench.peers.entries import BY_NAME

WARM_UP_TASKS = 200


class SampleWriter:
    """Appends samples to a file that the runner reads when this process has ended."""

    def __init__(self, path: Path, peer: str) -> None:
        self.path, self.peer = path, peer

    def write(self, workload: str, **figures: object) -> None:
        with self.path.open("a") as lines:
            lines.write(json.dumps({"peer": self.peer, "workload": workload, **figures}) + "\n")


def usage_figures(usage: cpu.Usage) -> dict[str, float]:
    return {
        "seconds": usage.seconds,
        "cpu_seconds": usage.cpu_seconds,
        "other_cpu_seconds": max(0.0, usage.machine_cpu_seconds - usage.cpu_seconds),
    }


def measure_start(peer: Peer, writer: SampleWriter) -> None:
    """Until the first result, since some constructors return before a worker exists; `constructed` is until there."""
    before = cpu.snapshot()
    start = perf_counter()
    peer.start()
    constructed = perf_counter() - start
    peer.round_trip(1)
    usage = cpu.snapshot().since(before)
    writer.write(workloads.START, size=1, constructed=constructed, **usage_figures(usage))


def measure(peer: Peer, name: str, size: int, writer: SampleWriter) -> None:
    """Run one workload; a failure is recorded and does not stop the ones after it."""
    workload = workloads.BY_NAME[name]
    try:
        if workload.warm_up:
            workload.run(peer, workload.warm_up)
        before = cpu.snapshot()
        figures = workload.run(peer, size)
    except Exception as error:  # noqa: BLE001 - a peer may raise anything; it goes into the report
        traceback.print_exc()
        writer.write(name, size=size, error=f"{type(error).__name__}: {error}"[:500])
        return
    usage = cpu.snapshot().since(before)
    writer.write(name, size=size, **usage_figures(usage), **figures)


def main(peer_name: str, plan: str, out: str) -> None:
    cpu.adopt_orphans()
    entry = BY_NAME[peer_name]
    writer = SampleWriter(Path(out), peer_name)
    todo: list[tuple[str, int]] = json.loads(plan)
    if any(workloads.BY_NAME[name].is_collection for name, _ in todo):
        workloads.collections()  # as a program that begins with the import of dask
    peer = entry.load()()
    try:
        measure_start(peer, writer)
        peer.submit_gather(WARM_UP_TASKS)
        for name, size in todo:
            measure(peer, name, size, writer)
    finally:
        peer.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
