"""Tasks go where their data is, by its size and the bandwidth that was measured; loads are evened out on request."""

from __future__ import annotations

from typing import Any

import pytest

from futurebroker.protocol.messages import Answer, Ask, NotStored, Replicate, Stored
from futurebroker.scheduler import placement, reports, requests
from futurebroker.scheduler.records import ClientRecord, TaskRecord, WorkerRecord
from futurebroker.scheduler.state import MEMORY, Policy, SchedulerState

GB = 10**9


def worker(name: str, host: str = "", bandwidth: float = 0.0) -> WorkerRecord:
    """One on a host of its own."""
    record = WorkerRecord(name, {"name": name, "host": host or name, "slots": 1})
    record.bandwidth = bandwidth
    return record


@pytest.fixture
def state() -> SchedulerState:
    """Of an empty cluster, between whose hosts 100 MB move a second."""
    return SchedulerState(Policy(bandwidth=100e6))


def task_with_input(state: SchedulerState, nbytes: int, holder: WorkerRecord) -> TaskRecord:
    """A task whose only input ``holder`` has."""
    pool = placement.pool_for(state, None)
    source = state.add_task(f"input-{nbytes}", state.kind("input"), None, b"", (), pool)
    source.nbytes = nbytes
    source.add_holder(holder, "/path")
    return state.add_task(f"task-{nbytes}", state.kind("task"), None, b"", (source,), pool)


def cheaper(state: SchedulerState, task: TaskRecord, *workers: WorkerRecord) -> WorkerRecord:
    """Where it can begin soonest."""
    return min(workers, key=lambda one: placement.start_cost(state, task, one))


def test_a_task_follows_a_large_input_to_a_busy_worker_and_a_small_one_does_not_pin_it(state: SchedulerState) -> None:
    """A gigabyte takes ten seconds to move, so five seconds of waiting are less; a kilobyte takes nothing."""
    holder, idle = worker("holder"), worker("idle")
    holder.occupancy = 5.0
    assert cheaper(state, task_with_input(state, GB, holder), holder, idle) is holder
    assert cheaper(state, task_with_input(state, 1000, holder), holder, idle) is idle


def test_a_measured_bandwidth_counts_more_than_the_assumed_one(state: SchedulerState) -> None:
    """Over a fast network it is better to move a gigabyte than to wait; what one worker saw helps to judge others."""
    holder, idle, stranger = worker("holder"), worker("idle"), worker("stranger")
    holder.occupancy = 3.0
    task = task_with_input(state, GB, holder)
    placement.measure_bandwidth(state, idle, 1e9)
    assert cheaper(state, task, holder, idle) is idle
    assert cheaper(state, task, holder, stranger) is holder
    for figure in range(20):
        placement.measure_bandwidth(state, idle, 1e9 + figure)
    assert cheaper(state, task, holder, stranger) is stranger
    placement.measure_bandwidth(state, idle, 0)
    placement.measure_bandwidth(state, idle, "fast")
    assert idle.bandwidth == pytest.approx(1e9)


def test_on_one_host_even_a_gigabyte_is_mapped_and_pins_nothing(state: SchedulerState) -> None:
    """No byte of it is copied."""
    holder, neighbour = worker("holder", "host"), worker("neighbour", "host")
    holder.occupancy = 5.0
    assert cheaper(state, task_with_input(state, GB, holder), holder, neighbour) is neighbour


# -- by request ----------------------------------------------------------------------------------------------------


def told(commands: list[Any], kind: type[Any]) -> list[tuple[str, Any]]:
    """To whom what of one kind was sent."""
    return [(command.peer, command.message) for command in commands if isinstance(command.message, kind)]


def test_loads_are_evened_out_and_the_donor_keeps_its_copy_until_the_other_has_one(state: SchedulerState) -> None:
    """At no moment is there none; a copy that can't be made leaves all as it was, and the answer says so."""
    from_, to = worker("from"), worker("to")
    state.workers |= {"from": from_, "to": to}
    client = state.clients["c"] = ClientRecord("c", {})
    tasks = []
    for number in range(4):
        task = state.add_task(f"k{number}", state.kind("k"), None, b"", (), placement.pool_for(state, None))
        state.move(task, MEMORY)
        task.nbytes = 100
        task.add_holder(from_, "/path")
        task.add_client(client)
        tasks.append(task)
    requests.ask(state, client, Ask(1, "rebalance", {"keys": None, "workers": []}))
    moved = told(state.take_commands(), Replicate)
    assert [peer for peer, _ in moved] == ["to", "to"]
    keys = [message.source.key for _, message in moved]
    assert all(from_ in state.tasks[key].holder_paths() for key in keys)
    reports.stored(state, to, Stored(keys[0], 100, "/copy"))
    assert list(state.tasks[keys[0]].holder_paths()) == [to]
    assert told(state.take_commands(), Answer) == []
    reports.not_stored(state, to, NotStored(keys[1], "no room"))
    assert list(state.tasks[keys[1]].holder_paths()) == [from_]
    assert told(state.take_commands(), Answer) == [("c", Answer(1, {"failed": 1}))]
    assert not state.copying
