"""The scheduler's process: carries the machine's commands out and feeds it what arrives (asyncio, one thread).

With no broker given it serves the embedded one itself, and its own link to that broker is a call inside the process.
Who may join is decided here; everything else is the machine's.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
import uuid
from collections import Counter
from collections.abc import Mapping
from math import inf
from typing import Any, TypeVar

from futurebroker import __version__
from futurebroker.broker_adapters.embedded.server import EmbeddedBroker
from futurebroker.processes import has_ended
from futurebroker.protocol.endpoint import Endpoint
from futurebroker.protocol.history import HistoryOrders
from futurebroker.protocol.member import OPEN_TIMEOUT, RECONNECT_MAX, SCHEDULER
from futurebroker.protocol.messages import (
    Free,
    Goodbye,
    Heard,
    Heartbeat,
    HeartbeatWanted,
    Hello,
    LookedFor,
    LookFor,
    MeetAgain,
    Message,
    Refused,
    Welcome,
)
from futurebroker.protocol.queues import command_queue, dead_queue, event_queue, token_queue
from futurebroker.protocol.wire import Keyring
from futurebroker.scheduler import admission, ending, invariants, leases
from futurebroker.scheduler.commands import (
    ClientGone,
    ClientJoined,
    ClientSaid,
    Command,
    Event,
    Noticed,
    PassOn,
    Send,
    Tick,
    WorkerBeat,
    WorkerJoined,
    WorkerLost,
    WorkerReturned,
    WorkerSaid,
    WorkerSuspected,
)
from futurebroker.scheduler.errands import Errands
from futurebroker.scheduler.health import Health, introduce
from futurebroker.scheduler.historian import Historian
from futurebroker.scheduler.machine import SchedulerMachine
from futurebroker.scheduler.presence import Contact, Contacts, Rhythm
from futurebroker.scheduler.state import Policy
from futurebroker.secret import is_loopback
from futurebroker.transport.base import Link, Queue, QueueKind
from futurebroker.transport.opening import open_in_thread
from futurebroker.types import Peer, Role

logger = logging.getLogger("futurebroker.scheduler")

_Endpoint = TypeVar("_Endpoint", bound=Endpoint)

#: seconds between looks at who has fallen silent
SWEEP_EVERY = 0.25


class SchedulerService:
    """One scheduler of one cluster; `start` it on a running loop and use it on that loop's thread only.

    Args:
        cluster: several clusters may share a broker by name.
        secret: of the cluster; whoever knows it may join and run code on its workers.
        broker_url: a broker that runs already; None serves the embedded broker on ``host`` and ``port``.
        suspect_grace: seconds what a silent worker runs is left to it.
        client_grace: seconds the futures of a client that is cut off are kept for it.
        heartbeat_interval: seconds between heartbeats of workers and clients while there is work.
        validate: check the machine's laws after every event; slow.
        history: where and how long a history is kept: ``url``, ``keep_seconds`` and ``keep_rows``; None keeps none.
        allow_run: whether operators may run code in this process.
        operator_secret: what they have to know for that.
    """

    def __init__(
        self,
        *,
        cluster: str,
        secret: bytes,
        broker_url: str | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        policy: Policy | None = None,
        suspect_grace: float = 5.0,
        client_grace: float = 60.0,
        heartbeat_interval: float = 1.0,
        validate: bool = False,
        history: Mapping[str, Any] | None = None,
        allow_run: bool = False,
        operator_secret: str | None = None,
    ) -> None:
        self.cluster = cluster
        self.machine = SchedulerMachine(policy)
        self._secret = secret
        self._broker_url = broker_url
        self._host = host
        self._port = port
        is_local = is_loopback(broker_url or host)
        self._errands = Errands(
            self.machine.state,
            lambda peer, message: self._endpoint.send_all(peer, [message]),
            secret=operator_secret.encode() if operator_secret else None,
            is_local=is_local,
            allow_run=allow_run,
            end=self._shut_down,
        )
        self._suspect_grace = suspect_grace
        self._client_grace = client_grace
        self._rhythm = Rhythm(heartbeat_interval)
        self._validate = validate
        self._history = history
        self._historian: Historian | None = None
        self._me = Peer(Role.SCHEDULER, SCHEDULER, uuid.uuid4().hex[:12])
        self._queues = [
            Queue(command_queue(cluster), QueueKind.COMMAND),
            Queue(event_queue(cluster, self._me.incarnation), QueueKind.INBOX),
        ]
        self._dead = Queue(dead_queue(cluster), QueueKind.DEAD)
        self._broker: EmbeddedBroker | None = None
        self._endpoint: Endpoint
        self._loop: asyncio.AbstractEventLoop
        #: events that raised inside the machine, which is a bug, by what they were
        self.faults: Counter[str] = Counter()
        self._contacts = Contacts()
        self._health = Health(SWEEP_EVERY)
        self._sweeper: asyncio.TimerHandle | None = None
        self._tick: asyncio.TimerHandle | None = None
        self._tick_due = inf
        self._reconnecting: asyncio.Task[None] | None = None
        self._done: asyncio.Event

    @property
    def url(self) -> str:
        """The address to give to workers and clients."""
        return self._broker.url if self._broker is not None else str(self._broker_url)

    async def start(self) -> None:
        """Serve from now on.

        Raises:
            OSError: the port is taken.
            ClusterConnectionError: the broker can't be reached or refuses us.
        """
        self._loop = asyncio.get_running_loop()
        self._done = asyncio.Event()
        self.machine.state.clock_offset = time.time() - self._loop.time()
        await self._prepare()
        self.machine.state.about = {**introduce(), **self._about_storage(), "moment": self._loop.time()}
        self.machine.state.rejected = self._endpoint.rejected
        if self._broker_url is None:
            self._broker = EmbeddedBroker(self._secret, self._host, self._port)
            await self._broker.start()
            self._endpoint.attach(self._broker.local_link(self._queues))
        else:
            self._endpoint.attach(await self._open(self._broker_url))
        if self._history is not None:
            orders = HistoryOrders(
                **self._history, cluster=self.cluster, host=socket.gethostname(), version=__version__,
                started_at=time.time(),
            )  # fmt: skip
            self._historian = Historian(self.machine.state, self._loop, orders)
        self._sweeper = self._loop.call_later(SWEEP_EVERY, self._sweep)

    async def _prepare(self) -> None:
        """Make the endpoint, and know what is to be known before anybody is met."""
        self._endpoint = self._make_endpoint(Endpoint)
        self._endpoint.epoch = 1

    def _make_endpoint(self, kind: type[_Endpoint]) -> _Endpoint:
        return kind(self._me, self.cluster, Keyring(self._secret), self, self._loop, dead_queue=self._dead.name)

    def _about_storage(self) -> dict[str, Any]:
        return {"journal": "none"}

    async def finished(self) -> None:
        """Return when the service has been closed."""
        await self._done.wait()

    async def close(self) -> None:
        """Stop serving; workers and clients notice by themselves. May be called twice."""
        for timer in (self._sweeper, self._tick):
            if timer is not None:
                timer.cancel()
        if self._reconnecting is not None:
            self._reconnecting.cancel()
            await asyncio.gather(self._reconnecting, return_exceptions=True)
        self._endpoint.close()
        self._errands.close()
        if self._broker is not None:
            await self._broker.close()
        if self._historian is not None:
            await self._historian.close()
        self.machine.state.close()
        self._done.set()

    def _shut_down(self, news: Noticed) -> None:
        """A client has the cluster shut down: the others give up what they wait for; once workers are gone, we end."""
        if news.what == "shut_down":
            self._last = self._loop.create_task(self.close())
            return
        logger.warning("%s shuts the cluster down", news.who)
        state = self.machine.state
        for name, client in state.clients.items():
            contact, reason = self._contacts.get(name), ending.refusal(state, name, client.info)
            if contact is not None and reason:
                self._endpoint.send_meeting(contact.peer, contact.inbox, Refused(reason))

    async def _open(self, url: str) -> Link:
        queues = [*self._queues, self._dead, Queue(token_queue(self.cluster), QueueKind.WATCH)]
        return await open_in_thread(url, queues, secret=self._secret, timeout=OPEN_TIMEOUT, name=SCHEDULER)

    # -- the machine ------------------------------------------------------------------------------------------------

    def apply(self, event: Event) -> None:
        """Give the machine an event and carry its commands out.

        An event that raises is a bug: it is counted and logged, and the scheduler goes on; with ``validate`` it raises.
        """
        error = self._handle(event)
        if error is not None:
            self._note_fault(type(event).__name__, error)

    def _handle(self, event: Event) -> Exception | None:
        fault = None
        try:
            commands = self.machine.handle(event, self._loop.time())
        except Exception as error:
            if self._validate:
                raise
            fault = error
            commands = self.machine.state.take_commands()
        self._carry_out(commands)
        if self.machine.state.timers.due != self._tick_due:
            self._set_tick()
        if self._validate:
            invariants.check(self.machine.state)
        return fault

    def _set_tick(self) -> None:
        """Wake the machine when its next moment has come."""
        if self._tick is not None:
            self._tick.cancel()
        self._tick, self._tick_due = None, self.machine.state.timers.due
        if self._tick_due != inf and not self._done.is_set():
            self._tick = self._loop.call_at(self._tick_due, self.apply, Tick())

    def _note_fault(self, what: str, error: Exception) -> None:
        self.faults[what] += 1
        if self.faults[what] == 1:
            logger.error("%s raised, which is a bug; more of this kind are only counted", what, exc_info=error)

    def _carry_out(self, commands: list[Command]) -> None:
        endpoint = self._endpoint
        peer = ""
        together: list[Message] = []
        for command in commands:
            if type(command) is Send and type(command.message) is not Free:
                if command.peer != peer:
                    if together:
                        endpoint.send_all(peer, together)
                    peer, together = command.peer, []
                together.append(command.message)
                continue
            if together:
                endpoint.send_all(peer, together)
                together = []
            if type(command) is Send:
                endpoint.send_lazily(command.peer, command.message)
            elif type(command) is PassOn:
                self._errands.take(command.peer, command.message)
            else:
                self._forget(command.peer)
        if together:
            endpoint.send_all(peer, together)

    def _forget(self, name: str) -> None:
        self._endpoint.forget(name)
        self._contacts.forget(name)

    # -- endpoint events --------------------------------------------------------------------------------------------

    def deliver(self, peer: Peer, messages: list[Any]) -> None:
        """See `EndpointEvents.deliver`."""
        said = WorkerSaid if peer.role is Role.WORKER else ClientSaid
        rest = iter(messages)
        while (error := self._handle(said(peer.name, rest))) is not None:
            untouched = list(rest)
            taken = len(messages) - len(untouched)
            # The last one taken is to blame; without one, what follows from those before.
            culprit = type(messages[taken - 1] if taken else said).__name__
            self._note_fault(f"{culprit} of a {peer.role.name.lower()}", error)
            if not taken:
                return
            messages, rest = untouched, iter(untouched)

    def meet(self, peer: Peer, message: Any) -> None:
        """See `EndpointEvents.meet`."""
        if isinstance(message, Hello):
            self._greet(peer, message)
            return
        contact = self._contacts.get(peer.name)
        if contact is None or contact.peer != peer:
            if isinstance(message, Heartbeat) and message.inbox:
                self._endpoint.send_meeting(peer, message.inbox, MeetAgain(peer.incarnation, forgotten=True))
            return
        if isinstance(message, Heartbeat):
            self._heard(contact)
            if peer.role is Role.WORKER:
                trip = admission.round_trip(message.metrics)
                self.apply(WorkerBeat(peer.name, message.status, message.metrics, trip))
            is_open = self._endpoint.is_open(peer.name)
            contact.interval = self._rhythm.interval(peer.role)
            answer = Heard(contact.interval) if is_open else MeetAgain(peer.incarnation)
            self._endpoint.send_meeting(peer, contact.inbox, answer)
        elif isinstance(message, LookedFor):
            self._looked_for(message)
        elif isinstance(message, Goodbye):
            self._part(peer, expected=True)

    def stranger(self, peer: Peer) -> None:
        """See `EndpointEvents.stranger`: its next heartbeat says where it can be told to say hello again."""

    def returned(self, destination: str) -> None:
        """See `EndpointEvents.returned`: the connection that owned this inbox, or held this token, has ended."""
        contact = self._contacts.at(destination)
        if contact is not None:
            self._suspect(contact)

    def disconnected(self, error: Exception | None) -> None:
        """See `EndpointEvents.disconnected`."""
        logger.error("the connection to the broker ended: %s; connecting again", error)
        if self._reconnecting is None or self._reconnecting.done():
            self._reconnecting = self._loop.create_task(self._reconnect())

    async def _reconnect(self) -> None:
        pause = 0.1
        while self._broker_url is not None:
            try:
                link = await self._open(self._broker_url)
            except OSError as error:
                logger.warning("the broker is not back yet: %s", error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, RECONNECT_MAX)
            else:
                self._endpoint.attach(link)
                for contact in self._contacts.values():
                    # Their links may have stayed: nothing else tells them that ours did not.
                    self._endpoint.send_meeting(contact.peer, contact.inbox, MeetAgain(contact.peer.incarnation))
                return

    # -- who is there -----------------------------------------------------------------------------------------------

    def _greet(self, peer: Peer, hello: Hello) -> None:
        reason = admission.misfit(peer.role, hello) or ending.refusal(self.machine.state, peer.name, hello.info)
        if reason:
            logger.warning("refused %s: %s", peer.name, reason, extra=_about(peer, peer.name))
            self._endpoint.send_meeting(peer, hello.inbox, Refused(reason))
            return
        known = self._endpoint.peer(peer.name)
        if (known != peer and hello.epoch) or hello.received > self._endpoint.sent_up_to(peer.name):
            # It goes on with a session that isn't there any more; envelopes of that one may still be on their way.
            self._endpoint.send_meeting(peer, hello.inbox, MeetAgain(peer.incarnation, forgotten=True))
            leases.expect_reunion(self.machine.state, self._loop.time())
            return
        if known is not None and known != peer:
            self._part(known)
        contact = self._contacts.get(peer.name)
        if contact is None:
            contact = self._contacts[peer.name] = Contact(peer, hello.inbox, self._loop.time(), self._rhythm.busy)
            contact.name = str(hello.info.get("name") or peer.name)
            logger.info("%s %s joined", peer.role.name.lower(), contact.name, extra=_about(peer, contact.name))
        if peer.role is Role.WORKER:
            contact.process = str(hello.info.get("process", ""))
        token = str(hello.info.get("token", ""))
        if token != contact.token:
            self.returned(token)  # who had it has gone, and the broker gave it to this one at once
        self._contacts.move(contact, hello.inbox, token)
        contact.interval = self._rhythm.busy
        self._heard(contact)
        self._endpoint.send_meeting(peer, hello.inbox, self._welcome(peer))
        self._endpoint.open(peer, hello.inbox, hello.received)
        if peer.role is Role.WORKER:
            self.apply(WorkerJoined(peer.name, hello.info))
        else:
            self.apply(ClientJoined(peer.name, hello.info))

    def _welcome(self, peer: Peer) -> Welcome:
        policy = self.machine.state.policy
        queue = self._queues[1 if peer.role is Role.WORKER else 0].name
        return Welcome(
            self._endpoint.epoch,
            self._endpoint.received_up_to(peer.name),
            queue,
            {"tasks": policy.client_tasks, "bytes": policy.client_bytes},
            {"heartbeat": self._rhythm.busy},
        )

    def _heard(self, contact: Contact) -> None:
        contact.heard_at = self._loop.time()
        if contact.suspected_at is not None:
            contact.suspected_at = None
            if contact.peer.role is Role.WORKER:
                self.apply(WorkerReturned(contact.peer.name))

    def _suspect(self, contact: Contact) -> None:
        if contact.suspected_at is None:
            contact.suspected_at = self._loop.time()
            if contact.peer.role is Role.WORKER:
                about = _about(contact.peer, contact.name)
                logger.warning("worker %s is silent or cut off", contact.name, extra=about)
                self.apply(WorkerSuspected(contact.peer.name))

    def _sweep(self) -> None:
        """Suspect who is silent, and give up who stays suspected."""
        now = self._loop.time()
        self._sweeper = self._loop.call_later(SWEEP_EVERY, self._sweep)
        if self._historian is not None:
            self._historian.look()
        self._rhythm.look(self.machine.state, now)
        self.machine.state.about.update(self._health.look(now), time=time.time(), moment=now)
        if not self._endpoint.hears:
            # without the broker everybody is silent, which says nothing about them
            for contact in self._contacts.values():
                contact.heard_at = now
            return
        for contact in list(self._contacts.values()):
            if contact.suspected_at is None:
                if now > contact.silent_at:
                    self._suspect(contact)
                elif contact.interval > self._rhythm.interval(contact.peer.role):
                    # Comes back at once from an inbox that is gone.
                    self._endpoint.send_meeting(contact.peer, contact.inbox, HeartbeatWanted(), mandatory=True)
                elif now > contact.late_at:
                    self._endpoint.probe(contact.peer.name)
            elif now - contact.suspected_at > self._grace(contact):
                self._bury(contact)
            else:
                self._look_for(contact)

    def _grace(self, contact: Contact) -> float:
        """Seconds a suspected peer keeps what it has; a worker whose process is seen to be dead has none."""
        if contact.peer.role is not Role.WORKER:
            return self._client_grace
        return 0.0 if has_ended(contact.process) else self._suspect_grace

    def _look_for(self, contact: Contact) -> None:
        """Ask another worker of its machine, if there is one, whether the process of a suspected one has ended."""
        neighbour = self._contacts.neighbour(contact) if contact.process else None
        if neighbour is not None:
            self._endpoint.send_meeting(neighbour.peer, neighbour.inbox, LookFor(contact.peer.name, contact.process))

    def _looked_for(self, seen: LookedFor) -> None:
        contact = self._contacts.get(seen.worker)
        if seen.ended and contact is not None and contact.suspected_at is not None and contact.process == seen.process:
            self._bury(contact)

    def _bury(self, contact: Contact) -> None:
        about = _about(contact.peer, contact.name)
        logger.warning("%s %s is gone", contact.peer.role.name.lower(), contact.name, extra=about)
        self._part(contact.peer)

    def _part(self, peer: Peer, *, expected: bool = False) -> None:
        """This peer is gone for good."""
        self.apply(WorkerLost(peer.name, expected) if peer.role is Role.WORKER else ClientGone(peer.name))
        self._forget(peer.name)


def _about(peer: Peer, name: str) -> dict[str, str]:
    """Fields of a log line about a peer that people know as ``name``."""
    return {"worker": name} if peer.role is Role.WORKER else {}
