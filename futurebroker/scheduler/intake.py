"""What clients ask of the scheduler: submitting, wanting, releasing, cancelling, retrying, scattering."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from futurebroker.protocol.messages import (
    KEEP_LIMIT,
    AddFunction,
    AdoptFile,
    Await,
    Cancel,
    Conditions,
    Detach,
    DetachedEnded,
    EndGraph,
    Held,
    KeyCancelled,
    KeyErred,
    KeyFinished,
    PutFile,
    PutPart,
    PutValue,
    Release,
    Replicate,
    Store,
    StorePart,
    Submit,
    TaskOptions,
    Want,
)
from futurebroker.scheduler import (
    claims,
    families,
    keeping,
    placement,
    rates,
    recording,
    revoking,
    shelving,
    terms,
    transitions,
)
from futurebroker.scheduler.admission import KEY_LENGTH, KEYS_PER_MESSAGE, NAME_LENGTH, bad_key, bad_options
from futurebroker.scheduler.records import ORDER_MASK, ClientRecord, FunctionRecord, Pool, TaskRecord, WorkerRecord
from futurebroker.scheduler.state import (
    DATA,
    ERRED,
    MEMORY,
    PROCESSING,
    RELEASED,
    UNFINISHED,
    SchedulerState,
)
from futurebroker.scheduler.telling import undetach
from futurebroker.states import WorkerStatus
from futurebroker.types import Key

# -- tasks ---------------------------------------------------------------------------------------------------------


def add_function(state: SchedulerState, client: ClientRecord, message: AddFunction) -> None:
    """Keep a function for the calls that follow; the same digest is the same function."""
    function = state.functions.get(message.digest)
    if function is None:
        function = FunctionRecord(message.digest, message.code, state.kind(message.name[:NAME_LENGTH]))
        state.functions[message.digest] = function
    function.users[client] = None
    client.functions[message.digest] = None


def submit(state: SchedulerState, client: ClientRecord, message: Submit) -> None:
    """Take in calls of one function. Each call is taken whole or rejected whole; the others don't suffer."""
    if message.is_new and state.check:
        _free_keys(state)
    function = state.functions.get(message.function)
    pool = placement.known_pool(state, message.options)
    fault, kind = _misfit(state, function, message, is_new=pool is None)
    if fault or function is None:
        for key in message.keys:
            _reject(state, client, key, fault, kind=kind)
        return
    first = _enter(state, client, message)
    joined = 0
    parent = families.unfinished(state, message.parent) if message.parent else None
    # What a graph consists of is wanted on its behalf, and its client hears nothing of it.
    wanter = state.holder(families.graph_holder(client, message.graph)) if message.graph else client
    pool = pool or placement.pool_for(state, message.options)
    tasks, revoked = state.tasks, state.revoked
    room = state.policy.client_keys - client.wanted
    if pool.options.rate_limit:
        rates.see_to(function.kind, pool)
    keeps = pool.options.keep or pool.options.unwanted
    for key, args, names, agreed in _calls_of(message):
        if key in tasks:
            _submit_known(state, client, tasks[key], function, args, names, pool, agreed)
            _adopt_known(state, client, parent, tasks[key])
            continue
        if room <= 0 or not 0 < len(key) <= KEY_LENGTH:
            full = f"the client already holds {client.wanted:,} futures, the most it may"
            _reject(state, client, key, bad_key(key) or full)
            continue
        room -= 1
        dependencies: tuple[TaskRecord, ...] = ()
        if names:
            found = _inputs(state, names)
            if isinstance(found, str):
                _reject(state, client, key, found)
                continue
            dependencies = found
        task = state.add_task(key, function.kind, function, args, dependencies, pool, parent)
        if (dependencies or parent is not None) and task.order & ORDER_MASK < first:
            joined += 1
            state.graphs.join(task.order & ORDER_MASK, function.kind.name)
        task.add_client(wanter)
        if keeps:
            keeping.keep(state, task)
        if parent is not None and not message.graph:
            families.adopt(state, parent, task)
        if message.is_new and claims.may_be_others(state, message):
            claims.renounce(state, task)
        elif state.claims and claims.claimed(state, task):
            continue
        if (agreed is not None or revoked) and revoking.admitted(state, task, agreed):
            continue
        if dependencies:
            transitions.compute(state, task)
        else:
            transitions.released_queued(state, task)
    state.graphs.add(function.kind.name, state.sequence + 1 - first - joined)
    if not pool.tasks:
        state.pools.pop(pool.token, None)


