"""Who leads a cluster: one row, taken by the database's clock, with an epoch that grows each time.

A leader renews its lease; one that doesn't, or whose process is seen to be dead, is followed by whoever takes it. Being
thought dead doesn't stop a process, so the lease alone fences nobody: each append to the journal looks at the epoch in
its own transaction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, and_, insert, select, update
from sqlalchemy.exc import IntegrityError

from futurebroker.exceptions import ClusterShutDownError, DatabaseError, DatabaseInUseError
from futurebroker.persistence.database import clock, is_sqlite, reading, shown, writing
from futurebroker.persistence.models import lease

#: seconds a lease holds, and between renewals
TERM = 5.0
RENEW_EVERY = 1.5
#: in place of the holder, when the whole cluster was shut down
SHUT = "shut down"


@dataclass(frozen=True, slots=True)
class Holder:
    """A scheduler, as its lease names it."""

    name: str  #: its incarnation
    process: str  #: as of `processes.process_mark`
    address: str  #: where it serves, for people


@dataclass(frozen=True, slots=True)
class Lease:
    """The lead of a cluster, as it was when it was looked at."""

    cluster: str
    epoch: int
    holder: Holder
    left: float  #: seconds it still holds


def look(engine: Engine, cluster: str) -> Lease | None:
    """Who leads ``cluster``, or did last.

    Raises:
        DatabaseError: it can't be read.
    """
    query = select(lease, (lease.c.expires_at - clock(engine)).label("left")).where(lease.c.cluster == cluster)
    with reading(engine) as connection:
        row = connection.execute(query).one_or_none()
    return None if row is None else _lease(row)


def _lease(row: Any) -> Lease:
    return Lease(row.cluster, row.epoch, Holder(row.holder, row.process, row.address), row.left)


def take(
    engine: Engine, cluster: str, holder: Holder, has_ended: Callable[[str], bool], *, waited: bool = False
) -> int:
    """Lead ``cluster`` from now on; returns the new epoch.

    A SQLite file serves one scheduler at a time, whatever their clusters: it has one writer's place only.

    Args:
        has_ended: whether the process of a lease that still holds is known to be dead.
        waited: whether somebody led it before, whose end was waited for.

    Raises:
        ClusterShutDownError: who was waited for has ended because the whole cluster was to.
        DatabaseInUseError: somebody leads it.
        DatabaseError: it can't be written.
    """
    try:
        return _take(engine, cluster, holder, has_ended, waited)
    except DatabaseError as error:
        # Nobody could be waited for: it is the cluster's first lease, and another took it at the same time.
        other = look(engine, cluster) if isinstance(error.__cause__, IntegrityError) else None
        if other is None:
            raise
        raise _in_use(engine, cluster, other) from error


def _take(engine: Engine, cluster: str, holder: Holder, has_ended: Callable[[str], bool], waited: bool) -> int:
    now = clock(engine)
    with writing(engine) as connection:
        query = select(lease, (lease.c.expires_at - now).label("left")).order_by(lease.c.cluster)
        if is_sqlite(engine):
            rows = connection.execute(query).all()
        else:
            rows = connection.execute(query.where(lease.c.cluster == cluster).with_for_update()).all()
        for other in map(_lease, rows):
            if other.left > 0 and not has_ended(other.holder.process):
                raise _in_use(engine, cluster, other)
            if waited and other.cluster == cluster and other.holder.name == SHUT:
                raise ClusterShutDownError(cluster)
        last = next((row.epoch for row in rows if row.cluster == cluster), None)
        values = {
            "epoch": (last or 0) + 1,
            "holder": holder.name,
            "process": holder.process,
            "address": holder.address,
            "renewed_at": now,
            "expires_at": now + TERM,
        }
        if last is None:
            connection.execute(insert(lease).values(cluster=cluster, **values))
        else:
            connection.execute(update(lease).where(lease.c.cluster == cluster).values(**values))
    return (last or 0) + 1


def _in_use(engine: Engine, cluster: str, other: Lease) -> DatabaseInUseError:
    whose = f"cluster {cluster}" if other.cluster == cluster else f"this file, for cluster {other.cluster},"
    process = other.holder.process.split()
    who = f"process {process[2]}" if len(process) == 4 else other.holder.name
    return DatabaseInUseError(
        shown(engine),
        f"a scheduler ({who}, at {other.holder.address}) leads {whose} and works with it; end that one, wait for its "
        "end with --standby, or name another database with DATABASE_URL",
    )


def renew(engine: Engine, cluster: str, epoch: int) -> bool:
    """Lead for another term; False if somebody else leads.

    Raises:
        DatabaseError: it can't be written.
    """
    now = clock(engine)
    ours = and_(lease.c.cluster == cluster, lease.c.epoch == epoch)
    with writing(engine) as connection:
        done = connection.execute(update(lease).where(ours).values(renewed_at=now, expires_at=now + TERM))
    return done.rowcount == 1


def set_address(engine: Engine, cluster: str, epoch: int, address: str) -> None:
    """Say where the leader serves.

    Raises:
        DatabaseError: it can't be written.
    """
    ours = and_(lease.c.cluster == cluster, lease.c.epoch == epoch)
    with writing(engine) as connection:
        connection.execute(update(lease).where(ours).values(address=address))


def release(engine: Engine, cluster: str, epoch: int, *, shut: bool = False) -> None:
    """Lead no more, so that another may at once; with ``shut``, none that waits for that.

    Raises:
        DatabaseError: it can't be written; the lease then runs out by itself.
    """
    ours = and_(lease.c.cluster == cluster, lease.c.epoch == epoch)
    with writing(engine) as connection:
        values = {"expires_at": 0.0, **({"holder": SHUT} if shut else {})}
        connection.execute(update(lease).where(ours).values(**values))
