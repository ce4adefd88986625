"""Bugs in what is shared by name: leases, events, metadata and topics; see `bank`."""

from __future__ import annotations

from typing import Any

from futurebroker.protocol import messages as m
from futurebroker.scheduler import leases, metadata, requests, terms, topics
from futurebroker.scheduler.records import ClientRecord, WorkerRecord
from futurebroker.scheduler.shared import Semaphore, Waiting
from futurebroker.scheduler.state import SchedulerState
from futurebroker.types import ClientId
from tests.sim.planted.bank import plant


@plant((leases, "expect_reunion"))
def nobody_waits_for_who_held_a_lease_before_the_restart(state: SchedulerState, now: float) -> None:
    """Two write to one file, because the scheduler was restarted."""


_right_client_gone = leases.client_gone


@plant((leases, "client_gone"))
def leases_outlive_their_client(state: SchedulerState, client: ClientId) -> None:
    """A program that was killed holds a lock for ever."""
    held = {name: dict(one.holders) for name, one in state.shared.semaphores.items()}
    _right_client_gone(state, client)
    for name, holders in held.items():
        for lease, holder in holders.items():
            if holder == client:
                state.shared.semaphores.setdefault(name, Semaphore(1)).holders[lease] = client


_right_grant = leases._grant


@plant((leases, "_grant"))
def who_gives_up_a_lease_wakes_nobody(state: SchedulerState, semaphore: Semaphore) -> None:
    """The next in line gets it with the next request only."""
    if semaphore.line and len(semaphore.holders) < semaphore.max_leases and state.now % 1 < 0.9:
        return
    _right_grant(state, semaphore)


@plant((leases, "_granted_one"))
def who_has_some_of_several_locks_is_not_told(state: SchedulerState, waiting: Waiting) -> None:
    """It waits for what it has."""
    if len(leases._held(state, waiting.about)) == len(waiting.about.of):
        state.send(waiting.client, m.Answer(waiting.number, leases._held(state, waiting.about)))


@plant(table=(requests.REQUESTS, "event_clear"))
def clearing_an_event_forgets_who_waits(state: SchedulerState, client: ClientRecord, message: m.Ask) -> None:
    """It is set again later, and they sleep on."""
    state.shared.flags.pop(message.about["name"], None)
    state.send(client.client_id, m.Answer(message.number, True))


@plant(table=(requests.QUESTIONS, "set_metadata"))
def what_is_put_beside_other_metadata_replaces_it(state: SchedulerState, about: Any) -> None:
    """A note of one task takes away those of the others."""
    *outer, last = about["keys"]
    place = state.metadata.data
    for key in outer:
        place = place.setdefault(key, {})
    place.clear()
    place[last] = about["value"]


@plant(table=(requests.QUESTIONS, "get_metadata"))
def metadata_is_found_by_its_first_key(state: SchedulerState, keys: Any) -> list[Any]:
    """Everybody is given everybody's."""
    return metadata.get_metadata(state, keys[:1])


@plant(table=(terms.SAYINGS, "event"))
def events_are_told_to_everybody(state: SchedulerState, worker: WorkerRecord, message: m.Said) -> None:
    """A client is woken for each event of others' topics."""
    for client in state.clients:
        state.send(client, m.Published(message.about["topic"], 0.0, message.about["event"]))


@plant((topics, "client_joined"))
def what_who_comes_again_follows_is_not_heard(state: SchedulerState, client: ClientId, given: Any) -> None:
    """After a restart of the scheduler nobody is told of anything."""
