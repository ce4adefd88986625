"""Looking after a cluster: files, plugins and environments for its executors, restarts, workers that retire."""

from __future__ import annotations

import os
import pkgutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from futurebroker.client.calls import FUNCTION_LIMIT, worker_names
from futurebroker.client.core import ClientCore
from futurebroker.data.environments import check_environment, digest_of, sign
from futurebroker.exceptions import EnvironmentRefusedError, FuturebrokerError, MessageTooLargeError, TaskError
from futurebroker.protocol.messages import Message, ParcelPart, RunOnExecutors, RunOnScheduler
from futurebroker.protocol.serialize import dumps, load_failure, loads_writable, name_of

#: bytes of an environment that travel at a time
PART = 512 * 1024
_FILES = (".py", ".egg", ".zip", ".pyz")


class _Unset:
    """Says that an argument wasn't given, where None means something."""

    def __repr__(self) -> str:
        return "<as it is>"


UNSET = _Unset()


class InExecutor:
    """A function that only executors have; it is found there by its name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return pkgutil.resolve_name, (f"futurebroker.worker.standing:{self.name}",)


class WorkerPlugin:
    """What a plugin for executors may have: base it on this class, or on none.

    ``setup`` is called in every executor process of every worker, in those that start later before their first task;
    ``teardown`` when the plugin is taken away, or the executor ends in good order.
    """

    #: under which it is registered; by default the class's name
    name: str

    def setup(self, worker: Any) -> None:
        """Make ready; ``worker`` is what `futurebroker.get_worker` gives."""

    def teardown(self, worker: Any) -> None:
        """Undo `setup`."""


class SchedulerPlugin:
    """What a plugin for the scheduler may have; it needs ``--allow-run-on-scheduler``.

    All methods are called on the scheduler's own thread, and hold it up as long as they run.
    """

    name: str

    def start(self, scheduler: Any) -> None:
        """The plugin is registered; ``scheduler`` is a read-only view."""

    def close(self) -> None:
        """The plugin is taken away, or the scheduler ends."""

    def add_worker(self, scheduler: Any, worker: str) -> None:
        """A worker has joined."""

    def remove_worker(self, scheduler: Any, worker: str) -> None:
        """A worker is gone."""

    def add_client(self, scheduler: Any, client: str) -> None:
        """A client has joined."""

    def remove_client(self, scheduler: Any, client: str) -> None:
        """A client is gone."""


class Tending(ClientCore):
    """Each method returns its answer, or an awaitable with an asynchronous client."""

    # -- what every executor has -------------------------------------------------------------------------------------

    def upload_file(self, filename: str | os.PathLike[str], load: bool = True) -> Any:
        """Give a ``.py``, ``.egg``, ``.zip`` or ``.pyz`` file to all executors, also to those that come later.

        It is found by imports before all else, and code of the same name is imported anew.

        Args:
            load: False leaves a ``.py`` file to be imported when a task does.

        Raises:
            ValueError: it has another ending.
            MessageTooLargeError: it has more than 4 MiB; use `upload_environment`.
        """
        path = Path(filename)
        if path.suffix not in _FILES:
            raise ValueError(f"upload_file takes {', '.join(_FILES)} files, got {path.name!r}")
        data = path.read_bytes()
        if len(data) > FUNCTION_LIMIT:
            raise MessageTooLargeError(f"the file {path.name}", len(data), FUNCTION_LIMIT)
        return self._everywhere(InExecutor("receive_file"), (path.name, data, load), keep=f"file {path.name}")

    def register_plugin(self, plugin: Any, name: str | None = None) -> Any:
        """Have ``plugin`` in every executor, or in the scheduler if it is a `SchedulerPlugin`; see `WorkerPlugin`.

        One of the same name is replaced. It is registered until `unregister_worker_plugin`, also over restarts of the
        scheduler; a `SchedulerPlugin` over those of a scheduler with a journal, which may run it.
        """
        name = name or getattr(plugin, "name", None) or type(plugin).__name__
        if isinstance(plugin, SchedulerPlugin):
            return self._on_scheduler(_InScheduler("register"), (name, plugin), {}, True, keep=f"plugin {name}")
        return self._everywhere(InExecutor("set_up"), (name, plugin), keep=f"plugin {name}")

    #: names of `register_plugin` in dask.distributed
    register_worker_plugin = register_plugin
    register_scheduler_plugin = register_plugin

    def unregister_worker_plugin(self, name: str) -> Any:
        """Take a plugin away from every executor; ValueError if there is none of that name."""
        return self._everywhere(InExecutor("tear_down"), (name,), drop=f"plugin {name}", found=f"plugin {name!r}")

    def unregister_scheduler_plugin(self, name: str) -> Any:
        """Take a plugin away from the scheduler; ValueError if there is none of that name."""
        return self._on_scheduler(_InScheduler("unregister"), (name,), {}, True, drop=f"plugin {name}")

    def register_worker_callbacks(self, setup: Callable[..., Any]) -> Any:
        """Have every executor call ``setup()``, also those that come later; with ``dask_worker=`` if it takes that."""
        return self._everywhere(InExecutor("call_back"), (setup,), keep=f"callback {name_of(setup)} {id(setup)}")

    def import_ahead(self, modules: list[str]) -> None:
        """Have every executor import these modules between its tasks, so that the first that needs them needn't.

        What can't be imported there is left to the task that tries. Returns at once.
        """
        connection, what = self._connection, "names of modules"
        code, packed = dumps(InExecutor("import_ahead"), what), dumps(((modules,), {}), what)
        connection.put(RunOnExecutors(connection.number(), code, packed))
        connection.flush()

    def _everywhere(
        self, function: Any, args: tuple[Any, ...], *, keep: str = "", drop: str = "", found: str = ""
    ) -> Any:
        what = keep or drop
        code, packed = dumps(function, what), dumps((args, {}), what)
        if len(packed) > FUNCTION_LIMIT:
            raise MessageTooLargeError(what, len(packed), FUNCTION_LIMIT)
        connection = self._connection
        number = connection.number()
        message = RunOnExecutors(number, code, packed, (), keep, drop)

        async def work(blocking: bool) -> dict[str, Any]:
            outcomes = await connection.question(number, message, blocking)
            results = {}
            for worker, answers in outcomes.items():
                for value, failure in answers:
                    if failure is not None:
                        raise load_failure(failure)
                    results[worker] = loads_writable(value)
            if found and results and not any(results.values()):
                raise ValueError(f"there is no {found}")
            return results

        return self._enter(work)

    # -- code in the scheduler ---------------------------------------------------------------------------------------

    def run_on_scheduler(self, function: Callable[..., Any], /, *args: Any, wait: bool = True, **kwargs: Any) -> Any:
        """Call ``function`` in the scheduler's process, with ``dask_scheduler=`` if it takes that; what it returns.

        The scheduler stands still meanwhile. It must have been started with ``--allow-run-on-scheduler``.

        Raises:
            TaskError: that isn't allowed.
        """
        return self._on_scheduler(function, args, kwargs, wait)

    def _on_scheduler(
        self,
        function: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        wait: bool,
        *,
        keep: str = "",
        drop: str = "",
    ) -> Any:
        what = "the function for the scheduler"
        connection = self._connection
        number = connection.number()
        packed = dumps((args, kwargs), f"the arguments of {what}")
        message = RunOnScheduler(number, dumps(function, what), packed, wait, keep, drop)

        async def work(blocking: bool) -> Any:
            if not wait:
                connection.put(message)
                connection.flush()
                return None
            answer = await connection.question(number, message, blocking)
            if answer.failure is not None:
                if answer.failure.payload is None:
                    raise TaskError(answer.failure.message)
                raise load_failure(answer.failure)
            return loads_writable(answer.value)

        return self._enter(work)

    # -- restarting and leaving --------------------------------------------------------------------------------------

    def restart(
        self, timeout: float | None = 60.0, *, environment: str | _Unset | None = UNSET, patience: float | None = None
    ) -> Any:
        """Start over: all tasks of all clients are cancelled, and all executors replaced. Published datasets stay.

        With ``environment=`` (experimental) nothing is cancelled: the executors change to the environment of that name,
        or with None back to their workers' own Python, and stored results are kept. First every worker fetches and
        tries it; if one can't use it, nothing stops, and the error says why. Workers that join later run in it as well.

        Args:
            timeout: seconds to wait.
            environment: as given to `upload_environment`.
            patience: seconds what runs gets to finish before it is taken back, to run again in the new environment.

        Raises:
            EnvironmentRefusedError: it can't be used on some worker; the executors are as before.
            TimeoutError: it isn't done yet; it goes on.
        """
        if isinstance(environment, _Unset):
            return self._ask("restart", None, timeout)
        about = {"name": environment, "patience": patience}

        async def work(blocking: bool) -> Any:
            try:
                return await self._connection.ask("use_environment", about, blocking, timeout)
            except TimeoutError:
                raise
            except FuturebrokerError as error:
                raise _refusal(str(environment), error) from None

        return self._enter(work)

    def restart_workers(
        self, workers: str | Iterable[str] | None = None, timeout: float | None = 60.0, raise_for_error: bool = True
    ) -> Any:
        """Replace the executors of some workers; what they run, runs again. Returns "OK" or "failed" by worker id.

        Raises:
            FuturebrokerError: no worker is called so, or an executor can't be started, unless ``raise_for_error`` is
                False.
        """
        names = list(worker_names(workers))

        async def work(blocking: bool) -> Any:
            try:
                return await self._connection.ask("restart_workers", names, blocking, timeout)
            except TimeoutError:
                raise
            except FuturebrokerError:
                if raise_for_error:
                    raise
                return dict.fromkeys(names, "failed")

        return self._enter(work)

    def retire_workers(
        self,
        workers: str | Iterable[str] | None = None,
        n: int | None = None,
        timeout: float | None = None,
    ) -> Any:
        """Have workers leave: they begin nothing new, finish what runs however long it takes, and hand over their data.

        Returns, by worker id, who has left.

        Args:
            workers: names, ids or hosts.
            n: how many, if no names are given: those that are missed least. Without either, all.
            timeout: seconds to wait; they leave even if that is over.
        """
        return self._ask("retire_workers", {"workers": list(worker_names(workers)), "n": n}, timeout)

    # -- environments ------------------------------------------------------------------------------------------------

    def upload_environment(self, name: str, zipfile: str | os.PathLike[str]) -> Any:
        """Send the scheduler a zip of `pack_environment`; `restart` with ``environment=name`` has executors run in it.

        Experimental. It is looked into before it is sent; a hash and a signature see that workers unpack just this.

        Raises:
            EnvironmentRefusedError: it isn't a zip, leads out of its folder, is too large, is for another minor version
                of Python, or futurebroker isn't installed in it.
        """
        facts = check_environment(zipfile, name)
        if not name or not isinstance(name, str):
            raise EnvironmentRefusedError(repr(name), "a name is needed")
        digest, nbytes = digest_of(zipfile), os.path.getsize(zipfile)
        connection = self._connection
        about = {
            "name": name,
            "digest": digest,
            "nbytes": nbytes,
            "signature": sign(connection.secret, name, digest, nbytes),
            "python": facts.python,
        }

        async def work(blocking: bool) -> None:
            if not await connection.ask("add_environment", about, blocking):
                await connection.stream(_parts(zipfile, digest, nbytes), blocking)
                try:
                    await connection.ask("parcel_done", digest, blocking)
                except FuturebrokerError as error:
                    raise _refusal(name, error) from None

        return self._enter(work)

    def list_environments(self) -> Any:
        """By name, the environments that the scheduler has, and which of them the executors run in. Experimental."""
        return self._ask("list_environments")


class _InScheduler(InExecutor):
    """A function that only the scheduler's console has."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return pkgutil.resolve_name, (f"futurebroker.scheduler.console:{self.name}",)


def _parts(path: str | os.PathLike[str], digest: str, nbytes: int) -> Iterator[Message]:
    with open(path, "rb") as file:
        offset = 0
        while data := file.read(PART):
            yield ParcelPart(digest, offset, nbytes, data)
            offset += len(data)


def _refusal(name: str, error: FuturebrokerError) -> EnvironmentRefusedError:
    text = str(error).removeprefix(f"the environment {name} can't be used: ")
    return EnvironmentRefusedError(name, text)
