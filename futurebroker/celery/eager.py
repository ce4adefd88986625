"""Canvases that are run here: the same graph, one task after another."""

from __future__ import annotations

from typing import Any

from futurebroker.celery import states
from futurebroker.celery.compiler import GroupHandle, Handle, compile_canvas
from futurebroker.celery.eagerly import EagerResult
from futurebroker.celery.exceptions import ChordError, NotRegistered, chord_error
from futurebroker.celery.signature import Signature
from futurebroker.graph import Ref, TaskSpec


def apply_canvas(
    app: Any, sig: Signature, args: tuple[Any, ...], kwargs: dict[str, Any], options: dict[str, Any]
) -> Any:
    """Run every task of ``sig`` in this process; returns its result."""
    throw = options.pop("throw", None)
    graph, handle = compile_canvas(sig, args, kwargs, options)
    done: dict[str, EagerResult] = {}
    for spec in graph:
        done[spec.key] = _run(app, spec, done, throw)
    return _result(app, handle, done) if handle is not None else None


def _run(app: Any, spec: TaskSpec, done: dict[str, EagerResult], throw: bool | None) -> EagerResult:
    task = app.tasks.get(spec.name)
    if task is None:
        raise NotRegistered(spec.name, [])
    failed = next((done[one.key] for one in spec.references() if not done[one.key].successful()), None)
    if failed is not None:
        error = failed.result
        if spec.joins and not isinstance(error, ChordError):
            error = chord_error(failed.id, error)
        result = EagerResult(spec.key, error, states.FAILURE, failed.traceback, spec.name, app)
    else:
        inputs = tuple(_value(value, done) for value in spec.inputs)
        options = {name: value for name, value in spec.options.items() if name not in ("countdown", "eta", "expires")}
        result = task.apply((*inputs, *spec.args), spec.kwargs, task_id=spec.key, throw=throw, **options)
    if not result.successful() and result.state == states.FAILURE and (failed is None or spec.joins):
        for errback in spec.on_failure:
            made: dict[str, EagerResult] = {}
            for call in errback:
                made[call.key] = _run(app, call, made, throw)
    return result


def _value(value: Any, done: dict[str, EagerResult]) -> Any:
    if isinstance(value, Ref):
        return done[value.key].result
    if isinstance(value, list):
        return [_value(item, done) for item in value]
    return value


def _result(app: Any, handle: Handle, done: dict[str, EagerResult]) -> Any:
    parent = _result(app, handle.parent, done) if handle.parent is not None else None
    if isinstance(handle, GroupHandle):
        return app.GroupResult(handle.id, [_result(app, child, done) for child in handle.children], parent=parent)
    result = done[handle.id]
    result.parent = parent
    return result
