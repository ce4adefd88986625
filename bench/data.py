"""``python -m bench --data`` and ``--soak``: how fast data moves, beside peers and the machine's own speed.

Every figure stands beside what bounds it in the same run: a plain copy into memory, the disk's own writing, a peer.
"""

from __future__ import annotations

import json
import mmap
import multiprocessing
import os
import statistics
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, perf_counter, sleep
from typing import Any

import click
import numpy
import psutil

from bench.arrays import make_array, total
from bench.peers.ours_rabbitmq import RabbitMQPeer
from futurebroker import Client, LocalCluster
from futurebroker.data import channel
from futurebroker.data.channel import Credentials
from futurebroker.data.folders import StoreFolder
from futurebroker.data.pool import Pool
from futurebroker.data.reuse import FreedFiles
from futurebroker.data.server import DataServer, Source

GB = 1_000_000_000
ARRAY = 400_000_000
#: runs before those that are measured
WARM_UP = 4
MiB = 1024 * 1024

Figures = dict[str, float]


def measure(act: Callable[[], object], repeat: int) -> list[float]:
    """Seconds of each run."""
    seconds = []
    for _ in range(repeat):
        begun = perf_counter()
        act()
        seconds.append(perf_counter() - begun)
    return seconds


def warmed(act: Callable[[], object], repeat: int) -> list[float]:
    """As `measure`, after some that aren't: a virtual machine takes ten times as long to give memory it never gave."""
    measure(act, WARM_UP)
    return measure(act, repeat)


# -- one host, beside peers ----------------------------------------------------------------------------------------


def _ours(repeat: int) -> dict[str, list[float]]:
    with Client(n_workers=1, executors_per_worker=2) as client:
        array = numpy.ones(ARRAY // 8)
        client.submit(total, client.submit(make_array, 8_000)).result()
        client.scatter(array[:MiB]).result()

        def put() -> None:
            client.scatter(array)
            client.submit(int).result()  # it has been taken over when what comes behind it is done

        return {
            "task to task": warmed(lambda: client.submit(total, client.submit(make_array, ARRAY)).result(), repeat),
            "task to client": warmed(lambda: client.submit(make_array, ARRAY).result().sum(), repeat),
            "put": warmed(put, repeat),
        }


def _dask(repeat: int) -> dict[str, list[float]]:
    distributed = __import__("distributed")
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None, silence_logs=50
    )
    with cluster, distributed.Client(cluster) as client:
        first, second = client.scheduler_info()["workers"]

        def across() -> None:
            made = client.submit(make_array, ARRAY, pure=False, workers=[first])
            client.submit(total, made, pure=False, workers=[second]).result()

        return {
            "task to task": warmed(across, repeat),
            "task to client": warmed(lambda: client.submit(make_array, ARRAY, pure=False).result().sum(), repeat),
        }


