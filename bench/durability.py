"""What the journal costs, how it grows, and how fast a scheduler comes back: ``python -m bench --journal``.

Modes are measured in turn, several times, so that a busy machine is as busy for each; ratios are of medians. Mode
``full`` needs PostgreSQL, at the address in BENCH_POSTGRES_URL.
"""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from time import perf_counter
from urllib.parse import urlsplit, urlunsplit

import click

from bench import cpu
from bench.tasks import inc
from futurebroker import Client
from futurebroker.persistence import lease, revisions
from futurebroker.persistence.database import open_engine
from futurebroker.persistence.journal import Journal
from futurebroker.protocol.facts import VERSION, Batch, encode_batch
from futurebroker.protocol.messages import AddFunction, Finished, Submit
from futurebroker.protocol.wire import Seal
from futurebroker.scheduler.commands import ClientSaid, WorkerJoined, WorkerSaid
from futurebroker.scheduler.folder import fold
from futurebroker.scheduler.folding import MOST
from futurebroker.scheduler.machine import SchedulerMachine
from futurebroker.scheduler.restoring import restore
from futurebroker.scheduler.state import Policy, SchedulerState

SECRET = b"bench"
#: tasks that one batch of a written journal has
BATCH = 500
#: calls of one measurement of throughput; journals to come back from
TASKS = 20_000
RECOVERED = (100_000, 1_000_000)
#: tasks that run while the journal's size is watched, in a soak, and at a time; and how much is folded
GROW, GROW_SOAK, CHUNK = 200_000, 5_000_000, 10_000
GROWN_LIMIT = 4 * 2**20


@contextmanager
def database(mode: str) -> Iterator[str | None]:
    """The URL of an empty database for a mode."""
    if mode == "none":
        yield None
    elif mode == "process":
        with tempfile.TemporaryDirectory(prefix="fbbench-") as folder:
            yield f"sqlite:///{folder}/journal.db"
    else:
        import psycopg  # noqa: PLC0415 - an extra of its own

        server = os.environ["BENCH_POSTGRES_URL"]
        name = f"fbbench_{secrets.token_hex(4)}"
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
            url = urlunsplit(urlsplit(server)._replace(path=f"/{name}"))
            engine = open_engine(url)
            revisions.upgrade(engine)
            engine.dispose()
            try:
                yield url
            finally:
                connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def throughput(mode: str, tasks: int) -> float:
    """Tasks a second, submitted one by one and gathered."""
    with database(mode) as url:
        client = Client(
            n_workers=1, executors_per_worker=2, threads_per_worker=1, journal=mode, database_url=url
        )  # fmt: skip
        with client:
            client.gather([client.submit(inc, i) for i in range(200)])
            began = perf_counter()
            answers = client.gather([client.submit(inc, i) for i in range(tasks)])
            seconds = perf_counter() - began
        assert sum(answers) == tasks * (tasks + 1) // 2
    return tasks / seconds


def write_journal(url: str, tasks: int, done: int) -> None:
    """A journal of ``tasks`` accepted calls, the first ``done`` of which have finished."""
    engine = open_engine(url)
    revisions.upgrade(engine)
    holder = lease.Holder("bench", "", "")
    journal = Journal(engine, "bench", lease.take(engine, "bench", holder, lambda _: True), Seal(SECRET))
    machine = SchedulerMachine(Policy(client_tasks=tasks * 2))
    state = machine.state
    state.facts = []
    machine.handle(WorkerJoined("w", {"name": "w", "slots": tasks * 2}), 0.0)
    state.workers["w"].limit = tasks * 2
    state.workers["w"].window = float(tasks)
    digest = b"f" * 16
    machine.handle(ClientSaid("c", [AddFunction(digest, "inc", b"code" * 50)]), 0.0)
    for row, start in enumerate(range(0, tasks, BATCH), 1):
        keys = [f"inc-abcdefgh-{number}" for number in range(start, min(start + BATCH, tasks))]
        machine.handle(ClientSaid("c", [Submit(digest, keys, [b"x" * 20] * len(keys))]), 1.0)
        if start < done:
            reports = [Finished(key, state.tasks[key].attempt, 5, 100, b"12345") for key in keys]
            machine.handle(WorkerSaid("w", reports), 1.0)
        journal.append(row, encode_batch(Batch(VERSION, 1.0, time.time(), state.facts)))
        state.facts = []
    journal.close()


