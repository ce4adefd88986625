"""Who killed an executor: the kernel for want of memory, or somebody else."""

from __future__ import annotations

from pathlib import Path

import pytest

from futurebroker.worker.outofmemory import RECENT, KillCounts

KILLED = "signal 9 (SIGKILL)"
V1 = "30 25 0:26 / /sys/fs/cgroup/memory rw,nosuid - cgroup cgroup rw,memory\n"
V2 = "31 25 0:27 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"

#: name -> files below the root, and the one whose count rises
ROWS: dict[str, tuple[dict[str, str], str]] = {
    "v2": ({"proc/self/cgroup": "0::/app\n", "proc/self/mountinfo": V2}, "sys/fs/cgroup/app/memory.events"),
    "v2, a group above": (
        {"proc/self/cgroup": "0::/a/b\n", "proc/self/mountinfo": V2},
        "sys/fs/cgroup/a/memory.events",
    ),
    "v1": (
        {"proc/self/cgroup": "4:memory:/app\n", "proc/self/mountinfo": V1},
        "sys/fs/cgroup/memory/app/memory.oom_control",
    ),
}


def write(root: Path, files: dict[str, str]) -> None:
    """A machine of these files."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def counting(kills: int) -> str:
    """As all of these files have it, among others."""
    return f"low 0\nunder_oom 0\noom 7\noom_kill {kills}\noom_kill_disable 0\n"


@pytest.mark.parametrize("row", ROWS)
def test_a_kill_that_a_group_counts_was_the_kernel_s(row: str, tmp_path: Path) -> None:
    """A user who reads that raises the limit, or has less in memory; who doesn't looks for whoever sent a signal."""
    files, counter = ROWS[row]
    write(tmp_path, {**files, counter: counting(3), "proc/vmstat": counting(5)})
    counts = KillCounts(tmp_path)
    assert counts.explain(KILLED, 1.0) == KILLED
    write(tmp_path, {counter: counting(4), "proc/vmstat": counting(6)})
    expected = f"{KILLED} by the kernel, because {(tmp_path / counter).parent} was out of memory"
    assert counts.explain(KILLED, 2.0) == expected
    assert counts.explain("exit code 1", 2.0) == "exit code 1"
    assert counts.explain(KILLED, 2.1 + RECENT) == KILLED


def test_a_kill_that_only_the_machine_counts_may_have_been_another_s(tmp_path: Path) -> None:
    """Any program's kill is counted there."""
    write(tmp_path, {"proc/vmstat": counting(0)})
    counts = KillCounts(tmp_path)
    write(tmp_path, {"proc/vmstat": counting(1)})
    assert "perhaps by the kernel" in counts.explain(KILLED, 1.0)


def test_a_count_that_rose_just_before_the_end_was_seen_still_tells(tmp_path: Path) -> None:
    """Heartbeats look as well, and one may come between the kill and the news of it; an old kill says nothing."""
    write(tmp_path, {"proc/vmstat": counting(0)})
    counts = KillCounts(tmp_path)
    write(tmp_path, {"proc/vmstat": counting(1)})
    counts.look(1.0)
    assert "perhaps by the kernel" in counts.explain(KILLED, 1.5)
    write(tmp_path, {"proc/vmstat": counting(2)})
    counts.look(10.0)
    assert counts.explain(KILLED, 10.1 + RECENT) == KILLED


def test_a_machine_without_counts_says_nothing(tmp_path: Path) -> None:
    """As those that aren't Linux."""
    assert KillCounts(tmp_path).explain(KILLED, 1.0) == KILLED
