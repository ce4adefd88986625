"""Disks that are full, folders in the way, files on another disk: each is the trouble of one task or value only."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from futurebroker.protocol.messages import AdoptFile, Erred, Stored
from tests.integration.agent import working


@contextmanager
def full_disk() -> Iterator[None]:
    """This process can't write files of more than a page, as if the disk were full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, previous)


def test_a_report_there_is_no_room_for_is_a_failure_that_says_so() -> None:
    """The executor goes on, and nobody is told that it died."""

    def fail_without_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        raise ValueError("x" * 500_000)

    async def scenario() -> None:
        async with working(executors=1) as box:
            box.submit("before", os.getpid)
            box.submit("a", fail_without_room)
            box.submit("after", os.getpid)
            message = str(await box.error("a"))
            assert message.startswith("a came to ValueError, of ")
            assert message.endswith("File too large")
            assert await box.value("after") == await box.value("before")

    asyncio.run(scenario())


def test_arguments_there_is_no_room_for_are_the_failure_of_their_task() -> None:
    """The agent itself must go on."""

    async def scenario() -> None:
        async with working(executors=1) as box:
            box.submit("before", len, b"")
            assert await box.value("before") == 0
            with full_disk():
                box.submit("a", len, bytes(500_000))
                answer = await box.answer("a")
            assert isinstance(answer, Erred)
            assert answer.failure.message.startswith("the arguments of a can't be handed to its executor: ")
            box.submit("after", len, bytes(500_000))
            assert await box.value("after") == 500_000

    asyncio.run(scenario())


def test_a_folder_shadows_no_standard_module_but_its_own_can_be_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker may be started anywhere, and `queue.py` is a name people give to files."""
    (tmp_path / "queue.py").write_text("raise SystemExit('this is not the queue you are looking for')\n")
    (tmp_path / "only_here.py").write_text("VALUE = 7\n")
    monkeypatch.chdir(tmp_path)

    def look() -> tuple[str, int]:
        queue, only_here = __import__("queue"), __import__("only_here")
        return queue.Queue.__name__, only_here.VALUE

    async def scenario() -> None:
        async with working(executors=1) as box:
            box.submit("a", look)
            assert await box.value("a") == ("Queue", 7)

    asyncio.run(scenario())


def test_a_file_of_another_file_system_is_taken_over(tmp_path: Path) -> None:
    """It is copied beside the loop, for which heartbeats and everybody else's tasks would have to wait."""

    async def scenario(path: Path) -> None:
        async with working(executors=1) as box:
            box.events.deliver([AdoptFile("a", str(path), path.stat().st_size)])
            stored = await box.until(lambda: next((m for m in box.mail if isinstance(m, Stored)), None))
            assert Path(stored.path).is_relative_to("/dev/shm")
            assert Path(stored.path).read_bytes() == b"value" * 2_000_000
            assert Path(stored.path).stat().st_mode & 0o777 == 0o600
            assert not path.exists()
        assert "copies" not in {thread.name for thread in threading.enumerate()}

    source = tmp_path / "theirs"
    source.write_bytes(b"value" * 2_000_000)
    asyncio.run(scenario(source))
