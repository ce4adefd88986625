"""Finds the adapter that opens a URL, by its scheme; adapters load on first use, so nothing here imports one."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import cast

from futurebroker.exceptions import ConfigError
from futurebroker.transport.base import Link, Opener, Queue

#: URL scheme -> "module:function" of its opener
OPENERS: dict[str, str] = {
    "memory": "futurebroker.transport.memory:open_link",
    "amqp": "futurebroker.broker_adapters.amqp_link:open_link",
    "amqps": "futurebroker.broker_adapters.amqp_link:open_link",
    "redis": "futurebroker.broker_adapters.kombu_link:open_link",
    "rediss": "futurebroker.broker_adapters.kombu_link:open_link",
    # of a client inside a task
    "executor": "futurebroker.worker.tasklink:open_link",
    # kombu+SCHEME:// is any other virtual transport of Kombu's
    "kombu": "futurebroker.broker_adapters.kombu_link:open_link",
}


def open_link(url: str, queues: Sequence[Queue], *, secret: bytes, timeout: float, name: str) -> Link:
    """Open a link to ``url``, with ``queues`` declared and consumed; see `Opener`.

    Raises:
        ConfigError: no adapter serves the URL's scheme.
        ClusterConnectionError: the broker is not there or refused us.
    """
    scheme = url.partition("://")[0]
    try:
        module, _, function = OPENERS["kombu" if scheme.startswith("kombu+") else scheme].partition(":")
    except KeyError:
        known = ", ".join(sorted(OPENERS))
        raise ConfigError(f"no adapter serves {scheme}:// addresses; the known schemes are {known}") from None
    opener = cast(Opener, getattr(import_module(module), function))
    return opener(url, queues, secret=secret, timeout=timeout, name=name)
