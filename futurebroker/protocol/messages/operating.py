"""Messages of who looks after a cluster: calls in every executor, looks inside, restarts, environments, consoles."""

from __future__ import annotations

from typing import Any

from futurebroker.protocol.messages.parts import Failure, Message, Part
from futurebroker.types import WorkerId


class Parcel(Part, frozen=True):
    """An environment as it is named to workers; its bytes travel as `ParcelPart`."""

    name: str
    digest: str  #: SHA-256 of the zip, in hexadecimal
    nbytes: int
    signature: bytes  #: of name, digest and size, made by the client with the cluster's secret


class RunOnExecutors(Message, tag=185):
    """From a client: call a function in every executor; answered by RanOnExecutors."""

    number: int
    code: bytes
    args: bytes
    workers: tuple[str, ...] = ()  #: names, ids or hosts; empty means all
    keep: str = ""  #: remember the call under this name, for executors and workers that come later
    drop: str = ""  #: forget the call of this name first
    mark: float = 0.0  #: when a scheduler took it in, if it stands; of two the newer counts


class RanOnExecutors(Message, tag=186):
    """To a client: by worker, what each of its executors returned or raised."""

    number: int
    outcomes: dict[WorkerId, list[tuple[bytes | None, Failure | None]]]


class CallExecutors(Message, tag=187):
    """To a worker: `RunOnExecutors`, for its executors; answered by ExecutorsAnswered."""

    number: int
    code: bytes
    args: bytes
    keep: str = ""
    drop: str = ""
    mark: float = 0.0  #: as of `RunOnExecutors`


class StandingWanted(Message, tag=183):
    """To a worker: give back calls that stand there since the time of a former scheduler."""

    names: list[str]


class StandingGiven(Message, tag=184):
    """From a worker: such a call."""

    name: str
    mark: float
    code: bytes
    args: bytes


class Inspect(Message, tag=188):
    """To a worker: a look into each executor, or into the agent; answered by ExecutorsAnswered."""

    number: int
    topic: str
    about: Any = None


class ExecutorsAnswered(Message, tag=189):
    """From a worker: what came of CallExecutors, or of Inspect."""

    number: int
    answers: list[tuple[bytes | None, Failure | None]]
    views: list[Any] = []


class RestartExecutors(Message, tag=190):
    """To a worker: replace all executors; what they still run after ``patience`` seconds is handed back."""

    number: int
    change: bool = False  #: run the new ones in ``environment``, and not in that of the old ones
    environment: Parcel | None = None  #: None: the agent's own Python
    patience: float = 0.0
    mark: float = 0.0  #: when the change was said


class Prepare(Message, tag=191):
    """To a worker: fetch and try an environment; nothing that runs is touched."""

    number: int
    environment: Parcel


class Settled(Message, tag=192):
    """From a worker: RestartExecutors or Prepare is done; ``reason`` says why it couldn't be, if so."""

    number: int
    reason: str = ""


class ParcelPart(Message, tag=193):
    """Bytes of an environment: from the client to the scheduler in order, and from there, or a worker, to who asked."""

    digest: str
    offset: int
    nbytes: int  #: of the whole; -1: it isn't there
    data: bytes


class ParcelWanted(Message, tag=194):
    """From a worker: send bytes of an environment. To a worker that has it: another asks for them."""

    digest: str
    offset: int
    length: int


class RunOnScheduler(Message, tag=195):
    """From a client: call a function in the scheduler's process, if that is allowed; answered by RanOnScheduler."""

    number: int
    code: bytes
    args: bytes
    wait: bool = True
    keep: str = ""  #: the name under which a scheduler with a journal makes this call again when it is restarted
    drop: str = ""  #: the name of such a call that is not to be made again


class RanOnScheduler(Message, tag=196):
    """To a client: what the function returned or raised."""

    number: int
    value: bytes | None = None
    failure: Failure | None = None


class ToPeer(Message, tag=197):
    """From a client: frames for another client, or for a console of the scheduler's, on a channel it has opened."""

    channel: str
    frames: list[bytes]


class FromPeer(Message, tag=198):
    """To a client: frames that the other end of a channel sent."""

    channel: str
    frames: list[bytes]
