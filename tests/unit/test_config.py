"""Settings: which source counts, what is refused, and that nothing secret is shown."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from futurebroker.amounts import parse_bytes, parse_duration
from futurebroker.config import (
    SETTINGS,
    Settings,
    default_secret_file,
    explain,
    hide_password,
    load_settings,
    settings_files,
)
from futurebroker.exceptions import ConfigError


def load(environ: dict[str, str] | None = None, files: list[Path] | None = None, **arguments: Any) -> Settings:
    """Settings from the given sources only, whatever the machine of the test has set."""
    return load_settings(environ=environ or {}, files=files or [], **arguments)


def written(folder: Path, text: str) -> Path:
    path = folder / "futurebroker.toml"
    path.write_text(text)
    return path


def test_without_any_source_the_defaults_hold() -> None:
    """A new user sets nothing, and listens on loopback only."""
    settings = load()
    assert settings == Settings()
    assert (settings.host, settings.port, settings.cluster) == ("127.0.0.1", 8786, "default")
    assert {line.source for line in explain(settings)} == {"default"}


def test_the_stronger_source_wins_and_is_named(tmp_path: Path) -> None:
    """`futurebroker config` must answer "why is it this value?" in one look."""
    near = written(tmp_path, 'cluster = "near"\nport = 2\nnthreads = 3')
    (tmp_path / "user").mkdir()
    far = written(tmp_path / "user", 'cluster = "far"\nport = 1\nexecutors = 4')
    settings = load({"FUTUREBROKER_CLUSTER": "variable", "FUTUREBROKER_PORT": "5"}, [near, far], cluster="argument")
    assert (settings.cluster, settings.port, settings.nthreads, settings.executors) == ("argument", 5, 3, 4)
    sources = {line.name: line.source for line in explain(settings)}
    assert (sources["cluster"], sources["port"]) == ("argument", "FUTUREBROKER_PORT")
    assert (sources["nthreads"], sources["executors"], sources["host"]) == (str(near), str(far), "default")


def test_none_and_the_empty_variable_count_as_not_given() -> None:
    """The command line passes every option on; `NAME= command` is how a shell takes a variable away."""
    settings = load({"FUTUREBROKER_PORT": "", "CLOUDAMQP_URL": "amqp://cloud"}, host=None)
    assert (settings.port, settings.host) == (8786, "127.0.0.1")


def test_our_own_variable_goes_before_the_platforms() -> None:
    """Heroku sets CLOUDAMQP_URL; who sets ours as well means ours."""
    both = {"CLOUDAMQP_URL": "amqp://cloud", "FUTUREBROKER_BROKER_URL": "amqp://ours"}
    assert load(both).broker_url == "amqp://ours"
    assert load({"CLOUDAMQP_URL": "amqp://cloud"}).broker_url == "amqp://cloud"


def test_the_old_scheme_of_postgresql_is_brought_up_to_date() -> None:
    """Platforms hand out postgres://, which SQLAlchemy refuses."""
    assert load({"DATABASE_URL": "postgres://u:p@h/d"}).database_url == "postgresql://u:p@h/d"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5s", 5.0), ("200ms", 0.2), ("1 min", 60.0), ("0.5 hours", 1800.0), ("2", 2.0), (3, 3), (0.25, 0.25)],
)  # fmt: skip
def test_durations_are_read_with_their_units(text: object, seconds: float) -> None:
    """People write what they would say."""
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "size"), [("4GB", 4 * 10**9), ("512 MiB", 512 * 2**20), ("1.5kib", 1536), ("7", 7), (8, 8), ("1 B", 1)]
)
def test_bytes_are_read_with_their_units(text: object, size: int) -> None:
    """GB and GiB are not the same, and both are meant when written."""
    assert parse_bytes(text) == size


@pytest.mark.parametrize(
    "value", ["", "s", "-1", "-1s", "1 parsec", "5ss", "nan", "inf", float("nan"), float("inf"), True, None]
)
def test_what_is_no_quantity_is_refused(value: object) -> None:
    """A typing mistake must not become a timeout of zero or of for ever."""
    with pytest.raises(ValueError):
        parse_duration(value)
    with pytest.raises(ValueError):
        parse_bytes(value)


@given(st.floats(min_value=0, max_value=1e9), st.sampled_from(["ms", "s", "min", "h"]))
def test_a_duration_is_as_long_as_its_number_says(number: float, unit: str) -> None:
    """Twice the number is twice the time, whatever the unit."""
    one = parse_duration(f"{number:.6f}{unit}")
    assert parse_duration(f"{2 * float(f'{number:.6f}'):.6f} {unit.upper()}") == pytest.approx(2 * one)


