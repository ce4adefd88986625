"""Every page, looked at as people look at it: complete, quiet, readable by all, on a desk and on a phone."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Dialog, expect

from futurebroker import wait
from futurebroker.web.registry import PAGES
from tests.browser.conftest import SHOTS, Visit, clean, load_table, train

pytestmark = [pytest.mark.timeout(300), pytest.mark.slow]

NOWHERE = "/nowhere"
PATHS = [*(page.path for page in PAGES), "/worker?name=local-1", "/graph?by=task", "/tasks?q=state:failed", NOWHERE]
#: pages whose figures always have something to draw
DRAWN = ("/", "/types", "/graph", "/workers", "/memory", "/backlog", "/system", "/worker")
PHONE = {"viewport": {"width": 375, "height": 812}, "device_scale_factor": 2, "has_touch": True}
DARK = {"color_scheme": "dark"}


def quiet(visit: Visit, path: str) -> list[str]:
    """What the page at ``path`` complained about; takes it from what the fixture looks at in the end."""
    found = [f"{path}: {line}" for line in visit.complaints if not (path == NOWHERE and "404" in line)]
    visit.complaints.clear()
    return found


def axe(visit: Visit, path: str) -> list[str]:
    """What axe-core finds in the page that is open."""
    results = Axe().run(visit.page)
    return [
        f"{path}: {violation['id']} {[node['target'] for node in violation['nodes']][:3]}"
        for violation in results.response["violations"]
    ]


def visited(visit: Visit, path: str) -> None:
    """Open a page and wait until it has all that it will have."""
    visit.open(path) if path != NOWHERE else visit.page.goto(visit.served.url(path))
    if path == NOWHERE:
        expect(visit.page.get_by_role("heading", name="Not here")).to_be_visible()
        return
    visit.ticks()
    expect(visit.page.locator("main h1")).to_be_visible()
    if path.partition("?")[0] in DRAWN:
        visit.drawn()


@pytest.mark.parametrize("visit", [{}, DARK], indirect=True, ids=["light", "dark"])
def test_every_page_is_quiet_and_accessible(visit: Visit) -> None:
    """No console error, no policy violation, no exception; axe-core finds nothing, in either theme."""
    found: list[str] = []
    for path in PATHS:
        visited(visit, path)
        found += axe(visit, path) + quiet(visit, path)
    assert found == []


@pytest.mark.parametrize("visit", [PHONE], indirect=True)
def test_every_page_fits_a_phone(visit: Visit) -> None:
    """Nothing but what scrolls by itself is wider than the screen."""
    widths = {}
    for path in PATHS:
        visited(visit, path)
        widths[path] = visit.page.evaluate("() => document.documentElement.scrollWidth")
        quiet(visit, path)
    assert {path: width for path, width in widths.items() if width > 375} == {}


def test_progress_is_live(visit: Visit) -> None:
    """What is submitted while the page is open appears without a reload."""
    page = visit.open("/")
    visit.served.keep.append(visit.served.client.map(pow, range(30), range(30), key="appears-later"))
    expect(page.locator(".bars li", has_text="appears-later")).to_be_visible(timeout=10_000)
    expect(page.locator(".bars li", has_text="appears-later").locator(".count")).to_have_text("30 / 30", timeout=10_000)


IDLE_BACKLOG = """async (times) => {
  const { Figures } = await import(document.querySelector("script[type=module]").src.replace("site.js", "figures.js"));
  const figures = new Figures(JSON.parse(document.getElementById("boot").textContent));
  figures.plotly = window.Plotly;
  const none = times.map(() => 0);
  figures.columns.backlog = { time: times, processing: none, queued: none, waiting: none, no_worker: none };
  figures.react("backlog", () => "black");
  return document.querySelector("figure[data-figure=backlog] .plot").layout.xaxis.range;
}"""


def test_a_time_without_any_backlog_is_drawn_as_that_time(visit: Visit) -> None:
    """All lines are left out that are zero throughout; without one, Plotly would make up a year."""
    page = visit.open("/backlog")
    visit.drawn()
    times = [1_795_890_000_000, 1_795_890_060_000]
    assert [str(end)[:4] for end in page.evaluate(IDLE_BACKLOG, times)] == ["2026", "2026"]


def test_bars_share_the_width_and_shrink(visit: Visit) -> None:
    """The more types there are, the smaller is each bar, so that all stay on one screen."""
    page = visit.open("/")
    visit.ticks()
    before = page.locator(".bars li .bar").first.bounding_box()
    keep = visit.served.keep
    namespace: dict[str, Callable[[], int]] = {}
    for number in range(40):
        exec(f"def kind_{number}(): return {number}", namespace)
        keep.append(visit.served.client.submit(namespace[f"kind_{number}"]))
    expect(page.locator(".bars.d-d")).to_be_visible(timeout=10_000)
    after = page.locator(".bars li .bar").first.bounding_box()
    assert before is not None
    assert after is not None
    assert after["width"] < before["width"]
    assert after["height"] < before["height"]


def test_the_keyboard_reaches_everything(visit: Visit) -> None:
    """``g t`` goes, ``/`` searches, ``j`` walks, ``?`` explains, Tab begins at the way past the navigation."""
    page = visit.open("/")
    page.keyboard.press("g")
    page.keyboard.press("t")
    page.wait_for_url(re.compile("/tasks"))
    page.wait_for_selector("html[data-ready=yes]", state="attached")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    expect(page.locator("tr.at")).to_have_count(1)
    page.keyboard.press("/")
    page.keyboard.type("state:failed")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("state%3Afailed"))
    expect(page.locator("tbody tr").first).to_be_visible()
    page.goto(visit.served.url("/"))
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()


def test_names_with_html_are_text(visit: Visit) -> None:
    """Keys, errors and types are whatever users wrote; a script among them must stay words."""
    page = visit.open("/tasks?q=script")
    dialogs: list[str] = []

    def refuse(dialog: Dialog) -> None:
        dialogs.append(dialog.message)
        dialog.dismiss()

    page.on("dialog", refuse)
    row = page.locator("tbody tr", has_text="<script>").first
    expect(row).to_be_visible()
    row.locator("a").first.click()
    expect(page.locator("main h2").first).to_contain_text("<script>alert('key')</script>")
    page.goto(visit.served.url("/tasks?q=state:failed"))
    expect(page.locator("tbody td.text").first).to_contain_text("<img src=x")
    assert dialogs == []


def test_an_unknown_task_has_a_page_that_says_so(visit: Visit) -> None:
    """A link to a task that was forgotten is no error of the reader's."""
    page = visit.open("/task?key=never-submitted-1")
    expect(page.get_by_text("No such task")).to_be_visible()


