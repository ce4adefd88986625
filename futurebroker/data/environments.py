"""Software environments as zip files: packing a folder with a Python in it, and unpacking one that may be hostile.

A zip keeps modes and the links inside the folder. Links that lead out of it, as a venv has to its interpreter, are
packed as what they point to. Compiled bytecode is left out: it is made anew where the environment runs.

This is experimental: names may change before version 1.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import posixpath
import re
import shutil
import stat
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from futurebroker.exceptions import EnvironmentRefusedError

#: what an environment may have
ENTRIES_MAX = 300_000
BYTES_MAX = 20 * 1024**3
#: how many times larger than its zip the whole may be; text compresses tenfold at most, bombs a thousandfold
RATIO_MAX = 60
#: bytes below which the ratio says nothing
RATIO_FROM = 100 * 1024 * 1024
_LINK_MAX = 4096
_BLOCK = 1024 * 1024
_PYTHONS = ("bin/python3", "bin/python", "python3", "python")
_LIBRARY = re.compile(r"(?:^|/)lib/python(\d+\.\d+)/")
_PACKAGE = re.compile(r"(?:^|/)(?:site|dist)-packages/futurebroker/__init__\.py$")


def pack_environment(path: str | os.PathLike[str], output: str | os.PathLike[str] | None = None) -> Path:
    """Zip the environment in the folder ``path`` for `Client.upload_environment`; returns the zip's path.

    Experimental. Any relocatable folder will do: a venv (whose base Python must then be on the workers' machines, at
    the same place), a conda environment prepared by conda-pack, or a stand-alone Python. futurebroker must be installed
    in it, and not as an editable install.

    Args:
        output: where to write; by default the folder's name with ``.zip``, in the current folder.

    Raises:
        EnvironmentRefusedError: it holds no Python of this minor version, or not our package.
        OSError: it can't be read, or the zip not written.
    """
    folder = Path(path).resolve()
    if not folder.is_dir():
        raise EnvironmentRefusedError(str(path), "there is no such folder")
    target = Path(output) if output is not None else Path.cwd() / f"{folder.name}.zip"
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for relative in _files(folder):
                if (folder / relative).absolute() != temporary.absolute():
                    _add(archive, folder, relative)
        check_environment(temporary, str(path))
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return target


def _files(folder: Path) -> Iterable[str]:
    """All that is to be packed, relative to the folder; folders only where they are links or empty."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        folders[:] = [name for name in folders if name not in links]
        for name in sorted([*names, *links]):
            if not name.endswith(".pyc"):
                yield os.path.relpath(os.path.join(place, name), folder)


def _add(archive: zipfile.ZipFile, folder: Path, relative: str) -> None:
    source = folder / relative
    if source.is_symlink():
        target = os.readlink(source)
        if _leads_inside(relative, target) and source.exists():
            entry = zipfile.ZipInfo(relative)
            entry.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(entry, target)
            return
        resolved = source.resolve()
        if resolved.is_relative_to(folder) and resolved.exists():  # an absolute link to what is inside
            entry = zipfile.ZipInfo(relative)
            entry.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(entry, os.path.relpath(resolved, source.parent))
            return
        if resolved.is_dir():
            raise EnvironmentRefusedError(str(folder), f"{relative} is a link to a folder outside of it, {resolved}")
        if not resolved.is_file():
            return  # leads nowhere, as it does where it stands
    elif not source.is_file():
        return  # sockets and the like are not part of software
    archive.write(source, relative)


def _leads_inside(relative: str, target: str) -> bool:
    """Whether a link at ``relative`` with this text stays within the folder."""
    if not target or posixpath.isabs(target) or "\0" in target or "\\" in target:
        return False
    return not posixpath.normpath(posixpath.join(posixpath.dirname(relative), target)).startswith("..")


# -- checking ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EnvironmentFacts:
    """What a look into the zip tells."""

    python: str  #: minor version, as in 3.11
    prefix: str  #: the one folder that everything lies in, with a slash; empty if there is none
    entries: int
    nbytes: int  #: unpacked


def check_environment(path: str | os.PathLike[str], name: str) -> EnvironmentFacts:
    """Look whether the zip at ``path`` is an environment that this version's executors could run in.

    Raises:
        EnvironmentRefusedError: it isn't; nothing has been unpacked.
        OSError: it can't be read.
    """
    if not zipfile.is_zipfile(path):
        raise EnvironmentRefusedError(name, f"{os.fspath(path)} is not a zip file; make one with pack_environment")
    try:
        with zipfile.ZipFile(path) as archive:
            return _look(archive, os.path.getsize(path), name)
    except (zipfile.BadZipFile, UnicodeDecodeError, NotImplementedError) as error:
        raise EnvironmentRefusedError(name, f"the zip is damaged: {error}") from None


def _look(archive: zipfile.ZipFile, packed: int, name: str) -> EnvironmentFacts:
    entries = archive.infolist()
    total = sum(entry.file_size for entry in entries)
    _check_sizes(name, len(entries), total, packed)
    _check_names(name, archive, entries)
    names = {entry.filename for entry in entries}
    prefix = _common_folder(names)
    if find_python_in(names, prefix) is None:
        raise EnvironmentRefusedError(name, "it holds no Python: there is no bin/python3 or bin/python")
    versions = {match[1] for entry in names if (match := _LIBRARY.search(entry))}
    ours = f"{sys.version_info.major}.{sys.version_info.minor}"
    if versions and ours not in versions:
        raise EnvironmentRefusedError(
            name, f"it is of Python {', '.join(sorted(versions))}, and the workers run {ours}; make it with that"
        )
    if not any(_PACKAGE.search(entry) for entry in names):
        raise EnvironmentRefusedError(
            name, "futurebroker isn't installed in it, or only as an editable install; install it there"
        )
    return EnvironmentFacts(ours, prefix, len(entries), total)


