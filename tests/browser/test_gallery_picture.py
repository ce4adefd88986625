"""The page to look at while a program of the gallery runs; its picture is written when asked for."""

from __future__ import annotations

import os
import sys

import pytest
from playwright.sync_api import Browser, expect

from futurebroker import LocalCluster
from futurebroker.config import Settings
from futurebroker.web.server import SiteServer
from tests.browser.conftest import TOKEN
from tests.integration.programs import ROOT, running
from tests.integration.test_gallery import FOUND, GALLERY

PROGRAM = "words_of_the_standard_library"

pytestmark = [pytest.mark.timeout(180), pytest.mark.slow]


def test_the_site_shows_a_program_of_the_gallery(browser: Browser) -> None:
    """A bar for each kind of its tasks, while they run on a cluster that is there."""
    with LocalCluster(n_workers=2, executors_per_worker=1, name="gallery") as cluster:
        settings = Settings(cluster=cluster.name, web_token=TOKEN)
        server = SiteServer(
            settings, host="127.0.0.1", port=0, url=cluster.scheduler_address, secret=cluster.secret, loop=cluster.loop
        )
        server.start()
        context = browser.new_context(
            viewport={"width": 1280, "height": 800}, color_scheme="light", locale="en-GB", reduced_motion="reduce"
        )
        try:
            page = context.new_page()
            page.goto(server.link)
            where = {
                "FUTUREBROKER_BROKER_URL": cluster.scheduler_address,
                "FUTUREBROKER_CLUSTER": cluster.name,
                "FUTUREBROKER_SECRET": cluster.secret.decode(),
            }
            with running([sys.executable, str(GALLERY / f"{PROGRAM}.py")], ROOT, **where) as program:
                expect(page.locator("main")).to_contain_text("names_in", timeout=60_000)
                expect(page.locator("main")).to_contain_text("add", timeout=60_000)
                page.wait_for_selector("figure .main-svg", state="attached")
                picture = page.screenshot()
                output, errors = program.communicate(timeout=90)
                assert FOUND[PROGRAM] in output, errors
        finally:
            context.close()
            server.close()
    assert len(picture) > 20_000
    if os.environ.get("FUTUREBROKER_TEST_PICTURES"):
        (GALLERY / "dashboard.png").write_bytes(picture)