def test_a_failed_task_is_run_again_from_its_page(visit: Visit) -> None:
    """The button that Flower's users asked for since 2012."""
    page = visit.open("/tasks?q=state:failed%20type:train")
    page.locator("tbody tr a").first.click()
    page.wait_for_selector("html[data-ready=yes]", state="attached")
    expect(page.locator("pre.trace").first).to_contain_text("ValueError")
    page.get_by_role("button", name="Retry").click()
    page.wait_for_selector("html[data-ready=yes]", state="attached")
    assert visit.served.server.site.actions[0].what == "retry"


def test_a_schedule_is_run_from_its_page(visit: Visit) -> None:
    """The row says when it is due, in words and in how long; the button runs it once, and the row says so."""
    page = visit.open("/schedules")
    row = page.locator("tr", has_text="yearly")
    expect(row).to_contain_text("at 07:30 on day 1 of the month in January (UTC)")
    expect(row).to_contain_text("in ")
    runs = int(row.locator("td.n").inner_text())
    row.get_by_role("button", name="Run").click()
    expect(page.locator("tr", has_text="yearly").locator("td.n")).to_have_text(str(runs + 1))


def test_the_report_opens_without_a_network(visit: Visit, tmp_path: Path) -> None:
    """It is sent to who has neither the cluster nor its site: everything is in the file, and nothing is fetched."""
    body = visit.page.request.get(visit.served.url("/report.html")).body()
    report = tmp_path / "run.html"
    report.write_bytes(body)
    visit.page.context.set_offline(True)
    fetched: list[str] = []
    visit.page.on("request", lambda request: fetched.append(request.url))
    visit.page.goto(report.as_uri())
    visit.page.wait_for_selector(".main-svg", state="attached")
    expect(visit.page.locator("h1")).to_be_visible()
    expect(visit.page.locator("body")).to_contain_text("train")
    assert [url for url in fetched if not url.startswith(("file:", "data:", "blob:"))] == []