def _free_keys(state: SchedulerState) -> None:
    """A chosen key that was let go of in the same breath is free for another call."""
    families.settle(state)
    state.send_frees()  # after a Run of the key this would take what that makes


def _calls_of(message: Submit) -> Iterator[tuple[Key, bytes, tuple[Key, ...], Conditions | None]]:
    keys = message.keys
    rows: Sequence[tuple[Key, ...]] = message.dependencies or ((),) * len(keys)
    conditions = message.conditions or (None,) * len(keys)
    return zip(keys, message.args, rows, conditions, strict=True)


def _enter(state: SchedulerState, client: ClientRecord, message: Submit) -> int:
    """Note when and with what the calls of a message were submitted; the first running number they may get."""
    state.moments.note(state.sequence, state.now)
    if not message.parent:
        state.sequence = state.graphs.enter(client.client_id, message.graph, state.sequence, state.now)
    return state.sequence + 1


def _adopt_known(state: SchedulerState, client: ClientRecord, parent: TaskRecord | None, task: TaskRecord) -> None:
    if parent is not None and client in task.each_client():
        families.adopt(state, parent, task)


def _misfit(
    state: SchedulerState, function: FunctionRecord | None, message: Submit, *, is_new: bool
) -> tuple[str, str]:
    """Why none of a message's calls can be taken in, and what kind of refusal that is; empty when they can.

    Args:
        is_new: whether nobody has looked at its options yet.
    """
    keys = message.keys
    if function is None:
        return "its function was never sent", "rejected"
    if not len(keys) == len(message.args) == len(message.dependencies or keys) == len(message.conditions or keys):
        return "its message has more keys than calls, or fewer", "rejected"
    if is_new and (fault := bad_options(message.options)):
        return fault, "rejected"
    if len(keys) > KEYS_PER_MESSAGE:
        return f"its message submits {len(keys):,} calls, and may submit {KEYS_PER_MESSAGE:,}", "rejected"
    if message.parent and (fault := families.gone(state, message.parent)):
        return fault, "cancelled"
    return "", ""


def _inputs(state: SchedulerState, names: tuple[Key, ...]) -> tuple[TaskRecord, ...] | str:
    """The tasks that a call depends on, or why it can't."""
    found: list[TaskRecord] = []
    for name in names:
        task = state.tasks.get(name)
        if task is None:
            return f"its dependency {name} was cancelled, lost or never known"
        found.append(task)
    if len(names) > 1 and len(set(names)) < len(names):
        return "it names a dependency twice"
    return tuple(found)


def end_graph(state: SchedulerState, client: ClientRecord, message: EndGraph) -> None:
    """A graph is complete: what the client wants of it is its own from here on, the rest is kept as far as needed."""
    parent = families.unfinished(state, message.parent) if message.parent else None
    for key in message.keys:
        task = state.tasks.get(key)
        if task is None:
            reason = "its task was not taken, or what it depends on was not"
            state.send(client.client_id, KeyCancelled(key, reason, "rejected"))
            continue
        want(state, client, task)
        if parent is not None:
            families.adopt(state, parent, task)
    state.drop_holder(families.graph_holder(client, message.graph))


def _submit_known(
    state: SchedulerState,
    client: ClientRecord,
    task: TaskRecord,
    function: FunctionRecord,
    args: bytes,
    names: tuple[Key, ...],
    pool: Pool,
    agreed: Conditions | None,
) -> None:
    """A key comes again: the same work is wanted by one more; other work under a known key is refused.

    What became known otherwise, because the scheduler was restarted, learns now what it is.
    """
    if claims.is_former(task):
        fault = claims.identify(state, task, function, args, names, pool)
        if fault:
            _reject(state, client, task.key, fault)
            return
        _agree_again(state, task, agreed)
    if pool.options.idempotent and task.pool.options.idempotent:
        want(state, client, task)  # the key says that it is the same, in whatever words
        return
    lineage = tuple(dependency.key for dependency in task.dependencies)
    same = task.function is function and task.args == args and (lineage == names or task.value is not None)
    first = task.terms.first if task.terms is not None else None
    if not same and not (first is not None and task.function is function and first == terms.call_of(args, names)):
        _reject(state, client, task.key, "another task already has this key; choose another key=", kind="duplicate")
        return
    want(state, client, task)


