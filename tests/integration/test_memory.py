"""A worker with more data than memory, with real processes, files and disks: right answers, and it lives."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from futurebroker import Client, LocalCluster
from futurebroker.exceptions import ExecutorDiedError, ResultError
from futurebroker.protocol.messages import AdoptFile, DataLost, DataPart, DataWanted, Finished, Happened, Held, Stored
from futurebroker.worker.gauge import own_bytes
from tests.integration.agent import Mailbox, working
from tests.integration.test_worker_trouble import full_disk

MiB = 2**20


def block(number: int, nbytes: int) -> Any:
    """An array that tells which it is at every place."""
    return np.full(nbytes, number % 251, dtype=np.uint8)


def digest(array: Any) -> tuple[int, int, int]:
    """Its length and what it is at both ends."""
    return len(array), int(array[0]), int(array[-1])


def metrics_of(client: Client) -> dict[str, Any]:
    """What the only worker tells of itself after this was called; each look goes to the scheduler and back."""
    called = time.time()
    while True:
        (worker,) = client.scheduler_info()["workers"].values()
        metrics: dict[str, Any] = worker["metrics"]
        if metrics["time"] >= called:
            return metrics


def kinds_of(client: Client) -> list[str]:
    """What became of its memory."""
    (worker,) = client.scheduler_info()["workers"].values()
    return [event["kind"] for event in worker["events"]]


def own_memory(process: psutil.Process) -> int:
    """What the client itself takes, without mapped files."""
    memory = process.memory_info()
    return int(memory.rss - memory.shared)


# -- more data than memory -----------------------------------------------------------------------------------------


def test_two_gigabytes_pass_through_a_worker_of_half_of_one() -> None:
    """Results go to disk and come back right; nothing is killed, and the limit holds."""
    size = 20 * MiB
    with LocalCluster(executors_per_worker=2, memory_limit="512MiB") as cluster, cluster.get_client() as client:
        blocks = [client.submit(block, number, size) for number in range(100)]
        digests = client.gather(client.map(digest, blocks))
        assert digests == [(size, number, number) for number in range(100)]
        metrics = metrics_of(client)
        assert metrics["memory_counts"]["killed"] == 0
        assert metrics["peak"] <= metrics["limit"] == 512 * MiB
        assert metrics["spilled"] >= 60 * size
        assert metrics["spilled_kinds"].keys() == {"block"}


def test_one_result_that_nearly_fills_the_memory_streams_to_disk_and_to_the_client() -> None:
    """It is never in memory twice, neither here nor there."""
    size = 300 * MiB
    with LocalCluster(executors_per_worker=1, memory_limit="512MiB") as cluster, cluster.get_client() as client:
        before = own_memory(psutil.Process())
        array = client.submit(block, 7, size).result()
        assert digest(array) == (size, 7, 7)
        assert own_memory(psutil.Process()) - before < 64 * MiB
        metrics = metrics_of(client)
        assert metrics["peak"] <= metrics["limit"]
        assert metrics["memory_counts"]["killed"] == 0


def beside_us(nbytes: int) -> int:
    """A limit for a worker whose agent is this process, with all that tests before have left in it."""
    return own_bytes(os.getpid()) + nbytes


# -- disks that fail -----------------------------------------------------------------------------------------------


async def _fill(box: Mailbox, count: int, nbytes: int) -> list[Finished]:
    for number in range(count):
        box.submit(f"b-{number}", block, number, nbytes)
    answers = [await box.answer(f"b-{number}") for number in range(count)]
    assert all(isinstance(answer, Finished) for answer in answers), answers
    return answers


async def _read(box: Mailbox, answers: list[Finished], attempt: int = 1) -> None:
    """Every result is what it was, through an executor."""
    for number, answer in enumerate(answers):
        held = Held(answer.key, answer.nbytes)
        box.submit(f"d-{number}", digest, held, attempt=attempt)
        assert await box.value(f"d-{number}", attempt) == (answer.nbytes // MiB * MiB, number, number)


async def _until_spilled(box: Mailbox, least: int) -> dict[str, Any]:
    found = await box.until(lambda: [m for _, m in box.heartbeats[-1:] if m["spilled"] >= least])
    metrics: dict[str, Any] = found[0]
    return metrics


def test_a_full_disk_loses_nothing_and_is_reported(tmp_path: Path) -> None:
    """Results stay in memory, and go to disk once that takes them again."""

    async def scenario() -> None:
        async with working(executors=1, memory_limit=beside_us(1024 * MiB), local_folder=str(tmp_path)) as box:
            answers = await _fill(box, 10, 4 * MiB)
            with full_disk():
                box.events._machine.memory.target = 20 * MiB
                await _fill_more(box)
                (trouble,) = await box.until(lambda: [m for m in box.mail if isinstance(m, Happened)])
                assert trouble.kind == "spill_failed"
                assert "File too large" in trouble.text
                assert box.heartbeats[-1][1]["memory_counts"]["killed"] == 0
                await _read(box, answers)
                assert sum(path.stat().st_size for path in tmp_path.rglob("*.sealed")) <= 4096  # one being tried
            await _until_spilled(box, 20 * MiB)
            box.mail.clear()
            await _read(box, answers, attempt=2)

    asyncio.run(scenario())


def test_a_disk_that_is_gone_loses_nothing(tmp_path: Path) -> None:
    """As a mount that went away, or a folder somebody cleaned up."""

    async def scenario() -> None:
        limit = beside_us(1024 * MiB)
        async with working(
            executors=1, memory_limit=limit, thresholds={"target": 20 * MiB / limit}, local_folder=str(tmp_path)
        ) as box:
            (folder,) = (path for path in (tmp_path / f"futurebroker-{os.getuid()}").iterdir() if path.is_dir())
            folder.rename(tmp_path / "away")
            answers = await _fill(box, 10, 4 * MiB)
            await box.until(lambda: [m for m in box.mail if isinstance(m, Happened) and m.kind == "spill_failed"])
            await _read(box, answers)
            (tmp_path / "away").rename(folder)

    asyncio.run(scenario())


@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_what_a_disk_has_changed_is_computed_again_and_never_returned(tmp_path: Path, harm: str) -> None:
    """A task that needs it gets the right value."""
    cluster = LocalCluster(executors_per_worker=1, memory_limit="512MiB", local_folder=str(tmp_path))
    with cluster, cluster.get_client() as client:
        made = client.submit(block, 5, 370 * MiB)
        assert client.submit(digest, made).result() == (370 * MiB, 5, 5)
        (path,) = tmp_path.rglob("*.sealed")
        _harm(path, harm)
        assert client.submit(digest, made, key="again").result() == (370 * MiB, 5, 5)


@pytest.mark.parametrize("harm", ["flip", "cut"])
def test_damaged_data_of_a_client_is_an_error_that_names_it(harm: str, tmp_path: Path) -> None:
    """There is no other copy, and wrong bytes would be worse than none."""

    async def scenario() -> None:
        async with working(executors=1, memory_limit=beside_us(256 * MiB), local_folder=str(tmp_path)) as box:
            source = tmp_path / "theirs"
            source.write_bytes(bytes(range(256)) * 10_000)
            # No room in memory for it: it is copied to the disk, with checksums.
            box.events._machine.memory.plan = box.events._machine.memory.plan.__class__(limit=1, in_memory=False)
            box.events.deliver([AdoptFile("data", str(source), 2_560_000)])
            stored = await box.answer("data", 0)
            assert isinstance(stored, Stored)
            assert stored.path.endswith(".sealed")
            _harm(Path(stored.path), harm)
            box.events.deliver([DataWanted(1, "data", 0, 1000, "w", "c")])
            lost = await box.until(lambda: [m for m in box.mail if isinstance(m, DataLost)])
            assert lost[0].key == "data"
            assert "damaged on the disk" in lost[0].reason
            (part,) = (m for m in box.mail if isinstance(m, DataPart))
            assert (part.nbytes, part.data) == (-1, b"")

    asyncio.run(scenario())


def _harm(path: Path, harm: str) -> None:
    if harm == "remove":
        path.unlink()
    elif harm == "cut":
        os.truncate(path, path.stat().st_size // 2)
    else:
        with open(path, "r+b") as file:
            file.seek(0)
            byte = file.read(1)
            file.seek(0)
            file.write(bytes([byte[0] ^ 4]))
        with open(path, "r+b") as file:
            file.seek(path.stat().st_size // 3)
            file.write(b"\xff\x00")


# -- tasks that take too much --------------------------------------------------------------------------------------

_leaked: list[bytearray] = []


def leak(number: int, nbytes: int) -> int:
    """Keeps memory for ever, after a little work."""
    _leaked.append(bytearray(os.urandom(1) * nbytes))
    time.sleep(0.03)
    return number


def explode() -> None:
    """Takes all there is."""
    held: list[bytes] = []
    while True:
        held.append(b"x" * (8 * MiB + len(held)))


def wait_a_moment(number: int) -> int:
    """Something else that runs."""
    time.sleep(0.05)
    return number


def test_a_leaking_executor_is_replaced_between_tasks_and_stored_results_stay() -> None:
    """Every task finishes: none is killed for what those before it left behind."""
    with LocalCluster(executors_per_worker=2, memory_limit="1GiB") as cluster, cluster.get_client() as client:
        kept = client.submit(block, 9, 10 * MiB)
        kept_digest = client.submit(digest, kept).result()
        assert client.gather(client.map(leak, range(200), nbytes=10 * MiB)) == list(range(200))
        assert client.submit(digest, kept, key="later").result() == kept_digest
        counts = metrics_of(client)["memory_counts"]
        assert counts["recycled"] >= 2
        assert counts["killed"] == 0
        assert "recycled" in kinds_of(client)


def test_a_task_that_takes_all_memory_fails_with_the_figures_and_others_do_not_suffer() -> None:
    """It is killed before the kernel kills something, as often as it may be tried again."""
    with LocalCluster(executors_per_worker=2, memory_limit="400MiB") as cluster, cluster.get_client() as client:
        client.gather(client.map(wait_a_moment, range(4)))
        others = client.map(wait_a_moment, range(100, 107))
        bomb = client.submit(explode)
        with pytest.raises(ExecutorDiedError, match=r"SIGKILL of its worker, whose memory was at \d{3},\d{3},\d{3} of"):
            bomb.result(timeout=60)
        assert client.gather(others) == list(range(100, 107))
        assert "killed" in kinds_of(client)


class Lies:
    """Says that it is ten times as large as it is, or a tenth."""

    def __init__(self, nbytes: int, said: int) -> None:
        self.content = bytes(nbytes)
        self.said = said

    def __sizeof__(self) -> int:
        return self.said


class Refuses:
    """Can't be pickled."""

    def __init__(self, nbytes: int) -> None:
        self.content = bytearray(nbytes)

    def __reduce__(self) -> str:
        raise RuntimeError("not me")


