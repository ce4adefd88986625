"""Which app and which task are the current ones, and stand-ins for both that may be imported before either exists."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

#: set by `Celery(set_as_current=True)` and by an app that is entered or runs a task
_current: ContextVar[Any] = ContextVar("futurebroker_celery_app", default=None)
#: every app of this program, oldest first
_apps: list[weakref.ref[Any]] = []
#: tasks that run now in this context, innermost last
_running: ContextVar[tuple[Any, ...]] = ContextVar("futurebroker_celery_tasks", default=())
#: what `shared_task` made, for every app there is and will be: (function to register with an app)
shared: list[Callable[[Any], Any]] = []


class _Defaults:
    """What is current where nothing was set in this context."""

    app: Any = None
    factory: Callable[[], Any] | None = None


def current_app() -> Any:
    """The app that is current here; without any a default one is made."""
    app = _current.get()
    if app is not None:
        return app
    if _Defaults.app is None:
        for reference in reversed(_apps):
            app = reference()
            if app is not None:
                return app
        assert _Defaults.factory is not None
        _Defaults.app = _Defaults.factory()
    return _Defaults.app


def set_current_app(app: Any) -> None:
    """Make ``app`` the current one, also in other threads, unless they have their own."""
    _Defaults.app = app


def set_default_factory(factory: Callable[[], Any]) -> None:
    """How an app is made for programs that have none."""
    _Defaults.factory = factory


def add_app(app: Any) -> None:
    """Remember an app."""
    _apps.append(weakref.ref(app))


def drop_app(app: Any) -> None:
    """It was closed."""
    _apps[:] = [reference for reference in _apps if reference() not in (None, app)]
    if _Defaults.app is app:
        _Defaults.app = None


def apps() -> list[Any]:
    """All apps of this program, oldest first."""
    return [app for reference in _apps if (app := reference()) is not None]


def running_tasks() -> tuple[Any, ...]:
    """Tasks that run here now, innermost last."""
    return _running.get()


def current_task() -> Any:
    """The task that runs here now; None outside of any."""
    running = _running.get()
    return running[-1] if running else None


def push_task(task: Any) -> Any:
    """``task`` runs from now on; give what is returned to `pop_task`."""
    return _running.set((*_running.get(), task))


def pop_task(token: Any) -> None:
    """It has ended."""
    _running.reset(token)


class Proxy:
    """Behaves as what ``find()`` returns at the moment of use."""

    __slots__ = ("__dict__", "__weakref__", "_find")

    def __init__(self, find: Callable[[], Any]) -> None:
        object.__setattr__(self, "_find", find)

    def _get_current_object(self) -> Any:
        return object.__getattribute__(self, "_find")()

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return type(self._get_current_object())

    @property
    def __doc__(self) -> Any:  # type: ignore[override]
        return self._get_current_object().__doc__

    @property
    def __name__(self) -> Any:
        return self._get_current_object().__name__

    def __getattr__(self, name: str) -> Any:
        return getattr(self._get_current_object(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._get_current_object(), name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._get_current_object(), name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._get_current_object()(*args, **kwargs)

    def __eq__(self, other: object) -> bool:
        return bool(self._get_current_object() == other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self._get_current_object())

    def __bool__(self) -> bool:
        return bool(self._get_current_object())

    def __iter__(self) -> Iterator[Any]:
        return iter(self._get_current_object())

    def __getitem__(self, key: Any) -> Any:
        return self._get_current_object()[key]

    def __repr__(self) -> str:
        return repr(self._get_current_object())

    def __dir__(self) -> list[str]:
        return dir(self._get_current_object())

    def __reduce__(self) -> Any:
        return self._get_current_object().__reduce__()
