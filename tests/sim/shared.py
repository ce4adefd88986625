"""What clients share by name, in the simulator: locks, semaphores, events, metadata and topics, with their laws.

In a share of the runs clients have threads that take and give leases, set and await events, and keep metadata, one
thing after the other, as the blocking calls of the real client do: who meets a restarted scheduler asks again. Workers
log events under topics. It draws from a chance of its own, so that seeds stay what they are.

    a lease is given when there is one: never are more held than there may be, whoever restarts meanwhile; a client that
    was out of reach for too long loses its own and is told
    who waits is answered: with a lease or a set event, or with None, and that only if it set a time
    metadata is what was put there last, also after a restart with a journal
    an event under a topic reaches who subscribed to it then, once, and nobody else
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from random import Random
from typing import Any

from futurebroker.protocol import messages as m
from futurebroker.scheduler.commands import ClientGone, ClientJoined, ClientSaid, Command, Event, Send, WorkerSaid
from futurebroker.scheduler.leases import REUNION
from tests.sim.network import Line
from tests.sim.world import World

#: share of the runs
SHARE = 0.3
#: how many leases there are of each name
LEASES = {"one": 1, "other": 1, "third": 1, "pair": 2}
SINGLE = ("one", "other", "third")
FLAGS = ("red", "green")
TOPICS = ("news", "weather")
#: seconds out of reach in which nobody loses a lease
SAFE = REUNION - 0.5


class Leases:
    """Who believes to hold what, over all clients that live."""

    def __init__(self) -> None:
        self.held: dict[str, dict[str, SharingThread]] = defaultdict(dict)
        self.threads: list[SharingThread] = []

    def take(self, name: str, lease: str, thread: SharingThread) -> None:
        """A thread was told that it has a lease."""
        held = self.held[name]
        held[lease] = thread
        # Who was out of reach for long, or tells a new scheduler just now what it has after that, may have lost it.
        sure = [one for one in held.values() if one.is_sure]
        assert len(sure) <= LEASES[name], f"{name} is held by {sorted(held)} at a time, and may be by {LEASES[name]}"

    def give(self, name: str, lease: str) -> None:
        """It is given back, or lost."""
        self.held[name].pop(lease, None)


class SharingThread:
    """One thread of a client: it asks, waits for the answer, and goes on.

    Args:
        ask: sends a question of this topic about this, and returns its number.
        line: of its client.
        knows: how many schedulers have begun that knew nothing of the one before.
    """

    def __init__(
        self,
        world: World,
        name: str,
        steps: list[tuple[Any, ...]],
        leases: Leases,
        ask: Callable[[str, Any], int],
        line: Line,
        knows: Callable[[], int],
    ) -> None:
        self.world = world
        self.name = name
        self.alive = True
        #: name -> lease, as far as this thread knows
        self.held: dict[str, str] = {}
        #: what it has kept as metadata, and at which scheduler
        self._kept: dict[str, int] = {}
        self._kept_at = 0
        self._steps = list(reversed(steps))
        self._leases = leases
        self._ask = ask
        self._line = line
        self._knows = knows
        self._asked: tuple[int, str, Any, Callable[[Any], None]] | None = None
        self._asserted: dict[int, tuple[str, str]] = {}
        self._made = 0
        leases.threads.append(self)
        world.after(0.0, self._begin)

    @property
    def done(self) -> bool:
        """It has nothing to do any more."""
        return not self.alive or not (self._steps or self._asked or self.held)

    @property
    def is_sure(self) -> bool:
        """Whether it can't have lost a lease, or would have heard of that."""
        in_touch = self._line.welcomed and not self._asserted
        return self.alive and (in_touch or self.world.now - self._line.lost_at < SAFE)

    def end(self) -> None:
        """The program has ended."""
        self.alive = False
        for name, lease in self.held.items():
            self._leases.give(name, lease)

    # -- what happens to it -------------------------------------------------------------------------------------------

    def start_over(self) -> None:
        """The scheduler knows nothing: tell it what is held."""
        self._asserted.clear()
        for name, lease in self.held.items():
            about = {"name": name, "max_leases": LEASES[name], "leases": [lease]}
            self._asserted[self._ask("lease_assert", about)] = name, lease

    def ask_again(self) -> None:
        """The scheduler was restarted; what it was asked may be lost."""
        if self.alive and self._asked is not None:
            _, topic, about, then = self._asked
            self._question(topic, about, then)

    def answered(self, answer: m.Answer) -> None:
        """An answer came to this client."""
        asserted = self._asserted.pop(answer.number, None)
        if asserted is not None and asserted[1] not in answer.value:
            self._leases.give(*asserted)
        if self._asked is not None and answer.number == self._asked[0]:
            _, topic, about, then = self._asked
            assert not answer.error, f"{topic} of {about} was answered with {answer.error}"
            self._asked = None
            then(answer.value)

    # -- what it does -------------------------------------------------------------------------------------------------

    def _question(self, topic: str, about: Any, then: Callable[[Any], None]) -> None:
        self._asked = self._ask(topic, about), topic, about, then

    def _begin(self) -> None:
        """Once the client knows a scheduler.

        If the first was restarted before, this may be who comes first to the next, which can't know yet that others
        hold leases of the time before: none is asked for then.
        """
        if not self._line.was_welcomed:
            self.world.after(0.05, self._begin)
        else:
            if self._knows():
                self._steps = [step for step in self._steps if step[0] not in ("lock", "lock_many")]
            self._go_on()

    def _go_on(self, _: Any = None) -> None:
        if not self.alive:
            return
        if not self._steps:
            self._give_back()
            return
        what, *rest = self._steps.pop()
        getattr(self, f"_{what}")(*rest)

    def _op(self) -> str:
        self._made += 1
        return f"{self.name}/{self._made}"

    def _pause(self, seconds: float) -> None:
        self.world.after(seconds, self._go_on)

    def _lock(self, name: str, seconds: float, timeout: float | None) -> None:
        op = self._op()

        def got(value: Any) -> None:
            self._got(op, [name] if value else [], seconds, timeout)

        self._question("lease_acquire", {"name": name, "op": op, "max_leases": LEASES[name], "timeout": timeout}, got)

    def _lock_many(self, names: list[str], least: int, seconds: float, timeout: float | None) -> None:
        op = self._op()

        def got(value: Any) -> None:
            assert not value or (len(value) >= least and set(value) <= set(names)), f"{value} of {names}"
            self._got(op, value or [], seconds, timeout)

        self._question(
            "lease_acquire_many", {"name": names[0], "op": op, "timeout": timeout, "of": names, "least": least}, got
        )

    def _got(self, op: str, names: Iterable[str], seconds: float, timeout: float | None) -> None:
        names = list(names)
        assert names or timeout is not None, f"{op} was given up, and set no time"
        for name in names:
            self.held[name] = op
            self._leases.take(name, op, self)
        self.world.after(seconds if names else 0.0, self._give_back)

    def _give_back(self) -> None:
        """Give back one lease after the other."""
        if not self.alive:
            return
        if not self.held:
            if self._steps:
                self._go_on()
            return
        name, lease = self.held.popitem()
        self._leases.give(name, lease)
        self._question("lease_release", {"name": name, "op": lease}, lambda _: self._give_back())

    def _set(self, flag: str) -> None:
        self._question("event_set", {"name": flag, "op": self._op()}, self._go_on)

    def _clear(self, flag: str) -> None:
        self._question("event_clear", {"name": flag, "op": self._op()}, self._go_on)

    def _wait(self, flag: str, timeout: float | None) -> None:
        def over(value: Any) -> None:
            assert value or timeout is not None, f"{self.name} waited for {flag} without a time, and is told {value}"
            self._go_on()

        self._question("event_wait", {"name": flag, "op": self._op(), "timeout": timeout}, over)

    def _set_until_nobody_waits(self, flags: list[str]) -> None:
        if any(not thread.done for thread in self._leases.threads if thread is not self):
            self._steps.append(("set_until_nobody_waits", flags))
            self._steps += [("pause", 1.0), *(("set", flag) for flag in flags)]
        else:
            self._steps += [("clear", flag) for flag in flags]
        self._go_on()

    def _put(self, key: str, number: int) -> None:
        def kept(value: Any) -> None:
            if self._kept_at != self._knows():
                self._kept.clear()
            self._kept[key], self._kept_at = number, self._knows()
            self._go_on()

        self._question("set_metadata", {"keys": ["m", self.name, key], "value": number}, kept)

    def _delete(self, key: str) -> None:
        def gone(was_there: bool) -> None:
            if self._kept_at == self._knows():
                # Asked twice, it finds nothing the second time.
                assert was_there <= (key in self._kept), f"{self.name} had no {key}"
            self._kept.pop(key, None)
            self._go_on()

        self._question("delete_metadata", ["m", self.name, key], gone)

    def _look(self) -> None:
        def seen(found: Any) -> None:
            if self._kept_at == self._knows():
                assert (found[0] if found else {}) == self._kept, f"{self.name} kept {self._kept}, and finds {found}"
            self._go_on()

        self._question("get_metadata", ["m", self.name], seen)


