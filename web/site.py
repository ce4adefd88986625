"""One site in one process: what its pages are made from, and what every page shows around itself."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from flask import current_app
from werkzeug.exceptions import HTTPException

from futurebroker.snapshot import Snapshot
from futurebroker.web.auth import Guard
from futurebroker.web.collector import Collector, UnansweredError
from futurebroker.web.queries import History

#: where `Site.current` finds itself in an application
EXTENSION = "futurebroker"
#: seconds a page waits for the first snapshot
PATIENCE = 2.0
#: actions remembered for the page of events
ACTIONS = 500


class Missing(HTTPException):
    """There is no such thing; the page says what was looked for and where."""

    code = 404


@dataclass(frozen=True)
class Page:
    """One entry of the navigation."""

    name: str
    title: str
    path: str
    key: str  #: after ``g`` it goes there
    every: float = 1.0  #: seconds between two drawings while it is open
    figures: tuple[str, ...] = ()
    live: bool = True  #: whether its figures over time are the cluster's own
    under: str = ""  #: the entry of the navigation that it belongs to


@dataclass
class Action:
    """Something that somebody changed through the site."""

    time: float
    role: str
    address: str
    what: str
    about: str

    @property
    def who(self) -> str:
        """Role and address, as far as the site knows people."""
        return f"{self.role} at {self.address}"


@dataclass(eq=False)
class Site:
    """See the top of this file.

    Args:
        streams: live streams served at a time; who comes later polls.
    """

    collector: Collector
    guard: Guard
    history: History
    cluster: str
    streams: int = 26
    #: the database with the journal, for what is published while nobody answers
    published: History | None = None
    actions: deque[Action] = field(default_factory=lambda: deque(maxlen=ACTIONS))
    #: extra facts for the page about the system, asked for when it is drawn
    probes: dict[str, Callable[[], Any]] = field(default_factory=dict)
    _open_streams: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def current(cls) -> Site:
        """That of the application that serves this request."""
        site = current_app.extensions[EXTENSION]
        assert isinstance(site, cls)
        return site

    def snapshot(self) -> Snapshot | None:
        """The newest picture of the cluster; None when there never was one."""
        return self.collector.latest(PATIENCE)

    def standing(self) -> dict[str, Any]:
        """What the frame of each page tells: how the cluster does, and how old that is."""
        snapshot = self.collector.latest()
        trouble = self.collector.trouble
        if snapshot is None:
            text = f"No picture of the cluster yet: {trouble}." if trouble else "Waiting for the first picture."
            return {"level": "away", "health": text, "age": None, "alerts": 0}
        age = max(0.0, time.time() - snapshot.time)
        if trouble:
            return {"level": "away", "health": f"Last known state: {snapshot.health}", "age": age,
                    "alerts": len(snapshot.alerts), "trouble": trouble}  # fmt: skip
        return {"level": snapshot.level, "health": snapshot.health, "age": age, "alerts": len(snapshot.alerts)}

    def take_stream(self) -> bool:
        """Whether one more live stream may be served; `give_stream` ends it."""
        with self._lock:
            if self._open_streams >= self.streams:
                return False
            self._open_streams += 1
            return True

    def give_stream(self) -> None:
        """A stream has ended."""
        with self._lock:
            self._open_streams -= 1

    def note(self, action: Action) -> None:
        """Remember who changed what."""
        self.actions.appendleft(action)
        # Also in the database, by who writes that anyway; the log has it in any case.
        with contextlib.suppress(UnansweredError):
            self.collector.ask("note_action", {"what": action.what, "who": action.who, "about": action.about})

    def close(self) -> None:
        """End what the site holds."""
        self.collector.close()
        self.history.close()
        if self.published is not None:
            self.published.close()
