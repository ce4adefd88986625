"""Published datasets: values with futures in them that all clients of a cluster find by name."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Iterable, Iterator, MutableMapping
from typing import Any, Final

from futurebroker.client.core import ClientCore
from futurebroker.client.environment import environment
from futurebroker.client.futures import CANCELLED, Future, opening
from futurebroker.client.replies import introduce
from futurebroker.exceptions import (
    DatasetError,
    DatasetNotStoredError,
    DuplicateDatasetError,
    FuturebrokerError,
    SchedulerRestartedError,
    UnknownDatasetError,
)
from futurebroker.inside import noting_futures
from futurebroker.protocol.messages import INLINE_LIMIT
from futurebroker.protocol.serialize import dump_frames, frames_size, layout, loads_writable
from futurebroker.types import DATASET_NAME

#: futures that one dataset may have
KEYS_LIMIT = 50_000
#: characters of the publisher's user, host and program that are told
TOLD = 200
#: says that no default was given
_NOTHING: Final[Any] = object()


class Datasets(ClientCore):
    """Each method returns its answer, or an awaitable with an asynchronous client."""

    def publish_dataset(
        self,
        *values: Any,
        name: str | None = None,
        override: bool = False,
        persist: str | None = None,
        **named: Any,
    ) -> Any:
        """Give values names by which every client of the cluster finds them: ``publish_dataset(accounts=future)``.

        A value may be a future, anything that holds futures, such as a list, a dict, an object of your own or a
        collection of dask's, or plain data. What is behind the futures is kept until the dataset is unpublished,
        whatever becomes of this client. All given values are published, or none. Stability: beta, see docs/datasets.md.

        Args:
            values: with ``name``, the value; several make a tuple.
            name: the name, where a keyword won't do.
            override: replace what has the name already.
            persist: "database" or "store" writes the results into the scheduler's database, or into its folder, so
                that they outlive all workers. Returns when that is done, so not before the tasks have ended.

        Raises:
            DuplicateDatasetError: a `KeyError`, as in dask: the name is taken.
            DatasetNotStoredError: it is published, and could not be stored.
            SerializationError: a value can't be pickled.
            ValueError: a name isn't made of 1 to 200 letters, digits and ``_ . -``, or arguments don't fit together.
        """
        if name is not None:
            if not values:
                raise ValueError("with name= give the value first: publish_dataset(value, name='accounts')")
            if name in named:
                raise ValueError(f"{name} is given twice")
            named = {name: values[0] if len(values) == 1 else values, **named}
        elif values:
            raise ValueError(
                "a value needs a name: publish_dataset(accounts=value) or publish_dataset(value, name=...)"
            )
        if persist not in (None, "database", "store"):
            raise ValueError(f"persist= takes 'database' or 'store', got {persist!r}")
        for one in named:
            _checked(one)
        return self._enter(lambda blocking: self._publish(named, override, persist or "", blocking))

    def get_dataset(self, name: str, default: Any = _NOTHING) -> Any:
        """What was published as ``name``, with futures of this client's in it. Stability: beta.

        Raises:
            UnknownDatasetError: a `KeyError`, as in dask: there is none, and no ``default`` was given.
        """
        return self._enter(lambda blocking: self._get(name, default, blocking))

    def unpublish_dataset(self, name: str) -> Any:
        """Remove a dataset; results that nobody else holds go with it, also where they were stored.

        Stability: beta.

        Raises:
            UnknownDatasetError: there is none.
        """
        return self._enter(lambda blocking: self._unpublish(name, blocking))

    def list_datasets(self) -> Any:
        """The names of all datasets, sorted, as a tuple. Stability: beta."""
        return self._enter(self._list)

    def dataset_info(self, name: str | None = None) -> Any:
        """What is known of a dataset, as a dict; of all, by name, without ``name``. Stability: beta.

        It has ``type``, ``size`` (bytes, of what is there), ``parts``, ``ready`` and ``failed`` (results behind it),
        ``persist``, ``stored`` and ``trouble``, ``who``, ``client``, ``program`` and ``when`` (seconds since 1970),
        ``graph`` (a digest of the work behind it) and ``environment`` (of the publisher).

        Raises:
            UnknownDatasetError: there is none.
        """
        return self._enter(lambda blocking: self._info(name, blocking))

    @property
    def datasets(self) -> DatasetsMapping:
        """All datasets as a mapping: ``client.datasets["accounts"] = future``. As in dask, none is overwritten.

        Stability: beta.
        """
        return DatasetsMapping(self)

    # -- inside ------------------------------------------------------------------------------------------------------

    async def _question_again(self, topic: str, about: Any, blocking: bool) -> Any:
        """The scheduler's answer, asked again if it was restarted meanwhile."""
        while True:
            try:
                return await self._connection.ask(topic, about, blocking)
            except SchedulerRestartedError:
                continue

    async def _publish(self, named: dict[str, Any], override: bool, persist: str, blocking: bool) -> None:
        place = environment() if blocking else await asyncio.to_thread(environment)
        told = introduce()
        about = {
            "who": f"{told['user']}@{told['host']}"[:TOLD],
            "program": str(told["program"])[:TOLD],
            "when": time.time(),
            "environment": place,
        }
        entries = []
        kept: list[Future[Any]] = []  # until the scheduler keeps them
        for name, value in named.items():
            entry = await self._packed(name, value, kept, blocking)
            entries.append({"name": name, "persist": persist, "about": {"type": _type_of(value), **about}, **entry})
        if not entries:
            return
        question = {"entries": entries, "op": secrets.token_hex(8), "override": override}
        try:
            answer = await self._question_again("dataset_publish", question, blocking)
        except FuturebrokerError as error:
            raise (DatasetError(str(error)) if type(error) is FuturebrokerError else error) from None
        if "duplicate" in answer:
            raise DuplicateDatasetError(answer["duplicate"])
        if answer.get("trouble"):
            raise DatasetNotStoredError(answer["name"], answer["trouble"])

    async def _packed(self, name: str, value: Any, kept: list[Future[Any]], blocking: bool) -> dict[str, Any]:
        """The bytes of a value and the keys in it; a large one is put into the cluster."""
        with noting_futures() as found:
            frames = dump_frames(value, f"the dataset {name}")
        keys = list(dict.fromkeys(found))  # pickling may have begun twice
        if len(keys) > KEYS_LIMIT:
            raise DatasetError(f"{name} has {len(keys):,} futures, and may have {KEYS_LIMIT:,}; publish it in parts")
        states = self._connection.states
        for key in keys:
            state = states.get(key)
            if state is not None and state.status is CANCELLED:
                raise state.error()
        if frames_size(frames) <= INLINE_LIMIT:
            return {"item": b"".join(layout(frames)), "keys": keys}
        future = await self._submitter.data.store("dataset", frames, blocking)
        kept.append(future)
        return {"data": future.key, "keys": keys}

    async def _get(self, name: str, default: Any, blocking: bool) -> Any:
        answer: dict[str, Any] = {"unknown": name}
        if _is_name(name):
            answer = await self._question_again("dataset_get", name, blocking)
        if "unknown" in answer:
            if default is _NOTHING:
                raise UnknownDatasetError(name)
            return default
        if answer["data"]:
            return await Future(self._connection.attach(answer["data"]))._result(blocking, None)
        opening.keeper = self._connection
        try:
            return loads_writable(answer["item"])
        except Exception as error:
            raise DatasetError(
                f"the dataset {name}, a {answer['type']}, can't be opened here: {type(error).__name__}: {error}"
            ) from error
        finally:
            opening.keeper = None

    async def _unpublish(self, name: str, blocking: bool) -> None:
        about = {"name": name, "op": secrets.token_hex(8)}
        if not _is_name(name) or "unknown" in await self._question_again("dataset_unpublish", about, blocking):
            raise UnknownDatasetError(name)

    async def _list(self, blocking: bool) -> tuple[str, ...]:
        return tuple(await self._question_again("dataset_names", None, blocking))

    async def _info(self, name: str | None, blocking: bool) -> Any:
        rows = await self._question_again("datasets", None if name is None else [name], blocking)
        if name is None:
            return {row["name"]: row for row in rows}
        if not rows:
            raise UnknownDatasetError(name)
        return rows[0]


