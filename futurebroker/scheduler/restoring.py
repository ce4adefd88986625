"""Brings a state to what the journal says: the checkpoint, then the rows after it; for who leads next and who folds."""

from __future__ import annotations

from dataclasses import dataclass, field

from futurebroker.exceptions import DatabaseError, ProtocolError
from futurebroker.persistence.database import shown
from futurebroker.persistence.journal import Journal
from futurebroker.protocol.facts import Cursor, decode_batch
from futurebroker.scheduler import checkpoint, recovery
from futurebroker.scheduler.state import SchedulerState


@dataclass(slots=True)
class Restored:
    """What was read beside the state."""

    sequence: int  #: number of the newest row
    folded: int = 0  #: up to which row the checkpoint went, 0 without one
    folded_bytes: int = 0
    bytes: int = 0  #: of the rows after it
    facts: int = 0
    epoch: int = 0  #: of the newest row
    base: float = 0.0  #: see `checkpoint.Head`
    cursors: dict[str, Cursor] = field(default_factory=dict)  #: of sessions that have not ended, by peer


def restore(journal: Journal, state: SchedulerState, shift: float, up_to: int | None = None) -> Restored:
    """Replay the journal into the new ``state``.

    Args:
        shift: what seconds since 1970 have to be put forward by to show the time of ``state``.
        up_to: the last row that counts; all when None.

    Raises:
        DatabaseError: it can't be read, or isn't whole, or is of another version.
    """
    recovery.begin(state)
    try:
        return _restore(journal, state, shift, up_to)
    except ProtocolError as error:
        raise DatabaseError(shown(journal.engine), str(error)) from error


def _restore(journal: Journal, state: SchedulerState, shift: float, up_to: int | None) -> Restored:
    folded, folded_bytes = journal.checkpoint()
    loaded = checkpoint.load(state, journal.parts(folded), shift)
    result = Restored(folded, folded, folded_bytes, cursors=loaded.cursors)
    if loaded.head is not None:
        result.epoch, result.base = loaded.head.epoch, loaded.head.base
    for number, epoch, body in journal.rows(folded, up_to):
        if number != result.sequence + 1:
            raise DatabaseError(
                shown(journal.engine),
                f"row {result.sequence + 1} is missing in the journal of cluster {journal.cluster}; "
                "bring back a whole copy of the database, or begin with another cluster name",
            )
        batch = decode_batch(body)
        if epoch != result.epoch:
            # One epoch's clock is read once, so that its moments keep their distances.
            result.epoch, result.base = epoch, batch.wall - batch.at
        recovery.replay(state, batch.facts, result.base + shift)
        for cursor in batch.cursors:
            if cursor.received < 0:
                result.cursors.pop(cursor.name, None)
            else:
                result.cursors[cursor.name] = cursor
        result.sequence = number
        result.bytes += len(body)
        result.facts += len(batch.facts)
    return result