def test_a_page_prints_without_its_frame(visit: Visit) -> None:
    """On paper there is nothing to click, and no table is cut off at the edge of the screen."""
    page = visit.open("/tasks")
    page.emulate_media(media="print")
    expect(page.locator("header.top")).to_be_hidden()
    expect(page.locator("nav.side")).to_be_hidden()
    expect(page.locator("main table").first).to_be_visible()
    assert len(page.pdf()) > 10_000


def test_polling_takes_over_where_streams_do_not_get_through(visit: Visit) -> None:
    """Some proxies swallow streams; the page must live all the same."""
    visit.open("/?poll")
    visit.ticks(2)


def test_a_cut_stream_is_told_and_mended(visit: Visit) -> None:
    """Laptops sleep and networks drop: the age of what is shown is said, and it comes back by itself."""
    page = visit.open("/")
    visit.ticks()
    feeds = re.compile(r"/api/v1/(live|tick)")
    page.route(feeds, lambda route: route.abort())
    page.keyboard.press(".")  # pause and go on: the stream is opened anew, and does not get through
    page.keyboard.press(".")
    expect(page.locator("#age")).to_contain_text("old", timeout=20_000)
    page.unroute(feeds)
    expect(page.locator("#age")).to_have_text("", timeout=40_000)
    visit.complaints[:] = [line for line in visit.complaints if "ERR_FAILED" not in line]


def test_the_theme_is_kept(visit: Visit) -> None:
    """Who chose dark gets dark, also on the next page."""
    page = visit.open("/")
    page.click("#theme")
    page.click("#theme")
    visit.open("/workers")
    assert page.evaluate("() => document.documentElement.dataset.theme") == "dark"
    assert page.evaluate("() => getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"


@pytest.mark.parametrize("visit", [{}, DARK], indirect=True, ids=["light", "dark"])
def test_the_pictures_of_the_readme(visit: Visit, request: pytest.FixtureRequest) -> None:
    """What the README shows is what this version draws; the pictures are written when asked for."""
    theme = "dark" if "dark" in request.node.name else "light"
    page = visit.open("/" if theme == "light" else "/stream")
    visit.ticks()
    client = visit.served.client
    began = time.time()
    for _ in range(3):
        tables = client.map(load_table, range(60))
        fits = client.map(train, client.map(clean, tables), range(60))
        visit.served.keep.append(fits)
    wait(fits)
    if theme == "dark":
        visit.open(f"/stream?from={began:.3f}&to={time.time():.3f}")
        expect(page.locator(".legend.many")).to_contain_text("train")
    visit.ticks(4)
    visit.drawn()
    picture = page.screenshot()
    assert len(picture) > 20_000
    if os.environ.get("FUTUREBROKER_TEST_PICTURES"):
        SHOTS.mkdir(parents=True, exist_ok=True)
        (SHOTS / ("overview.png" if theme == "light" else "stream-dark.png")).write_bytes(picture)
