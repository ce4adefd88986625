"""How much memory a worker may take: the least of what its user, the machine and every cgroup around it allow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

#: files that hold a group's limit in bytes, or "max"; "low" and "min" are guarantees, no limits
_FILES = {"cgroup2": ("memory.max", "memory.high"), "cgroup": ("memory.limit_in_bytes",)}
#: bytes from which a limit is taken to mean none, where nothing tells what the machine has
NO_LIMIT = 10**12
#: where the groups are when nothing tells
_USUAL = (("cgroup2", "sys/fs/cgroup"), ("cgroup", "sys/fs/cgroup/memory"))


@dataclass(frozen=True, slots=True)
class Limit:
    """Bytes of memory, and what sets them: "the machine", or the file of a cgroup; 0 bytes: nobody knows."""

    nbytes: int
    source: str


def detect_limit(root: Path = Path("/")) -> Limit:
    """The least of the machine's memory and the limits of all cgroups that this process is in.

    Inside a container the machine's memory is that of its host, so it isn't enough to look at that.

    Args:
        root: where to find ``proc`` and ``sys``.
    """
    machine = _machine_memory(root)
    found = [Limit(nbytes, str(path)) for path, nbytes in _group_limits(root) if machine or nbytes < NO_LIMIT]
    if machine:
        found.insert(0, Limit(machine, "the machine"))
    return min(found, key=lambda limit: limit.nbytes, default=Limit(0, "nothing tells"))


def resolve_limit(wanted: int | float | Literal["auto"] | None, share: float = 1.0, root: Path = Path("/")) -> Limit:
    """The limit of a worker, in bytes; 0 bytes: none.

    Args:
        wanted: bytes; a float up to 1: that part of what there is; "auto": ``share`` of it; None or 0: no limit.
        share: of workers on one machine, what each gets.
    """
    if not wanted:
        return Limit(0, "memory_limit")
    found = detect_limit(root)
    if wanted == "auto":
        return Limit(int(found.nbytes * share), found.source)
    if isinstance(wanted, float) and wanted <= 1:
        return Limit(int(found.nbytes * wanted), found.source)
    if found.nbytes and wanted > found.nbytes:
        return found
    return Limit(int(wanted), "memory_limit")


def _machine_memory(root: Path) -> int:
    for line in _lines(root / "proc/meminfo"):
        name, _, rest = line.partition(":")
        if name == "MemTotal":
            number = rest.split()[:1]
            return int(number[0]) * 1024 if number and number[0].isdecimal() else 0
    return 0


def _group_limits(root: Path) -> Iterator[tuple[Path, int]]:
    """The limits of all groups that contain this process, as far as they can be seen from here."""
    for file in group_files(root, _FILES):
        if (nbytes := _read_limit(file)) is not None:
            yield file, nbytes


def group_files(root: Path, names: Mapping[str, tuple[str, ...]]) -> Iterator[Path]:
    """Files of those names, by kind of hierarchy, of all groups that contain this process; they may not be there."""
    groups = dict(_own_groups(root))
    for kind, base, mount in _mounts(root):
        path = PurePosixPath(groups.get(kind, "/"))
        # What is mounted may be a group below the root: a container's own, whose path is still told from the host's.
        inside = path.relative_to(base) if path.is_relative_to(base) else PurePosixPath(*path.parts[1:])
        for group in (inside, *inside.parents):
            if ".." in group.parts:
                continue
            for name in names.get(kind, ()):
                yield mount / group / name


def _own_groups(root: Path) -> Iterator[tuple[str, str]]:
    """By kind of hierarchy, the path of the group that this process is in."""
    for line in _lines(root / "proc/self/cgroup"):
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            yield "cgroup2", path
        elif "memory" in controllers.split(","):
            yield "cgroup", path


def _mounts(root: Path) -> list[tuple[str, str, Path]]:
    """Kind, path of the group at its top, and place of each mounted hierarchy that can limit memory."""
    mounts = []
    for line in _lines(root / "proc/self/mountinfo"):
        left, _, right = line.partition(" - ")
        fields, kinds = left.split(), right.split()
        if len(fields) < 5 or len(kinds) < 3:
            continue
        if kinds[0] == "cgroup2" or (kinds[0] == "cgroup" and "memory" in kinds[2].split(",")):
            mounts.append((kinds[0], fields[3], root / fields[4].lstrip("/")))
    return mounts or [(kind, "/", root / place) for kind, place in _USUAL]


def _read_limit(file: Path) -> int | None:
    text = "".join(_lines(file)).strip()
    return int(text) if text.isdecimal() and int(text) > 0 else None


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text("utf-8", "replace").splitlines()
    except OSError:
        return []
