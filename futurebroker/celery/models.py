"""Tasks with ``pydantic=True``: arguments become models before the call, and a returned model becomes a dict."""

from __future__ import annotations

import importlib
import inspect
import typing
from collections.abc import Callable
from functools import wraps
from types import UnionType
from typing import Any


def with_models(app: Any, function: Callable[..., Any], options: dict[str, Any]) -> Callable[..., Any]:
    """``function``, validated; ``pydantic_strict``, ``pydantic_context`` and ``pydantic_dump_kwargs`` as in Celery.

    Raises:
        ImportError: pydantic isn't installed.
    """
    base = importlib.import_module("pydantic").BaseModel
    strict = options.get("pydantic_strict", True)
    context = options.get("pydantic_context")
    dump = {"mode": "json", **(options.get("pydantic_dump_kwargs") or {})}
    signature = inspect.signature(function)
    hints = typing.get_type_hints(function)

    def validated(name: str, value: Any) -> Any:
        model = _model(hints.get(name), base)
        if model is None or value is None or isinstance(value, base):
            return value
        return model.model_validate(value, strict=strict if not isinstance(value, dict) else None, context=context)

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        for name, value in list(bound.arguments.items()):
            bound.arguments[name] = validated(name, value)
        value = function(*bound.args, **bound.kwargs)
        return value.model_dump(**dump) if isinstance(value, base) else value

    return run


def _model(hint: Any, base: Any) -> Any:
    """The model that an annotation names, also one of ``Model | None``."""
    if inspect.isclass(hint) and issubclass(hint, base):
        return hint
    if typing.get_origin(hint) in (typing.Union, UnionType):
        models = [one for one in typing.get_args(hint) if inspect.isclass(one) and issubclass(one, base)]
        return models[0] if len(models) == 1 else None
    return None
