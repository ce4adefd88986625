"""Settings: arguments first, then environment variables, then ``futurebroker.toml``, then defaults.

They are read once, by whoever starts a process, and passed down as one frozen ``Settings``. This is the only module
that looks at the environment or at a settings file.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from futurebroker import values
from futurebroker.amounts import memory_limit, parse_bytes, parse_duration, part
from futurebroker.exceptions import ConfigError

FILE_NAME = "futurebroker.toml"


def _show_list(value: object) -> str:
    return ",".join(value) if isinstance(value, tuple) else str(value)


def _show(value: object) -> str:
    return "not set" if value is None else str(value)


def _show_secret(value: object) -> str:
    return "not set" if value is None else "set"


def _show_memory_limit(value: object) -> str:
    return "none" if value is None else str(value)


def hide_password(url: str) -> str:
    """The URL, or failover list of them, as it may be shown and logged: its password reads ``***``."""
    return ";".join(_hide_password(part) for part in re.split(r";(?=[a-z+]+://)", url))


def _hide_password(url: str) -> str:
    scheme, separator, rest = url.rpartition("://")
    credentials, at, place = rest.rpartition("@")
    user, colon, _ = credentials.partition(":")
    # A query may carry credentials too (?password=...), so none is shown.
    place, question, _ = place.partition("?")
    return f"{scheme}{separator}{user}{colon}{'***' if colon else ''}{at}{place}{question}{'***' if question else ''}"


def _show_url(value: object) -> str:
    return "not set" if value is None else hide_password(str(value))


# -- the settings --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """One setting: where it may come from, what it accepts and how it is shown."""

    name: str
    doc: str  #: one sentence for ``futurebroker config``
    variables: tuple[str, ...]  #: environment variables, the first that is set counts
    default: object
    accepts: str  #: ends the sentence "it accepts ..." of an error
    parse: Callable[[object], object]  #: raises ValueError or KeyError for what is not accepted
    show: Callable[[object], str]
    in_file: bool  #: whether a settings file may hold it


def _setting(
    parse: Callable[[object], object],
    default: object,
    accepts: str,
    doc: str,
    *variables: str,
    show: Callable[[object], str] = _show,
    in_file: bool = True,
) -> Any:
    """A field of ``Settings``; without ``variables`` its variable is FUTUREBROKER_ and its name in capitals."""
    about = {"parse": parse, "accepts": accepts, "doc": doc, "variables": variables, "show": show, "in_file": in_file}
    # What is shown with care has no place in a repr either.
    return field(default=default, repr=show is _show, metadata=about)


_DURATION = "seconds, or a number with a unit: 200ms, 5s, 1 min"
_PART = "0 to 1, a percentage like 60%, or off"
_BYTES = "bytes, or a number with a unit: 512 MiB, 4GB"
_ADDRESS = "host, host:port, or a URL like amqp://user:password@host:5672/vhost"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings of one process. ``Settings()`` holds the defaults; ``load_settings`` reads what was set."""

    broker_url: str | None = _setting(
        values.address, None, _ADDRESS, "the broker that client, scheduler and workers meet at",
        "FUTUREBROKER_BROKER_URL", "CLOUDAMQP_URL", show=_show_url,
    )  # fmt: skip
    cluster: str = _setting(
        values.cluster_name, "default", "1 to 64 letters, digits, dots, dashes and underscores",
        "the name that keeps clusters on one broker apart",
    )  # fmt: skip
    secret: str | None = _setting(
        values.text, None, "one line of text", "what every message is signed with",
        show=_show_secret, in_file=False,
    )  # fmt: skip
    secret_file: Path | None = _setting(  # noqa: RUF009 - it makes a field, as field() does
        values.path, None, "the path of a file", "where the secret is kept when it is not in a variable"
    )
    database_url: str | None = _setting(
        values.database_url, None, "a URL like postgresql://user:password@host/name or sqlite:///file",
        "the database that keeps what must survive",
        "FUTUREBROKER_DATABASE_URL", "DATABASE_URL", show=_show_url,
    )  # fmt: skip
    history: bool | Literal["auto"] = _setting(
        values.switch, "auto", "auto, true or false",
        "keep what people look up later: tasks that ended, events; auto: yes, but for local clusters of a program",
    )  # fmt: skip
    history_age: float = _setting(parse_duration, 30 * 86400.0, _DURATION, "how long that is kept; 0 is for ever")
    history_rows: int = _setting(values.count, 10_000_000, "0 or more", "how many tasks and events are kept; 0 is all")
    host: str = _setting(values.address, "127.0.0.1", "a host name or an IP address", "where the scheduler listens")
    port: int = _setting(values.port, 8786, "0 (any free port) to 65535", "the port the scheduler listens on")
    connect_timeout: float = _setting(
        values.interval, 10.0, _DURATION, "how long a client or worker waits for the scheduler to answer"
    )
    allowed_failures: int = _setting(
        values.count, 3, "0 or more", "how many workers or executors a task may lose before it fails"
    )
    suspect_grace: float = _setting(
        parse_duration, 5.0, _DURATION, "how long a silent worker keeps what it runs before it is given to another"
    )
    heartbeat_interval: float = _setting(values.interval, 1.0, _DURATION, "the time between two reports of a worker")
    client_grace: float = _setting(
        parse_duration, 60.0, _DURATION, "how long the futures of a client that disconnected are kept for it"
    )
    memory_limit: int | float | Literal["auto"] | None = _setting(
        memory_limit, "auto", f"auto, none or 0, a part of the machine's like 0.5, {_BYTES}",
        "the memory of one worker with its executors and results", show=_show_memory_limit,
    )  # fmt: skip
    memory_target: float = _setting(
        part, 0.60, _PART, "part of memory_limit that results may take before the least recently used go to disk"
    )
    memory_spill: float = _setting(
        part, 0.70, _PART, "part of memory_limit that all of a worker may take before more results go to disk"
    )
    memory_pause: float = _setting(part, 0.80, _PART, "part of memory_limit over which a worker starts no task")
    memory_terminate: float = _setting(
        part, 0.95, _PART, "part of memory_limit over which the largest running executor is killed"
    )
    memory_reuse: float = _setting(
        part, 0.10, _PART, "part of memory_limit that files of freed results may take until others are written to them"
    )
    data_address: str = _setting(
        values.data_address, "auto", "auto, none, host or host:port",
        "where a worker serves its results to other machines; auto: only where the broker is elsewhere",
    )  # fmt: skip
    data_ways: tuple[str, ...] = _setting(
        values.ways, ("map", "direct", "bulk", "relay"), "some of map, direct, bulk and relay, with commas",
        "how data may move: mapped on one machine, by direct connections, through the broker by a second connection"
        " to it, through broker and scheduler", show=_show_list,
    )  # fmt: skip
    data_tls_cert: Path | None = _setting(  # noqa: RUF009 - as below
        values.path,
        None,
        "the path of a PEM file",
        "certificate of a worker's direct connections, which are TLS with it",
    )
    data_tls_key: Path | None = _setting(  # noqa: RUF009 - as below
        values.path, None, "the path of a PEM file", "key of that certificate, if it isn't in the same file"
    )
    data_tls_ca: Path | None = _setting(  # noqa: RUF009 - as below
        values.path, None, "the path of a PEM file", "who has signed the certificates of other workers"
    )
    local_folder: Path | None = _setting(  # noqa: RUF009 - it makes a field, as field() does
        values.path,
        None,
        "the path of a folder",
        "where results that go to disk are kept; temporary files' when not set",
    )
    executors: int | None = _setting(
        values.positive, None, "1 or more", "executor processes of a worker; as many as there are cores when not set"
    )
    nthreads: int = _setting(values.positive, 1, "1 or more", "threads of each executor process")
    task_output: bool = _setting(
        values.boolean, True, "true or false", "keep what tasks print, 16,000 letters of each, for who looks at a task"
    )
    task_arguments: bool = _setting(
        values.boolean, True, "true or false",
        "keep arguments and results in short words, of tasks that fail or take over 10 ms, for who looks at a task",
    )  # fmt: skip
    log_level: str = _setting(
        values.log_level, "info", ", ".join(values.LOG_LEVELS), "the least severe message that is logged"
    )
    log_format: str = _setting(
        values.log_format,
        "text",
        ", ".join(values.LOG_FORMATS),
        "how log lines are written: for people, or one JSON object each",
    )
    intake_tasks: int = _setting(
        values.positive, 1_000_000, "1 or more", "unfinished tasks the scheduler takes from one client"
    )
    intake_bytes: int = _setting(
        parse_bytes, 2**30, _BYTES, "bytes of functions and arguments the scheduler holds for one client"
    )
    allow_run_on_scheduler: bool = _setting(
        values.boolean, False, "true or false", "let operators run code in the scheduler's process"
    )
    allow_shutdown: bool = _setting(
        values.boolean, True, "true or false", "let clients end the whole cluster by Client.shutdown"
    )
    operator_secret: str | None = _setting(
        values.text,
        None,
        "one line of text",
        "what operators must know to open consoles",
        show=_show_secret,
        in_file=False,
    )
    journal: str | None = _setting(
        values.journal, None, ", ".join(values.JOURNALS),
        "what survives: nothing, the end of the scheduler's process, or (with PostgreSQL) that of its machine too",
    )  # fmt: skip
    detached_keep: float = _setting(
        parse_duration, 600.0, _DURATION,
        "how long the result of what ran for nobody (fire_and_forget) is kept for who asks by its key, with a journal",
    )  # fmt: skip
    results_kept: int = _setting(
        values.positive, 250_000, "a whole number above 0",
        "results in the scheduler's memory that nobody holds a future of, kept by durable=, keep= or a Celery task; "
        "the oldest beyond it go to the database alone, and are forgotten without one",
    )  # fmt: skip
    results_leave: float = _setting(
        parse_duration, 60.0, _DURATION,
        "how long such a result stays in memory at the most before it goes to the database alone, where there is one",
    )  # fmt: skip
    journal_limit: int = _setting(
        parse_bytes, 64 * 2**20, _BYTES, "bytes of journal after which it is folded into a checkpoint"
    )
    store: Path | None = _setting(  # noqa: RUF009 - it makes a field, as field() does
        values.path, None, "a folder", "where datasets of persist='store' are kept; beside the database when not set"
    )
    validate: bool = _setting(
        values.boolean, False, "true or false", "check the scheduler's invariants after every event; slow"
    )
    web_host: str = _setting(values.address, "127.0.0.1", "a host name or an IP address", "where the dashboard listens")
    web_port: int = _setting(values.port, 8787, "0 (any free port) to 65535", "the port the dashboard listens on")
    web_token: str | None = _setting(
        values.text, None, "one line of text",
        "opens the dashboard to who may cancel and retry; derived from the secret",
        show=_show_secret, in_file=False,
    )  # fmt: skip
    web_viewer_token: str | None = _setting(
        values.text, None, "one line of text", "opens the dashboard to who may only look; derived from the secret",
        show=_show_secret, in_file=False,
    )  # fmt: skip
    web_hosts: str | None = _setting(
        values.text, None, "host names with commas between; .example.com takes all below it, * any",
        "names under which the dashboard may be asked for, besides this machine's own",
    )  # fmt: skip
    web_read_only: bool = _setting(
        values.boolean, False, "true or false", "let nobody cancel or retry in the dashboard"
    )
    dashboard: bool = _setting(
        values.boolean, True, "true or false", "have `futurebroker up` and local clusters a dashboard"
    )
    #: name -> where its value came from; what is not in it is a default
    sources: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)


