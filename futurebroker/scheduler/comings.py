"""Has the chronicle note who comes, goes and falls silent, before the machine applies such an event (sans-IO)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from futurebroker.scheduler.commands import (
    ClientGone,
    ClientJoined,
    WorkerJoined,
    WorkerLost,
    WorkerReturned,
    WorkerSuspected,
)
from futurebroker.scheduler.state import SchedulerState
from futurebroker.states import WorkerStatus


def _client_joined(state: SchedulerState, event: ClientJoined) -> None:
    if event.client not in state.clients:
        _note(state, "client-joined", client=event.client, text=str(event.info.get("program") or ""))


def _client_gone(state: SchedulerState, event: ClientGone) -> None:
    if event.client in state.clients:
        _note(state, "client-left", client=event.client)


def _worker_joined(state: SchedulerState, event: WorkerJoined) -> None:
    if event.worker not in state.workers:
        name = str(event.info.get("name") or event.worker)
        _note(state, "worker-joined", worker=name, text=str(event.info.get("host") or ""))
        if state.chronicle is not None:
            state.chronicle.came(state.now, event.worker, event.info)


def _worker_lost(state: SchedulerState, event: WorkerLost) -> None:
    worker = state.workers.get(event.worker)
    if worker is not None:
        text = f"{len(worker.processing)} tasks were with it" if worker.processing else ""
        _note(state, "worker-left" if event.expected else "worker-lost", worker=worker.name, text=text)
        if state.chronicle is not None:
            state.chronicle.came(state.now, event.worker, worker.info, gone=True)


def _worker_suspected(state: SchedulerState, event: WorkerSuspected) -> None:
    worker = state.workers.get(event.worker)
    if worker is not None:
        _note(state, "worker-suspected", worker=worker.name)


def _worker_returned(state: SchedulerState, event: WorkerReturned) -> None:
    worker = state.workers.get(event.worker)
    if worker is not None and worker.status is WorkerStatus.SUSPECT:
        _note(state, "worker-returned", worker=worker.name)


def _note(state: SchedulerState, kind: str, **about: str) -> None:
    if state.chronicle is not None:
        state.chronicle.note(state.now, kind, **about)


#: event -> what notes it
NOTED: dict[type[Any], Callable[[SchedulerState, Any], None]] = {
    ClientJoined: _client_joined,
    ClientGone: _client_gone,
    WorkerJoined: _worker_joined,
    WorkerLost: _worker_lost,
    WorkerSuspected: _worker_suspected,
    WorkerReturned: _worker_returned,
}
