"""Compositions of signatures: `chain`, `group`, `chord`, `chunks` and the maps. All of them are signatures themselves.

They are data only: `compiler` makes one graph of them when they are called.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from functools import partial, reduce
from typing import Any, Self

from futurebroker.celery import stamping
from futurebroker.celery.signature import Signature, maybe_list, maybe_signature, signature, subtask, uuid
from futurebroker.celery.stamping import GroupStampingVisitor, StampingVisitor

__all__ = [
    "GroupStampingVisitor",
    "Signature",
    "StampingVisitor",
    "chain",
    "chord",
    "chunks",
    "group",
    "maybe_signature",
    "signature",
    "subtask",
    "xmap",
    "xstarmap",
]


def _cloned(tasks: Iterable[Any], app: Any = None) -> list[Any]:
    made = [maybe_signature(task, app, clone=True) for task in tasks]
    for task in made:
        if not isinstance(task, Signature):
            raise TypeError(f"a canvas is made of signatures, not of {task!r}; write task.s(...)")
    return made


def _unrolled(task: Any) -> Any:
    """A group of one is that one, where it follows something."""
    if isinstance(task, group) and len(task.tasks) == 1:
        return task.tasks[0]
    return task


class Composed(Signature):
    """A signature that stands for several tasks."""

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], app: Any = None) -> Signature:
        made = cls.__new__(cls)
        Signature.__init__(made, d, app=app)
        made._open(app)
        return made

    def _open(self, app: Any) -> None:
        """Make signatures of the dicts among the parts."""

    @property
    def app(self) -> Any:
        if self._app is not None:
            return self._app
        for part in self.parts():
            if part._app is not None or part._type is not None or isinstance(part, Composed):
                return part.app
        return super().app

    def parts(self) -> list[Signature]:
        """The signatures it is made of."""
        return []


class _Listed(Composed):
    """Parts in a row."""

    def _open(self, app: Any) -> None:
        self["kwargs"]["tasks"] = [maybe_signature(task, app) for task in self["kwargs"].get("tasks") or ()]

    @property
    def tasks(self) -> list[Any]:
        """The parts."""
        return self["kwargs"]["tasks"]  # type: ignore[no-any-return]

    @tasks.setter
    def tasks(self, tasks: list[Any]) -> None:
        self["kwargs"]["tasks"] = tasks

    def parts(self) -> list[Signature]:
        return self.tasks


# -- chain -----------------------------------------------------------------------------------------------------------


@Signature.register_type("chain")
class chain(_Listed):  # noqa: N801 - Celery's name
    """Calls one after another, each with the result of the one before as its first argument.

    A group among them hands on the list of its results, so that what follows it is the body of a chord. ``chain(x)``
    is ``x``; a single iterable gives the tasks, and a chain also of one.
    """

    def __new__(cls, *tasks: Any, **kwargs: Any) -> Any:
        if not kwargs and tasks:
            if len(tasks) == 1 and not isinstance(tasks[0], Mapping):
                tasks = tuple(tasks[0])
                if len(tasks) == 1 and not isinstance(tasks[0], Composed):
                    return chain_of(_cloned(tasks))  # so that calling it sends it, as it does with more of them
            if tasks:
                return reduce(partial(cls.joined, fresh=True), _cloned(tasks), chain_of([]))
        return super().__new__(cls)

    def __init__(self, *tasks: Any, app: Any = None, **options: Any) -> None:
        if "task" in self:  # made by __new__
            return
        if len(tasks) == 1 and not isinstance(tasks[0], Mapping):
            tasks = tuple(tasks[0])
        super().__init__(
            "celery.chain", (), {"tasks": _cloned(tasks, app)}, subtask_type="chain", app=app, options=options
        )

    def _stamp(self, visitor: Any, append: bool, headers: dict[str, Any]) -> None:
        given = visitor.on_chain_start(self, **headers) or {} if visitor is not None else None
        inner = stamping.merged(headers, given, append, self.options)
        self.stamp_links(visitor, append, **inner)
        for task in self.tasks:
            task.stamp(visitor, append, **inner)
        if visitor is not None:
            visitor.on_chain_end(self, **inner)

    @classmethod
    def joined(cls, left: Signature, right: Any, fresh: bool = False) -> Any:
        """``left | right``; with ``fresh`` both may become part of it, and else they are copied."""
        right = maybe_signature(right)
        if not isinstance(right, Signature):
            return NotImplemented
        if isinstance(left, chain) and not left.tasks:
            return right if fresh and not isinstance(right, chain) else right.clone()
        if isinstance(right, chain):
            copied = left
            for task in right.unchain_tasks():
                copied = copied | task
            return copied
        if isinstance(left, group):
            return chord(left.clone(), right.clone(), app=left._app)
        if isinstance(left, chord) and left.body is not None:
            copied = left.clone()
            copied.body = copied.body | right  # type: ignore[attr-defined]
            return copied
        right = _unrolled(right if fresh else right.clone())
        if not isinstance(left, chain):
            return chain_of([left if fresh else left.clone(), right], left._app)
        copied = left if fresh else left.clone()
        if isinstance(copied.tasks[-1], (group, chord)):  # type: ignore[attr-defined]
            copied.tasks[-1] = copied.tasks[-1] | right  # type: ignore[attr-defined]
        else:
            copied.tasks.append(right)  # type: ignore[attr-defined]
        return copied

    def unchain_tasks(self) -> list[Any]:
        """Copies of the steps, the last with this chain's callbacks and each with its errbacks."""
        tasks = [task.clone() for task in self.tasks]
        for callback in maybe_list(self.options.get("link")):
            tasks[-1].link(callback)
        for errback in maybe_list(self.options.get("link_error")):
            for task in tasks:
                task.link_error(errback)
        return tasks

    @property
    def id(self) -> str | None:
        """Of the last task."""
        return self.options.get("task_id") or (self.tasks[-1].id if self.tasks else None)

    def freeze(self, _id: str | None = None, *args: Any, **kwargs: Any) -> Any:
        result = None
        for task in self.tasks[:-1]:
            parent, result = result, task.freeze()
            result.parent = parent
        parent, result = result, self.tasks[-1].freeze(_id or self.options.get("task_id"), *args, **kwargs)
        result.parent = parent
        return result

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.apply_async(args, kwargs) if self.tasks else None

    def __repr__(self) -> str:
        return " | ".join(map(repr, self.tasks)) or "chain()"


