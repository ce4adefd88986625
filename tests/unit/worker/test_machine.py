"""The worker's machine: tasks are run once, answered once, and never wait behind a long one."""

from __future__ import annotations

import pytest

from futurebroker.protocol.messages import (
    CallExecutors,
    CallFunction,
    Drop,
    Erred,
    ExecutorDied,
    Finished,
    Free,
    FunctionCalled,
    GaveBack,
    GiveBack,
    Held,
    InputsMissing,
    Kill,
    StandingGiven,
    StandingWanted,
    TaskAway,
    TaskReturned,
)
from futurebroker.worker import commands
from futurebroker.worker.commands import CallEnded, CallOut, KillExecutor, RecycleExecutor, TaskBack
from futurebroker.worker.packets import Result
from tests.unit.worker.world import SLEEP, World, failure, run


@pytest.fixture
def world() -> World:
    """One executor with one thread."""
    return World()


def test_a_task_runs_and_its_result_is_reported_and_kept(world: World) -> None:
    """The plain case: the value goes with the message and stays for tasks that come."""
    world.deliver(run("a"))
    assert world.step(1) == [Finished("a", 1, 5, 10, b"value", "", "int", 0, 1)]
    assert world.machine.store["a"].data == b"value"
    assert world.machine.tasks == {}


def test_the_same_attempt_sent_twice_runs_once(world: World) -> None:
    """A doubled message must not double the work."""
    world.deliver(run("a"), run("a"))
    world.step(1)
    world.deliver(run("a"))
    assert world.begin(1) is None


def test_a_newer_attempt_silences_the_older(world: World) -> None:
    """The scheduler counts only the attempt it holds; the older one's end must not be reported as the newer's."""
    world.deliver(run("a"))
    world.begin(1)
    world.deliver(run("a", attempt=2))
    assert world.end(1) == []
    assert world.step(1) == [Finished("a", 2, 5, 10, b"value", "", "int", 0, 1)]


def test_tasks_of_unknown_length_go_one_at_a_time(world: World) -> None:
    """Nothing may wait behind a task that may take an hour."""
    world.deliver(*(run(f"t{i}") for i in range(5)))
    assert world.packets(1) == [["t0"]]
    world.begin(1)
    assert world.packets(1) == []


def test_short_tasks_share_packets_and_one_packet_waits_ahead(world: World) -> None:
    """A packet costs more than a tiny task; and an executor mustn't wait for the agent between packets."""
    world.learn()
    world.deliver(*(run(f"t{i}") for i in range(200)))
    assert [len(keys) for keys in world.packets(1)] == [64, 64]


def test_ready_tasks_are_spread_over_executors() -> None:
    """A packet for one executor must not take what another could run meanwhile."""
    world = World(executors=2)
    world.learn()
    world.deliver(*(run(f"t{i}") for i in range(10)))
    assert [len(keys) for number in (1, 2) for keys in world.packets(number)] == [5, 5]


def test_nothing_goes_ahead_behind_a_long_task(world: World) -> None:
    """A short task behind a long one would be late for no reason."""
    world.learn()
    world.learn(5_000_000, SLEEP)
    world.deliver(run("long", function=SLEEP), run("short"))
    assert world.packets(1) == [["long"]]


def test_order_decides_and_ties_keep_their_sequence(world: World) -> None:
    """Depth-first order keeps few results alive."""
    world.deliver(run("first"))
    world.deliver(run("late", order=9), run("early", order=1), run("early too", order=1))
    assert [world.step(1)[0].key for _ in range(4)] == ["first", "early", "early too", "late"]  # type: ignore[attr-defined]


def test_a_task_waits_for_an_earlier_one_and_gets_its_value(world: World) -> None:
    """Pipelining: the scheduler sends ahead what this worker will be able to run by itself."""
    world.deliver(run("a"), run("b", Held("a")))
    assert world.packets(1) == [["a"]]
    world.step(1)
    task = world.begin(1)
    assert task is not None
    assert task.inputs == (b"value",)


def test_a_chain_of_short_tasks_goes_in_one_packet(world: World) -> None:
    """A chain must run at the executor's speed, without a round trip to the agent between two links."""
    world.learn()
    world.deliver(run("t0"), *(run(f"t{i}", Held(f"t{i - 1}")) for i in range(1, 10)))
    (packet,) = world.executors[1].unread
    assert [task.inputs for task in packet.tasks] == [(), *((task.number,) for task in packet.tasks[:-1])]


