"""What tasks of the simulator compute, and what each key must come to, worked out without any scheduling."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import msgspec

from futurebroker.protocol import messages as m

PRIME = 2**61 - 1
#: functions that are called: one at any time, one only so often
FUNCTION = b"f" * 16
LIMITED = b"l" * 16
ALWAYS = 10**9


class Call(msgspec.Struct, array_like=True, frozen=True):
    """The arguments of a task: what it is to do."""

    key: str
    size: int = 20  #: bytes of its result
    stored: bool = False  #: the result stays in the worker's store
    seconds: float = 0.01
    fails: int = 0  #: runs that raise before one succeeds
    poison: bool = False  #: ends its executor
    waits: bool = False  #: gives up its slot for a while
    once: bool = False  #: it must not be begun again unless it says so
    due: float = 0.0  #: when it may begin
    again: int = 0  #: runs that ask for another before one is done
    delay: float = 0.0  #: seconds until then
    says: bool = False  #: it tells how far it is
    becomes: str = ""  #: the task whose result it goes on to be
    delivers: bool = False  #: it hands on what it became
    moves: str | None = None  #: the queue that its next run is to be in
    version: int = 0  #: which of the calls that were made under one key, one after the other

    @staticmethod
    def of(args: bytes) -> Call:
        """From the bytes of a Run."""
        return _decoder.decode(args)


_decoder = msgspec.msgpack.Decoder(Call)
encode_call = msgspec.msgpack.Encoder().encode


def value_of(key: str, inputs: list[int], version: int = 0) -> int:
    """H(task, inputs) mod p."""
    name = f"{key}#{version}" if version else key
    digest = hashlib.blake2b(f"{name}:{inputs}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % PRIME


def packed(number: int, size: int) -> bytes:
    """A value as bytes."""
    return str(number).encode().ljust(size)


def unpacked(value: bytes) -> int:
    """The value in bytes."""
    return int(value)


@dataclass(frozen=True)
class Node:
    """A task of the graph, or a piece of scattered data (without a call)."""

    key: str
    dependencies: tuple[str, ...]
    call: Call | None
    options: m.TaskOptions
    size: int = 20
    broadcast: bool = False
    function: bytes = FUNCTION
    countdown: float = 0.0  #: seconds from its submission until it may begin; 0: at once
    lifetime: float = 0.0  #: seconds from its submission within which it has to begin; 0: at any time
    becomes: str = ""  #: see `Call`
    errback: str = ""  #: the key of a call that is made if it fails
    joins: bool = False
    parent: str = ""

    @property
    def needs(self) -> tuple[str, ...]:
        """The keys whose results make its own."""
        return (*self.dependencies, self.becomes) if self.becomes else self.dependencies


class Oracle:
    """The answers to a graph."""

    def __init__(self, nodes: dict[str, Node]) -> None:
        self.nodes = nodes
        self.value = cache(self._value)
        self.culprits = cache(self._culprits)
        self.data = cache(self._data)
        self.ancestors = cache(self._ancestors)

    def _value(self, key: str, version: int = 0) -> int:
        node = self.nodes[key]
        if node.becomes:
            return self.value(node.becomes)
        return value_of(key, [self.value(name) for name in node.dependencies], version)

    def _culprits(self, key: str) -> frozenset[str]:
        """The tasks that fail by themselves and so make ``key`` fail."""
        node = self.nodes[key]
        own = {key} if node.call is not None and (node.call.fails == ALWAYS or node.call.poison) else set()
        return frozenset(own.union(*(self.culprits(name) for name in node.needs)))

    def _data(self, key: str) -> frozenset[str]:
        """The scattered data that ``key`` is made from."""
        node = self.nodes[key]
        own = {key} if node.call is None else set()
        return frozenset(own.union(*(self.data(name) for name in node.needs)))

    def _ancestors(self, key: str) -> frozenset[str]:
        """``key`` and all that it is made from."""
        return frozenset({key}.union(*(self.ancestors(name) for name in self.nodes[key].needs)))

    def judge(
        self,
        key: str,
        end: Any,
        data_at_risk: bool,
        permits: Callable[[m.Failure], bool] = lambda failure: False,
        versions: Iterable[int] = (0,),
    ) -> str:
        """What is wrong with the way a future ended; empty when nothing is.

        Args:
            permits: says what else a task may have failed with.
            versions: which calls under this key it may be of.
        """
        culprits = self.culprits(key)
        if isinstance(end, int):
            right = {self.value(key, version) for version in versions}
            return "" if end in right and not culprits else f"{key} came to {end}, not {right}"
        if isinstance(end, m.Failure):
            if end.key in self.ancestors(key) and permits(end):
                return ""
            if end.type == "DataLostError":
                return "" if data_at_risk and end.key in self.data(key) else f"{key} lost its data: {end}"
            if end.key not in culprits:
                return f"{key} failed because of {end.key}, not of {sorted(culprits)}: {end}"
            call = self.nodes[end.key].call
            expected = ("ExecutorDiedError", "WorkerLostError") if call and call.poison else ("ValueError",)
            return "" if end.type in expected else f"{key} failed with {end}"
        return f"{key} has not ended: {end}"
