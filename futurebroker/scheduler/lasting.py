"""What tasks have agreed, as it stands in a checkpoint: times are told in seconds since 1970."""

from __future__ import annotations

from typing import Any

import msgspec

from futurebroker.scheduler import beat, checkpoint, keeping, revoking
from futurebroker.scheduler.lines import Line
from futurebroker.scheduler.state import SchedulerState
from futurebroker.scheduler.termrows import TermsRow, row_of_terms, take_terms
from futurebroker.types import Key


def write_terms(state: SchedulerState) -> list[TermsRow]:
    """All terms there are."""
    return [row_of_terms(state, task, task.terms) for task in state.tasks.values() if task.terms is not None]


def read_terms(state: SchedulerState, rows: Any) -> None:
    """Give loaded tasks their terms again; those whose time hasn't come wait for it."""
    for row in msgspec.convert(rows, list[TermsRow]):
        task = state.tasks.get(row.key)
        if task is None:
            continue
        terms = take_terms(task, row)
        for call in terms.planned or ():
            function = state.functions.get(call.function)
            if function is not None:
                function.planned += 1
        if row.due:
            terms.due = row.due - state.clock_offset
        if row.expires and not row.revoked:  # of the others it was seen when their time was over
            revoking.watch(state, task)


def write_ended(state: SchedulerState) -> list[tuple[float, list[tuple[Key, float]]]]:
    """What is kept, and since when."""
    return [
        (seconds, [(task.key, at + state.clock_offset) for at, task in line if state.tasks.get(task.key) is task])
        for seconds, line in state.ended.items()
    ]


def read_ended(state: SchedulerState, rows: Any) -> None:
    """Go on keeping it for as long as it had left."""
    for seconds, line in rows:
        known = [(at - state.clock_offset, state.tasks[key]) for key, at in line if key in state.tasks]
        for at, task in known:
            task.span = at
        if known:
            line = state.ended[seconds] = Line()
            for at, task in known:
                line.append(at, task)
                if task.wanted_by is state.kept:
                    state.leaving.append((state.now, task))
            keeping.watch(state, seconds)


def write_revoked(state: SchedulerState) -> dict[Key, float]:
    """Keys that must not run."""
    return {key: at + state.clock_offset for key, at in state.revoked.items()}


def read_revoked(state: SchedulerState, rows: Any) -> None:
    """They still must not."""
    state.revoked.update((key, at - state.clock_offset) for key, at in rows.items())


def write_beat(state: SchedulerState) -> list[Any]:
    """Schedules, with their last moments."""
    return [[planned.entry, planned.last, planned.runs] for planned in state.beat.values()]


def read_beat(state: SchedulerState, rows: Any) -> None:
    """They go on where they were."""
    for row, last, runs in rows:
        beat.resume(state, msgspec.convert(row, beat.Entry), last, runs)


def write_expected(state: SchedulerState) -> dict[Key, list[str]]:
    """Keys that clients wait for and nobody has submitted."""
    return {key: [client.client_id for client in clients] for key, clients in state.expected.items()}


def write_sought(state: SchedulerState) -> list[tuple[Key, str]]:
    """Those of them that they wait for only until the shelf was looked at."""
    waiting = ((key, client, only) for key, clients in state.expected.items() for client, only in clients.items())
    return [(key, client.client_id) for key, client, only in waiting if only]


def read_sought(state: SchedulerState, rows: Any) -> None:
    """They do so still."""
    for key, name in rows:
        if name in state.clients:
            state.expected.setdefault(key, {})[state.clients[name]] = True


def read_expected(state: SchedulerState, rows: Any) -> None:
    """They still wait."""
    for key, names in rows.items():
        state.expected[key] = dict.fromkeys((state.clients[name] for name in names if name in state.clients), False)


def write_spent(state: SchedulerState) -> list[Key]:
    """Tasks that must not run twice, and were begun."""
    return sorted(task.key for task in state.spent)


def read_spent(state: SchedulerState, rows: Any) -> None:
    """They still must not."""
    state.spent.update((state.tasks[key], None) for key in rows if key in state.tasks)


checkpoint.EXTRAS["graphs"] = (
    lambda state: state.graphs.dump(state.clock_offset),
    lambda state, rows: state.graphs.load(rows, state.clock_offset),
)
checkpoint.EXTRAS["spent"] = (write_spent, read_spent)
checkpoint.EXTRAS["expected"] = (write_expected, read_expected)
checkpoint.EXTRAS["sought"] = (write_sought, read_sought)
checkpoint.EXTRAS["beat"] = (write_beat, read_beat)
checkpoint.EXTRAS["terms"] = (write_terms, read_terms)
checkpoint.EXTRAS["ended"] = (write_ended, read_ended)
checkpoint.EXTRAS["groups"] = (lambda state: state.groups, lambda state, rows: state.groups.update(rows))
checkpoint.EXTRAS["revoked"] = (write_revoked, read_revoked)
checkpoint.EXTRAS["revoked_stamps"] = (
    lambda state: [[*stamp, at + state.clock_offset] for stamp, at in state.revoked_stamps.items()],
    lambda state, rows: state.revoked_stamps.update(
        ((name, value), at - state.clock_offset) for name, value, at in rows
    ),
)
