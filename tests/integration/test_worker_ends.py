"""Executors and agents that end, by themselves or by force: who is blamed, what goes on, what is left."""

from __future__ import annotations

import asyncio
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from futurebroker.data.folders import StoreFolder
from futurebroker.protocol.messages import ExecutorDied, Finished, GaveBack, Leave
from tests.integration.agent import working


def exit_at_once() -> None:
    os._exit(3)


def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def touch_nothing() -> None:
    ctypes.string_at(0)


@pytest.mark.parametrize(
    ("end", "how"),
    [
        (exit_at_once, "exit code 3"),
        (kill_itself, "signal 9 (SIGKILL)"),
        (touch_nothing, "signal 11 (SIGSEGV)"),
    ],
)
def test_a_crash_is_blamed_on_the_task_that_ran_and_on_no_other(end: Callable[[], None], how: str) -> None:
    """The others of its packet finish elsewhere, and another executor takes the place of the dead."""

    def either(crash: bool) -> int:
        if crash:
            end()
        return 1

    async def scenario() -> None:
        async with working(executors=1) as box:
            for i in range(200):
                box.submit(f"warm{i}", either, False)
            await box.until(lambda: len(box.mail) >= 200)
            for i in range(100):
                box.submit(f"t{i}", either, i == 40)
            await box.until(lambda: sum(isinstance(m, (Finished, ExecutorDied)) for m in box.mail) >= 300)
            assert [m for m in box.mail if isinstance(m, ExecutorDied)] == [ExecutorDied("t40", 1, how)]
            assert sum(isinstance(m, Finished) for m in box.mail) == 299

    asyncio.run(scenario())


def test_what_a_dead_executor_left_half_written_is_deleted() -> None:
    """On tmpfs it would take memory until the worker ends; finished results stay."""

    def die_writing() -> None:
        for descriptor in Path("/proc/self/maps").read_text().splitlines():
            if descriptor.endswith("crumbs"):
                Path(descriptor.split()[-1]).with_name("half").write_bytes(bytes(1000))
        os._exit(3)

    async def scenario() -> None:
        async with working(executors=1) as box:
            box.submit("big", bytes, 200_000)
            path = Path((await box.answer("big")).path)
            box.submit("a", die_writing)
            assert isinstance(await box.answer("a"), ExecutorDied)
            async with asyncio.timeout(10):  # by a thread of the agent's, after the report
                while list(path.parent.iterdir()) != [path]:
                    await asyncio.sleep(0.01)

    asyncio.run(scenario())


def test_every_thread_that_ran_a_task_is_named(tmp_path: Path) -> None:
    """With threads nobody can tell which of them ended the process; those that had not begun are innocent."""

    def crash_when_both_run(folder: str, name: str) -> None:
        Path(folder, name).touch()
        while len(os.listdir(folder)) < 2:
            time.sleep(0.001)
        if name == "a":
            os._exit(5)
        time.sleep(60)

    async def scenario(folder: Path) -> None:
        async with working(executors=1, threads=2) as box:
            for name in "ab":
                box.submit(name, crash_when_both_run, str(folder), name)
            box.submit("c", os.getpid)
            assert await box.value("c")
            deaths = {m.key for m in box.mail if isinstance(m, ExecutorDied)}
            assert deaths == {"a", "b"}

    asyncio.run(scenario(tmp_path))


def test_leaving_hands_back_what_has_not_begun_and_finishes_what_runs(tmp_path: Path) -> None:
    """A rolling restart loses nothing."""

    def hold(begun: str, path: str) -> int:
        Path(begun).write_bytes(b"!")
        while not os.path.exists(path):
            time.sleep(0.001)
        return 7

    async def scenario(path: str) -> None:
        os.mkfifo(f"{path}-begun")
        async with working(executors=1) as box:
            for name in "abc":
                box.submit(name, hold, f"{path}-begun", path)
            assert await asyncio.to_thread(Path(f"{path}-begun").read_bytes) == b"!"
            box.events.deliver([Leave("restart")])
            await box.until(lambda: len(box.mail) >= 2)
            assert sorted(m.key for m in box.mail if isinstance(m, GaveBack)) == ["b", "c"]
            Path(path).touch()
            assert await box.value("a") == 7
            await box.events.finished()
            assert box.goodbye == "restart"

    asyncio.run(scenario(str(tmp_path / "leave")))


