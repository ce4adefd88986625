"""The site outlives its scheduler: it shows the last it knew, with its age, and is up to date again by itself."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path

import pytest

from futurebroker import Client
from futurebroker.config import Settings
from futurebroker.web.app import create_app
from futurebroker.web.site import EXTENSION, Site
from tests.integration.programs import FUTUREBROKER, lines_until, run, running

TOKEN = "token-of-this-test"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(site: Site, level: str) -> None:
    """Look, as somebody with an open page does, until the frame of each page says this level."""
    number = 0
    site.snapshot()
    while site.standing()["level"] != level:
        for snapshot in site.collector.since(number, 0.2):
            number = snapshot.number


def test_a_scheduler_that_was_killed_is_shown_as_it_was_until_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever comes to see what happened finds the last picture, and the open page comes back to life."""
    monkeypatch.setenv("FUTUREBROKER_SECRET", "secret-of-this-test")
    port = str(free_port())
    command = [*FUTUREBROKER, "scheduler", "--port", port, "--journal", "none"]
    settings = Settings(port=int(port), web_token=TOKEN, secret="secret-of-this-test", history=False)
    app = create_app(settings)
    site = app.extensions[EXTENSION]
    ask = app.test_client()

    def page(path: str) -> str:
        answer = ask.get(path, headers={"Authorization": f"Bearer {TOKEN}"})
        assert answer.status_code == 200
        return answer.get_data(as_text=True)

    try:
        with running(command, tmp_path) as scheduler:
            lines_until(scheduler, "worker")
            assert "No worker is connected" in page("/")
            wait_for(site, "idle")
            with Client(f"127.0.0.1:{port}") as client:
                held = client.submit(abs, -1, key="held-1")
                while "held-1" not in page("/tasks"):
                    assert not held.done()
                wait_for(site, "bad")
                top = run([*FUTUREBROKER, "top", f"127.0.0.1:{port}", "--once"], tmp_path)
                assert "1 task is ready and no worker is connected." in top.stdout, top.stderr
                seen = run([*FUTUREBROKER, "top", f"127.0.0.1:{port}", "--once", "--json"], tmp_path)
                assert [json.loads(line)["level"] for line in seen.stdout.splitlines()] == ["bad", "bad"]
                scheduler.kill()
                scheduler.wait()
                wait_for(site, "away")
        text = page("/")
        assert re.search(r"Last known state: .*ready and no worker is connected", text)
        age = site.standing()["age"]
        assert age is not None
        assert age > 0
        assert "The scheduler can&#39;t be asked" in page("/tasks")
        assert "The scheduler can&#39;t be asked" in page("/task?key=held-1")
        assert ask.get("/healthz").get_data() == b"degraded\n"
        with running(command, tmp_path) as scheduler:
            lines_until(scheduler, "worker")
            wait_for(site, "idle")
            assert "Last known state" not in page("/")
            assert ask.get("/healthz").get_data() == b"ok\n"
    finally:
        site.close()
