"""What a worker does about its memory, threshold by threshold."""

from __future__ import annotations

from typing import Any, TypeVar

import pytest

from futurebroker.protocol.messages import DataLost, ExecutorDied, Free, Happened, Held, Store
from futurebroker.worker import commands
from futurebroker.worker.memory import AGAIN, DISK_AGAIN, FREED_TIME, KILL_TIME, STALLED, TRIM_TIME, MemoryPlan
from futurebroker.worker.packets import Result, ValueFile
from tests.unit.worker.world import World, run

LIMIT = 1_000_000
BIG = 100_000

_T = TypeVar("_T")


@pytest.fixture
def world() -> World:
    """Two executors and a limit of a million bytes."""
    return World(executors=2, plan=MemoryPlan(limit=LIMIT))


def said(world: World, kind: type[_T]) -> list[_T]:
    """What the machine said of one kind since the last time; all else it said is forgotten."""
    found = [item for item in world.said if isinstance(item, kind)]
    world.said.clear()
    return found


def happened(world: World) -> list[str]:
    """What it told the scheduler of its memory."""
    return [message.kind for message in world.mail if isinstance(message, Happened)]


def store(world: World, *keys: str, nbytes: int = BIG) -> None:
    """Values that come from a client, each a file in memory."""
    for key in keys:
        world.deliver(Store(key, bytes(nbytes)))


def measure(world: World, agent: int = 0, **executors: int) -> None:
    """The agent looks at its processes; ``e1=5`` is what executor 1 takes."""
    numbers = dict.fromkeys(world.executors, 0) | {int(name[1:]): size for name, size in executors.items()}
    world.do(commands.Measured(agent, numbers))


def finish(world: World, spill: commands.Spill, reason: str = "", is_mapped: bool = False) -> None:
    """The file thread is done with a spill."""
    world.do(commands.Spilled(spill.key, spill.path, spill.target, reason, is_mapped))


def test_over_the_target_the_least_recently_used_go_to_disk(world: World) -> None:
    """And only as many as it takes; what a task has just asked for is not among them."""
    store(world, *"abcdef")
    assert said(world, commands.Spill) == []
    world.deliver(run("task", Held("a", BIG)))
    store(world, "g")
    (spill,) = said(world, commands.Spill)
    assert (spill.key, spill.data) == ("b", None)
    assert spill.target.endswith(".sealed")
    assert world.machine.store.managed == 7 * BIG, "it is in memory until it is on disk"
    finish(world, spill)
    assert (world.machine.store.managed, world.machine.store.spilled) == (6 * BIG, BIG)
    assert said(world, commands.Relink) == [commands.Relink(spill.path, spill.target)]
    world.deliver(Free(["b"]))
    assert said(world, commands.Unlink) == [commands.Unlink(spill.target), commands.Unlink(spill.path)]
    assert world.machine.store.spilled == 0


def test_small_values_of_the_agent_are_spilled_as_well_and_found_again(world: World) -> None:
    """A million of them take as much memory as a few large ones."""
    store(world, *(f"k{i}" for i in range(13)), nbytes=50_000)
    (spill,) = said(world, commands.Spill)
    assert spill.data == bytes(50_000)
    finish(world, spill)
    assert said(world, commands.Relink) == []
    world.deliver(run("task", Held("k0", 50_000)))
    task = world.begin(1)
    assert task is not None
    assert task.inputs == (ValueFile(spill.target),)


def test_a_value_freed_on_its_way_to_disk_leaves_nothing_there(world: World) -> None:
    """Its copy is of no use to anybody."""
    store(world, *"abcdefg")
    (spill,) = said(world, commands.Spill)
    world.deliver(Free(["a"]))
    assert world.machine.store.spilling == 0
    finish(world, spill)
    assert commands.Unlink(spill.target) in world.said


def test_what_is_mapped_stays_and_another_goes_in_its_place(world: World) -> None:
    """Moving it would free nothing; later it is tried again."""
    store(world, *"abcdefg")
    (first,) = said(world, commands.Spill)
    finish(world, first, "mapped", is_mapped=True)
    (second,) = said(world, commands.Spill)
    assert (first.key, second.key) == ("a", "b")
    finish(world, second)
    world.now += AGAIN
    store(world, "h")
    assert [spill.key for spill in said(world, commands.Spill)] == ["a"]


