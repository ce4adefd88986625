"""The deployment as it is written: Procfile and app.json, on RabbitMQ and PostgreSQL, told to end in the middle."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from futurebroker import Client

ROOT = Path(__file__).resolve().parents[2]
#: seconds that a platform gives all processes to end after SIGTERM, less what it takes to look
GRACE = 25.0

pytestmark = [
    pytest.mark.service("rabbitmq"),
    pytest.mark.service("postgres"),
    pytest.mark.timeout(180),
    pytest.mark.slow,
]


def procfile() -> dict[str, str]:
    """Process types and their commands."""
    lines = (ROOT / "Procfile").read_text().splitlines()
    found = [re.fullmatch(r"([A-Za-z0-9_-]+):\s*(.+)", line) for line in lines if line.strip()]
    assert all(found)
    return {match[1]: match[2] for match in found if match is not None}


def app_json() -> dict[str, Any]:
    value: dict[str, Any] = json.loads((ROOT / "app.json").read_text())
    return value


def test_app_json_and_procfile_fit_each_other() -> None:
    """A process type that nobody starts, or a secret that nobody makes, shows only after the deployment."""
    commands, app = procfile(), app_json()
    assert set(app["formation"]) == set(commands) - {"release"}
    assert app["formation"]["scheduler"]["quantity"] == 1
    for name in ("FUTUREBROKER_SECRET", "FUTUREBROKER_WEB_TOKEN"):
        assert app["env"][name]["generator"] == "secret"
    addons = " ".join(addon if isinstance(addon, str) else addon["plan"] for addon in app["addons"])
    assert "postgresql" in addons
    assert "cloudamqp" in addons
    assert "--workers 1" in commands["web"]  # one collector, one connection to the broker


def test_the_buildpack_finds_what_it_needs() -> None:
    """One lock format, a Python that the tests run on, and the extras that the commands use."""
    requirements = (ROOT / "requirements.txt").read_text().split()
    assert requirements[:2] == ["--editable", ".[deploy,metrics]"]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {"deploy", "metrics"} <= set(extras)
    wanted = (ROOT / ".python-version").read_text().strip()
    assert wanted == f"{sys.version_info.major}.{sys.version_info.minor}"
    others = [name for name in ("Pipfile.lock", "poetry.lock", "uv.lock", "runtime.txt") if (ROOT / name).exists()]
    assert others == []


def _processes_of(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).children(recursive=True)
    return []


class Platform:
    """Starts dynos by the Procfile, with the environment that app.json makes."""

    def __init__(self, folder: Path, environ: dict[str, str]) -> None:
        self.environ = environ
        self._folder = folder
        self._commands = procfile()
        self._dynos: dict[str, subprocess.Popen[bytes]] = {}
        self._logs = 0

    def run(self, kind: str) -> str:
        """Run a process type to its end; returns what it printed."""
        done = subprocess.run(
            ["/bin/sh", "-c", self._commands[kind]], env=self.environ, cwd=self._folder, capture_output=True,
            text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self, dyno: str) -> None:
        """Start one dyno, like ``worker.1``."""
        kind = dyno.partition(".")[0]
        self._logs += 1
        log = (self._folder / f"{dyno}-{self._logs}.log").open("wb")
        with log:
            self._dynos[dyno] = subprocess.Popen(
                ["/bin/sh", "-c", self._commands[kind]], env={**self.environ, "DYNO": dyno}, cwd=self._folder,
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def terminate(self) -> float:
        """SIGTERM to every process of every dyno at once, as the platform does; returns how long the last took."""
        began = time.monotonic()
        # The shell that a dyno starts with ends at once; what counts is when the last of its processes has.
        ours = [child for process in self._dynos.values() for child in _processes_of(process.pid)]
        for process in self._dynos.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        for dyno, process in self._dynos.items():
            try:
                process.wait(max(0.1, began + GRACE - time.monotonic()))
            except subprocess.TimeoutExpired:
                pytest.fail(f"{dyno} runs {GRACE:g} s after SIGTERM:\n{self.logs()}")
        left = psutil.wait_procs(ours, max(0.1, began + GRACE - time.monotonic()))[1]
        assert not left, f"{left} run {GRACE:g} s after SIGTERM:\n{self.logs()}"
        self._dynos.clear()
        return time.monotonic() - began

    def kill(self) -> None:
        """End what a test that failed has left."""
        for process in self._dynos.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def logs(self) -> str:
        """What all dynos wrote."""
        return "\n".join(f"== {path.name}\n{path.read_text()[-3000:]}" for path in sorted(self._folder.glob("*.log")))


@pytest.fixture
def database(postgres_url: str) -> Iterator[str]:
    """An empty database of its own, in the spelling that Heroku still uses."""
    name = f"deploy_{secrets.token_hex(6)}"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        try:
            yield re.sub(r"^postgresql(\+\w+)?://", "postgres://", re.sub(r"/[^/]*$", f"/{name}", postgres_url))
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def platform(rabbitmq_url: str, database: str, tmp_path: Path) -> Iterator[Platform]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    made = {name: secrets.token_hex(32) for name, entry in app_json()["env"].items() if "generator" in entry}
    passed = ("HOME", "TMPDIR", "XDG_STATE_HOME", "FUTUREBROKER_TEST_PROCESS")
    kept = {name: os.environ[name] for name in passed if name in os.environ}
    environ = {
        **kept, **made, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PORT": str(port),
        "WEB_BIND": "127.0.0.1", "DATABASE_URL": database, "CLOUDAMQP_URL": rabbitmq_url,
        "FUTUREBROKER_CLUSTER": f"deploy-{secrets.token_hex(4)}", "DYNO_RAM": "512",
    }  # fmt: skip
    platform = Platform(tmp_path, environ)
    yield platform
    platform.kill()


def slow_square(number: int) -> int:
    time.sleep(0.05)
    return number * number


def get(environ: dict[str, str], path: str, *, token: bool = True) -> tuple[int, str]:
    """What the site answers, once it serves."""
    headers = {"Authorization": f"Bearer {environ['FUTUREBROKER_WEB_TOKEN']}"} if token else {}
    request = urllib.request.Request(f"http://127.0.0.1:{environ['PORT']}{path}", headers=headers)
    deadline = time.monotonic() + 30
    while True:
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def ended(environ: dict[str, str], kind: str, count: int) -> list[str]:
    """Keys of the tasks of one type in the site's history, one for each end that counted, once all are written."""
    deadline = time.monotonic() + 30
    while True:
        page: dict[str, Any] = json.loads(get(environ, f"/api/v1/tasks?q=type:{kind}")[1])
        if page["total"] >= count or time.monotonic() > deadline:
            break
        time.sleep(0.2)
    keys = [row["key"] for row in page["rows"]]
    while page["next"]:
        page = json.loads(get(environ, f"/api/v1/tasks?q=type:{kind}&after={page['next']}")[1])
        keys += [row["key"] for row in page["rows"]]
    return keys


