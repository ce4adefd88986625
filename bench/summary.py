"""From samples to medians, ratios to ours, and how they stand to what was aimed for. Pure: no files, no clock."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench import workloads
from bench.peers.entries import CELERY, CELERY_RABBITMQ, OURS, OVER_RABBITMQ

#: Figures of a sample that get a median of their own.
FIGURES = (
    "rate", "seconds", "cpu_seconds", "cpu_us_per_task", "other_cpu_seconds", "p50", "p99", "constructed",
    "intake_seconds", "run_seconds", "us_per_task", "bytes_per_task", "bytes_per_task_after",
)  # fmt: skip


@dataclass(frozen=True)
class Median:
    """One workload of one peer at one size, over all repeats."""

    workload: str
    peer: str
    size: int
    metric: str  #: the figure that counts: "rate" (tasks a second), "p50" or "seconds"
    value: float  #: its median
    lowest: float
    highest: float
    samples: int
    failures: int
    figures: dict[str, float]  #: medians of every figure


@dataclass(frozen=True)
class Ratio:
    """Ours against one peer. Rates are ours by theirs, times theirs by ours: above 1, ours is faster."""

    workload: str
    versus: str
    faster: float
    size: int
    versus_size: int


@dataclass(frozen=True)
class Target:
    """Something aimed for. It is reported, never asserted: a busy machine must not fail a build."""

    workload: str
    text: str
    limit: float
    at_least: bool  #: else at most
    figure: str = ""  #: of our own medians; for comparisons the workload's metric is used
    versus: str = ""  #: the peer to compare with
    peer: str = OURS  #: whose figure it is


@dataclass(frozen=True)
class Verdict:
    """How a target came out; `value` and `passed` are None when there was nothing to compare."""

    workload: str
    text: str
    limit: float
    value: float | None
    passed: bool | None


TARGETS = (
    Target("submit", "at least 4x ProcessPoolExecutor.submit", 4, True, versus="processpool"),
    Target("submit", "at least 40x dask.distributed", 40, True, versus="dask"),
    Target("submit", "at most 60 us of CPU a task", 60, False, figure="cpu_us_per_task"),
    Target("submit", "RabbitMQ: at least 2.5x ProcessPoolExecutor.submit", 2.5, True, "", "processpool", OVER_RABBITMQ),
    Target("round_trip", "RabbitMQ: p50 at most half of Celery's", 2, True, "", CELERY, OVER_RABBITMQ),
    Target("round_trip", "RabbitMQ alone: p50 at most half of Celery's", 2, True, "", CELERY_RABBITMQ, OVER_RABBITMQ),
    Target("map", "at least 8x ProcessPoolExecutor.map", 8, True, versus="processpool"),
    # In terms of speed: "p50 at most twice theirs" is "at least half as fast".
    Target("round_trip", "p50 at most 2x ProcessPoolExecutor's", 0.5, True, versus="processpool"),
    Target("chain", "at least 40x dask.distributed", 40, True, versus="dask"),
    Target("tree", "at least 25x dask.distributed", 25, True, versus="dask"),
    Target("tree", "at least 10x Ray", 10, True, versus="ray"),
    Target("mean", "at least as fast as dask.distributed", 1, True, versus="dask"),
    Target("group_by_first", "at least as fast as dask.distributed", 1, True, versus="dask"),
    Target("group_by", "at least as fast as dask.distributed", 1, True, versus="dask"),
    Target("chunks", "at least 5x dask.distributed", 5, True, versus="dask"),
    Target(workloads.MACHINE, "at most 1,024 bytes a task in the largest", 1024, False, figure="bytes_per_task"),
    Target(workloads.MACHINE_MAP, "at most 1,024 bytes a task in the largest", 1024, False, figure="bytes_per_task"),
    Target(workloads.IMPORT, "import in at most 0.15 s", 0.15, False, figure="seconds"),
    Target(workloads.START, "Client() ready in at most 2 s", 2, False, figure="constructed"),
)

#: CPU a task at the largest size over that at the smallest; "flat" leaves room for noise and cache misses.
FLAT_LIMIT = 1.25


def with_derived(sample: dict[str, Any]) -> dict[str, Any]:
    """Adds what follows from size and time, for workloads that count tasks."""
    if "error" in sample or workloads.METRICS.get(sample["workload"]) != "rate":
        return sample
    size = sample["size"]
    return sample | {
        "rate": size / sample["seconds"],
        "us_per_task": sample["seconds"] / size * 1e6,
        "cpu_us_per_task": sample["cpu_seconds"] / size * 1e6,
    }


def medians(samples: Iterable[dict[str, Any]]) -> list[Median]:
    """One row for each workload, peer and size that succeeded at least once."""
    good: dict[tuple[str, str, int], list[dict[str, Any]]] = defaultdict(list)
    failures: dict[tuple[str, str], int] = defaultdict(int)
    for sample in samples:
        if "error" in sample:
            failures[sample["workload"], sample["peer"]] += 1
        else:
            good[sample["workload"], sample["peer"], sample["size"]].append(sample)
    rows = []
    for (workload, peer, size), group in good.items():
        metric = workloads.METRICS[workload]
        values = [sample[metric] for sample in group]
        figures = {
            name: statistics.median(sample[name] for sample in group)
            for name in FIGURES
            if all(name in sample for sample in group)
        }
        low, high = min(values), max(values)
        failed = failures[workload, peer]
        row = Median(workload, peer, size, metric, statistics.median(values), low, high, len(group), failed, figures)
        rows.append(row)
    return rows


def largest(rows: Iterable[Median]) -> dict[tuple[str, str], Median]:
    """By workload and peer, the row of the largest size."""
    found: dict[tuple[str, str], Median] = {}
    for row in sorted(rows, key=lambda row: row.size):
        found[row.workload, row.peer] = row
    return found


def ratios(rows: Sequence[Median]) -> list[Ratio]:
    by_key = largest(rows)
    found = []
    for (workload, peer), row in by_key.items():
        ours = by_key.get((workload, OURS))
        if peer == OURS or ours is None:
            continue
        found.append(Ratio(workload, peer, faster(ours, row), ours.size, row.size))
    return found


def faster(one: Median, other: Median) -> float:
    """By how much ``one`` is faster than ``other``."""
    return one.value / other.value if one.metric == "rate" else other.value / one.value


def verdict_of(target: Target, value: float | None) -> Verdict:
    passed = None
    if value is not None:
        passed = value >= target.limit if target.at_least else value <= target.limit
    return Verdict(target.workload, target.text, target.limit, value, passed)


def verdicts(rows: Sequence[Median]) -> list[Verdict]:
    """Each target with what was reached."""
    by_key = largest(rows)
    found = []
    for target in TARGETS:
        row = by_key.get((target.workload, target.peer))
        if target.versus:
            other = by_key.get((target.workload, target.versus))
            value = faster(row, other) if row is not None and other is not None else None
        else:
            value = row.figures.get(target.figure) if row else None
        found.append(verdict_of(target, value))
    found += [flatness(rows, name) for name in workloads.MACHINE_SHAPES]
    return found


def flatness(rows: Sequence[Median], workload: str) -> Verdict:
    """Whether a task costs the same in a graph of any size."""
    sizes = sorted((row for row in rows if row.workload == workload), key=lambda row: row.size)
    growth = None
    if len(sizes) > 1:
        growth = sizes[-1].figures["cpu_us_per_task"] / sizes[0].figures["cpu_us_per_task"]
    text = f"CPU a task at the largest size at most {FLAT_LIMIT}x the smallest's"
    return verdict_of(Target(workload, text, FLAT_LIMIT, False), growth)


def summarize(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The part of the report that is computed, ready for JSON."""
    rows = medians(samples)
    return {
        "medians": [asdict(row) for row in rows],
        "ratios_to_ours": [asdict(ratio) for ratio in ratios(rows)],
        "targets": [asdict(verdict) for verdict in verdicts(rows)],
    }
