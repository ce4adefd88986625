"""What every way of carrying envelopes offers: queues are declared and consumed, bodies are sent and acknowledged.

A `Link` is one process's connection to a broker. One thread owns it: the thread that runs the event loop it is attached
to. Opening a link may block (sockets, TLS, authentication, declarations) and happens in whatever thread called
`registry.open_link`; from `Link.start` on nothing blocks any more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol


class QueueKind(Enum):
    """How a queue lives and who reads it."""

    INBOX = "inbox"  #: one reader, exclusive to its connection and gone with it; deliveries need no ack
    COMMAND = "command"  #: durable, read by one consumer at a time; each delivery is acked by its reader
    DEAD = "dead"  #: durable and bounded, the oldest goes first; not consumed. Links that aren't durable have none
    #: holds a token for its connection; see `Capabilities.token`. Links that can't, or needn't, do nothing about it
    TOKEN = "token"
    #: the same queue, for who is to be told through `LinkEvents.returned` that a holder is gone
    WATCH = "watch"


#: seconds until a link wants to be called again that needs no heartbeats
FAR = 3600.0
#: kinds that only brokers know which keep a token for its holder
TOKENS = frozenset((QueueKind.TOKEN, QueueKind.WATCH))


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue to declare; equal names must be declared with equal kinds."""

    name: str
    kind: QueueKind


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a link can promise; sessions make up for the rest. Code adapts to these, never to adapters' names."""

    durable: bool  #: COMMAND queues survive the broker's restart
    confirms: bool  #: the broker confirms durable sends once `Link.begin_confirms` asked for it
    mandatory: bool  #: a send to a queue that does not exist comes back through `LinkEvents.returned`
    peer_death: bool  #: the broker tells at once when the owner of an INBOX is gone, through `LinkEvents.returned`
    max_message: int  #: bytes of the largest body it carries
    inbox: str = ""  #: where to send what the declared INBOX shall receive, if that has another name
    token: str = ""  #: what who watches is told when this connection ends; empty without a TOKEN
    bulk: bool = False  #: a second link to the same broker is worth its while for what is large


class LinkEvents(Protocol):
    """What a link tells its owner, on the owner's thread, never from inside `send`."""

    def received(self, queue: str, body: bytes, tag: int) -> None:
        """A body arrived. ``tag`` is for `Link.ack` and 0 where no ack is due."""

    def turn(self, call: Callable[[], None]) -> None:
        """Run ``call``, which tells what came, and let what that leads to leave at once, all together.

        Links that wake their owner, or are read by it, needn't use this.
        """

    def returned(self, destination: str) -> None:
        """A send marked ``mandatory`` found no queue of that name, an inbox that was sent to has ended, or a token."""

    def confirmed(self) -> None:
        """The broker has confirmed every durable send since `Link.begin_confirms`."""

    def blocked(self, is_blocked: bool) -> None:
        """The broker asks to stop sending (alarm), or to go on."""

    def disconnected(self, error: Exception | None) -> None:
        """The connection ended; nothing more arrives and sends are dropped. ``None`` after our own `close`."""


class Link(Protocol):
    """One connection to a broker, owned by one thread."""

    @property
    def capabilities(self) -> Capabilities:
        """What this link can promise."""

    def start(self, events: LinkEvents, wake: Callable[[Callable[[], None]], object]) -> None:
        """Begin to deliver to ``events``. ``wake(call)`` runs ``call`` on the owner's thread, soon."""

    def send(self, destination: str, body: bytes, *, durable: bool = False, mandatory: bool = False) -> None:
        """Append ``body`` for the queue ``destination``; it leaves at the next `flush`. Never blocks, never reads."""

    def flush(self) -> None:
        """Write what is buffered, as far as the socket takes it; the rest follows on `on_writable`."""

    def begin_confirms(self) -> None:
        """Have the broker say when it has what is sent ``durable`` from now on; without effect where it can't."""

    def ack(self, tag: int) -> None:
        """Acknowledge the delivery ``tag`` and all before it on its queue; leaves at the next `flush`."""

    def fileno(self) -> int | None:
        """The socket to watch, or None when the link wakes its owner by itself."""

    def wants_write(self) -> bool:
        """Whether bytes wait for the socket to become writable."""

    def on_readable(self) -> None:
        """The socket has bytes: read them, deliver what is complete."""

    def on_writable(self) -> None:
        """The socket takes bytes again: write what waits."""

    def tick(self, now: float) -> float:
        """Send and check heartbeats at monotonic time ``now``; returns when to call again, monotonic seconds."""

    def close(self) -> None:
        """Send what is buffered as far as possible without blocking, then close. May be called twice."""


class Socketless:
    """What links without a socket have in common: deliveries come through ``wake``, nothing waits to be written."""

    def fileno(self) -> int | None:
        return None

    def wants_write(self) -> bool:
        return False

    def on_readable(self) -> None:
        """Nothing to read."""

    def on_writable(self) -> None:
        """Nothing to write."""

    def tick(self, now: float) -> float:
        return now + FAR


class Opener(Protocol):
    """Opens links for the URL schemes of one adapter; found by `registry`."""

    def __call__(self, url: str, queues: Sequence[Queue], *, secret: bytes, timeout: float, name: str) -> Link:
        """Connect to ``url``, declare and consume ``queues``, and return the link, not yet started.

        Blocks for at most ``timeout`` seconds. ``name`` says in the broker's own tools which process this is.

        Raises:
            ClusterConnectionError: nothing is there, or it refused us; the message says what to change.
        """
