"""How long all stood still for want of memory, in the files of the kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

from futurebroker.worker.pressure import EVERY, Pressure

V2 = "31 25 0:27 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"


def write(root: Path, files: dict[str, str]) -> None:
    """A machine of these files."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def stalls(percent: float | str) -> str:
    """As the kernel writes it: some stood still longer than all did."""
    return f"some avg10=77.00 avg60=1.00 avg300=0.00 total=9\nfull avg10={percent} avg60=0.10 avg300=0.00 total=5\n"


def test_the_innermost_group_tells_more_than_the_machine(tmp_path: Path) -> None:
    """Its limit may be what holds it up, and others of the machine go on."""
    write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/a/b\n",
            "proc/self/mountinfo": V2,
            "proc/pressure/memory": stalls(1.0),
            "sys/fs/cgroup/a/memory.pressure": stalls(2.0),
            "sys/fs/cgroup/a/b/memory.pressure": stalls(25.5),
        },
    )
    assert Pressure(tmp_path).look(0.0) == pytest.approx(0.255)
    (tmp_path / "sys/fs/cgroup/a/b/memory.pressure").unlink()
    assert Pressure(tmp_path).look(0.0) == pytest.approx(0.02)


def test_it_is_looked_at_as_often_as_the_kernel_renews_it(tmp_path: Path) -> None:
    """Memory itself is looked at a hundred times a second."""
    write(tmp_path, {"proc/pressure/memory": stalls(12.0)})
    pressure = Pressure(tmp_path)
    assert pressure.look(5.0) == pytest.approx(0.12)
    write(tmp_path, {"proc/pressure/memory": stalls(0.0)})
    assert pressure.look(5.0 + EVERY / 2) == pytest.approx(0.12)
    assert pressure.look(5.0 + EVERY) == 0.0
    (tmp_path / "proc/pressure/memory").unlink()
    assert pressure.look(9.0) == 0.0


@pytest.mark.parametrize("text", [None, "", "full\n", stalls("x"), "some avg10=50.00 avg60=0.00\n"])
def test_a_kernel_that_does_not_tell_means_none(tmp_path: Path, text: str | None) -> None:
    """Version 1 of cgroups, an older kernel, or one that was told not to measure."""
    if text is not None:
        write(tmp_path, {"proc/pressure/memory": text})
    assert Pressure(tmp_path).look(0.0) == 0.0
