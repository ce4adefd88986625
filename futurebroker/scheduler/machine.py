"""The scheduler machine: events in, commands out, and nothing else has an effect (sans-IO).

`SchedulerMachine.handle` applies one event completely: it changes records through `transitions`, releases what has
become unneeded, gives workers with room new work, and returns the commands that follow, in order. It never looks at a
clock; the time comes with the event.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from futurebroker.protocol import messages as m
from futurebroker.scheduler import (
    claims,
    continuing,
    copying,
    dispatch,
    ending,
    families,
    intake,
    leases,
    mailboxes,
    observe,
    placement,
    recording,
    relay,
    reports,
    requests,
    resuming,
    retrying,
    rounds,
    shelving,
    standing,
    stealing,
    storing,
    tending,
    terms,
    topics,
    transitions,
)
from futurebroker.scheduler.comings import NOTED
from futurebroker.scheduler.commands import (
    ClientGone,
    ClientJoined,
    ClientSaid,
    Command,
    Event,
    Forget,
    Tick,
    WorkerBeat,
    WorkerJoined,
    WorkerLost,
    WorkerReturned,
    WorkerSaid,
    WorkersBack,
    WorkerSuspected,
)
from futurebroker.scheduler.eligibility import refresh, refresh_all
from futurebroker.scheduler.records import ClientRecord, TaskRecord, WorkerRecord
from futurebroker.scheduler.state import MEMORY, Policy, SchedulerState
from futurebroker.states import WorkerStatus
from futurebroker.types import ClientId

#: seconds a round trip is taken for at most, when deciding how much work a worker gets ahead
LATENCY_MAX = 0.25
#: weight of the newest round trip in the mean
LATENCY_NEWEST = 0.3


class SchedulerMachine:
    """See the top of this file; `state` may be read at any time between events."""

    def __init__(self, policy: Policy | None = None) -> None:
        self.state = SchedulerState(policy or Policy())

    def handle(self, event: Event, now: float) -> list[Command]:
        """Apply ``event``, which happened at monotonic time ``now``; returns what is to be done, in order."""
        state = self.state
        state.now = now
        state.happened += 1
        if state.chronicle is not None and type(event) in NOTED:
            NOTED[type(event)](state, event)
        _APPLY[type(event)](state, event)
        if now >= state.timers.due:
            state.timers.run_due(now)
            recording.ticked(state)
        if state.internal or state.requeued:
            _say_internal(state)
        while state.begun:
            task = state.begun.pop(0)
            if not (state.claims and claims.claimed(state, task)):
                transitions.compute(state, task)
        if state.published.ended:
            storing.look(state)
        if state.leaving and now >= state.leave_at:
            shelving.look(state)
        if state.check or state.ended_parents:
            families.settle(state)
        if state.holding:
            for worker in state.touched:  # what may be sent is looked at once nothing is held any more
                placement.update_room(state, worker)
            state.touched.clear()
        elif state.ready or state.touched:
            dispatch.dispatch(state)
        if state.laden and state.roomy and state.policy.stealing:
            stealing.steal(state)
        return state.take_commands()


def _say_internal(state: SchedulerState) -> None:
    """Apply what the machine says to itself, as a client would; look anew who takes what."""
    while state.internal:
        client_said(state, state.internal.pop(0))
    if state.requeued:
        state.requeued = False
        refresh_all(state)


# -- clients -------------------------------------------------------------------------------------------------------


def _client(state: SchedulerState, client_id: ClientId) -> ClientRecord:
    client = state.clients.get(client_id)
    if client is None:
        client = state.clients[client_id] = ClientRecord(client_id, {})
    return client


def client_joined(state: SchedulerState, event: ClientJoined) -> None:
    """A client is there, or there again."""
    if event.client not in state.clients:
        tending.notice(state, "add_client", event.client)
    _client(state, event.client).info = event.info
    topics.client_joined(state, event.client, event.info.get("topics"))


def client_gone(state: SchedulerState, event: ClientGone) -> None:
    """Release everything only this client wanted."""
    client = state.clients.pop(event.client, None)
    if client is None:
        return
    recording.gone(state, client)
    for task in client.wants:
        task.discard_client(client)
        state.look_at(task)
    for digest in client.functions:
        function = state.functions.get(digest)
        if function is not None:
            function.users.pop(client, None)
            state.drop_function_if_unused(function)
    state.calls = {number: call for number, call in state.calls.items() if call.client != event.client}
    families.client_gone(state, client)
    relay.holder_lost(state, event.client)
    relay.asker_lost(state, event.client)
    leases.client_gone(state, event.client)
    mailboxes.client_gone(state, event.client)
    state.counts_awaited = [count for count in state.counts_awaited if count.client != event.client]
    tending.client_gone(state, event.client)
    ending.client_gone(state, event.client)
    topics.client_gone(state, event.client)
    terms.expect_no_more(state, client)
    state.commands.append(Forget(event.client))


def client_said(state: SchedulerState, event: ClientSaid) -> None:
    """Apply a client's messages, in order."""
    client = _client(state, event.client)
    noted = state.facts is not None
    for message in event.messages:
        apply = _FROM_CLIENT.get(type(message))
        if apply is None:
            state.counters["unexpected"] += 1
        else:
            if noted:
                recording.said(state, client, message)
            apply(state, client, message)


