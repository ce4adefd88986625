"""The link inside one process: the embedded broker's semantics, on one thread and across threads."""

from __future__ import annotations

import queue
import threading
import uuid
from collections import deque
from collections.abc import Callable

import pytest

from futurebroker.exceptions import BrokerRefusedError, ConfigError, MessageTooLargeError
from futurebroker.transport.base import Queue, QueueKind
from futurebroker.transport.memory import MAX_MESSAGE, MemoryLink
from futurebroker.transport.registry import open_link

INBOX, COMMAND = QueueKind.INBOX, QueueKind.COMMAND


class Owner:
    """Owns a link without an event loop: calls it was woken for wait until `turn`."""

    def __init__(self, url: str, *queues: Queue) -> None:
        link = open_link(url, queues, secret=b"", timeout=1, name="test")
        assert isinstance(link, MemoryLink)
        self.link = link
        self.calls: deque[Callable[[], None]] = deque()
        self.got: list[tuple[str, bytes, int]] = []
        self.returned_names: list[str] = []
        self.ends: list[Exception | None] = []
        link.start(self, self.calls.append)

    def go_round(self) -> None:
        """Run what was asked for so far."""
        for _ in range(len(self.calls)):
            self.calls.popleft()()

    def bodies(self) -> list[bytes]:
        """What arrived by now."""
        self.go_round()
        return [body for _, body, _ in self.got]

    def received(self, queue: str, body: bytes, tag: int) -> None:
        self.got.append((queue, body, tag))

    def returned(self, destination: str) -> None:
        self.returned_names.append(destination)

    def confirmed(self) -> None:
        """See `LinkEvents.confirmed`."""

    def blocked(self, is_blocked: bool) -> None:
        raise AssertionError("a memory link never blocks")

    def turn(self, call: Callable[[], None]) -> None:
        raise AssertionError("a memory link wakes its owner")

    def disconnected(self, error: Exception | None) -> None:
        self.ends.append(error)


@pytest.fixture
def url() -> str:
    return f"memory://{uuid.uuid4()}"


def test_bodies_arrive_in_order_on_one_wake(url: str) -> None:
    """A wake is a system call across threads; a burst must cost one."""
    reader, sender = Owner(url, Queue("inbox", INBOX)), Owner(url)
    for number in range(100):
        sender.link.send("inbox", bytes((number,)))
    assert len(reader.calls) == 1
    assert reader.got == []
    assert reader.bodies() == [bytes((number,)) for number in range(100)]
    assert {tag for _, _, tag in reader.got} == {0}
    sender.link.send("inbox", b"again")
    assert reader.bodies()[-1] == b"again"
    sender.link.close()
    reader.link.close()


def test_what_came_before_start_is_not_lost(url: str) -> None:
    """A link is open before its owner's loop runs."""
    link = open_link(url, [Queue("inbox", INBOX)], secret=b"", timeout=1, name="early")
    sender = Owner(url)
    sender.link.send("inbox", b"early")
    reader = Owner(url)
    link.start(reader, reader.calls.append)
    assert reader.bodies() == [b"early"]
    for one in (link, sender.link, reader.link):
        one.close()


def test_a_send_to_nobody_comes_back_if_it_must_arrive(url: str) -> None:
    """Never from inside ``send``: the owner is in the middle of something."""
    sender = Owner(url)
    sender.link.send("nobody", b"x")
    sender.link.send("nobody", b"x", mandatory=True)
    assert sender.returned_names == []
    sender.go_round()
    assert sender.returned_names == ["nobody"]
    sender.link.close()


def test_the_end_of_an_inbox_is_told_to_its_senders(url: str) -> None:
    """Peer death, as the embedded broker tells it."""
    reader, sender, stranger = Owner(url, Queue("inbox", INBOX)), Owner(url), Owner(url)
    sender.link.send("inbox", b"x")
    reader.link.close()
    reader.link.close()
    assert reader.ends == [None]
    sender.link.send("inbox", b"late", mandatory=True)
    for owner in (sender, stranger):
        owner.go_round()
    assert sender.returned_names == ["inbox", "inbox"]
    assert stranger.returned_names == []
    reader.go_round()
    assert reader.got == []
    sender.link.close()
    stranger.link.close()


