"""Computes dask collections: graphs go to the scheduler, futures of their results come back; needs dask."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from dask._expr import CompositeExpr, Expr, FinalizeCompute, _ExprSequence
from dask._task_spec import GraphNode, convert_legacy_graph
from dask.base import _rebuild_composite_collection, collections_to_expr, is_dask_collection
from dask.core import flatten
from dask.highlevelgraph import HighLevelGraph

from futurebroker.client.arguments import Packed, pack_values
from futurebroker.client.calls import PreparedColumn, task_options, worker_names
from futurebroker.client.connection import Connection
from futurebroker.client.daskgraph import Conversion, DaskKey, Row
from futurebroker.client.futures import CANCELLED, ERROR, Future, Home, KeyState
from futurebroker.client.submitting import Submitter
from futurebroker.inside import NO_TASK, current_task
from futurebroker.protocol.messages import EndGraph, TaskOptions
from futurebroker.protocol.serialize import Buffer
from futurebroker.protocol.wire import BATCH_BYTES, BATCH_MESSAGES
from futurebroker.types import Key

#: annotations that say how a task may run
_OPTIONS = ("workers", "allow_other_workers", "resources", "retries", "priority")

Options = dict[str, Any]


class Graph:
    """One graph for a client: what is asked of it, and how it may run.

    Args:
        dsk: an expression, a layered graph, or a dict of nodes.
        everywhere: options of all its tasks.
    """

    def __init__(self, connection: Connection, submitter: Submitter, dsk: Any, everywhere: Options) -> None:
        self._connection = connection
        self._submitter = submitter
        self._everywhere = everywhere
        self._all: dict[Any, TaskOptions | None] = {}
        #: by key, options that take the place of those of all tasks
        self.special: dict[DaskKey, Options] = {}
        nodes, annotations = _materialized(dsk)
        self.nodes: Mapping[DaskKey, GraphNode] = convert_legacy_graph(nodes)
        for name, by_key in annotations.items():
            for key, value in by_key.items() if name in _OPTIONS else ():
                self.special.setdefault(key, {})[name] = value

    def submit(self, keys: list[DaskKey]) -> list[Future[Any]]:
        """Futures of ``keys``, in their order; for what is raised see `Conversion.rows`."""
        connection = self._connection
        connection.check_open()
        number = f"g{connection.number()}"
        counter = 0

        def name(prefix: str) -> Key:
            nonlocal counter
            counter += 1
            return f"{prefix}{number}.{counter}"

        conversion = Conversion(self.nodes, keys, self, self._submitter.salt, name, self._options_of)
        mine: list[Key] = []
        states: list[KeyState] = []
        try:
            _send(connection, conversion.rows(), number)
            mine = [conversion.keys[key] for key in keys]
        finally:
            # Also if it can't be submitted whole: what was sent of it is let go of.
            states = self._states(mine, tuple(conversion.data))
            connection.put(EndGraph(number, list(dict.fromkeys(mine)), current_task.get(NO_TASK)[1]))
        futures: list[Future[Any]] = [Future(state) for state in states]
        connection.computed.update(zip(keys, futures))
        return futures

    def _states(self, keys: list[Key], data: tuple[Future[Any], ...]) -> list[KeyState]:
        connection, states = self._connection, []
        home = Home(connection)
        with connection.lock:
            for key in keys:
                state = connection.states.get(key)
                if state is None or state.status is CANCELLED:
                    state = connection.states[key] = KeyState(key, home, -1, inputs=data)
                else:
                    state.refs += 1
                states.append(state)
        return states

    def _options_of(self, key: DaskKey) -> TaskOptions | None:
        special = self.special.get(key)
        token = None if special is None else repr(sorted(special.items()))
        if token not in self._all:
            chosen = {**self._everywhere, **(special or {})}
            self._all[token] = task_options(
                chosen.get("workers") or None,
                bool(chosen.get("allow_other_workers")) and bool(chosen.get("workers")),
                chosen.get("resources"),
                chosen.get("retries") or 0,
                chosen.get("priority") or 0,
            )
        return self._all[token]

    # -- see `daskgraph.Source` --------------------------------------------------------------------------------------

    def held(self, key: DaskKey) -> Key | None:
        """See `Source.held`."""
        future = self._connection.computed.get(key)
        if future is None or future.status in (CANCELLED, ERROR):
            return None
        return future.key

    def known(self, key: DaskKey) -> Key | None:
        """See `Source.known`."""
        state = self._connection.states.get(key) if isinstance(key, str) else None
        return None if state is None or state.status is CANCELLED else state.key

    def scatter(self, frames: list[Buffer], size: int) -> Future[Any]:
        """See `Source.scatter`."""
        return self._submitter.data.keep(frames, size)

    def pack(self, name: str, values: tuple[Any, ...], keys: tuple[Key, ...]) -> Packed:
        """See `Source.pack`."""
        submitter = self._submitter
        return pack_values(self._connection, name, values, keys, submitter.data.move, submitter.split)


def _materialized(dsk: Any) -> tuple[Mapping[DaskKey, Any], Mapping[str, Mapping[DaskKey, Any]]]:
    """The nodes of a graph, and its annotations: name -> key -> value."""
    if isinstance(dsk, Expr):
        nodes = dsk.__dask_graph__()  # before the annotations, which optimizing may change
        return nodes, dsk.__dask_annotations__()
    if isinstance(dsk, HighLevelGraph):
        annotations: dict[str, dict[DaskKey, Any]] = {}
        for layer in dsk.layers.values():
            for name, value in (layer.annotations or {}).items():
                annotations.setdefault(name, {}).update(
                    {key: value(key) if callable(value) else value for key in layer}
                )
        return dsk.to_dict(), annotations
    return dsk, {}


def _send(connection: Connection, rows: Iterator[Row], graph: str) -> None:
    """Put calls into the outbox, neighbours of one function together."""
    call = None
    keys: list[Key] = []
    arguments: list[bytes] = []
    needs: list[tuple[Key, ...]] = []
    size = 0
    outbox = connection.outbox

    def close() -> None:
        if call is not None:
            dependencies = needs if any(needs) else None
            outbox.items.append(PreparedColumn(call, keys, arguments, size, dependencies, graph=graph))

    for key, its, packed in rows:
        if its is not call or size > BATCH_BYTES or len(keys) >= BATCH_MESSAGES:
            close()
            call = its
            keys, arguments, needs, size = [], [], [], 0
        keys.append(key)
        arguments.append(packed.data)
        needs.append(packed.dependencies or ())
        size += len(packed.data)
    close()


# -- collections ---------------------------------------------------------------------------------------------------


def finalized(collections: list[Any], optimize_graph: bool) -> tuple[Any, list[DaskKey]]:
    """What to compute so that each of ``collections`` becomes one result, and the keys of these."""
    expr: Any = FinalizeCompute(collections_to_expr(collections, optimize_graph))
    expr = expr.optimize(fuse=optimize_graph)
    return expr, list(flatten(expr.__dask_keys__()))


def persisted(
    collections: list[Any], optimize_graph: bool, submit: Callable[[Any, list[DaskKey]], list[Future[Any]]]
) -> list[Any]:
    """The same collections with futures in place of their graphs."""
    expr: Any = collections_to_expr(collections, optimize_graph)
    parts = list(expr.operands) if isinstance(expr, _ExprSequence) else [expr]
    composite = any(isinstance(part, CompositeExpr) for part in parts)
    expr = expr.optimize(fuse=optimize_graph)
    if composite:
        parts = list(expr.operands) if isinstance(expr, _ExprSequence) else [expr]
    keys_of = [list(flatten(keys)) for keys in expr.__dask_keys__()]
    every = [key for keys in keys_of for key in keys]
    futures = dict(zip(every, submit(expr, every)))
    results = []
    for collection, part, keys in zip(collections, parts, keys_of, strict=True):
        if isinstance(part, CompositeExpr):
            results.append(_rebuild_composite_collection(collection, part, futures, cull_to_child_keys=True))
            continue
        rebuild, arguments = collection.__dask_postpersist__()
        results.append(rebuild({key: futures[key] for key in keys}, *arguments))
    return results


def futures_of(thing: Any) -> list[Future[Any]]:
    """The futures inside dask collections, and in any nesting of lists, tuples, sets and dicts; each once."""
    found: dict[int, Future[Any]] = {}
    looking = [thing]
    while looking:
        one = looking.pop()
        if isinstance(one, Future):
            found[id(one)] = one
        elif is_dask_collection(one):
            looking.extend(value for value in one.__dask_graph__().values() if not isinstance(value, GraphNode))
        elif isinstance(one, Mapping):
            looking.extend(one.values())
        elif isinstance(one, (list, tuple, set, frozenset)):
            looking.extend(one)
    return list(found.values())


def normalized(connection: Connection, collection: Any) -> Any:
    """``collection`` with futures in place of what was computed before and is still held."""
    nodes = convert_legacy_graph(_materialized(collection.__dask_graph__())[0])
    held = {key: future for key, future in connection.computed.items() if key in nodes and not future.cancelled()}
    if not held:
        return collection
    needed: dict[DaskKey, Any] = {}
    looking = list(flatten(collection.__dask_keys__()))
    while looking:
        key = looking.pop()
        if key not in needed and key in nodes:
            needed[key] = held.get(key, nodes[key])
            if key not in held:
                looking.extend(nodes[key].dependencies)
    rebuild, arguments = collection.__dask_postpersist__()
    return rebuild(needed, *arguments)


# -- where -----------------------------------------------------------------------------------------------------------


def is_collection(thing: Any) -> bool:
    """Whether dask has a graph for it."""
    return bool(is_dask_collection(thing))


def restrictions(workers: Any, others: Any, outputs: dict[int, list[DaskKey]]) -> dict[DaskKey, Options]:
    """Options by key, of ``workers={collection, tuple of collections, or key: worker(s)}``.

    Args:
        others: of ``allow_other_workers=``: a bool, or a list of collections.
        outputs: by the identity of a collection that is computed, its keys.
    """
    soft = {key for one in others for key in _keys_of(one, outputs)} if isinstance(others, (list, tuple, set)) else None
    special: dict[DaskKey, Options] = {}
    for things, names in workers.items():
        several = isinstance(things, tuple) and all(is_dask_collection(one) for one in things)
        for thing in things if several else (things,):
            for key in _keys_of(thing, outputs):
                is_soft = bool(others) if soft is None else key in soft
                special[key] = {"workers": worker_names(names), "allow_other_workers": is_soft}
    return special


def _keys_of(thing: Any, outputs: dict[int, list[DaskKey]]) -> Iterable[DaskKey]:
    if not is_dask_collection(thing):
        return (thing,)
    keys = list(outputs.get(id(thing), ()))
    if keys:
        return keys
    expr = getattr(thing, "expr", None)
    if isinstance(expr, Expr):
        keys += flatten(expr.optimize(fuse=False).__dask_keys__())
    return [*keys, *flatten(thing.__dask_keys__())]


def missing(special: Mapping[DaskKey, Options], nodes: Mapping[DaskKey, Any], workers: Mapping[Any, Any]) -> list[Any]:
    """What ``workers=`` names that is no part of the graph."""
    return [
        things
        for things in workers
        if not any(
            key in nodes
            for thing in (things if isinstance(things, tuple) and all(map(is_dask_collection, things)) else (things,))
            for key in _keys_of(thing, {})
        )
    ]
