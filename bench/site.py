"""``python -m bench.site``: how fast the dashboard answers over a long history, and what watching a busy run costs.

Seeds a SQLite history with 100,000 tasks, serves the site beside a local cluster, asks it as a browser does, and with
``--watch`` looks at it in a headless Chromium while 5,000 tasks a second run. Prints one line a figure with its target.
"""

from __future__ import annotations

import itertools
import json
import shutil
import statistics
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path

import click
import psutil
from playwright.sync_api import sync_playwright
from sqlalchemy import insert

from bench.tasks import inc
from futurebroker import Client, LocalCluster
from futurebroker.config import Settings
from futurebroker.persistence import revisions
from futurebroker.persistence.database import open_engine, writing
from futurebroker.persistence.history_tables import runs, tasks
from futurebroker.web.server import SiteServer

TOKEN = "bench"
#: tasks a second while somebody watches
RATE = 5_000
#: milliseconds between frames of the page, collected in it
_FRAMES = """() => { window.frames_ = []; let last = performance.now();
  const tick = now => { window.frames_.push(now - last); last = now; requestAnimationFrame(tick); };
  requestAnimationFrame(tick); }"""


def seed(url: str, cluster: str, count: int, began: float) -> None:
    """Write a run of ``count`` tasks on eight executors that lasted 1,000 seconds."""
    engine = open_engine(url)
    revisions.upgrade(engine)
    step = 1_000.0 / count
    rows = [
        {
            "run": 1, "key": f"kind{n % 20}-{n}", "type": f"kind{n % 20}", "worker": f"w{n % 4}",
            "executor": n // 4 % 2, "outcome": "failed" if n % 997 == 0 else "finished",
            "client": "bench", "attempts": 1, "nbytes": 8, "submitted_at": began,
            "started_at": began + n * step, "ended_at": began + n * step + 8 * step,
            "duration": 7.5 * step, "result_type": "int", "error_type": "ValueError" if n % 997 == 0 else "",
            "error": f"bad {n}" if n % 997 == 0 else "", "traceback": "", "inputs": "",
        }
        for n in range(count)
    ]  # fmt: skip
    with writing(engine) as connection:
        life = {"cluster": cluster, "started_at": began, "seen_at": began + 1_000, "host": "h", "version": "0"}
        connection.execute(insert(runs), [{"id": 1, "dropped": 0, **life}])
        for first in range(0, count, 10_000):
            connection.execute(insert(tasks), rows[first : first + 10_000])
    engine.dispose()


def say(name: str, value: float, unit: str, target: float) -> None:
    """One figure beside what it should be at most."""
    click.echo(f"{name:44} {value:10.1f} {unit:5} target {target:g} {'' if value <= target else '  missed'}")


def timed(ask: Callable[[], bytes], repeat: int) -> tuple[float, int]:
    """Median milliseconds of a question, and the bytes of its answer."""
    size, times = 0, []
    for _ in range(repeat):
        began = time.perf_counter()
        size = len(ask())
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times), size


@click.command()
@click.option("--tasks", "count", default=100_000, show_default=True, help="Tasks of the history.")
@click.option("--repeat", default=7, show_default=True, help="Samples of each figure.")
@click.option("--watch", default=0.0, metavar="SECONDS", help="Watch a busy run in Chromium for so long. [0: don't]")
def main(count: int, repeat: int, watch: float) -> None:
    """Measure the site on this machine."""
    with tempfile.TemporaryDirectory() as folder, LocalCluster(n_workers=1) as cluster:
        history = f"sqlite:///{Path(folder) / 'history.db'}"
        began = time.time() - 2_000
        seed(history, cluster.name, count, began)
        settings = Settings(cluster=cluster.name, web_token=TOKEN)
        server = SiteServer(
            settings,
            host="127.0.0.1",
            port=0,
            url=cluster.scheduler_address,
            secret=cluster.secret,
            history_url=history,
        )
        server.start()

        def ask(path: str, **query: object) -> bytes:
            url = f"{server.address}{path}?{urllib.parse.urlencode(query)}"
            request = urllib.request.Request(url, headers={"Authorization": f"Bearer {TOKEN}"})
            with urllib.request.urlopen(request) as answer:
                body: bytes = answer.read()
                return body

        try:
            ask("api/v1/overview")
            for query in ("state:failed", "type:kind7 took:>1ms", "kind3-9", ""):
                took, _ = timed(lambda query=query: ask("api/v1/tasks", q=query), repeat)  # type: ignore[misc]
                say(f"search {query or 'everything'!r}", took, "ms", 100)
            window = {"from": began, "to": began + 1_000}
            shifts = itertools.count(1)  # the site remembers a window that it was asked for

            def look() -> bytes:
                return ask("api/v1/stream", **{"from": began, "to": began + 1_000 + next(shifts) * 1e-3})

            took, size = timed(look, repeat)
            found = json.loads(ask("api/v1/stream", **window))
            say(f"stream of {found['runs']:,} runs", took, "ms", 150)
            say("its answer", size / 1024, "KiB", 300)
            _look(server, cluster, watch)
        finally:
            server.close()


def _look(server: SiteServer, cluster: LocalCluster, watch: float) -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        click.echo("no Chromium here: pages are not measured")
        return
    with sync_playwright() as playwright, Client(cluster) as client:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        began = time.perf_counter()
        page.goto(server.link)
        page.wait_for_selector("html[data-ready=yes]", state="attached")
        say("first page usable", 1000 * (time.perf_counter() - began), "ms", 2_000)
        if watch:
            process = next(p for p in psutil.Process().children() if "scheduler.main" in " ".join(p.cmdline()))
            page.evaluate(_FRAMES)
            before, ticks, cuts = process.cpu_times(), 0, 0
            until = time.monotonic() + watch
            while time.monotonic() < until:
                second = time.monotonic()
                client.gather(client.map(inc, range(RATE)))
                page.wait_for_timeout(max(0.0, 1000 * (second + 1 - time.monotonic())))
                cuts += "reconnecting" in (page.text_content("#age") or "")
            after = process.cpu_times()
            ticks = int(page.evaluate("() => Number(document.documentElement.dataset.ticks || 0)"))
            frames = sorted(page.evaluate("() => window.frames_"))
            say("frame p99", frames[int(0.99 * (len(frames) - 1))], "ms", 100)
            say("seconds the stream was cut", cuts, "s", 0)
            busy = after.user + after.system - before.user - before.system
            click.echo(f"{ticks} ticks in {watch:g} s; the scheduler used {100 * busy / watch:.0f} % of a core in all")
        browser.close()


if __name__ == "__main__":
    main(prog_name="python -m bench.site")
