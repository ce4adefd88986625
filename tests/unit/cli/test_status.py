"""What `status` prints of what the scheduler answers."""

from __future__ import annotations

from typing import Any

from futurebroker.amounts import show_bytes
from futurebroker.cli.status import lines_of, with_rates

KIND = {"states": {"processing": 3, "memory": 1000}, "duration": 0.0123, "ended": 150, "errors": 2}


def info(**more: Any) -> dict[str, Any]:
    """An answer of a busy scheduler."""
    worker = {
        "name": "w1", "host": "h", "status": "running", "nthreads": 4, "memory_limit": 8 << 30, "processing": 3,
        "holds": 12, "metrics": {"cpu": 171.4, "memory": 300 << 20},
    }  # fmt: skip
    fresh = {**worker, "name": "w0", "metrics": {}, "memory_limit": None}
    queue = {"queued": 1234, "no_worker": 5, "workers": ["w9"], "resources": {"GPU": 1.0}, "priority": 2, "eligible": 0}
    return {
        "scheduler": {"host": "h", "version": "1"}, "workers": {"a": worker, "b": fresh}, "clients": 2,
        "tasks": {"processing": 3, "erred": 0, "memory": 1000}, "kinds": {"inc": KIND}, "queues": [queue],
        "counters": {"stale": 1, "unexpected": 0}, "rejected": {"signature": 7}, **more,
    }  # fmt: skip


def test_a_rate_is_what_ended_between_two_looks() -> None:
    """A kind that is new counts from nothing; the one that asks is no client to be shown."""
    shown = with_rates(info(), {"kinds": {"inc": {"ended": 100}}}, 2.0)
    assert (shown["kinds"]["inc"]["rate"], shown["rate"], shown["clients"]) == (25.0, 25.0, 1)
    assert with_rates(info(), {"kinds": {}}, 2.0)["rate"] == 75.0


def test_workers_tasks_queues_and_what_was_dropped_are_shown() -> None:
    """One screen answers what an operator asks first."""
    text = "\n".join(lines_of(with_rates(info(), {"kinds": {}}, 1.0)))
    rows = [" ".join(line.split()) for line in text.splitlines()]
    assert "w1 h running 4 171% 300 MiB of 8.0 GiB 3 12" in rows
    assert "w0 h running 4 - - 3 12" in rows
    assert "tasks: processing 3 memory 1,000; 150.0 a second" in rows
    assert "inc 150.0 12.3 ms 150 2 processing 3 memory 1,000" in rows
    wanted = "backlog for workers=w9 GPU=1 priority=2: 1,234 queued, 5 that no connected worker may run; 0 workers"
    assert wanted in rows
    assert "events: stale 1" in rows
    assert "dropped envelopes: signature 7" in rows


def test_an_empty_cluster_is_shown_as_such() -> None:
    """Before the first worker and the first task."""
    bare = info(workers={}, tasks={}, kinds={}, queues=[], counters={}, rejected={})
    rows = list(lines_of(with_rates(bare, {"kinds": {}}, 1.0)))
    assert rows[-1] == "tasks: none; 0 a second"
    assert "none" in rows


def test_many_kinds_are_cut() -> None:
    """A terminal has few lines; the busiest come first."""
    kinds = {f"k{number}": {**KIND, "ended": number} for number in range(25)}
    rows = list(lines_of(with_rates(info(kinds=kinds), {"kinds": {}}, 1.0)))
    assert "and 5 kinds more" in rows
    assert next(row for row in rows if row.startswith("k")).startswith("kind")
    assert next(row.split()[0] for row in rows if row.startswith("k2")) == "k24"


def test_sizes_are_short() -> None:
    """Three figures are enough."""
    assert [show_bytes(n) for n in (0, 1023, 1536, 20 << 20, 3 << 50)] == [
        "0 B", "1023 B", "1.5 KiB", "20 MiB", "3072 TiB",
    ]  # fmt: skip
