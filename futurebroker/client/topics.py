"""What clients of a cluster tell each other: data under keys that stays, and events under topics as they come."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import msgspec

from futurebroker.client.connection import Connection
from futurebroker.client.core import ClientCore
from futurebroker.exceptions import SchedulerRestartedError, SerializationError

_ABSENT: Any = object()
#: what takes an event, which is (wall time, what was logged)
Handler = Callable[[tuple[float, Any]], Any]


class Topics(ClientCore):
    """Methods return their answers, or awaitables with an asynchronous client."""

    # -- metadata ----------------------------------------------------------------------------------------------------

    def set_metadata(self, key: Any, value: Any) -> Any:
        """Keep small plain data at the scheduler under a key, for all clients and tasks.

        A list of keys leads into nested dicts, which are made as needed: ``set_metadata(["a", "b"], 1)``. Keys are
        texts and whole numbers. With a journal it survives restarts of the scheduler; a value may have 256 KiB, all
        together 4 MiB. Unlike in dask.distributed it stays when a task of that key goes, until `delete_metadata`.

        Raises:
            SerializationError: it isn't plain data (None, booleans, numbers, text, bytes, lists and dicts of them).
            FuturebrokerError: it is too large, or a key can't be one.
        """
        try:
            msgspec.msgpack.encode(value)
        except (TypeError, OverflowError, RecursionError) as error:
            raise SerializationError("metadata", f"plain data is needed: {error}") from None
        return self._enter(lambda blocking: self._asked("set_metadata", {"keys": _path(key), "value": value}, blocking))

    def get_metadata(self, keys: Any, default: Any = _ABSENT) -> Any:
        """What `set_metadata` has put under a key, or list of keys.

        Raises:
            KeyError: there is nothing, and no ``default``.
        """

        async def work(blocking: bool) -> Any:
            found = await self._asked("get_metadata", _path(keys), blocking)
            if found:
                return found[0]
            if default is _ABSENT:
                raise KeyError(keys)
            return default

        return self._enter(work)

    def delete_metadata(self, keys: Any) -> Any:
        """Forget what is under a key, or list of keys, with all below it; whether there was something."""
        return self._enter(lambda blocking: self._asked("delete_metadata", _path(keys), blocking))

    async def _asked(self, topic: str, about: Any, blocking: bool) -> Any:
        """The answer to what may be asked twice: again, if the scheduler was restarted in the meantime."""
        connection: Connection = self._connection
        while True:
            try:
                return await connection.ask(topic, about, blocking)
            except SchedulerRestartedError:
                continue

    # -- topics ------------------------------------------------------------------------------------------------------

    def subscribe_topic(self, topic: str, handler: Handler) -> Any:
        """Have ``handler((wall time, event))`` called for all that is logged under ``topic`` from now on.

        It is called in the client's thread for callbacks, one event after another; with an asynchronous client on its
        event loop. It may be a coroutine function. A handler that was set for the topic before is replaced. See
        `Client.log_event`; `Client.get_events` has what was logged before. Events that come while the scheduler is away
        are lost.

        Raises:
            TypeError: ``handler`` can't be called.
            FuturebrokerError: there are 100 topics already, or this can't be one.
        """
        if not callable(handler):
            raise TypeError(f"a handler is a function, got {type(handler).__name__}")
        connection = self._connection
        taken = self._on_loop(handler) if self.asynchronous else self._on_thread(handler)

        async def work(blocking: bool) -> None:
            before = connection.topics.get(topic)
            connection.topics[topic] = taken
            try:
                await self._asked("subscribe_topic", topic, blocking)
            except BaseException:
                if before is None:
                    connection.topics.pop(topic, None)
                else:
                    connection.topics[topic] = before
                raise

        return self._enter(work)

    def unsubscribe_topic(self, topic: str) -> Any:
        """Undo `subscribe_topic`.

        Raises:
            ValueError: this client has not subscribed to it.
        """
        if self._connection.topics.pop(topic, None) is None:
            raise ValueError(f"this client has not subscribed to {topic!r}")
        return self._enter(lambda blocking: self._asked("unsubscribe_topic", topic, blocking))

    def _on_thread(self, handler: Handler) -> Callable[[tuple[float, Any]], None]:
        callbacks = self._connection.callbacks
        callbacks.start()

        def call(event: tuple[float, Any]) -> None:
            result = handler(event)
            if inspect.iscoroutine(result):
                asyncio.run(result)

        return lambda event: callbacks.put(partial(call, event))

    def _on_loop(self, handler: Handler) -> Callable[[tuple[float, Any]], None]:
        loop = asyncio.get_running_loop()
        running: set[asyncio.Task[Any]] = set()

        def call(event: tuple[float, Any]) -> None:
            result: Coroutine[Any, Any, Any] | Any = handler(event)
            if inspect.iscoroutine(result):
                task = loop.create_task(result)
                running.add(task)
                task.add_done_callback(running.discard)

        def taken(event: tuple[float, Any]) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(call, event)

        return taken


def _path(keys: Any) -> list[Any]:
    return list(keys) if isinstance(keys, (list, tuple)) else [keys]