def test_a_disk_that_takes_nothing_loses_nothing_and_is_told_once(world: World) -> None:
    """The values stay where they are, and the disk is tried again after a while."""
    store(world, *"abcdefg")
    (spill,) = said(world, commands.Spill)
    finish(world, spill, "No space left on device")
    store(world, "h")
    assert said(world, commands.Spill) == []
    assert (len(world.machine.store), world.machine.memory.fault) == (8, "No space left on device")
    world.now += DISK_AGAIN
    measure(world)
    retried = said(world, commands.Spill)
    assert [spill.key for spill in retried] == ["a", "b"]
    for spill in retried:
        finish(world, spill, "No space left on device")
    assert happened(world) == ["spill_failed", "paused"]


def test_memory_of_processes_counts_and_drives_results_out(world: World) -> None:
    """Over 70 % of all together, results go until the whole is at 60 %."""
    store(world, *"abc")
    measure(world, agent=100_000, e1=250_000)
    assert said(world, commands.Spill) == []
    measure(world, agent=100_000, e1=310_000)
    assert [spill.key for spill in said(world, commands.Spill)] == ["a", "b"]


def test_executors_are_told_how_much_fits_into_memory(world: World) -> None:
    """A result larger than that is written to disk at once, and needs no memory twice."""
    measure(world)
    assert said(world, commands.SetRoom)[-1].nbytes == 600_000 // 2
    store(world, "a")
    store(world, "b")
    assert said(world, commands.SetRoom)[-1].nbytes == 500_000 // 2
    measure(world, agent=400_000)
    assert said(world, commands.SetRoom)[-1].nbytes == 100_000 // 2
    measure(world, agent=900_000)
    assert said(world, commands.SetRoom)[-1].nbytes == 0


def test_what_comes_from_elsewhere_and_has_no_room_goes_to_disk(world: World) -> None:
    """It is counted there, and never in memory."""
    world.deliver(Store("large", bytes(LIMIT)))
    written = said(world, commands.WritePart)
    assert all(part.path.endswith(".sealed") for part in written)
    assert (world.machine.store.managed, world.machine.store.spilled) == (0, LIMIT)


def test_a_result_an_executor_wrote_to_disk_counts_as_spilled(world: World) -> None:
    """By its name."""
    world.deliver(run("a"))
    task = world.begin(1)
    assert task is not None
    world.executors[1].running = None
    world.do(commands.Reported(1, [Result(task.number, 1, 1, LIMIT, None, "x", "/disk/r.sealed")]))
    assert (world.machine.store.managed, world.machine.store.spilled) == (0, LIMIT)


def test_a_paused_worker_starts_nothing_and_goes_on_below(world: World) -> None:
    """With a margin, or it would change its mind at every measurement."""
    world.deliver(run("long"))
    world.begin(1)
    measure(world, e1=810_000)
    assert said(world, commands.SetPaused) == [commands.SetPaused(True)]
    world.deliver(run("a"), run("b"))
    assert world.begin(2) is None
    measure(world, e1=780_000)
    assert world.begin(2) is None
    measure(world, e1=740_000)
    assert said(world, commands.SetPaused) == [commands.SetPaused(False)]
    assert world.begin(2) is not None
    assert happened(world) == ["paused", "resumed"]


def test_packets_that_wait_at_executors_are_taken_back_when_it_pauses(world: World) -> None:
    """They would be started."""
    world.learn()
    world.deliver(*(run(f"t{i}") for i in range(200)))
    world.begin(1)
    measure(world, e1=900_000)
    assert world.executors[1].asked
    assert not world.executors[1].unread
    world.hand_back(1)
    assert world.executors[1].todo == world.executors[1].unread


def test_an_executor_that_has_grown_is_replaced_when_it_is_idle(world: World) -> None:
    """First it may give back what it doesn't use; stored results have nothing to do with it."""
    measure(world, e1=50_000, e2=50_000)
    store(world, "a")
    measure(world, e1=500_000, e2=250_000)
    assert said(world, commands.TrimExecutor) == [commands.TrimExecutor(1), commands.TrimExecutor(2)]
    world.now += 2 * TRIM_TIME
    measure(world, e1=500_000, e2=250_000)
    assert said(world, commands.RecycleExecutor) == [commands.RecycleExecutor(1)]
    world.deliver(run("t"))
    assert world.begin(1) is None, "nothing is given to one that leaves"
    world.die(1, "its worker's word")
    world.start_executor()
    measure(world, e1=50_000, e2=250_000)
    assert said(world, commands.SetPaused) == [commands.SetPaused(False)]
    assert "a" in world.machine.store
    assert happened(world) == ["paused", "recycled", "resumed"]


