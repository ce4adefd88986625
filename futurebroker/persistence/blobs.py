"""Where archives keep values: in the database, or as files in a folder; sealed, in parts, by the digest of their key.

A value is whole when all its parts are there. Keys never become file names or SQL; what is read is checked before it is
given away.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from sqlalchemy import Engine, and_, delete, exists, func, insert, literal, select

from futurebroker.exceptions import DatabaseError, LeadershipLostError
from futurebroker.persistence.database import clock, reading, shown, writing
from futurebroker.persistence.models import lease, stored_values
from futurebroker.protocol.wire import Seal
from futurebroker.types import Key

#: bytes of a value in each part but the last
PART = 1024 * 1024
#: bytes that a seal adds
_SEAL = 32
#: rows deleted at a time
ROWS_DELETED = 64
#: what files begin with: a mark, then the length of the key, the bytes of the value
_HEAD = struct.Struct("<4sIQ")
_MARK = b"FBS1"


class Blobs(Protocol):
    """One place for values; all methods block, and are used from one thread at a time.

    Each raises `DatabaseError` if the place can't be used.
    """

    def held(self) -> list[tuple[Key, int]]:
        """Keys and bytes of what is whole; the rest is removed."""

    def write(self, key: Key, nbytes: int, part: int, body: bytes) -> None:
        """Keep a part of a value of ``nbytes`` bytes; the first takes the place of all that was there."""

    def finish(self, key: Key) -> None:
        """All parts were written."""

    def read(self, key: Key, part: int) -> tuple[int, bytes] | None:
        """The bytes of the whole value, and this part of it; None if it isn't there. Raises SignatureError as well."""

    def delete(self, keys: Iterable[Key]) -> None:
        """Remove values, whole or not."""

    def close(self) -> None:
        """Let go of it. May be called twice."""


def _digest(key: Key) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _place(cluster: str, key: Key, nbytes: int, part: int) -> str:
    """What the seal of a part is bound to."""
    return f"part {part} of the {nbytes} bytes of {key} of cluster {cluster}"


class DatabaseBlobs:
    """Values as rows of the table ``stored_values``, written and deleted only while ``epoch`` leads."""

    def __init__(self, engine: Engine, cluster: str, epoch: int, seal: Seal) -> None:
        self._engine = engine
        self._cluster = cluster
        self._epoch = epoch
        self._seal = seal

    def held(self) -> list[tuple[Key, int]]:
        """See `Blobs.held`."""
        table = stored_values
        query = (
            select(table.c.key, table.c.nbytes, func.sum(func.length(table.c.body) - _SEAL).label("there"))
            .where(table.c.cluster == self._cluster)
            .group_by(table.c.name, table.c.key, table.c.nbytes)
        )
        with reading(self._engine) as connection:
            rows = connection.execute(query).all()
        whole = {row.key: int(row.nbytes) for row in rows if row.there == row.nbytes}
        self.delete(row.key for row in rows if row.key not in whole)
        return list(whole.items())

    def write(self, key: Key, nbytes: int, part: int, body: bytes) -> None:
        """See `Blobs.write`."""
        table = stored_values
        if not part:
            self.delete([key])
        blob = self._seal.close(_place(self._cluster, key, nbytes, part), body)
        made = select(
            literal(self._cluster), literal(_digest(key)), literal(part), literal(key), literal(nbytes),
            clock(self._engine), literal(blob, table.c.body.type),
        ).where(self._leads())  # fmt: skip
        names = ["cluster", "name", "part", "key", "nbytes", "made_at", "body"]
        with writing(self._engine) as connection:
            done = connection.execute(insert(table).from_select(names, made))
        if done.rowcount != 1:
            raise LeadershipLostError(shown(self._engine), f"another scheduler leads cluster {self._cluster}")

    def finish(self, key: Key) -> None:
        """See `Blobs.finish`: each part was committed already."""

    def read(self, key: Key, part: int) -> tuple[int, bytes] | None:
        """See `Blobs.read`."""
        table = stored_values
        query = select(table.c.nbytes, table.c.body).where(
            and_(table.c.cluster == self._cluster, table.c.name == _digest(key), table.c.part == part)
        )
        with reading(self._engine) as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            return None
        place = _place(self._cluster, key, row.nbytes, part)
        return int(row.nbytes), bytes(self._seal.open(place, row.body))

    def delete(self, keys: Iterable[Key]) -> None:
        """See `Blobs.delete`."""
        table = stored_values
        for key in keys:
            here = and_(table.c.cluster == self._cluster, table.c.name == _digest(key))
            with reading(self._engine) as connection:
                last = connection.execute(select(func.max(table.c.part)).where(here)).scalar_one()
            # From the end: what is left of it isn't whole.
            for first in range(last if last is not None else -1, -1, -ROWS_DELETED):
                some = and_(here, table.c.part > first - ROWS_DELETED, table.c.part <= first, self._leads())
                with writing(self._engine) as connection:
                    connection.execute(delete(table).where(some))

    def _leads(self) -> exists:  # type: ignore[valid-type]
        return exists().where(and_(lease.c.cluster == self._cluster, lease.c.epoch == self._epoch))

    def close(self) -> None:
        """See `Blobs.close`."""
        self._engine.dispose()


