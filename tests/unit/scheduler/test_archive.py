"""An archive takes values in, gives them back and frees them, as the machine asks it to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from futurebroker.persistence.blobs import FolderBlobs
from futurebroker.protocol import messages as m
from futurebroker.protocol.wire import Seal
from futurebroker.scheduler.archive import AT_A_TIME, PIECE, WINDOW, Archive

VALUE = bytes(range(251)) * 40_000
PATIENCE = 20.0


class World:
    """An archive in a folder, and a holder of values that answers what it is asked for."""

    def __init__(self, folder: Path) -> None:
        self.values: dict[str, bytes] = {}
        self.said: list[Any] = []
        self._happened = asyncio.Condition()
        self.archive = Archive("store", FolderBlobs(folder, "c", Seal(b"secret")), self._take)
        #: bytes asked for and not given, and the most that ever was
        self.outstanding = self.most = 0
        self._notices: set[asyncio.Task[None]] = set()

    def _take(self, messages: list[m.Message]) -> None:
        self.said += messages
        for message in messages:
            if isinstance(message, m.DataWanted) and message.key in self.values:
                self.outstanding += message.length
                self.most = max(self.most, self.outstanding)
                asyncio.get_running_loop().call_soon(self.give, message)
        notice = asyncio.get_running_loop().create_task(self._notify())
        self._notices.add(notice)
        notice.add_done_callback(self._notices.discard)

    def give(self, wanted: m.DataWanted) -> None:
        """Answer as a worker does."""
        value = self.values[wanted.key]
        data = value[wanted.offset : wanted.offset + wanted.length]
        self.outstanding -= wanted.length
        self.archive.tell([m.DataPart(wanted.transfer, wanted.key, wanted.offset, len(value), data, "archive:store")])

    async def _notify(self) -> None:
        async with self._happened:
            self._happened.notify_all()

    async def heard(self, kind: type[Any], count: int = 1) -> list[Any]:
        """The messages of a kind, once there are ``count``."""

        def found() -> list[Any]:
            return [one for one in self.said if isinstance(one, kind)]

        async with asyncio.timeout(PATIENCE), self._happened:
            await self._happened.wait_for(lambda: len(found()) >= count)
        return found()

    def keep(self, *keys: str) -> None:
        """Have it fetch values."""
        self.archive.tell([m.Replicate(m.Held(key)) for key in keys])

    async def read(self, key: str, size: int = PIECE) -> bytes:
        """A value as a client fetches it."""
        data = b""
        part: m.DataPart
        while True:
            before = sum(isinstance(one, m.DataPart) for one in self.said)
            self.archive.tell([m.DataWanted(9, key, len(data), size, "", "ann")])
            part = (await self.heard(m.DataPart, before + 1))[before]
            assert (part.transfer, part.key, part.offset, part.asker) == (9, key, len(data), "ann")
            data += part.data
            if len(data) >= part.nbytes:
                return data


def in_a_world(folder: Path, scenario: Callable[[World], Awaitable[None]]) -> None:
    """Run a scenario."""

    async def run() -> None:
        world = World(folder)
        try:
            await scenario(world)
        finally:
            await world.archive.close()
            await world.archive.close()

    asyncio.run(run())


def test_values_come_in_and_out_whole(tmp_path: Path) -> None:
    """A few at a time, with no more of them in memory than may be; whatever pieces they are asked for in."""

    async def scenario(world: World) -> None:
        world.values = {f"k{number}": VALUE[number:] for number in range(5)}
        world.keep(*world.values, "k0")
        stored = await world.heard(m.Stored, 5)
        assert sorted((one.key, one.nbytes) for one in stored) == [(f"k{i}", len(VALUE) - i) for i in range(5)]
        assert world.most <= AT_A_TIME * WINDOW
        for size in (PIECE, 3 * PIECE + 17, 5_000_000):
            assert await world.read("k3", size) == VALUE[3:]

    async def later(world: World) -> None:
        inventory = await world.archive.inventory()
        assert sorted(key for key, _, _ in inventory.held) == [f"k{i}" for i in range(5)]

    in_a_world(tmp_path, scenario)
    in_a_world(tmp_path, later)


def test_a_holder_that_goes_away_leaves_nothing(tmp_path: Path) -> None:
    """The machine is told, without a reason to show to people; half a value isn't there."""

    async def scenario(world: World) -> None:
        world.keep("key")
        (wanted,) = await world.heard(m.DataWanted)
        world.archive.tell([m.DataPart(wanted.transfer, "key", 0, len(VALUE), VALUE[:PIECE], "archive:store")])
        wanted = (await world.heard(m.DataWanted, 2))[-1]
        world.archive.tell([m.DataPart(wanted.transfer, "key", wanted.offset, -1, b"", "archive:store")])
        assert await world.heard(m.NotStored) == [m.NotStored("key", "")]
        assert (await world.archive.inventory()).held == []

    in_a_world(tmp_path, scenario)


def test_what_is_freed_while_it_comes_is_not_kept(tmp_path: Path) -> None:
    """What arrives afterwards is of nobody; the same key can be kept again."""

    async def scenario(world: World) -> None:
        world.keep("key", "other", "third")
        wanted = (await world.heard(m.DataWanted, 2))[0]
        world.archive.tell([m.Free(["key", "third"])])
        world.values = {"key": VALUE}
        world.give(wanted)
        assert (await world.archive.inventory()).held == []
        world.keep("key")
        assert [one.key for one in await world.heard(m.Stored)] == ["key"]
        assert await world.read("key") == VALUE
        world.archive.tell([m.Free(["key"])])
        assert (await world.archive.inventory()).held == []
        assert "third" not in {getattr(one, "key", "") for one in world.said}

    in_a_world(tmp_path, scenario)


def test_a_folder_that_can_not_be_written_is_said(tmp_path: Path) -> None:
    """With what the system said."""

    async def scenario(world: World) -> None:
        (tmp_path / "store").write_text("a file")
        world.values = {"key": b"x" * 10}
        world.keep("key")
        (refusal,) = await world.heard(m.NotStored)
        assert "could not be written" in refusal.reason

    in_a_world(tmp_path / "store", scenario)


def test_a_value_that_is_gone_or_altered_is_lost(tmp_path: Path) -> None:
    """Who asked is answered, and the machine is told why."""

    async def scenario(world: World) -> None:
        world.values = {"key": VALUE}
        world.keep("key")
        await world.heard(m.Stored)
        (file,) = tmp_path.iterdir()
        body = bytearray(file.read_bytes())
        body[len(body) // 2] ^= 1
        file.write_bytes(body)
        world.archive.tell(
            [m.DataWanted(9, "key", len(VALUE) // 2, 10, "", "ann"), m.DataWanted(8, "no", 0, 9, "", "bob")]
        )
        lost = await world.heard(m.DataLost, 2)
        assert [(one.key, "wrong signature" in one.reason) for one in lost] == [("key", True), ("no", False)]
        parts = await world.heard(m.DataPart, 2)
        assert [(part.asker, part.nbytes) for part in parts] == [("ann", -1), ("bob", -1)]

    in_a_world(tmp_path, scenario)