@pytest.mark.parametrize(
    ("name", "value", "accepted"),
    [
        ("port", "65536", "0 (any free port) to 65535"),
        ("port", "http", "0 (any free port) to 65535"),
        ("cluster", "a b", "letters, digits"),
        ("cluster", "x" * 65, "1 to 64"),
        ("cluster", "name\n", "1 to 64"),
        ("connect_timeout", "0", "200ms, 5s, 1 min"),
        ("connect_timeout", "soon", "200ms, 5s, 1 min"),
        ("memory_limit", "much", "auto, none or 0"),
        ("memory_target", "1.2", "0 to 1"),
        ("nthreads", 0, "1 or more"),
        ("nthreads", True, "1 or more"),
        ("log_level", "loud", "debug, info"),
        ("validate", "perhaps", "true or false"),
        ("broker_url", "two words", "host:port"),
        ("database_url", "not-a-url", "postgresql://"),
    ],
)
def test_a_bad_value_is_refused_with_its_source_and_what_is_accepted(name: str, value: object, accepted: str) -> None:
    """The reader of the error can mend the setting without reading code."""
    with pytest.raises(ConfigError) as from_argument:
        load_settings(environ={}, files=[], **{name: value})
    assert name in str(from_argument.value)
    assert "(argument)" in str(from_argument.value)
    assert accepted in str(from_argument.value)
    variable = SETTINGS[name].variables[0]
    with pytest.raises(ConfigError) as from_variable:
        load({variable: str(value)} if not isinstance(value, bool) else {variable: "x"})
    assert variable in str(from_variable.value)


def test_a_bad_value_that_another_source_hides_is_refused_too(tmp_path: Path) -> None:
    """Else it shows on the day the other source goes."""
    with pytest.raises(ConfigError, match="futurebroker.toml"):
        load(files=[written(tmp_path, "port = -1")], port=8000)


def test_an_unknown_name_is_refused_with_the_nearest_known_one(tmp_path: Path) -> None:
    """A misspelt setting that is ignored is a setting that silently does nothing."""
    with pytest.raises(ConfigError, match=r"unknown setting conect_timeout .*did you mean connect_timeout\?"):
        load(files=[written(tmp_path, "conect_timeout = 3")])
    with pytest.raises(ConfigError, match="there are: broker_url, cluster"):
        load(zzzz=1)


def test_a_file_that_is_no_toml_is_refused_with_its_path(tmp_path: Path) -> None:
    """The error must say which of the two files to mend."""
    path = written(tmp_path, "port = = 3")
    with pytest.raises(ConfigError, match=str(path)):
        load(files=[path])
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(ConfigError, match=str(folder)):
        load(files=[folder])


def test_the_secret_may_not_stand_in_a_settings_file(tmp_path: Path) -> None:
    """Settings files are shared and committed; secrets are not."""
    with pytest.raises(ConfigError, match="secret may not stand in") as caught:
        load(files=[written(tmp_path, 'secret = "hunter2"')])
    assert "hunter2" not in str(caught.value)


def test_nothing_secret_is_shown() -> None:
    """`futurebroker config`, a repr in a traceback and an error are all pasted into chats."""
    settings = load(
        {"FUTUREBROKER_SECRET": "hunter2", "DATABASE_URL": "postgresql://u:hunter2@h/d?password=hunter2"},
        broker_url="amqp://u:hunter2@one/v;amqps://u:hunt@er2@two",
    )
    shown = {line.name: line.value for line in explain(settings)}
    assert (shown["secret"], shown["secret_file"]) == ("set", "not set")
    assert shown["database_url"] == "postgresql://u:***@h/d?***"
    assert shown["broker_url"] == "amqp://u:***@one/v;amqps://u:***@two"
    assert "hunter2" not in f"{settings!r}"
    with pytest.raises(ConfigError) as caught:
        load({"FUTUREBROKER_BROKER_URL": "amqp://u:hunter2@h with space"})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("url", ["host", "host:1", "amqp://host/v", "redis://:x@host", "amqp://user@host"])
def test_hiding_a_password_keeps_the_place(url: str) -> None:
    """The address is what one looks for in a log."""
    assert hide_password(url) == url.replace(":x@", ":***@")


def test_memory_limit_may_be_automatic_none_or_bytes() -> None:
    """The three mean: find out, do not limit, and this much."""
    limits = {"auto": "auto", "none": None, "0": None, "2 GiB": 2**31, "0.5": 0.5, "1.0": 1.0, "1": 1}
    assert {limit: load(memory_limit=limit).memory_limit for limit in limits} == limits
    assert load(memory_limit=0.25).memory_limit == 0.25
    assert [load(memory_pause=part).memory_pause for part in ("off", "80%", 0.7)] == [0.0, 0.8, 0.7]
    assert [line.value for line in explain(load(memory_limit="none")) if line.name == "memory_limit"] == ["none"]


def test_settings_files_and_the_secret_follow_the_users_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder one works in goes first, then the folders the desktop standard names; a relative one is ignored."""
    monkeypatch.chdir(tmp_path)
    environ = {"XDG_CONFIG_HOME": "/etc/xdg-of-me", "XDG_STATE_HOME": "not/absolute"}
    assert settings_files(environ) == [
        tmp_path / "futurebroker.toml",
        Path("/etc/xdg-of-me/futurebroker/futurebroker.toml"),
    ]
    assert default_secret_file(environ) == Path("~/.local/state/futurebroker/secret").expanduser()


def test_every_setting_is_described_and_frozen() -> None:
    """A setting without a sentence cannot be shown; one that changes later would differ between processes."""
    assert all(setting.doc and setting.accepts and setting.variables for setting in SETTINGS.values())
    assert [*SETTINGS, "sources"] == [field.name for field in dataclasses.fields(Settings)]
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().port = 1  # type: ignore[misc]
