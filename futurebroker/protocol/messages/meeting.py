"""Messages with which peers meet and stay in touch; these are not numbered."""

from __future__ import annotations

from typing import Any

from futurebroker.protocol.messages.parts import Message
from futurebroker.types import WorkerId


class Hello(Message, tag=1):
    """A client or worker introduces itself; sent again after every reconnect and answered by Welcome or Refused."""

    inbox: str  #: queue to answer to
    protocol: int
    python: str  #: major.minor of the interpreter that pickles
    received: int  #: last envelope of this session that arrived
    epoch: int = 0  #: of the scheduler it was last welcomed by; 0 means none
    info: dict[str, Any] = {}  #: of workers: see `WorkerInfo`; of clients: user, host, program
    oldest: int = 1  #: number of the first envelope that this peer could send again


class Welcome(Message, tag=2):
    """The scheduler accepts: go on from ``received``."""

    epoch: int
    received: int  #: last envelope of the peer's session that arrived
    inbox: str  #: queue for everything the peer sends from now on
    limits: dict[str, int] = {}  #: for clients: ``tasks`` and ``bytes`` they may have unfinished
    settings: dict[str, float] = {}  #: ``heartbeat``: seconds between heartbeats
    resumed: bool = False  #: the session with a former scheduler goes on with this one, which has what that had


class Refused(Message, tag=3):
    """The scheduler won't have this peer; ``reason`` names both sides of what doesn't fit."""

    reason: str


class Heartbeat(Message, tag=4):
    """A worker or client is alive; of workers with what its machine and its tasks do."""

    status: str = "running"  #: a `WorkerStatus` value
    metrics: dict[str, Any] = {}
    inbox: str = ""  #: queue to answer to, for a scheduler that doesn't know this peer


class Heard(Message, tag=5):
    """Answers a heartbeat, so that the peer can measure a round trip and notice a scheduler that is gone."""

    interval: float = 0.0  #: seconds between heartbeats from now on; 0: as before


class Goodbye(Message, tag=6):
    """This peer leaves for good; what it held is gone."""

    reason: str = ""


class MeetAgain(Message, tag=7):
    """The scheduler asks for another hello: it was cut off, or it doesn't know this incarnation (any more)."""

    incarnation: str  #: of the peer that is meant
    forgotten: bool = False  #: its session is gone with all that belonged to it; it has to come as another incarnation


class HeartbeatWanted(Message, tag=8):
    """The scheduler wants to hear of this peer now, and not only when its next heartbeat is due."""


class LookFor(Message, tag=102):
    """The scheduler asks who shares a machine with a silent worker whether that worker's process has ended."""

    worker: WorkerId
    process: str  #: its `process_mark`


class LookedFor(Message, tag=103):
    """Answers LookFor."""

    worker: WorkerId
    process: str
    ended: bool