def test_a_failure_is_reported_and_those_that_waited_are_forgotten(world: World) -> None:
    """The scheduler fails the dependents itself; two decisions about one task would contradict each other."""
    world.deliver(run("a"), run("b", Held("a")), run("c", Held("b")))
    assert world.begin(1) is not None
    assert world.end(1, fails=True) == [Erred("a", 1, failure("a"), 10, 0, 1)]
    assert world.machine.tasks == {}
    assert world.machine.dependents == {}


def test_a_failure_inside_a_packet_reports_only_what_ran(world: World) -> None:
    """The rest of a chain can't run, and the scheduler knows."""
    world.learn()
    world.deliver(run("a"), run("b", Held("a")), run("c", Held("b")))
    world.begin(1)
    assert world.end(1, fails=True) == [Erred("a", 1, failure("a"), 10, 0, 1)]
    assert [world.step(1), world.step(1)] == [[], []]
    assert world.machine.dispatcher.sent == {}


def test_only_the_task_that_ran_is_blamed_for_a_death() -> None:
    """Innocent tasks of the same packet run elsewhere and aren't reported at all."""
    world = World(executors=1)
    world.learn()
    world.deliver(*(run(f"t{i}") for i in range(3)))
    world.step(1)
    world.begin(1)
    assert world.die(1) == [ExecutorDied("t1", 1, "signal 9 (SIGKILL)")]
    number = world.start_executor()
    assert world.packets(number) == [["t2"]]


def waiting_world() -> World:
    """An executor in which "parent" waits."""
    world = World(executors=1)
    world.learn()
    world.deliver(run("parent"))
    world.begin(1)
    assert world.leave(1) == [TaskAway("parent", 1)]
    return world


def test_a_task_that_waited_is_not_blamed_for_what_another_did() -> None:
    """Its child, or a stranger, ran and ended the executor: the parent runs again as if nothing had happened."""
    world = waiting_world()
    world.deliver(run("child"))
    world.begin(1)
    assert world.die(1, "9") == [ExecutorDied("child", 1, "9"), ExecutorDied("parent", 1, "9", innocent=True)]


def test_a_task_that_waited_is_to_blame_where_nothing_else_ran() -> None:
    """A thread of its own ended the executor, or its memory did: without blame it would be run again for ever."""
    assert waiting_world().die(1, "9") == [ExecutorDied("parent", 1, "9")]


def test_who_came_back_is_one_that_runs() -> None:
    """Its wait is over."""
    world = waiting_world()
    assert world.come_back(1) == [TaskReturned("parent", 1)]
    assert world.die(1, "9") == [ExecutorDied("parent", 1, "9")]


def test_who_waits_for_its_slot_is_not_one_that_runs() -> None:
    """It has what it waited for, and another runs meanwhile; it has begun all the same, and is no business of ours."""
    world = waiting_world()
    world.deliver(run("other"))
    world.begin(1)
    parent = world.executors[1].away[0]
    assert world.do(TaskBack(1, parent.number)) == [TaskReturned("parent", 1)]
    assert world.die(1, "9") == [ExecutorDied("other", 1, "9"), ExecutorDied("parent", 1, "9", innocent=True)]


def test_nobody_is_to_blame_for_an_executor_that_its_worker_ended() -> None:
    """Executors are replaced, in another environment for instance; the scheduler learns what had begun."""
    world = waiting_world()
    world.deliver(run("child"), run("later"))
    world.begin(1)
    told = world.die(1, "9", expected=True)
    assert told == [ExecutorDied(key, 1, "9", innocent=True) for key in ("child", "parent")]
    assert world.packets(world.start_executor()) == [["later"]]


def test_nobody_is_to_blame_for_an_executor_that_was_ended_for_a_cancelled_task() -> None:
    """``terminate=True`` kills the executor; the parent that waited in it isn't why."""
    world = waiting_world()
    world.deliver(run("child"))
    world.begin(1)
    world.deliver(Kill("child", 1))
    assert KillExecutor(1, "SIGKILL, at the end of its time") in world.said
    assert world.die(1, "9") == [ExecutorDied("parent", 1, "9", innocent=True), GaveBack("child", 1)]