class TopicBooks:
    """Who subscribed to what, by what clients said; call `check` after each event."""

    def __init__(self) -> None:
        self._topics: dict[str, dict[str, None]] = {}

    def check(self, event: Event, commands: Iterable[Command]) -> None:
        """Enter ``event``; what was logged in it must have been published to whom it concerns, and to nobody else."""
        if isinstance(event, ClientJoined):
            self._topics[event.client] = dict.fromkeys(event.info.get("topics", ()))
        elif isinstance(event, ClientGone):
            self._topics.pop(event.client, None)
        elif isinstance(event, ClientSaid):
            mine = self._topics.setdefault(event.client, {})
            for message in event.messages:
                if isinstance(message, m.Ask) and message.topic == "subscribe_topic":
                    mine[message.about] = None
                elif isinstance(message, m.Ask) and message.topic == "unsubscribe_topic":
                    mine.pop(message.about, None)
        logged = [one.about for one in event.messages if _is_logged(one)] if isinstance(event, WorkerSaid) else []
        due = [
            (client, about["topic"], about["event"])
            for about in logged
            for client, mine in self._topics.items()
            if about["topic"] in mine
        ]
        sent = [
            (one.peer, one.message.topic, one.message.event)
            for one in commands
            if isinstance(one, Send) and isinstance(one.message, m.Published)
        ]
        assert sorted(sent) == sorted(due), f"{sent} were told of {logged}, and should be {due}"


