"""``futurebroker top``: the dashboard's snapshot in the terminal, drawn again and again."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterator

import click

from futurebroker.amounts import show_bytes
from futurebroker.cli.text import harmless
from futurebroker.client.client import Client
from futurebroker.config import load_settings
from futurebroker.exceptions import FuturebrokerError
from futurebroker.secret import normalize_address
from futurebroker.snapshot import KindView, Snapshot, Tracker, WorkerView

#: columns a drawing takes at the least
NARROWEST = 40
#: how a bar shows each part, so that it is read without colours too
_PARTS = (("done", "█", "green"), ("failed", "!", "red"), ("processing", "▓", "blue"), ("queued", "▒", "cyan"),
          ("waiting", "░", "white"), ("no_worker", "?", "yellow"))  # fmt: skip
_LAMPS = {"ok": "green", "idle": "green", "warning": "yellow", "bad": "red"}


@click.command()
@click.argument("address", required=False)
@click.option("--cluster", help="The name that keeps clusters on one broker apart. [default]")
@click.option("--every", type=click.FloatRange(min=0.2), default=1.0, metavar="SECONDS", help="Between drawings. [1]")
@click.option("--once", is_flag=True, help="Draw once, after two looks, and end.")
@click.option("--json", "as_json", is_flag=True, help="Print snapshots as JSON, one a line.")
@click.option("--timeout", help="How long to wait for the scheduler. [10s]")
def top(address: str | None, cluster: str | None, every: float, once: bool, as_json: bool, timeout: str | None) -> None:
    """Watch progress, memory and backlog of the cluster at ADDRESS.

    Without it, FUTUREBROKER_BROKER_URL counts, and then a scheduler on this machine. Ctrl-C ends it.
    """
    settings = load_settings(broker_url=address, cluster=cluster, connect_timeout=timeout)
    url = normalize_address(settings.broker_url or f"{settings.host}:{settings.port}", settings)
    client = Client(url, cluster=settings.cluster, timeout=settings.connect_timeout, set_as_default=False, name="top")
    tracker = Tracker()
    with client:
        looks = 0
        while True:
            try:
                snapshot = tracker.take(client.overview(timeout=5.0), time.time())
            except (TimeoutError, FuturebrokerError) as error:
                click.echo(f"no answer: {error}; asking again", err=True)
                time.sleep(every)
                continue
            looks += 1
            if as_json:
                click.echo(json.dumps(snapshot.as_dict()))
            elif not once or looks == 2:
                _draw(snapshot, clear=not once and sys.stdout.isatty())
            if once and looks == 2:
                return
            time.sleep(every)


def _draw(snapshot: Snapshot, clear: bool) -> None:
    width, height = shutil.get_terminal_size((100, 40))
    lines = list(lines_of(snapshot, max(width, NARROWEST)))
    if clear:
        click.clear()
        lines = lines[: height - 1]
    click.echo("\n".join(lines))


def lines_of(snapshot: Snapshot, width: int) -> Iterator[str]:
    """What people read, for a terminal of ``width`` columns."""
    yield click.style("● ", fg=_LAMPS.get(snapshot.level, "white")) + click.style(harmless(snapshot.health), bold=True)
    for alert in snapshot.alerts:
        yield click.style(f"  {alert.level}: {harmless(alert.text)}", fg=_LAMPS.get(alert.level)) + f" ({alert.advice})"
    memory = snapshot.memory
    limit = f" of {show_bytes(memory['limit'])}" if memory["limit"] else ""
    yield (
        f"{snapshot.done:,} of {snapshot.total:,} done, {snapshot.failed:,} failed, {snapshot.rate:,.1f}/s; "
        f"memory {show_bytes(memory['used'])}{limit}, results {show_bytes(memory['managed'])}, "
        f"spilled {show_bytes(memory['spilled'])}"
    )
    if snapshot.kinds:
        yield ""
        for kind in snapshot.kinds:
            yield _kind(kind, width)
    if snapshot.workers:
        yield ""
        yield click.style(
            f"{'worker':20} {'status':8} {'running':>9} {'waiting':>8} {'cpu':>6} {'memory':>18}", dim=True
        )
        for worker in snapshot.workers:
            yield _worker(worker)
    if snapshot.queues:
        yield ""
        for queue in snapshot.queues:
            age = f", the first for {queue.oldest:,.0f} s" if queue.oldest is not None else ""
            unserved = f", {queue.no_worker:,} that nobody serves" if queue.no_worker else ""
            yield f"backlog for {harmless(queue.demand)}: {queue.queued:,} ready{unserved}{age}"


def _kind(kind: KindView, width: int) -> str:
    left = f"{kind.seconds_left:,.0f} s left" if kind.seconds_left else ""
    head = f"{harmless(kind.name[:20]):20} "
    tail = f" {kind.done:,}/{kind.total:,} {kind.rate:,.1f}/s {left}"
    room = max(8, width - len(head) - max(len(tail), 34))
    return head + bar(kind, room) + tail


def bar(kind: KindView, room: int) -> str:
    """A bar of ``room`` characters; every part that there is has at least one."""
    counts = {part: getattr(kind, part) for part, _, _ in _PARTS}
    whole = sum(counts.values())
    if not whole:
        return " " * room
    widths = {part: max(1, round(room * count / whole)) for part, count in counts.items() if count}
    while sum(widths.values()) > room:
        widest = max(widths, key=lambda part: widths[part])
        widths[widest] -= 1
    first = next(iter(widths))
    widths[first] += room - sum(widths.values())
    return "".join(click.style(mark * widths.get(part, 0), fg=colour) for part, mark, colour in _PARTS)


def _worker(worker: WorkerView) -> str:
    memory = show_bytes(worker.memory) + (f" of {show_bytes(worker.limit)}" if worker.limit else "")
    running = f"{worker.executing}/{worker.slots}"
    name = harmless(worker.name[:20])
    return f"{name:20} {worker.status:8} {running:>9} {worker.backlog:>8,} {worker.cpu:>5.0f}% {memory:>18}"
