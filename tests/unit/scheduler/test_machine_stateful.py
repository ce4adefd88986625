"""The machine against a naive model: whatever happens in whatever order, no law breaks and every future ends right."""

from __future__ import annotations

from typing import TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from futurebroker.protocol import messages as m
from futurebroker.scheduler.commands import ClientJoined, WorkerBeat, WorkerReturned, WorkerSaid, WorkerSuspected
from tests.unit.scheduler.naive import FUNCTION, SIZES, Cluster, NaiveWorker, Spec, packed, value_of

CLIENTS = ("ann", "bob")
NAMES = ("east", "west", "north")
PICK = st.integers(0, 10**6)
CLIENT = st.sampled_from(CLIENTS)
OPTIONS = st.builds(
    m.TaskOptions,
    workers=st.sampled_from([(), (), (), ("east",), ("east", "north")]),
    allow_other_workers=st.booleans(),
    resources=st.sampled_from([None, None, None, {"gpu": 1.0}, {"gpu": 0.1}]),
    retries=st.sampled_from([0, 0, 2]),
    priority=st.sampled_from([0, 0, 0, 5, -5]),
)
PLAIN = m.TaskOptions()

T = TypeVar("T")


class SchedulerAgainstModel(RuleBasedStateMachine):
    """Clients ask, workers do, lose, repeat and contradict, in any order; the fixture checks after every event."""

    def __init__(self) -> None:
        super().__init__()
        self.cluster = Cluster()
        self.made = 0

    # -- choosing ---------------------------------------------------------------------------------------------------

    def some(self, things: list[T], pick: int) -> T:
        return things[pick % len(things)]

    def held(self, client: str) -> list[str]:
        return list(self.cluster.futures.get(client, {}))

    def working(self) -> list[tuple[NaiveWorker, m.Run]]:
        return [(worker, run) for worker in self.cluster.workers.values() for run in worker.ready()]

    # -- clients ----------------------------------------------------------------------------------------------------

    @initialize()
    def begin(self) -> None:
        for client in CLIENTS:
            self.cluster.futures[client] = {}
            self.cluster.handle(ClientJoined(client, {}))
            self.cluster.say(client, m.AddFunction(FUNCTION, "f", b"code"))

    @rule(client=CLIENT, picks=st.lists(PICK, max_size=3), size=st.sampled_from(list(SIZES)), options=OPTIONS)
    def submits(self, client: str, picks: list[int], size: str, options: m.TaskOptions) -> None:
        self.submit(client, picks, size, options)

    @rule(client=CLIENT, picks=st.lists(PICK, min_size=1, max_size=3), size=st.sampled_from(list(SIZES)))
    def submits_what_depends(self, client: str, picks: list[int], size: str) -> None:
        self.submit(client, picks, size, PLAIN)

    def submit(self, client: str, picks: list[int], size: str, options: m.TaskOptions) -> None:
        if client not in self.cluster.futures:
            return
        known = list(self.cluster.specs)
        names = tuple(dict.fromkeys(self.some(known, pick) for pick in picks)) if known else ()
        self.made += 1
        key = f"f-{self.made}"
        self.cluster.specs[key] = Spec(names, size, options)
        self.cluster.futures[client][key] = None
        self.cluster.say(client, m.Submit(FUNCTION, [key], [size.encode()], [names], options))

    @rule(client=CLIENT, pick=PICK)
    def submits_again(self, client: str, pick: int) -> None:
        """The same work under the same key, perhaps after it was forgotten."""
        keys = [key for key, spec in self.cluster.specs.items() if not spec.data]
        if keys and client in self.cluster.futures:
            key = self.some(keys, pick)
            spec = self.cluster.specs[key]
            self.cluster.futures[client].setdefault(key, None)
            message = m.Submit(FUNCTION, [key], [spec.size.encode()], [spec.dependencies], spec.options)
            self.cluster.say(client, message)

    @rule(client=CLIENT, pick=PICK)
    def submits_other_work_under_a_known_key(self, client: str, pick: int) -> None:
        known = [key for key in self.cluster.specs if key in self.cluster.machine.state.tasks]
        if known and client in self.cluster.futures:
            self.cluster.say(client, m.Submit(FUNCTION, [self.some(known, pick)], [b"other"]))

    @rule(client=CLIENT, size=st.sampled_from(["kept", "carried"]), workers=st.sampled_from([(), ("west",)]))
    def scatters(self, client: str, size: str, workers: tuple[str, ...]) -> None:
        if client in self.cluster.futures:
            self.made += 1
            key = f"data-{self.made}"
            self.cluster.specs[key] = Spec((), size, data=True)
            self.cluster.futures[client][key] = None
            self.cluster.say(client, m.PutValue(key, packed(value_of(key, []), size), workers))

    @rule(client=CLIENT)
    def scatters_a_file_no_worker_can_open(self, client: str) -> None:
        if client in self.cluster.futures:
            self.made += 1
            key = f"data-{self.made}"
            self.cluster.specs[key] = Spec((), "stored", data=True)
            self.cluster.futures[client][key] = None
            self.cluster.say(client, m.PutFile(key, "/nowhere", 10))

    @rule(client=CLIENT, pick=PICK)
    def wants(self, client: str, pick: int) -> None:
        if self.cluster.specs and client in self.cluster.futures:
            key = self.some(list(self.cluster.specs), pick)
            self.cluster.futures[client].setdefault(key, None)
            self.cluster.say(client, m.Want([key]))

    @rule(client=CLIENT, picks=st.lists(PICK, min_size=1, max_size=3), what=st.sampled_from(["release", "detach"]))
    def lets_go(self, client: str, picks: list[int], what: str) -> None:
        if held := self.held(client):
            keys = list(dict.fromkeys(self.some(held, pick) for pick in picks))
            if what == "detach":
                self.cluster.say(client, m.Detach(keys))
            for key in keys:
                del self.cluster.futures[client][key]
            self.cluster.say(client, m.Release(keys))

    @rule(client=CLIENT, pick=PICK, force=st.booleans())
    def cancels(self, client: str, pick: int, force: bool) -> None:
        if held := self.held(client):
            self.cluster.say(client, m.Cancel([self.some(held, pick)], force))

    @rule(client=CLIENT, pick=PICK)
    def retries(self, client: str, pick: int) -> None:
        if held := self.held(client):
            self.cluster.say(client, m.Retry([self.some(held, pick)]))

    @rule(client=CLIENT)
    def asks(self, client: str) -> None:
        if client in self.cluster.futures:
            for topic in ("who_has", "has_what", "nthreads", "processing", "nbytes", "scheduler_info"):
                self.cluster.say(client, m.Ask(1, topic))
            for key in self.cluster.specs:
                self.cluster.say(client, m.Ask(1, "why", key))
            self.cluster.say(client, m.RunOnWorkers(1, b"", b""))

    @precondition(lambda self: len(self.cluster.futures) > 1 and self.made > 8)
    @rule(pick=PICK)
    def a_client_goes(self, pick: int) -> None:
        self.cluster.leave(self.some(list(self.cluster.futures), pick))

    # -- workers ----------------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.cluster.workers) < 4)
    @rule(name=st.sampled_from(NAMES), gpu=st.sampled_from([0.0, 0.3, 2.0]), slots=st.integers(1, 3))
    def a_worker_joins(self, name: str, gpu: float, slots: int) -> None:
        self.made += 1
        self.cluster.join(NaiveWorker(f"{name}:{self.made}", {"gpu": gpu}, slots))

    @precondition(lambda self: self.cluster.workers)
    @rule(pick=PICK, expected=st.booleans())
    def a_worker_is_lost(self, pick: int, expected: bool) -> None:
        self.cluster.lose(self.some(list(self.cluster.workers.values()), pick), expected)

    @precondition(lambda self: self.cluster.workers)
    @rule(pick=PICK, what=st.sampled_from(["suspect", "back", "running", "paused", "closing"]))
    def a_worker_changes(self, pick: int, what: str) -> None:
        name = self.some(list(self.cluster.workers), pick)
        if what == "suspect":
            self.cluster.handle(WorkerSuspected(name))
        elif what == "back":
            self.cluster.handle(WorkerReturned(name))
        else:
            self.cluster.handle(WorkerBeat(name, what, {}, 0.05))

    @precondition(lambda self: self.cluster.workers)
    @rule(pick=PICK)
    def a_worker_reads(self, pick: int) -> None:
        self.some(list(self.cluster.workers.values()), pick).read()

    @precondition(lambda self: self.working())
    @rule(pick=PICK, how=st.sampled_from(["run", "run", "run", "run", "fail", "die", "give back"]))
    def a_task_ends(self, pick: int, how: str) -> None:
        worker, run = self.some(self.working(), pick)
        if how == "run":
            self.cluster.run(worker, run)
        elif how == "fail":
            self.cluster.fail(worker, run)
        elif how == "die":
            self.cluster.die(worker, run)
        else:
            worker.outbox.append(m.GaveBack(run.key, run.attempt))
            worker.end(run, made=False)

    @precondition(lambda self: any(worker.outbox for worker in self.cluster.workers.values()))
    @rule(pick=PICK, count=st.integers(1, 4))
    def a_worker_reports(self, pick: int, count: int) -> None:
        self.cluster.report(self.some([one for one in self.cluster.workers.values() if one.outbox], pick), count)

    @precondition(lambda self: any(worker.reported for worker in self.cluster.workers.values()))
    @rule(pick=PICK, other=PICK)
    def an_old_report_comes_again(self, pick: int, other: int) -> None:
        """From whom it came, or from somebody else; it must change nothing."""
        source = self.some([one for one in self.cluster.workers.values() if one.reported], pick)
        report = self.some(source.reported, pick)
        if not isinstance(report, (m.Stored, m.NotStored, m.InputsMissing)):
            sender = self.some(list(self.cluster.workers), other)
            self.cluster.handle(WorkerSaid(sender, [report]))

    @rule(pick=PICK)
    def a_stranger_reports(self, pick: int) -> None:
        keys = [*self.cluster.specs, "unheard-of"]
        self.cluster.handle(WorkerSaid("stranger", [m.Finished(self.some(keys, pick), 1, 1, 1, b"0")]))

    @rule(amount=st.integers(1, 3))
    def everybody_works(self, amount: int) -> None:
        """Makes results common enough for the other rules to meet some."""
        for _ in range(amount):
            for worker in list(self.cluster.workers.values()):
                worker.read()
                for run in worker.ready():
                    if worker.runs.get(run.key) is run:
                        self.cluster.run(worker, run)
                self.cluster.report(worker, 10)

    def teardown(self) -> None:
        for name in list(self.cluster.workers):
            self.cluster.handle(WorkerBeat(name, "running", {}))
        for name in NAMES:
            self.made += 1
            self.cluster.join(NaiveWorker(f"{name}:{self.made}", {"gpu": 1.0}, 2))
        self.cluster.settle()
        self.cluster.check_outcomes()
        for client in list(self.cluster.futures):
            self.cluster.leave(client)
        self.cluster.settle()
        state = self.cluster.machine.state
        assert (state.tasks, state.functions, state.pools, state.clients) == ({}, {}, {}, {})
        left = {worker.name: worker.store for worker in self.cluster.workers.values() if worker.store}
        assert left == {}, "results that nobody will ever free"


TestSchedulerAgainstModel = SchedulerAgainstModel.TestCase
TestSchedulerAgainstModel.settings = settings(max_examples=200, stateful_step_count=50)
