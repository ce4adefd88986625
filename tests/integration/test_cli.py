"""The commands as a user types them: start lines, errors, and an end by Ctrl-C that leaves nothing."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from futurebroker import Client, __version__
from futurebroker.cli.main import _COMMANDS
from futurebroker.cli.text import parse_resources
from futurebroker.exceptions import ConfigError
from tests.integration.programs import FUTUREBROKER, lines_until, run, running

SECRET = {"FUTUREBROKER_SECRET": "known to these tests"}


@contextlib.contextmanager
def scheduler(folder: Path, *arguments: str, **variables: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A scheduler on a free port, and its address."""
    command = [*FUTUREBROKER, "scheduler", "--port", "0", *arguments]
    with running(command, folder, **(variables or SECRET)) as program:
        lines = lines_until(program, "stop with")
        found = re.search(r"worker (\S+:\d+)", "\n".join(lines))
        assert found is not None, lines
        yield program, found[1]


def interrupt(program: subprocess.Popen[str]) -> tuple[int, str]:
    """What Ctrl-C in its terminal makes of a program: its exit code, and what it complains about."""
    children = psutil.Process(program.pid).children(recursive=True)
    os.killpg(program.pid, signal.SIGINT)
    _, err = program.communicate(timeout=30)
    assert not psutil.wait_procs(children, timeout=20)[1]
    return program.returncode, trouble(err)


def trouble(err: str) -> str:
    """What is not a log line about the course of things."""
    return "".join(line for line in err.splitlines(keepends=True) if " INFO futurebroker." not in line)


# -- help ----------------------------------------------------------------------------------------------------------


def test_the_help_lists_every_command_without_loading_any(tmp_path: Path) -> None:
    """It is what people ask first, so it must not wait for half the package."""
    listing = "import sys; from futurebroker.cli.main import main\ntry: main()\n"
    listing += "finally: print([name for name in sys.modules if name.startswith('futurebroker.')])\n"
    done = run([FUTUREBROKER[0], "-c", listing, "--help"], tmp_path)
    for name in ("up", "scheduler", "worker", "status", "doctor", "demo", "config"):
        assert re.search(rf"^  {name} ", done.stdout, re.MULTILINE)
    assert "scheduler.service" not in done.stdout
    assert "client" not in done.stdout.splitlines()[-1]


