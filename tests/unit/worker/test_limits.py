"""How much memory a worker may take, found out in machines and containers of all kinds, each as a tree of files."""

from __future__ import annotations

from pathlib import Path

import pytest

from futurebroker.worker.limits import Limit, detect_limit, resolve_limit

GB = 10**9
MEMINFO = {"proc/meminfo": "MemTotal:       16000000 kB\nMemFree: 1 kB\n"}
MACHINE = 16_000_000 * 1024
V1 = "30 25 0:26 {root} /sys/fs/cgroup/memory rw,nosuid - cgroup cgroup rw,memory\n"
V2 = "31 25 0:27 {root} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"
UNLIMITED_V1 = "9223372036854771712\n"

#: name -> files below the root, bytes, and the end of the source's path
ROWS: dict[str, tuple[dict[str, str], int, str]] = {
    "no cgroup at all": ({}, MACHINE, "the machine"),
    "v2, no limit": (
        {"proc/self/cgroup": "0::/user\n", "proc/self/mountinfo": V2.format(root="/"),
         "sys/fs/cgroup/user/memory.max": "max\n", "sys/fs/cgroup/user/memory.high": "max\n"},
        MACHINE, "the machine",
    ),
    "v2, own group": (
        {"proc/self/cgroup": "0::/user/app\n", "proc/self/mountinfo": V2.format(root="/"),
         "sys/fs/cgroup/user/app/memory.max": f"{2 * GB}\n"},
        2 * GB, "user/app/memory.max",
    ),
    "v2, a group above": (
        {"proc/self/cgroup": "0::/user/app\n", "proc/self/mountinfo": V2.format(root="/"),
         "sys/fs/cgroup/user/app/memory.max": "max\n", "sys/fs/cgroup/user/memory.max": f"{3 * GB}\n"},
        3 * GB, "user/memory.max",
    ),
    "v2, high below max, and low is no limit": (
        {"proc/self/cgroup": "0::/app\n", "proc/self/mountinfo": V2.format(root="/"),
         "sys/fs/cgroup/app/memory.max": f"{4 * GB}\n", "sys/fs/cgroup/app/memory.high": f"{GB}\n",
         "sys/fs/cgroup/app/memory.low": "1000\n"},
        GB, "app/memory.high",
    ),
    "v2 container with a namespace of its own": (
        {"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": V2.format(root="/"),
         "sys/fs/cgroup/memory.max": f"{GB}\n"},
        GB, "cgroup/memory.max",
    ),
    "v1, no limit": (
        {"proc/self/cgroup": "4:memory:/\n", "proc/self/mountinfo": V1.format(root="/"),
         "sys/fs/cgroup/memory/memory.limit_in_bytes": UNLIMITED_V1},
        MACHINE, "the machine",
    ),
    "v1, nested": (
        {"proc/self/cgroup": "5:cpu:/\n4:memory:/jobs/7\n", "proc/self/mountinfo": V1.format(root="/"),
         "sys/fs/cgroup/memory/memory.limit_in_bytes": UNLIMITED_V1,
         "sys/fs/cgroup/memory/jobs/memory.limit_in_bytes": f"{2 * GB}\n",
         "sys/fs/cgroup/memory/jobs/7/memory.limit_in_bytes": f"{5 * GB}\n"},
        2 * GB, "jobs/memory.limit_in_bytes",
    ),
    "v1 container whose path is told from the host": (
        {"proc/self/cgroup": "4:memory:/docker/abc\n", "proc/self/mountinfo": V1.format(root="/docker/abc"),
         "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{512 * 2**20}\n"},
        512 * 2**20, "memory/memory.limit_in_bytes",
    ),
    "v1 and v2 side by side": (
        {"proc/self/cgroup": "4:memory:/a\n0::/b\n",
         "proc/self/mountinfo": V1.format(root="/") + V2.format(root="/").replace("cgroup rw", "cgroup/unified rw"),
         "sys/fs/cgroup/memory/a/memory.limit_in_bytes": f"{3 * GB}\n",
         "sys/fs/cgroup/unified/b/memory.max": f"{2 * GB}\n"},
        2 * GB, "unified/b/memory.max",
    ),
    "a dyno: the limit's file and nothing that leads to it": (
        {"sys/fs/cgroup/memory/memory.limit_in_bytes": f"{512 * 2**20}\n"}, 512 * 2**20, "memory.limit_in_bytes",
    ),
    "what can't be read or makes no sense": (
        {"proc/self/cgroup": "nonsense\n0::/../..\n", "proc/self/mountinfo": "x y z\n" + V2.format(root="/"),
         "sys/fs/cgroup/memory.max": "many\n", "sys/fs/cgroup/memory.high": "0\n"},
        MACHINE, "the machine",
    ),
}  # fmt: skip


def plant(root: Path, files: dict[str, str]) -> None:
    """Write the files of a machine."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize("row", ROWS)
def test_the_limit_is_the_least_of_the_machines_and_every_groups(tmp_path: Path, row: str) -> None:
    """Reading only the topmost group, as is often done, misses the limit of a nested one."""
    files, nbytes, source = ROWS[row]
    plant(tmp_path, {**MEMINFO, **files})
    limit = detect_limit(tmp_path)
    assert limit.nbytes == nbytes
    assert limit.source.endswith(source)


def test_a_machine_that_tells_nothing_has_no_limit(tmp_path: Path) -> None:
    """Guessing one could stop all work; a number so large that it means none is none."""
    assert detect_limit(tmp_path) == Limit(0, "nothing tells")
    plant(tmp_path, {"sys/fs/cgroup/memory/memory.limit_in_bytes": UNLIMITED_V1})
    assert detect_limit(tmp_path) == Limit(0, "nothing tells")


@pytest.mark.parametrize(
    ("wanted", "share", "nbytes"),
    [("auto", 1.0, MACHINE), ("auto", 0.5, MACHINE // 2), (0.25, 0.5, MACHINE // 4), (1.0, 1.0, MACHINE),
     (GB, 0.5, GB), (99 * GB, 1.0, MACHINE), (0, 1.0, 0), (None, 1.0, 0)],
)  # fmt: skip
def test_what_a_user_asks_for_is_bounded_by_what_there_is(
    tmp_path: Path, wanted: int | float | str | None, share: float, nbytes: int
) -> None:
    """Bytes are taken as they are, parts of the machine's, and nothing turns the limit off."""
    plant(tmp_path, MEMINFO)
    assert resolve_limit(wanted, share, tmp_path).nbytes == nbytes  # type: ignore[arg-type]
