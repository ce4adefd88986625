"""A cluster as its operator sees it: what it sends while nothing goes on, what it logs, which secrets it keeps."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from futurebroker import Client
from futurebroker.protocol.messages import Heartbeat
from futurebroker.scheduler import presence
from futurebroker.scheduler import service as scheduling
from futurebroker.scheduler.service import SchedulerService
from futurebroker.transport.memory import MemoryLink
from futurebroker.types import Peer, Role
from futurebroker.worker.service import WorkerService
from tests.integration.programs import FUTUREBROKER, lines_until, run, running

WORKERS = 4
#: times faster than in deployment
HASTE = 10


class Watchful(SchedulerService):
    """A scheduler that counts heartbeats, and lets others wait for them."""

    beats = 0
    changed: asyncio.Event

    def meet(self, peer: Peer, message: Any) -> None:
        super().meet(peer, message)
        if isinstance(message, Heartbeat):
            self.beats += 1
            self.changed.set()

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until heartbeats make ``condition`` so."""
        async with asyncio.timeout(20):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


@asynccontextmanager
async def cluster() -> AsyncIterator[Watchful]:
    """A scheduler and four workers, on this loop."""
    place: dict[str, Any] = {"cluster": "c", "secret": b"known to this test"}
    url = f"memory://{secrets.token_hex(6)}"
    scheduler = Watchful(broker_url=url, heartbeat_interval=1 / HASTE, **place)
    scheduler.changed = asyncio.Event()
    await scheduler.start()
    workers = [WorkerService(url=url, executors=1, processes=False, **place) for _ in range(WORKERS)]
    try:
        await asyncio.gather(*(worker.start() for worker in workers))
        yield scheduler
    finally:
        await asyncio.gather(*(worker.close() for worker in workers))
        await scheduler.close()


def test_an_idle_cluster_of_four_workers_sends_less_than_a_message_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Brokers are rented by the message, and a laptop's battery pays for each; ten times as fast as in deployment."""
    sent: list[str] = []
    send = MemoryLink.send

    def counted(link: MemoryLink, destination: str, body: bytes, **options: bool) -> None:
        sent.append(destination)
        send(link, destination, body, **options)

    monkeypatch.setattr(MemoryLink, "send", counted)
    monkeypatch.setattr(scheduling, "SWEEP_EVERY", 0.25 / HASTE)
    monkeypatch.setattr(presence, "IDLE_AFTER", presence.IDLE_AFTER / HASTE)
    monkeypatch.setattr(presence, "IDLE_BEAT", presence.IDLE_BEAT / HASTE)

    async def scenario() -> None:
        async with cluster() as scheduler:
            contacts = scheduler._contacts.values()
            idle = presence.IDLE_BEAT
            await scheduler.until(lambda: [one.interval for one in contacts] == [idle] * WORKERS)
            began, before, beats = scheduler._loop.time(), len(sent), scheduler.beats
            await scheduler.until(lambda: scheduler.beats == beats + 3 * WORKERS)
            messages, seconds = len(sent) - before, scheduler._loop.time() - began
            assert messages / seconds / HASTE < 1
            assert all(one.suspected_at is None for one in contacts)
            assert {one.peer.role for one in contacts} == {Role.WORKER}

    asyncio.run(scenario())


# -- logs and secrets ----------------------------------------------------------------------------------------------

CANARY = "canary-secret-4711"
ARGUMENT = "canary-argument-0815"


def speaks(text: str) -> int:
    """A task that logs, as users' tasks do."""
    logging.getLogger("users.own").warning("so many letters: %d", len(text))
    return len(text)


def dies(text: str) -> None:
    """A task that ends its executor."""
    os._exit(len(text) and 9)


def fails(text: str) -> None:
    """A task that raises."""
    raise ValueError(len(text))


def tree(pid: int) -> list[psutil.Process]:
    """A process with all below it."""
    top = psutil.Process(pid)
    return [top, *top.children(recursive=True)]


