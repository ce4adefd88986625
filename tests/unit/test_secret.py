"""The secret: made once, kept private, asked for in words; and addresses as people write them."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from futurebroker.config import Settings, load_settings
from futurebroker.exceptions import ConfigError, SecretError
from futurebroker.secret import find_secret, is_loopback, normalize_address, secret_file, secret_origin


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings whose secret file does not exist yet, in a folder that does not exist either."""
    return Settings(secret_file=tmp_path / "state" / "secret")


def kept(settings: Settings, content: bytes, mode: int = 0o600) -> Path:
    """The secret file with this content, as if made earlier."""
    path = secret_file(settings)
    path.parent.mkdir(mode=0o700)
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_the_first_local_use_makes_a_private_secret(settings: Settings) -> None:
    """A new user types no secret, and no other user of the machine can read it."""
    made = find_secret(settings, create=True)
    path = secret_file(settings)
    assert len(bytes.fromhex(made.decode())) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert os.listdir(path.parent) == ["secret"]
    assert find_secret(settings, create=False) == made


def test_the_variable_goes_before_the_file_and_holds_the_same_text(settings: Settings) -> None:
    """`export FUTUREBROKER_SECRET=$(cat secret)` makes another machine a member."""
    made = find_secret(settings, create=True)
    elsewhere = Settings(secret=secret_file(settings).read_text().strip(), secret_file=Path("/nonexistent"))
    assert find_secret(elsewhere, create=False) == made


def test_processes_that_start_together_agree_on_one_secret(settings: Settings) -> None:
    """`futurebroker up` starts several at once; two secrets would keep them apart for ever."""
    start = threading.Barrier(8)
    found: list[bytes] = []

    def look() -> None:
        start.wait()
        found.append(find_secret(settings, create=True))

    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert os.listdir(secret_file(settings).parent) == ["secret"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_secret_that_others_can_reach_is_refused(settings: Settings, mode: int) -> None:
    """They may know it already, so signing with it protects nobody."""
    path = kept(settings, b"known", mode)
    with pytest.raises(SecretError, match=f"{path} can be read by others .*chmod 600"):
        find_secret(settings, create=True)


def test_a_secret_of_another_user_is_refused(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who owns the file can change it, and so sign as this cluster."""
    path = kept(settings, b"theirs")
    me = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    with pytest.raises(SecretError, match=f"{path} belongs to user {me}"):
        find_secret(settings, create=True)


def test_a_folder_that_others_can_write_to_is_refused(settings: Settings) -> None:
    """There they could put a secret of theirs in the place of ours."""
    folder = secret_file(settings).parent
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(SecretError, match=f"others can write to {folder}"):
        find_secret(settings, create=True)
    assert os.listdir(folder) == []


@pytest.mark.parametrize("content", [b"", b" \n", b"x" * 5000])
def test_a_file_without_a_usable_secret_is_refused(settings: Settings, content: bytes) -> None:
    """An empty key would sign everything with nothing."""
    kept(settings, content)
    with pytest.raises(SecretError, match="holds no secret"):
        find_secret(settings, create=True)


def test_a_pipe_in_the_place_of_the_file_is_refused_at_once(settings: Settings) -> None:
    """Opening it must not wait for somebody who never writes."""
    path = secret_file(settings)
    path.parent.mkdir()
    os.mkfifo(path, 0o600)
    with pytest.raises(SecretError, match="not a regular file"):
        find_secret(settings, create=True)


def test_a_missing_secret_is_asked_for_by_variable_and_file(tmp_path: Path) -> None:
    """The error is all that a worker's log shows; it names both ways, and no password."""
    settings = Settings(broker_url="amqp://u:hunter2@rabbit.example", secret_file=tmp_path / "secret")
    for create in (False, True):
        with pytest.raises(SecretError) as caught:
            find_secret(settings, create=create)
        for part in ("rabbit.example", "FUTUREBROKER_SECRET", str(tmp_path / "secret")):
            assert part in str(caught.value)
        assert "hunter2" not in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_a_scheduler_that_listens_to_the_network_makes_no_secret(tmp_path: Path) -> None:
    """It must be given: only then do the other machines know it."""
    with pytest.raises(SecretError, match=r"no secret for 0\.0\.0\.0"):
        find_secret(Settings(host="0.0.0.0", secret_file=tmp_path / "secret"), create=True)


def test_a_folder_that_cannot_be_made_is_told_with_the_way_out(tmp_path: Path) -> None:
    """Containers have homes that cannot be written to."""
    (tmp_path / "file").write_text("")
    with pytest.raises(SecretError, match="set FUTUREBROKER_SECRET"):
        find_secret(Settings(secret_file=tmp_path / "file" / "secret"), create=True)


@pytest.mark.parametrize(
    ("written", "url"),
    [
        ("scheduler:8786", "amqp://scheduler:8786"),
        ("scheduler", "amqp://scheduler:8787"),
        (" scheduler:1 ", "amqp://scheduler:1"),
        (":99", "amqp://127.0.0.1:99"),
        ("10.0.0.1", "amqp://10.0.0.1:8787"),
        ("::1", "amqp://[::1]:8787"),
        ("[::1]", "amqp://[::1]:8787"),
        ("[::1]:5", "amqp://[::1]:5"),
        ("user:word@host:5/vhost", "amqp://user:word@host:5/vhost"),
        ("amqp://u:p@host/v", "amqp://u:p@host/v"),
        ("AMQPS://host", "amqps://host"),
        ("memory://test", "memory://test"),
        ("redis://host:6379/0", "redis://host:6379/0"),
    ],
)
def test_an_address_becomes_one_url(written: str, url: str) -> None:
    """`scheduler:8786` is all a worker needs to be told; a URL keeps what it says."""
    assert normalize_address(written, Settings(port=8787)) == url


@pytest.mark.parametrize("written", ["", "host:port", "host:0", "host:65536", "a:b:c", "[::1", "two words", "host:-1"])
def test_what_is_no_address_is_refused(written: str) -> None:
    """Before anything waits for a connection that cannot come."""
    with pytest.raises(ConfigError, match="is no address"):
        normalize_address(written, Settings())


def test_an_unknown_scheme_is_refused_without_its_password() -> None:
    """`http://` is a common guess; the error names what there is."""
    with pytest.raises(ConfigError, match="http is not one of amqp, amqps") as caught:
        normalize_address("http://u:hunter2@host", Settings())
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "local",
    ["127.0.0.1", "localhost:1", "::1", "[::1]:9", "amqp://u:p@127.8.9.1:5/v", "memory://x", "amqp://LOCALHOST"],
)
def test_this_machine_is_loopback(local: str) -> None:
    """Here a secret may be made without being asked for."""
    assert is_loopback(local)


@pytest.mark.parametrize(
    "remote",
    [
        "0.0.0.0",
        "::",
        "host",
        "10.0.0.1",
        "amqp://localhost@evil",
        "localhost.evil",
        "amqp://localhost;amqp://evil",
        "",
    ],
)
def test_everything_else_is_not_loopback(remote: str) -> None:
    """A guess in the other direction would open a cluster to the network."""
    assert not is_loopback(remote)


def test_where_the_secret_came_from_can_be_told(settings: Settings) -> None:
    """When two secrets differ, one has to be found and changed."""
    assert secret_origin(settings) == f"the file {secret_file(settings)}"
    assert secret_origin(load_settings(environ={}, files=[], secret="a secret")) == "the argument secret="
    assert secret_origin(load_settings(environ={"FUTUREBROKER_SECRET": "a secret"}, files=[])) == "FUTUREBROKER_SECRET"