def chain_of(tasks: list[Any], app: Any = None) -> chain:
    """A chain of exactly these, also of none or one."""
    made: chain = chain.__new__(chain, app=app)
    Signature.__init__(made, "celery.chain", (), {"tasks": tasks}, subtask_type="chain", app=app)
    return made


# -- group -----------------------------------------------------------------------------------------------------------


@Signature.register_type("group")
class group(_Listed):  # noqa: N801 - Celery's name
    """Calls that may run at the same time; the result is a `GroupResult`. A group inside a group is part of it."""

    def __init__(self, *tasks: Any, app: Any = None, **options: Any) -> None:
        if len(tasks) == 1:
            only = tasks[0]
            if isinstance(only, group):
                tasks = tuple(only.tasks)
            elif not isinstance(only, Mapping):
                tasks = tuple(only)
        made = _cloned(tasks, app)
        super().__init__("celery.group", (), {"tasks": made}, subtask_type="group", app=app, options=options)

    def _stamp(self, visitor: Any, append: bool, headers: dict[str, Any]) -> None:
        given = visitor.on_group_start(self, **headers) or {} if visitor is not None else None
        inner = stamping.merged(headers, given, append, self.options)
        self.stamp_links(visitor, append, **inner)
        for task in self.tasks:
            task.stamp(visitor, append, **inner)
        if visitor is not None:
            visitor.on_group_end(self, **inner)

    def link(self, callback: Any) -> Any:
        """Have ``callback`` called, without arguments, after the first of the calls."""
        if not self.tasks:
            return None
        return self.tasks[0].link(maybe_signature(callback).clone(immutable=True))

    def link_error(self, errback: Any) -> Any:
        """Have ``errback`` called for every call that fails."""
        made = maybe_signature(errback).clone(immutable=True)
        return tuple(task.link_error(made) for task in self.tasks)

    def set_immutable(self, immutable: bool) -> None:
        for task in self.tasks:
            task.set_immutable(immutable)

    def skew(self, start: float = 1.0, stop: float | None = None, step: float = 1.0) -> Self:
        """Give the calls countdowns ``start``, ``start + step``, and so on."""
        at = start
        for task in self.tasks:
            if stop is not None and at >= stop:
                at = start
            task.set(countdown=at)
            at += step
        return self

    def apply_async(self, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any) -> Any:
        if "link" in options:
            raise TypeError("cannot add link to a group: use a chord")
        if "link_error" in options:
            raise TypeError("cannot add link to a group: do that on individual tasks")
        return super().apply_async(args, kwargs, **options)

    def name_it(self) -> None:
        """Give it an id, unless it has one."""
        self.options.setdefault("task_id", uuid())

    def freeze(self, _id: str | None = None, *args: Any, **kwargs: Any) -> Any:
        options = self.options
        options["task_id"] = _id or options.get("task_id") or uuid()
        children = [task.freeze(group_id=options["task_id"], group_index=at) for at, task in enumerate(self.tasks)]
        return self.app.GroupResult(options["task_id"], children)

    def __call__(self, *partial_args: Any, **options: Any) -> Any:
        return self.apply_async(partial_args, **options)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.tasks)

    def __len__(self) -> int:
        return len(self.tasks)

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"group([{', '.join(map(repr, self.tasks))}])"