def _agree_again(state: SchedulerState, task: TaskRecord, agreed: Conditions | None) -> None:
    """Only the key of a task was known: what else its client says of it holds from here on."""
    options = task.pool.options
    if options.keep or options.unwanted:
        is_open = task.state in UNFINISHED or task.state is RELEASED
        if is_open or options.keep:
            keeping.keep(state, task)
        if not is_open and options.keep:
            keeping.ended(state, task)
        elif not is_open:
            keeping.keep_detached(state, task)
    if task.state is RELEASED:
        revoking.admitted(state, task, agreed)
    elif agreed is not None:
        terms.agree(state, task, agreed)


def _reject(state: SchedulerState, client: ClientRecord, key: Key, reason: str, kind: str = "rejected") -> None:
    state.counters["rejected"] += 1
    state.send(client.client_id, KeyCancelled(key, reason, kind))


def want(state: SchedulerState, client: ClientRecord, task: TaskRecord) -> None:
    """``client`` wants the result of a known task, and learns at once what is known of it."""
    task.add_client(client)
    if task.state is MEMORY and task not in state.untold:
        value = task.value
        held = None if value is not None else task.held()
        state.send(client.client_id, KeyFinished(task.key, value, held))
    elif task.state is ERRED and task.failure is not None:
        state.send(client.client_id, KeyErred(task.key, task.failure))
    elif task.state is RELEASED:
        transitions.compute(state, task)


def want_keys(state: SchedulerState, client: ClientRecord, message: Want) -> None:
    """Futures came to the client by another way than submitting."""
    for key in message.keys:
        task = state.tasks.get(key)
        if task is None and (message.patient or key in state.claims) and not bad_key(key):
            claims.await_claim(state, client, key)
        elif task is None:
            if client not in state.expected.get(key, ()):  # else it is waited for until it comes
                if shelving.seek(state, [key], partial(terms.sought, state, client, key)):
                    recording.accepted(state, client, Await([key], sought=True))
                    state.expected.setdefault(key, {})[client] = True
                    continue
                text = "its task is not known; it was released or cancelled"
                state.send(client.client_id, KeyCancelled(key, text, "lost"))
        else:
            want(state, client, task)


def release(state: SchedulerState, client: ClientRecord, message: Release) -> None:
    """The client holds no future of these keys any more."""
    tasks, check, kept = state.tasks, state.check, state.kept
    for key in message.keys:
        task = tasks.get(key)
        if task is not None:
            task.discard_client(client)
            if task.wanted_by is None:
                if not task.needed_by:
                    check.append(task)
            elif task.wanted_by is kept and task.state not in UNFINISHED:
                state.leaving.append((state.now, task))
        elif state.expected:
            terms.expect_no_more(state, client, [key])


def detach(state: SchedulerState, client: ClientRecord, message: Detach) -> None:
    """Keep unfinished tasks until they end, whether or not a client wants them; the client is told when they have."""
    ended = []
    for key in message.keys:
        task = state.tasks.get(key)
        if task is not None and task.state in UNFINISHED:
            task.add_client(state.detached)
            state.detachers.setdefault(task, {})[client] = None
        else:
            ended.append(key)
    if ended:
        state.send(client.client_id, DetachedEnded(ended))


def cancel(state: SchedulerState, client: ClientRecord, message: Cancel) -> None:
    """The client gives up these keys and whatever unfinished depends on them; ``force`` gives them up for everybody."""
    doomed: dict[TaskRecord, None] = {}
    reached = [task for key in message.keys if (task := state.tasks.get(key)) is not None]
    while reached:
        task = reached.pop()
        if task not in doomed:
            doomed[task] = None
            reached.extend(follower for follower in task.each_dependent() if follower.state in UNFINISHED)
    reason = message.reason or f"cancelled by client {client.client_id}"
    for task in doomed:
        losers = task.each_client() if message.force else [one for one in task.each_client() if one is client]
        for loser in losers:
            if loser is state.detached:
                undetach(state, task)
                continue
            task.discard_client(loser)
            if loser is state.kept:
                shelving.drop(state, [task.key])
            if task.key in state.published.unstored:
                state.published.ended.append(task.key)
            if loser.client_id:
                state.send(loser.client_id, KeyCancelled(task.key, reason))
        state.look_at(task)