def test_a_deployment_that_is_told_to_end_loses_nothing(platform: Platform) -> None:
    """A deploy restarts all dynos at once, in the middle of the work, which goes on and comes out right."""
    environ = platform.environ
    platform.run("release")
    platform.run("release")  # with every deploy again, and also when there is nothing to do
    dynos = ("web.1", "scheduler.1", "worker.1", "worker.2")
    for dyno in dynos:
        platform.start(dyno)
    client = Client(
        environ["CLOUDAMQP_URL"], cluster=environ["FUTUREBROKER_CLUSTER"], secret=environ["FUTUREBROKER_SECRET"],
        timeout=60,
    )  # fmt: skip
    try:
        client.wait_for_workers(2, timeout=60)
        names = {worker["name"] for worker in client.scheduler_info()["workers"].values()}
        assert names == {"worker.1", "worker.2"}
        squares = client.map(slow_square, range(300))
        total = client.submit(sum, squares)
        squares[20].result(timeout=60)

        status, text = get(environ, "/api/v1/overview")
        assert status == 200
        assert json.loads(text)["available"]
        assert get(environ, "/api/v1/overview", token=False)[0] == 401
        assert get(environ, "/healthz", token=False) == (200, "ok\n")

        platform.terminate()
        for dyno in dynos:
            platform.start(dyno)
        assert total.result(timeout=90) == sum(number * number for number in range(300))
        assert client.gather(squares) == [number * number for number in range(300)]
        assert get(environ, "/healthz", token=False)[0] == 200
        assert sorted(ended(environ, "slow_square", 300)) == sorted(square.key for square in squares)
    except BaseException:
        print(platform.logs())
        raise
    finally:
        client.close()
    assert platform.terminate() < GRACE
    assert shutil.which("honcho", path=environ["PATH"])