# -- chord -----------------------------------------------------------------------------------------------------------


@Signature.register_type("chord")
class chord(Composed):  # noqa: N801 - Celery's name
    """``body`` is called with the list of the results of ``header``, in the header's order.

    ``chord(header)(body)`` sends it. With an empty header the body gets an empty list.
    """

    def __init__(
        self,
        header: Any,
        body: Any = None,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        app: Any = None,
        **options: Any,
    ) -> None:
        header = maybe_signature(header, app, clone=True)
        if not isinstance(header, group):
            header = group([header] if isinstance(header, Signature) else header, app=app)
        body = maybe_signature(body, app, clone=True)
        if body is not None and not isinstance(body, Signature):
            raise TypeError(f"the body of a chord is a signature, not {body!r}; write task.s(...)")
        parts = {"header": header, "body": body, "kwargs": dict(kwargs or {})}
        super().__init__("celery.chord", args, parts, subtask_type="chord", app=app, options=options)

    def _open(self, app: Any) -> None:
        kwargs = self["kwargs"]
        header = maybe_signature(kwargs.get("header"), app)
        if not isinstance(header, group):
            header = group([header] if isinstance(header, Signature) else header or [], app=app)
        kwargs["header"] = header
        kwargs["body"] = maybe_signature(kwargs.get("body"), app)

    @property
    def header(self) -> group:
        return self["kwargs"]["header"]  # type: ignore[no-any-return]

    @property
    def tasks(self) -> Any:
        """The header."""
        return self["kwargs"]["header"]

    @tasks.setter
    def tasks(self, header: Any) -> None:
        self["kwargs"]["header"] = header

    @property
    def body(self) -> Any:
        return self["kwargs"]["body"]

    @body.setter
    def body(self, body: Any) -> None:
        self["kwargs"]["body"] = body

    def _stamp(self, visitor: Any, append: bool, headers: dict[str, Any]) -> None:
        given = visitor.on_chord_header_start(self, **headers) or {} if visitor is not None else None
        inner = stamping.merged(headers, given, append, self.options)
        self.stamp_links(visitor, append, **inner)
        for task in self.header.tasks:
            task.stamp(visitor, append, **inner)
        if visitor is not None:
            visitor.on_chord_header_end(self, **inner)
        if self.body is not None:
            given = visitor.on_chord_body(self, **inner) or {} if visitor is not None else None
            self.body.stamp(visitor, append, **stamping.merged(inner, given, append, self.options))

    def parts(self) -> list[Signature]:
        return [*self.header.tasks, *([self.body] if self.body is not None else [])]

    @property
    def id(self) -> str | None:
        """Of the body."""
        return self.options.get("task_id") or (self.body.id if self.body is not None else None)

    def link(self, callback: Any) -> Any:
        """Have ``callback`` called with the result of the body."""
        self._need_body().link(callback)
        return callback

    def link_error(self, errback: Any) -> Any:
        """Have ``errback`` called when the body fails, or can't run because a task of the header failed.

        With ``task_allow_error_cb_on_chord_header`` also for each task of the header that fails.
        """
        self._need_body().link_error(errback)
        if self.app.conf.task_allow_error_cb_on_chord_header:
            self.header.link_error(errback)
        return errback

    def set_immutable(self, immutable: bool) -> None:
        """Of the body; header tasks keep what they are."""
        self._need_body().set_immutable(immutable)

    def _need_body(self) -> Any:
        if self.body is None:
            raise TypeError("this chord has no body yet; give it one with chord(header, body)")
        return self.body

    def freeze(self, _id: str | None = None, *args: Any, **kwargs: Any) -> Any:
        header = self.header.freeze()
        result = self._need_body().freeze(_id or self.options.get("task_id"), *args, **kwargs)
        result.parent = header
        return result

    def __call__(self, body: Any = None, **options: Any) -> Any:
        if body is not None:
            copied = self.clone()
            copied.body = maybe_signature(body, self._app, clone=True)  # type: ignore[attr-defined]
            return copied.apply_async((), {}, **options)
        return self.apply_async((), {}, **options)

    def __length_hint__(self) -> int:
        return len(self.header)

    def __repr__(self) -> str:
        return f"chord({self.header!r}, {self.body!r})"