# -- workers -------------------------------------------------------------------------------------------------------


def worker_joined(state: SchedulerState, event: WorkerJoined) -> None:
    """A worker takes work from now on; tasks that waited for one like it become ready."""
    if event.worker in state.workers:
        worker_returned(state, WorkerReturned(event.worker))
        return
    worker = state.workers[event.worker] = WorkerRecord(event.worker, event.info)
    placement.open_window(state, worker)
    for pool in state.pools.values():
        refresh(state, pool)
    tending.worker_joined(state, worker)
    placement.update_room(state, worker)
    observe.answer_counts(state)


def worker_suspected(state: SchedulerState, event: WorkerSuspected) -> None:
    """Give the worker nothing new; what it has stays its own until it is lost."""
    worker = state.workers.get(event.worker)
    if worker is not None:
        _set_status(state, worker, WorkerStatus.SUSPECT)
        placement.update_room(state, worker)


def worker_returned(state: SchedulerState, event: WorkerReturned) -> None:
    """The suspected worker lives."""
    worker = state.workers.get(event.worker)
    if worker is not None and worker.status is WorkerStatus.SUSPECT:
        worker.status = WorkerStatus.RUNNING
        placement.update_room(state, worker)
        state.touched[worker] = None


def _set_status(state: SchedulerState, worker: WorkerRecord, status: WorkerStatus) -> None:
    """A worker that leaves isn't one that may run tasks."""
    changes = (worker.status is WorkerStatus.CLOSING) != (status is WorkerStatus.CLOSING)
    worker.status = status
    if changes:
        for pool in state.pools.values():
            refresh(state, pool)


def worker_lost(state: SchedulerState, event: WorkerLost) -> None:
    """Reassign what the worker had and compute again what only it held.

    Which tasks it was really running nobody can tell any more; blamed are the first of those sent, one a slot, unless
    the worker left by its own will. Those that waited for others are, where nothing else can have run.
    """
    worker = state.workers.pop(event.worker, None)
    if worker is None:
        return
    state.apps.pop(event.worker, None)
    state.roomy.pop(worker, None)
    state.touched.pop(worker, None)
    state.laden.pop(worker, None)
    state.requests.pop(worker, None)
    worker.status = WorkerStatus.CLOSING
    worker.pipeline.clear()
    for pool in state.pools.values():
        refresh(state, pool)
    # An input that goes with the worker makes a task look as if it had not begun: choose before.
    begun = [task for task in worker.processing.values() if not task.waiting_on and task.function is not None]
    blamed = [task for task in begun if task not in worker.away][: worker.slots] or begun
    for task in tuple(worker.holds):
        task.discard_holder(worker)
        if task.state is MEMORY and task.holders is None and task.value is None:
            claims.lose(state, task)
    for task in tuple(worker.processing.values()):
        if task.worker is worker:
            _take_from_lost(state, worker, task, blame=not event.expected and task in blamed)
    state.frees.pop(worker, None)
    state.roomy.pop(worker, None)
    state.touched.pop(worker, None)
    reports.worker_leaves_calls(state, worker)
    tending.worker_lost(state, worker)
    ending.worker_lost(state)
    relay.holder_lost(state, event.worker)
    relay.asker_lost(state, event.worker)
    copying.taker_lost(state, worker)
    claims.claimant_lost(state, worker)
    for other in state.workers.values():
        if other.status is WorkerStatus.CLOSING:
            reports.see_off(state, other)  # perhaps it was this one that took its results
    state.commands = [command for command in state.commands if command.peer != event.worker]
    state.commands.append(Forget(event.worker))


def _take_from_lost(state: SchedulerState, worker: WorkerRecord, task: TaskRecord, *, blame: bool) -> None:
    if task.function is None:
        transitions.processing_refused(state, task, f"worker {worker.name} was lost on the way")
    elif (blame or task.pool.at_most_once) and task.needed:  # which of them had begun nobody can tell
        recording.died(state, worker, task, "WorkerLostError", "")
        reports.count_death(state, task, worker, "WorkerLostError", "")
    else:
        transitions.pull_back(state, task, tell=False)


