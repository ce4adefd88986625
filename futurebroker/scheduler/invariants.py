"""The laws of the scheduler's state: `check` raises at the first that doesn't hold, with the story of the task.

They are looked at between events, never inside one. Each walks over everything the scheduler knows, so `check` is for
tests and for looking into a scheduler that behaves oddly.

Laws of the state, here:
    I1   a task is in one state, and in exactly the indexes which that state implies
    I2   a task names a dependency exactly if the dependency names the task as a dependent
    I3   ``waiting_on`` counts the dependencies without a result; a task is WAITING exactly if there are some
    I4   PROCESSING means one worker that is connected, and worker and task name each other
    I5   attempt numbers come from one rising counter, so none is used twice, not even by a key that comes again
    I7   of a durable result clients are told once it can't be lost with workers
    I8   a task in MEMORY has its value or a holder, no other task has; tasks and holders name each other
    I9   only a task that was sent may lack a result: see I3; ``needed_by`` counts unfinished dependents,
         but for adopted ones, which have what they need
    I10  nothing unfinished depends on a failed task; a task that failed by a dependency has the failure of one, unless
         a client has told how it had ended in a former scheduler's time
    I11  what is needed is on its way or there; what isn't is released at once, and forgotten with its last dependent
    I16  resources used are those of the tasks processing, between nothing and what the worker has
    I17  workers with room are known as such, and a worker that doesn't run has none
    I18  no unfinished task has more deaths than allowed
    I19  no task has run more often than its retries allow
    I22  counts equal a recount: of states, of pools, of functions, of seconds of work
    I25  no task is ready while a worker that may run it has room
    I32  what must not run twice, and was begun once, is not on its way again
    I29  work is asked back of one that is connected, a few tasks at a time; what is laden is known as such, and no
         task is where it must not run, however it came there
    I33  of what is shared by name there are never more leases than there may be, nobody waits for one that is free, and
         nothing is kept of a name that nobody uses
    I26  whatever is looked at once an event is over has been looked at: nothing is left for the next event

Laws of a history, for which tests keep a ledger of events and commands: I6 (one accepted completion an attempt), I13
(one terminal notice), I14 (stale reports change counters only), I15 (what comes twice counts once), I24 (equal input,
equal output), I27 (late results are freed), I28 (a call is taken whole or not at all). I12, I20, I21 and I23 are
laws of timers and of what is written to disk.

Where tasks lawfully differ from the plain reading: a PROCESSING task may have ``waiting_on``, because it was sent ahead
of inputs that are made on the same worker, or because an input was lost after it was sent; the worker says so if it
can't start. A RELEASED task may be needed by such tasks only. Scattered data (without a function) and values that
the scheduler keeps (their lineage is cut) stay in MEMORY while anything that was made from them is known, because
nothing could bring them back.
"""

from __future__ import annotations

from collections import Counter
from math import isclose
from typing import NoReturn

from futurebroker.exceptions import InvariantViolation
from futurebroker.scheduler import placement, stealing
from futurebroker.scheduler.records import FunctionRecord, Kind, Pool, TaskRecord, WorkerRecord
from futurebroker.scheduler.state import (
    ERRED,
    FORGOTTEN,
    MEMORY,
    NO_WORKER,
    PROCESSING,
    QUEUED,
    RELEASED,
    SCHEDULED,
    UNFINISHED,
    WAITING,
    SchedulerState,
)
from futurebroker.scheduler.telling import must_be_stored
from futurebroker.states import TaskState, WorkerStatus

#: what sums of floats may be off by
SLACK = 1e-6


def check(state: SchedulerState) -> None:
    """Check every law once.

    Raises:
        InvariantViolation: one doesn't hold; it says which, and of which task.
    """
    for key, task in state.tasks.items():
        if task.key != key:
            _broken(state, "I1", f"{task} is known as {key}", task)
        _check_place(state, task)
        _check_edges(state, task)
        _check_counts(state, task)
        _check_result(state, task)
        _check_failure(state, task)
        _check_need(state, task)
    _check_pools(state)
    for worker_id, worker in state.workers.items():
        if worker.worker_id != worker_id:
            _broken(state, "I4", f"{worker} is known as {worker_id}")
        _check_worker(state, worker)
    _check_clients(state)
    _check_functions_and_kinds(state)
    _check_stealing(state)
    _check_published(state)
    _check_relays(state)
    _check_idle(state)
    _check_shared(state)