def test_logs_name_tasks_and_workers_and_no_secret_is_anywhere(tmp_path: Path) -> None:
    """Log lines, errors, command lines and the environment of children are read by people who may not join."""
    command = [*FUTUREBROKER, "up", "--port", "0", "--executors", "1", "--log-format", "json", "--log-level", "debug"]
    variables = {"FUTUREBROKER_SECRET": CANARY, "FUTUREBROKER_ALLOWED_FAILURES": "0"}
    with running(command, tmp_path, **variables) as up:
        said = "\n".join(lines_until(up, "one worker runs"))
        found = re.search(r"worker (\S+:\d+)", said)
        assert found is not None, said
        address = found[1]
        with Client(address, secret=CANARY) as client:
            spoken, dead, failed = (client.submit(task, ARGUMENT) for task in (speaks, dies, fails))
            assert spoken.result(timeout=30) == len(ARGUMENT)
            errors = [str(dead.exception(timeout=30)), str(failed.exception(timeout=30)), repr(client), repr(spoken)]
            processes = tree(up.pid)
            assert len(processes) >= 4
            commands = [" ".join(process.cmdline()) for process in processes]
            environments = [str(process.environ()) for process in processes[1:]]
            status = run([*FUTUREBROKER, "status", address], tmp_path, **variables)
            refused = run([*FUTUREBROKER, "worker", address], tmp_path, FUTUREBROKER_SECRET="not " + CANARY)
        up.terminate()
        _, log = up.communicate(timeout=30)
    assert (status.returncode, refused.returncode) == (0, 1), status.stderr
    lines = [json.loads(line) for line in log.splitlines()]
    about = {(line["message"], line.get("task"), line.get("worker")) for line in lines}
    assert (f"so many letters: {len(ARGUMENT)}", spoken.key, "up") in about
    assert any("ended with exit code 9" in line["message"] and line.get("task") == dead.key for line in lines), about
    outputs = [said, log, status.stdout, status.stderr, refused.stdout, refused.stderr, *errors]
    for text in (*outputs, *commands, *environments):
        assert CANARY not in text
        assert ARGUMENT not in text


# -- doctor and status ---------------------------------------------------------------------------------------------


def test_doctor_and_status_tell_of_a_cluster_that_runs(tmp_path: Path) -> None:
    """From the outside, with nothing but the address and the secret; a scheduler that is gone is found out as well."""
    variables = {"FUTUREBROKER_SECRET": CANARY}
    with running([*FUTUREBROKER, "up", "--port", "0", "--executors", "2"], tmp_path, **variables) as up:
        found = re.search(r"worker (\S+:\d+)", "\n".join(lines_until(up, "one worker runs")))
        assert found is not None
        address = found[1]
        with Client(address, secret=CANARY) as client:
            assert client.gather(client.map(abs, range(-50, 0))) == list(range(50, 0, -1))
        doctor = run([*FUTUREBROKER, "doctor", "--broker", address], tmp_path, **variables)
        as_json = run([*FUTUREBROKER, "doctor", "--broker", address, "--json"], tmp_path, **variables)
        status = run([*FUTUREBROKER, "status", address, "--json"], tmp_path, **variables)
        shown = run([*FUTUREBROKER, "status", address], tmp_path, **variables)
        up.terminate()
        assert up.wait(30) == 0
    assert (doctor.returncode, as_json.returncode) == (0, 0), doctor.stdout + doctor.stderr
    assert {line.split()[0] for line in doctor.stdout.splitlines()} == {"ok"}
    report = json.loads(as_json.stdout)
    assert report["level"] == "ok"
    assert [finding["check"] for finding in report["checks"]] == [
        "secret", "tls", "broker", "credentials", "commands", "scheduler", "workers", "versions", "clocks", "budget",
    ]  # fmt: skip
    state = json.loads(status.stdout)
    assert (state["kinds"]["abs"]["ended"], state["clients"], len(state["workers"])) == (50, 0, 1)
    assert "up" in shown.stdout
    gone = run([*FUTUREBROKER, "doctor", "--broker", address, "--timeout", "1s"], tmp_path, **variables)
    assert gone.returncode == 1
    assert "fail  broker" in gone.stdout