class DatasetsMapping(MutableMapping[str, Any]):
    """`Client.datasets`; with an asynchronous client only ``async for`` works, the rest is what the methods are for."""

    def __init__(self, client: Datasets) -> None:
        self._client = client

    def _sync(self) -> Datasets:
        if self._client.asynchronous:
            raise TypeError("with an asynchronous client: await client.get_dataset(name), and so on")
        return self._client

    def __getitem__(self, name: str) -> Any:
        return self._sync().get_dataset(name)

    def __setitem__(self, name: str, value: Any) -> None:
        self._sync().publish_dataset(value, name=name)

    def __delitem__(self, name: str) -> None:
        self._sync().unpublish_dataset(name)

    def __contains__(self, name: object) -> bool:
        return name in self._sync().list_datasets()

    def __iter__(self) -> Iterator[str]:
        return iter(self._sync().list_datasets())

    def __len__(self) -> int:
        return len(self._sync().list_datasets())

    async def __aiter__(self) -> AsyncIterator[str]:
        names: Iterable[str] = await self._client._list(False)
        for name in names:
            yield name

    def __repr__(self) -> str:
        return f"<datasets of {self._client!r}>"


def _is_name(name: object) -> bool:
    return isinstance(name, str) and DATASET_NAME.fullmatch(name) is not None


def _checked(name: object) -> None:
    if not _is_name(name):
        shown = repr(name)
        shown = shown if len(shown) <= TOLD else f"{shown[:TOLD]}..."
        raise ValueError(f"{shown} is no name for a dataset: 1 to 200 letters (a-z, A-Z), digits, or any of _ . -")


def _type_of(value: Any) -> str:
    """What people are told that a value is."""
    if isinstance(value, Future):
        return f"Future of {value.type}" if value.type else "Future"
    kind = type(value)
    module = "" if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}."
    return f"{module}{kind.__qualname__}"[:TOLD]
