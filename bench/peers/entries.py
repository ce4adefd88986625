"""The peers by name: where each adapter is, how it is configured, what it can't do."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata

from bench.peers.base import Peer
from bench.workloads import WORKLOADS


@dataclass(frozen=True)
class PeerEntry:
    """Where an adapter is, and what must be there for it to run."""

    name: str
    label: str  #: in tables and plots
    target: str  #: "module:class"
    distributions: tuple[str, ...] = ()  #: what must be installed; their versions are reported
    imports: str = ""  #: the statement that imports the package
    imports_client: str = ""  #: the statement a program begins with
    broker: bool = False  #: needs the address of a broker in the environment
    variable: str = ""  #: of the environment, which it needs
    environment: Mapping[str, str] = field(default_factory=dict)  #: what else its processes find in theirs
    setup: Mapping[str, str | int] = field(default_factory=dict)  #: how it is configured, for the report
    emulated: Mapping[str, str] = field(default_factory=dict)  #: workload -> how it is done without the peer's support
    skipped: Mapping[str, str] = field(default_factory=dict)  #: workload -> why it is left out
    collections: bool = False  #: it is dask's default scheduler once it has started

    @property
    def left_out(self) -> dict[str, str]:
        """Workload -> why it is left out."""
        names = () if self.collections else (one.name for one in WORKLOADS if one.is_collection)
        return {**self.skipped, **dict.fromkeys(names, "it computes no dask collections")}

    def load(self) -> type[Peer]:
        module, _, name = self.target.partition(":")
        adapter: type[Peer] = getattr(importlib.import_module(module), name)
        return adapter

    def versions(self) -> dict[str, str]:
        return {name: metadata.version(name) for name in self.distributions}


OURS, OVER_RABBITMQ = "futurebroker", "futurebroker-rabbitmq"
CELERY, CELERY_RABBITMQ = "celery", "celery-rabbitmq"

#: The standard library's pools take no future as an argument.
WAITS_IN_CALLER: Mapping[str, str] = {
    "chain": "the caller waits for each result before it submits the next call",
    "tree": "the caller waits for each level before it submits the next",
    "array": "the array is returned to the caller and sent out again",
}

CELERY_EMULATES: Mapping[str, str] = {
    "map": "a group of single calls: Celery has no map with a task a call",
    "tree": "a group for each level, the caller waits in between: nested chords need a backend that counts",
}
CELERY_SKIPS: Mapping[str, str] = {"array": "too large for a message of a broker"}

ENTRIES = (
    PeerEntry(
        OURS, "futurebroker", "bench.peers.ours:FuturebrokerPeer", (),
        "import futurebroker", "from futurebroker import Client",
        setup={"n_workers": 1, "executors_per_worker": 2, "threads_per_worker": 1}, collections=True,
    ),
    PeerEntry(
        OVER_RABBITMQ, "futurebroker (RabbitMQ)", "bench.peers.ours_rabbitmq:RabbitMQPeer", (),
        "import futurebroker", "from futurebroker import Client",
        variable="FUTUREBROKER_TEST_RABBITMQ_URL",
        setup={"executors": 2, "threads": 1},
    ),
    PeerEntry(
        "processpool", "ProcessPoolExecutor", "bench.peers.stdlib:ProcessPoolPeer", (),
        "import concurrent.futures", "from concurrent.futures import ProcessPoolExecutor",
        setup={"max_workers": 2}, emulated=WAITS_IN_CALLER,
    ),
    PeerEntry(
        "pool", "multiprocessing.Pool", "bench.peers.stdlib:MultiprocessingPeer", (),
        "import multiprocessing", "from multiprocessing.pool import Pool",
        setup={"processes": 2, "map": "imap"}, emulated=WAITS_IN_CALLER,
    ),
    PeerEntry(
        "joblib", "joblib (loky)", "bench.peers.joblib_loky:JoblibPeer", ("joblib",),
        "import joblib", "from joblib import Parallel, delayed",
        setup={"n_jobs": 2, "backend": "loky"},
        emulated={
            "submit": "a map with batch_size=1: joblib has no submit",
            "round_trip": "a map of one call",
            "chain": "a map of one call for each link, the caller waits in between",
            "tree": "a map for each level, the caller waits in between",
            "array": "the array is returned to the caller and sent out again (joblib maps large arguments from a file)",
        },
    ),
    PeerEntry(
        "dask", "dask.distributed", "bench.peers.dask_distributed:DaskPeer", ("dask", "distributed"),
        "import distributed", "from distributed import Client, LocalCluster",
        setup={"n_workers": 2, "threads_per_worker": 1}, collections=True,
        skipped={"map_100": "its map has no tasks of many calls (batch_size groups messages)"},
    ),
    PeerEntry(
        "ray", "Ray", "bench.peers.ray_core:RayPeer", ("ray",),
        "import ray", "import ray",
        setup={"num_cpus": 2},
        skipped={"map_100": "ray core has no map; the caller would have to chunk"},
    ),
    PeerEntry(
        CELERY, "Celery", "bench.peers.celery_worker:CeleryPeer", ("celery", "kombu"),
        "import celery", "from celery import Celery",
        broker=True, setup={"concurrency": 2, "pool": "prefork"},
        emulated=CELERY_EMULATES, skipped=CELERY_SKIPS,
    ),
    PeerEntry(
        CELERY_RABBITMQ, "Celery (RabbitMQ alone)", "bench.peers.celery_worker:CeleryPeer", ("celery", "kombu"),
        "import celery", "from celery import Celery",
        variable="FUTUREBROKER_TEST_RABBITMQ_URL", environment={"BENCH_CELERY_RESULTS": "rpc://"},
        setup={"concurrency": 2, "pool": "prefork", "result_backend": "rpc://"},
        emulated=CELERY_EMULATES, skipped=CELERY_SKIPS,
    ),
)  # fmt: skip

BY_NAME = {entry.name: entry for entry in ENTRIES}