def test_the_largest_executor_that_runs_something_is_killed_and_its_task_reported(world: World) -> None:
    """Before the kernel kills something else; one at a time."""
    world.deliver(run("small"), run("bomb"))
    world.begin(1)
    world.begin(2)
    measure(world, e1=100_000, e2=860_000)
    (kill,) = said(world, commands.KillExecutor)
    assert kill.executor == 2
    assert "960,000 of 1,000,000 bytes, 860,000 of them this executor's" in kill.how
    measure(world, e1=100_000, e2=990_000)
    assert said(world, commands.KillExecutor) == []
    assert world.die(2, kill.how) == [ExecutorDied("bomb", 1, kill.how)]
    world.now += KILL_TIME
    measure(world, e1=100_000)
    assert said(world, commands.KillExecutor) == []


def test_nothing_is_killed_while_memory_is_about_to_be_freed(world: World) -> None:
    """The disk is slower than an allocation, and a task should not die of that."""
    store(world, *"abcde")
    world.deliver(run("task"))
    world.begin(1)
    measure(world, e1=460_000)
    assert said(world, commands.KillExecutor) == []
    measure(world, e1=510_000)
    assert said(world, commands.KillExecutor) != []


def test_a_worker_that_can_free_nothing_starts_one_task_at_a_time(world: World) -> None:
    """A limit that is too low makes it slow; it must not wait for ever, as must no scheduler for it."""
    measure(world, agent=900_000)
    assert happened(world)[-1] == "paused"
    assert said(world, commands.SetPaused) == []
    world.learn()
    world.deliver(*(run(f"t{i}") for i in range(10)))
    assert sum(len(executor.unread) for executor in world.executors.values()) == 1
    (packet,) = (packet for executor in world.executors.values() for packet in executor.unread)
    assert len(packet.tasks) == 1
    for _ in range(10):
        number = next(n for n in world.executors if world.begin(n) is not None)
        world.end(number)
    assert not world.machine.tasks


def test_a_damaged_file_is_given_up_and_told(world: World) -> None:
    """Its value is computed again, or who wants it is told; a newer one under the key is not meant."""
    world.deliver(Store("large", bytes(LIMIT)))
    path = world.machine.store["large"].path
    assert world.do(commands.Damaged("large", "/another", "a bit flipped")) == []
    assert world.do(commands.Damaged("large", path, "a bit flipped")) == [DataLost("large", "a bit flipped")]
    assert "large" not in world.machine.store
    assert commands.Unlink(path) in world.said


def test_threads_are_neither_replaced_nor_killed() -> None:
    """They are the program itself."""
    world = World(executors=1, plan=MemoryPlan(limit=LIMIT, own_processes=False))
    world.deliver(run("task"))
    world.begin(1)
    for _ in range(3):
        measure(world, agent=990_000)
        world.now += 1
    kinds: tuple[Any, ...] = (commands.KillExecutor, commands.RecycleExecutor, commands.TrimExecutor)
    assert not [item for item in world.said if isinstance(item, kinds)]


def test_without_a_limit_nothing_is_done() -> None:
    """`--memory-limit 0`."""
    world = World(executors=1, plan=MemoryPlan(limit=0))
    store(world, *"abcdefghijkl")
    measure(world, agent=10**15)
    assert [type(item) for item in world.said if not isinstance(item, commands.WritePart)] == [commands.SetRoom]
    assert world.mail == [message for message in world.mail if not isinstance(message, Happened)]


def test_without_tmpfs_everything_large_goes_to_disk() -> None:
    """Containers often have 64 MB of it or none."""
    world = World(executors=1, plan=MemoryPlan(limit=LIMIT, in_memory=False))
    measure(world)
    store(world, "a")
    assert (world.machine.store.managed, world.machine.store.spilled) == (0, BIG)
    assert [room.nbytes for room in said(world, commands.SetRoom)] == [0]


