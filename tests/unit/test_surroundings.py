"""What a worker takes from a dyno: its name, and no more executors than its memory carries."""

from __future__ import annotations

import pytest

from futurebroker import surroundings

MIB = 1024 * 1024


@pytest.mark.parametrize(
    ("environ", "memory", "expected"),
    [
        ({}, 512 * MIB, 8),
        ({"DYNO": "worker.1"}, 512 * MIB, 3),
        ({"DYNO": "worker.1", "DYNO_RAM": "512"}, 64 * 1024 * MIB, 3),
        ({"DYNO": "worker.1", "DYNO_RAM": "14336"}, None, 8),
        ({"DYNO": "worker.1", "DYNO_RAM": "100"}, None, 1),
        ({"DYNO": "worker.1", "DYNO_RAM": "plenty"}, 0, 1),
    ],
)
def test_executors_follow_a_dynos_memory(environ: dict[str, str], memory: int | None, expected: int) -> None:
    """A 512 MB dyno tells eight cores; eight executors there are killed for their memory."""
    assert surroundings.executors(environ, 8, memory) == expected


def test_a_worker_is_called_as_its_dyno() -> None:
    """The platform's log lines and the dashboard then speak of the same thing."""
    assert surroundings.worker_name({"DYNO": "worker.3"}) == "worker.3"
    assert surroundings.worker_name({}) is None
