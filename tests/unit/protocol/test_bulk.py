"""The second connection: opened when it is needed, closed when it isn't, and nobody else's parts are taken."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from futurebroker.protocol import bulk
from futurebroker.protocol.bulk import Bulk
from futurebroker.protocol.messages import DataPart
from futurebroker.transport.base import Queue, QueueKind
from futurebroker.transport.registry import open_link

PART = DataPart(1, "x", 0, 10, b"0123456789", "ann", 3)


class Side:
    """One process's second connection, and what it was told."""

    def __init__(self, url: str, name: str, secret: bytes = b"secret") -> None:
        self.url = url
        self.parts: list[DataPart] = []
        self.inboxes: list[str] = []
        self.others: list[int] = []
        self._changed = asyncio.Event()
        self.bulk = Bulk(
            name,
            cluster="c",
            secret=secret,
            loop=asyncio.get_running_loop(),
            where=lambda: self.url,
            take=lambda part: self._note(self.parts, part),
            moved=lambda inbox: self._note(self.inboxes, inbox),
        )

    def _note(self, where: list[Any], what: Any) -> None:
        where.append(what)
        self._changed.set()

    async def until(self, is_true: Callable[[], object]) -> None:
        """Wait until what was told makes it true."""
        async with asyncio.timeout(10):
            while not is_true():
                self._changed.clear()
                await self._changed.wait()

    async def inbox(self) -> str:
        """Where parts can be sent to."""
        self.bulk.open()
        await self.until(lambda: self.inboxes)
        return self.inboxes[-1]

    def send(self, inbox: str, part: DataPart) -> None:
        """Send a part, or note that it has to go another way."""
        sealed = self.bulk.seal(inbox, part)
        self.bulk.send(inbox, part, sealed, lambda: self._note(self.others, part.offset))


@pytest.fixture
def run() -> Callable[[Callable[[Side, Side], Coroutine[Any, Any, None]]], None]:
    """Runs a test between a holder and an asker at a broker of their own."""

    def run(test: Callable[[Side, Side], Coroutine[Any, Any, None]]) -> None:
        async def scenario() -> None:
            url = f"memory://{secrets.token_hex(5)}"
            holder, asker = Side(url, "holder"), Side(url, "asker")
            try:
                await test(holder, asker)
            finally:
                holder.bulk.close()
                asker.bulk.close()

        asyncio.run(scenario())

    return run


Run = Callable[[Callable[[Side, Side], Coroutine[Any, Any, None]]], None]


def test_parts_go_from_who_holds_to_who_asked(run: Run) -> None:
    """Both open a connection when the first is to go that way, and one serves both directions."""

    async def test(holder: Side, asker: Side) -> None:
        assert holder.bulk.opened == asker.bulk.opened == 0
        inbox = await asker.inbox()
        assert inbox.startswith("fb1.c.bulk.asker-")
        for offset in (0, 10):
            holder.send(inbox, DataPart(1, "x", offset, 20, b"0123456789", "asker", 3))
        await asker.until(lambda: len(asker.parts) == 2)
        assert asker.parts[0] == DataPart(1, "x", 0, 20, b"0123456789", "asker", 3)
        asker.send(await holder.inbox(), PART)
        await holder.until(lambda: holder.parts)
        assert holder.parts == [PART]
        assert holder.bulk.opened == asker.bulk.opened == 1
        assert holder.others == []

    run(test)


def test_what_was_not_signed_for_this_inbox_is_dropped(run: Run) -> None:
    """By who doesn't know the secret, or for another inbox, or not at all."""

    async def test(holder: Side, asker: Side) -> None:
        inbox = await asker.inbox()
        stranger = Side(holder.url, "stranger", b"another secret")
        stranger.send(inbox, PART)
        await stranger.until(lambda: stranger.inboxes)
        link = open_link(holder.url, [Queue("q", QueueKind.INBOX)], secret=b"", timeout=1, name="link")
        link.send(inbox, holder.bulk.seal("another inbox", PART))
        link.send(inbox, b"nothing")
        holder.send(inbox, PART)
        await asker.until(lambda: asker.parts)
        assert asker.parts == [PART]
        link.close()
        stranger.bulk.close()

    run(test)


def test_a_connection_that_is_not_used_is_closed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections of a broker are few; the next part opens another one, with another inbox."""
    monkeypatch.setattr(bulk, "IDLE", 0.05)

    async def test(holder: Side, asker: Side) -> None:
        first = await asker.inbox()
        await asker.until(lambda: len(asker.inboxes) == 2)
        assert asker.inboxes == [first, ""]
        asker.inboxes.clear()
        second = await asker.inbox()
        assert second.rpartition(".")[0] == first.rpartition(".")[0]
        assert second != first
        holder.send(second, PART)
        await asker.until(lambda: asker.parts)

    run(test)


def test_where_there_is_none_parts_take_the_other_way(run: Run) -> None:
    """A broker that refuses a second connection isn't asked again for each part."""

    async def test(holder: Side, asker: Side) -> None:
        asker.url = ""
        assert await asker.inbox() == ""
        holder.url = "memory://"
        holder.send("q", PART)
        await holder.until(lambda: holder.others)
        holder.send("q", PART)
        assert holder.others == [0, 0]
        assert holder.inboxes == [""]
        assert holder.bulk.opened == 0

    run(test)


def test_a_broken_connection_is_told_of_and_what_waits_gets_another(run: Run) -> None:
    """Who asked goes on from there, at another inbox."""

    async def test(holder: Side, asker: Side) -> None:
        inbox = await asker.inbox()
        holder.bulk.open()
        await holder.until(lambda: holder.inboxes)
        holder.bulk.blocked(True)
        for offset in (0, 0, 10):
            holder.send(inbox, DataPart(1, "x", offset, 20, b"0123456789"))
        holder.bulk.disconnected(None)
        await asker.until(lambda: len(asker.parts) == 2)
        assert [part.offset for part in asker.parts] == [0, 10]  # what was asked for twice is sent once
        assert holder.bulk.opened == 2
        asker.bulk.disconnected(None)
        assert asker.inboxes[-1] == ""

    run(test)