def freed(world: World, nbytes: int, **executors: int) -> list[int]:
    """The agent measures, and so many bytes of freed files are kept; how many may be, where that is said anew."""
    world.said.clear()
    numbers = dict.fromkeys(world.executors, 0) | {int(name[1:]): size for name, size in executors.items()}
    world.do(commands.Measured(0, numbers, nbytes))
    return [keep.most for keep in said(world, commands.KeepFreed)]


def test_freed_files_are_kept_as_long_as_memory_has_no_other_use() -> None:
    """They count as what the worker takes, make nobody wait, and go before any result has to."""
    world = World(executors=2, plan=MemoryPlan(limit=LIMIT, reusable=BIG))
    memory = world.machine.memory
    assert freed(world, 0) == [BIG]
    assert freed(world, BIG) == []
    assert (memory.process, memory.room) == (BIG, 600_000)
    assert freed(world, BIG, e1=530_000) == [70_000]
    assert memory.room == 700_000 - 530_000 - BIG
    assert freed(world, 70_000, e1=760_000) == [0]
    assert (memory.process, memory.paused) == (830_000, False), "they are being deleted"
    assert freed(world, 0, e1=820_000) == []
    assert memory.paused
    assert freed(world, 0) == [BIG]
    store(world, *"abcde", nbytes=109_000)
    assert [keep.most for keep in said(world, commands.KeepFreed)][-1] == 600_000 - 5 * 109_000


def test_freed_files_that_nobody_takes_go_after_a_while() -> None:
    """Other programs of the machine may need the memory."""
    world = World(plan=MemoryPlan(limit=LIMIT, reusable=BIG))
    freed(world, 0)
    assert freed(world, 50_000) == []
    world.now += FREED_TIME - 1
    assert freed(world, 60_000) == []
    world.now += FREED_TIME - 1
    assert freed(world, 60_000) == []
    world.now += 1
    assert freed(world, 60_000) == [0]
    assert freed(world, 0) == [BIG]


def test_without_a_limit_freed_files_have_a_bound_of_their_own() -> None:
    """Nothing else is done about memory then."""
    world = World(plan=MemoryPlan(reusable=BIG))
    assert freed(world, 0) == [BIG]
    assert freed(world, BIG, e1=10 * LIMIT) == []


def test_a_worker_whose_disk_takes_nothing_pauses_earlier(world: World) -> None:
    """What it has in memory can't leave: more has to be left to what runs."""
    store(world, *"abcdefg")
    measure(world, agent=10_000)
    assert not world.machine.memory.paused
    for spill in said(world, commands.Spill):
        finish(world, spill, "No space left on device")
    measure(world, agent=10_000)
    assert world.machine.memory.paused
    world.now += DISK_AGAIN
    measure(world, agent=10_000)
    for spill in said(world, commands.Spill):
        finish(world, spill)
    measure(world, agent=10_000)
    assert (world.machine.memory.paused, world.machine.memory.fault) == (False, "")


def test_results_make_way_while_the_machine_stalls_for_want_of_memory() -> None:
    """Other programs may have taken what the limit leaves to this worker; nobody waits, and nothing is told twice."""
    world = World(executors=1, plan=MemoryPlan(limit=LIMIT, reusable=BIG))
    store(world, *"abc")
    measure(world)
    assert said(world, commands.KeepFreed)[-1].most == BIG

    def stall(part: float) -> list[str]:
        world.do(commands.Measured(0, {1: 0}, 0, part))
        return [spill.key for spill in world.said if isinstance(spill, commands.Spill)]

    assert stall(STALLED - 0.01) == []
    assert stall(STALLED) == ["a"]
    assert stall(STALLED) == ["a"], "one step is under way"
    assert world.machine.memory.room == 0
    assert [keep.most for keep in world.said if isinstance(keep, commands.KeepFreed)] == [0]
    (first,) = said(world, commands.Spill)
    finish(world, first)
    assert stall(STALLED - 0.01) == ["b"], "it isn't over yet"
    finish(world, said(world, commands.Spill)[0])
    assert stall(0.0) == []
    assert (world.machine.memory.room, happened(world)) == (600_000, ["stalled"])
    assert not world.machine.memory.paused