# -- many calls of one task ------------------------------------------------------------------------------------------


class _Mapped(Signature):
    """One task that calls another for each of many items."""

    task_name = ""
    kind = ""

    def __init__(self, task: Any, it: Iterable[Any], app: Any = None, **options: Any) -> None:
        inner = task if isinstance(task, Signature) else Signature(task, app=app)
        super().__init__(
            self.task_name,
            (),
            {"task": inner, "it": list(it)},
            subtask_type=self.kind,
            immutable=True,
            app=app or inner._app,
            options=options,
        )

    @property
    def app(self) -> Any:
        return self._app or self["kwargs"]["task"].app

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], app: Any = None) -> Signature:
        made = cls.__new__(cls)
        Signature.__init__(made, d, app=app)
        made["kwargs"]["task"] = maybe_signature(made["kwargs"]["task"], app)
        return made

    def __repr__(self) -> str:
        kwargs = self["kwargs"]
        return f"[{kwargs['task'].task}(x) for x in {kwargs['it']!r}]"


@Signature.register_type("xmap")
class xmap(_Mapped):  # noqa: N801 - Celery's name
    """One task that calls ``task`` with each item; the result is the list of what it returned."""

    task_name = "celery.map"
    kind = "xmap"


@Signature.register_type("xstarmap")
class xstarmap(_Mapped):  # noqa: N801 - Celery's name
    """As `xmap`, for items that are tuples of arguments."""

    task_name = "celery.starmap"
    kind = "xstarmap"


@Signature.register_type("chunks")
class chunks(_Mapped):  # noqa: N801 - Celery's name
    """Items that are tuples of arguments, ``n`` a task; the result is a list of lists."""

    task_name = "celery.chunks"
    kind = "chunks"

    def __init__(self, task: Any, it: Iterable[Any], n: int, app: Any = None, **options: Any) -> None:
        if n < 1:
            raise ValueError(f"chunks of {n} items can't be made")
        super().__init__(task, it, app, **options)
        self["kwargs"]["n"] = n

    def group(self) -> group:
        """The group that it stands for."""
        kwargs = self["kwargs"]
        items = iter(kwargs["it"])
        parts = iter(lambda: list(itertools.islice(items, kwargs["n"])), [])
        return group([xstarmap(kwargs["task"], part, app=self._app) for part in parts], app=self._app)

    def apply_async(self, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any) -> Any:
        return self.group().apply_async((), {}, **{**self.options, **options})

    def __call__(self, **options: Any) -> Any:
        return self.apply_async(**options)

    @classmethod
    def apply_chunks(cls, task: Any, it: Iterable[Any], n: int, app: Any = None) -> Any:
        """Send them."""
        return cls(task, it, n, app=app)()
