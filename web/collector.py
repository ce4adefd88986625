"""The site's one ear and voice in the cluster: it asks the scheduler for snapshots while somebody watches.

A `Collector` is a member of the cluster, on an event loop in a thread. It asks again only when the answer before has
come and a page was looked at in the last seconds, so that a slow site or a closed one costs the scheduler nothing. What
it learns stands in a ring that all pages and streams of the process read. It holds no futures and opens no pickles.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import socket
import threading
import time
from collections import deque
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any

from futurebroker.exceptions import ClusterConnectionError, FuturebrokerError
from futurebroker.protocol.member import Member
from futurebroker.protocol.messages import Answer, Ask, Message, Welcome
from futurebroker.snapshot import Snapshot, Tracker
from futurebroker.types import Role

logger = logging.getLogger("futurebroker.web")

#: seconds for which one look at a page keeps snapshots coming
LEASE = 30.0
#: seconds between two snapshots
EVERY = 1.0
#: snapshots remembered for the figures
KEPT = 600
#: seconds the scheduler has to answer a question of a page
ANSWER_TIMEOUT = 5.0
#: seconds a question waits for the first connection
FIRST_PATIENCE = 2.0
#: what the trouble is before anything was tried
CONNECTING = "connecting"
#: seconds of one attempt to join the cluster; attempts go on for ever
JOIN_TIMEOUT = 10.0


class UnansweredError(FuturebrokerError):
    """The scheduler can't be asked at the moment, or did not answer."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class Collector:
    """See the top of this file; may be used from any thread.

    Args:
        link: where the site is, without a token; the scheduler tells it to who looks for the dashboard.
        token_set: whether the token was set, and not derived from the secret.
        loop: run on this loop of a cluster in the same process instead of in a thread of our own.
    """

    def __init__(
        self,
        url: str,
        cluster: str,
        secret: bytes,
        *,
        link: str = "",
        token_set: bool = False,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.url = url
        self.cluster = cluster
        self.link = link
        self._token_set = token_set
        #: why there is no connection; empty when there is one
        self.trouble = CONNECTING
        self._secret = secret
        self._own_loop = loop is None
        self._loop = loop or asyncio.new_event_loop()
        self._ring: deque[Snapshot] = deque(maxlen=KEPT)
        self._tracker = Tracker()
        #: what changed between snapshots: workers that came and went, turns of health
        self.seen: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self._changed = threading.Condition()
        self._numbers = itertools.count(1)
        self._open: dict[int, Future[Any]] = {}
        self._watched_until = 0.0
        self._wake: asyncio.Event | None = None
        self._member: Member | None = None
        self._work: Future[None] | None = None
        self._beating: asyncio.TimerHandle | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    # -- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Join the cluster, and go on trying; returns at once. May be called twice, and after a fork."""
        with self._changed:
            if self._work is not None or self._closed:
                return
            if self._own_loop:
                self._thread = threading.Thread(target=self._run, name="futurebroker-web-collector", daemon=True)
                self._thread.start()
            self._work = asyncio.run_coroutine_threadsafe(self._live(), self._loop)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def close(self) -> None:
        """Leave the cluster and end the thread. May be called twice."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
        if self._work is not None and self._loop.is_running():
            self._work.cancel()
            asyncio.run_coroutine_threadsafe(self._leave(), self._loop).result(timeout=10)
        if self._thread is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    @property
    def closed(self) -> bool:
        """Whether this site ends."""
        return self._closed

    async def _leave(self) -> None:
        if self._beating is not None:
            self._beating.cancel()
        if self._member is not None:
            await self._member.close("the site was closed")
        self._fail("the site is closing")

    async def _live(self) -> None:
        self._wake = asyncio.Event()
        while True:
            self._member = Member(
                Role.WEB, f"web-{socket.gethostname()[:40]}-{id(self):x}", url=self.url, cluster=self.cluster,
                secret=self._secret, events=self, loop=self._loop, info=self._introduce,
            )  # fmt: skip
            try:
                await self._member.connect(JOIN_TIMEOUT)
                break
            except ClusterConnectionError as error:
                self.trouble = str(error)
                logger.warning("the site can't reach the cluster yet: %s", error)
                await asyncio.sleep(EVERY)
        while True:
            if time.monotonic() >= self._watched_until:
                self._wake.clear()
                await self._wake.wait()
            began = self._loop.time()
            await self._look()
            await asyncio.sleep(max(0.0, EVERY - (self._loop.time() - began)))

    async def _look(self) -> None:
        try:
            answer = await asyncio.wait_for(asyncio.wrap_future(self._ask("overview", None)), ANSWER_TIMEOUT)
            snapshot = self._tracker.take(answer, time.time())
        except (TimeoutError, FuturebrokerError) as error:
            self.trouble = str(error) or "the scheduler does not answer"
            return
        except (KeyError, TypeError, ValueError, AttributeError):
            logger.exception("the scheduler's answer can't be read; is it of another version?")
            self.trouble = "the scheduler's answer can't be read; is it of another version?"
            return
        self.trouble = ""
        before = self._ring[-1] if self._ring else None
        self.seen.extend(changes(before, snapshot) if before is not None else ())
        with self._changed:
            self._ring.append(snapshot)
            self._changed.notify_all()

    # -- for pages ----------------------------------------------------------------------------------------------------

    def watch(self) -> None:
        """Somebody looks: have snapshots come for the next `LEASE` seconds."""
        fresh = time.monotonic() >= self._watched_until
        self._watched_until = time.monotonic() + LEASE
        if fresh and self._wake is not None and not self._closed:
            self._loop.call_soon_threadsafe(self._wake.set)

    def latest(self, patience: float = 0.0) -> Snapshot | None:
        """The newest snapshot; waits up to ``patience`` seconds for one that isn't old. None when none ever came."""
        self.watch()
        with self._changed:
            if (patience and not self.trouble) or self.trouble == CONNECTING:
                self._changed.wait_for(lambda: self._closed or self._is_fresh(), patience)
            return self._ring[-1] if self._ring else None

    def _is_fresh(self) -> bool:
        return bool(self._ring) and time.time() - self._ring[-1].time < 3 * EVERY

    def since(self, number: int, patience: float = 0.0) -> list[Snapshot]:
        """Snapshots after ``number``, oldest first; waits up to ``patience`` seconds for one."""
        self.watch()
        with self._changed:
            if patience:
                self._changed.wait_for(
                    lambda: self._closed or bool(self._ring and self._ring[-1].number > number), patience
                )
            return [snapshot for snapshot in self._ring if snapshot.number > number]

    def ask(self, topic: str, about: Any = None) -> Any:
        """The scheduler's answer to a question.

        Raises:
            UnansweredError: there is no connection, no answer in time, or the question makes no sense to it.
        """
        with self._changed:
            # A page that comes right after the start must not say that there is no scheduler.
            self._changed.wait_for(lambda: self._closed or self.trouble != CONNECTING, FIRST_PATIENCE)
        if self._work is None or self._closed or self._member is None or not self._member.connected:
            raise UnansweredError(f"the scheduler can't be reached: {self.trouble or 'reconnecting'}")
        reply = self._ask(topic, about)
        try:
            return reply.result(ANSWER_TIMEOUT)
        except FutureTimeout:
            raise UnansweredError(f"the scheduler did not answer within {ANSWER_TIMEOUT:g} s") from None

    def send(self, message: Message) -> None:
        """Tell the scheduler something that has no answer.

        Raises:
            UnansweredError: there is no connection.
        """
        member = self._member
        if member is None or not member.connected:
            raise UnansweredError(f"the scheduler can't be reached: {self.trouble or 'reconnecting'}")
        self._loop.call_soon_threadsafe(member.send, message)

    def _ask(self, topic: str, about: Any) -> Future[Any]:
        number = next(self._numbers)
        reply: Future[Any] = Future()
        self._open[number] = reply
        reply.add_done_callback(lambda _: self._open.pop(number, None))
        member = self._member
        assert member is not None
        self._loop.call_soon_threadsafe(member.send, Ask(number, topic, about))
        return reply

    def _fail(self, reason: str) -> None:
        for reply in list(self._open.values()):
            if not reply.done():
                reply.set_exception(UnansweredError(reason))

    def _introduce(self) -> dict[str, Any]:
        return {"program": "dashboard", "host": socket.gethostname(), "link": self.link, "token_set": self._token_set}

    # -- what the member tells, on the loop ---------------------------------------------------------------------------

    def deliver(self, messages: list[Any]) -> None:
        """See `MemberEvents.deliver`."""
        for message in messages:
            if isinstance(message, Answer):
                reply = self._open.get(message.number)
                if reply is None or reply.done():
                    continue
                if message.error:
                    reply.set_exception(UnansweredError(message.error))
                else:
                    reply.set_result(message.value)

    def welcomed(self, welcome: Welcome, fresh: bool) -> None:
        """See `MemberEvents.welcomed`."""
        if fresh:
            self._fail("the scheduler was restarted before it answered")
        with self._changed:
            self.trouble = ""
            self._changed.notify_all()
        self.paced(welcome.settings.get("heartbeat", 1.0))

    def heard(self, round_trip: float) -> None:
        """See `MemberEvents.heard`."""

    def paced(self, seconds: float) -> None:
        """See `MemberEvents.paced`."""
        if self._beating is not None:
            self._beating.cancel()
        if not self._closed:
            self._beating = self._loop.call_later(seconds, self._beat, seconds or 1.0)

    def _beat(self, seconds: float) -> None:
        if self._member is not None and not self._closed:
            self._member.heartbeat("running", {})
            self._beating = self._loop.call_later(max(seconds, 1.0), self._beat, seconds)

    def lost(self, error: Exception | None) -> None:
        """See `MemberEvents.lost`."""
        self.trouble = f"the connection is lost, reconnecting: {error or 'it was closed'}"
        self._fail(self.trouble)

    def refused(self, reason: str) -> None:
        """See `MemberEvents.refused`."""
        self.trouble = f"the scheduler refuses this site: {reason}"
        logger.error(self.trouble)
        self._fail(self.trouble)


def changes(before: Snapshot, now: Snapshot) -> list[dict[str, Any]]:
    """What became of workers, and of the cluster's health, from one snapshot to the next."""
    found = []
    old = {worker.id: worker for worker in before.workers}
    new = {worker.id: worker for worker in now.workers}
    for worker in now.workers:
        known = old.get(worker.id)
        if known is None:
            found.append(("worker_joined", worker.name, f"{worker.slots} slots on {worker.host}"))
        elif known.status != worker.status:
            found.append((f"worker_{worker.status}", worker.name, f"it was {known.status}"))
    found += [
        ("worker_left", worker.name, f"it was {worker.status}") for name, worker in old.items() if name not in new
    ]
    if before.scheduler.get("pid") != now.scheduler.get("pid"):
        found.append(("scheduler_restarted", str(now.scheduler.get("host", "")), ""))
    if before.level != now.level and "bad" in (before.level, now.level):
        found.append((f"health_{now.level}", "", now.health))
    return [{"at": now.time, "kind": kind, "about": about, "text": text} for kind, about, text in found]
