"""A large graph through the scheduler machine alone: ``python -m bench.graph_machine SHAPE TASKS`` prints JSON.

A client submits everything, then a worker that takes no time finishes whatever it is sent. "tree" is a binary tree:
dependencies, fan-in, and results to release, since the client drops each future once a task uses it. "map" is calls
without dependencies whose futures the client all keeps. Memory is read when all is taken in and nothing has finished,
and again at the end; the larger counts. The driver's own work (building messages, a deque) is in the seconds: one or
two microseconds a task.

The functions under "seam" are all that knows the machine's events and commands.
"""

from __future__ import annotations

import gc
import json
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from time import perf_counter, process_time

import psutil

from futurebroker.protocol.messages import AddFunction, Finished, FromClient, KeyFinished, Message, Release, Run, Submit
from futurebroker.scheduler.commands import ClientJoined, ClientSaid, Command, Event, Send, WorkerJoined, WorkerSaid
from futurebroker.scheduler.machine import SchedulerMachine

CLIENT, WORKER = "client-bench", "worker-bench"
INC, ADD = b"inc-digest-16byt", b"add-digest-16byt"

#: As the client sends them: calls of one function in one message.
BATCH = 500
#: Completions in one envelope of the worker, at most.
ANSWERS = 64
#: Microseconds that the worker claims for each task, and virtual seconds between its answers.
TASK_MICROSECONDS, TICK = 20, 20e-6


# -- seam --------------------------------------------------------------------------------------------------------------


def meeting() -> Iterator[Event]:
    """A client and a worker with two executors appear."""
    yield ClientJoined(CLIENT, {})
    yield WorkerJoined(WORKER, {"slots": 2})


def from_client(message: FromClient) -> Event:
    return ClientSaid(CLIENT, [message])


def from_worker(messages: list[Message]) -> Event:
    return WorkerSaid(WORKER, messages)


def sent(commands: Iterable[Command]) -> Iterator[Message]:
    """The messages among the commands."""
    for command in commands:
        if isinstance(command, Send):
            yield command.message


# -- the graph ---------------------------------------------------------------------------------------------------------


def arguments(number: int) -> bytes:
    """Opaque to the scheduler; as long as the pickled arguments of a small call."""
    return b"%032d" % number


def leaf_batches(leaves: int) -> Iterator[Submit]:
    for start in range(0, leaves, BATCH):
        numbers = range(start, min(start + BATCH, leaves))
        yield Submit(INC, [f"inc-{number:08x}" for number in numbers], [arguments(number) for number in numbers])


def level_batches(below: list[str], first: int) -> Iterator[Submit]:
    """The adds that pair up the keys of the level `below`."""
    pairs = list(zip(below[::2], below[1::2]))
    for start in range(0, len(pairs), BATCH):
        chunk = pairs[start : start + BATCH]
        numbers = range(first + start, first + start + len(chunk))
        yield Submit(
            ADD,
            [f"add-{number:08x}" for number in numbers],
            [arguments(number) for number in numbers],
            dependencies=list(chunk),
        )


def map_intake(tasks: int) -> Iterator[FromClient]:
    """What the client sends for `tasks` calls without dependencies."""
    yield AddFunction(INC, "inc", b"code of inc")
    yield from leaf_batches(tasks)


def tree_intake(tasks: int) -> Iterator[FromClient]:
    """What the client sends for a tree of about `tasks` nodes. The last key submitted is the root."""
    yield AddFunction(INC, "inc", b"code of inc")
    yield AddFunction(ADD, "add", b"code of add")
    level: list[str] = []
    for batch in leaf_batches((tasks + 1) // 2):
        level += batch.keys
        yield batch
    made = len(level)
    while len(level) > 1:
        above: list[str] = []
        for batch in level_batches(level, made):
            above += batch.keys
            yield batch
            assert batch.dependencies is not None
            yield Release([key for pair in batch.dependencies for key in pair])
        made += len(above)
        level = above + (level[-1:] if len(level) % 2 else [])


#: Shape -> its messages, and whether the client hears of every result.
SHAPES: dict[str, tuple[Callable[[int], Iterator[FromClient]], bool]] = {
    "tree": (tree_intake, False),
    "map": (map_intake, True),
}


# -- the measurement ---------------------------------------------------------------------------------------------------


def run_all(machine: SchedulerMachine, work: deque[Run], now: float) -> tuple[int, int]:
    """Finish all work, and what it brings on: how many tasks ran, how many results the client was told of."""
    finished = told = 0
    while work:
        answers: list[Message] = []
        while work and len(answers) < ANSWERS:
            run = work.popleft()
            answers.append(Finished(run.key, run.attempt, nbytes=5, duration=TASK_MICROSECONDS, value=b"value"))
        now += TICK * len(answers)
        finished += len(answers)
        for message in sent(machine.handle(from_worker(answers), now)):
            if isinstance(message, Run):
                work.append(message)
            elif isinstance(message, KeyFinished):
                told += 1
    return finished, told


def measure(shape: str, tasks: int) -> dict[str, float]:
    intake, all_told = SHAPES[shape]
    process = psutil.Process()
    # As the scheduler's service does: a full collection would walk the whole graph again and again.
    gc.freeze()
    gc.set_threshold(10_000, 50, 1_000_000)
    machine = SchedulerMachine()
    work: deque[Run] = deque()
    submitted = 0
    before = process.memory_info().rss
    start, cpu_start = perf_counter(), process_time()
    for event in meeting():
        work.extend(message for message in sent(machine.handle(event, 0.0)) if isinstance(message, Run))
    for request in intake(tasks):
        if isinstance(request, Submit):
            submitted += len(request.keys)
        commands = machine.handle(from_client(request), 0.0)
        work.extend(message for message in sent(commands) if isinstance(message, Run))
    taken_in = perf_counter()
    held = process.memory_info().rss - before
    ran, told = run_all(machine, work, 1.0)
    end, cpu_end = perf_counter(), process_time()
    if ran != submitted or told < (submitted if all_told else 1):
        raise RuntimeError(f"{submitted} tasks submitted, {ran} ran, {told} results told to the client")
    held_after = process.memory_info().rss - before
    return {
        "size": tasks,
        "submitted": submitted,
        "seconds": end - start,
        "cpu_seconds": cpu_end - cpu_start,
        "intake_seconds": taken_in - start,
        "run_seconds": end - taken_in,
        "bytes_per_task": max(held, held_after) / submitted,
        "bytes_per_task_after": held_after / submitted,
    }


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]))))
