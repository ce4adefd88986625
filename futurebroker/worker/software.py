"""Environments on a worker's host: fetched in parts, checked, unpacked once for all workers there, and tried.

They lie in one folder per user and host, named by their hash, each beside its zip, which others fetch from there when
the scheduler doesn't have it any more. Each worker that uses one holds a shared lock on it; the last to let go removes
it, and what a killed worker left is removed when the next environment is unpacked.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hmac
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from futurebroker import __version__
from futurebroker.data.environments import digest_of, find_python, sign, unpack_environment
from futurebroker.exceptions import EnvironmentRefusedError
from futurebroker.processes import without_secret
from futurebroker.protocol.messages import Message, Parcel, ParcelPart, ParcelWanted

#: bytes asked for at a time, and how many such parts may be on their way
PART = 512 * 1024
PARTS = 8
#: seconds to wait for the next part
PART_TIMEOUT = 60.0
#: seconds between looks whether another worker of this host has unpacked it
LOCK_EVERY = 0.1
#: seconds that the interpreter gets to show that it works
TRIAL_TIMEOUT = 60.0
_TRIAL = (
    "import json, sys, futurebroker, futurebroker.worker.child; "
    "print(json.dumps([list(sys.version_info[:2]), futurebroker.__version__, futurebroker.__file__]))"
)


class Software:
    """See the top of this file. Used from the loop's thread only.

    Args:
        secret: of the cluster; signs what may be run.
        send: takes a message for the scheduler.
        base: where the folder of all environments lies; None: the folder for temporary files.
    """

    def __init__(self, secret: bytes, send: Callable[[Message], None], base: str | None = None) -> None:
        self._secret = secret
        self._send = send
        self._root = Path(base or tempfile.gettempdir()) / f"futurebroker-environments-{os.getuid()}"
        self._locks: dict[str, int] = {}
        self._pythons: dict[str, str] = {}
        #: by hash, the environments that were tried
        self._parcels: dict[str, Parcel] = {}
        self._awaited: dict[tuple[str, int], asyncio.Future[ParcelPart]] = {}

    async def find(self, parcel: Parcel) -> str:
        """The path of the environment's interpreter, which has been tried.

        Raises:
            EnvironmentRefusedError: it can't be used; the reason is in it.
            OSError: there is no room for it.
        """
        known = self._pythons.get(parcel.digest)
        if known is not None:
            return known
        expected = sign(self._secret, parcel.name, parcel.digest, parcel.nbytes)
        if not hmac.compare_digest(expected, parcel.signature):
            raise EnvironmentRefusedError(parcel.name, "its signature isn't that of this cluster")
        python = await self._unpacked(parcel)
        await _try(python, parcel.name)
        self._pythons[parcel.digest] = python
        self._parcels[parcel.digest] = parcel
        return python

    def offers(self) -> list[tuple[str, str, int, bytes, str]]:
        """Name, hash, size, signature and Python version of the environments that are here."""
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        return [(one.name, one.digest, one.nbytes, one.signature, version) for one in self._parcels.values()]

    def read(self, wanted: ParcelWanted) -> ParcelPart:
        """Bytes of an environment's zip, for another worker."""
        parcel = self._parcels.get(wanted.digest)
        if parcel is not None:
            with contextlib.suppress(OSError), self._zip(parcel.digest).open("rb") as file:
                data = os.pread(file.fileno(), min(wanted.length, PART), wanted.offset)
                return ParcelPart(wanted.digest, wanted.offset, parcel.nbytes, data)
        return ParcelPart(wanted.digest, wanted.offset, -1, b"")

    def _zip(self, digest: str) -> Path:
        return self._root / f"{digest}.zip"

    def part(self, part: ParcelPart) -> None:
        """Bytes that were asked for."""
        waiting = self._awaited.pop((part.digest, part.offset), None)
        if waiting is not None and not waiting.done():
            waiting.set_result(part)

    async def _unpacked(self, parcel: Parcel) -> str:
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = os.lstat(self._root)
        if status.st_uid != os.getuid() or self._root.is_symlink():
            raise PermissionError(f"{self._root} belongs to somebody else; name another folder for temporary files")
        folder = self._root / parcel.digest
        lock = await self._lock(parcel.digest)
        try:
            if not folder.is_dir():
                self._sweep()
                await self._fetch(parcel, folder)
            fcntl.flock(lock, fcntl.LOCK_SH)
            python = str(find_python(folder, parcel.name))
        except BaseException:
            os.close(lock)
            raise
        self._locks[parcel.digest] = lock
        return python

    async def _lock(self, digest: str) -> int:
        """The lock on an environment: shared if it is there, else exclusive."""
        path = self._root / f"{digest}.lock"
        while True:
            number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            for kind in (fcntl.LOCK_EX, fcntl.LOCK_SH):
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(number, kind | fcntl.LOCK_NB)
                    there = (self._root / digest).is_dir()
                    if _is_same(number, path) and (there or kind == fcntl.LOCK_EX):
                        return number
                    fcntl.flock(number, fcntl.LOCK_UN)
            os.close(number)
            await asyncio.sleep(LOCK_EVERY)

    async def _fetch(self, parcel: Parcel, folder: Path) -> None:
        zipped = self._zip(parcel.digest)
        try:
            with zipped.open("wb") as file:
                await self._receive(parcel, file.fileno())
            if await asyncio.to_thread(digest_of, zipped) != parcel.digest:
                raise EnvironmentRefusedError(parcel.name, "it was changed on the way: its hash is another")
            await asyncio.to_thread(unpack_environment, zipped, folder, parcel.name)
        except BaseException:
            zipped.unlink(missing_ok=True)
            raise

    async def _receive(self, parcel: Parcel, file: int) -> None:
        """Ask for all parts, a few at a time, and write what comes."""
        loop = asyncio.get_running_loop()
        offsets = list(range(0, parcel.nbytes, PART))[::-1]
        on_way: dict[int, asyncio.Future[ParcelPart]] = {}
        try:
            while offsets or on_way:
                while offsets and len(on_way) < PARTS:
                    offset = offsets.pop()
                    on_way[offset] = self._awaited[parcel.digest, offset] = loop.create_future()
                    self._send(ParcelWanted(parcel.digest, offset, PART))
                first = min(on_way)
                part = await asyncio.wait_for(on_way.pop(first), PART_TIMEOUT)
                length = min(PART, parcel.nbytes - first)
                if part.nbytes != parcel.nbytes or len(part.data) != length:
                    raise EnvironmentRefusedError(
                        parcel.name, "the scheduler doesn't have it any more; upload it again"
                    )
                os.pwrite(file, part.data, first)
        finally:
            for offset in on_way:
                self._awaited.pop((parcel.digest, offset), None)

    def _sweep(self) -> None:
        """Remove environments that no worker holds."""
        for path in self._root.glob("*.lock"):
            with contextlib.suppress(OSError):
                _remove_unheld(path)

    def close(self) -> None:
        """Let go of the environments; those that no other worker uses are removed."""
        for digest, lock in self._locks.items():
            os.close(lock)
            with contextlib.suppress(OSError):
                _remove_unheld(self._root / f"{digest}.lock")
        if self._locks:
            self._locks.clear()
            with contextlib.suppress(OSError):
                self._root.rmdir()


