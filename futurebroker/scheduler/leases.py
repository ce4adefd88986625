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
from futurebroker.scheduler.shared import Flag, Request, Semaphore, Waiting
from futurebroker.scheduler.state import SchedulerState
from futurebroker.types import ClientId

#: names that one request may wait for at a time
NAMES_MOST = 100
#: seconds that clients of a former scheduler get to say what they hold; longer than their pauses between attempts
REUNION = 6.0


class Acquire(Request):
    """A lease is wanted; its name is the request's."""

    max_leases: int = 1
    #: for several at a time, all names of them, and of how many it must have a lease
    of: list[str] = []
    least: int = 0


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
    asked = _patient(about) if _may_grant(state, semaphore) else about
    sharing.wait(state, semaphore.line, client, number, asked, _drop_if_unused)
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
        if waiting.about.of:
            _granted_one(state, waiting)
        else:
            state.send(waiting.client, Answer(waiting.number, True))


# -- several at a time ---------------------------------------------------------------------------------------------


def _acquire_many(state: SchedulerState, client: ClientRecord, number: int, about: Acquire) -> None:
    """Stand in the lines of all names at once: who came earlier is before in each, so nobody waits in a circle."""
    names = about.of = list(dict.fromkeys(about.of))
    if not 1 <= about.least <= len(names) <= NAMES_MOST or not all(0 < len(name) <= 255 for name in names):
        raise ValueError(f"1 to {NAMES_MOST} names of 1 to 255 characters are needed, and at most as many locks")
    try:
        semaphores = [_semaphore(state, name, 1) for name in names]
        waiting = [semaphore.line[about.op] for semaphore in semaphores if about.op in semaphore.line]
        for one in waiting:
            one.client, one.number = client.client_id, number
        if len(_held(state, about)) >= about.least:
            state.send(client.client_id, Answer(number, _held(state, about)))
        elif waiting:
            return
        elif (
            about.timeout is not None
            and about.timeout <= 0
            and sum(_may_grant(state, one) for one in semaphores) < about.least
        ):
            state.send(client.client_id, Answer(number))
        else:
            for name, semaphore in zip(names, semaphores, strict=True):
                asked = msgspec.structs.replace(about, name=name, timeout=None)
                semaphore.line[about.op] = Waiting(client.client_id, number, asked)
            if about.timeout is not None and about.timeout > 0:
                _limit(state, about, about.timeout)
            for semaphore in semaphores:
                _grant(state, semaphore)
    finally:
        for name in names:
            _drop_if_unused(state, name)


def _held(state: SchedulerState, about: Acquire) -> list[str]:
    semaphores = state.shared.semaphores
    return [name for name in about.of if name in semaphores and about.op in semaphores[name].holders]


def _granted_one(state: SchedulerState, waiting: Waiting) -> None:
    """One lease of several was granted: with the last that is needed, the other lines are left."""
    about = waiting.about
    held = _held(state, about)
    if len(held) < about.least:
        return
    _stop_limit(state, about.op)
    state.send(waiting.client, Answer(waiting.number, held))
    _leave_lines(state, about, [name for name in about.of if name not in held])


def _leave_lines(state: SchedulerState, about: Acquire, names: list[str]) -> Waiting | None:
    """The request doesn't wait for these any more, nor has it their leases; what waited in a line, if it did."""
    semaphores = [semaphore for name in names if (semaphore := state.shared.semaphores.get(name)) is not None]
    left = None
    # Of all first: who is granted one of them leaves lines as well, in which this would be the next.
    for semaphore in semaphores:
        left = semaphore.line.pop(about.op, None) or left
        semaphore.holders.pop(about.op, None)
    for semaphore in semaphores:
        _grant(state, semaphore)
    for name in names:
        _drop_if_unused(state, name)
    return left


def _limit(state: SchedulerState, about: Acquire, seconds: float) -> None:
    state.shared.limits[about.op] = (state.timers.at(state.now + seconds, partial(_give_up, state, about)), about)


def _stop_limit(state: SchedulerState, op: str) -> None:
    timer, _ = state.shared.limits.pop(op, (None, None))
    if timer is not None:
        state.timers.cancel(timer)


