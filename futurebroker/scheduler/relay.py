"""Passes requests for stored results to who holds them, and their parts back to who asked; never opens them."""

from __future__ import annotations

from futurebroker.protocol.messages import DataPart, DataWanted
from futurebroker.scheduler.records import ClientRecord, WorkerRecord
from futurebroker.scheduler.state import SchedulerState
from futurebroker.states import WorkerStatus


def client_wants_data(state: SchedulerState, client: ClientRecord, message: DataWanted) -> None:
    """A client fetches a result."""
    ask_holder(state, client.client_id, message)


def worker_wants_data(state: SchedulerState, worker: WorkerRecord, message: DataWanted) -> None:
    """A worker fetches an input."""
    ask_holder(state, worker.worker_id, message)


def client_gives_data(state: SchedulerState, client: ClientRecord, message: DataPart) -> None:
    """A client answers with a part of what it scatters."""
    _pass_on(state, message)


def worker_gives_data(state: SchedulerState, worker: WorkerRecord, message: DataPart) -> None:
    """A worker answers with a part of what it holds."""
    worker.asked.pop((message.asker, message.transfer, message.offset), None)
    _pass_on(state, message)


def ask_holder(state: SchedulerState, asker: str, message: DataWanted) -> None:
    """Have who holds a result send a part of it to ``asker``."""
    task = state.tasks.get(message.key)
    if task is not None and task.value is not None:
        part = task.value[message.offset : message.offset + message.length]
        state.send(asker, DataPart(message.transfer, message.key, message.offset, len(task.value), part))
        return
    if task is not None and task.holders is not None and state.nowhere is not None:
        if all(worker is state.nowhere for worker in task.holder_paths()):
            state.asked_of_nowhere.append((asker, message))  # answered when it is known who has it
            return
    holder = message.holder
    if not holder and task is not None:
        living = [worker for worker in task.holder_paths() if worker.status is not WorkerStatus.SUSPECT]
        # What an archive has, others that have it too give faster.
        living.sort(key=lambda worker: worker.worker_id in state.archives)
        holder = living[0].worker_id if living else ""
    if holder in state.workers or holder in state.clients or holder in state.archives:
        wanted = DataWanted(message.transfer, message.key, message.offset, message.length, holder, asker)
        if holder in state.workers:
            state.workers[holder].asked[asker, message.transfer, message.offset] = message.key
        state.send(holder, wanted)
    else:
        state.send(asker, DataPart(message.transfer, message.key, message.offset, -1, b""))


def holder_lost(state: SchedulerState, worker: WorkerRecord) -> None:
    """A worker is gone: who waits for a part from it learns that it won't come."""
    for (asker, transfer, offset), key in worker.asked.items():
        _pass_on(state, DataPart(transfer, key, offset, -1, b"", asker))


def _pass_on(state: SchedulerState, message: DataPart) -> None:
    if message.asker in state.workers or message.asker in state.clients or message.asker in state.archives:
        state.send(message.asker, message)