def _is_same(number: int, path: Path) -> bool:
    """Whether the open file is still the one at ``path``."""
    try:
        return os.fstat(number).st_ino == os.stat(path).st_ino
    except FileNotFoundError:
        return False


def _remove_unheld(lock: Path) -> None:
    number = os.open(lock, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_same(number, lock):
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
            lock.with_suffix(".zip").unlink(missing_ok=True)
            lock.unlink()
    finally:
        os.close(number)


async def _try(python: str, name: str) -> None:
    """Have the interpreter import our package, and compare versions with ours."""
    process = await asyncio.create_subprocess_exec(
        python, "-I", "-c", _TRIAL,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env=without_secret(os.environ),
    )  # fmt: skip
    try:
        output, errors = await asyncio.wait_for(process.communicate(), TRIAL_TIMEOUT)
    except TimeoutError:
        raise EnvironmentRefusedError(name, f"its Python didn't start within {TRIAL_TIMEOUT:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        words = errors.decode(errors="replace").strip()[-1500:]
        raise EnvironmentRefusedError(name, f"its Python can't run executors: {words or f'exit {process.returncode}'}")
    version, ours, _ = json.loads(output.decode().strip().splitlines()[-1])
    if version != list(sys.version_info[:2]):
        here = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise EnvironmentRefusedError(
            name, f"it is of Python {'.'.join(map(str, version))}, and the worker runs {here}"
        )
    if ours != __version__:
        raise EnvironmentRefusedError(
            name, f"it has futurebroker {ours}, and the worker runs {__version__}; install that version in it"
        )