def test_nobody_is_to_blame_for_an_executor_that_a_call_out_of_line_ended() -> None:
    """``client.run`` may do anything."""
    world = waiting_world()
    world.deliver(CallFunction(1, b"code", b"args"))
    assert ExecutorDied("parent", 1, "9", innocent=True) in world.die(1, "9")


def test_an_executor_is_not_worn_out_while_a_task_waits_in_it() -> None:
    """The waiting task would go with it."""
    world = waiting_world()
    world.machine.wear.limit(2, 0)
    world.deliver(run("one"), run("two"))
    world.step(1)
    world.step(1)
    assert RecycleExecutor(1) not in world.said
    world.come_back(1)
    world.end(1)
    assert RecycleExecutor(1) in world.said


def test_an_idle_executor_gets_what_another_has_not_read() -> None:
    """Otherwise a packet ahead waits behind a task that turned out long while somebody has nothing to do."""
    world = World(executors=2)
    world.learn()
    world.deliver(*(run(f"t{i}") for i in range(256)))
    for _ in range(64):
        world.begin(2)
        world.end(2)
    world.begin(1)
    world.now += 1.0
    while world.begin(2) is not None:
        world.end(2)
    assert world.executors[1].unread == world.executors[2].unread
    assert set(world.machine.tasks) == {task.key for task in world.executors[1].todo} | {"t0"}


def test_nothing_is_recalled_again_until_there_is_something_unread() -> None:
    """An executor may have read all it was given: asking once more after an empty answer would never end."""
    world = World(executors=2)
    world.learn()
    world.deliver(*(run(f"t{i}") for i in range(256)))
    for _ in range(64):
        world.step(2)
    executor = world.executors[1]
    while executor.unread:
        executor.todo.extend(executor.unread.popleft().tasks)
    while world.begin(2) is not None:
        world.end(2)
    before = world.said.count(commands.Recall(1))
    world.pass_time(1.0)
    world.begin(1)
    world.end(1)
    assert world.said.count(commands.Recall(1)) == before == 1


def test_the_sequence_holds_between_tasks_in_order_and_others(world: World) -> None:
    """Most tasks arrive in order and take a shorter way than the others; they mustn't overtake each other."""
    world.deliver(run("first"))
    world.deliver(*(run(f"t{order}", order=order) for order in (5, 7, 2, 9, 1)), Drop("t5", 1))
    keys = [world.step(1)[0].key for _ in range(5)]  # type: ignore[attr-defined]
    assert keys == ["first", "t1", "t2", "t7", "t9"]


def test_the_rest_of_a_stalled_packet_is_asked_for_once_and_runs_elsewhere() -> None:
    """A task expected to be short that takes long must not keep the rest of its packet."""
    world = World(executors=2)
    world.learn()
    world.deliver(*(run(f"t{i}") for i in range(8)))
    world.begin(1)
    while world.begin(2) is not None:
        world.end(2)
    world.pass_time(0.03)
    world.pass_time(0.03)
    assert [said for said in world.said if isinstance(said, commands.AskRest)] == [commands.AskRest(1)]
    world.hand_back(1)
    assert sum(len(keys) for keys in world.packets(2)) == 3


def test_a_single_task_ahead_is_not_forgotten_behind_one_that_turned_out_long() -> None:
    """No message comes while one task runs and everybody else is idle: the machine must wake by itself."""
    world = World(executors=2)
    world.learn()
    for key in "abcd":
        world.deliver(run(key))
    world.begin(1)
    while world.begin(2) is not None:
        world.end(2)
    for _ in range(3):
        world.pass_time(0.03)
    assert world.packets(1) == []
    assert world.begin(2) is not None


def test_a_dropped_task_that_has_not_begun_is_given_back(world: World) -> None:
    """The scheduler may send it elsewhere at once."""
    world.deliver(run("a"), run("b"))
    assert world.deliver(Drop("b", 1)) == [GaveBack("b", 1)]
    assert world.deliver(Drop("b", 1), Drop("a", 7)) == []


def test_a_dropped_task_that_runs_is_given_back_after_its_end(world: World) -> None:
    """Its slot is taken until then; its result is nobody's."""
    world.deliver(run("a"))
    world.begin(1)
    assert world.deliver(Drop("a", 1)) == []
    assert world.end(1) == [GaveBack("a", 1)]
    assert len(world.machine.store) == 0


