"""What the journal costs, and how fast a scheduler comes back: ``python -m bench.durability``.

Modes are measured in turn, several times, so that a busy machine is as busy for each; ratios are of medians. Mode
``full`` needs PostgreSQL, at the address in BENCH_POSTGRES_URL.
"""

from __future__ import annotations

import json
import os
import secrets
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from urllib.parse import urlsplit, urlunsplit

import click
import psycopg

from bench.tasks import inc
from futurebroker import Client
from futurebroker.persistence import lease, revisions
from futurebroker.persistence.database import open_engine
from futurebroker.persistence.journal import Journal
from futurebroker.persistence.upkeep import size as database_size
from futurebroker.protocol.facts import VERSION, Batch, encode_batch
from futurebroker.protocol.messages import AddFunction, Finished, Submit
from futurebroker.protocol.wire import Seal
from futurebroker.scheduler.commands import ClientSaid, WorkerJoined, WorkerSaid
from futurebroker.scheduler.folder import fold
from futurebroker.scheduler.machine import SchedulerMachine
from futurebroker.scheduler.restoring import restore
from futurebroker.scheduler.state import Policy, SchedulerState

SECRET = b"bench"
#: tasks that one batch of a written journal has
BATCH = 500


@contextmanager
def database(mode: str) -> Iterator[str | None]:
    """The URL of an empty database for a mode."""
    if mode == "none":
        yield None
    elif mode == "process":
        with tempfile.TemporaryDirectory(prefix="fbbench-") as folder:
            yield f"sqlite:///{folder}/journal.db"
    else:
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
    """Bytes of the database while ``tasks`` run through a scheduler that folds each ``limit`` bytes."""
    largest = 0
    with tempfile.TemporaryDirectory(prefix="fbbench-") as folder:
        url = f"sqlite:///{folder}/journal.db"
        os.environ["FUTUREBROKER_JOURNAL_LIMIT"] = str(limit)
        with Client(
            n_workers=1, executors_per_worker=2, threads_per_worker=1, journal="process", database_url=url
        ) as client:
            for _ in range(0, tasks, 10_000):
                client.gather(client.map(inc, range(10_000)))
                files = [path.stat().st_size for path in Path(folder).iterdir()]
                largest = max(largest, sum(files))
        engine = open_engine(url)
        final = database_size(engine)
        engine.dispose()
    return {"tasks": tasks, "limit": limit, "largest": largest, "final": final}


@click.command()
@click.option("--tasks", default=20_000, show_default=True, help="Calls of one measurement.")
@click.option("--repeat", default=5, show_default=True)
@click.option("--recover", default="100000,1000000", show_default=True, help="Tasks to recover, with commas.")
@click.option("--grow", default=200_000, show_default=True, help="Tasks that run while the journal's size is watched.")
@click.option("--soak", is_flag=True, help="Five million tasks for the journal's size.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the figures there as JSON.")
def main(tasks: int, repeat: int, recover: str, grow: int, soak: bool, out: Path | None) -> None:
    """Measure what the journal costs, recovery, and growth."""
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
    for count in [int(one) for one in recover.split(",") if one]:
        with database("process") as url:
            assert url is not None
            write_journal(url, count, count // 2)
            found_ = recovery(url)
        figures[f"recovery {count}"] = found_
        click.echo(f"{count:,} tasks: " + ", ".join(f"{name} {value:.2f}" for name, value in found_.items()))
    if grow or soak:
        grown = growth(5_000_000 if soak else grow, 4 * 2**20)
        figures["growth"] = grown
        click.echo(f"{grown['tasks']:,.0f} tasks: the database had at most {grown['largest'] / 2**20:,.1f} MiB")
    if out is not None:
        out.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
