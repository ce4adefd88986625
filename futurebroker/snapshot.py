"""What a dashboard sees: progress, memory and backlog of a cluster at one moment, alerts, and its health in a sentence.

`Tracker.take` makes a `Snapshot` from each answer to the scheduler's topic ``overview``; it keeps what two answers are
needed for (rates, and where a round of work began). Pure: no clock, no socket; the site, `futurebroker top` and the
tests give it answers and times.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

#: seconds over which rates are averaged
RATE_WINDOW = 5.0
#: seconds without unfinished tasks after which new ones begin a new round
PAUSE = 3.0
#: seconds after which a task that nobody serves is worth an alert, and a backlog that doesn't move
PATIENCE = 10.0
#: share of a worker's memory limit above which it is worth an alert
MEMORY_HIGH = 0.8
#: seconds the scheduler's loop may come late
LAG_HIGH = 0.5

OK, IDLE, WARNING, BAD = "ok", "idle", "warning", "bad"
_ORDER = {OK: 0, IDLE: 0, WARNING: 1, BAD: 2}


@dataclass(frozen=True, slots=True)
class KindView:
    """One type of task in the round of work that goes on, or that went on last."""

    name: str
    total: int  #: tasks of this round
    done: int
    failed: int
    processing: int
    queued: int
    waiting: int  #: for their inputs
    no_worker: int
    memory: int  #: results kept now
    nbytes: int  #: of results that workers keep
    rate: float  #: ended a second
    seconds_left: float | None  #: None when nothing tells
    duration: float | None  #: mean seconds of a run
    errors: int  #: runs that raised since the scheduler began
    ended: int  #: all runs since then
    grown: int  #: tasks that came since the snapshot before

    @property
    def unfinished(self) -> int:
        """Tasks that are still to end."""
        return self.processing + self.queued + self.waiting + self.no_worker


@dataclass(frozen=True, slots=True)
class WorkerView:
    """One worker: what it does and holds."""

    id: str
    name: str
    host: str
    status: str
    slots: int
    executing: int
    backlog: int  #: tasks sent to it that it has not begun
    seconds: float  #: of work it was sent
    cpu: float  #: percent of one core
    memory: int  #: bytes that count towards its limit: of its processes, and of results in shared memory
    limit: int | None  #: bytes it may use
    managed: int  #: bytes of results in its memory
    unmanaged: int  #: bytes that are no results: interpreters, modules, and what tasks use while they run
    spilled: int  #: bytes of results on its disk
    stored: int  #: results
    round_trip: float
    executors: list[dict[str, Any]]
    resources: dict[str, float]
    used: dict[str, float]
    heard: float  #: when its last figures were measured, by its own clock
    info: dict[str, Any]
    events: list[dict[str, Any]] = field(default_factory=list)  #: what it told of its memory: at, kind, text

    @property
    def fill(self) -> float | None:
        """The share of its limit that is used; None without a limit."""
        return self.memory / self.limit if self.limit else None


@dataclass(frozen=True, slots=True)
class QueueView:
    """Tasks that are ready and wait on the scheduler, with the same demands."""

    demand: str  #: in words
    queued: int
    no_worker: int
    eligible: int  #: workers that may run them
    oldest: float | None  #: seconds since the first was submitted
    reason: str


@dataclass(frozen=True, slots=True)
class Alert:
    """Something that somebody should look at."""

    level: str
    text: str
    advice: str
    page: str  #: where to see more


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The cluster at one moment."""

    number: int
    time: float  #: wall clock of who took it
    level: str
    health: str  #: one sentence
    kinds: list[KindView]
    kinds_left_out: int
    workers: list[WorkerView]
    queues: list[QueueView]
    alerts: list[Alert]
    states: dict[str, int]
    rate: float
    done: int
    total: int
    failed: int
    seconds_left: float | None
    oldest: float | None  #: seconds that the first ready task has waited
    scheduler: dict[str, Any]
    programs: dict[str, dict[str, Any]]
    counters: dict[str, int]
    rejected: dict[str, int]
    records: int
    memory: dict[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


@dataclass(slots=True)
class _Round:
    """Where the round of work of one kind began, and how its count has gone."""

    base: int  #: runs that had finished before
    idle_since: float | None
    total: int = 0
    ended: int = 0  #: runs that had ended when the rate was last worked out
    finished: int = 0  #: and those of them that did not raise
    at: float = 0.0
    rate: float = 0.0


class Tracker:
    """Makes snapshots of answers that come one after another."""

    def __init__(self) -> None:
        self._rounds: dict[str, _Round] = {}
        self._number = 0
        self._scheduler: Any = None
        self._stuck_since: float | None = None
        self._ended = -1

    def take(self, answer: Mapping[str, Any], time: float) -> Snapshot:
        """The snapshot of an answer that came at ``time``; rates need two."""
        about = dict(answer["scheduler"])
        incarnation = about.get("pid"), about.get("host")
        if incarnation != self._scheduler:
            self._scheduler = incarnation
            self._rounds.clear()
        self._number += 1
        kinds = [self._kind(name, kind, time) for name, kind in answer["kinds"].items()]
        kinds.sort(key=lambda kind: (-kind.unfinished, -kind.rate, -kind.total, kind.name))
        workers = sorted(map(_worker, answer["workers"].values(), answer["workers"]), key=lambda worker: worker.name)
        queues = [_queue(queue) for queue in answer["queues"]]
        queues.sort(key=lambda queue: (-queue.no_worker, -queue.queued))
        rate = sum(kind.rate for kind in kinds)
        unfinished = sum(kind.unfinished for kind in kinds)
        left = _seconds_left(unfinished, sum(kind.no_worker for kind in kinds), rate)
        alerts = [*_alerts(workers, queues, kinds, about), *self._standing(kinds, unfinished, time)]
        alerts.sort(key=lambda alert: -_ORDER[alert.level])
        level, health = _health(workers, kinds, alerts, left)
        return Snapshot(
            self._number, time, level, health, kinds, int(answer.get("kinds_left_out", 0)), workers, queues, alerts,
            dict(answer["tasks"]), rate, sum(kind.done for kind in kinds), sum(kind.total for kind in kinds),
            sum(kind.failed for kind in kinds), left, answer.get("waiting_since"), about,
            {name: dict(info) for name, info in answer["programs"].items()}, dict(answer["counters"]),
            dict(answer["rejected"]), int(answer.get("records", 0)), _memory(workers),
        )  # fmt: skip

    def _kind(self, name: str, kind: Mapping[str, Any], time: float) -> KindView:
        states = kind["states"]
        unfinished = sum(states.get(state, 0) for state in ("waiting", "no_worker", "queued", "processing"))
        ended, errors = kind["ended"], kind["errors"]
        finished = ended - errors
        known = self._rounds.get(name)
        if known is None or finished < known.base:
            known = self._rounds[name] = _Round(0, None, ended=ended, finished=finished, at=time)
        elif unfinished and known.idle_since is not None and time - known.idle_since >= PAUSE:
            # What ended since the last look belongs to the new round; when it began nobody has seen.
            known.base, known.total = known.finished, 0
        known.idle_since = None if unfinished else time if known.idle_since is None else known.idle_since
        elapsed = time - known.at
        if elapsed > 0:
            weight = min(1.0, elapsed / RATE_WINDOW) if known.rate else 1.0
            known.rate += weight * ((ended - known.ended) / elapsed - known.rate)
            known.rate = known.rate if known.rate > 1e-3 and (unfinished or ended > known.ended) else 0.0
            known.ended, known.at = ended, time
        known.finished = finished
        failed = states.get("erred", 0)
        done = max(0, finished - known.base)
        total = done + failed + unfinished
        grown = max(0, total - known.total) if known.total else 0
        known.total = total
        return KindView(
            name, total, done, failed, states.get("processing", 0), states.get("queued", 0), states.get("waiting", 0),
            states.get("no_worker", 0), states.get("memory", 0), kind.get("nbytes", 0), known.rate,
            _seconds_left(unfinished, states.get("no_worker", 0), known.rate), kind["duration"], errors, ended, grown,
        )  # fmt: skip

    def _standing(self, kinds: list[KindView], unfinished: int, time: float) -> list[Alert]:
        """An alert when there is work that should go on, and nothing has ended for a while."""
        ended = sum(kind.ended for kind in kinds)
        running = sum(kind.processing for kind in kinds)
        if ended != self._ended or not unfinished or running:
            self._ended, self._stuck_since = ended, None
            return []
        self._stuck_since = time if self._stuck_since is None else self._stuck_since
        if time - self._stuck_since < PATIENCE:
            return []
        text = f"{unfinished:,} tasks wait and none has run for {time - self._stuck_since:.0f} s"
        return [Alert(WARNING, text, "the backlog says what they wait for", "backlog")]


def _worker(worker: Mapping[str, Any], worker_id: str) -> WorkerView:
    metrics = worker["metrics"] or {}
    executing = int(metrics.get("executing", min(worker["processing"], worker["nthreads"])))
    managed = int(metrics.get("managed", worker.get("nbytes", 0)))
    # Mapped results are no process's own memory; what counts is both, as the worker itself works it out.
    unmanaged = int(metrics.get("unmanaged", metrics.get("memory", 0)))
    info = {name: worker.get(name) for name in ("pid", "python", "platform", "version", "executors", "threads")}
    return WorkerView(
        id=worker_id,
        name=str(worker["name"]),
        host=str(worker["host"]),
        status=worker["status"],
        slots=worker["nthreads"],
        executing=executing,
        backlog=max(0, worker["processing"] - executing),
        seconds=worker["occupancy"],
        cpu=float(metrics.get("cpu", 0.0)),
        memory=int(metrics.get("process", managed + unmanaged)),
        limit=metrics.get("limit") or worker.get("memory_limit"),
        managed=managed,
        unmanaged=unmanaged,
        spilled=int(metrics.get("spilled", 0)),
        stored=int(metrics.get("stored", worker["holds"])),
        round_trip=worker["latency"],
        executors=list(metrics.get("executors") or ()),
        resources=dict(worker.get("resources") or {}),
        used=dict(worker.get("used_resources") or {}),
        heard=float(metrics.get("time", 0.0)),
        info=info,
        events=list(worker.get("events") or ()),
    )


def _queue(queue: Mapping[str, Any]) -> QueueView:
    wishes = [f"worker {' or '.join(queue['workers'])}"] if queue["workers"] else []
    wishes += [f"{name}={amount:g}" for name, amount in queue["resources"].items()]
    wishes += [f"priority {queue['priority']}"] if queue["priority"] else []
    demand = ", ".join(wishes) or "any worker"
    return QueueView(
        demand, queue["queued"], queue["no_worker"], queue["eligible"], queue.get("since"), queue.get("reason", "")
    )


def _memory(workers: list[WorkerView]) -> dict[str, int]:
    return {
        "managed": sum(worker.managed for worker in workers),
        "unmanaged": sum(worker.unmanaged for worker in workers),
        "spilled": sum(worker.spilled for worker in workers),
        "used": sum(worker.memory for worker in workers),
        "limit": sum(worker.limit or 0 for worker in workers),
    }


def _seconds_left(unfinished: int, unserved: int, rate: float) -> float | None:
    """None when nothing tells: no rate yet, or only tasks are left that nobody serves."""
    if not unfinished:
        return 0.0
    served = unfinished - unserved
    return served / rate if rate > 0 and served else None


# -- judgement -----------------------------------------------------------------------------------------------------


def _alerts(
    workers: list[WorkerView], queues: list[QueueView], kinds: list[KindView], about: Mapping[str, Any]
) -> list[Alert]:
    found: list[Alert] = []
    waiting = sum(queue.queued + queue.no_worker for queue in queues)
    if waiting and not workers:
        text = f"{_plural(waiting, 'task')} {'is' if waiting == 1 else 'are'} ready and no worker is connected"
        found.append(Alert(BAD, text, "start one with: futurebroker worker ADDRESS", "workers"))
    elif unserved := [queue for queue in queues if queue.no_worker]:
        count = sum(queue.no_worker for queue in unserved)
        text = f"nobody serves {_plural(count, 'task')} that need{'s' if count == 1 else ''} {unserved[0].demand}"
        if len(unserved) > 1:
            needs = [f"{queue.no_worker:,} need{'s' * (queue.no_worker == 1)} {queue.demand}" for queue in unserved[:3]]
            text = f"nobody serves {_plural(count, 'task')}: {', '.join(needs)}{' and more' * (len(unserved) > 3)}"
        found.append(Alert(BAD, text, "start a worker that offers it, or submit without that demand", "backlog"))
    for worker in workers:
        if worker.status == "paused":
            text = f"worker {worker.name} is paused: its memory is full"
            found.append(Alert(WARNING, text, "release results, or give it more memory", "memory"))
        elif worker.status == "suspect":
            text = f"worker {worker.name} is silent"
            found.append(Alert(WARNING, text, "what it runs is given to others if it stays so", "workers"))
        elif worker.fill is not None and worker.fill > MEMORY_HIGH:
            text = f"worker {worker.name} uses {worker.fill:.0%} of its memory"
            found.append(Alert(WARNING, text, "see what holds it", "memory"))
    if failing := [kind for kind in kinds if kind.failed]:
        count = sum(kind.failed for kind in failing)
        text = f"{_plural(count, 'task')} failed: {', '.join(kind.name for kind in failing[:3])}"
        found.append(Alert(WARNING, text, "see the tracebacks, then retry them", "tasks"))
    if about.get("lag", 0.0) > LAG_HIGH:
        text = f"the scheduler's loop came {about['lag']:.1f} s late"
        found.append(Alert(WARNING, text, "its process has too much to do, or too little CPU", "system"))
    versions = {str(worker.info.get("version")) for worker in workers} | {str(about.get("version"))}
    if len(versions) > 1:
        text = f"versions differ: {', '.join(sorted(versions))}"
        found.append(Alert(WARNING, text, "install the same futurebroker everywhere", "workers"))
    return found


def _health(
    workers: list[WorkerView], kinds: list[KindView], alerts: list[Alert], left: float | None
) -> tuple[str, str]:
    """How the cluster does: a level, and a sentence that a newcomer understands."""
    unfinished = sum(kind.unfinished for kind in kinds)
    running = sum(worker.executing for worker in workers)
    there = _plural(len(workers), "worker")
    if alerts and alerts[0].level == BAD:
        return BAD, f"{alerts[0].text[0].upper()}{alerts[0].text[1:]}."
    level = WARNING if alerts else OK
    tail = f" {_plural(len(alerts), 'thing')} to look at." if alerts else ""
    if not unfinished:
        if not workers:
            return WARNING if alerts else IDLE, f"No worker is connected, and nothing waits for one.{tail}"
        done = sum(kind.done for kind in kinds)
        what = f"All {done:,} tasks are done; {there} wait" if done else f"Nothing to do: {there} wait"
        return WARNING if alerts else IDLE, f"{what}{'s' if len(workers) == 1 else ''} for work.{tail}"
    eta = f", about {_in_words(left)} left" if left else ""
    return level, f"{there} run{'s' if len(workers) == 1 else ''} {_plural(running, 'task')}; " \
        f"{unfinished:,} to go{eta}.{tail}"  # fmt: skip


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _in_words(seconds: float) -> str:
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172800 else f"{seconds / 86400:.0f} days"