def test_a_command_queue_keeps_what_nobody_acknowledged(url: str) -> None:
    """The next reader gets it in order, before what came later."""
    first, sender = Owner(url, Queue("cmd", COMMAND)), Owner(url)
    for number in range(400):
        sender.link.send("cmd", number.to_bytes(2, "big"))
    assert len(first.bodies()) == 300
    first.link.ack(first.got[99][2])
    assert len(first.bodies()) == 400
    first.link.close()
    sender.link.send("cmd", b"later")
    second = Owner(url, Queue("cmd", COMMAND))
    expected = [*(number.to_bytes(2, "big") for number in range(100, 400)), b"later"]
    assert second.bodies() == expected[:300]
    second.link.ack(second.got[-1][2])
    assert second.bodies() == expected
    second.link.close()
    sender.link.close()


def test_a_second_reader_of_commands_stands_by(url: str) -> None:
    """One scheduler at a time; the standby takes over when the first leaves."""
    first, second = Owner(url, Queue("cmd", COMMAND)), Owner(url, Queue("cmd", COMMAND))
    second.link.send("cmd", b"a")
    assert (first.bodies(), second.bodies()) == ([b"a"], [])
    first.link.close()
    assert second.bodies() == [b"a"]
    second.link.close()


def test_acks_count_by_queue(url: str) -> None:
    """All before it on its queue, not on others."""
    first = Owner(url, Queue("a", COMMAND), Queue("b", COMMAND))
    for name in ("a", "b"):
        first.link.send(name, name.encode())
    first.go_round()
    first.link.ack(first.got[1][2])
    first.link.ack(12345)
    second = Owner(url, Queue("a", COMMAND), Queue("b", COMMAND))
    first.link.close()
    assert second.bodies() == [b"a"]
    second.link.close()


def test_names_are_brokers_of_their_own_and_end_with_their_last_link(url: str) -> None:
    """Two clusters in one process do not meet, and nothing stays behind."""
    here, there = Owner(url, Queue("inbox", INBOX)), Owner(url + "2", Queue("inbox", INBOX))
    here.link.send("inbox", b"here")
    assert (here.bodies(), there.bodies()) == ([b"here"], [])
    here.link.close()
    there.link.close()
    anew = Owner(url, Queue("inbox", COMMAND))
    assert anew.bodies() == []
    anew.link.close()


def test_a_queue_of_someone_else_is_refused(url: str) -> None:
    """As over AMQP; and the refused link leaves nothing."""
    first = Owner(url, Queue("inbox", INBOX), Queue("cmd", COMMAND))
    for wanted in (Queue("inbox", INBOX), Queue("inbox", COMMAND), Queue("cmd", INBOX)):
        with pytest.raises(BrokerRefusedError):
            Owner(url, Queue("new", INBOX), wanted)
    first.link.send("new", b"", mandatory=True)
    first.go_round()
    assert first.returned_names == ["new"]
    first.link.close()
    with pytest.raises(ConfigError):
        Owner("memory://")


def test_a_message_over_the_bound_is_refused(url: str) -> None:
    """The same bound as over AMQP, so that tests meet it, too."""
    owner = Owner(url, Queue("inbox", INBOX))
    with pytest.raises(MessageTooLargeError):
        owner.link.send("inbox", bytes(MAX_MESSAGE + 1))
    owner.link.close()


def test_links_of_several_threads_lose_nothing(url: str) -> None:
    """Four senders on threads of their own, one reader on another, in each sender's order."""
    count = 5000
    woken: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
    reader = Owner(url, Queue("inbox", INBOX))
    reader.link.start(reader, woken.put)

    def flood(number: int) -> None:
        sender = Owner(url)
        for at in range(count):
            sender.link.send("inbox", bytes((number,)) + at.to_bytes(2, "big"))
        sender.link.close()

    threads = [threading.Thread(target=flood, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    while len(reader.got) < 4 * count:
        woken.get(timeout=10)()
    for thread in threads:
        thread.join()
    for number in range(4):
        mine = [body[1:] for _, body, _ in reader.got if body[0] == number]
        assert mine == [at.to_bytes(2, "big") for at in range(count)]
    reader.link.close()
