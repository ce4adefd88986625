"""What is measured: each workload, how large it is for whom, and the check that its answer is right."""

from __future__ import annotations

import importlib
import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import ModuleType

from bench.peers.base import Peer

#: Extra figures of one run, by name; empty when the elapsed time says it all.
Figures = dict[str, float]


class WrongAnswerError(Exception):
    """A peer finished the workload with a wrong result, so its time means nothing."""

    def __init__(self, workload: str, got: object, expected: object) -> None:
        super().__init__(workload, got, expected)
        self.workload, self.got, self.expected = workload, got, expected

    def __str__(self) -> str:
        return f"{self.workload}: got {self.got!r}, expected {self.expected!r}"


def expect(workload: str, got: object, expected: object) -> None:
    if got != expected:
        raise WrongAnswerError(workload, got, expected)


def run_submit(peer: Peer, size: int) -> Figures:
    expect("submit", peer.submit_gather(size), size * (size + 1) // 2)
    return {}


def run_map(peer: Peer, size: int) -> Figures:
    expect("map", peer.map_gather(size, 1), size * (size + 1) // 2)
    return {}


def run_map_chunked(peer: Peer, size: int) -> Figures:
    expect("map_100", peer.map_gather(size, 100), size * (size + 1) // 2)
    return {}


def run_round_trip(peer: Peer, size: int) -> Figures:
    seconds = sorted(peer.round_trip(size))
    return {"p50": statistics.median(seconds), "p99": seconds[math.ceil(0.99 * len(seconds)) - 1]}


def run_chain(peer: Peer, size: int) -> Figures:
    expect("chain", peer.chain(size), size)
    return {}


def run_tree(peer: Peer, size: int) -> Figures:
    leaves = (size + 1) // 2
    expect("tree", peer.tree(leaves), leaves * (leaves + 1) // 2)
    return {}


def run_array(peer: Peer, size: int) -> Figures:
    expect("array", peer.array(size), float(size // 8))
    return {}


def run_mean(peer: Peer, size: int) -> Figures:
    mean = collections().random_mean(size)
    expect("mean", abs(mean - 0.5) < 10 / size, True)
    return {}


def run_group_by(peer: Peer, size: int) -> Figures:
    expect("group_by", collections().group_by(size), collections().expected_group_by(size))
    return {}


def run_chunks(peer: Peer, size: int) -> Figures:
    expect("chunks", collections().small_chunks(size), 2 * size * collections().CHUNK)
    return {}


def collections() -> ModuleType:
    """`bench.dask_collections`, by name, because not everybody has dask."""
    return importlib.import_module("bench.dask_collections")


@dataclass(frozen=True)
class Workload:
    """One thing that every peer is asked to do."""

    name: str
    title: str
    run: Callable[[Peer, int], Figures]
    size: int  #: tasks, trips or bytes
    quick: int  #: the size under ``--quick``
    metric: str = "rate"  #: "rate" (tasks a second), "p50" or "seconds"
    warm_up: int = 0  #: a size to run once, unmeasured, before it: NumPy gets imported, caches fill
    smaller: Mapping[str, int] = field(default_factory=dict)  #: sizes for peers that would take minutes
    is_collection: bool = False  #: dask has it computed by its default scheduler, as which the peer must serve

    def size_for(self, peer: str, quick: bool) -> int:
        size = self.smaller.get(peer, self.size)
        return min(size, self.quick) if quick else size


#: Measured inside a peer's own process, in this order, after it has started.
WORKLOADS = (
    Workload(
        "submit", "submits of inc, gathered", run_submit, 20_000, 1_000,
        smaller={"dask": 4_000, "ray": 5_000, "celery": 2_000, "celery-rabbitmq": 2_000},
    ),
    Workload(
        "map", "map of inc, a task a call", run_map, 100_000, 2_000,
        smaller={"dask": 4_000, "ray": 10_000, "celery": 2_000, "celery-rabbitmq": 2_000, "joblib": 20_000},
    ),
    Workload(
        "map_100", "map of inc, chunks of 100", run_map_chunked, 100_000, 5_000,
        smaller={"celery": 20_000, "celery-rabbitmq": 20_000},
    ),
    Workload(
        "round_trip", "one submit and its result", run_round_trip, 500, 50,
        metric="p50", warm_up=50, smaller={"celery": 200, "celery-rabbitmq": 200},
    ),
    Workload(
        "chain", "chain, each inc on the result before", run_chain, 1_000, 100,
        smaller={"celery": 100, "celery-rabbitmq": 100},
    ),
    Workload(
        "tree", "binary tree of adds", run_tree, 8_191, 255,
        smaller={"dask": 2_047, "celery": 1_023, "celery-rabbitmq": 1_023},
    ),
    Workload(
        "array", "array from one task to the next", run_array, 400_000_000, 8_000_000, metric="seconds", warm_up=8_000,
    ),
    # In this order: the first pass of all that uses pandas finds workers that don't have it yet.
    Workload(
        "group_by_first", "groupby of a dataframe, the first pass", run_group_by, 1_000_000, 64_000,
        metric="seconds", is_collection=True,
    ),
    Workload(
        "group_by", "groupby of a dataframe of 64 partitions", run_group_by, 1_000_000, 64_000,
        metric="seconds", warm_up=64_000, is_collection=True,
    ),
    Workload(
        "mean", "mean of a square of random numbers", run_mean, 20_000, 1_000,
        metric="seconds", warm_up=1_000, is_collection=True,
    ),
    Workload(
        "chunks", "array graph of small chunks", run_chunks, 20_000, 500, warm_up=100, is_collection=True,
    ),
)  # fmt: skip

BY_NAME = {workload.name: workload for workload in WORKLOADS}

#: Measured otherwise: `bench.runner` and `bench.graph_machine` say how.
START, IMPORT, IMPORT_CLIENT = "start", "import", "import_client"
MACHINE, MACHINE_MAP = "machine", "machine_map"
#: Workload -> the shape of its graph.
MACHINE_SHAPES = {MACHINE: "tree", MACHINE_MAP: "map"}
NAMES = (*BY_NAME, START, IMPORT, IMPORT_CLIENT, *MACHINE_SHAPES)

TITLES = {workload.name: workload.title for workload in WORKLOADS} | {
    START: "start to the first result",
    IMPORT: "import of the package",
    IMPORT_CLIENT: "import of what a program needs to begin",
    MACHINE: "tree through the scheduler machine",
    MACHINE_MAP: "map through the scheduler machine, all futures kept",
}
METRICS = {workload.name: workload.metric for workload in WORKLOADS} | {
    START: "seconds",
    IMPORT: "seconds",
    IMPORT_CLIENT: "seconds",
    MACHINE: "rate",
    MACHINE_MAP: "rate",
}
