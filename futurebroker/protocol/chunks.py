"""What runs in a task of many calls; see ``chunksize`` of `Client.map`."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any


def call_many(function: Callable[..., Any], rows: Iterable[tuple[Any, ...]], **kwargs: Any) -> list[Any]:
    """The results of ``function`` for each row of arguments."""
    return [function(*row, **kwargs) for row in rows]


async def await_many(function: Callable[..., Any], rows: Iterable[tuple[Any, ...]], **kwargs: Any) -> list[Any]:
    """As `call_many`, for an ``async def`` function, whose calls run at the same time."""
    return list(await asyncio.gather(*(function(*row, **kwargs) for row in rows)))


def chunked(function: Callable[..., Any]) -> Callable[..., Any]:
    """What makes many calls of ``function`` out of one."""
    return partial(await_many if inspect.iscoroutinefunction(function) else call_many, function)