@pytest.mark.parametrize("name", list(_COMMANDS))
def test_each_command_explains_itself(name: str, tmp_path: Path) -> None:
    """A listed command that can't be loaded would be found only by the user."""
    done = run([*FUTUREBROKER, name, "--help"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"Usage: futurebroker {name}")


def test_the_version_is_the_package_s(tmp_path: Path) -> None:
    """Reports of bugs begin with it."""
    assert run([*FUTUREBROKER, "--version"], tmp_path).stdout == f"futurebroker, version {__version__}\n"


# -- settings ------------------------------------------------------------------------------------------------------


def test_config_shows_where_each_value_came_from_and_no_secret(tmp_path: Path) -> None:
    """The answer to "why does it connect there?", which is often pasted into a chat."""
    (tmp_path / "futurebroker.toml").write_text('cluster = "from-file"\n')
    url = "amqp://user:hidden@127.0.0.1:5672/"
    done = run([*FUTUREBROKER, "config"], tmp_path, FUTUREBROKER_BROKER_URL=url, FUTUREBROKER_SECRET="hidden")
    rows = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert re.search(r"from-file +\S*futurebroker\.toml$", rows["cluster"])
    assert rows["broker_url"].endswith("FUTUREBROKER_BROKER_URL")
    assert re.search(r"8786 +default$", rows["port"])
    assert "hidden" not in done.stdout


def test_a_wrong_value_is_one_line_that_names_its_source(tmp_path: Path) -> None:
    """No traceback: the user can't fix our code, but can fix the variable."""
    done = run([*FUTUREBROKER, "scheduler"], tmp_path, FUTUREBROKER_PORT="many")
    assert done.returncode == 1
    assert re.fullmatch(r"Error: port = 'many' \(FUTUREBROKER_PORT\) cannot be used; .*\n", done.stderr)


def test_resources_are_read_as_people_write_them() -> None:
    """Both separators are in use elsewhere; a typing error must not become a worker without a GPU."""
    assert parse_resources("GPU=2 MEM=1e9") == parse_resources("GPU=2,MEM=1e9") == {"GPU": 2.0, "MEM": 1e9}
    for wrong in ("GPU", "=1", "GPU=two", "GPU=-1", "GPU=inf"):
        with pytest.raises(ConfigError, match="--resources"):
            parse_resources(wrong)


# -- serving -------------------------------------------------------------------------------------------------------


def test_scheduler_and_worker_serve_a_client_under_the_short_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three processes that know one secret and ``host:port``; resources and names reach the scheduler."""
    monkeypatch.setenv("FUTUREBROKER_SECRET", SECRET["FUTUREBROKER_SECRET"])
    with scheduler(tmp_path) as (first, address):
        command = [*FUTUREBROKER, "worker", address, "--executors", "1", "--threads", "2", "--name", "w1"]
        with running([*command, "--resources", "GPU=1"], tmp_path, **SECRET) as second:
            lines_until(second, "worker w1 serves")
            with Client(address) as client:
                assert client.submit(pow, 2, 3, workers=["w1"], resources={"GPU": 1}).result(timeout=30) == 8
                assert list(client.nthreads().values()) == [2]
            assert interrupt(second) == (130, "")
        assert interrupt(first) == (130, "")


def test_up_is_both_and_one_ctrl_c_ends_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One command for one machine, with the secret in the file that is made on first use."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with running([*FUTUREBROKER, "up", "--port", "0", "--executors", "1"], tmp_path) as program:
        lines = lines_until(program, "one worker runs")
        found = re.search(r"worker (127\.0\.0\.1:\d+)$", "\n".join(lines), re.MULTILINE)
        assert found is not None, lines
        with Client(found[1]) as client:
            assert client.submit(abs, -4).result(timeout=30) == 4
        assert (tmp_path / "futurebroker" / "secret").stat().st_mode & 0o777 == 0o600
        assert interrupt(program) == (130, "")


def test_up_ends_when_its_scheduler_dies(tmp_path: Path) -> None:
    """Half a cluster that looks alive is worse than none; a supervisor can only restart what exits."""
    with running([*FUTUREBROKER, "up", "--port", "0", "--executors", "1"], tmp_path, **SECRET) as program:
        lines_until(program, "one worker runs")
        (first,) = [
            child for child in psutil.Process(program.pid).children() if "scheduler.main" in " ".join(child.cmdline())
        ]
        first.kill()
        _, err = program.communicate(timeout=30)
        assert program.returncode == 1
        assert "the scheduler has ended" in err


def test_sigterm_ends_a_scheduler_with_success(tmp_path: Path) -> None:
    """That is how systemd, Docker and Heroku stop what they started, and they restart what failed."""
    with scheduler(tmp_path) as (program, _):
        program.terminate()
        _, err = program.communicate(timeout=30)
        assert (program.returncode, trouble(err)) == (0, "")


# -- what goes wrong -----------------------------------------------------------------------------------------------


def test_a_worker_without_a_scheduler_says_how_to_start_one(tmp_path: Path) -> None:
    """Within its timeout, with the address it tried."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    done = run([*FUTUREBROKER, "worker", f"127.0.0.1:{port}", "--timeout", "500ms"], tmp_path, **SECRET)
    assert done.returncode == 1
    assert f"no scheduler answered at amqp://127.0.0.1:{port} within 0.5 s" in done.stderr
    assert f"futurebroker scheduler --port {port}" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_worker_with_another_secret_is_told_so(tmp_path: Path) -> None:
    """The broker's password comes from the secret, so the worker learns it before any message is sent."""
    with scheduler(tmp_path) as (_, address):
        done = run([*FUTUREBROKER, "worker", address, "--timeout", "2s"], tmp_path, FUTUREBROKER_SECRET="another")
    assert done.returncode == 1
    assert "secret" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["scheduler", "up"])
def test_a_taken_port_is_named(command: str, tmp_path: Path) -> None:
    """The commonest failure of all: another scheduler runs already."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run([*FUTUREBROKER, command, "--port", port], tmp_path, **SECRET)
    assert done.returncode == 1
    assert port in done.stderr
    assert "Address already in use" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["scheduler", "up"])
def test_other_machines_are_let_in_only_with_a_given_secret(command: str, tmp_path: Path) -> None:
    """A secret that was made by itself is in nobody's hands yet, and nobody decided to open the port."""
    done = run([*FUTUREBROKER, command, "--host", "0.0.0.0", "--port", "0"], tmp_path)
    assert done.returncode == 1
    assert "listening on 0.0.0.0 lets other machines in" in done.stderr
    assert "FUTUREBROKER_SECRET" in done.stderr
