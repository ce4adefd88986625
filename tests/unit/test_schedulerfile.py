"""Scheduler files: private when they hold the secret, refused when they aren't, and all there or not at all."""

from __future__ import annotations

import json
import os
import stat
import threading
from pathlib import Path

import pytest

from futurebroker import schedulerfile
from futurebroker.exceptions import ConfigError, SecretError
from futurebroker.schedulerfile import SchedulerFile

WHOLE = SchedulerFile("amqp://127.0.0.1:8786", "c", "s" * 32)


def test_it_comes_back_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    """Also where one was before that others could read; nothing else is left in the folder."""
    path = tmp_path / "scheduler.json"
    path.write_text("old")
    path.chmod(0o666)
    schedulerfile.write(path, WHOLE)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert schedulerfile.read(path) == WHOLE
    assert os.listdir(tmp_path) == ["scheduler.json"]


def test_one_with_the_secret_that_others_can_read_is_refused(tmp_path: Path) -> None:
    """The secret may be known to anybody by now, and that should not pass unnoticed."""
    path = tmp_path / "scheduler.json"
    schedulerfile.write(path, WHOLE)
    path.chmod(0o640)
    with pytest.raises(SecretError, match="chmod 600") as caught:
        schedulerfile.read(path)
    assert "s" * 32 not in str(caught.value)


def test_one_without_the_secret_is_for_everybody(tmp_path: Path) -> None:
    """But never with a broker's password in it."""
    path = tmp_path / "scheduler.json"
    schedulerfile.write(path, SchedulerFile("amqp://host", "c"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert schedulerfile.read(path) == SchedulerFile("amqp://host", "c")
    with pytest.raises(ConfigError, match="password"):
        schedulerfile.write(path, SchedulerFile("amqp://host;amqps://user:word@host/", "c"))
    assert schedulerfile.read(path) == SchedulerFile("amqp://host", "c")


def test_one_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    """Jobs of one batch start in any order; after the time it is an error that says what to do."""
    path = tmp_path / "scheduler.json"
    with pytest.raises(ConfigError, match="--scheduler-file"):
        schedulerfile.read(path, 0.01)
    read: list[SchedulerFile] = []
    thread = threading.Thread(target=lambda: read.append(schedulerfile.read(path, 30)))
    thread.start()
    schedulerfile.write(path, WHOLE)
    thread.join()
    assert read == [WHOLE]


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "7", json.dumps({"address": "tcp://h"}), json.dumps({"address": 1, "cluster": "c", "secret": None}),
     json.dumps({"address": "a", "cluster": "c", "secret": ["s"]}), "[" * 100_000],
)  # fmt: skip
def test_what_is_no_such_file_is_said(tmp_path: Path, text: str) -> None:
    """That of dask.distributed, for one."""
    path = tmp_path / "scheduler.json"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="is no scheduler file"):
        schedulerfile.read(path)
    with pytest.raises(ConfigError, match="can't be read"):
        schedulerfile.read(tmp_path)


def test_it_is_removed_by_who_wrote_it_only(tmp_path: Path) -> None:
    """Another scheduler may have written there since."""
    path = tmp_path / "scheduler.json"
    schedulerfile.write(path, WHOLE)
    schedulerfile.remove(path, SchedulerFile("amqp://other", "c", "t" * 32))
    assert path.exists()
    schedulerfile.remove(path, WHOLE)
    schedulerfile.remove(path, WHOLE)
    assert not path.exists()


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    """Not even part of it."""
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        schedulerfile.write(tmp_path / "folder", WHOLE)
    assert os.listdir(tmp_path) == ["folder"]