def _broken(state: SchedulerState, law: str, what: str, task: TaskRecord | None = None) -> NoReturn:
    raise InvariantViolation(law, what, state.story(task) if task is not None else "")


# -- tasks ---------------------------------------------------------------------------------------------------------


def _check_place(state: SchedulerState, task: TaskRecord) -> None:
    """I1, I4 and I5: the task is where its state says."""
    where = task.state
    if where is FORGOTTEN:
        _broken(state, "I1", f"{task} is still known", task)
    if (where is SCHEDULED) != (task.terms is not None and task.terms.timer is not None):
        _broken(state, "I1", f"{task} and its timer disagree", task)
    if (where is NO_WORKER) != (task in task.pool.stranded):
        _broken(state, "I1", f"{task} and the stranded tasks of its pool disagree", task)
    if state.pools.get(task.pool.token) is not task.pool:
        _broken(state, "I1", f"the pool of {task} is not known", task)
    worker = task.worker
    if (where is PROCESSING) != (worker is not None):
        _broken(state, "I4", f"{task} has worker {worker}", task)
    if worker is not None and (not _is_known(state, worker) or worker.processing.get(task.attempt) is not task):
        _broken(state, "I4", f"{task} and {worker} disagree, or the worker is gone", task)
    if task.attempt > state.attempts or (where is PROCESSING and not task.attempt):
        _broken(state, "I5", f"{task} has attempt {task.attempt} of {state.attempts} that were given", task)


def _check_edges(state: SchedulerState, task: TaskRecord) -> None:
    """I2: both ends of each edge know of it."""
    for dependency in task.dependencies:
        if state.tasks.get(dependency.key) is not dependency or task not in tuple(dependency.each_dependent()):
            _broken(state, "I2", f"{task} depends on {dependency}, which doesn't know it", task)
    for dependent in task.each_dependent():
        if state.tasks.get(dependent.key) is not dependent or task not in dependent.dependencies:
            _broken(state, "I2", f"{task} has the dependent {dependent}, which doesn't name it", task)


def _check_counts(state: SchedulerState, task: TaskRecord) -> None:
    """I3 and I9: what the task waits for, and who waits for it."""
    where = task.state
    if where in UNFINISHED:
        missing = sum(dependency.state is not MEMORY for dependency in task.dependencies)
        if task.waiting_on != missing:
            _broken(state, "I3", f"{task} waits on {task.waiting_on}, but {missing} are missing", task)
        if where is not PROCESSING and (where is WAITING) != (missing > 0):
            _broken(state, "I3", f"{task} lacks {missing} inputs", task)
    dependents = task.each_dependent()
    needed_by = sum(dependent.state in UNFINISHED and dependent not in state.adopted for dependent in dependents)
    if task.needed_by != needed_by:
        _broken(state, "I9", f"{task} is needed by {task.needed_by}, counted are {needed_by}", task)


def _check_result(state: SchedulerState, task: TaskRecord) -> None:
    """I8: a result is somewhere exactly if the task is in MEMORY."""
    paths = task.holder_paths()
    if (task.state is MEMORY) != (task.value is not None or bool(paths)):
        _broken(state, "I8", f"{task} has holders {list(paths)} and value {task.value!r}", task)
    if task.value is not None and paths:
        _broken(state, "I8", f"{task} is kept by the scheduler and by {list(paths)}", task)
    for worker in paths:
        if not _is_known(state, worker) or task not in worker.holds:
            _broken(state, "I8", f"{task} and its holder {worker} disagree, or the holder is gone", task)
    if task in state.untold and not must_be_stored(state, task):
        _broken(state, "I7", f"{task} is stored or isn't there, and its clients still wait to be told of it", task)