def _give_up(state: SchedulerState, about: Acquire) -> None:
    """Its time is over: leave all lines, and give back what was granted."""
    state.shared.limits.pop(about.op, None)
    told = _leave_lines(state, about, about.of)
    if told is not None:
        state.send(told.client, Answer(told.number))


# -- for both ------------------------------------------------------------------------------------------------------


def _release(state: SchedulerState, client: ClientRecord, number: int, about: Release) -> None:
    semaphore = state.shared.semaphores.get(about.name)
    held = semaphore is not None and semaphore.holders.pop(about.op, None) is not None
    state.send(client.client_id, Answer(number, held))
    if semaphore is not None:
        _grant(state, semaphore)
        _drop_if_unused(state, about.name)


def _drop_if_unused(state: SchedulerState, name: str) -> None:
    semaphore = state.shared.semaphores.get(name)
    if semaphore is not None and not semaphore.holders and not semaphore.line:
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
        _drop_flag_if_unused(state, about.name)
    state.send(client.client_id, Answer(number, True))


def _wait(state: SchedulerState, client: ClientRecord, number: int, about: Request) -> None:
    flag = state.shared.flags.setdefault(about.name, Flag())
    if flag.is_set:
        state.send(client.client_id, Answer(number, True))
        return
    sharing.wait(state, flag.line, client, number, about, _drop_flag_if_unused)
    _drop_flag_if_unused(state, about.name)


def _drop_flag_if_unused(state: SchedulerState, name: str) -> None:
    flag = state.shared.flags.get(name)
    if flag is not None and not flag.is_set and not flag.line:
        del state.shared.flags[name]


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
    for semaphore in state.shared.semaphores.values():
        sharing.drop_client(state, semaphore.line, client)
    for name, semaphore in list(state.shared.semaphores.items()):
        for lease in [lease for lease, holder in semaphore.holders.items() if holder == client]:
            del semaphore.holders[lease]
        _grant(state, semaphore)
        _drop_if_unused(state, name)
    for name, flag in list(state.shared.flags.items()):
        sharing.drop_client(state, flag.line, client)
        _drop_flag_if_unused(state, name)


def dump(state: SchedulerState) -> Any:
    """For a checkpoint."""
    return [
        [
            (name, one.max_leases, list(one.holders.items()), sharing.dump_line(state, one.line))
            for name, one in state.shared.semaphores.items()
        ],
        [(name, one.is_set, sharing.dump_line(state, one.line)) for name, one in state.shared.flags.items()],
        [(msgspec.to_builtins(about), timer.due - state.now) for timer, about in state.shared.limits.values()],
    ]


def load(state: SchedulerState, value: Any) -> None:
    """Take in what `dump` gave."""
    semaphores, flags, *rest = value
    for name, max_leases, holders, line in semaphores:
        semaphore = state.shared.semaphores[name] = Semaphore(max_leases)
        semaphore.holders = dict(holders)
        sharing.load_line(state, semaphore.line, Acquire, line, _drop_if_unused)
    for name, was_set, line in flags:
        flag = state.shared.flags[name] = Flag()
        flag.is_set = was_set
        sharing.load_line(state, flag.line, Request, line, _drop_flag_if_unused)
    for about, left in rest[0] if rest else ():
        _limit(state, msgspec.convert(about, Acquire), left)


#: see `requests`
QUESTIONS: dict[str, Callable[[SchedulerState, Any], Any]] = {"leases": leases, "event_is_set": is_set}
REQUESTS: dict[str, Callable[[SchedulerState, ClientRecord, Ask], None]] = {
    "lease_acquire": sharing.request(Acquire, _acquire),
    "lease_acquire_many": sharing.request(Acquire, _acquire_many),
    "lease_release": sharing.request(Release, _release),
    "lease_assert": sharing.request(Assert, _assert),
    "event_set": sharing.request(Request, _set),
    "event_clear": sharing.request(Request, _clear),
    "event_wait": sharing.request(Request, _wait),
}
recording.KEPT_TOPICS.update(REQUESTS)