# -- scattered data ------------------------------------------------------------------------------------------------


def _new_data(state: SchedulerState, client: ClientRecord, message: PutValue | PutFile | PutPart) -> TaskRecord | None:
    """A record for scattered data; None if the key is known, which then is wanted by one more, or can't be one."""
    known = state.tasks.get(message.key)
    if known is not None and known not in state.awaited:
        if state.facts is not None:
            recording.said(state, client, Want([message.key]))
        want(state, client, known)
        return None
    options = TaskOptions(workers=message.workers) if message.workers else None
    fault = bad_key(message.key) or bad_options(options)
    if fault:
        _reject(state, client, message.key, fault)
        return None
    pool = placement.pool_for(state, options)
    if known is None:
        task = state.add_task(message.key, state.kind(DATA), None, b"", (), pool)
    else:
        task = known
        claims.end_wait(state, task, pool)
    task.add_client(client)
    if message.broadcast:
        state.broadcasts[task] = None
    if message.key in state.claims:
        recording.said_data(state, client, message, kept=False)
        claims.claimed(state, task)
        return None
    return task


def put_value(state: SchedulerState, client: ClientRecord, message: PutValue) -> None:
    """Small data: the scheduler keeps it while it is tiny or no worker is there, else a worker does."""
    if message.given:
        recording.said_data(state, client, message, kept=True)
        claims.take_given(state, client, message.key, message.value)
        return
    task = _new_data(state, client, message)
    if task is None:
        return
    worker = _storing_worker(state, task.pool)
    if len(message.value) <= KEEP_LIMIT or worker is None or state.replaying:  # what isn't kept is noted otherwise
        recording.said_data(state, client, message, kept=True)
        transitions.keep_value(state, task, message.value)
        return
    recording.said_data(state, client, message, kept=False)
    transitions.store_on(state, task, worker)
    state.send(worker.worker_id, Store(message.key, message.value))


def put_file(state: SchedulerState, client: ClientRecord, message: PutFile) -> None:
    """Data in a file of the client's: a worker on its host takes the file over."""
    task = _new_data(state, client, message)
    if task is None:
        return
    worker = state.workers.get(message.worker) if message.worker else _storing_worker(state, task.pool)
    if worker is None:
        reason = "the worker it was sent to is gone" if message.worker else "no worker is connected that could hold it"
        _refuse_data(state, task, reason)
        return
    recording.said_data(state, client, message, kept=False)
    transitions.store_on(state, task, worker)
    state.send(worker.worker_id, AdoptFile(message.key, message.path, message.nbytes))


def put_part(state: SchedulerState, client: ClientRecord, message: PutPart) -> None:
    """A piece of large data; all pieces go to the worker that got the first.

    The first may have no bytes: then the client sends none by itself, and gives that worker what it asks for.
    """
    task = state.tasks.get(message.key)
    if message.offset == 0:
        task = _new_data(state, client, message)
        if task is None:
            return
        worker = _storing_worker(state, task.pool)
        if worker is None:
            _refuse_data(state, task, "no worker is connected that could hold it")
            return
        recording.said_data(state, client, message, kept=False)
        transitions.store_on(state, task, worker)
        if not message.data:
            source = Held(message.key, message.nbytes, [(client.client_id, "")])
            state.send(worker.worker_id, Replicate(source))
            return
    if task is not None and task.state is PROCESSING and task.function is None and task.worker is not None:
        part = StorePart(message.key, message.offset, message.nbytes, message.data)
        state.send(task.worker.worker_id, part)


def _storing_worker(state: SchedulerState, pool: Pool) -> WorkerRecord | None:
    """The eligible worker that holds the least; the one that got it, whichever that was, when this is replayed."""
    if state.replaying:
        return state.nowhere
    running = [worker for worker in pool.eligible if worker.status is WorkerStatus.RUNNING]
    return min(running, key=lambda worker: len(worker.holds) + len(worker.processing), default=None)


def _refuse_data(state: SchedulerState, task: TaskRecord, reason: str) -> None:
    for client in task.each_client():
        task.discard_client(client)
        state.send(client.client_id, KeyCancelled(task.key, reason, "rejected"))
    transitions.released_forgotten(state, task)  # at once: calls that name it may follow in the same envelope