def _check_sizes(name: str, count: int, total: int, packed: int) -> None:
    if count > ENTRIES_MAX:
        raise EnvironmentRefusedError(name, f"it has {count:,} entries, more than the {ENTRIES_MAX:,} it may")
    if total > BYTES_MAX:
        raise EnvironmentRefusedError(name, f"unpacked it has {total:,} bytes, more than the {BYTES_MAX:,} it may")
    if total > RATIO_FROM and total > packed * RATIO_MAX:
        raise EnvironmentRefusedError(name, f"it unpacks to {total:,} bytes from {packed:,}, which no software does")


def _check_names(name: str, archive: zipfile.ZipFile, entries: list[zipfile.ZipInfo]) -> None:
    """Every entry stays inside, none is written through a link, and none comes twice."""
    seen: set[str] = set()
    links: set[str] = set()
    for entry in entries:
        path = entry.filename.rstrip("/")
        if _leaves(entry.filename):
            raise EnvironmentRefusedError(name, f"the entry {entry.filename!r} leads out of the folder")
        if path in seen:
            raise EnvironmentRefusedError(name, f"the entry {path!r} comes twice")
        seen.add(path)
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind == stat.S_IFLNK:
            links.add(path)
            text = archive.read(entry).decode() if entry.file_size <= _LINK_MAX else ""
            if not _leads_inside(path, text):
                raise EnvironmentRefusedError(name, f"the link {path!r} leads out of the folder")
        elif kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise EnvironmentRefusedError(name, f"the entry {path!r} is neither file, folder nor link")
    if links:
        for path in seen:
            above = PurePosixPath(path).parents
            if any(str(folder) in links for folder in above):
                raise EnvironmentRefusedError(name, f"the entry {path!r} lies behind a link")


def _leaves(path: str) -> bool:
    parts = path.split("/")
    return posixpath.isabs(path) or ".." in parts or "\\" in path or "\0" in path or ":" in parts[0] or not path


def _common_folder(names: set[str]) -> str:
    """The folder that all lies in, as whoever zips a folder from outside has it."""
    firsts = {name.partition("/")[0] for name in names}
    if len(firsts) == 1 and all("/" in name for name in names):
        return firsts.pop() + "/"
    return ""


def find_python_in(names: Iterable[str], prefix: str = "") -> str | None:
    """The entry that is the interpreter."""
    known = set(names)
    return next((place for place in _PYTHONS if prefix + place in known), None)


# -- unpacking -----------------------------------------------------------------------------------------------------


def unpack_environment(path: Path, target: Path, name: str) -> Path:
    """Unpack the zip at ``path`` to the new folder ``target``; returns the interpreter in it.

    Links are made last, so that nothing is written through one. ``target`` appears all at once or not at all.

    Raises:
        EnvironmentRefusedError: see `check_environment`; nothing is left.
        OSError: the disk is full, or can't be written to.
    """
    facts = check_environment(path, name)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        links: list[tuple[Path, str]] = []
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                _unpack_entry(archive, entry, temporary, facts.prefix, links)
        for place, text in links:
            place.parent.mkdir(parents=True, exist_ok=True)
            os.symlink(text, place)
        temporary.rename(target)
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise EnvironmentRefusedError(name, f"the zip is damaged: {error}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return find_python(target, name)


def _unpack_entry(
    archive: zipfile.ZipFile, entry: zipfile.ZipInfo, folder: Path, prefix: str, links: list[tuple[Path, str]]
) -> None:
    relative = entry.filename.removeprefix(prefix)
    if not relative:
        return
    place = folder / relative
    mode = entry.external_attr >> 16
    if stat.S_ISLNK(mode):
        links.append((place, archive.read(entry).decode()))
        return
    if entry.is_dir():
        place.mkdir(parents=True, exist_ok=True)
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    left = entry.file_size  # the check added these up: nothing may have more
    with archive.open(entry) as source, place.open("xb") as sink:
        while block := source.read(min(_BLOCK, left + 1)):
            left -= len(block)
            if left < 0:
                raise zipfile.BadZipFile(f"{entry.filename} is longer than it says")
            sink.write(block)
    # Neither other people's write permission nor set-user-id has a place here.
    place.chmod((mode & 0o755 or 0o644) | 0o600)


def find_python(folder: Path, name: str) -> Path:
    """The interpreter of an unpacked environment."""
    for place in _PYTHONS:
        if (folder / place).is_file():
            return folder / place
    raise EnvironmentRefusedError(name, "it holds no Python: there is no bin/python3 or bin/python")


# -- what proves that it is the one ---------------------------------------------------------------------------------


def digest_of(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sign(secret: bytes, name: str, digest: str, nbytes: int) -> bytes:
    """A signature of an environment that who doesn't know the cluster's secret can't make."""
    key = hmac.digest(secret, b"futurebroker environment", "sha256")
    return hmac.digest(key, f"{name}\0{digest}\0{nbytes}".encode(), "sha256")