def _describe() -> dict[str, Setting]:
    described = {}
    for item in fields(Settings):
        if item.default is MISSING:
            continue
        about = dict(item.metadata)
        about["variables"] = about["variables"] or (f"FUTUREBROKER_{item.name.upper()}",)
        described[item.name] = Setting(name=item.name, default=item.default, **about)
    return described


#: Every setting by its name, in the order in which they are shown.
SETTINGS: Mapping[str, Setting] = _describe()


# -- reading -------------------------------------------------------------------------------------------------------


def settings_files(environ: Mapping[str, str] | None = None) -> list[Path]:
    """Where ``futurebroker.toml`` is looked for: the current folder, then the user's config folder."""
    environ = os.environ if environ is None else environ
    return [Path.cwd() / FILE_NAME, _user_folder(environ, "XDG_CONFIG_HOME", "~/.config") / FILE_NAME]


def default_secret_file(environ: Mapping[str, str] | None = None) -> Path:
    """Where the secret is kept when nothing else is set: the user's state folder."""
    environ = os.environ if environ is None else environ
    return _user_folder(environ, "XDG_STATE_HOME", "~/.local/state") / "secret"


def storage_orders(settings: Settings, *, standby: bool = False) -> dict[str, Any] | None:
    """What the settings say of what survives, as `scheduler.durable.Storage` takes it; None for nothing.

    Unless it is said otherwise, PostgreSQL survives the machine, and a file the scheduler's process; and nothing does
    that listens on any free port.
    """
    if settings.journal is None and settings.database_url is None and settings.broker_url is None and not settings.port:
        return None  # at a port of chance nobody would find it again
    url = database_of(settings)
    mode = settings.journal or ("process" if url.lower().startswith("sqlite") else "full")
    if mode == "none":
        if standby:
            raise ConfigError("a standby goes on with what the journal has, and --journal none keeps none")
        return None
    return {
        "mode": mode,
        "database": url,
        "standby": standby,
        "journal_limit": settings.journal_limit,
        "detached_keep": settings.detached_keep,
        "store": str(settings.store) if settings.store is not None else None,
    }


