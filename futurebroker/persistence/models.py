"""The tables, as SQLAlchemy describes them; `migrations` makes them, and a test holds the two to each other.

Times are seconds since 1970 by the database's clock. What is large or opaque is a blob that carries a signature, see
`protocol.wire.Keyring.seal_stored`.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Double, Index, Integer, LargeBinary, MetaData, String, Table, Text

metadata = MetaData()

#: who leads a cluster; the epoch grows each time somebody else takes it
lease = Table(
    "lease",
    metadata,
    Column("cluster", String(64), primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    Column("holder", String(200), nullable=False),  #: incarnation of the scheduler
    Column("process", String(200), nullable=False),  #: as `processes.identity` names it, to see that it has ended
    Column("address", String(500), nullable=False),  #: where it serves, for people
    Column("renewed_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
)

#: what must survive, a row a batch; a row's number is never used twice, which fences who was thought dead
journal = Table(
    "journal",
    metadata,
    Column("cluster", String(64), primary_key=True),
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("epoch", BigInteger, nullable=False),
    Column("made_at", Double, nullable=False),
    Column("body", LargeBinary, nullable=False),
)

#: what journal rows up to ``sequence`` come to, in ``parts`` rows; counts only when all are there
checkpoints = Table(
    "checkpoints",
    metadata,
    Column("cluster", String(64), primary_key=True),
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("part", Integer, primary_key=True, autoincrement=False),
    Column("parts", Integer, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("made_at", Double, nullable=False),
    Column("body", LargeBinary, nullable=False),
)

#: durable results and datasets that are too large for the journal, in parts
stored_values = Table(
    "stored_values",
    metadata,
    Column("cluster", String(64), primary_key=True),
    Column("name", String(64), primary_key=True),  #: digest of the key: a key may be long and hold anything
    Column("part", Integer, primary_key=True, autoincrement=False),
    Column("key", Text, nullable=False),
    Column("nbytes", BigInteger, nullable=False),  #: of the whole
    Column("made_at", Double, nullable=False),
    Column("body", LargeBinary, nullable=False),
)

#: kept results that have left the scheduler's memory; a row is deleted when its time has come
kept_results = Table(
    "kept_results",
    metadata,
    Column("cluster", String(64), primary_key=True),
    Column("name", String(64), primary_key=True),  #: digest of the key
    Column("ends_at", Double, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Index("ix_kept_results_ends", "cluster", "ends_at"),
)

#: workers that are or were there; written with the history
workers = Table(
    "workers",
    metadata,
    Column("cluster", String(64), primary_key=True),
    Column("worker", String(200), primary_key=True),  #: its id
    Column("name", String(200), nullable=False),
    Column("host", String(200), nullable=False),
    Column("about", Text, nullable=False),  #: JSON
    Column("joined_at", Double, nullable=False),
    Column("left_at", Double, nullable=True),
    Index("ix_workers_joined", "cluster", "joined_at"),
)

#: what is published, kept by the journal's writer in the transactions of its rows; what must survive is the journal's
datasets = Table(
    "datasets",
    metadata,
    Column("cluster", String(64), primary_key=True),
    Column("name", String(200), primary_key=True),
    Column("type", String(200), nullable=False),  #: name of the value's type
    Column("size", BigInteger, nullable=False),  #: bytes, with the results behind it that are there
    Column("parts", Integer, nullable=False),  #: results behind it
    Column("persist", String(20), nullable=False),  #: database, store, or empty
    Column("who", String(200), nullable=False),  #: user and host
    Column("client", String(200), nullable=False),
    Column("program", String(500), nullable=False),
    Column("published_at", Double, nullable=False),  #: by the publisher's clock
    Column("graph", String(64), nullable=False),  #: digest of how it is computed; empty if that is not known
    Column("graph_tasks", Integer, nullable=False),
    Column("environment", Text, nullable=False),  #: JSON
)