def _check_failure(state: SchedulerState, task: TaskRecord) -> None:
    """I10, I18 and I19: failures reach everything they must, and only after what is allowed was tried."""
    failure = task.failure
    if (task.state is ERRED) != (failure is not None):
        _broken(state, "I10", f"{task} has failure {failure}", task)
    erred = [dependency for dependency in task.dependencies if dependency.state is ERRED]
    if erred and task.state in UNFINISHED:
        _broken(state, "I10", f"{task} goes on although {erred[0]} failed", task)
    if failure is not None and failure.key != task.key and task not in state.failures_given:
        if erred and not any(dependency.failure is failure for dependency in erred):
            _broken(state, "I10", f"{task} has a failure of {failure.key}, which none of {erred} has", task)
    if task.deaths > state.policy.allowed_failures and task.state in UNFINISHED:
        _broken(state, "I18", f"{task} goes on after {task.deaths} deaths", task)
    if task.retried > task.pool.options.retries:
        _broken(state, "I19", f"{task} was retried {task.retried} times", task)
    if task in state.spent and (task.state not in (RELEASED, ERRED) or not task.pool.at_most_once):
        _broken(state, "I32", f"{task} must not run twice, and was begun before", task)


def _check_need(state: SchedulerState, task: TaskRecord) -> None:
    """I11: what is needed goes on, what isn't is let go."""
    if task.needed:
        if task.state is RELEASED and (
            task.wanted_by is not None
            # Until all workers of a former time are back, one of them may run what needs it; see `resuming.finish`.
            or (
                state.nowhere is None
                and any(one.state in UNFINISHED and one.state is not PROCESSING for one in task.each_dependent())
            )
        ):
            _broken(state, "I11", f"{task} is needed, and nothing is done about it", task)
    elif task.dependents is None:
        _broken(state, "I11", f"nobody needs {task}, now or later", task)
    elif task.function is not None and task.value is None and task.state not in (RELEASED, ERRED):
        _broken(state, "I11", f"nobody needs {task} now", task)
    for client in task.each_client():
        known = client if client is state.detached else state.clients.get(client.client_id)
        known = known or state.holders.get(client.holds_for)
        if known is not client:
            _broken(state, "I11", f"{task} is wanted by {client}, who doesn't know or is gone", task)
    if task in state.adopted and task.state is not PROCESSING:
        _broken(state, "I9", f"{task} is said to run since a former time", task)
    if task.state not in UNFINISHED and state.detached in task.each_client():
        _broken(state, "I11", f"{task} has ended and is still kept for nobody", task)


def _is_known(state: SchedulerState, worker: WorkerRecord) -> bool:
    """Whether the worker is connected, or is an archive, or stands for those of a former scheduler's time."""
    known = state.workers.get(worker.worker_id) or state.archives.get(worker.worker_id)
    return known is worker or worker is state.nowhere


# -- pools and workers ---------------------------------------------------------------------------------------------


def _check_pools(state: SchedulerState) -> None:
    """I1, I22 and I25: ready tasks stand in their pool's queue, and none stands there in vain."""
    members = Counter(task.pool for task in state.tasks.values())
    queued = {task for task in state.tasks.values() if task.state is QUEUED}
    for token, pool in state.pools.items():
        if pool.token != token or pool.tasks != members[pool] or not pool.tasks:
            _broken(state, "I22", f"the pool of {pool.options} counts {pool.tasks} tasks, but has {members[pool]}")
        waiting = list(pool.queue)
        if any(task not in queued or task.pool is not pool for task in waiting):
            _broken(state, "I1", f"the queue of {pool.options} holds tasks of another pool: {waiting}")
        queued.difference_update(waiting)
        if waiting and pool not in state.ready:
            _broken(state, "I1", f"{waiting[0]} is ready, and its pool is not looked at", waiting[0])
        stray = [task for task in pool.stranded if task.state is not NO_WORKER or task.pool is not pool]
        if stray or any(state.tasks.get(task.key) is not task for task in pool.stranded):
            _broken(state, "I1", f"stranded tasks that aren't: {stray}")
        _check_ready(state, pool, waiting)
    if queued:
        task = min(queued, key=lambda one: one.order)
        _broken(state, "I1", f"{task} stands in no queue", task)


