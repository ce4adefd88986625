"""The tasks that every app has: the maps, and what gathers results for many."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from futurebroker.celery.signature import maybe_signature

#: tasks that call another, which they are told how to find
CALLERS = ("celery.map", "celery.starmap")


def _task(app: Any, sig: Any, call: Any) -> Any:
    """The task that is called for each item; a process that runs this needn't have heard of it yet."""
    return call.find() if call is not None else maybe_signature(sig, app=app).type


def _map(app: Any, name: str) -> Any:
    def xmap(task: Any, it: list[Any], call: Any = None) -> list[Any]:
        run = _task(app, task, call)
        return [run(item) for item in it]

    return app._task_from_fun(xmap, name=name)


def _starmap(app: Any, name: str) -> Any:
    def xstarmap(task: Any, it: list[Any], call: Any = None) -> list[Any]:
        run = _task(app, task, call)
        return [run(*item) for item in it]

    return app._task_from_fun(xstarmap, name=name)


def _accumulate(app: Any, name: str) -> Any:
    def accumulate(results: list[Any]) -> list[Any]:
        return results

    return app._task_from_fun(accumulate, name=name, acks_late=True)


def _ping(app: Any, name: str) -> Any:
    def ping() -> str:
        return "pong"

    return app._task_from_fun(ping, name=name)


#: name -> what adds the task to an app
BUILTINS: dict[str, Callable[[Any, str], Any]] = {
    "celery.map": _map,
    "celery.starmap": _starmap,
    "celery.accumulate": _accumulate,
    "celery.ping": _ping,
}