def test_sizes_are_measured_and_what_cannot_be_pickled_fails_alone() -> None:
    """What objects say of their size is not asked."""
    with LocalCluster(executors_per_worker=1, memory_limit="512MiB") as cluster, cluster.get_client() as client:
        for said in (10_000, 100 * MiB):
            future = client.submit(Lies, 10 * MiB, said)
            client.submit(lambda _: None, future).result()
            assert 10 * MiB <= client.nbytes(future)[future.key] < 11 * MiB
        refused = client.submit(Refuses, 330 * MiB)
        with pytest.raises(ResultError, match=r"Refuses-.*can't be pickled.*not me"):
            refused.result()
        assert client.submit(digest, client.submit(block, 3, MiB)).result() == (MiB, 3, 3)
        assert metrics_of(client)["memory_counts"]["killed"] == 0


# -- the loop ------------------------------------------------------------------------------------------------------


def test_heartbeats_keep_their_time_while_much_is_spilled(tmp_path: Path) -> None:
    """The scheduler would take a worker that writes to a slow disk for dead."""

    async def scenario() -> None:
        gaps: list[float] = []
        async with working(executors=1, memory_limit=beside_us(4096 * MiB), local_folder=str(tmp_path)) as box:
            await _fill(box, 12, 50 * MiB)
            gaps.append(time.monotonic())
            lag = asyncio.create_task(_lag(gaps))
            memory = box.events._machine.memory
            memory.target = 0
            await _fill_more(box)
            await _until_spilled(box, 550 * MiB)
            lag.cancel()
        pauses = sorted(after - before for before, after in pairwise(gaps))
        assert pauses[-1] < 1.0
        assert pauses[int(len(pauses) * 0.99) - 1] < 0.1

    asyncio.run(scenario())


