"""A cluster with something to show, its site on a port, and a system Chromium that looks at it.

A missing Chromium fails these tests: a page that nobody has looked at is not finished. ``FUTUREBROKER_TEST_CHROMIUM``
names another program than the usual ones.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, sync_playwright

from futurebroker import Client, LocalCluster
from futurebroker.config import Settings
from futurebroker.web.server import SiteServer
from tests.unit.web.conftest import SCHEDULE, plan

TOKEN = "browser-operator-token"
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
SHOTS = Path(__file__).resolve().parents[2] / "docs" / "images"


def _chromium() -> str:
    named = os.environ.get("FUTUREBROKER_TEST_CHROMIUM")
    found = named or shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not found:
        pytest.fail("no Chromium: install one (Debian: apt-get install chromium), or set FUTUREBROKER_TEST_CHROMIUM")
    return found


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    # Chromium makes and removes temporary files when it likes; those are none of a test's.
    environ: dict[str, str | float | bool] = {**os.environ, "TMPDIR": str(tmp_path_factory.mktemp("chromium"))}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_chromium(), args=list(FLAGS), env=environ)
        yield browser
        browser.close()


# -- what there is to see ------------------------------------------------------------------------------------------


def load_table(number: int) -> bytes:
    time.sleep(0.002)
    return bytes(60_000 + number)


def clean(table: bytes) -> int:
    time.sleep(0.002)
    return len(table)


def train(size: int, seed: int) -> int:
    time.sleep(0.01)
    if seed % 25 == 24:
        raise ValueError(f"<img src=x onerror=alert(1)> the fit of seed {seed} does not converge 🙂")
    return size + seed


def evaluate(*scores: int) -> float:
    return sum(scores) / len(scores)


@dataclass
class Served:
    """A site with a busy cluster behind it."""

    cluster: LocalCluster
    client: Client
    server: SiteServer
    keep: list[Any] = field(default_factory=list)

    @property
    def link(self) -> str:
        return self.server.link

    def url(self, path: str) -> str:
        return self.server.address.rstrip("/") + path


@pytest.fixture(scope="module")
def _world() -> Iterator[Served]:
    with LocalCluster(n_workers=2, executors_per_worker=2, processes=False, name="browsers") as cluster:
        settings = Settings(cluster=cluster.name, web_token=TOKEN)
        server = SiteServer(
            settings, host="127.0.0.1", port=0, url=cluster.scheduler_address, secret=cluster.secret, loop=cluster.loop
        )
        server.start()
        with Client(cluster) as client:
            world = Served(cluster, client, server)
            tables = client.map(load_table, range(40))
            cleaned = client.map(clean, tables)
            fits = [client.submit(train, table, seed) for seed, table in enumerate(cleaned)]
            good = [fit for seed, fit in enumerate(fits) if seed % 25 != 24]
            score = client.submit(evaluate, *good)
            hostile = client.submit(len, "x", key="<script>alert('key')</script>-🙂-" + "k" * 600)
            far = client.map(clean, tables[:3], key="gpu-clean", resources={"GPU": 1})
            plan(client, SCHEDULE)
            world.keep += [tables, cleaned, fits, score, hostile, far]
            score.result(timeout=30)
            yield world
        server.close()


@pytest.fixture
def served(_world: Served) -> Served:
    return _world


# -- who looks at it -----------------------------------------------------------------------------------------------


@dataclass
class Visit:
    """A page in a browser, and everything it complained about."""

    page: Page
    served: Served
    complaints: list[str] = field(default_factory=list)

    def open(self, path: str) -> Page:
        """Open a page and wait until it is live: scripts run, and a tick has come."""
        self.page.goto(self.served.url(path))
        self.page.wait_for_selector("html[data-ready=yes]", state="attached")
        return self.page

    def ticks(self, count: int = 1) -> None:
        """Wait for so many more ticks; the page's policy lets nobody wait inside it, so it is asked again and again."""
        wanted = self._ticked() + count
        deadline = time.monotonic() + 30
        while self._ticked() < wanted:
            assert time.monotonic() < deadline, f"{self.page.url} is not kept up to date"
            self.page.wait_for_timeout(100)

    def _ticked(self) -> int:
        return int(self.page.evaluate("() => Number(document.documentElement.dataset.ticks || 0)"))

    def drawn(self) -> None:
        """Wait until Plotly has drawn a figure."""
        self.page.wait_for_selector("figure .main-svg", state="attached")


@pytest.fixture
def visit(browser: Browser, served: Served, request: pytest.FixtureRequest) -> Iterator[Visit]:
    """A new visitor; the test fails when the page complains: console, policy, or an exception."""
    options: dict[str, Any] = {"viewport": {"width": 1380, "height": 860}, "color_scheme": "light", "locale": "en-GB"}
    options.update(getattr(request, "param", {}))
    context: BrowserContext = browser.new_context(**options)
    page = context.new_page()
    visit = Visit(page, served)

    def console(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            visit.complaints.append(f"{message.type}: {message.text}")

    page.on("console", console)
    page.on("pageerror", lambda error: visit.complaints.append(f"exception: {error}"))
    page.add_init_script(
        "document.addEventListener('securitypolicyviolation', e => console.error('policy: ' + e.violatedDirective))"
    )
    page.goto(served.link)
    yield visit
    context.close()
    assert visit.complaints == []
