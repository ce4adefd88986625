"""One run: a random graph, random people and random trouble, all from one seed; then quiet, and the reckoning."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from random import Random
from typing import Any

from futurebroker.protocol.messages import INLINE_LIMIT, KEEP_LIMIT, Failure, TaskOptions
from tests.sim.agreed import EVERY, SLACK, Agreements, Executions
from tests.sim.client import SimClient
from tests.sim.durable import DurableSimScheduler
from tests.sim.network import Weather
from tests.sim.oracle import ALWAYS, Call, Node, Oracle
from tests.sim.orders import Orders, limits_held, limits_told
from tests.sim.reuse import Reuse
from tests.sim.scheduler import SimScheduler
from tests.sim.shared import Sharing, SharingThread
from tests.sim.worker import SimWorker
from tests.sim.world import World

#: virtual seconds after the last fault within which every future has ended
LIVENESS = 60.0
#: workers and executors that may end at random: no more than a task survives
DEATHS = 3
PLAIN = TaskOptions()
#: virtual seconds within which faults stop, usually and in harsh runs
QUIET = 12.0
HARSH_QUIET = 3.0


class SimulationFailed(AssertionError):  # noqa: N818 - it says what happened
    """What went wrong in a run, and how to see it again."""

    def __init__(self, seed: int, what: str, how: str = "") -> None:
        super().__init__(seed, what, how)
        self.seed = seed
        self.what = what
        self.how = how  #: arguments of the command beside the seed

    def __str__(self) -> str:
        return f"seed {self.seed}: {self.what}\nreplay: python -m tests.sim --seed {self.seed}{self.how} --trace"


class Scenario:
    """See the top of this file.

    Args:
        show: is given each line of the trace.
        quiet_within: virtual seconds within which faults stop.
        harsh: as much trouble as there may be.
        restarts: the scheduler is among what breaks.
        durable: it has a journal, which breaks as well.
    """

    def __init__(
        self,
        seed: int,
        show: Callable[[str], None] | None = None,
        quiet_within: float = QUIET,
        harsh: bool = False,
        restarts: bool = True,
        durable: bool = False,
    ) -> None:
        self.world = World(seed, show)
        self.random = self.world.random
        self._patience = Random(f"{seed} waits")  # of its own, so that the graphs of seeds stay what they are
        self._crawling = Random(f"{seed} crawls")
        self.weather = Weather()
        self.reuse = Reuse(seed)
        self.sharing = Sharing(seed)
        self.scheduler = DurableSimScheduler(self.world) if durable else SimScheduler(self.world)
        if isinstance(self.scheduler, DurableSimScheduler):
            self.scheduler.reused = self.reuse.versions
        self.hosts: dict[str, dict[str, bytes]] = {}
        self.workers: list[SimWorker] = []
        self.clients: list[SimClient] = []
        self.restarts = 0
        self.quiet_at = self.random.uniform(0.3, quiet_within)
        self._harsh = harsh
        self._with_restarts = restarts
        self._durable = durable
        self.executions = Executions()
        self.agreed = Agreements(seed)
        self.orders = Orders(seed, self.agreed.active)
        self._deaths = DEATHS
        self._crashes = 0
        self._build()
        self._trouble()

    # -- building ---------------------------------------------------------------------------------------------------

    def _build(self) -> None:
        random = self.random
        nodes = self.agreed.equip(self._graph())
        self.oracle = Oracle({node.key: node for node in (*nodes, *self.reuse.nodes())})
        for number in range(random.randint(1, 4)):
            name = ("east", "west", "north", "south")[number]
            info: dict[str, Any] = {
                "name": name,
                "host": random.choice(("h1", "h2")),
                "slots": random.choice((1, 1, 2)),
                "resources": {"gpu": 1.0} if number == 0 else {},
                "queues": self.agreed.queues(number),
            }
            self.world.after(random.uniform(0, 1), partial(self._start_worker, info))
        self._given_up: set[str] = set()
        for number in range(random.choice((1, 1, 2))):
            self._start_client(f"c{number}")
        self._plans(nodes)
        for number in range(2 if self.sharing.active else 0):
            self._start_client(f"s{number}")  # which has no futures
        for client in self.clients:
            self._sharing_plans(client)

    def _start_client(self, name: str) -> None:
        self.clients.append(
            SimClient(
                self.world, self.weather, self.scheduler, name, self.oracle, self._given_up, self.agreed.revoked,
                self.reuse,
            )
        )  # fmt: skip

    def _start_worker(self, info: dict[str, Any]) -> None:
        self.restarts += 1
        name = f"{info['name']}-{self.restarts}"
        self.workers.append(
            SimWorker(
                self.world, self.weather, self.scheduler, name, info, self.hosts, self.executions, self.agreed,
                self.sharing, lambda: self._follow(info),
            )
        )  # fmt: skip

    def _follow(self, info: dict[str, Any]) -> None:
        """A worker was told to leave: another of its name comes."""
        self.world.after(self.orders.pause(), lambda: self._start_worker(info))

    def _graph(self) -> list[Node]:
        random = self.random
        shape = random.choice(("layers", "layers", "chain", "fan", "tree"))
        count = random.randint(4, 32)
        nodes: list[Node] = []
        for number in range(random.choice((0, 0, 1, 2))):
            options = random.choice((PLAIN, TaskOptions(workers=("east",))))
            size = random.choice((20, KEEP_LIMIT + 1, INLINE_LIMIT + 1))
            nodes.append(Node(f"data-{number}", (), None, options, size, random.random() < 0.3))
        for number in range(count):
            keys = [node.key for node in nodes]
            if not keys:
                names: list[str] = []
            elif shape == "chain":
                names = keys[-1:]
            elif shape == "fan":
                names = keys[:-1][-20:] if number == count - 1 else []
            elif shape == "tree":
                names = keys[2 * (number - count // 2) :][:2] if number > count // 2 else []
            else:
                names = random.sample(keys[-8:], random.randint(0, min(3, len(keys[-8:]))))
            nodes.append(self._node(f"t-{number}", tuple(names)))
        return nodes

    def _node(self, key: str, names: tuple[str, ...]) -> Node:
        random = self.random
        fails, retries = 0, random.choice((0, 0, 0, 2))
        if random.random() < 0.08:
            fails = min(retries, 2) or ALWAYS
        size, stored = random.choice(((20, False), (20, False), (KEEP_LIMIT + 1, False), (40, True), (40, True)))
        seconds = random.choice((0.0002, 0.002, 0.002, 0.05, 0.5))
        waits = self._patience.random() < 0.15
        call = Call(key, size, stored, seconds, fails, random.random() < 0.015, waits)
        workers = random.choice(((), (), (), (), ("east",), ("east", "west")))
        options = TaskOptions(
            workers, random.random() < 0.3, random.choice((None, None, None, {"gpu": 1.0})), retries,
            random.choice((0, 0, 0, 7, -7)),
        )  # fmt: skip
        return Node(key, names, call, options if random.random() < 0.5 else TaskOptions(retries=retries))

    def _plans(self, nodes: list[Node]) -> None:
        random = self.random
        first = self.clients[0]
        keys = [node.key for node in nodes]
        at = 0.0
        rest = nodes
        while rest:
            take = random.choice((1, 5, 40))
            part, rest = rest[:take], rest[take:]
            first.later(at, first.submit, part)
            at += random.choice((0.0, 0.01, 0.3))
        changes = (first.release, first.cancel, first.release)
        for _ in range(random.choice((0, 0, 1, 2))):
            some = random.sample(keys, random.randint(1, max(1, len(keys) // 4)))
            some = [key for key in some if key not in self.agreed.needed]
            what = random.choice(changes)
            first.later(at + random.uniform(0, 3), what, some, random.random() < 0.3)
        if random.random() < 0.2:
            first.later(at + random.uniform(1, 4), self._retry)
        for other in self.clients[1:]:
            other.later(at + random.uniform(0, 2), other.want, random.sample(keys, random.randint(1, len(keys))))
            if random.random() < 0.3:
                self.world.after(at + random.uniform(0.5, 5), other.crash)
        if self.agreed.active:
            self._agreed_plans(keys, at)
        for use in self.reuse.uses:
            first.later(use.at, first.give_up_call, use)
            first.later(use.at + use.gap, first.use, use)
        for other in self.clients[1:]:
            for moment, some in self.reuse.wanted():
                other.later(moment, other.want, some)

    def _sharing_plans(self, client: SimClient) -> None:
        for moment, what, topic in self.sharing.topics():
            client.later(moment, client.follow, what, topic)
        for number, steps in enumerate(self.sharing.steps(client is self.clients[0])):
            name = f"{client.line.name}/{number}"
            client.threads.append(
                SharingThread(
                    self.world, name, steps, self.sharing.leases, client.ask, client.line,
                    lambda: 0 if self._durable else self.scheduler.restarts,
                )
            )  # fmt: skip

    def _retry(self) -> None:
        first = self.clients[0]
        failed = [key for key, end in first.futures.items() if isinstance(end, Failure)]
        # What must not run twice may when somebody says so, of it or of what failed because of it.
        self.executions.retry(name for key in failed for name in self.oracle.ancestors(key))
        first.retry()

    def _agreed_plans(self, keys: list[str], at: float) -> None:
        """What people do about tasks by their keys, and about workers by their names."""
        random = self.agreed.random
        for moment, method, names, argument in self.orders.planned():
            self.clients[0].later(moment, self.clients[0].order, method, names, argument)
        for _ in range(random.choice((0, 0, 1, 2))):
            who = random.choice(self.clients)
            some = random.sample(keys, random.randint(1, max(1, len(keys) // 6)))
            who.later(random.uniform(0, at + 3), who.revoke, some, random.random() < 0.3)
        if random.random() < 0.05:
            self.clients[0].later(at + random.uniform(0, 3), self.clients[0].purge)
        for other in self.clients[1:]:
            some = random.sample(keys, random.randint(1, len(keys)))
            other.later(random.uniform(0, 0.1), other.await_keys, some)
            other.later(at + 8, other.give_up_open, some)
        if used_up := self.agreed.used_up():
            self.clients[0].later(at + random.uniform(0.0, 0.5), self.clients[0].release, used_up)
        for moment, some in self.agreed.made_again(keys):
            self.clients[0].later(at + moment, self.clients[0].submit_again, some)
        if self._durable:
            for moment, key in self.agreed.looked_for(keys):
                self.clients[0].later(at + moment, self.clients[0].look_for, key)

    # -- trouble ----------------------------------------------------------------------------------------------------

    def _trouble(self) -> None:
        random, weather = self.random, self.weather
        weather.delay = random.choice((0.0005, 0.005, 0.05))
        if self._harsh or random.random() < 0.7:
            weather.drop = random.choice((0.0, 0.02, 0.2))
            weather.double = random.choice((0.0, 0.05, 0.3))
            weather.slow = random.choice((0.0, 0.05, 0.3))
        faults = [
            self._cut,
            self._cut,
            self._crash,
            self._crash_executor,
            self._pause,
            self._long_cut,
            self._drain,
        ]
        if self._with_restarts:
            faults.append(self._restart_scheduler)
        if isinstance(self.scheduler, DurableSimScheduler):
            faults += [self._restart_scheduler, self.scheduler.fail]
        for _ in range(8 if self._harsh else random.choice((0, 1, 3, 6))):
            self.world.after(random.uniform(0.2, 1) * self.quiet_at, random.choice(faults))
        self.world.after(self.quiet_at, self._quiet)

    def _quiet(self) -> None:
        self.world.trace("quiet")
        self.weather.drop = self.weather.double = self.weather.slow = 0.0
        self.weather.delay = min(self.weather.delay, 0.005)

    def _living(self) -> list[SimWorker]:
        return [worker for worker in self.workers if worker.alive]

    def _cut(self, seconds: float | None = None) -> None:
        lines = [worker.line for worker in self._living()] + [one.line for one in self.clients if one.alive]
        line = self.random.choice(lines)
        self.world.trace(f"cut {line.name}")
        line.cut(self.random.random() < 0.7)
        self.world.after(self.random.uniform(0.05, 2.0), line.connect)

    def _long_cut(self) -> None:
        """So long that the worker is given up, and comes back."""
        if self._living() and self._deaths:
            self._deaths -= 1
            worker = self.random.choice(self._living())
            self.world.trace(f"long cut {worker.line.name}")
            worker.line.cut(self.random.random() < 0.5)
            self.world.after(self.random.uniform(4.0, 12.0), worker.line.connect)

    def _restart_scheduler(self) -> None:
        if not self._durable:
            self.executions.strict = False  # the next one doesn't know what was begun
        within = 2.0
        if self._crawling.random() < 0.4:
            self._crawl()
            within = 0.1
        if isinstance(self.scheduler, DurableSimScheduler) and self._crawling.random() < 0.6:
            self.scheduler.restart_in_a_commit(within)
        else:
            self.scheduler.restart(within)

    def _crawl(self) -> None:
        """Peers come at once and what they tell is late, so that something has ended by the time it is answered."""
        before, self.weather.delay = self.weather.delay, 0.08

        def recover() -> None:
            self.weather.delay = min(self.weather.delay, before)

        self.world.after(3.0, recover)

    def _crash(self) -> None:
        if self._living() and self._deaths:
            self._deaths -= 1
            self._crashes += 1
            worker = self.random.choice(self._living())
            self.world.trace(f"crash {worker.line.name}")
            worker.crash()
            if self.random.random() < 0.6:
                self.scheduler.cut(worker.line)
            self.world.after(self.random.uniform(0.1, 5.0), lambda: self._start_worker(worker.line.info))

    def _drain(self) -> None:
        """A worker leaves in good order, and another of its name comes."""
        if self._living():
            worker = self.random.choice(self._living())
            self.world.trace(f"drain {worker.line.name}")
            worker.drain()
            self.world.after(self.random.uniform(0.1, 5.0), lambda: self._start_worker(worker.line.info))

    def _crash_executor(self) -> None:
        executors = [one for worker in self._living() for one in worker.executors.values() if one.alive]
        if executors and self._deaths:
            self._deaths -= 1
            executor = self.random.choice(executors)
            self.world.trace(f"crash executor {executor.number} of {executor.worker.line.name}")
            executor.die("SIGKILL")

    def _pause(self) -> None:
        if self._living():
            worker = self.random.choice(self._living())
            worker.status = "paused"
            self.world.after(self.random.uniform(0.5, 3.0), lambda: setattr(worker, "status", "running"))

    # -- the reckoning ----------------------------------------------------------------------------------------------

    def run(self) -> str:
        """The whole run; returns its digest.

        Raises:
            SimulationFailed: a law was broken, a future ended wrong or not at all, or something was left behind.
        """
        try:
            self._run()
        except Exception as error:
            how = " --harsh" * self._harsh + " --no-restarts" * (not self._with_restarts)
            how += " --durable" * self._durable
            raise SimulationFailed(self.world.seed, f"{type(error).__name__}: {error}", how) from error
        finally:
            self.scheduler.machine.state.close()
        return self.world.digest

    def _run(self) -> None:
        world = self.world
        bound = self.quiet_at + LIVENESS
        ended = world.run(lambda: world.now > self.quiet_at and self._is_done(), lambda: bound)
        if not ended:
            state = self.scheduler.machine.state
            lines = [f"not made: {self._unmade()}"] * bool(self._unmade())
            lines += [f"{one.line.name}: {key}" for one in self.clients for key in sorted(one.open)]
            stories = [f"{task}: {state.story(task)}" for task in list(state.tasks.values())[:10]]
            raise AssertionError(f"not ended after {LIVENESS} s of quiet: {lines}; {stories}")
        self._judge()
        self._judge_schedule()
        if not world.run(self._is_limited, lambda: bound + LIVENESS):
            held = limits_held(self.scheduler.machine.state)
            raise AssertionError(f"ordered were {self.clients[0].limited}, and {held} hold")
        for client in self.clients:
            if client.alive:
                client.release_all()
        if not world.run(self._clean, lambda: bound + LIVENESS):
            raise AssertionError(f"left behind: {self._left()}")
        world.trace("end")

    def _is_done(self) -> bool:
        return all(one.done for one in self.clients) and not self._unmade()

    def _unmade(self) -> list[str]:
        """Calls planned for failures, which a scheduler that forgot them can't make."""
        first = self.clients[0]
        if first.retried or (self.scheduler.restarts and not self._durable):
            return []
        wrong = self.agreed.uncalled_for(first.futures, self.executions)
        assert not wrong, f"{wrong} were begun, and nothing failed"
        return self.agreed.unmade(first.futures, self.executions)

    def _permits(self, failure: Failure) -> bool:
        scheduler = self.scheduler
        troubled = self._deaths < DEATHS or scheduler.departures or scheduler.ends_of_lives or self.executions.kills
        if failure.type == "TimeLimitExceeded":
            calls = self.reuse.calls(failure.key) or [self.oracle.nodes[failure.key].call]
            return any(map(self.orders.may_end, calls))
        known = () if scheduler.restarts and not self._durable else self.clients[0].futures
        first = self.clients[0]
        let_go = first.released | first.cancelled
        return self.agreed.permits(failure, troubled=bool(troubled), known=known, let_go=let_go)

    def _judge(self) -> None:
        allowed = self.scheduler.machine.state.policy.allowed_failures
        deaths = max(DEATHS - self._deaths, self.scheduler.losses)  # of workers, with whatever was begun there
        at_risk = self.scheduler.departures > 0 or self.scheduler.ends_of_lives > 0
        for client in self.clients:
            for key, end in client.futures.items():
                anyone = range(self.reuse.versions.get(key, 1))
                versions = anyone if key in self.reuse.shared else (client.versions.get(key, 0),)
                wrong = self.oracle.judge(key, end, at_risk, self._permits, versions)
                if wrong and self._is_orphaned(client, end):
                    continue
                # What only waited where another ended the executor has no part in that, if anything else ran there.
                suspected = self.executions.suspected[end.key if isinstance(end, Failure) else key]
                if wrong and not (deaths + suspected > allowed and "ied" in wrong):
                    raise AssertionError(wrong)

    def _judge_schedule(self) -> None:
        """What a schedule ran is what is written, once for each moment at which it was due."""
        scheduler = self.scheduler
        if not isinstance(scheduler, DurableSimScheduler) or not scheduler.machine.state.beat:
            return
        firings = scheduler.firings()
        assert self.executions.fired <= firings.keys(), f"{self.executions.fired - firings.keys()} are not written"
        moments = list(firings.values())
        for moment, following in pairwise(moments):
            assert following - moment > EVERY - SLACK, f"fired at {moments}"

    def _is_limited(self) -> bool:
        """Whether limits hold as they were ordered last, and every worker has them for the next scheduler."""
        known = {name: one.mark for name, one in self.scheduler.machine.state.operations.standing.items()}
        there = [worker for worker in self._living() if worker.line.welcomed]
        if any(worker.machine.standing() != known for worker in there):
            return False
        held = limits_held(self.scheduler.machine.state)
        if held != limits_told(self.scheduler.machine.state):
            return False
        if self.scheduler.restarts and not self._durable:
            return True  # it may have been killed before any worker knew
        return all(held.get(what) == values for what, values in self.clients[0].limited.items())

    def _is_orphaned(self, client: SimClient, end: Any) -> bool:
        """Whether a restarted scheduler could not learn how to compute it: who had submitted it has let go of it."""
        owner = self.clients[0]
        lost = self.scheduler.restarts and isinstance(end, Failure) and end.type == "DataLostError"
        return bool(lost) and client is not owner and not isinstance(owner.futures.get(end.key), int)

    def _clean(self) -> bool:
        state = self.scheduler.machine.state
        shared = state.shared
        return not (state.tasks or shared.semaphores or shared.flags or shared.limits) and not any(
            worker.files or len(worker.machine.store) or worker.machine.tasks for worker in self._living()
        )

    def _left(self) -> str:
        state = self.scheduler.machine.state
        left = [f"{task}: {state.story(task)}" for task in state.tasks.values()]
        left += [*state.shared.semaphores, *state.shared.flags, *state.shared.limits]
        for worker in self._living():
            left += [
                f"{worker.line.name}: {sorted(worker.files)}, {list(worker.machine.store)}, {worker.machine.tasks}"
            ]
        return "; ".join(left)
