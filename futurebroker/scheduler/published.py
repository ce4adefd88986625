"""Published datasets as records: what is kept under a name, by whose wish, and what of it is yet to be stored."""

from __future__ import annotations

from typing import Any

import msgspec

from futurebroker.types import ClientId, Key

#: what the names of archives begin with, among those of workers
ARCHIVE = "archive:"
#: the one that durable results are in which are too large for the journal
DURABLE = ARCHIVE + "database"


class Metadata:
    """What clients keep under keys of theirs (see `metadata`), and about how many bytes that are."""

    def __init__(self) -> None:
        self.data: dict[Any, Any] = {}
        self.nbytes = 0


class About(msgspec.Struct, omit_defaults=True):
    """What the publisher tells of a dataset, for people."""

    type: str = ""  #: name of the value's type
    who: str = ""  #: user and host
    program: str = ""
    when: float = 0.0  #: seconds since 1970, by the publisher's clock
    environment: dict[str, str] = {}  #: see `client.environment`


class Entry(msgspec.Struct, omit_defaults=True):
    """One dataset on its way to be published."""

    name: str
    item: bytes = b""  #: the pickled value with futures in it, if that is small
    data: Key = ""  #: else the key of scattered data that holds the same
    keys: list[Key] = []  #: of the futures in the value
    persist: str = ""  #: the archive that must hold it; empty for none
    about: About = msgspec.field(default_factory=About)


class Dataset(msgspec.Struct):
    """One published dataset."""

    entry: Entry
    client: ClientId  #: who published it
    op: str = ""  #: of the request that did, by which it is known when it comes again
    size: int = 0  #: bytes of the value without what is behind its futures
    graph: str = ""  #: digest of how it is computed; see `datasets.digest_of`
    graph_tasks: int = 0  #: tasks that went into the digest
    unready: int = 0  #: of its keys that have no result yet, as far as `catalog` asks
    #: keys that its archive doesn't hold yet
    unstored: dict[Key, None] = msgspec.field(default_factory=dict)
    #: why the last attempt to store one of them failed
    trouble: str = ""

    @property
    def place(self) -> str:
        """On behalf of what its keys are wanted."""
        return f"dataset:{self.entry.name}"

    @property
    def keys(self) -> list[Key]:
        """All keys that it needs."""
        entry = self.entry
        return [*entry.keys, entry.data] if entry.data else entry.keys


class Asker(msgspec.Struct):
    """Who is told when datasets are stored."""

    client: ClientId
    number: int
    names: list[str]


class Published:
    """All of it."""

    def __init__(self) -> None:
        self.datasets: dict[str, Dataset] = {}
        #: keys to be stored, and the names of the datasets that wait for each
        self.unstored: dict[Key, dict[str, None]] = {}
        #: keys of these that came to an end in this event; looked at before it is over
        self.ended: list[Key] = []
        self.askers: list[Asker] = []
        #: names of datasets that have changed since the database was told; see `catalog`
        self.changed: dict[str, None] = {}
        #: keys without a result yet, and the names of the datasets whose size isn't known before
        self.unready: dict[Key, dict[str, None]] = {}
