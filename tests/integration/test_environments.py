"""Executors that change to another environment while the cluster runs: a real venv with another package in it."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import futurebroker
from futurebroker import Client, LocalCluster
from futurebroker.exceptions import EnvironmentRefusedError
from tests.integration.software import greet, packed_venv, wait_for


@pytest.fixture(scope="module")
def zipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed venv with version 2 of a package called greeting."""
    return packed_venv(tmp_path_factory.mktemp("environments") / "new")


@pytest.fixture
def old_greeting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Version 1 of the package, which workers take over from this program's import path."""
    (tmp_path / "site-packages" / "greeting").mkdir(parents=True)
    (tmp_path / "site-packages" / "greeting" / "__init__.py").write_text("version = '1.0'\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site-packages"))


@pytest.fixture
def cluster(old_greeting: None) -> Iterator[LocalCluster]:
    """Two workers, on one host."""
    with LocalCluster(n_workers=2, executors_per_worker=1) as cluster:
        yield cluster


def test_executors_change_live_and_back(cluster: LocalCluster, client: Client, zipped: Path, tmp_path: Path) -> None:
    """Stored results stay, what runs is finished or run again, and a worker that joins later runs in it as well."""
    assert client.submit(greet).result(30)[0] == "1.0"
    small = client.submit(os.getpid)
    large = client.submit(bytes, 1_000_000, workers="local-1")
    pid = small.result(30)
    large.result(30)
    running = client.submit(wait_for, str(tmp_path / "end"), workers="local-2")
    while not client.call_stack([running]):
        pass
    client.upload_environment("new", zipped)
    assert client.list_environments()["new"]["complete"]
    client.restart(environment="new", patience=0.1)
    answers = [client.submit(greet, workers=name).result(30) for name in ["local-1"]]
    assert {version for version, _ in answers} == {"2.0"}
    assert client.list_environments()["new"]["current"]
    assert small.result() == pid
    assert len(client.submit(bytes, large, workers="local-1").result(30)) == 1_000_000
    (tmp_path / "end").touch()
    assert running.result(30) > 0
    cluster.scale(3)
    answers += [client.submit(greet, workers=name).result(30) for name in ("local-2", "local-3")]
    assert {version for version, _ in answers} == {"2.0"}
    assert len({prefix for _, prefix in answers}) == 1  # unpacked once for all workers of the host
    folder = Path(answers[0][1])
    assert folder.is_dir()
    client.restart(environment=None)
    assert [client.submit(greet, workers=name).result(30)[0] for name in cluster.workers] == ["1.0"] * 3
    assert small.result() == pid
    cluster.close()
    assert not folder.exists()


def test_an_executor_that_dies_is_replaced_in_the_same_environment(client: Client, zipped: Path) -> None:
    """A crash doesn't change the software."""
    client.upload_environment("new", zipped)
    client.restart(environment="new")
    assert client.submit(os._exit, 3, workers="local-1").exception(30) is not None
    assert client.submit(greet, workers="local-1").result(30)[0] == "2.0"


def _with(zipped: Path, target: Path, *, without: str = "", extra: dict[str, str] | None = None) -> Path:
    """A copy of the zip, changed."""
    with zipfile.ZipFile(zipped) as source, zipfile.ZipFile(target, "w") as sink:
        for entry in source.infolist():
            if not without or without not in entry.filename:
                sink.writestr(entry, source.read(entry))
        for name, text in (extra or {}).items():
            sink.writestr(name, text)
    return target


def test_what_cannot_work_is_refused_before_anything_stops(client: Client, zipped: Path, tmp_path: Path) -> None:
    """Each with its reason; the executors are the same processes as before."""
    pids = client.run(os.getpid)
    with pytest.raises(EnvironmentRefusedError, match="leads out of the folder"):
        client.upload_environment("x", _with(zipped, tmp_path / "a.zip", extra={"../evil": "x"}))
    with pytest.raises(EnvironmentRefusedError, match="futurebroker isn't installed in it"):
        client.upload_environment("x", _with(zipped, tmp_path / "b.zip", without="futurebroker"))
    (tmp_path / "c.zip").write_bytes(b"no zip")
    with pytest.raises(EnvironmentRefusedError, match="not a zip file"):
        client.upload_environment("x", tmp_path / "c.zip")
    with pytest.raises(EnvironmentRefusedError, match="there is no environment 'y'"):
        client.restart(environment="y")
    # What only a trial finds out: a dependency that is missing, another version of ours.
    client.upload_environment("broken", _with(zipped, tmp_path / "d.zip", without="/msgspec/"))
    with pytest.raises(EnvironmentRefusedError, match="No module named 'msgspec'"):
        client.restart(environment="broken")
    client.upload_environment("old", _other_version(zipped, tmp_path / "e.zip"))
    with pytest.raises(EnvironmentRefusedError, match=r"it has futurebroker 0\.0\.9, and the worker runs"):
        client.restart(environment="old")
    assert client.run(os.getpid) == pids
    assert client.submit(greet).result(30)[0] == "1.0"


def _other_version(zipped: Path, target: Path) -> Path:
    name = next(n for n in zipfile.ZipFile(zipped).namelist() if n.endswith("site-packages/futurebroker/__init__.py"))
    text = zipfile.ZipFile(zipped).read(name).decode()
    changed = text.replace(f'"{futurebroker.__version__}"', '"0.0.9"')
    return _with(zipped, target, without="futurebroker/__init__.py", extra={name: changed})


def test_threads_cannot_change_their_software(zipped: Path) -> None:
    """They are the program's own process."""
    with LocalCluster(processes=False, executors_per_worker=1) as cluster, Client(cluster) as client:
        client.upload_environment("new", zipped)
        with pytest.raises(EnvironmentRefusedError, match="processes=False"):
            client.restart(environment="new")
        assert client.submit(abs, -1).result(30) == 1
