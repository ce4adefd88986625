"""Dask collections on this client: ``get``, ``compute`` and ``persist``, with the placement that dask once had."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

from futurebroker.client.core import ClientCore
from futurebroker.client.futures import Future
from futurebroker.client.gathering import gather
from futurebroker.client.waiters import run_blocking
from futurebroker.exceptions import MissingExtraError
from futurebroker.inside import current_task

#: module that needs dask; loaded when a collection comes
COMPUTING = "futurebroker.client.computing"


def _computing() -> ModuleType:
    try:
        return import_module(COMPUTING)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "dask":
            raise
        raise MissingExtraError("dask", "dask collections") from None


class Collections(ClientCore):
    """See the top of this file. Needs ``futurebroker[dask]``."""

    def get(
        self,
        dsk: Any,
        keys: Any,
        *,
        sync: bool = True,
        workers: Any = None,
        allow_other_workers: Any = False,
        resources: dict[str, float] | None = None,
        retries: int = 0,
        priority: int = 0,
        **kwargs: Any,
    ) -> Any:
        """Compute ``keys`` of a dask graph: what dask calls a scheduler, as in ``x.compute(scheduler=client.get)``.

        The results have the shape of ``keys``, with tuples for lists. Graphs of this client's futures are welcome.
        Inside a task the task's own client is used.

        Args:
            sync: False returns futures instead of results, in the same shape.

        Raises:
            KeyError: a key isn't in the graph.
            GraphError: the graph has a cycle, or names keys that aren't there.
            ValueError: ``workers=`` names nobody who is connected.

        For the rest see `compute`.
        """
        del kwargs  # dask passes on what was meant for other schedulers
        client = self._here()
        options = _options(workers, allow_other_workers, resources, retries, priority)
        flat = list(_flatten(keys))
        futures = dict(zip(flat, client._submit_graph(dsk, flat, options, workers, allow_other_workers, {})))
        if not sync:
            return _packed(keys, futures)

        def work(blocking: bool) -> Any:
            return client._gathered(keys, futures, blocking)

        return client._enter(work)

    async def _gathered(self, keys: Any, futures: dict[Any, Future[Any]], blocking: bool) -> Any:
        results = await gather(self._connection, list(futures.values()), "raise", blocking)
        return _packed(keys, dict(zip(futures, results)))

    def compute(
        self,
        collections: Any,
        sync: bool = False,
        optimize_graph: bool = True,
        *,
        workers: Any = None,
        allow_other_workers: Any = False,
        resources: dict[str, float] | None = None,
        retries: int = 0,
        priority: int = 0,
        traverse: bool = True,
        **kwargs: Any,
    ) -> Any:
        """Futures of what collections come to: one for a collection, a list for a list.

        What isn't a collection comes back as it is. Annotations (`dask.annotate`) of the same names as these options
        hold for the tasks that they were given to.

        Args:
            sync: return results instead of futures.
            optimize_graph: False leaves the graph as it is.
            workers: names, ids or hosts of the workers that may run all of it; or a dict that says so for parts of it:
                of a collection, a tuple of collections or a key to such names. As in dask.distributed 1.13, only the
                tasks that make the collection's own values are bound, not what they depend on.
            allow_other_workers: let others run it while none of ``workers`` is connected; True, or a list of
                collections for which it holds.
            traverse: whether lists and dicts among ``collections`` are looked into for collections.

        For ``resources``, ``retries`` and ``priority`` see `submit`, for errors `get`.
        """
        del kwargs
        client = self._here()
        several = isinstance(collections, (list, tuple, set, frozenset))
        things = list(collections) if several else [collections]
        computing = _computing()
        chosen = [one for one in things if computing.is_collection(one)]
        options = _options(workers, allow_other_workers, resources, retries, priority)
        futures: list[Future[Any]] = []
        if chosen:
            expr, keys = computing.finalized(chosen, optimize_graph)
            outputs = {id(one): [key] for one, key in zip(chosen, keys)} if len(keys) == len(chosen) else {}
            futures = client._submit_graph(expr, keys, options, workers, allow_other_workers, outputs)
        rest = iter(futures)
        results = [next(rest) if computing.is_collection(one) else one for one in things]
        if sync:
            return client._enter(lambda blocking: client._results(results, several, blocking))
        return results if several else results[0]

    async def _results(self, futures: list[Any], several: bool, blocking: bool) -> Any:
        results = await gather(self._connection, futures, "raise", blocking)
        return results if several else results[0]

    def persist(
        self,
        collections: Any,
        optimize_graph: bool = True,
        *,
        workers: Any = None,
        allow_other_workers: Any = False,
        resources: dict[str, float] | None = None,
        retries: int = 0,
        priority: int = 0,
        **kwargs: Any,
    ) -> Any:
        """The same collections, with futures in place of their graphs; returns at once while these are computed.

        The results stay in the cluster as long as the collection does. For the arguments see `compute`.
        """
        del kwargs
        client = self._here()
        several = isinstance(collections, (list, tuple, set, frozenset))
        things = list(collections) if several else [collections]
        computing = _computing()
        chosen = [one for one in things if computing.is_collection(one)]
        options = _options(workers, allow_other_workers, resources, retries, priority)

        def submit(expr: Any, keys: list[Any]) -> list[Future[Any]]:
            outputs: dict[int, list[Any]] = {}
            for one, own in zip(chosen, expr.__dask_keys__()):
                outputs[id(one)] = list(_flatten(own))
            return client._submit_graph(expr, keys, options, workers, allow_other_workers, outputs)

        done = iter(computing.persisted(chosen, optimize_graph, submit) if chosen else ())
        results = [next(done) if computing.is_collection(one) else one for one in things]
        return results if several else results[0]

    def normalize_collection(self, collection: Any) -> Any:
        """``collection`` with futures in place of what this client has computed of it before and still holds."""
        return _computing().normalized(self._connection, collection)

    @staticmethod
    def futures_of(thing: Any) -> list[Future[Any]]:
        """See `futures_of`."""
        return futures_of(thing)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _here(self) -> Collections:
        """The client to compute by: inside a task that of the task, unless another was chosen there."""
        task = current_task.get(None)
        if task is None or task[2] is None or self._about:
            return self
        return ClientCore.current()  # type: ignore[return-value]

    def _submit_graph(
        self,
        dsk: Any,
        keys: list[Any],
        options: dict[str, Any],
        workers: Any,
        others: Any,
        outputs: dict[int, list[Any]],
    ) -> list[Future[Any]]:
        computing = _computing()
        graph = computing.Graph(self._connection, self._submitter, dsk, options)
        if isinstance(workers, Mapping):
            graph.special.update(computing.restrictions(workers, others, outputs))
            self._check_parts(computing, graph, workers, outputs)
        self._check_names(graph, options)
        futures: list[Future[Any]] = graph.submit(keys)
        return futures

    def _check_parts(self, computing: Any, graph: Any, workers: Any, outputs: dict[int, list[Any]]) -> None:
        unknown = [one for one in computing.missing(graph.special, graph.nodes, workers) if id(one) not in outputs]
        if unknown:
            raise ValueError(
                f"workers= names {unknown[0]!r}, which is no part of what is computed; perhaps it was fused with what "
                "uses it: optimize_graph=False keeps it"
            )

    def _check_names(self, graph: Any, options: dict[str, Any]) -> None:
        """Names in ``workers=`` that nobody has are most likely wrong, and the computation would wait for ever."""
        strict = [one for one in (options, *graph.special.values()) if not one.get("allow_other_workers")]
        names = {name for one in strict for name in _computing().worker_names(one.get("workers"))}
        for name in sorted(names):
            if not run_blocking(self._connection.ask("nthreads", [name], True)):
                known = run_blocking(self._connection.ask("scheduler_info", None, True))["workers"].values()
                present = ", ".join(f"{worker['name']} on {worker['host']}" for worker in known) or "nobody"
                raise ValueError(
                    f"workers= names {name!r}, and no connected worker has that name, id or host; connected: {present}"
                )


def futures_of(thing: Any) -> list[Future[Any]]:
    """The futures inside dask collections, and in any nesting of lists, tuples, sets and dicts; each once."""
    found: list[Future[Any]] = _computing().futures_of(thing)
    return found


def _options(workers: Any, others: Any, resources: Any, retries: int, priority: int) -> dict[str, Any]:
    """Options of all tasks of a graph."""
    named = None if isinstance(workers, Mapping) else workers
    return {
        "workers": named,
        "allow_other_workers": bool(others) and named is not None,
        "resources": resources,
        "retries": retries,
        "priority": priority,
    }


def _flatten(keys: Any) -> Any:
    if isinstance(keys, list):
        for key in keys:
            yield from _flatten(key)
    else:
        yield keys


def _packed(keys: Any, results: dict[Any, Any]) -> Any:
    """Results in the shape of ``keys``."""
    return tuple([_packed(key, results) for key in keys]) if isinstance(keys, list) else results[keys]