async def _fill_more(box: Mailbox) -> None:
    box.submit("nudge", len, b"")
    assert await box.value("nudge") == 0


async def _lag(marks: list[float]) -> None:
    while True:
        await asyncio.sleep(0.005)
        marks.append(time.monotonic())


# -- files that are written again ------------------------------------------------------------------------------------


def file_of(array: Any) -> int:
    """The number of the file that an array is a map of."""
    address = array.ctypes.data
    for line in Path("/proc/self/maps").read_text().splitlines():
        place, _, _, _, inode, *_ = line.split()
        start, end = (int(part, 16) for part in place.split("-"))
        if start <= address < end:
            return int(inode)
    raise AssertionError("it is no map")


def test_results_are_written_over_freed_ones_and_never_over_what_somebody_sees() -> None:
    """A client keeps arrays long after their futures; others it lets go of at once, as most programs do."""
    with Client(n_workers=1, executors_per_worker=2, memory_limit=1 << 30) as client:
        kept, files = [], []
        for number in range(60):
            array = client.submit(block, number, 4 * MiB).result()
            files.append(file_of(array))
            if number % 4 == 0:
                array[5] = 255  # what is written to a map is its own
                kept.append((number, array))
            del array
        for number, array in kept:
            array[5] = number % 251
            assert (array == block(number, 4 * MiB)).all()
        assert len({file_of(array) for _, array in kept}) == len(kept)
        assert len(set(files)) < len(files) - 10
        (memory,) = client.memory()["workers"].values()
        assert memory["freed"] <= memory["overhead"]
        assert memory["freed"] <= memory["limit"] // 10


