"""`Signature`: a task call as data, not made yet. It is a dict, with the fields that Celery's has.

A signature survives JSON: what comes back is a plain dict, and `maybe_signature` makes a signature of it again. What
can be composed of signatures is in `canvas`; what becomes of them when they are called, in `compiler`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from functools import partial
from typing import Any, ClassVar, Self

from futurebroker.celery import stamping
from futurebroker.celery.local import current_app

#: ids for which the system is asked at once
IDS = 64

#: options of an immutable signature that a caller can't change
_FIXED_OPTIONS = frozenset({"group_id", "stamped_headers"})


#: random bytes for ids to come, so that the system is asked for many at once; a forked process asks anew
_random: list[str] = []
os.register_at_fork(after_in_child=_random.clear)


def uuid() -> str:
    """A fresh task id, in Celery's form: a random UUID."""
    try:
        digits = _random.pop()
    except IndexError:
        many = os.urandom(16 * IDS).hex()
        _random.extend(many[start : start + 32] for start in range(32, len(many), 32))
        digits = many[:32]
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


class Signature(dict[str, Any]):
    """A call of ``task`` with ``args``, ``kwargs`` and ``options``; arguments given later come before ``args``.

    Args:
        task: a task, its name, or the dict of another signature.
        options: of `Task.apply_async`.
        immutable: take no arguments from callers and earlier tasks.
        app: default: the task's own, else the current one.
    """

    #: subtask_type -> the class that knows it
    TYPES: ClassVar[dict[str, Callable[..., Any]]] = {}
    _app: Any = None
    _type: Any = None

    @classmethod
    def register_type(cls, name: str) -> Callable[[Any], Any]:
        """Decorator: have `from_dict` make signatures with this ``subtask_type`` of the class."""

        def register(kind: Any) -> Any:
            cls.TYPES[name] = kind
            return kind

        return register

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], app: Any = None) -> Signature:
        """The signature whose plain dict ``d`` is."""
        kind = d.get("subtask_type")
        known = cls.TYPES.get(kind) if kind else None
        if known is not None and known is not cls:
            made: Signature = known.from_dict(d, app=app)  # type: ignore[attr-defined]
            return made
        return Signature(d, app=app)

    def __init__(
        self,
        task: Any = None,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        type: Any = None,
        subtask_type: str | None = None,
        immutable: bool = False,
        app: Any = None,
        **ex: Any,
    ) -> None:
        if isinstance(task, Mapping):
            super().__init__(task)
            self["args"] = tuple(self.get("args") or ())
            self["kwargs"] = dict(self.get("kwargs") or {})
            self["options"] = dict(self.get("options") or {})
            self.setdefault("subtask_type", None)
            self.setdefault("immutable", False)
            if isinstance(task, Signature):
                self._type = task._type
                app = app or task._app
        else:
            if isinstance(task, str):
                name: Any = task
            else:
                name = getattr(task, "name", None)
                if name is None:
                    raise TypeError(f"a signature is made of a task or the name of one, not of {task!r}")
                self._type = task
            super().__init__(
                task=name,
                args=tuple(args or ()),
                kwargs=dict(kwargs or {}),
                options=dict(options or {}, **ex),
                subtask_type=subtask_type,
                immutable=immutable,
            )
            if type is not None:
                self._type = type
        self._app = app

    # -- what it is -------------------------------------------------------------------------------------------------

    @property
    def app(self) -> Any:
        """The app it is called by."""
        return self._app or (self._type.app if self._type is not None else None) or current_app()

    @property
    def type(self) -> Any:
        """The task itself; NotRegistered if this program has none of that name."""
        return self._type or self.app.tasks[self["task"]]

    @property
    def name(self) -> str:
        """Short form of the task's name, as ``repr`` shows it."""
        return str(self["task"])

    @property
    def id(self) -> str | None:
        """The id its task will have, once it is frozen."""
        return self._option("task_id")

    @property
    def parent_id(self) -> str | None:
        return self._option("parent_id")

    @property
    def root_id(self) -> str | None:
        return self._option("root_id")

    def _option(self, name: str) -> str | None:
        value: str | None = self["options"].get(name)
        return value

    @property
    def task(self) -> str:
        return str(self["task"])

    @task.setter
    def task(self, value: str) -> None:
        self["task"] = value

    @property
    def args(self) -> tuple[Any, ...]:
        return tuple(self["args"])

    @args.setter
    def args(self, value: Iterable[Any]) -> None:
        self["args"] = tuple(value)

    @property
    def kwargs(self) -> dict[str, Any]:
        kwargs: dict[str, Any] = self["kwargs"]
        return kwargs

    @kwargs.setter
    def kwargs(self, value: dict[str, Any]) -> None:
        self["kwargs"] = value

    @property
    def options(self) -> dict[str, Any]:
        options: dict[str, Any] = self["options"]
        return options

    @options.setter
    def options(self, value: dict[str, Any]) -> None:
        self["options"] = value

    @property
    def subtask_type(self) -> str | None:
        return self["subtask_type"]  # type: ignore[no-any-return]

    @property
    def immutable(self) -> bool:
        return bool(self["immutable"])

    @immutable.setter
    def immutable(self, value: bool) -> None:
        self["immutable"] = value

    # -- variations -------------------------------------------------------------------------------------------------

    def merged(
        self,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> tuple[tuple[Any, ...], dict[str, Any], dict[str, Any]]:
        """Arguments and options of a call with these in addition: ``args`` come first, ``kwargs`` and options win."""
        own = self["options"]
        if self["immutable"]:
            kept = {name: value for name, value in (options or {}).items() if name not in _FIXED_OPTIONS}
            return tuple(self["args"]), dict(self["kwargs"]), {**own, **kept}
        return (*args, *self["args"]), {**self["kwargs"], **(kwargs or {})}, {**own, **(options or {})}

    def clone(self, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any) -> Signature:
        """A copy with arguments before its own, and options over them; also known as `partial`."""
        immutable = options.pop("immutable", None)
        new_args, new_kwargs, new_options = self.merged(args, kwargs, options)
        copied = Signature.from_dict(
            {**self, "args": new_args, "kwargs": new_kwargs, "options": deepcopy(new_options)}, app=self._app
        )
        copied._type = self._type
        if immutable is not None:
            copied["immutable"] = immutable
        return copied

    partial = clone

    def replace(
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Signature:
        """A copy with these in place of its own."""
        copied = self.clone()
        if args is not None:
            copied["args"] = tuple(args)
        if kwargs is not None:
            copied["kwargs"] = dict(kwargs)
        if options is not None:
            copied["options"] = dict(options)
        return copied

    def set(self, immutable: bool | None = None, **options: Any) -> Self:
        """Change options here; returns this signature."""
        if immutable is not None:
            self.set_immutable(immutable)
        self["options"].update(options)
        return self

    def set_immutable(self, immutable: bool) -> None:
        """Take no more arguments, or do again."""
        self["immutable"] = immutable

    def stamp(self, visitor: Any = None, append_stamps: bool = False, **headers: Any) -> Self:
        """Have its tasks, and what they link to, carry these headers as stamps; returns this signature.

        Args:
            visitor: a `StampingVisitor`, which says what each part is stamped with.
            append_stamps: stamps that are there already stay beside those.
        """
        self._stamp(visitor, append_stamps, headers)
        return self

    def _stamp(self, visitor: Any, append: bool, headers: dict[str, Any]) -> None:
        self.stamp_links(visitor, append, **headers)
        stamping.stamp_task(self, visitor, append, headers)

    def stamp_links(self, visitor: Any, append_stamps: bool = False, **headers: Any) -> None:
        """As `stamp`, of what it links to alone."""
        stamping.stamp_links(self, visitor, append_stamps, headers, partial(maybe_signature, app=self._app))

    # -- callbacks --------------------------------------------------------------------------------------------------

    def link(self, callback: Any) -> Any:
        """Have ``callback`` called with the result; returns it. The same callback twice counts once."""
        return self.append_to_list_option("link", callback)

    def link_error(self, errback: Any) -> Any:
        """Have ``errback`` called when the task fails; returns it."""
        return self.append_to_list_option("link_error", errback)

    def on_error(self, errback: Any) -> Self:
        """As `link_error`, but returns this signature."""
        self.link_error(errback)
        return self

    def append_to_list_option(self, name: str, value: Any) -> Any:
        """Add to a list in the options, unless it is there."""
        values = self.list_option(name)
        if value not in values:
            values.append(value)
        return value

    def extend_list_option(self, name: str, values: Any) -> None:
        """Add several."""
        for value in maybe_list(values):
            self.append_to_list_option(name, value)

    def list_option(self, name: str) -> list[Any]:
        """The list itself, so that it can be added to."""
        values: list[Any] = maybe_list(self["options"].get(name))
        self["options"][name] = values
        return values

    def flatten_links(self) -> list[Any]:
        """This and every callback below it."""
        found = [self]
        for callback in maybe_list(self["options"].get("link")):
            found += maybe_signature(callback, self._app).flatten_links()
        return found

    # -- calling ----------------------------------------------------------------------------------------------------

    def __call__(self, *partial_args: Any, **partial_kwargs: Any) -> Any:
        """Call the task here and now."""
        args, kwargs, _ = self.merged(partial_args, partial_kwargs)
        return self.type(*args, **kwargs)

    def delay(self, *partial_args: Any, **partial_kwargs: Any) -> Any:
        """Send it with these arguments before its own."""
        return self.apply_async(partial_args, partial_kwargs)

    def apply_async(self, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """Send it; what is composed of several tasks is sent as one graph."""
        return self.app.send_canvas(self, tuple(args or ()), dict(kwargs or {}), options)

    def apply(self, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """Run it here; returns an `EagerResult`."""
        return self.app.apply_canvas(self, tuple(args or ()), dict(kwargs or {}), options)

    def freeze(
        self,
        _id: str | None = None,
        group_id: str | None = None,
        chord: Any = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        group_index: int | None = None,
    ) -> Any:
        """Give it the id that its task will have; returns the result to come, which keeps waiting if it isn't sent."""
        options = self["options"]
        options["task_id"] = _id or options.get("task_id") or uuid()
        given = {"group_id": group_id, "root_id": root_id, "parent_id": parent_id, "group_index": group_index}
        options.update({name: value for name, value in given.items() if value is not None})
        return self.app.AsyncResult(options["task_id"])

    def __invert__(self) -> Any:
        """Send it and wait for the result."""
        return self.apply_async().get()

    def __or__(self, other: Any) -> Any:
        return self.TYPES["chain"].joined(self, other)  # type: ignore[attr-defined]

    # -- Python's own -----------------------------------------------------------------------------------------------

    def __deepcopy__(self, memo: dict[int, Any]) -> Signature:
        memo[id(self)] = self
        copied = Signature.from_dict({key: deepcopy(value, memo) for key, value in dict.items(self)}, app=self._app)
        copied._type = self._type
        return copied

    def __copy__(self) -> Signature:
        return self.clone()

    def __reduce__(self) -> tuple[Any, ...]:
        return _opened, (dict(self),)

    def __json__(self) -> dict[str, Any]:
        return dict(self)

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)

    def __repr__(self) -> str:
        args = [repr(arg) for arg in self["args"]]
        args += [f"{name}={value!r}" for name, value in self["kwargs"].items()]
        return f"{self['task']}({', '.join(args)})"


def _opened(fields: dict[str, Any]) -> Signature:
    return Signature.from_dict(fields)


def maybe_list(value: Any) -> list[Any]:
    """``value`` as a list: the same list if it is one, none for None, and one of itself for anything else."""
    if value is None:
        return []
    if isinstance(value, list):
        return value
    if isinstance(value, (tuple, set, Iterator)):
        return list(value)
    return [value]


def maybe_signature(d: Any, app: Any = None, clone: bool = False) -> Any:
    """A signature of ``d`` if it is one, or the dict of one; anything else as it is."""
    if isinstance(d, Signature):
        return d.clone() if clone else d
    if isinstance(d, Mapping) and "task" in d:
        return Signature.from_dict(d, app=app)
    return d


def signature(varies: Any, *args: Any, **kwargs: Any) -> Signature:
    """A signature of a task, the name of one, or the dict of a signature."""
    app = kwargs.get("app")
    if isinstance(varies, Signature):
        return varies.clone()
    if isinstance(varies, Mapping):
        return Signature.from_dict(varies, app=app)
    return Signature(varies, *args, **kwargs)


#: older names
subtask = signature
