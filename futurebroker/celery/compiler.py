"""From a signature to one graph, pure: `compile_canvas` decides which call waits for which before anything is sent.

A step of a chain gets the result before it as its first argument; after a group, that is the list of the group's
results, so a chord is a call that depends on its whole header. What many calls would take from many is gathered once in
between (`COLLECT`), so a graph is as large as the tasks in it and not as their products.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from futurebroker.celery.canvas import chain, chord, chunks, group
from futurebroker.celery.signature import Signature, maybe_list, maybe_signature, uuid
from futurebroker.graph import Graph, Ref, TaskSpec, references_in

#: the task that hands on the list it is given
COLLECT = "celery.accumulate"
#: the option of what was linked, which is no step of a chain
LINK = "is_link"
#: options that say something about one task's place, not about how it runs
_OF_PLACE = frozenset({"task_id", "link", "link_error", "chord", "chain"})


@dataclass(slots=True)
class TaskHandle:
    """A result to come; ``parent`` is what came before it."""

    id: str
    parent: Handle | None = None


@dataclass(slots=True)
class GroupHandle:
    """Results to come, together."""

    id: str
    children: list[Handle] = field(default_factory=list)
    parent: Handle | None = None


Handle = TaskHandle | GroupHandle


@dataclass(slots=True)
class _Placed:
    """A part of the canvas that is in the graph: what it hands on, and its result."""

    value: Any  #: a `Ref`, or a flat list of them after a group
    handle: Handle | None  #: None after an empty chain


@dataclass(slots=True)
class _Before:
    """What a part is called with: arguments in front, and whether these are the results of a group."""

    inputs: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    parent: str = ""  #: id of the task whose result it takes
    joins: bool = False


def compile_canvas(
    sig: Signature,
    args: Iterable[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
) -> tuple[Graph, Handle | None]:
    """The graph of a call of ``sig`` with these arguments before its own, and the result to come.

    Raises:
        ValueError: its callbacks form a circle, or an id comes twice.
        TypeError: a chord has no body.
    """
    compiler = _Compiler()
    placed = compiler.place(sig, _Before(tuple(args), kwargs or {}), dict(options or {}))
    return compiler.graph, placed.handle


class _Compiler:
    def __init__(self, graph: Graph | None = None, active: dict[int, None] | None = None) -> None:
        self.graph = graph or Graph()
        #: signatures that are being placed, for finding circles
        self._active: dict[int, None] = active if active is not None else {}

    def place(self, sig: Signature, before: _Before, options: dict[str, Any]) -> _Placed:
        """Put ``sig`` into the graph, behind ``before``."""
        if id(sig) in self._active:
            raise ValueError(f"the callbacks of {sig!r} lead back to itself")
        self._active[id(sig)] = None
        try:
            if isinstance(sig, chain):
                return self._chain(sig, before, options)
            if isinstance(sig, group):
                return self._group(sig, before, options)
            if isinstance(sig, chord):
                return self._chord(sig, before, options)
            if isinstance(sig, chunks):
                return self._group(sig.group(), before, {**sig.options, **options})
            return self._task(sig, before, options)
        finally:
            del self._active[id(sig)]

    # -- one task ---------------------------------------------------------------------------------------------------

    def _task(self, sig: Signature, before: _Before, options: dict[str, Any]) -> _Placed:
        immutable = sig.immutable
        args, kwargs, merged = sig.merged((), before.kwargs, options)
        for name in ("link", "link_error"):
            if name in options and name in sig.options:
                merged[name] = [*maybe_list(sig.options[name]), *maybe_list(options[name])]
        if before.parent:
            merged.setdefault("parent_id", before.parent)
        spec = TaskSpec(
            key=merged.get("task_id") or uuid(),
            name=sig.task,
            inputs=() if immutable else before.inputs,
            args=args,
            kwargs=kwargs,
            options={name: value for name, value in merged.items() if name not in _OF_PLACE},
            after=tuple(dict.fromkeys(references_in(before.inputs))) if immutable else (),
            joins=before.joins,
        )
        spec.on_failure = [self._errback(errback, spec.key) for errback in maybe_list(merged.get("link_error"))]
        self.graph.add(spec)
        result = Ref(spec.key)
        for callback in maybe_list(merged.get("link")):
            self.place(_known(callback, sig), _Before((result,), parent=spec.key), {LINK: True})
        return _Placed(result, TaskHandle(spec.key))

    def _errback(self, errback: Any, failed: str) -> Graph:
        """A graph of its own, sent along and begun only on failure."""
        apart = _Compiler(active=self._active)
        apart.place(maybe_signature(errback), _Before((failed,), parent=failed), {})
        return apart.graph

    # -- several ----------------------------------------------------------------------------------------------------

    def _chain(self, sig: chain, before: _Before, options: dict[str, Any]) -> _Placed:
        merged = {**sig.options, **options}
        steps = self._steps(sig)
        last_options: dict[str, Any] = {name: merged.pop(name) for name in ("task_id", "link") if name in merged}
        errbacks = maybe_list(merged.pop("link_error", None))
        placed: _Placed | None = None
        for at, step in enumerate(steps):
            own = merged if at == 0 else {}
            if at == len(steps) - 1:
                own = {**own, **last_options}
            if errbacks:
                own = {**own, "link_error": errbacks}
            here = self._place_step(step, before if placed is None else _after(placed), own)
            if here.handle is not None and placed is not None:
                _add_parent(here.handle, placed.handle)
            placed = here
        return placed or _Placed([], None)

    def _steps(self, sig: chain) -> list[Signature]:
        """The steps, with chains inside opened, groups of one taken apart, and empty groups left out."""
        steps: list[Signature] = []
        for step in sig.tasks:
            step = _known(step, sig)
            if isinstance(step, chain) and not step.options:
                steps += self._steps(step)
            elif isinstance(step, group) and steps and not step.tasks:
                continue
            elif isinstance(step, group) and steps and len(step.tasks) == 1:
                steps.append(_known(step.tasks[0], sig))
            else:
                steps.append(step)
        return steps

    def _place_step(self, step: Signature, before: _Before, options: dict[str, Any]) -> _Placed:
        if isinstance(step, group):
            links = maybe_list(options.pop("link", None))
            if links and step.tasks:
                step = step.clone()
                for link in links:
                    step.link(link)
        return self.place(step, before, options)

    def _group(self, sig: group, before: _Before, options: dict[str, Any]) -> _Placed:
        merged = {**sig.options, **options}
        name = merged.pop("task_id", None) or uuid()
        tasks = list(_flat(sig))
        before = self._collected(before, len(tasks))
        handle = GroupHandle(name)
        values: list[Any] = []
        for at, task in enumerate(tasks):
            place = {"group_id": name, "group_index": at} if not isinstance(task, (chain, chord, group)) else {}
            placed = self.place(task, before, {**merged, **place})
            if placed.handle is None:
                continue
            handle.children.append(placed.handle)
            values += placed.value if isinstance(placed.value, list) else [placed.value]
        return _Placed(values, handle)

    def _collected(self, before: _Before, takers: int) -> _Before:
        """For many takers of many results, the results as one."""
        if takers < 2 or not before.joins or sum(1 for _ in references_in(before.inputs)) < 2:
            return before
        key = uuid()
        self.graph.add(TaskSpec(key, COLLECT, before.inputs, joins=True))
        return _Before((Ref(key),), before.kwargs, before.parent)

    def _chord(self, sig: chord, before: _Before, options: dict[str, Any]) -> _Placed:
        if sig.body is None:
            raise TypeError("a chord without a body can't be called; give it one with chord(header, body)")
        merged = {**sig.options, **options}
        of_body: dict[str, Any] = {
            name: merged.pop(name) for name in ("task_id", "link", "link_error") if name in merged
        }
        before = _Before((*before.inputs, *sig.args), before.kwargs, before.parent, before.joins)
        header = self._group(sig.header, before, dict(merged))
        body = self._place_step(
            sig.body, _Before((header.value,), sig["kwargs"].get("kwargs") or {}, joins=True), {**merged, **of_body}
        )
        assert body.handle is not None
        _add_parent(body.handle, header.handle)
        return body


def _known(part: Any, of: Signature) -> Signature:
    known = maybe_signature(part, of._app)
    if not isinstance(known, Signature):
        raise TypeError(f"a canvas is made of signatures, not of {part!r}; write task.s(...)")
    return known


def _flat(sig: group) -> Iterable[Signature]:
    """The tasks of a group, with those of groups inside it."""
    for task in sig.tasks:
        task = _known(task, sig)
        if isinstance(task, group):
            yield from _flat(task)
        else:
            yield task


def _after(placed: _Placed) -> _Before:
    if isinstance(placed.value, list):
        return _Before((placed.value,), joins=True)
    return _Before((placed.value,), parent=placed.value.key)


def _add_parent(handle: Handle, parent: Handle | None) -> None:
    """Results have what came before them as parent; that of a chord is its header, whose parent it is."""
    while handle.parent is not None:
        handle = handle.parent
    handle.parent = parent
