"""Has the results behind datasets stored, so that they outlive all workers (sans-IO).

An archive is a holder of results like a worker, which runs nothing: it is told to fetch a result by `Replicate`, gives
it back in parts, and frees it when nobody needs it any more. It lives in the scheduler's process and never opens what
it keeps. What the scheduler keeps itself is in the journal and needs no archive.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from futurebroker.protocol import messages as m
from futurebroker.scheduler import catalog, claims, relay, reports
from futurebroker.scheduler.commands import WorkerSaid
from futurebroker.scheduler.published import ARCHIVE, DURABLE, Dataset
from futurebroker.scheduler.records import TaskRecord, WorkerRecord
from futurebroker.scheduler.state import ERRED, MEMORY, UNFINISHED, SchedulerState
from futurebroker.scheduler.telling import must_be_stored, tell_stored
from futurebroker.types import Key

#: seconds until a result is stored again that was on the move, or that could not be written
AGAIN = 1.0
AGAIN_AFTER_TROUBLE = 10.0


def open_archive(state: SchedulerState, name: str) -> str:
    """There is an archive called ``name`` from now on; returns what messages to it are sent to."""
    peer = ARCHIVE + name
    state.archives[peer] = WorkerRecord(peer, {"name": peer})
    return peer


def archive_of(state: SchedulerState, dataset: Dataset) -> WorkerRecord | None:
    """The archive that a dataset must be in; None if in none, or it isn't there (yet)."""
    return state.archives.get(ARCHIVE + dataset.entry.persist) if dataset.entry.persist else None


# -- what is to be stored --------------------------------------------------------------------------------------------


def begin(state: SchedulerState, name: str, dataset: Dataset) -> None:
    """Have what isn't stored of a dataset stored."""
    if not dataset.entry.persist:
        return
    archive = archive_of(state, dataset)
    for key in dataset.keys:
        task = state.tasks.get(key)
        if task is None or not _is_stored(task, archive):
            dataset.unstored[key] = None
            state.published.unstored.setdefault(key, {})[name] = None
            state.published.ended.append(key)


def _is_stored(task: TaskRecord, archive: WorkerRecord | None) -> bool:
    return task.value is not None or (archive is not None and archive in task.holder_paths())


def drop(state: SchedulerState, name: str, dataset: Dataset) -> None:
    """A dataset is gone: nothing has to be stored for it."""
    for key in dataset.unstored:
        _cross_off(state, key, name)
    dataset.unstored.clear()


def _cross_off(state: SchedulerState, key: Key, name: str) -> None:
    names = state.published.unstored[key]
    del names[name]
    if not names:
        del state.published.unstored[key]


def look(state: SchedulerState) -> None:
    """Go on with keys that came to an end in this event; those that wait for that learn what it is."""
    ended, state.published.ended = dict.fromkeys(state.published.ended), []
    if state.replaying:
        return
    for key in ended:
        task = state.tasks.get(key)
        takers: dict[str, None] = {}
        if task is not None and task.state is MEMORY and key in state.published.unready:
            catalog.has_come(state, task)
        if task is not None and must_be_stored(state, task):
            takers[DURABLE] = None
        elif task is not None and task in state.untold:
            tell_stored(state, task)
        for name in tuple(state.published.unstored.get(key, ())):
            dataset = state.published.datasets[name]
            archive = archive_of(state, dataset)
            if archive is None or task is None or state.holders.get(dataset.place) not in task.each_client():
                _note_trouble(state, name, dataset, f"{key} was cancelled")
            elif _is_stored(task, archive):
                _stored(state, name, dataset, key)
            elif task.state is MEMORY:
                takers[archive.worker_id] = None
            elif task.state is ERRED and task.failure is not None:
                _note_trouble(state, name, dataset, f"{key} failed: {task.failure.type}: {task.failure.message}")
        if task is not None:
            for taker in takers:
                state.send(taker, m.Replicate(task.held()))


