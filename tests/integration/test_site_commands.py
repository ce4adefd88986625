"""`futurebroker up` and `futurebroker web` as a user starts them: the link that they print opens the site."""

from __future__ import annotations

import http.cookiejar
import re
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.integration.programs import FUTUREBROKER, lines_until, running
from tests.integration.test_cli import interrupt


def opened(link: str) -> str:
    """What a browser shows that is sent to this link: the token becomes a cookie on the way."""
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))
    with browser.open(link, timeout=30) as answer:
        assert "token=" not in answer.geturl()
        text: str = answer.read().decode()
        return text


def test_up_and_web_print_a_link_that_opens_the_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first thing that a user sees of the site, and what a second user does for a cluster that runs elsewhere."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("FUTUREBROKER_WEB_PORT", "0")
    monkeypatch.setenv("FUTUREBROKER_DASHBOARD", "true")
    up = [*FUTUREBROKER, "up", "--port", "0", "--executors", "1", "--journal", "none"]
    with running(up, tmp_path) as cluster:
        said = "\n".join(lines_until(cluster, "dashboard: "))
        address, link = re.search(r"worker (127\.0\.0\.1:\d+)", said), re.search(r"dashboard: (\S+)", said)
        assert address is not None
        assert link is not None
        assert "<h1>Overview</h1>" in opened(link[1])
        with pytest.raises(urllib.error.HTTPError, match="401"):
            opened(link[1].partition("?")[0])
        with running([*FUTUREBROKER, "web", address[1], "--read-only"], tmp_path) as site:
            other = lines_until(site, "http://")[-1]
            text = opened(other)
            assert "<h1>Overview</h1>" in text
            assert "1 worker" in text
            assert "looking only" in text
            assert interrupt(site)[0] in (0, 130)
        assert interrupt(cluster) == (130, "")
