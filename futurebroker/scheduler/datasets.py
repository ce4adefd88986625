"""What clients ask about published datasets (sans-IO).

A dataset is a name for a value with futures in it. The value is bytes that nobody here opens; the keys of its futures
are wanted on the dataset's behalf, so that they stay when its publisher goes. What of it has to outlive all workers is
the business of `storing`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from futurebroker.protocol.messages import Answer, Ask
from futurebroker.scheduler import catalog, recording, sharing, storing
from futurebroker.scheduler.published import ARCHIVE, Asker, Dataset, Entry
from futurebroker.scheduler.records import ClientRecord, TaskRecord
from futurebroker.scheduler.shared import Request
from futurebroker.scheduler.state import ERRED, MEMORY, SchedulerState
from futurebroker.scheduler.wants import hold, lend, let_go
from futurebroker.types import DATASET_NAME

#: archives there may be
ARCHIVES = ("database", "store")
#: bytes of a value that stand with its name; of a larger one its key does
ITEM_LIMIT = 64 * 1024
#: keys of one dataset, bytes of what is told about it, and datasets of a scheduler
KEYS_LIMIT = 50_000
ABOUT_LIMIT = 16 * 1024
DATASETS_LIMIT = 100_000
#: seconds in which a client that was given a dataset says that it wants what is in it
TAKING = 10.0
#: tasks that the digest of a graph may take
DIGEST_LIMIT = 10_000


class Publish(msgspec.Struct, omit_defaults=True):
    """Give values names, all of them or none."""

    entries: list[Entry]
    op: str = ""  #: names this request; its asker's own
    override: bool = False


def publish(state: SchedulerState, client: ClientRecord, message: Ask) -> None:
    """Keep values under their names; answered when that is so, or when they are stored too if they have to be."""
    try:
        about = msgspec.convert(message.about, Publish)
    except msgspec.ValidationError as error:
        state.send(client.client_id, Answer(message.number, None, f"{message.topic}: {error}"))
        return
    known = state.published.datasets
    names = [entry.name for entry in about.entries]
    if not (about.op and all(name in known and known[name].op == about.op for name in names)):
        fault = _fault(state, about)
        if fault:
            state.send(client.client_id, Answer(message.number, None, f"{message.topic}: {fault}"))
            return
        duplicates = [name for name in names if name in known]
        if duplicates and not about.override:
            state.send(client.client_id, Answer(message.number, {"duplicate": duplicates[0]}))
            return
        recording.accepted(state, client, message)
        for entry in about.entries:
            _put(state, client, entry, about.op)
    _answer_when_stored(state, client, message.number, names)


def _fault(state: SchedulerState, about: Publish) -> str:
    """What is wrong with a request; empty if nothing is."""
    names = [entry.name for entry in about.entries]
    if len(set(names)) < len(names):
        return "a name is given twice"
    if len(state.published.datasets) + len(names) > DATASETS_LIMIT:
        return f"there are {len(state.published.datasets):,} datasets, and may be {DATASETS_LIMIT:,}; unpublish some"
    for entry in about.entries:
        fault = _fault_of(state, entry)
        if fault:
            return fault
    return ""


def _fault_of(state: SchedulerState, entry: Entry) -> str:
    name = entry.name
    if not DATASET_NAME.fullmatch(name):
        return f"{name[:80]!r} is no name: it has 1 to 200 of the letters a-z and A-Z, digits, and _ . -"
    if len(entry.item) > ITEM_LIMIT or len(msgspec.msgpack.encode(entry.about)) > ABOUT_LIMIT:
        return f"{name} has too large a value, or too much is told of it"
    if len(entry.keys) > KEYS_LIMIT:
        return f"{name} has {len(entry.keys):,} futures, and may have {KEYS_LIMIT:,}; publish it as several datasets"
    if not entry.item and not entry.data:
        return f"{name} has no value"
    if entry.persist and entry.persist not in ARCHIVES:
        return f"persist= takes {' or '.join(map(repr, ARCHIVES))}, got {entry.persist!r}"
    if entry.persist and not state.replaying and ARCHIVE + entry.persist not in state.archives:
        return (
            f"this scheduler can't keep {name} in its {entry.persist}, because it keeps no journal; "
            "start it with --journal process, or publish without persist="
        )
    for key in [*entry.keys, entry.data] if entry.data else entry.keys:
        if key not in state.tasks:
            return f"{name} has a future of {key}, which was cancelled, released or lost; submit it again"
    return ""


def _put(state: SchedulerState, client: ClientRecord, entry: Entry, op: str) -> None:
    former = state.published.datasets.get(entry.name)
    dataset = Dataset(entry, client.client_id, op, len(entry.item))
    tasks = [state.tasks[key] for key in dataset.keys]
    dataset.graph, dataset.graph_tasks = digest_of(tasks)
    # Before the former is let go of: what both need must not be released between.
    hold(state, dataset.place, dataset.keys)
    if former is not None:
        _withdraw(state, former)
    state.published.datasets[entry.name] = dataset
    catalog.published(state, entry.name, dataset)
    storing.begin(state, entry.name, dataset)


def _answer_when_stored(state: SchedulerState, client: ClientRecord, number: int, names: list[str]) -> None:
    waiting = [name for name in names if state.published.datasets[name].unstored]
    if not waiting:
        state.send(client.client_id, Answer(number, {}))
    elif not state.replaying:
        state.published.askers.append(Asker(client.client_id, number, waiting))
        for name in waiting:  # one that came again may have missed what became of it
            state.published.ended += state.published.datasets[name].unstored


def _withdraw(state: SchedulerState, dataset: Dataset) -> None:
    """A dataset is there no more; who has just been given it may still take what is in it."""
    name = dataset.entry.name
    catalog.removed(state, name, dataset)
    storing.drop(state, name, dataset)
    storing.tell(state, name, "it was unpublished or replaced before it was stored")
    let_go(state, dataset.place, dataset.keys)
    del state.published.datasets[name]


def get(state: SchedulerState, client: ClientRecord, message: Ask) -> None:
    """Give a dataset; what is in it stays for a moment even if it is unpublished meanwhile."""
    dataset = state.published.datasets.get(message.about) if isinstance(message.about, str) else None
    if dataset is None:
        state.send(client.client_id, Answer(message.number, {"unknown": message.about}))
        return
    if dataset.keys:
        recording.accepted(state, client, message)
        lend(state, dataset.keys, TAKING)
    entry = dataset.entry
    answer = {"item": entry.item, "data": entry.data, "type": entry.about.type}
    state.send(client.client_id, Answer(message.number, answer))


class Unpublish(Request):
    """Remove a dataset."""


def unpublish(state: SchedulerState, client: ClientRecord, number: int, about: Unpublish) -> None:
    """Remove a dataset; what nobody else needs of it goes with it."""
    if sharing.answered_before(state, client, number, about):
        return
    dataset = state.published.datasets.get(about.name)
    if dataset is None:
        state.send(client.client_id, Answer(number, {"unknown": about.name}))
        return
    _withdraw(state, dataset)
    sharing.answer(state, client.client_id, number, about.op, {})


# -- telling ---------------------------------------------------------------------------------------------------------


def described(state: SchedulerState, about: Any) -> list[dict[str, Any]]:
    """All datasets by name, or those of the list ``about``, with what is known of each; see docs/datasets.md."""
    if about is not None and not (isinstance(about, list) and all(isinstance(name, str) for name in about)):
        raise TypeError("takes a list of names, or nothing for all")
    known = state.published.datasets
    names = sorted(known) if about is None else [name for name in about if name in known]
    return [_describe(state, name, known[name]) for name in names]


def _describe(state: SchedulerState, name: str, dataset: Dataset) -> dict[str, Any]:
    entry = dataset.entry
    tasks = [task for key in dataset.keys if (task := state.tasks.get(key)) is not None]
    return {
        "name": name,
        "type": entry.about.type,
        "size": catalog.size_of(state, dataset),
        "parts": len(dataset.keys),
        "ready": sum(task.state is MEMORY for task in tasks),
        "failed": sum(task.state is ERRED for task in tasks),
        "persist": entry.persist or None,
        "stored": not dataset.unstored if entry.persist else None,
        "trouble": dataset.trouble,
        "who": entry.about.who,
        "client": dataset.client,
        "program": entry.about.program,
        "when": entry.about.when,
        "graph": dataset.graph or None,
        "graph_tasks": dataset.graph_tasks,
        "environment": entry.about.environment,
    }


def digest_of(tasks: Sequence[TaskRecord]) -> tuple[str, int]:
    """A digest of how ``tasks`` are computed, and how many tasks went into it; empty if they are too many.

    It is made of functions, arguments and inputs, not of keys, as far as lineage is known: equal digests mean the same
    work. What was scattered counts as data, whatever is in it.
    """
    digests: dict[TaskRecord, bytes] = {}
    stack = list(reversed(tasks))
    while stack:
        task = stack[-1]
        missing = [one for one in task.dependencies if one not in digests] if task not in digests else []
        if missing:
            stack += missing
            continue
        stack.pop()
        if task in digests:
            continue
        if len(digests) == DIGEST_LIMIT:
            return "", 0
        digest = hashlib.sha256(task.function.digest if task.function is not None else b"data")
        digest.update(b"%d;" % len(task.args))
        digest.update(task.args)
        for one in task.dependencies:
            digest.update(digests[one])
        digests[task] = digest.digest()
    if not tasks:
        return "", 0
    return hashlib.sha256(b"".join(digests[task] for task in tasks)).hexdigest(), len(digests)


# -- for checkpoints -------------------------------------------------------------------------------------------------


def dump(state: SchedulerState) -> Any:
    """For a checkpoint. What is stored is not part of it: archives tell that themselves."""
    return [
        (msgspec.to_builtins(one.entry, builtin_types=(bytes,)), one.client, one.op, one.graph, one.graph_tasks)
        for one in state.published.datasets.values()
    ]


def load(state: SchedulerState, value: Any) -> None:
    """Take in what `dump` gave; the keys are wanted already."""
    for row, client, op, graph, graph_tasks in value:
        entry = msgspec.convert(row, Entry)
        dataset = Dataset(entry, client, op, len(entry.item), graph, graph_tasks)
        state.published.datasets[entry.name] = dataset
        storing.begin(state, entry.name, dataset)


#: see `requests`
QUESTIONS: dict[str, Callable[[SchedulerState, Any], Any]] = {
    "datasets": described,
    "dataset_names": lambda state, _about: sorted(state.published.datasets),
}
REQUESTS: dict[str, Callable[[SchedulerState, ClientRecord, Ask], None]] = {
    "dataset_publish": publish,
    "dataset_get": get,
    "dataset_unpublish": sharing.request(Unpublish, unpublish),
}
# The others note what they accept themselves.
recording.KEPT_TOPICS.add("dataset_unpublish")