def _stored(state: SchedulerState, name: str, dataset: Dataset, key: Key) -> None:
    del dataset.unstored[key]
    _cross_off(state, key, name)
    if not dataset.unstored:
        dataset.trouble = ""
        tell(state, name, "")


def _note_trouble(state: SchedulerState, name: str, dataset: Dataset, trouble: str) -> None:
    dataset.trouble = trouble
    tell(state, name, trouble)


def tell(state: SchedulerState, name: str, trouble: str) -> None:
    """A dataset is stored, or not: those that wait for that get their answer, once it is so of all they asked for."""
    kept = []
    for asker in state.published.askers:
        if name in asker.names:
            asker.names.remove(name)
            if trouble:
                state.send(asker.client, m.Answer(asker.number, {"name": name, "trouble": trouble}))
                continue
            if not asker.names:
                state.send(asker.client, m.Answer(asker.number, {}))
                continue
        kept.append(asker)
    state.published.askers = kept


def hold_back(state: SchedulerState) -> None:
    """A journal was replayed: no durable result is spoken of before it is known to be stored."""
    if any(pool.options.durable for pool in state.pools.values()):
        state.untold.update((task, None) for task in state.tasks.values() if must_be_stored(state, task))


def resume(state: SchedulerState) -> None:
    """The workers are back: go on with what isn't stored."""
    state.published.ended += state.published.unstored
    state.published.ended += [task.key for task in state.untold]


# -- what archives say -----------------------------------------------------------------------------------------------


def said(state: SchedulerState, archive: WorkerRecord, event: WorkerSaid) -> None:
    """Apply an archive's messages, in order."""
    for message in event.messages:
        _FROM_ARCHIVE[type(message)](state, archive, message)


def _report_stored(state: SchedulerState, archive: WorkerRecord, message: m.Stored) -> None:
    reports.stored(state, archive, message)
    state.published.ended.append(message.key)


def _not_stored(state: SchedulerState, archive: WorkerRecord, message: m.NotStored) -> None:
    """Without a reason it was on the move: it comes to another place, or is computed again."""
    if message.reason:
        for name in tuple(state.published.unstored.get(message.key, ())):
            dataset = state.published.datasets[name]
            if archive_of(state, dataset) is archive:
                _note_trouble(state, name, dataset, message.reason)
        task = state.tasks.get(message.key)
        if task is not None and task in state.untold:
            state.note(task, f"its result was not stored, and counts when it is: {message.reason}")
    pause = AGAIN_AFTER_TROUBLE if message.reason else AGAIN
    state.timers.at(state.now + pause, partial(_look_again, state, message.key))


def _look_again(state: SchedulerState, key: Key) -> None:
    state.published.ended.append(key)


def _lost(state: SchedulerState, archive: WorkerRecord, message: m.DataLost) -> None:
    """What the archive had is damaged or gone: it is computed again and stored again, if that can be."""
    task = state.tasks.get(message.key)
    reports.data_lost(state, archive, message)
    state.published.ended.append(message.key)
    if task is not None and task.state in (MEMORY, *UNFINISHED):
        for name, dataset in state.published.datasets.items():
            if archive_of(state, dataset) is archive and message.key in dataset.keys:
                begin(state, name, dataset)


def _inventory(state: SchedulerState, archive: WorkerRecord, message: m.Inventory) -> None:
    """What the archive has from a former scheduler's time; what nobody asks for in a while is freed."""
    claims.inventory(state, archive, message)
    state.published.ended += [key for key, _, _ in message.held]


_FROM_ARCHIVE: dict[type[Any], Callable[[SchedulerState, WorkerRecord, Any], None]] = {
    m.Stored: _report_stored,
    m.NotStored: _not_stored,
    m.DataLost: _lost,
    m.Inventory: _inventory,
    m.DataWanted: relay.worker_wants_data,
    m.DataPart: relay.worker_gives_data,
    m.DataEnough: relay.worker_has_enough,
}
