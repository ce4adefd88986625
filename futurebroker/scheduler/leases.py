"""Semaphores, locks (semaphores with one lease) and events that clients and tasks share by name (sans-IO).

A lease belongs to a client's session: it ends with `release`, or when the client is gone (at once if it said goodbye or
its executor ended, else after the grace that its futures have), never before, so that there are never more leases than
there may be. First come, first served. A client that meets a restarted scheduler tells what it holds before it asks for
more, and the scheduler grants nothing until clients of the time before had a moment to do so.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from futurebroker.protocol.messages import Answer, Ask
from futurebroker.scheduler import recording, sharing
from futurebroker.scheduler.records import ClientRecord
from futurebroker.scheduler.shared import Flag, Request, Semaphore
from futurebroker.scheduler.state import SchedulerState
from futurebroker.types import ClientId

#: seconds that clients of a former scheduler get to say what they hold; longer than their pauses between attempts
REUNION = 6.0


class Acquire(Request):
    """A lease is wanted; its name is the request's."""

    max_leases: int = 1


class Release(Request):
    """A lease is given back."""


class Assert(Request):
    """What a client holds, told to a scheduler that may not know it."""

    max_leases: int = 1
    leases: list[str] = []


# -- semaphores ----------------------------------------------------------------------------------------------------


def _semaphore(state: SchedulerState, name: str, max_leases: int) -> Semaphore:
    semaphore = state.shared.semaphores.get(name)
    if semaphore is None:
        if max_leases < 1:
            raise ValueError(f"max_leases= takes 1 or more, got {max_leases}")
        semaphore = state.shared.semaphores[name] = Semaphore(max_leases)
    if semaphore.max_leases != max_leases:
        raise ValueError(f"{name} has max_leases={semaphore.max_leases}, not {max_leases}; use another name")
    return semaphore


def _acquire(state: SchedulerState, client: ClientRecord, number: int, about: Acquire) -> None:
    semaphore = _semaphore(state, about.name, about.max_leases)
    if about.op in semaphore.holders:
        semaphore.holders[about.op] = client.client_id
        state.send(client.client_id, Answer(number, True))
        return
    sharing.wait(state, semaphore.line, client, number, about if not _may_grant(state, semaphore) else _patient(about))
    _grant(state, semaphore)
    _drop_if_unused(state, about.name)


def _patient(about: Acquire) -> Acquire:
    """It is granted at once, also if its asker wouldn't wait."""
    return msgspec.structs.replace(about, timeout=None)


def _may_grant(state: SchedulerState, semaphore: Semaphore) -> bool:
    is_free = len(semaphore.holders) < semaphore.max_leases and not semaphore.line
    return is_free and state.now >= state.shared.reunion_until


def _grant(state: SchedulerState, semaphore: Semaphore) -> None:
    if semaphore.line and state.now < state.shared.reunion_until:
        state.timers.at(state.shared.reunion_until, partial(_grant, state, semaphore))
        return
    while semaphore.line and len(semaphore.holders) < semaphore.max_leases:
        waiting = sharing.leave(state, semaphore.line, next(iter(semaphore.line)))
        semaphore.holders[waiting.about.op] = waiting.client
        state.send(waiting.client, Answer(waiting.number, True))


def _release(state: SchedulerState, client: ClientRecord, number: int, about: Release) -> None:
    semaphore = state.shared.semaphores.get(about.name)
    held = semaphore is not None and semaphore.holders.pop(about.op, None) is not None
    state.send(client.client_id, Answer(number, held))
    if semaphore is not None:
        _grant(state, semaphore)
        _drop_if_unused(state, about.name)


def _drop_if_unused(state: SchedulerState, name: str) -> None:
    semaphore = state.shared.semaphores[name]
    if not semaphore.holders and not semaphore.line:
        del state.shared.semaphores[name]


def _assert(state: SchedulerState, client: ClientRecord, number: int, about: Assert) -> None:
    """The leases that the client really has are the answer; others have been given to somebody else meanwhile."""
    semaphore = _semaphore(state, about.name, about.max_leases)
    for lease in about.leases:
        if lease in semaphore.holders or len(semaphore.holders) < semaphore.max_leases:
            semaphore.holders[lease] = client.client_id
    state.send(client.client_id, Answer(number, [lease for lease in about.leases if lease in semaphore.holders]))
    _drop_if_unused(state, about.name)


