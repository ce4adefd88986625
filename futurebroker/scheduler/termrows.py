"""What is agreed for a task as a row, and back (sans-IO); see `records.Terms`."""

from __future__ import annotations

import msgspec

from futurebroker.protocol.messages import Failure, PlannedCall
from futurebroker.scheduler.records import TaskRecord, Terms
from futurebroker.scheduler.state import SchedulerState
from futurebroker.types import Key


class TermsRow(msgspec.Struct, array_like=True, gc=False, omit_defaults=True):
    """As `Terms`."""

    key: Key
    due: float = 0.0
    expires: float = 0.0
    retries: int = 0
    request: bytes = b""
    parent: Key = ""
    children: list[Key] | None = None
    joins: bool = False
    custom: tuple[str, bytes] | None = None
    failure: Failure | None = None
    deals_with: Failure | None = None
    planned: list[PlannedCall] | None = None
    revoked: str = ""
    first: bytes | None = None
    stamps: dict[str, list[str]] | None = None


#: fields that are the same in both
_SAME = (
    "expires", "retries", "request", "parent", "children", "joins", "custom", "failure", "deals_with", "planned",
    "revoked", "first", "stamps",
)  # fmt: skip


def row_of_terms(state: SchedulerState, task: TaskRecord, terms: Terms) -> TermsRow:
    """The terms of one task."""
    due = terms.due + state.clock_offset if terms.due else 0.0
    return TermsRow(task.key, due, *(getattr(terms, name) for name in _SAME))


def take_terms(task: TaskRecord, row: TermsRow) -> Terms:
    """Give a task the terms it had, but for its time."""
    terms = task.terms = Terms()
    for name in _SAME:
        setattr(terms, name, getattr(row, name))
    return terms
