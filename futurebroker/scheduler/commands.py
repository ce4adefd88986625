"""What goes into the scheduler machine and what comes out: plain records, no behaviour."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec

from futurebroker.protocol.messages import Message
from futurebroker.types import ClientId, WorkerId


class ClientJoined(NamedTuple):
    """A client was welcomed, for the first time or again."""

    client: ClientId
    info: dict[str, Any]


class ClientGone(NamedTuple):
    """A client said goodbye, or stayed away beyond its grace time: nobody holds its futures any more."""

    client: ClientId


class ClientSaid(NamedTuple):
    """Messages of one envelope of a client."""

    client: ClientId
    messages: Iterable[Any]


class WorkerJoined(NamedTuple):
    """A worker was welcomed; ``info`` is its hello's (name, host, slots, resources, ...)."""

    worker: WorkerId
    info: dict[str, Any]


class WorkerSuspected(NamedTuple):
    """A worker's connection closed or it fell silent: it gets no new work, what it has stays its own."""

    worker: WorkerId


class WorkerReturned(NamedTuple):
    """A suspected worker is heard of again."""

    worker: WorkerId


class WorkerLost(NamedTuple):
    """A worker is gone for good; ``expected`` if it said so itself."""

    worker: WorkerId
    expected: bool = False


class WorkerSaid(NamedTuple):
    """Messages of one envelope of a worker."""

    worker: WorkerId
    messages: Iterable[Any]


class WorkerBeat(NamedTuple):
    """A worker's heartbeat: its status, what its machine does, and the last round trip to it, in seconds."""

    worker: WorkerId
    status: str
    metrics: dict[str, Any]
    round_trip: float | None = None


class Tick(NamedTuple):
    """Time went by: a moment has come that `SchedulerState.timers` named."""


class WorkersBack(NamedTuple):
    """After a restart: all workers that were there before are back, or known to be gone."""


Event = (
    ClientJoined | ClientGone | ClientSaid | WorkerJoined | WorkerSuspected | WorkerReturned | WorkerLost | WorkerSaid
    | WorkerBeat | Tick | WorkersBack
)  # fmt: skip


class Send(msgspec.Struct, frozen=True, gc=False):
    """Send ``message`` to the client or worker ``peer``."""

    peer: str
    message: Message


class Forget(NamedTuple):
    """Nothing will be sent to ``peer`` any more; its session can go."""

    peer: str


class Noticed(NamedTuple):
    """Somebody joined or is gone, for the plugins of a scheduler that has any."""

    what: str  #: the plugin's method
    who: str


class PassOn(NamedTuple):
    """The process around the machine sees to this message of ``peer``, or to this news."""

    peer: str
    message: Message | Noticed


Command = Send | Forget | PassOn