def test_tasks_asked_back_are_given_only_if_they_have_not_begun() -> None:
    """Stealing is a request: what runs is finished here."""
    world = World()
    world.learn()
    world.deliver(*(run(f"t{i}") for i in range(100)))
    world.begin(1)
    answers = world.deliver(GiveBack([("t0", 1), ("t70", 1), ("t99", 1)]))
    assert sorted(answers, key=repr) == [GaveBack("t70", 1), GaveBack("t99", 1)]
    assert world.end(1) == [Finished("t0", 1, 5, 10, b"value", "", "int", 0, 1)]


def test_a_task_asked_back_is_given_also_from_behind_one_it_was_sent_with() -> None:
    """A follower of a task that runs may be revoked: it mustn't begin only because an executor had got both at once."""
    world = World()
    world.learn()
    world.deliver(run("a"), run("b", Held("a")), run("c"))
    world.begin(1)
    assert world.packets(1) == []
    assert world.deliver(GiveBack([("b", 1)])) == []
    assert world.hand_back(1) == [GaveBack("b", 1)]
    assert [m.key for m in (*world.end(1), *world.step(1)) if isinstance(m, Finished)] == ["a", "c"]


def test_a_freed_value_stays_until_local_tasks_have_used_it(world: World) -> None:
    """Free overtakes nothing: tasks sent before it still get their inputs."""
    world.deliver(run("a"))
    world.step(1)
    world.deliver(run("b", Held("a")), Free(["a"]))
    assert "a" in world.machine.store
    world.step(1)
    assert "a" not in world.machine.store


def test_an_input_whose_file_is_gone_is_reported_with_its_holder(world: World) -> None:
    """The scheduler must learn which copy is no good."""
    world.host_files.add("/elsewhere/x")
    world.deliver(run("a", Held("x", 9, [("w2", "/elsewhere/x")])))
    task = world.begin(1)
    assert task is not None
    answer = world.do(commands.Reported(1, [Result(task.number, 0, missing=[0])]))
    assert answer == [InputsMissing("a", 1, [("x", "w2")])]


def test_draining_gives_back_what_has_not_begun_and_waits_for_the_rest(world: World) -> None:
    """A worker that leaves loses nothing."""
    world.learn()
    world.deliver(*(run(f"t{i}") for i in range(70)))
    world.begin(1)
    world.do(commands.Drain())
    world.hand_back(1)
    assert sorted(m.key for m in world.mail if isinstance(m, GaveBack)) == sorted(f"t{i}" for i in range(1, 70))
    assert commands.Drained() not in world.said
    assert world.deliver(run("new")) == [GaveBack("new", 1)]
    world.end(1)
    assert world.said[-1] == commands.Drained()


def test_a_call_out_of_line_waits_for_an_executor_and_fails_with_it() -> None:
    """`Client.run` must answer whatever happens."""
    world = World(executors=0)
    world.deliver(CallFunction(7, b"code", b"args"))
    world.start_executor()
    assert world.said == [commands.CallOut(1, 7, b"code", b"args")]
    (answer,) = world.die(1, "exit code 3")
    assert isinstance(answer, FunctionCalled)
    assert answer.failure is not None
    assert answer.failure.message == "the executor that ran the call on worker w ended with exit code 3"


def test_an_executor_makes_all_standing_calls_before_its_first_task(world: World) -> None:
    """A plugin that comes second is as needed as the first; and the next scheduler is told of both."""
    first, second = (CallExecutors(0, b"code", b"args", keep=name, mark=at) for name, at in (("a", 1.0), ("b", 2.0)))
    assert world.deliver(first, second, run("x")) == []
    calls = [one.number for one in world.said if isinstance(one, CallOut)]
    assert len(set(calls)) == 2
    world.do(CallEnded(calls[0], b"", None, 1))
    assert world.packets(1) == []
    world.do(CallEnded(calls[1], b"", None, 1))
    assert world.packets(1) == [["x"]]
    world.do(commands.Fresh())
    assert world.machine.standing() == {"a": 1.0, "b": 2.0}
    assert world.deliver(StandingWanted(["b", "unknown"])) == [StandingGiven("b", 2.0, b"code", b"args")]
