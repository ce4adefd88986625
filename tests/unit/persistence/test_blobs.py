"""Values in the database and in a folder: whole or not there, and never anybody else's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, insert, select, update

from futurebroker.exceptions import DatabaseError, LeadershipLostError, SignatureError
from futurebroker.persistence import lease, revisions
from futurebroker.persistence.blobs import PART, Blobs, DatabaseBlobs, FolderBlobs
from futurebroker.persistence.database import open_engine, reading, writing
from futurebroker.persistence.models import lease as leases
from futurebroker.persistence.models import stored_values
from futurebroker.protocol.wire import Seal

VALUE = bytes(range(256)) * 8192 + b"the rest"
#: what files and statements should be made of least of all
KEYS = ["plain", "../../etc/passwd", "a'; DROP TABLE stored_values; --", "ü\n", "k" * 1000]
Opener = Callable[..., Blobs]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """A database with its tables and a leader."""
    engine = open_engine(f"sqlite:///{tmp_path / 'd.db'}")
    revisions.upgrade(engine)
    assert lease.take(engine, "c", lease.Holder("me", "here", "there"), lambda _: False) == 1
    yield engine
    engine.dispose()


@pytest.fixture(params=["database", "folder"])
def blobs(request: pytest.FixtureRequest, engine: Engine, tmp_path: Path) -> Opener:
    """Opens a place of each kind, again and again."""

    def opener(cluster: str = "c", secret: bytes = b"secret") -> Blobs:
        if request.param == "database":
            return DatabaseBlobs(engine, cluster, 1, Seal(secret))
        return FolderBlobs(tmp_path / "store", cluster, Seal(secret))

    return opener


def put(blobs: Blobs, key: str, value: bytes = VALUE, finish: bool = True) -> None:
    """Write a value as an archive does."""
    for part, start in enumerate(range(0, len(value), PART)):
        blobs.write(key, len(value), part, value[start : start + PART])
    if finish:
        blobs.finish(key)


def whole(blobs: Blobs, key: str) -> bytes:
    """The value of a key."""
    data = b""
    while True:
        found = blobs.read(key, len(data) // PART)
        assert found is not None
        data += found[1]
        if len(data) == found[0]:
            return data


@pytest.mark.parametrize("key", KEYS)
def test_a_value_comes_back_in_another_process(blobs: Opener, key: str, tmp_path: Path) -> None:
    """Whatever its key is: that never names a file."""
    put(blobs(), key)
    again = blobs()
    assert again.held() == [(key, len(VALUE))]
    assert whole(again, key) == VALUE
    again.delete([key])
    assert (again.held(), again.read(key, 0)) == ([], None)
    assert all(path.name in ("store", "d.db", "d.db-wal", "d.db-shm") for path in tmp_path.iterdir())


def test_half_a_value_is_none(blobs: Opener) -> None:
    """Its writer was killed; what it left is removed."""
    one = blobs()
    for part in range(2):
        one.write("half", len(VALUE), part, VALUE[part * PART : (part + 1) * PART])
    put(one, "whole")
    assert blobs().held() == [("whole", len(VALUE))]
    assert blobs().read("half", 0) is None


def test_a_value_that_comes_again_takes_the_place_of_the_former(blobs: Opener) -> None:
    """Also a shorter one: no part of the former is left."""
    one = blobs()
    put(one, "key")
    put(one, "key", b"short")
    assert one.held() == [("key", 5)]
    assert (whole(one, "key"), one.read("key", 1)) == (b"short", None)


def test_another_secret_opens_nothing(blobs: Opener) -> None:
    """And says so, before anything is parsed."""
    put(blobs(), "key")
    with pytest.raises(SignatureError):
        blobs(secret=b"another").read("key", 0)


def test_a_value_moved_to_another_key_is_noticed(engine: Engine) -> None:
    """A seal is bound to key, size and part."""
    blobs = DatabaseBlobs(engine, "c", 1, Seal(b"secret"))
    put(blobs, "a")
    put(blobs, "b", VALUE[::-1])
    table = stored_values
    with reading(engine) as connection:
        body = connection.execute(select(table.c.body).where(table.c.key == "a", table.c.part == 0)).scalar_one()
    with writing(engine) as connection:
        connection.execute(update(table).where(table.c.key == "b", table.c.part == 0).values(body=body))
    with pytest.raises(SignatureError):
        blobs.read("b", 0)


def test_clusters_of_one_database_keep_apart(engine: Engine) -> None:
    """Each finds its own, and deletes only that."""
    with writing(engine) as connection:
        row = connection.execute(select(leases)).one()
        connection.execute(insert(leases).values(**{**row._mapping, "cluster": "other"}))
    one, other = (DatabaseBlobs(engine, cluster, 1, Seal(b"secret")) for cluster in ("c", "other"))
    put(one, "key")
    put(other, "key", b"others")
    one.delete(["key"])
    assert (one.held(), other.held()) == ([], [("key", 6)])


def test_who_does_not_lead_any_more_writes_and_deletes_nothing(engine: Engine) -> None:
    """A scheduler that was thought dead must not touch what the next one counts on."""
    put(DatabaseBlobs(engine, "c", 1, Seal(b"secret")), "key")
    zombie = DatabaseBlobs(engine, "c", 0, Seal(b"secret"))
    zombie.delete(["key"])
    with pytest.raises(LeadershipLostError):
        zombie.write("new", 3, 0, b"abc")
    assert zombie.held() == [("key", len(VALUE))]


def test_a_folder_that_can_not_be_used_is_said(tmp_path: Path) -> None:
    """With its name, and as an error that who asked expects."""
    (tmp_path / "store").write_text("a file")
    blobs = FolderBlobs(tmp_path / "store", "c", Seal(b"secret"))
    with pytest.raises(DatabaseError, match="store"):
        blobs.held()
    with pytest.raises(DatabaseError, match="store"):
        put(blobs, "key")


def test_a_strange_file_in_the_folder_does_no_harm(tmp_path: Path) -> None:
    """It isn't ours, and stays."""
    store = tmp_path / "store"
    store.mkdir()
    (store / "notes").write_text("mine")
    (store / ("0" * 64)).write_bytes(b"FBS1" + b"\xff" * 40)
    blobs = FolderBlobs(store, "c", Seal(b"secret"))
    put(blobs, "key")
    assert blobs.held() == [("key", len(VALUE))]
    assert (store / "notes").read_text() == "mine"
