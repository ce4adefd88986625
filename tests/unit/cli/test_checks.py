"""What `doctor` finds, and what it says to change."""

from __future__ import annotations

import platform
import secrets
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from futurebroker import __version__
from futurebroker.broker_adapters.inspection import QueueFigures
from futurebroker.cli import checks
from futurebroker.cli.checks import Finding, examine
from futurebroker.config import Settings, load_settings
from tests.integration.brokers import SECRET, embedded_broker

PYTHON = platform.python_version()


def settings(**given: Any) -> Settings:
    """Settings of these tests."""
    return load_settings(environ={}, files=[], **{"secret": SECRET.decode(), "connect_timeout": 1, **given})


def found(url: str, **given: Any) -> dict[str, Finding]:
    """The findings at an address, by check."""
    return {finding.check: finding for finding in examine(settings(**given), url, None)}


def info(**more: Any) -> dict[str, Any]:
    """What a scheduler with one worker answers."""
    now = time.time()
    worker = {"name": "w1", "status": "running", "nthreads": 2, "version": __version__, "python": PYTHON}
    about = {"version": __version__, "python": PYTHON, "time": now, "host": "h", "pid": 1}
    answer = {"scheduler": about, "workers": {"w": {**worker, "metrics": {"time": now}}}, "programs": {}, "clients": 2}
    return {**answer, "asked": now, **more}


def levels(answer: dict[str, Any], max_connections: int | None = None) -> dict[str, str]:
    """What is found in an answer: the level of each check."""
    return {finding.check: finding.level for finding in checks._cluster(answer, max_connections)}


def test_nothing_is_wrong_with_a_plain_cluster() -> None:
    """A check that cries wolf is switched off."""
    assert set(levels(info(), 4).values()) == {"ok"}
    budget = list(checks._cluster(info(), None))[-1]
    assert budget.text.startswith("3 connections and 5 queues")


def test_what_differs_in_a_cluster_is_named() -> None:
    """Versions that drift apart and clocks that lie cost hours when nobody says so."""
    answer = info()
    answer["scheduler"]["version"] = "0.0.1"
    answer["workers"]["w"].update(status="paused", python="3.9.1", metrics={"time": time.time() - 100})
    answer["programs"] = {"c": {"host": "laptop", "version": "0.0.2"}, "old": {}}
    by_check = {finding.check: finding for finding in checks._cluster(answer, 2)}
    assert {name for name, finding in by_check.items() if finding.level == "warn"} == {
        "workers", "versions", "clocks", "budget",
    }  # fmt: skip
    for part in ("the scheduler has futurebroker 0.0.1", "worker w1", "3.9.1", "a client on laptop", "0.0.2"):
        assert part in by_check["versions"].text
    assert "worker w1 by -100 s" in by_check["clocks"].text
    assert "w1 is paused" in by_check["workers"].text
    assert all(finding.change for finding in by_check.values() if finding.level != "ok")
    assert levels(info(workers={}))["workers"] == "warn"


@pytest.mark.parametrize(
    ("queue", "level"),
    [
        (None, "fail"),
        (QueueFigures(0, 0), "fail"),
        (QueueFigures(0, 1), "ok"),
        (QueueFigures(0, 2), "warn"),
        (QueueFigures(checks.DEEP + 1, 1), "warn"),
    ],
)
def test_the_command_queue_needs_one_reader_that_keeps_up(queue: QueueFigures | None, level: str) -> None:
    """Commands that nobody reads look, to a client, like a cluster that hangs."""
    assert checks._commands("fb1.c.cmd", queue).level == level


def test_without_a_secret_it_says_how_to_give_one(tmp_path: Path) -> None:
    """And ends there: nothing else can be found out."""
    by_check = found("amqp://127.0.0.1:1", secret=None, secret_file=tmp_path / "none")
    assert [(finding.check, finding.level) for finding in by_check.values()] == [("secret", "fail")]
    assert "FUTUREBROKER_SECRET" in by_check["secret"].change


def test_a_secret_that_others_can_read_fails(tmp_path: Path) -> None:
    """They may know it, and whoever knows it runs code here."""
    path = tmp_path / "secret"
    path.write_text("s" * 32)
    path.chmod(0o644)
    assert "chmod 600" in found("amqp://127.0.0.1:1", secret=None, secret_file=path)["secret"].text


def test_plain_text_to_another_machine_is_warned_of() -> None:
    """Also when only one broker of a failover list is reached so."""
    for url in ("amqp://broker/", "amqps://broker/;amqp://user:hidden@other/", "redis://broker"):
        finding = checks._tls(url)
        assert finding.level == "warn"
        assert "hidden" not in finding.text
    assert [checks._tls(url).level for url in ("amqps://broker/", "amqp://localhost", "rediss://r")] == ["ok"] * 3
    assert checks._secret(settings(secret="short"), "amqps://broker/", b"short").level == "warn"


def test_a_broker_that_is_not_there_fails_with_its_address() -> None:
    """The commonest failure, found before anything else is tried."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    by_check = found(f"amqp://127.0.0.1:{port}")
    assert list(by_check) == ["secret", "tls", "broker"]
    assert by_check["broker"].level == "fail"
    assert f"127.0.0.1:{port}" in by_check["broker"].text


def test_a_broker_without_a_scheduler_is_reached_and_has_no_queue() -> None:
    """Which half is missing decides whom to call."""
    with embedded_broker() as broker:
        by_check = found(broker.url)
        wrong = found(broker.url, secret="another secret, long enough")
    assert [(name, finding.level) for name, finding in by_check.items()] == [
        ("secret", "ok"), ("tls", "ok"), ("broker", "ok"), ("credentials", "ok"), ("commands", "fail"),
    ]  # fmt: skip
    assert (wrong["broker"].level, wrong["credentials"].level) == ("ok", "fail")
    assert "secret" in wrong["credentials"].text


def test_a_link_without_passive_declarations_is_only_opened() -> None:
    """Redis and the like can't be asked for a queue's readers; that is no reason to refuse the rest."""
    findings = list(checks._broker(settings(), f"memory://{secrets.token_hex(4)}", SECRET))
    assert [finding.check for finding in findings] == ["broker", "credentials"]
