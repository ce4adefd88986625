"""``futurebroker status``: workers, tasks, queues and what was dropped, once or again and again."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import click

from futurebroker.amounts import show_bytes
from futurebroker.client.client import Client
from futurebroker.config import load_settings
from futurebroker.secret import normalize_address

#: seconds between the two looks that a rate is made of
LOOK = 0.5
#: kinds of tasks shown
KINDS = 20


@click.command()
@click.argument("address", required=False)
@click.option("--cluster", help="The name that keeps clusters on one broker apart. [default]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a look.")
@click.option("--watch", type=click.FloatRange(min=0.1), metavar="SECONDS", help="Look again and again until Ctrl-C.")
@click.option("--timeout", help="How long to wait for the scheduler. [10s]")
def status(address: str | None, cluster: str | None, as_json: bool, watch: float | None, timeout: str | None) -> None:
    """Show workers, tasks and queues of the cluster at ADDRESS.

    Without it, FUTUREBROKER_BROKER_URL counts, and then a scheduler on this machine.
    """
    settings = load_settings(broker_url=address, cluster=cluster, connect_timeout=timeout)
    url = normalize_address(settings.broker_url or f"{settings.host}:{settings.port}", settings)
    client = Client(
        url, cluster=settings.cluster, timeout=settings.connect_timeout, set_as_default=False, name="status"
    )
    with client:
        before, began = client.scheduler_info(), time.monotonic()
        while True:
            time.sleep(watch or LOOK)
            info, now = client.scheduler_info(), time.monotonic()
            shown = with_rates(info, before, now - began)
            if watch and not as_json:
                click.clear()
            click.echo(json.dumps(shown) if as_json else "\n".join(lines_of(shown)))
            if not watch:
                return
            before, began = info, now


def with_rates(info: dict[str, Any], before: dict[str, Any], seconds: float) -> dict[str, Any]:
    """``info`` with ``rate``, runs ended a second since ``before``, for each kind and for all."""
    kinds = {}
    for name, kind in info["kinds"].items():
        ended = before["kinds"].get(name, {}).get("ended", 0)
        kinds[name] = {**kind, "rate": round(max(kind["ended"] - ended, 0) / seconds, 1)}
    total = round(sum(kind["rate"] for kind in kinds.values()), 1)
    # Whoever asks is a client, which nobody wants to count.
    return {**info, "kinds": kinds, "rate": total, "clients": info["clients"] - 1}


def lines_of(info: dict[str, Any]) -> Iterator[str]:
    """The lines that people read."""
    about = info["scheduler"]
    yield f"scheduler on {about['host']}, futurebroker {about['version']}; clients: {info['clients']}"
    yield ""
    yield from _table(("worker", "host", "status", "slots", "cpu", "memory", "processing", "results"), _workers(info))
    yield ""
    tasks = "  ".join(f"{state} {count:,}" for state, count in info["tasks"].items() if count)
    yield f"tasks: {tasks or 'none'}; {info['rate']:,} a second"
    kinds = sorted(info["kinds"].items(), key=lambda item: (-item[1]["rate"], -sum(item[1]["states"].values())))
    if kinds:
        yield from _table(("kind", "rate/s", "mean", "ended", "errors", "now"), map(_kind, kinds[:KINDS]))
    if len(kinds) > KINDS:
        yield f"and {len(kinds) - KINDS} kinds more"
    for queue in info["queues"]:
        yield _queue(queue)
    for title, counters in (("events", info["counters"]), ("dropped envelopes", info["rejected"])):
        shown = "  ".join(f"{name} {count:,}" for name, count in counters.items() if count)
        if shown:
            yield f"{title}: {shown}"


def _workers(info: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for worker in sorted(info["workers"].values(), key=lambda worker: str(worker["name"])):
        metrics = worker["metrics"]
        memory = show_bytes(metrics["memory"]) if "memory" in metrics else "-"
        if worker["memory_limit"]:
            memory += f" of {show_bytes(worker['memory_limit'])}"
        cpu = f"{metrics['cpu']:.0f}%" if "cpu" in metrics else "-"
        place = (worker["name"], worker["host"], worker["status"], str(worker["nthreads"]), cpu, memory)
        yield *place, str(worker["processing"]), str(worker["holds"])


def _kind(item: tuple[str, dict[str, Any]]) -> tuple[str, ...]:
    name, kind = item
    mean = "-" if kind["duration"] is None else f"{kind['duration'] * 1000:,.3g} ms"
    now = " ".join(f"{state} {count:,}" for state, count in kind["states"].items())
    return name[:40], f"{kind['rate']:,}", mean, f"{kind['ended']:,}", f"{kind['errors']:,}", now or "-"


def _queue(queue: dict[str, Any]) -> str:
    wishes = [f"workers={','.join(queue['workers'])}"] if queue["workers"] else []
    wishes += [f"{name}={amount:g}" for name, amount in queue["resources"].items()]
    wishes += [f"priority={queue['priority']}"] if queue["priority"] else []
    which = " ".join(wishes) or "any worker"
    waiting = f"{queue['queued']:,} queued"
    if queue["no_worker"]:
        waiting += f", {queue['no_worker']:,} that no connected worker may run"
    return f"backlog for {which}: {waiting}; {queue['eligible']} workers"


def _table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> Iterator[str]:
    table = [head, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    for row in table:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()
    if len(table) == 1:
        yield "none"