def test_nothing_is_left_after_closing() -> None:
    """Descriptors, threads, processes and files: a worker in somebody's program must not leak."""

    async def scenario() -> tuple[str, list[int]]:
        async with working(executors=2) as box:
            box.submit("a", bytes, 1_000_000)
            folder = str(Path((await box.answer("a")).path).parent)
            return folder, [child.pid for child in psutil.Process().children()]

    asyncio.run(scenario())
    before = len(os.listdir("/proc/self/fd"))
    folder, pids = asyncio.run(scenario())
    assert len(os.listdir("/proc/self/fd")) == before
    assert not Path(folder).exists()
    assert not any(psutil.pid_exists(pid) for pid in pids)


AGENT = """
import asyncio, os, sys, time
from tests.integration.agent import working
def busy():
    while True:
        pass
async def main():
    async with working(executors=2, local_folder=sys.argv[1]) as box:
        box.submit("a", os.getpid); box.submit("b", bytes, 500_000); box.submit("c", busy)
        await box.answer("a")
        path = (await box.answer("b")).path
        pids = [executor.pid for executor in box.events._running.values()]
        print(os.path.dirname(path), *pids, flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""


def test_a_killed_agent_takes_its_executors_along_and_its_folder_is_swept(tmp_path: Path) -> None:
    """Executors without an agent would run for ever; files on tmpfs would fill the machine's memory."""
    agent = subprocess.Popen([sys.executable, "-c", AGENT, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert agent.stdout is not None
    with agent.stdout:
        folder, *pids = agent.stdout.readline().split()
    handles = [os.pidfd_open(int(pid)) for pid in pids]
    agent.kill()
    agent.wait()
    for handle in handles:
        assert select.select([handle], [], [], 10)[0], "an executor outlived its agent"
        os.close(handle)
    (on_disk,) = (path for path in (tmp_path / f"futurebroker-{os.getuid()}").iterdir() if path.is_dir())
    for another in (StoreFolder.make(), StoreFolder.make_on_disk(str(tmp_path))):
        another.close()
    assert not Path(folder).exists()
    assert not on_disk.exists()


WORKER = """
import asyncio, os, sys
from futurebroker.worker.running import run_worker
from tests.integration.agent import Mailbox
class Box(Mailbox):
    async def connect(self, timeout):
        await super().connect(timeout)
        def hold(path):
            import os, time
            print("runs", flush=True)
            while not os.path.exists(path):
                time.sleep(0.001)
        self.submit("a", hold, sys.argv[1])
        self.submit("b", hold, sys.argv[1])
    def send(self, *messages):
        super().send(*messages)
        for message in messages:
            if hasattr(message, "key") and type(message).__name__ not in ("Happened", "Said"):
                print(type(message).__name__, message.key, flush=True)
asyncio.run(run_worker(url="", cluster="c", secret=b"", executors=1, make_link=Box))
"""


def test_a_worker_process_drains_at_the_first_sigterm_and_ignores_the_next(tmp_path: Path) -> None:
    """Platforms send SIGTERM more than once, and to every process; the second must not cost the running task."""
    worker = subprocess.Popen([sys.executable, "-c", WORKER, str(tmp_path / "go")], stdout=subprocess.PIPE, text=True)
    assert worker.stdout is not None
    with worker.stdout:
        assert worker.stdout.readline() == "runs\n"
        worker.terminate()
        assert worker.stdout.readline() == "GaveBack b\n"
        worker.terminate()
        (tmp_path / "go").touch()
        assert worker.stdout.readline() == "Finished a\n"
    assert worker.wait(20) == 0


def test_an_executor_that_cannot_start_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without this a broken installation looks like a hang."""
    monkeypatch.setattr("futurebroker.worker.executors._PROGRAM", "raise SystemExit(9)")

    async def scenario() -> Any:
        async with working(executors=1):
            pass

    with pytest.raises(Exception, match="an executor can't start: it ended with exit code 9"):
        asyncio.run(scenario())