def test_scattered_data_is_written_over_freed_files_as_well() -> None:
    """A client takes them from the worker that took over its first file; who sees what was there before is safe."""
    with Client(n_workers=1, executors_per_worker=1, memory_limit=1 << 30) as client:
        files, kept = [], []
        for number in range(12):
            future = client.scatter(block(number, 4 * MiB))
            array = future.result()
            files.append(file_of(array))
            if number < 3:
                kept.append(array)
            assert client.submit(digest, future).result() == digest(array)
            del array, future
        assert all((array == block(number, 4 * MiB)).all() for number, array in enumerate(kept))
        assert len(set(files)) < len(files)


def plus_one(array: Any) -> Any:
    """Another result of the same size, from one that is mapped."""
    return array + np.uint8(1)


def test_no_array_changes_while_files_are_written_again_and_executors_are_killed() -> None:
    """Arrays of the client, inputs of tasks and results that wait are all seen by somebody, whoever else is killed."""
    chance = random.Random(3)
    with (
        LocalCluster(n_workers=2, executors_per_worker=1, memory_limit=700 * MiB) as cluster,
        cluster.get_client() as client,
    ):
        arrays: list[tuple[int, Any]] = []
        results: list[tuple[int, Any]] = []
        files = []
        for number in range(1, 121):
            made = client.submit(block, number, chance.choice((1, 2, 3, 8)) * MiB)
            results.append((number + 1, client.submit(plus_one, made)))
            arrays.append((number, made.result(timeout=60)))
            files.append(file_of(arrays[-1][1]))
            if number % 40 == 20:
                pids = [
                    child.pid for worker in cluster.workers.values() for child in psutil.Process(worker.pid).children()
                ]
                os.kill(chance.choice(pids), signal.SIGKILL)
            if len(arrays) > 8:
                known, array = arrays.pop(chance.randrange(len(arrays)))
                assert (array == known).all()
                known, future = results.pop(chance.randrange(len(results)))
                assert (future.result(timeout=60) == known).all()
                del array, future
            del made
        assert all((array == known).all() for known, array in arrays)
        assert all((future.result(timeout=60) == known).all() for known, future in results)
        assert len(set(files)) < len(files) - 20
