"""What must survive of a scheduler's state, in a form that can be compared; and the state that facts lead to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from futurebroker.protocol.facts import VERSION, AnyFact, Batch, decode_batch, encode_batch
from futurebroker.scheduler import checkpoint, recovery
from futurebroker.scheduler.state import Policy, SchedulerState
from futurebroker.scheduler.termrows import TermsRow


def projection(state: SchedulerState) -> dict[str, Any]:
    """The rows of a checkpoint with names in place of places, by key."""
    sections = {name: list(rows) for name, rows in checkpoint.rows_of(state)}
    kinds, functions, tasks = sections["kinds"], sections["functions"], sections["tasks"]
    extras = dict(sections["extras"])
    lines = {name: _rounded(extras[name]) for name in ("leases", "mailboxes") if name in extras}
    ended = {seconds: sorted(line) for seconds, line in extras["ended"] if line}  # its order says nothing
    clients = [row.client for row in sections["clients"]]
    return {
        "tasks": {
            row.key: {
                **{name: getattr(row, name) for name in ("args", "state", "value", "failure", "attempt")},
                "fields": dict(zip(checkpoint.FIELDS, row.fields)),
                "kind": kinds[row.kind].name,
                "function": functions[row.function].digest if row.function >= 0 else None,
                "options": sections["options"][row.options],
                "dependencies": [tasks[place].key for place in row.dependencies],
                "wanted_by": sorted(clients[place] for place in row.wanted_by),
            }
            for row in tasks
        },
        "functions": {row.digest: row.code for row in functions},
        "clients": {
            row.client: sorted(functions[place].digest for place in row.functions)
            for row in sections["clients"]
            if row.functions
        },
        "kinds": {row.name: (row.ended, row.errors) for row in kinds if row.ended},
        "extras": {**extras, **lines, "terms": {row.key: _due(state, row) for row in extras["terms"]}, "ended": ended},
    }


def _rounded(value: Any) -> Any:
    """Seconds that are left were computed in another way by a replay."""
    if isinstance(value, (list, tuple)):
        return [_rounded(one) for one in value]
    return round(value, 6) if isinstance(value, float) else value


def _due(state: SchedulerState, row: TermsRow) -> TermsRow:
    """A replay, whose moments were computed in another way, may be ahead by so much."""
    is_near = row.due <= state.now + state.clock_offset + recovery.SLACK
    return msgspec.structs.replace(row, due=0.0) if is_near else row


def written(facts: Sequence[AnyFact]) -> list[AnyFact]:
    """The facts as they come back from the journal."""
    return decode_batch(encode_batch(Batch(VERSION, 0.0, 0.0, list(facts)))).facts


def replayed(facts: Sequence[AnyFact], policy: Policy, parts: Sequence[bytes] = ()) -> SchedulerState:
    """The state that a checkpoint and facts lead to."""
    state = SchedulerState(policy)
    recovery.begin(state)
    checkpoint.load(state, parts)
    recovery.replay(state, written(facts), 0.0)
    return state


def copy_of(facts: list[AnyFact]) -> list[AnyFact]:
    """Facts as they are now; the last of a list may still grow."""
    return [msgspec.structs.replace(fact) for fact in facts]
