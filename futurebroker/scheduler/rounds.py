"""Questions and calls that go to every executor of many workers, and the answers that come back (sans-IO)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from futurebroker.protocol.messages import (
    Answer,
    Ask,
    CallExecutors,
    ExecutorsAnswered,
    Inspect,
    Message,
    RanOnExecutors,
    RunOnExecutors,
    Settled,
)
from futurebroker.scheduler import recording, standing
from futurebroker.scheduler.operations import Round
from futurebroker.scheduler.profiles import merge
from futurebroker.scheduler.records import ClientRecord, WorkerRecord
from futurebroker.scheduler.state import SchedulerState


def begin(
    state: SchedulerState,
    client: ClientRecord,
    workers: Iterable[WorkerRecord],
    message: Callable[[int], Message],
    finish: Callable[[Round], None],
) -> None:
    """Send each of ``workers`` the message with the round's number; ``finish`` comes when all have answered."""
    state.call_number += 1
    asked = list(workers)
    current = Round(client.client_id, {worker.worker_id for worker in asked}, finish)
    state.operations.rounds[state.call_number] = current
    for worker in asked:
        state.send(worker.worker_id, message(state.call_number))
    _finish(state, state.call_number, current)


def _finish(state: SchedulerState, number: int, current: Round) -> None:
    if not current.missing and state.operations.rounds.pop(number, None) is not None:
        current.finish(current)


def named(state: SchedulerState, names: Iterable[str] | None) -> list[WorkerRecord]:
    """The workers that answer to one of ``names``; None or nothing means all."""
    wanted = list(names or ())
    workers = state.workers.values()
    return [worker for worker in workers if not wanted or any(worker.answers_to(name) for name in wanted)]


def unknown(state: SchedulerState, names: Iterable[str] | None) -> str:
    """The sentence for names that no worker answers to; empty if each has one."""
    strange = [name for name in names or () if not any(worker.answers_to(name) for worker in state.workers.values())]
    if not strange:
        return ""
    known = ", ".join(worker.name for worker in state.workers.values()) or "none"
    return f"no worker is called {', '.join(map(repr, strange))}; connected are: {known}"


# -- what workers say --------------------------------------------------------------------------------------------------


def executors_answered(state: SchedulerState, worker: WorkerRecord, report: ExecutorsAnswered) -> None:
    """All executors of a worker have made a call, or looked."""
    current = state.operations.rounds.get(report.number)
    if current is not None and worker.worker_id in current.missing:
        current.missing.discard(worker.worker_id)
        current.answers[worker.worker_id] = report.answers
        current.views[worker.worker_id] = report.views
        _finish(state, report.number, current)


def settled(state: SchedulerState, worker: WorkerRecord, report: Settled) -> None:
    """A worker has done what it was asked, or says why not."""
    current = state.operations.rounds.get(report.number)
    if current is not None and worker.worker_id in current.missing:
        current.missing.discard(worker.worker_id)
        current.reasons[worker.worker_id] = report.reason
        _finish(state, report.number, current)


def worker_lost(state: SchedulerState, worker: WorkerRecord) -> None:
    """Nobody waits for this worker any more; rounds go on without it."""
    for number, current in list(state.operations.rounds.items()):
        if worker.worker_id in current.missing:
            current.missing.discard(worker.worker_id)
            _finish(state, number, current)


def client_gone(state: SchedulerState, client: str) -> None:
    """Nobody waits for the rounds of this client."""
    rounds = state.operations.rounds
    state.operations.rounds = {number: one for number, one in rounds.items() if one.client != client}


# -- calls in every executor -------------------------------------------------------------------------------------------


def run_on_executors(state: SchedulerState, client: ClientRecord, message: RunOnExecutors) -> None:
    """Pass a call to every executor of the workers named; one that is to stand goes to those that come later too."""
    if message.keep or message.drop:
        standing.keep(state, message)
        recording.accepted(state, client, message)

    def call(number: int) -> Message:
        return CallExecutors(number, message.code, message.args, message.keep, message.drop, message.mark)

    def finish(done: Round) -> None:
        state.send(done.client, RanOnExecutors(message.number, done.answers))

    begin(state, client, named(state, message.workers), call, finish)


# -- looks into executors ----------------------------------------------------------------------------------------------


def _look(topic: str, merged: Callable[[SchedulerState, Round], Any]) -> Callable[..., None]:
    def request(state: SchedulerState, client: ClientRecord, message: Ask) -> None:
        about = message.about if isinstance(message.about, dict) else {}
        names = about.get("workers")

        def finish(done: Round) -> None:
            state.send(done.client, Answer(message.number, merged(state, done)))

        if strange := unknown(state, names):
            state.send(client.client_id, Answer(message.number, None, strange))
        else:
            begin(state, client, named(state, names), lambda number: Inspect(number, topic, about), finish)

    return request


def _by_task(state: SchedulerState, done: Round) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for views in done.views.values():
        for view in views:
            found.update(view or {})
    return found


def _profile(state: SchedulerState, done: Round) -> dict[str, Any]:
    return merge(view for views in done.views.values() for view in views)


def _profiles(state: SchedulerState, done: Round) -> dict[str, Any]:
    return {worker: merge(views) for worker, views in done.views.items()}


def _versions(state: SchedulerState, done: Round) -> dict[str, Any]:
    workers = {worker: view for worker, views in done.views.items() for view in views[:1]}
    return {"scheduler": state.about.get("packages", {}), "workers": workers}


def _logs(state: SchedulerState, done: Round) -> dict[str, Any]:
    return {worker: view for worker, views in done.views.items() for view in views}


#: see `requests.REQUESTS`; the web reads "profile", whose answer is a tree of plain data
REQUESTS: dict[str, Callable[[SchedulerState, ClientRecord, Ask], None]] = {
    "call_stack": _look("call_stack", _by_task),
    "task_notes": _look("notes", _by_task),
    "profile": _look("profile", _profile),
    "profiles": _look("profile", _profiles),
    "versions": _look("versions", _versions),
    "worker_logs": _look("logs", _logs),
}
