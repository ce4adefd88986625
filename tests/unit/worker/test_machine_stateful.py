"""Any sequence of events leaves the worker's machine consistent, and every task answered exactly once."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from futurebroker.protocol.messages import (
    Drop,
    Erred,
    ExecutorDied,
    Finished,
    Free,
    GaveBack,
    GiveBack,
    Held,
    Inventory,
)
from futurebroker.worker import commands
from tests.unit.worker.world import INC, SLEEP, World, run

ANSWERS = (Finished, Erred, ExecutorDied, GaveBack)


class WorkerLife(RuleBasedStateMachine):
    """A scheduler that sends, drops, takes back and frees; executors that run, fail, stall and die."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(executors=2)
        self.world.learn()
        #: every attempt sent -> the keys it needs
        self.sent: dict[tuple[str, int], tuple[str, ...]] = {}
        self.attempts: Counter[str] = Counter()

    def executor(self, index: int) -> int | None:
        numbers = sorted(self.world.executors)
        return numbers[index % len(numbers)] if numbers else None

    @rule(
        count=st.integers(1, 5),
        needs=st.lists(st.integers(1, 8), max_size=2),
        function=st.sampled_from([INC, INC, INC, SLEEP]),
        order=st.integers(0, 3),
    )
    def send(self, count: int, needs: list[int], function: bytes, order: int) -> None:
        """New tasks, some of which need earlier ones that are here or under way."""
        for _ in range(count):
            key = f"t{len(self.attempts)}"
            reachable = [f"t{len(self.attempts) - n}" for n in needs]
            inputs = tuple(
                dict.fromkeys(k for k in reachable if k in self.world.machine.tasks or k in self.world.machine.store)
            )
            self.attempts[key] += 1
            self.sent[key, 1] = inputs
            self.world.deliver(run(key, *map(Held, inputs), function=function, order=order))

    @precondition(lambda self: self.attempts)
    @rule(which=st.integers(1, 10), again=st.booleans())
    def drop(self, which: int, again: bool) -> None:
        """A task isn't wanted any more; perhaps it is after all, by another attempt."""
        key = f"t{max(0, len(self.attempts) - which)}"
        if key not in self.world.machine.tasks:
            return
        self.world.deliver(Drop(key, self.attempts[key]))
        if again:
            self.attempts[key] += 1
            self.sent[key, self.attempts[key]] = ()
            self.world.deliver(run(key, attempt=self.attempts[key]))

    @rule(some=st.integers(1, 20))
    def take_back(self, some: int) -> None:
        """Another worker is idle."""
        tasks = list(self.world.machine.tasks.values())[-some:]
        self.world.deliver(GiveBack([(task.key, task.attempt) for task in tasks]))

    @rule(some=st.integers(1, 20))
    def free(self, some: int) -> None:
        """Results nobody else needs."""
        self.world.deliver(Free(list(self.world.machine.store)[:some]))

    @rule(index=st.integers(0, 3), steps=st.integers(1, 10))
    def work(self, index: int, steps: int) -> None:
        """An executor goes on."""
        number = self.executor(index)
        for _ in range(steps):
            if number is not None and self.world.begin(number) is not None:
                self.world.end(number)

    @rule(index=st.integers(0, 3))
    def begin(self, index: int) -> None:
        """An executor begins a task and stays with it."""
        number = self.executor(index)
        if number is not None:
            self.world.begin(number)

    @rule(index=st.integers(0, 3))
    def leave(self, index: int) -> None:
        """A task gives up its slot."""
        number = self.executor(index)
        if number is not None and self.world.begin(number) is not None:
            self.world.leave(number)

    @rule(index=st.integers(0, 3))
    def come_back(self, index: int) -> None:
        """A task takes its slot again."""
        number = self.executor(index)
        if number is not None and self.world.executors[number].away and self.world.executors[number].running is None:
            self.world.hand_back(number)
            self.world.come_back(number)

    @rule(index=st.integers(0, 3))
    def fail(self, index: int) -> None:
        """A task raises."""
        number = self.executor(index)
        if number is not None and self.world.begin(number) is not None:
            self.world.end(number, fails=True)

    @rule(index=st.integers(0, 3))
    def die(self, index: int) -> None:
        """An executor dies, running or not, and is replaced."""
        number = self.executor(index)
        if number is not None:
            self.world.die(number)
            self.world.start_executor()

    @rule(seconds=st.sampled_from([0.001, 0.03, 0.2]))
    def wait(self, seconds: float) -> None:
        """Executors stall, and hand back when asked."""
        self.world.pass_time(seconds)
        for number, executor in list(self.world.executors.items()):
            if executor.asked:
                self.world.hand_back(number)

    def teardown(self) -> None:
        """Left alone, everything that can end does; then each attempt was answered once, or its inputs never came."""
        world = self.world
        for number, executor in list(world.executors.items()):
            while executor.away:
                if world.begin(number) is not None:
                    world.end(number)
                world.hand_back(number)
                world.come_back(number)
        for _ in range(10_000):
            if not any(world.begin(number) is not None and [world.end(number)] for number in list(world.executors)):
                break
        assert not world.machine.dispatcher.sent
        assert not world.machine.dispatcher.ready
        answered = Counter((m.key, m.attempt) for m in world.mail if isinstance(m, ANSWERS))
        assert all(count == 1 for count in answered.values()), "answered twice"
        finished = {m.key for m in world.mail if isinstance(m, Finished)}
        failed = {m.key for m in world.mail if isinstance(m, ANSWERS) and not isinstance(m, Finished)}
        for (key, attempt), inputs in self.sent.items():
            if (key, attempt) not in answered and attempt == self.attempts[key]:
                assert any(k not in finished or k in failed for k in inputs), f"{key} was never answered"
        before = len(world.mail)
        world.do(commands.Fresh())
        told = [message for message in world.mail[before:] if isinstance(message, Inventory)]
        kept = [key for message in told for key, _, _ in message.held]
        kept += [key for message in told for key, _ in message.values]
        assert sorted(kept) == sorted(world.machine.store)
        world.deliver(Free(kept))
        assert len(world.machine.store) == 0
        assert world.machine.tasks == {}


def test_long_random_lives_end_with_every_attempt_answered() -> None:
    """Hypothesis finds the shortest contradiction, but slowly; plain chance goes deeper in the same time."""
    for seed in range(300):
        chance = random.Random(seed)
        life = WorkerLife()
        for _ in range(60):
            _random_step(life, chance)
        life.teardown()


def _random_step(life: WorkerLife, chance: random.Random) -> None:
    steps: list[Callable[[], None]] = [
        lambda: life.send(
            chance.randint(1, 5),
            [chance.randint(1, 8) for _ in range(chance.randint(0, 2))],
            chance.choice([INC, INC, INC, SLEEP]),
            chance.randint(0, 3),
        ),
        lambda: life.work(chance.randint(0, 3), chance.randint(1, 10)),
        lambda: life.begin(chance.randint(0, 3)),
        lambda: life.fail(chance.randint(0, 3)),
        lambda: life.leave(chance.randint(0, 3)),
        lambda: life.come_back(chance.randint(0, 3)),
        lambda: life.die(chance.randint(0, 3)),
        lambda: life.wait(chance.choice([0.001, 0.03, 0.2])),
        lambda: life.free(chance.randint(1, 20)),
        lambda: life.take_back(chance.randint(1, 20)),
        lambda: life.drop(chance.randint(1, 10), chance.random() < 0.5) if life.attempts else None,
    ]
    chance.choices(steps, [3, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1])[0]()


WorkerLife.TestCase.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
TestWorkerLife = WorkerLife.TestCase
