"""Turns dask graphs into calls: few functions, small arguments, an order that is depth-first; needs dask.

A node that makes one call of plain arguments becomes that call. Any other becomes a `Program`: nodes of one layer share
it, and only what differs travels with each. Names of dask's and literals that are small vanish into the nodes that use
them; large literals are data. Functions are told apart by what they pickle to.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol, TypeAlias

from dask._task_spec import Alias, DataNode, GraphNode, NestedContainer, Task, _execute_subgraph, _identity_cast
from dask._task_spec import List as ListNode
from dask._task_spec import TaskRef as DaskRef
from dask._task_spec import Tuple as TupleNode
from dask.utils import key_split

from futurebroker.client.arguments import SCALARS, Packed
from futurebroker.client.calls import Call
from futurebroker.client.futures import Future
from futurebroker.client.gathering import futures_in
from futurebroker.exceptions import GraphError, SerializationError
from futurebroker.protocol.messages import INLINE_LIMIT, TaskOptions
from futurebroker.protocol.programs import Maker, Program, given
from futurebroker.protocol.refs import TaskRef
from futurebroker.protocol.serialize import Buffer, dump_frames, dump_function, dumps, frames_size, name_of
from futurebroker.types import Digest, Key

#: bytes up to which a literal travels with every node that uses it
LITERAL_LIMIT = 4 * 1024
#: references of a node, made once: most have few
_REFERENCES = [TaskRef(index) for index in range(64)]

#: as dask has it: text, a number, or a tuple of such
DaskKey: TypeAlias = Any
#: one call: its key, the call, its packed arguments
Row: TypeAlias = tuple[Key, Call, Packed]


class Source(Protocol):
    """What a conversion needs of the client."""

    def held(self, key: DaskKey) -> Key | None:
        """The key here of a node that was computed before and is still held, e.g. because it was persisted."""

    def known(self, key: DaskKey) -> Key | None:
        """``key`` itself, if it is that of a future of this client."""

    def scatter(self, frames: list[Buffer], size: int) -> Future[Any]:
        """A future of data."""

    def pack(self, name: str, values: tuple[Any, ...], keys: tuple[Key, ...]) -> Packed:
        """Packed arguments of which some are too large to travel with the call."""


class Conversion:
    """One graph on its way.

    Args:
        graph: nodes by key, as `convert_legacy_graph` gives them.
        wanted: keys whose results are asked for.
        name: gives the key of the task that stands for a node.
        options: gives how a node may run.
    """

    def __init__(
        self,
        graph: Mapping[DaskKey, GraphNode],
        wanted: Iterable[DaskKey],
        source: Source,
        salt: str,
        name: Callable[[str], Key],
        options: Callable[[DaskKey], TaskOptions | None],
    ) -> None:
        self._graph = graph
        self._wanted = list(wanted)
        self._source = source
        self._salt = salt
        self._name = name
        self._options = options
        #: dask's keys -> keys here, of what was converted or known
        self.keys: dict[DaskKey, Key] = {}
        #: futures of data that the graph brought along
        self.data: list[Future[Any]] = []
        self._literals: dict[DaskKey, Any] = {}
        self._calls: dict[Any, Call] = {}
        self._functions: dict[int, tuple[Any, Digest]] = {}
        self._canonical: dict[Digest, Any] = {}
        self._names: dict[Any, str] = {}

    def rows(self) -> Iterator[Row]:
        """All calls, inputs before what needs them.

        Raises:
            KeyError: a key that is asked for isn't in the graph.
            GraphError: the graph has a cycle, or names a key that isn't there.
            SerializationError: a function or an argument can't be pickled.
        """
        for key in self._in_order():
            row = self._convert(key, self._graph[key])
            if row is not None:
                yield row

    # -- order -------------------------------------------------------------------------------------------------------

    def _in_order(self) -> Iterator[DaskKey]:
        """The nodes that are needed, depth first, each after what it depends on."""
        graph, held = self._graph, self._source.held
        state: dict[DaskKey, bool] = {}  # False while its dependencies are looked at
        for wanted in self._wanted:
            if wanted not in graph and held(wanted) is None and self._source.known(wanted) is None:
                raise KeyError(wanted)
            stack = [wanted]
            while stack:
                key = stack[-1]
                if key in state:
                    stack.pop()
                    if not state[key]:
                        state[key] = True
                        yield key
                    continue
                node = graph.get(key)
                mine = held(key)
                if node is None or mine is not None:
                    stack.pop()
                    state[key] = True
                    self.keys[key] = mine or self.outside(key)
                    continue
                state[key] = False
                for dependency in node.dependencies:
                    done = state.get(dependency)
                    if done is None:
                        stack.append(dependency)
                    elif not done:
                        raise GraphError(f"the graph has a cycle: {_cycle(graph, dependency)}")

    def outside(self, key: DaskKey) -> Key:
        """The key of a future that the graph names."""
        known = self._source.known(key)
        if known is None:
            raise GraphError(f"the graph names {key!r}, which isn't in it, nor a future of this client")
        return known

    # -- nodes -------------------------------------------------------------------------------------------------------

    def _convert(self, key: DaskKey, node: GraphNode) -> Row | None:
        if isinstance(node, Alias):
            target = node.target
            if target in self._literals and key not in self._wanted:
                self._literals[key] = self._literals[target]
                return None
            if target in self.keys:
                self.keys[key] = self.keys[target]
                return None
            return self._give(key, self._literals[target])
        if isinstance(node, DataNode):
            return self._convert_data(key, node.value)
        if not isinstance(node, Task):
            raise GraphError(f"{key!r} is a {type(node).__name__}, which isn't known here")
        return self._convert_task(key, node)

    def _convert_data(self, key: DaskKey, value: Any) -> Row | None:
        if isinstance(value, Future):
            self.keys[key] = self.outside(value.key)
            return None
        frames = dump_frames(value, f"the value of {key!r}")
        size = frames_size(frames)
        if size <= LITERAL_LIMIT:
            self._literals[key] = value
            return self._give(key, value) if key in self._wanted else None
        future = self._source.scatter(frames, size)
        self.data.append(future)
        self.keys[key] = future.key
        return None

    def _give(self, key: DaskKey, value: Any) -> Row:
        return self._row(key, given, (), [value], [])

    def _convert_task(self, key: DaskKey, node: Task) -> Row:
        function = node.func
        if function is not _execute_subgraph and not isinstance(node, NestedContainer):
            values: list[Any] = []
            needs: list[Key] = []
            for value in node.args:
                if isinstance(value, (DaskRef, Alias)):
                    target = value.key if isinstance(value, DaskRef) else value.target
                    mine = self.keys.get(target)
                    if mine is None:
                        values.append(self._literals[target])
                    else:
                        values.append(_reference(mine, needs))
                elif isinstance(value, GraphNode):
                    break
                else:
                    values.append(self.with_references(value, needs))
            else:
                if not node.kwargs:
                    return self._row(key, function, (), values, needs)
        writer = _Writer(self)
        writer.add_steps(key, node)
        return self._row(key, None, (tuple(writer.functions), tuple(writer.steps)), writer.values, writer.needs)

    def _row(self, key: DaskKey, function: Any, program: tuple[Any, ...], values: list[Any], needs: list[Key]) -> Row:
        options = self._options(key)
        if function is not None:
            token: Any = (self.digest(function)[1], id(options))
        else:
            token = (key_split(key), program, id(options))
        call = self._calls.get(token)
        if call is None:
            call = self._calls[token] = self._new_call(key, function, program, options)
        mine = self.keys[key] = self._name(call.prefix)
        return mine, call, self._pack(call, key, values, needs)

    def _new_call(self, key: DaskKey, function: Any, program: tuple[Any, ...], options: TaskOptions | None) -> Call:
        if function is None:
            digests, steps = program
            function = Program(key_split(key), tuple(self._canonical[digest] for digest in digests), steps)
        return Call.of(function, options, self._salt, key_split(key) if function is given else name_of(function))

    def digest(self, function: Any) -> tuple[Any, Digest]:
        """A function, or one that pickles to the same and was seen before, with its digest."""
        known = self._functions.get(id(function))
        if known is None:
            digest = dump_function(function)[0]
            known = (function, digest)  # held, so that its id stays its own
            self._canonical.setdefault(digest, function)
            self._functions[id(function)] = known
        return known

    def with_references(self, value: Any, needs: list[Key]) -> Any:
        """A literal with references in place of futures, found as in arguments of `Client.submit`."""
        if type(value) in SCALARS or next(futures_in(value), None) is None:
            return value
        if isinstance(value, Future):
            return _reference(self.outside(value.key), needs)
        if isinstance(value, dict):
            return {name: self.with_references(one, needs) for name, one in value.items()}
        items = [self.with_references(one, needs) for one in value]
        return value._make(items) if hasattr(value, "_make") else type(value)(items)

    def literal(self, key: DaskKey) -> Any:
        """The value of a node that vanished into those that use it."""
        return self._literals[key]

    def _pack(self, call: Call, key: DaskKey, values: list[Any], needs: list[Key]) -> Packed:
        arguments: tuple[Any, dict[str, Any]] = (tuple(values), {})
        try:
            data = pickle.dumps(arguments, 5)
            if b"__main__" in data:
                data = dumps(arguments)
        except SerializationError as error:
            raise SerializationError(f"the arguments of {key!r}", error.cause) from error
        except Exception:  # noqa: BLE001 - whatever pickle can't do
            data = dumps(arguments, f"the arguments of {key!r}")
        if len(data) <= INLINE_LIMIT:
            return Packed(data, tuple(needs) or None, ())
        packed = self._source.pack(call.name, tuple(values), tuple(needs))
        self.data += packed.inputs
        return packed


class _Writer:
    """Writes the program of one node."""

    def __init__(self, conversion: Conversion) -> None:
        self.functions: list[Digest] = []
        self.steps: list[Maker] = []
        self.values: list[Any] = []
        self.needs: list[Key] = []
        self._conversion = conversion
        self._places: dict[Digest, int] = {}
        self._inputs: dict[Key, int] = {}

    def add_steps(self, key: DaskKey, node: Task) -> None:
        """A node, with all that it has inside."""
        if node.func is _execute_subgraph:
            inner, outer, names, *inputs = node.args
            environment = {name: self._maker(value, {}) for name, value in zip(names, inputs)}
            for name in _inner_order(inner, outer, environment):
                one = inner[name]
                maker = self._maker(one, environment, inside=True)
                if maker[0] == "r" and isinstance(one, Alias):
                    environment[name] = maker
                    continue
                self.steps.append(maker)
                environment[name] = ("r", len(self.steps) - 1)
            if environment[outer] != ("r", len(self.steps) - 1):
                self.steps.append(environment[outer])
            return
        self.steps.append(self._maker(node, {}, inside=True))

    def _maker(self, value: Any, environment: Mapping[DaskKey, Maker], inside: bool = False) -> Maker:
        """How ``value``, an argument or (``inside``) a node itself, is made."""
        if isinstance(value, (DaskRef, Alias)):
            target = value.key if isinstance(value, DaskRef) else value.target
            return environment.get(target) or self._node(target)
        if isinstance(value, DataNode):
            return self._value(value.value)
        if isinstance(value, Task):
            return self._call(value, environment)
        return self._value(self._conversion.with_references(value, self.needs))

    def _call(self, node: Task, environment: Mapping[DaskKey, Maker]) -> Maker:
        if node.func is _execute_subgraph:
            return self._nested_subgraph(node, environment)
        arguments = tuple([self._maker(one, environment) for one in node.args])
        if type(node) is ListNode or (node.func is _identity_cast and node.kwargs.get("typ") is list):
            return ("l", arguments)
        if type(node) is TupleNode or (node.func is _identity_cast and node.kwargs.get("typ") is tuple):
            return ("t", arguments)
        keywords = tuple([(name, self._maker(one, environment)) for name, one in node.kwargs.items()])
        return ("c", self._function(node.func), arguments, keywords)

    def _nested_subgraph(self, node: Task, environment: Mapping[DaskKey, Maker]) -> Maker:
        """A subgraph inside another: its steps come first."""
        inner, outer, names, *inputs = node.args
        nested = {name: self._maker(value, environment) for name, value in zip(names, inputs)}
        for name in _inner_order(inner, outer, nested):
            self.steps.append(self._maker(inner[name], nested, inside=True))
            nested[name] = ("r", len(self.steps) - 1)
        return nested[outer]

    def _function(self, function: Any) -> int:
        _, digest = self._conversion.digest(function)
        place = self._places.get(digest)
        if place is None:
            place = self._places[digest] = len(self.functions)
            self.functions.append(digest)
        return place

    def _node(self, key: DaskKey) -> Maker:
        mine = self._conversion.keys.get(key)
        return self._value(self._conversion.literal(key)) if mine is None else self._input(mine)

    def _input(self, key: Key) -> Maker:
        place = self._inputs.get(key)
        if place is None:
            place = self._inputs[key] = len(self.values)
            self.values.append(_reference(key, self.needs))
        return ("v", place)

    def _value(self, value: Any) -> Maker:
        self.values.append(value)
        return ("v", len(self.values) - 1)


def _reference(key: Key, needs: list[Key]) -> TaskRef:
    """The reference to an input; ``needs`` names each once."""
    if key in needs:
        index = needs.index(key)
    else:
        index = len(needs)
        needs.append(key)
    return _REFERENCES[index] if index < len(_REFERENCES) else TaskRef(index)


def _inner_order(inner: Mapping[DaskKey, Any], outer: DaskKey, given_names: Mapping[DaskKey, Any]) -> Iterator[DaskKey]:
    """The nodes of a subgraph that its output needs, each after what it depends on."""
    done: set[DaskKey] = set()
    stack = [outer]
    while stack:
        key = stack[-1]
        if key in done or key not in inner or key in given_names:
            stack.pop()
            continue
        inside = [one for one in inner[key].dependencies if one in inner and one not in given_names]
        missing = [one for one in inside if one not in done]
        if missing:
            stack += missing
            continue
        stack.pop()
        done.add(key)
        yield key


def _cycle(graph: Mapping[DaskKey, GraphNode], start: DaskKey) -> str:
    """A cycle that goes through ``start``, in words."""
    path: dict[DaskKey, DaskKey] = {start: start}
    stack = [start]
    while stack:
        key = stack.pop()
        for dependency in graph[key].dependencies:
            if dependency == start:
                names = [start]
                while key != start:
                    names.append(key)
                    key = path[key]
                return " needs ".join(map(repr, [start, *reversed(names[1:]), start]))
            if dependency in graph and dependency not in path:
                path[dependency] = key
                stack.append(dependency)
    return repr(start)