def leases(state: SchedulerState, name: str) -> dict[str, int]:
    """How many leases of a name there are, and how many requests wait for one."""
    semaphore = state.shared.semaphores.get(name)
    return {
        "held": len(semaphore.holders) if semaphore is not None else 0,
        "waiting": len(semaphore.line) if semaphore is not None else 0,
    }


# -- events --------------------------------------------------------------------------------------------------------


def _set(state: SchedulerState, client: ClientRecord, number: int, about: Request) -> None:
    flag = state.shared.flags.setdefault(about.name, Flag())
    flag.is_set = True
    state.send(client.client_id, Answer(number, True))
    while flag.line:
        waiting = sharing.leave(state, flag.line, next(iter(flag.line)))
        state.send(waiting.client, Answer(waiting.number, True))


def _clear(state: SchedulerState, client: ClientRecord, number: int, about: Request) -> None:
    flag = state.shared.flags.get(about.name)
    if flag is not None:
        flag.is_set = False
        if not flag.line:
            del state.shared.flags[about.name]
    state.send(client.client_id, Answer(number, True))


def _wait(state: SchedulerState, client: ClientRecord, number: int, about: Request) -> None:
    flag = state.shared.flags.setdefault(about.name, Flag())
    if flag.is_set:
        state.send(client.client_id, Answer(number, True))
        return
    sharing.wait(state, flag.line, client, number, about)


def is_set(state: SchedulerState, name: str) -> bool:
    """Whether an event is set."""
    flag = state.shared.flags.get(name)
    return flag is not None and flag.is_set


def expect_reunion(state: SchedulerState, now: float) -> None:
    """A client of a former scheduler's time has come, and nothing is known of that time: others will come as well."""
    if state.facts is None and not state.shared.reunion_until:
        state.shared.reunion_until = now + REUNION


# -- for the machine -----------------------------------------------------------------------------------------------


def client_gone(state: SchedulerState, client: ClientId) -> None:
    """A client is gone for good: its leases are free, and what it waits for it won't get."""
    for name, semaphore in list(state.shared.semaphores.items()):
        sharing.drop_client(state, semaphore.line, client)
        for lease in [lease for lease, holder in semaphore.holders.items() if holder == client]:
            del semaphore.holders[lease]
        _grant(state, semaphore)
        _drop_if_unused(state, name)
    for flag in state.shared.flags.values():
        sharing.drop_client(state, flag.line, client)


def dump(state: SchedulerState) -> Any:
    """For a checkpoint."""
    return [
        [
            (name, one.max_leases, list(one.holders.items()), sharing.dump_line(state, one.line))
            for name, one in state.shared.semaphores.items()
        ],
        [(name, one.is_set, sharing.dump_line(state, one.line)) for name, one in state.shared.flags.items()],
    ]


def load(state: SchedulerState, value: Any) -> None:
    """Take in what `dump` gave."""
    semaphores, flags = value
    for name, max_leases, holders, line in semaphores:
        semaphore = state.shared.semaphores[name] = Semaphore(max_leases)
        semaphore.holders = dict(holders)
        sharing.load_line(state, semaphore.line, Acquire, line)
    for name, was_set, line in flags:
        flag = state.shared.flags[name] = Flag()
        flag.is_set = was_set
        sharing.load_line(state, flag.line, Request, line)


#: see `requests`
QUESTIONS: dict[str, Callable[[SchedulerState, Any], Any]] = {"leases": leases, "event_is_set": is_set}
REQUESTS: dict[str, Callable[[SchedulerState, ClientRecord, Ask], None]] = {
    "lease_acquire": sharing.request(Acquire, _acquire),
    "lease_release": sharing.request(Release, _release),
    "lease_assert": sharing.request(Assert, _assert),
    "event_set": sharing.request(Request, _set),
    "event_clear": sharing.request(Request, _clear),
    "event_wait": sharing.request(Request, _wait),
}
recording.KEPT_TOPICS.update(REQUESTS)
