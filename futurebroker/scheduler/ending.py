"""The end of a whole cluster, when a client asks for it: workers first, then the scheduler (sans-IO).

The process around the machine is told twice by `Noticed`: ``shutting_down``, so that it refuses newcomers and tells the
other clients, and ``shut_down``, so that it ends. In between the workers leave, the client that asked gets its answer,
and says goodbye.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from futurebroker.protocol.messages import Answer, Ask, Leave
from futurebroker.scheduler import placement
from futurebroker.scheduler.commands import Noticed, PassOn
from futurebroker.scheduler.eligibility import refresh_all
from futurebroker.scheduler.observe import DASHBOARD
from futurebroker.scheduler.operations import Ending
from futurebroker.scheduler.records import ClientRecord
from futurebroker.scheduler.state import SchedulerState
from futurebroker.states import WorkerStatus
from futurebroker.types import ClientId

#: seconds workers get to leave, and then who asked to say goodbye
LEAVE_WITHIN = 10.0
PART_WITHIN = 2.0

_REFUSED = (
    "clients may not shut this cluster down; its scheduler was started with --no-shutdown, or with the setting "
    "allow_shutdown off. End it where it runs; close() leaves it alone"
)


def shut_down(state: SchedulerState, client: ClientRecord, message: Ask) -> None:
    """Have all workers leave, give up what they run, and end the scheduler; answered when the workers are gone."""
    if not state.policy.allow_shutdown:
        state.send(client.client_id, Answer(message.number, None, _REFUSED))
        return
    ending = state.operations.ending
    if ending is None:
        ending = state.operations.ending = Ending(f"the cluster was shut down by {client.client_id}")
        for worker in state.workers.values():
            state.send(worker.worker_id, Leave(ending.reason, hurry=True))
            worker.status = WorkerStatus.CLOSING
            placement.update_room(state, worker)
        refresh_all(state)
        state.commands.append(PassOn("", Noticed("shutting_down", client.client_id)))
        state.timers.at(state.now + LEAVE_WITHIN, partial(_answer, state, ending))
    ending.askers.setdefault(client.client_id, []).append(message.number)
    if not state.workers or ending.answered:
        _answer(state, ending)


def refusal(state: SchedulerState, name: str, info: dict[str, Any]) -> str:
    """Why this peer has no place here while the cluster ends; empty if it has.

    Dashboards stay, and see the next scheduler.
    """
    ending = state.operations.ending
    if ending is None or name in ending.askers or info.get("program") == DASHBOARD:
        return ""
    return ending.reason


def worker_lost(state: SchedulerState) -> None:
    """A worker has left."""
    if state.operations.ending is not None and not state.workers:
        _answer(state, state.operations.ending)


def client_gone(state: SchedulerState, client: ClientId) -> None:
    """A client has said goodbye."""
    ending = state.operations.ending
    if ending is not None and ending.askers.pop(client, None) is not None and not ending.askers:
        _finish(state, ending)


def _answer(state: SchedulerState, ending: Ending) -> None:
    for client, numbers in ending.askers.items():
        for number in numbers:
            state.send(client, Answer(number))
        numbers.clear()
    if not ending.answered:
        ending.answered = True
        state.timers.at(state.now + PART_WITHIN, partial(_finish, state, ending))
        if not ending.askers:
            _finish(state, ending)


def _finish(state: SchedulerState, ending: Ending) -> None:
    """Who asked is gone before the workers are: the workers are waited for all the same."""
    if ending.answered and not ending.over:
        ending.over = True
        state.commands.append(PassOn("", Noticed("shut_down", "")))


#: see `requests.REQUESTS`
REQUESTS: dict[str, Callable[[SchedulerState, ClientRecord, Ask], None]] = {"shutdown": shut_down}