def _check_ready(state: SchedulerState, pool: Pool, waiting: list[TaskRecord]) -> None:
    """I25: who may run the pool's tasks is known, and nobody idles before them."""
    staying = [worker for worker in state.workers.values() if worker.status is not WorkerStatus.CLOSING]
    names = {worker for worker in staying if placement.may_run(pool, worker)}
    if not names and pool.options.allow_other_workers:
        names = {worker for worker in staying if placement.offers(worker, pool)}
    if names != set(pool.eligible):
        _broken(state, "I25", f"{pool.options} may run on {names}, believed are {list(pool.eligible)}")
    if waiting and not names:
        _broken(state, "I25", f"{waiting[0]} is ready, and no worker may run it", waiting[0])
    if pool.stranded and names:
        task = next(iter(pool.stranded))
        _broken(state, "I25", f"{task} could run on {names}", task)
    if waiting and not state.holding and all(task.kind.rate is None for task in waiting):
        for worker in names:
            if placement.has_room(worker) and placement.has_resources(worker, pool):
                _broken(state, "I25", f"{waiting[0]} is ready, and {worker} has room", waiting[0])


def _check_worker(state: SchedulerState, worker: WorkerRecord) -> None:
    """I4, I8, I16, I17 and I22: what the worker is said to do, hold and use."""
    for task in worker.processing.values():
        if task.worker is not worker or state.tasks.get(task.key) is not task:
            _broken(state, "I4", f"{worker} is said to process {task}", task)
    for task in worker.holds:
        if worker not in task.holder_paths() or state.tasks.get(task.key) is not task:
            _broken(state, "I8", f"{worker} is said to hold {task}", task)
    held = sum(task.nbytes for task in worker.holds)
    if worker.nbytes != held:
        _broken(state, "I8", f"{worker} is said to hold {worker.nbytes:,} bytes, counted are {held:,}")
    if placement.has_room(worker) != (worker in state.roomy):
        _broken(state, "I17", f"{worker} has room or not, and the list of those with room says otherwise")
    if worker.status is not WorkerStatus.RUNNING and worker in state.roomy:
        _broken(state, "I17", f"{worker} doesn't run and would be given work")
    if any(worker.processing.get(task.attempt) is not task or task.span for task in worker.away):
        _broken(state, "I22", f"{worker} is said to have {list(worker.away)} that wait for others")
    occupancy = sum(task.span for task in worker.processing.values())
    if not isclose(worker.occupancy, occupancy, rel_tol=SLACK, abs_tol=SLACK):
        _broken(state, "I22", f"{worker} has work for {worker.occupancy} s, counted are {occupancy} s")
    used: Counter[str] = Counter()
    for task in worker.processing.values():
        for name, amount in task.pool.resources.items():
            used[name] += amount  # type: ignore[assignment]  # a Counter of floats
    for name in used.keys() | worker.used.keys():
        booked = worker.used.get(name, 0.0)
        if not isclose(booked, used[name], rel_tol=SLACK, abs_tol=SLACK):
            _broken(state, "I16", f"{worker} has {booked} of {name} booked, used are {used[name]}")
        if not -SLACK <= booked <= worker.resources.get(name, 0.0) + SLACK:
            _broken(state, "I16", f"{worker} has {booked} of {name} in use, of {worker.resources.get(name)}")


def _check_stealing(state: SchedulerState) -> None:
    """I29: who may be asked for work, what was asked for, and where tasks are."""
    workers = state.workers.values()
    laden = {worker for worker in workers if not placement.has_room(worker) and placement.is_laden(worker)}
    if laden != set(state.laden):
        _broken(state, "I29", f"{laden} have more than they run, believed are {list(state.laden)}")
    for victim, request in state.requests.items():
        if state.workers.get(victim.worker_id) is not victim:
            _broken(state, "I29", f"{victim} is gone and should hand something back")
        if len(request.asked) > stealing.MOST or request.given > len(request.asked):
            _broken(state, "I29", f"{victim} handed back {request.given} of {len(request.asked)} tasks")
        for task, (attempt, thief) in request.asked.items():
            if thief is victim or task.function is None or attempt > task.attempt:
                _broken(state, "I29", f"{victim} should hand back attempt {attempt} for {thief}", task)
    for worker in workers:
        for task in worker.processing.values():
            pool = task.pool
            soft = pool.options.allow_other_workers and placement.offers(worker, pool)
            # What it takes from may have changed since.
            if not soft and worker.queues is None and not placement.may_run(pool, worker):
                _broken(state, "I29", f"{task} is on {worker}, where it must not run", task)