def _ray(repeat: int) -> dict[str, list[float]]:
    ray = __import__("ray")
    ray.init(
        num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error",
        object_store_memory=2 << 30, _node_ip_address="127.0.0.1",
    )  # fmt: skip
    make, add = ray.remote(make_array), ray.remote(total)
    ray.get(add.remote(make.remote(8_000)))
    array = numpy.ones(ARRAY // 8)
    times = {
        "task to task": warmed(lambda: ray.get(add.remote(make.remote(ARRAY))), repeat),
        "task to client": warmed(lambda: ray.get(make.remote(ARRAY)).sum(), repeat),
        "put": warmed(lambda: ray.put(array), repeat),
    }
    ray.shutdown()
    return times


def _copy(repeat: int) -> dict[str, list[float]]:
    """What the machine can do: the array made, and copied into a file on tmpfs."""
    array = numpy.ones(ARRAY // 8)

    def put() -> None:
        with open("/dev/shm/futurebroker-bench", "wb", buffering=0) as file:
            view = memoryview(array.data).cast("B")
            while view:
                view = view[file.write(view) :]
        os.unlink("/dev/shm/futurebroker-bench")

    def across() -> None:
        made = make_array(ARRAY)
        total(made)

    return {"put": warmed(put, repeat), "task to task": warmed(across, repeat)}


PEERS: dict[str, Callable[[int], dict[str, list[float]]]] = {
    "futurebroker": _ours, "ray": _ray, "dask": _dask, "machine": _copy,
}  # fmt: skip


def _in_process(name: str, repeat: int, sink: Any) -> None:
    try:
        sink.send(PEERS[name](repeat))
    except ImportError as error:
        sink.send(str(error))


def arrays(repeat: int) -> dict[str, dict[str, list[float]]]:
    """400 MB from task to task, to the client, and put, by peer; each peer in a process of its own, in turns."""
    found: dict[str, dict[str, list[float]]] = {}
    for _ in range(repeat):
        for name in PEERS:
            source, sink = multiprocessing.get_context("spawn").Pipe()
            process = multiprocessing.get_context("spawn").Process(target=_in_process, args=(name, 1, sink))
            process.start()
            times = source.recv()
            process.join()
            if isinstance(times, str):
                click.echo(f"without {name}: {times}", err=True)
                continue
            for what, seconds in times.items():
                found.setdefault(name, {}).setdefault(what, []).extend(seconds)
    return found


# -- connections ---------------------------------------------------------------------------------------------------


def _serve(address: Any, path: str, guarded: bool) -> None:
    if guarded:
        channel.is_near = lambda connection: False
    server = DataServer(
        "127.0.0.1", Credentials(b"secret", "bench"), lambda key: Source(ARRAY, None, path), lambda nbytes: "", print
    )
    address.send(server.address)
    address.recv()
    server.close()


def _cpu(pid: int) -> float:
    """Seconds that a process has worked."""
    used = psutil.Process(pid).cpu_times()
    return float(used.user + used.system)


def direct(repeat: int, guarded: bool) -> tuple[list[float], Figures]:
    """Seconds to fetch 400 MB from another process over loopback into a file on tmpfs; CPU seconds a GB of each.

    As by a worker that frees what it got before it gets the next.
    """
    source, sink = multiprocessing.get_context("spawn").Pipe()
    folder = StoreFolder.make()
    path, got = str(folder.path / "value"), str(folder.path / "got")
    freed = FreedFiles.begin(folder.path)
    numpy.ones(ARRAY // 8).tofile(path)
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(sink, path, guarded))
    process.start()
    address = source.recv()
    near = channel.is_near
    if guarded:
        channel.is_near = lambda connection: False
    pool = Pool(Credentials(b"secret", "bench"), freed)

    def fetch() -> None:
        pool.fetch_to(address, "key", got)
        if freed is None or not freed.keep(got, ARRAY):
            os.unlink(got)

    try:
        fetch()
        assert process.pid is not None
        pids = {"receiver": os.getpid(), "sender": process.pid}
        before = {end: _cpu(pid) for end, pid in pids.items()}
        seconds = measure(fetch, repeat)
        cpu = {end: (_cpu(pid) - before[end]) * GB / ARRAY / repeat for end, pid in pids.items()}
    finally:
        channel.is_near = near
        pool.close()
        source.send(None)
        process.join()
        folder.close()
    return seconds, cpu


# -- the broker ----------------------------------------------------------------------------------------------------


def relay(nbytes: int, repeat: int) -> list[float] | None:
    """Seconds to fetch a result through RabbitMQ; None without one."""
    url = os.environ.get("FUTUREBROKER_TEST_RABBITMQ_URL")
    if not url:
        return None
    os.environ["FUTUREBROKER_DATA_WAYS"] = "bulk,relay"
    peer = RabbitMQPeer()
    peer.start()
    try:
        made = [peer.client.submit(make_array, nbytes) for _ in range(repeat + 1)]
        peer.client.gather(peer.client.map(total, made))
        made[0].result()
        return [seconds for one in made[1:] for seconds in measure(one.result, 1)]
    finally:
        peer.stop()
        del os.environ["FUTUREBROKER_DATA_WAYS"]


# -- the disk ------------------------------------------------------------------------------------------------------


def disk_speed(folder: str, nbytes: int = GB) -> Figures:
    """Bytes a second of writing and of reading one after another, past the page cache, so that it is the disk's own.

    And of both together: what is written and read again can't pass through faster.
    """
    chunk = memoryview(mmap.mmap(-1, 8 * MiB))
    chunk[:] = os.urandom(len(chunk))
    times = []
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        for act, flags in ((os.write, os.O_WRONLY), (lambda number, data: os.readv(number, [data]), os.O_RDONLY)):
            number = os.open(file.name, flags | os.O_DIRECT)
            begun = perf_counter()
            for _ in range(nbytes // len(chunk)):
                act(number, chunk)
            os.fdatasync(number)
            times.append(perf_counter() - begun)
            os.close(number)
    return {"write": nbytes / times[0], "read": nbytes / times[1], "both": nbytes / sum(times)}


@contextmanager
def watched(pids: Callable[[], list[int]]) -> Iterator[dict[str, int]]:
    """The most anonymous memory and tmpfs that a tree of processes took, looked at a hundred times a second."""
    found = {"peak": 0}
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.01):
            memory = 0
            for pid in pids():
                try:
                    info = psutil.Process(pid).memory_info()
                except psutil.Error:
                    continue
                memory += info.rss - info.shared
            found["peak"] = max(found["peak"], memory)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()


def spill(nbytes: int, limit: str, folder: str) -> Figures:
    """Intermediates of ``nbytes`` through a worker of ``limit``: made, and then all read again."""
    size = 20_000_000
    count = nbytes // size
    with LocalCluster(executors_per_worker=2, memory_limit=limit, local_folder=folder) as cluster:
        (worker,) = cluster.workers.values()

        def tree() -> list[int]:
            try:
                return [worker.pid, *(child.pid for child in psutil.Process(worker.pid).children(recursive=True))]
            except psutil.Error:
                return []

        with cluster.get_client() as client, watched(tree) as seen:
            begun = perf_counter()
            blocks = [client.submit(make_array, size) for _ in range(count)]
            sums = client.gather(client.map(total, blocks))
            seconds = perf_counter() - begun
            if sums != [size // 8] * count:
                raise SystemExit("wrong answer")
            deadline = monotonic() + 5
            while monotonic() < deadline and not client.memory()["workers"]:
                sleep(0.1)
            (memory,) = client.memory()["workers"].values()
            return {
                "seconds": seconds,
                "bytes_per_second": nbytes / seconds,
                "limit": memory["limit"],
                "peak": memory["peak"],
                "peak_of_processes": seen["peak"],
                "killed": memory["memory_counts"]["killed"],
                "spilled": memory["spilled"],
            }


def run(soak: bool, repeat: int, folder: str, out: Path) -> None:
    """Measure how data moves on this machine; print it and write it as JSON.

    Args:
        soak: only the disk, with 20 GB of intermediates instead of 2.
        folder: where the disk is.
    """
    found: dict[str, Any] = {}
    if not soak:
        found["arrays"] = arrays(repeat)
        for peer, times in found["arrays"].items():
            for what, seconds in times.items():
                click.echo(f"{what:16} {peer:14} {statistics.median(seconds):8.3f} s")
        for guarded in (False, True):
            seconds, cpu = direct(repeat, guarded)
            name = "direct, codes" if guarded else "direct"
            found[name], found[f"{name}, CPU seconds a GB"] = seconds, cpu
            speed = ARRAY / GB / statistics.median(seconds)
            ends = ", ".join(f"{end} {used:.2f}" for end, used in cpu.items())
            click.echo(f"{name:16} {speed:8.2f} GB/s, {ends} s of CPU a GB")
        through = relay(100_000_000, repeat)
        if through is not None:
            found["relay"] = through
            click.echo(f"relay by RabbitMQ {100 / statistics.median(through):8.0f} MB/s")
    found["disk_before"] = disk_speed(folder)
    found["spill"] = spill((20 if soak else 2) * GB, "512MiB", folder)
    found["disk_after"] = disk_speed(folder)
    disk = {name: (found["disk_before"][name] + found["disk_after"][name]) / 2 for name in ("write", "read", "both")}
    figures = found["spill"]
    click.echo(
        f"spill {figures['bytes_per_second'] / GB:.2f} GB/s written and read; "
        f"disk alone {disk['both'] / GB:.2f} (write {disk['write'] / GB:.2f}, read {disk['read'] / GB:.2f}); "
        f"peak {figures['peak'] / MiB:.0f} of {figures['limit'] / MiB:.0f} MiB, {figures['killed']} killed"
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(found, indent=1))
