"""What the scheduler remembers for who looks after the cluster: open rounds, standing calls, environments, events."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from futurebroker.protocol.messages import Failure, Parcel, Published, RunOnExecutors, RunOnScheduler
from futurebroker.types import ClientId, Key, WorkerId

#: what happened to tasks that isn't usual, and is kept for `Client.story`: so many entries in all
STORIES = 10_000
#: events kept of each topic, and topics; the topic that is written first goes first
EVENTS = 1_000
TOPICS = 1_000

#: of one executor each: (returned value, why there is none)
Answers = list[tuple[bytes | None, Failure | None]]


@dataclass(slots=True)
class Round:
    """A question to several workers; `finish` is called when all have answered, or are gone."""

    client: ClientId
    missing: set[WorkerId]
    finish: Callable[[Round], None]
    answers: dict[WorkerId, Answers] = field(default_factory=dict)
    views: dict[WorkerId, list[Any]] = field(default_factory=dict)
    #: by worker, why it could not do what it was asked; empty if it did
    reasons: dict[WorkerId, str] = field(default_factory=dict)


@dataclass(slots=True)
class Leaving:
    """A client waits until these workers have left."""

    client: ClientId
    number: int
    missing: set[WorkerId]
    answer: Any


@dataclass(slots=True)
class Ending:
    """The cluster is being shut down; see `ending`."""

    reason: str  #: for who is told, or wants to join
    #: who asked and waits, with the numbers of their questions
    askers: dict[ClientId, list[int]] = field(default_factory=dict)
    answered: bool = False
    over: bool = False


@dataclass(slots=True)
class Environment:
    """An environment that was uploaded, or is being."""

    parcel: Parcel
    python: str
    is_complete: bool = False


@dataclass(slots=True)
class Note:
    """Something unusual that happened to a task."""

    at: float  #: monotonic seconds
    key: Key
    what: str
    worker: str
    attempt: int


@dataclass(slots=True)
class Operations:
    """See the top of this file; belongs to `SchedulerState`, which gives it the way to send."""

    send: Callable[[ClientId, Published], None]
    rounds: dict[int, Round] = field(default_factory=dict)
    leaving: list[Leaving] = field(default_factory=list)
    ending: Ending | None = None
    #: by name, calls that every executor makes before its first task
    standing: dict[str, RunOnExecutors] = field(default_factory=dict)
    #: by name, what took such a call away
    dropped: dict[str, RunOnExecutors] = field(default_factory=dict)
    #: by name, calls that start the plugins of this scheduler, in the order they came
    plugins: dict[str, RunOnScheduler] = field(default_factory=dict)
    #: the newest mark given out, see `standing`
    marked_at: float = 0.0
    environments: dict[str, Environment] = field(default_factory=dict)
    #: what executors run in; None: their workers' own Python
    environment: Parcel | None = None
    environment_mark: float = 0.0  #: of the last change of it
    events: dict[str, deque[tuple[float, Any]]] = field(default_factory=dict)
    #: by topic, who is told of each event
    subscribers: dict[str, dict[ClientId, None]] = field(default_factory=dict)
    notes: deque[Note] = field(default_factory=lambda: deque(maxlen=STORIES))
    #: whether functions of users may be called in this process
    may_run: bool = False
    #: whether to say who joins and goes, by `Noticed`
    is_watched: bool = False
    #: by channel, the client that opened it and its other end
    channels: dict[str, tuple[ClientId, ClientId]] = field(default_factory=dict)

    def log_event(self, topics: Iterable[str], now: float, event: Any) -> None:
        """Remember ``event`` under each of ``topics`` and under "all", and tell who subscribed."""
        for topic in (*topics, "all"):
            events = self.events.get(topic)
            if events is None:
                if len(self.events) >= TOPICS:
                    del self.events[next(iter(self.events))]
                events = self.events[topic] = deque(maxlen=EVENTS)
            events.append((now, event))
            for client in self.subscribers.get(topic, ()):
                self.send(client, Published(topic, now, event))