# -- clients, functions, kinds -------------------------------------------------------------------------------------


def _check_relays(state: SchedulerState) -> None:
    """I22: what is on its way in parts is counted, goes from one that is there to another, and waits for room only."""
    on_way = sum(relayed.asked - relayed.got for relayed in state.relayed.values())
    if on_way != state.relayed_bytes:
        _broken(state, "I22", f"{state.relayed_bytes} bytes are said to be on their way, and {on_way} are")
    there = {*state.workers, *state.clients, *state.archives}
    for (asker, _), relayed in state.relayed.items():
        if relayed.got > relayed.asked or asker not in there or relayed.holder not in there:
            _broken(state, "I22", f"{asker} has {relayed.got} of {relayed.asked} bytes of {relayed.holder}")
    if state.relays_waiting and not state.relayed_bytes:
        _broken(state, "I22", "parts of results are asked for in vain")


def _check_clients(state: SchedulerState) -> None:
    """I11 and I22: what clients want and sent is known of both ends."""
    wanted = Counter(client for task in state.tasks.values() for client in task.each_client())
    for client in (*state.clients.values(), *state.holders.values(), state.detached):
        wants = client.wants
        if not len(wants) == client.wanted == wanted[client]:
            _broken(state, "I11", f"{client} wants {len(wants)} tasks, counted are {client.wanted}, {wanted[client]}")
        for task in wants:
            if state.tasks.get(task.key) is not task:
                _broken(state, "I11", f"{client} is said to want {task}", task)
        for digest in client.functions:
            function = state.functions.get(digest)
            if function is None or client not in function.users:
                _broken(state, "I22", f"{client} sent a function that is not known")
    for number, call in state.calls.items():
        if call.client not in state.clients or not call.missing or call.missing.keys() - state.workers.keys():
            _broken(state, "I22", f"call {number} waits for {list(call.missing)}")


def _check_functions_and_kinds(state: SchedulerState) -> None:
    """I22: functions count their tasks, kinds count states."""
    calls: Counter[FunctionRecord] = Counter()
    states: Counter[tuple[Kind, TaskState]] = Counter()
    for task in state.tasks.values():
        states[task.kind, task.state] += 1
        if task.function is not None:
            calls[task.function] += 1
    for function in state.functions.values():
        if function.tasks != calls[function] or not (function.tasks or function.users or function.planned):
            _broken(state, "I22", f"function {function.kind.name} counts {function.tasks}, has {calls[function]}")
        if any(state.clients.get(client.client_id) is not client for client in function.users):
            _broken(state, "I22", f"function {function.kind.name} is kept for a client that is gone")
        del calls[function]
    if calls:
        _broken(state, "I22", f"functions with tasks are not known: {[one.kind.name for one in calls]}")
    for kind in state.kinds.values():
        for where, count in kind.counts.items():
            if where is not FORGOTTEN and count != states[kind, where]:
                _broken(state, "I22", f"{kind.name} counts {count} {where.value}, but has {states[kind, where]}")


