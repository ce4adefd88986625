"""Schedules: entries that come from apps, each fired exactly once for every moment at which it is due.

A firing is something that the client `CLIENT` says, so it is journaled and replayed as what clients say is. Its key
follows from entry and moment; the moment of the last one is part of what it says.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from futurebroker.protocol.messages import AddFunction, Ask, Conditions, Release, Said, Submit, TaskOptions
from futurebroker.scheduler import recording, terms
from futurebroker.scheduler.commands import ClientSaid
from futurebroker.scheduler.records import ClientRecord, WorkerRecord
from futurebroker.scheduler.state import SchedulerState
from futurebroker.scheduler.timers import Timer
from futurebroker.schedules import schedule_of

#: who submits what is due
CLIENT = "beat"
#: ids of firings are made in this name space
_SPACE = uuid.UUID("5d5f3ad6-7a4e-4c55-8a39-2f9a3b6f3c11")
#: seconds after which a firing that could not take place is tried again
AGAIN = 1.0


class Entry(msgspec.Struct, array_like=True):
    """One entry, as apps tell of it."""

    name: str
    app: str
    schedule: list[Any]
    task: str
    function: bytes  #: digest
    code: bytes
    args: bytes
    options: Any  #: as `TaskOptions`
    expires: float = 0.0  #: seconds after the firing
    enabled: bool = True


class Planned:
    """An entry with its next moment."""

    __slots__ = ("due", "entry", "last", "runs", "schedule", "timer")

    def __init__(self, entry: Entry, last: float) -> None:
        self.entry = entry
        self.schedule = schedule_of(entry.schedule)
        self.last = last  #: moment of the last firing, in seconds since 1970
        self.due = 0.0
        self.runs = 0
        self.timer: Timer | None = None


def told(state: SchedulerState, worker: WorkerRecord, message: Said) -> None:
    """An executor tells of the app it has imported: keep that, and have its schedules be followed."""
    about = message.about
    state.apps[worker.worker_id] = about
    queues = about.get("queues")
    if worker.queues is None and queues and not worker.info.get("all_queues"):
        worker.queues = dict.fromkeys(str(name) for name in queues)
        state.requeued = True
    entries = about.get("schedules") or []
    known = [
        msgspec.to_builtins(one.entry, builtin_types=(bytes,))
        for one in state.beat.values()
        if one.entry.app == about.get("app")
    ]
    if entries != known:
        _say(state, Ask(0, "beat_entries", [about.get("app") or "", entries]))


def _say(state: SchedulerState, *messages: Any) -> None:
    """Have these be said, and with that written down, before the event ends."""
    state.internal.append(ClientSaid(CLIENT, messages))


def take_entries(state: SchedulerState, _client: ClientRecord, message: Ask) -> None:
    """``[app, entries]``: what this app's schedules are from now on; those that stay keep their last moment."""
    app, rows = message.about
    entries = {entry.name: entry for entry in msgspec.convert(rows, list[Entry])}
    for name, planned in list(state.beat.items()):
        if planned.entry.app == app and name not in entries:
            _stop(state, planned)
            del state.beat[name]
    for name, entry in entries.items():
        known = state.beat.get(name)
        if known is not None and known.entry == entry:
            continue
        last = known.last if known is not None else state.now + state.clock_offset
        if known is not None:
            _stop(state, known)
        try:
            planned = state.beat[name] = Planned(entry, last)
            _arm(state, planned)
        except (TypeError, ValueError):
            state.beat.pop(name, None)
            state.counters["bad schedules"] += 1


def _stop(state: SchedulerState, planned: Planned) -> None:
    if planned.timer is not None:
        state.timers.cancel(planned.timer)
        planned.timer = None


def _arm(state: SchedulerState, planned: Planned) -> None:
    """Have it fire when it is due; what was missed counts as due now, once."""
    _stop(state, planned)
    if planned.entry.enabled:
        planned.due = planned.schedule.following(planned.last)
        at = max(planned.due - state.clock_offset, state.now)
        planned.timer = state.timers.at(at, partial(_fire, state, planned))


def _fire(state: SchedulerState, planned: Planned) -> None:
    planned.timer = None
    if state.replaying:  # what was fired then is among the facts
        planned.timer = state.timers.at(state.now + AGAIN, partial(_fire, state, planned))
        return
    wall = state.now + state.clock_offset
    # A moment that is long gone is not made up for each time it was missed.
    moment = planned.due
    while (later := planned.schedule.following(moment)) <= wall and planned.entry.schedule[0] == "crontab":
        moment = later
    if planned.entry.schedule[0] == "interval" and wall - moment > planned.schedule.following(moment) - moment:
        moment = wall
    run(state, planned, moment, is_now=False)


def key_of(entry: Entry, moment: float, is_now: bool = False) -> str:
    """The id of what an entry's firing at ``moment`` runs; the same in every scheduler that may come to fire it."""
    return str(uuid.uuid5(_SPACE, f"{entry.app}/{entry.name}@{moment!r}{' now' if is_now else ''}"))


def run(state: SchedulerState, planned: Planned, moment: float, *, is_now: bool) -> str:
    """Submit the task of an entry; returns its id."""
    entry = planned.entry
    key = key_of(entry, moment, is_now)
    wall = state.now + state.clock_offset
    conditions: list[Conditions | None] | None = [Conditions(expires=wall + entry.expires)] if entry.expires else None
    options = msgspec.convert(entry.options, TaskOptions)
    _say(
        state,
        AddFunction(entry.function, entry.task, entry.code),
        Submit(entry.function, [key], [entry.args], None, options, conditions=conditions),
        Release([key]),
        Ask(0, "beat_ran", [entry.name, planned.last if is_now else moment]),
    )
    return key


def resume(state: SchedulerState, entry: Entry, last: float, runs: int) -> None:
    """An entry of a checkpoint goes on."""
    planned = state.beat[entry.name] = Planned(entry, last)
    planned.runs = runs
    _arm(state, planned)


def take_ran(state: SchedulerState, _client: ClientRecord, message: Ask) -> None:
    """``[name, moment]``: the entry has fired."""
    name, moment = message.about
    planned = state.beat.get(name)
    if planned is not None:
        planned.last = float(moment)
        planned.runs += 1
        _arm(state, planned)


def run_now(state: SchedulerState, name: str) -> str:
    """Fire an entry at once, beside its schedule; returns the id of the task."""
    planned = state.beat.get(name)
    if planned is None:
        raise ValueError(f"there is no schedule {name!r}; there are {', '.join(sorted(state.beat)) or 'none'}")
    return run(state, planned, state.now + state.clock_offset, is_now=True)


def schedules(state: SchedulerState, _about: Any) -> list[dict[str, Any]]:
    """All entries, with their last and next moments in seconds since 1970."""
    return [
        {
            "name": planned.entry.name,
            "app": planned.entry.app,
            "task": planned.entry.task,
            "schedule": repr(planned.schedule).strip("<>"),
            "data": planned.entry.schedule,
            "enabled": planned.entry.enabled,
            "last": planned.last if planned.runs else None,
            "next": planned.due if planned.entry.enabled else None,
            "runs": planned.runs,
        }
        for planned in state.beat.values()
    ]


terms.SAYINGS["app"] = told
#: questions that are answered at once
TOPICS: dict[str, Callable[[SchedulerState, Any], Any]] = {"schedules": schedules, "run_schedule": run_now}
#: what the scheduler says to itself; nobody waits for an answer
REQUESTS = {"beat_entries": take_entries, "beat_ran": take_ran}
recording.KEPT_TOPICS.update(REQUESTS)
