"""What holds for every test: the user's own settings are out of reach, and nothing is left behind.

Hypothesis draws the same examples every time (profile "ci"); HYPOTHESIS_PROFILE=dev looks further. Tests marked
``service("rabbitmq")`` and the like run where ``.ci/services`` has set the address, and are deselected elsewhere;
with FUTUREBROKER_TEST_SERVICES=required, as in CI, a missing address is an error.
"""

from __future__ import annotations

import gc
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import psutil
import pytest
from xdist.scheduler import LoadScopeScheduling

SERVICES = ("rabbitmq", "postgres", "redis")
#: In the environment of every process that a test starts, so that it is found when its parent is gone.
MARK = "FUTUREBROKER_TEST_PROCESS"
#: The folder of all this user's stores. It stays; whoever holds a store of a live process in it shows by its lock.
STORES = f"futurebroker-{os.getuid()}"
#: What ends by itself once told to (a thread that was asked to stop, a killed process) gets this many seconds.
PATIENCE = 5.0

hypothesis.settings.register_profile(
    "ci", derandomize=True, deadline=None, database=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.register_profile("dev", deadline=None, max_examples=1000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


# -- services ------------------------------------------------------------------------------------------------------


def _variable(service: str) -> str:
    return f"FUTUREBROKER_TEST_{service.upper()}_URL"


class _Together(LoadScopeScheduling):  # type: ignore[misc]
    """Of several processes that run tests, one gets all of those that can't go beside each other.

    Tests at the servers break the servers that the others use; Playwright's loop runs in the thread as long as its
    tests do.
    """

    def _split_scope(self, nodeid: str) -> str:
        folder = "/".join(nodeid.split("/")[:2])
        return folder if folder in ("tests/services", "tests/browser") else nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _Together | None:
    """For ``-n``."""
    return _Together(config, log) if config.getvalue("dist") == "loadgroup" else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Take out the tests whose service is not there, or refuse to run without it."""
    absent = {service for service in SERVICES if not os.environ.get(_variable(service))}
    without = [item for item in items if absent & {mark.args[0] for mark in item.iter_markers("service")}]
    if without and os.environ.get("FUTUREBROKER_TEST_SERVICES") == "required":
        raise pytest.UsageError(f"not set: {', '.join(_variable(service) for service in sorted(absent))}")
    if without:
        config.hook.pytest_deselected(items=without)
        items[:] = [item for item in items if item not in set(without)]


@pytest.fixture(scope="session")
def rabbitmq_url() -> str:
    """The address of a RabbitMQ for this run; mark the test ``service("rabbitmq")``."""
    return os.environ[_variable("rabbitmq")]


@pytest.fixture(scope="session")
def postgres_url() -> str:
    """The address of a PostgreSQL for this run; mark the test ``service("postgres")``."""
    return os.environ[_variable("postgres")]


@pytest.fixture(scope="session")
def redis_url() -> str:
    """The address of a Redis for this run; mark the test ``service("redis")``."""
    return os.environ[_variable("redis")]


# -- a world of its own --------------------------------------------------------------------------------------------


@pytest.fixture(scope="session", autouse=True)
def own_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Temporary files, settings files and the secret of this run live in one folder; the user's own are not seen."""
    tmp_path_factory.getbasetemp()  # pytest makes its own folder late, and would make it in ours
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="fbtest-") as folder:
        for name in os.environ:
            if name.startswith("FUTUREBROKER_") and not name.startswith("FUTUREBROKER_TEST_"):
                patch.delenv(name)
        for name in ("DATABASE_URL", "CLOUDAMQP_URL"):
            patch.delenv(name, raising=False)
        for variable, part in {"XDG_CONFIG_HOME": "config", "XDG_STATE_HOME": "state", "TMPDIR": "tmp"}.items():
            (Path(folder) / part).mkdir(mode=0o700)
            patch.setenv(variable, str(Path(folder) / part))
        patch.setattr(tempfile, "tempdir", os.environ["TMPDIR"])
        patch.setenv(MARK, str(os.getpid()))
        yield Path(folder)


# -- leaks ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Belongings:
    """What this process holds of the machine at one moment; listed cheaply, for every test pays for it."""

    processes: frozenset[int]  #: of the whole machine; which are ours is asked of new ones only
    threads: frozenset[threading.Thread]
    descriptors: frozenset[str]  #: sockets, and the locks of folders of stored values
    files: frozenset[str]

    @classmethod
    def now(cls) -> Belongings:
        return cls(
            frozenset(psutil.pids()),
            frozenset(threading.enumerate()),
            frozenset(_descriptors()),
            frozenset(os.listdir(tempfile.gettempdir())) - {STORES},
        )

    def since(self, before: Belongings) -> list[str]:
        """What was added and must not stay, in words."""
        return [
            *filter(None, map(_our_process, sorted(self.processes - before.processes))),
            *(f"thread {thread.name}" for thread in self.threads - before.threads if _counts(thread)),
            *(f"open {name}" for name in sorted(self.descriptors - before.descriptors)),
            *(f"file {name} in the folder for temporary files" for name in sorted(self.files - before.files)),
        ]


def _descriptors() -> Iterator[str]:
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{descriptor}")
        except FileNotFoundError:  # the one that listed the folder
            continue
        if target.startswith("socket:") or f"/{STORES}/" in target:
            yield target


def _counts(thread: threading.Thread) -> bool:
    return thread.is_alive() and (not thread.daemon or thread.name.lower().startswith("futurebroker"))


def _our_process(number: int) -> str | None:
    """A child, or an orphan that carries our mark; None for other people's processes and those that have ended."""
    try:
        process = psutil.Process(number)
        with process.oneshot():
            if process.status() == psutil.STATUS_ZOMBIE:
                return None
            ours = process.ppid() == os.getpid() or process.environ().get(MARK) == str(os.getpid())
            command = process.cmdline()
    except psutil.Error:
        return None
    # Python's own tracker of shared memory lives as long as the process that first used it.
    if not ours or any("resource_tracker" in part for part in command):
        return None
    return f"process {number}: {' '.join(command)}"


@pytest.fixture(autouse=True)
def nothing_left_behind(own_world: Path) -> Iterator[None]:
    """Fail the test that leaves a process, thread, socket or temporary file behind."""
    before = Belongings.now()
    yield
    left = Belongings.now().since(before)
    if not left:
        return
    gc.collect()  # a socket in a reference cycle is not a leak
    deadline = time.monotonic() + PATIENCE
    while left := Belongings.now().since(before):
        # The ends of foreign processes and threads give no event to wait for.
        if time.monotonic() > deadline:
            pytest.fail("left behind: " + "; ".join(left))
        time.sleep(0.02)