def database_of(settings: Settings, environ: Mapping[str, str] | None = None) -> str:
    """The URL of the database: the one that is set, else a SQLite file in the user's state folder.

    The file is the cluster's and the address's, so that two schedulers of one machine don't share it.
    """
    if settings.database_url is not None:
        return settings.database_url
    place = str(settings.port)
    if settings.broker_url is not None:
        place = hashlib.sha256(settings.broker_url.encode()).hexdigest()[:8]
    folder = _user_folder(os.environ if environ is None else environ, "XDG_STATE_HOME", "~/.local/state")
    return f"sqlite:///{folder / f'{settings.cluster}-{place}.db'}"


def history_of(settings: Settings) -> str:
    """The URL of the history: the database's, or beside a SQLite file another, because each has only one writer."""
    url = database_of(settings)
    path, suffix, query = url.partition("?")
    if not path.startswith("sqlite"):
        return url
    stem, dot, ending = path.rpartition(".")
    if not dot or "/" in ending:
        stem, ending = path, "db"
    return f"{stem}-history.{ending}{suffix}{query}"


def _user_folder(environ: Mapping[str, str], variable: str, usual: str) -> Path:
    # A relative path in such a variable is to be ignored, says the standard that names them.
    named = Path(environ.get(variable, ""))
    return (named if named.is_absolute() else Path(usual).expanduser()) / "futurebroker"


