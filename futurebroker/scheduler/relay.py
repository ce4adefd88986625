"""Passes requests for stored results to who holds them, and their parts back to who asked; never opens them.

Parts for who named an inbox don't come by here: their holder sends them there. What is asked for and hasn't arrived is
bounded in all, because it may all lie in the broker: requests beyond that wait here, in the order they came.
"""

from __future__ import annotations

from futurebroker.protocol.messages import DataEnough, DataPart, DataWanted
from futurebroker.scheduler.records import ClientRecord, Relayed, WorkerRecord
from futurebroker.scheduler.state import SchedulerState
from futurebroker.states import WorkerStatus

#: bytes of results that may be on their way through the broker, of all transfers together
RELAYED_BYTES = 40 * 1024 * 1024


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
    _pass_on(state, message)


def client_has_enough(state: SchedulerState, client: ClientRecord, message: DataEnough) -> None:
    """A client needs no more of a transfer."""
    _end(state, client.client_id, message.transfer)


def worker_has_enough(state: SchedulerState, worker: WorkerRecord, message: DataEnough) -> None:
    """A worker needs no more of a transfer."""
    _end(state, worker.worker_id, message.transfer)


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
    relayed = state.relayed.get((asker, message.transfer))
    if relayed is not None and message.got > relayed.got:
        state.relayed_bytes -= relayed.arrive(message.got)
        _go_on(state)
    holder = message.holder or (relayed.holder if relayed is not None else "")
    if not holder and task is not None:
        living = [worker for worker in task.holder_paths() if worker.status is not WorkerStatus.SUSPECT]
        # What an archive has, others that have it too give faster.
        living.sort(key=lambda worker: worker.worker_id in state.archives)
        holder = living[0].worker_id if living else ""
    if holder not in state.workers and holder not in state.clients and holder not in state.archives:
        state.send(asker, DataPart(message.transfer, message.key, message.offset, -1, b""))
        _end(state, asker, message.transfer)
        return
    if relayed is None:
        relayed = state.relayed[asker, message.transfer] = Relayed(message.key, holder, message.got)
    more = _more(state, relayed, message)
    if more and (state.relays_waiting or (state.relayed_bytes and state.relayed_bytes + more > RELAYED_BYTES)):
        state.relays_waiting[asker, message.transfer, message.offset] = message
    else:
        _ask(state, asker, relayed, message)


def _more(state: SchedulerState, relayed: Relayed, message: DataWanted) -> int:
    """Bytes that a request adds to what is on its way: none where it only repeats."""
    task = state.tasks.get(message.key)
    end = message.offset + message.length
    return max(0, min(end, task.nbytes if task is not None and task.nbytes > 0 else end) - relayed.asked)


def _ask(state: SchedulerState, asker: str, relayed: Relayed, message: DataWanted) -> None:
    more = _more(state, relayed, message)
    relayed.asked += more
    state.relayed_bytes += more
    transfer, key, offset, length = message.transfer, message.key, message.offset, message.length
    state.send(relayed.holder, DataWanted(transfer, key, offset, length, relayed.holder, asker, message.inbox))


def _go_on(state: SchedulerState) -> None:
    """Pass on what waited, as far as there is room now."""
    waiting = state.relays_waiting
    while waiting:
        place = next(iter(waiting))
        message, relayed = waiting[place], state.relayed.get(place[:2])
        if relayed is not None:
            more = _more(state, relayed, message)
            if state.relayed_bytes and state.relayed_bytes + more > RELAYED_BYTES:
                return
            _ask(state, place[0], relayed, message)
        del waiting[place]


def _end(state: SchedulerState, asker: str, transfer: int) -> Relayed | None:
    relayed = state.relayed.pop((asker, transfer), None)
    if relayed is not None:
        state.relayed_bytes -= relayed.asked - relayed.got
        _go_on(state)
    return relayed


def holder_lost(state: SchedulerState, holder: str) -> None:
    """A worker or client is gone: who waits for a part from it learns that it won't come."""
    for (asker, transfer), relayed in list(state.relayed.items()):
        if relayed.holder == holder:
            _end(state, asker, transfer)
            _send_on(state, DataPart(transfer, relayed.key, 0, -1, b"", asker))


def asker_lost(state: SchedulerState, asker: str) -> None:
    """Nobody waits for its transfers any more."""
    for name, transfer in list(state.relayed):
        if name == asker:
            _end(state, asker, transfer)
    state.asked_of_nowhere = [(name, message) for name, message in state.asked_of_nowhere if name != asker]


def _pass_on(state: SchedulerState, message: DataPart) -> None:
    if len(message.data) >= message.nbytes:  # it was the whole, or there is none
        _end(state, message.asker, message.transfer)
    _send_on(state, message)


def _send_on(state: SchedulerState, message: DataPart) -> None:
    if message.asker in state.workers or message.asker in state.clients or message.asker in state.archives:
        state.send(message.asker, message)
