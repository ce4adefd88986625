"""How often peers are heard of, and how long they may be silent: often while there is work, seldom while there is none.

What counts for a peer is what it was told last. Who is told to come seldom and then wanted sooner is asked for a
heartbeat, and until it answers the long time holds for it.
"""

from __future__ import annotations

from dataclasses import dataclass

from futurebroker.scheduler.state import SchedulerState
from futurebroker.types import Peer, Role

#: seconds between heartbeats of workers, and of clients, while nothing goes on
IDLE_BEAT = 10.0
IDLE_CLIENT_BEAT = 20.0
#: seconds without work or questions after which nothing goes on
IDLE_AFTER = 5.0
#: heartbeats after which the broker is asked whether a silent peer's inbox is still there
BEATS_LATE = 1.25
#: seconds that makes at most
LATE_MAX = 1.0
#: heartbeats a peer may miss before it is suspected, and seconds it may be silent in any case
BEATS_MISSED = 10
SILENCE = 5.0
#: seconds after which a silent worker is suspected, however seldom it is to be heard, and seconds beyond the
#: heartbeat that is due
SILENCE_MAX = 14.0
OVERDUE = 4.0


@dataclass(slots=True)
class Contact:
    """When a welcomed peer was last heard of, and since when it is suspected to be gone."""

    peer: Peer
    inbox: str
    heard_at: float
    interval: float  #: seconds between heartbeats, as it was told last
    suspected_at: float | None = None
    name: str = ""  #: as people know it
    token: str = ""  #: what its broker tells of its end by, beside the inbox
    process: str = ""  #: its `processes.process_mark`, of workers

    @property
    def late_at(self) -> float:
        """When to ask the broker about it."""
        return self.heard_at + min(BEATS_LATE * self.interval, self.interval + LATE_MAX)

    @property
    def silent_at(self) -> float:
        """When to suspect it."""
        patience = min(BEATS_MISSED * self.interval, max(SILENCE_MAX, self.interval + OVERDUE))
        return self.heard_at + max(patience, SILENCE)


class Contacts(dict[str, Contact]):
    """Welcomed peers by name, and by what the broker calls their connections."""

    def __init__(self) -> None:
        super().__init__()
        self._names: dict[str, str] = {}

    def at(self, connection: str) -> Contact | None:
        """Whose inbox or token this is."""
        contact = self.get(self._names.get(connection, ""))
        return contact if contact is not None and connection in (contact.inbox, contact.token) else None

    def move(self, contact: Contact, inbox: str, token: str) -> None:
        """This peer is reached by another connection from now on."""
        self._drop_names(contact)
        contact.inbox, contact.token = inbox, token
        # Clients inside tasks share the inbox of their worker, which said hello before them.
        self._names.setdefault(inbox, contact.peer.name)
        if token:
            self._names[token] = contact.peer.name

    def neighbour(self, contact: Contact) -> Contact | None:
        """A worker that can see the processes of this one's machine, and is heard of."""
        machine = contact.process.split()[:2]
        for other in self.values():
            if other is not contact and other.suspected_at is None and machine and other.process.split()[:2] == machine:
                return other
        return None

    def forget(self, name: str) -> None:
        """This peer is gone."""
        contact = self.pop(name, None)
        if contact is not None:
            self._drop_names(contact)

    def _drop_names(self, contact: Contact) -> None:
        for connection in (contact.inbox, contact.token):
            if self._names.get(connection) == contact.peer.name:
                del self._names[connection]


class Rhythm:
    """How often a cluster's peers should be heard of now.

    Args:
        busy: seconds between heartbeats while something goes on.
    """

    def __init__(self, busy: float) -> None:
        self.busy = busy
        self._active_at = 0.0
        self._is_idle = False

    def look(self, state: SchedulerState, now: float) -> None:
        """Notice whether something goes on: tasks or calls at workers, data on its way, questions about the cluster."""
        working = state.calls or any(worker.processing for worker in state.workers.values())
        if working or not self._active_at:
            self._active_at = now
        self._is_idle = now - max(self._active_at, state.asked_at) > IDLE_AFTER

    def interval(self, role: Role) -> float:
        """Seconds between heartbeats that suit what goes on."""
        if not self._is_idle:
            return self.busy
        return max(self.busy, IDLE_BEAT if role is Role.WORKER else IDLE_CLIENT_BEAT)
