"""What must hold of a worker's machine after every event; tests check it after each, nothing else calls it."""

from __future__ import annotations

from collections import Counter

from futurebroker.protocol.messages import Held
from futurebroker.worker.machine import WorkerMachine
from futurebroker.worker.records import RunState, TaskRecord


def check(machine: WorkerMachine) -> None:
    """Raise AssertionError where what the machine knows contradicts itself."""
    machine.store.check()
    sent = machine.dispatcher.sent
    live = {id(task): task for task in (*machine.tasks.values(), *sent.values())}.values()
    for key, task in machine.tasks.items():
        assert task.key == key
        assert not task.silent, f"{task} is silent, and still the newest attempt"
        assert task.state is not RunState.GONE, f"{task} is still known"
        assert (task.state is RunState.SENT) == (task.number in sent and sent[task.number] is task), (
            f"{task} in packets"
        )
        assert task.state is not RunState.READY or not task.missing, f"{task} misses {task.missing} inputs"
        assert task.state is not RunState.WAITING or task.missing, f"{task} waits for nothing"
    assert machine.dispatcher.ready == sum(task.state is RunState.READY for task in machine.tasks.values())
    _check_inputs(machine, list(live))
    _check_packets(machine)


def _check_inputs(machine: WorkerMachine, live: list[TaskRecord]) -> None:
    pins: Counter[str] = Counter()
    waiting: Counter[tuple[str, int]] = Counter()
    for task in live:
        missing = 0
        for source in task.inputs:
            if isinstance(source, Held):
                if source.key in machine.store:
                    pins[source.key] += 1
                else:
                    missing += 1
                    waiting[source.key, id(task)] += 1
        assert missing == task.missing, f"{task} misses {missing} inputs, but counts {task.missing}"
    assert waiting == Counter((key, id(task)) for key, tasks in machine.dependents.items() for task in tasks)
    assert all(machine.dependents.values()), "a key nobody misses is listed"
    for key in machine.store:
        assert machine.store[key].pins == pins[key], f"{key} has {machine.store[key].pins} pins, needs {pins[key]}"


def _check_packets(machine: WorkerMachine) -> None:
    sent = machine.dispatcher.sent
    inside: set[int] = set()
    for executor in machine.executors.values():
        expected = unknown = 0
        for number, packet in executor.packets.items():
            assert packet.number == number
            assert packet.executor is executor
            left = [sent[number] for number in packet.numbers if number in sent]
            assert all(task.packet is packet for task in left)
            assert len(left) == packet.left > 0, f"packet {number} counts {packet.left} tasks, has {len(left)}"
            inside.update(task.number for task in left)
            expected += sum(task.cost for task in left if task.cost >= 0)
            unknown += sum(task.cost < 0 for task in left)
        assert (executor.expected, executor.unknown) == (expected, unknown)
        assert executor.away == sum(where is executor for where in machine.dispatcher.away.values())
    assert inside.isdisjoint(machine.dispatcher.away), "a task that is away is in a packet"
    assert inside | set(machine.dispatcher.away) == set(sent), "packets and the tasks in them disagree"