def _check_published(state: SchedulerState) -> None:
    """I8 and I11: datasets that are to be stored are known as such, and archives hold what they are said to."""
    published = state.published
    waiting = {key: set(names) for key, names in published.unstored.items()}
    unstored = {(key, name) for name, dataset in published.datasets.items() for key in dataset.unstored}
    if unstored != {(key, name) for key, names in waiting.items() for name in names} or not all(waiting.values()):
        _broken(state, "I11", f"{unstored} are to be stored, believed are {waiting}")
    unready = Counter(name for names in published.unready.values() for name in names)
    if unready != Counter({name: one.unready for name, one in published.datasets.items() if one.unready}):
        _broken(state, "I22", f"{unready} are said to lack results, as counted")
    if any(key in state.tasks and state.tasks[key].state is MEMORY for key in published.unready):
        _broken(state, "I22", "a result of a dataset has come, and its size is taken not to be known")
    if any(not set(asker.names) <= set(published.datasets) for asker in published.askers):
        _broken(state, "I11", "somebody waits for a dataset that is gone")
    for archive in state.archives.values():
        if archive.processing or any(archive not in task.holder_paths() for task in archive.holds):
            _broken(state, "I8", f"{archive} is said to hold or run what it doesn't")


def _check_idle(state: SchedulerState) -> None:
    """I17 and I26: lists that are worked off within an event are empty, and name nobody who is gone."""
    ended = state.ended_parents or state.published.ended
    if state.begun or state.check or state.touched or state.frees or state.commands or ended:
        _broken(state, "I26", "something was left for the next event")
    if any(state.workers.get(worker.worker_id) is not worker for worker in state.roomy):
        _broken(state, "I17", "a worker that is gone would be given work")
    for key, claim in state.claims.items():
        makers = (*claim.holders, *claim.runners)
        if key in state.tasks or not all(_is_known(state, one) for one in makers):
            _broken(state, "I26", f"{key} is claimed, and known or held by a worker that is gone")
    if any(key in state.tasks for key in state.expected):
        _broken(state, "I11", "a key that somebody waits for has come, and he isn't told")
    if any(key not in state.tasks for key in state.families):
        _broken(state, "I26", "a task that is gone still keeps what it submitted")
    if any(state.tasks.get(task.key) is not task for task in state.awaited):
        _broken(state, "I26", "a record that is gone waits for a claim")
    if any(state.tasks.get(task.key) is not task for task in (*state.spent, *state.renounced)):
        _broken(state, "I26", "a record that is gone is said not to run again, or to take nothing from workers")
    if any(state.tasks.get(task.key) is not task or task.state is not ERRED for task in state.failures_given):
        _broken(state, "I10", "a record that is gone, or has not failed, has the failure that a client gave")
    if any(state.tasks.get(task.key) is not task for task in state.adopted):
        _broken(state, "I26", "a record that is gone is adopted")
    if any(state.detached not in task.each_client() for task in state.detachers):
        _broken(state, "I11", "somebody is to be told of the end of what isn't detached")
    if any(state.pools.get(pool.token) is not pool for pool in state.ready):
        _broken(state, "I1", "a pool that is not known is looked at")


def _check_shared(state: SchedulerState) -> None:
    """I33: leases, who waits for them, and flags."""
    for name, semaphore in state.shared.semaphores.items():
        free = semaphore.max_leases - len(semaphore.holders)
        if free < 0:
            _broken(state, "I33", f"{name} has {len(semaphore.holders)} leases, of {semaphore.max_leases}")
        if semaphore.line and free and state.now >= state.shared.reunion_until + SLACK:
            _broken(state, "I33", f"{list(semaphore.line)} wait for {name}, of which {free} are free")
        if not semaphore.line and not semaphore.holders:
            _broken(state, "I33", f"nobody uses {name}")
        waiting = (one.client for one in semaphore.line.values())
        if any(client not in state.clients for client in (*semaphore.holders.values(), *waiting)):
            _broken(state, "I33", f"{name} is held by a client that is gone, or waited for")
        if not semaphore.holders.keys().isdisjoint(semaphore.line):
            _broken(state, "I33", f"{name} is waited for by who holds it")
    for name, flag in state.shared.flags.items():
        if flag.line if flag.is_set else not flag.line:
            _broken(state, "I33", f"{name} is waited for though it is set, or kept though nobody uses it")
    for op, (_, about) in state.shared.limits.items():
        if not any(op in state.shared.semaphores[name].line for name in about.of if name in state.shared.semaphores):
            _broken(state, "I33", f"{op} waits for none of {about.of}")