class FolderBlobs:
    """Values as files of one folder; a file has its name from when it is whole.

    A folder that others can write to is safe to read: a part that was altered, or moved, doesn't fit its seal.
    """

    def __init__(self, folder: Path, cluster: str, seal: Seal) -> None:
        self._folder = folder
        self._cluster = cluster
        self._seal = seal

    def held(self) -> list[tuple[Key, int]]:
        """See `Blobs.held`."""
        found = []
        with self._explaining():
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            for path in sorted(self._folder.iterdir()):
                if path.suffix == ".part":
                    path.unlink()
                    continue
                head = self._head(path)
                if head is not None:
                    found.append(head[:2])
        return found

    def _head(self, path: Path) -> tuple[Key, int, int] | None:
        """Key and bytes of the value of a whole file, and where its first part begins; None if it is another's."""
        with path.open("rb") as file:
            start = file.read(_HEAD.size)
            if len(start) < _HEAD.size:
                return None
            mark, length, nbytes = _HEAD.unpack(start)
            if mark != _MARK or length > _SEAL * 1024:
                return None
            key = file.read(length).decode("utf-8", "replace")
            parts = max(1, -(-nbytes // PART))
            begin = _HEAD.size + length
            whole = os.fstat(file.fileno()).st_size == begin + nbytes + parts * _SEAL
        return (key, nbytes, begin) if whole and path.name == _digest(key) else None

    def write(self, key: Key, nbytes: int, part: int, body: bytes) -> None:
        """See `Blobs.write`."""
        blob = self._seal.close(_place(self._cluster, key, nbytes, part), body)
        with self._explaining():
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with self._unfinished(key).open("ab" if part else "wb") as file:
                if not part:
                    name = key.encode()
                    file.write(_HEAD.pack(_MARK, len(name), nbytes) + name)
                file.write(blob)

    def finish(self, key: Key) -> None:
        """See `Blobs.finish`."""
        with self._explaining():
            with self._unfinished(key).open("rb") as file:
                os.fsync(file.fileno())
            self._unfinished(key).rename(self._folder / _digest(key))

    def read(self, key: Key, part: int) -> tuple[int, bytes] | None:
        """See `Blobs.read`."""
        path = self._folder / _digest(key)
        with self._explaining():
            try:
                head = self._head(path)
                if head is None or head[0] != key or part * PART >= max(1, head[1]):
                    return None
                with path.open("rb") as file:
                    file.seek(head[2] + part * (PART + _SEAL))
                    blob = file.read(PART + _SEAL)
            except FileNotFoundError:
                return None
        return head[1], bytes(self._seal.open(_place(self._cluster, key, head[1], part), blob))

    def delete(self, keys: Iterable[Key]) -> None:
        """See `Blobs.delete`."""
        with self._explaining():
            for key in keys:
                (self._folder / _digest(key)).unlink(missing_ok=True)
                self._unfinished(key).unlink(missing_ok=True)

    def _unfinished(self, key: Key) -> Path:
        return self._folder / f"{_digest(key)}.part"

    @contextlib.contextmanager
    def _explaining(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DatabaseError(str(self._folder), f"{error.strerror or error}") from error

    def close(self) -> None:
        """See `Blobs.close`."""