def _is_logged(message: Any) -> bool:
    return isinstance(message, m.Said) and message.topic == "event"


class Sharing:
    """What is shared in one run; see the top of this file."""

    def __init__(self, seed: int) -> None:
        self.random = Random(f"shared {seed}")
        self.active = self.random.random() < SHARE
        self.leases = Leases()
        self._logged = 0

    def event(self, worker: str) -> list[m.Message]:
        """What a task logs as it begins."""
        if not self.active or self.random.random() < 0.6:
            return []
        self._logged += 1
        return [m.Said("event", "", {"topic": self.random.choice(TOPICS), "event": [self._logged, worker]})]

    def topics(self) -> list[tuple[float, str, str]]:
        """When a client subscribes to what, or leaves it."""
        if not self.active:
            return []
        random = self.random
        return [
            (random.uniform(0, 6), random.choice(("subscribe_topic", "subscribe_topic", "unsubscribe_topic")), topic)
            for topic in TOPICS
            for _ in range(random.randint(0, 2))
        ]

    def steps(self, is_first: bool) -> list[list[tuple[Any, ...]]]:
        """What the threads of a client do; those of the first end what others may wait for."""
        if not self.active:
            return []
        threads = [[("pause", self.random.uniform(0, 1)), *self._steps()] for _ in range(self.random.randint(1, 3))]
        if is_first:
            threads.append([("pause", 9.0), ("set_until_nobody_waits", list(FLAGS))])
        return threads

    def _steps(self) -> list[tuple[Any, ...]]:
        random = self.random
        steps: list[tuple[Any, ...]] = []
        for _ in range(random.randint(2, 8)):
            what = random.choice(("lock", "lock", "lock", "lock_many", "set", "clear", "wait", "put", "put", "delete"))
            hold, timeout = random.choice((0.001, 0.05, 0.5, 2.0)), random.choice((None, None, 0.0, 0.5, 3.0))
            if what == "lock":
                steps.append((what, random.choice(("one", "other", "pair")), hold, timeout))
            elif what == "lock_many":
                names = random.sample(SINGLE, random.randint(2, 3))
                steps.append((what, names, random.randint(1, len(names)), hold, timeout))
            elif what == "wait":
                steps.append((what, random.choice(FLAGS), timeout))
            elif what in ("set", "clear"):
                steps.append((what, random.choice(FLAGS)))
            elif what == "put":
                steps += [(what, random.choice("abc"), random.randint(0, 99)), ("look",)]
            else:
                steps += [(what, random.choice("abc")), ("look",)]
            steps.append(("pause", random.choice((0.0, 0.01, 0.4))))
        return steps