def load_settings(
    *, environ: Mapping[str, str] | None = None, files: Sequence[Path] | None = None, **arguments: object
) -> Settings:
    """Read every source once; an argument that is None counts as not given, and so does an empty variable.

    ``environ`` and ``files`` stand in for the process's environment and the usual places. What cannot be used raises
    ConfigError, also where a stronger source would hide it: a mistake in a file should not wait for its day.
    """
    environ = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    # Weakest first: each later source replaces what an earlier one said.
    for path in reversed(settings_files(environ) if files is None else files):
        for name, raw in _read_file(path).items():
            values[name] = _parse(_known(name, str(path), in_file=True), raw, str(path))
            sources[name] = str(path)
    for setting in SETTINGS.values():
        for variable in setting.variables:
            if raw_text := environ.get(variable):
                values[setting.name] = _parse(setting, raw_text, variable)
                sources[setting.name] = variable
                break
    for name, argument in arguments.items():
        if argument is not None:
            values[name] = _parse(_known(name, "argument"), argument, "argument")
            sources[name] = "argument"
    return Settings(**values, sources=sources)


def _read_file(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error


def _known(name: str, source: str, *, in_file: bool = False) -> Setting:
    setting = SETTINGS.get(name)
    if setting is None:
        near = difflib.get_close_matches(name, SETTINGS, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(SETTINGS)}"
        raise ConfigError(f"unknown setting {name} ({source}); {hint}")
    if in_file and not setting.in_file:
        raise ConfigError(
            f"{name} may not stand in {source}, which others may read; "
            f"set {setting.variables[0]}, or name a file with {name}_file"
        )
    return setting


def _parse(setting: Setting, raw: object, source: str) -> object:
    try:
        return setting.parse(raw)
    except (ValueError, KeyError, OverflowError):
        # A wrong secret or password must not end up in a log.
        shown = "" if setting.show in (_show_secret, _show_url) else f" = {raw!r}"
        raise ConfigError(f"{setting.name}{shown} ({source}) cannot be used; it accepts {setting.accepts}") from None


def scheduler_conduct(settings: Settings, *, history: bool = False) -> dict[str, Any]:
    """What the settings say of a scheduler's conduct, as orders that JSON can carry; `scheduler.main` takes them.

    Args:
        history: whether a history is kept when the setting leaves that open.
    """
    wanted = history if settings.history == "auto" else settings.history
    kept = {"url": history_of(settings), "keep_seconds": settings.history_age, "keep_rows": settings.history_rows}
    return {
        "history": kept if wanted else None,
        "suspect_grace": settings.suspect_grace,
        "client_grace": settings.client_grace,
        "heartbeat_interval": settings.heartbeat_interval,
        "validate": settings.validate,
        "allow_run": settings.allow_run_on_scheduler,
        "operator_secret": settings.operator_secret,
        "policy": {
            "allowed_failures": settings.allowed_failures,
            "client_tasks": settings.intake_tasks,
            "client_bytes": settings.intake_bytes,
            "allow_shutdown": settings.allow_shutdown,
            "results_kept": settings.results_kept,
            "results_leave": settings.results_leave,
        },
    }


# -- showing -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Explanation:
    """One line of ``futurebroker config``."""

    name: str
    value: str  #: fit to be shown: secrets read "set", passwords ***
    source: str  #: "argument", a variable, a file or "default"
    doc: str


def explain(settings: Settings) -> list[Explanation]:
    """Each setting with its value and where it came from, without giving a secret away."""
    return [
        Explanation(name, setting.show(getattr(settings, name)), settings.sources.get(name, "default"), setting.doc)
        for name, setting in SETTINGS.items()
    ]