def worker_said(state: SchedulerState, event: WorkerSaid) -> None:
    """Apply a worker's messages, in order."""
    worker = state.workers.get(event.worker)
    if worker is None and event.worker in state.archives:
        storing.said(state, state.archives[event.worker], event)
        return
    if worker is None and event.worker == shelving.SHELF:
        shelving.said(state, event.messages)
        return
    if worker is None:
        state.counters["stranger"] += sum(1 for _ in event.messages)
        return
    for message in event.messages:
        apply = FROM_WORKER.get(type(message))
        if apply is None:
            state.counters["unexpected"] += 1
        else:
            apply(state, worker, message)


def worker_beat(state: SchedulerState, event: WorkerBeat) -> None:
    """A sign of life, with figures."""
    worker = state.workers.get(event.worker)
    if worker is None:
        return
    worker.metrics = event.metrics
    placement.measure_bandwidth(state, worker, event.metrics.get("bandwidth"))
    if event.round_trip is not None:
        trip = min(event.round_trip, LATENCY_MAX)
        worker.latency += LATENCY_NEWEST * (trip - worker.latency)
        placement.open_window(state, worker)
    is_paused = worker.changing or event.status == WorkerStatus.PAUSED.value
    status = WorkerStatus.PAUSED if is_paused else WorkerStatus.RUNNING
    if event.status == WorkerStatus.CLOSING.value or state.operations.ending is not None:
        status = WorkerStatus.CLOSING
    _set_status(state, worker, status)
    stealing.watch(state, worker)
    placement.update_room(state, worker)  # the window follows the round trip as well
    if status is WorkerStatus.CLOSING:
        reports.see_off(state, worker)
    if worker.pipeline:
        state.touched[worker] = None


_FROM_CLIENT: dict[type[Any], Callable[[SchedulerState, ClientRecord, Any], None]] = {
    m.AddFunction: intake.add_function,
    m.Submit: intake.submit,
    m.EndGraph: intake.end_graph,
    m.GiveFailure: lambda state, client, message: claims.give_failure(state, client, message, intake.want),
    m.Release: intake.release,
    m.Want: intake.want_keys,
    m.Cancel: intake.cancel,
    m.Retry: retrying.retry,
    m.Detach: intake.detach,
    m.PutValue: intake.put_value,
    m.PutFile: intake.put_file,
    m.PutPart: intake.put_part,
    m.OnFailure: terms.plan,
    m.Await: lambda state, client, message: terms.expect(state, client, message, intake.want),
    m.Ask: requests.ask,
    m.RunOnExecutors: rounds.run_on_executors,
    m.RunOnScheduler: tending.run_on_scheduler,
    m.ParcelPart: tending.parcel_part,
    m.ToPeer: tending.to_peer,
    m.RunOnWorkers: observe.run_on_workers,
    m.DataWanted: relay.client_wants_data,
    m.DataPart: relay.client_gives_data,
    m.DataEnough: relay.client_has_enough,
}

#: what is done about each message of a worker
FROM_WORKER: dict[type[Any], Callable[[SchedulerState, WorkerRecord, Any], None]] = {
    m.Finished: reports.finished,
    m.Erred: reports.erred,
    m.ExecutorDied: reports.executor_died,
    m.GaveBack: reports.gave_back,
    m.InputsMissing: reports.inputs_missing,
    m.Stored: reports.stored,
    m.NotStored: reports.not_stored,
    m.FunctionCalled: reports.function_called,
    m.DataWanted: relay.worker_wants_data,
    m.DataPart: relay.worker_gives_data,
    m.DataEnough: relay.worker_has_enough,
    m.Inventory: claims.inventory,
    m.ExecutorsAnswered: rounds.executors_answered,
    m.Settled: rounds.settled,
    m.ParcelWanted: tending.parcel_passed,
    m.ParcelPart: tending.parcel_passed,
    m.StandingGiven: standing.given,
    m.Continue: continuing.continued,
    m.Said: terms.said,
    m.DataLost: reports.data_lost,
    m.Happened: reports.happened,
    m.TaskAway: families.task_away,
    m.TaskReturned: families.task_returned,
    m.ResultHolds: families.result_holds,
}

_APPLY: dict[type[Any], Callable[[SchedulerState, Any], None]] = {
    ClientJoined: client_joined,
    ClientGone: client_gone,
    ClientSaid: client_said,
    WorkerJoined: worker_joined,
    WorkerSuspected: worker_suspected,
    WorkerReturned: worker_returned,
    WorkerLost: worker_lost,
    WorkerSaid: worker_said,
    WorkerBeat: worker_beat,
    Tick: lambda _state, _event: None,  # what is due is done after every event
    WorkersBack: lambda state, _event: resuming.finish(state),
}