def recovery(url: str) -> dict[str, float]:
    """Seconds to replay a journal, to fold it, and to load the checkpoint."""
    found = {}
    engine = open_engine(url)
    journal = Journal(engine, "bench", 1, Seal(SECRET))
    for what in ("replay", "load"):
        state = SchedulerState(Policy(client_tasks=10_000_000))
        began = perf_counter()
        restore(journal, state, 0.0)
        found[what] = perf_counter() - began
        found["tasks"] = len(state.tasks)
        del state
        if what == "replay":
            began = perf_counter()
            fold(journal, journal.last(), Policy(client_tasks=10_000_000))
            found["fold"] = perf_counter() - began
    journal.close()
    return found


def growth(tasks: int, limit: int) -> dict[str, float]:
    """Bytes of the journal and of the database's files while ``tasks`` run, with folds each ``limit`` bytes."""
    largest = journal = checkpoint = 0
    with tempfile.TemporaryDirectory(prefix="fbbench-") as folder:
        path = Path(folder) / "journal.db"
        os.environ["FUTUREBROKER_JOURNAL_LIMIT"] = str(limit)
        with (
            Client(
                n_workers=1, executors_per_worker=2, threads_per_worker=1, journal="process",
                database_url=f"sqlite:///{path}",
            ) as client,
            closing(sqlite3.connect(path)) as connection,
        ):  # fmt: skip
            before = cpu.snapshot()
            for _ in range(0, tasks, CHUNK):
                answers = client.gather(client.map(inc, range(CHUNK)))
                assert sum(answers) == CHUNK * (CHUNK + 1) // 2
                journal = max(journal, _bytes(connection, "journal"))
                checkpoint = max(checkpoint, _bytes(connection, "checkpoints"))
                largest = max(largest, sum(one.stat().st_size for one in Path(folder).iterdir() if one.is_file()))
            usage = cpu.snapshot().since(before)
    return {
        "tasks": tasks, "limit": limit, "bound": MOST * max(limit, checkpoint), "journal": journal,
        "checkpoint": checkpoint, "files": largest,
        "seconds": usage.seconds, "cpu_seconds": usage.cpu_seconds,
    }  # fmt: skip


def _bytes(connection: sqlite3.Connection, table: str) -> int:
    (found,) = connection.execute(f"SELECT coalesce(sum(length(body)), 0) FROM {table}").fetchone()
    return int(found)


def run(tasks: int, repeat: int, recover: Sequence[int], grow: int, out: Path | None) -> None:
    """Measure; print it and write it as JSON. What is 0 or empty is left out.

    Args:
        tasks: calls of one measurement of throughput.
        recover: sizes of journals to come back from.
        grow: tasks that run while the journal's size is watched.
    """
    figures: dict[str, object] = {}
    modes = ["none", "process", *(["full"] if os.environ.get("BENCH_POSTGRES_URL") else [])]
    rates: dict[str, list[float]] = {mode: [] for mode in modes}
    for _ in range(repeat if tasks else 0):
        for mode in modes:
            rates[mode].append(throughput(mode, tasks))
    for mode, found in rates.items():
        if found:
            rate, base = statistics.median(found), statistics.median(rates["none"])
            click.echo(f"{mode:<8} {rate:>10,.0f} tasks/s  cost {100 * (1 - rate / base):5.1f} %")
            figures[mode] = {"rate": rate, "cost": 1 - rate / base, "samples": found}
    for count in recover:
        with database("process") as url:
            assert url is not None
            write_journal(url, count, count // 2)
            recovered = recovery(url)
        figures[f"recovery {count}"] = recovered
        click.echo(f"{count:,} tasks: " + ", ".join(f"{name} {value:.2f}" for name, value in recovered.items()))
    if grow:
        grown = growth(grow, GROWN_LIMIT)
        figures["growth"] = grown
        sizes = [
            f"{name} {grown[name] / 2**20:,.1f} MiB" for name in ("limit", "journal", "bound", "checkpoint", "files")
        ]
        click.echo(f"{grow:,} tasks in {grown['seconds']:.0f} s: at most " + ", ".join(sizes))
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(figures, indent=2))


@click.command()
@click.option("--tasks", default=TASKS, show_default=True, help="Calls of one measurement.")
@click.option("--repeat", default=5, show_default=True)
@click.option("--recover", default="100000,1000000", show_default=True, help="Tasks to recover, with commas.")
@click.option("--grow", default=GROW, show_default=True, help="Tasks that run while the journal's size is watched.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the figures there as JSON.")
def main(tasks: int, repeat: int, recover: str, grow: int, out: Path | None) -> None:
    """Measure what the journal costs, recovery, and growth."""
    run(tasks, repeat, [int(one) for one in recover.split(",") if one], grow, out)


if __name__ == "__main__":
    main()
