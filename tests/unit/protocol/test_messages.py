"""Messages: each comes back as it went, and nothing else that arrives gets further than a ProtocolError."""

from __future__ import annotations

import tracemalloc
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from futurebroker.exceptions import ProtocolError
from futurebroker.protocol import messages as m

DIRECTIONS = {
    "from_client": m.FromClient,
    "from_worker": m.FromWorker,
    "to_worker": m.ToWorker,
    "to_client": m.ToClient,
}
EACH = [(direction, kind) for direction, union in DIRECTIONS.items() for kind in get_args(union)]

_HELD = m.Held("k", 5, [("w1", "/path")], ["host:1"])
_FAILURE = m.Failure("ValueError", "text", "Traceback", "k", "w1", b"payload", ["field", 3])

#: a value other than the default, by the name of the field
SAMPLES: dict[str, Any] = {
    "about": ["k"], "allow_other_workers": True, "args": b"args", "asker": "c1", "got": 7, "at": 1.5, "attempt": 3,
    "broadcast": True, "graph": "g1", "more": -1,
    "calls": [m.PlannedCall(b"f" * 16, "k", b"args")],
    "conditions": [None, m.Conditions(1.5, 2.5, "p", True, b"r", {"who": ["a"]})], "delay": 1.5, "of": "k",
    "retries": 3,
    "request": b"r", "terms": m.RunTerms(1, 2.0, 3.0, True, b"r"),
    "code": b"code", "data": b"data", "dependencies": [("k1", "k2"), ()], "digest": b"d" * 16, "duration": 5,
    "ended": True, "event": {"a": 1}, "hurry": True,
    "epoch": 2, "error": "text", "failure": _FAILURE, "force": True, "forgotten": True, "function": b"f" * 16,
    "held": _HELD, "holder": "w1", "how": "SIGKILL", "inbox": "q", "incarnation": "i", "info": {"a": [1, None]},
    "inputs": (b"value", _HELD), "interval": 10.0, "key": "k", "keys": ["k1", "k2"], "kind": "lost",
    "innocent": True, "last": True, "length": 9, "limits": {"t": 1}, "mark": 3.5, "names": ["file a.py"],
    "metrics": {"cpu": 1.5}, "missing": [("k", "w1")], "name": "inc", "nbytes": 7, "number": 4, "offset": 8,
    "executor": 2, "started": 12,
    "oldest": 5, "resumed": True, "is_new": True, "sought": True, "is_reused": True, "anew": True,
    "parent": "p",
    "answers": [(b"v", None), (None, _FAILURE)], "change": True, "channel": "c", "drop": "old", "keep": "new",
    "environment": m.Parcel("e", "00ff", 9, b"s"), "frames": [b"a", b"b"], "patience": 2.5, "views": [{"a": 1}],
    "outcomes": {"w1": [(b"v", None)]},
    "options": m.TaskOptions(("w1",), True, {"gpu": 1.0}, 2, -1), "order": 6, "path": "/p", "patient": True,
    "process": "boot 1 2 3", "worker": "w1",
    "protocol": 1, "python": "3.11", "reason": "because", "received": 11,
    "results": {"w1": (b"v", None), "w2": (None, _FAILURE)},
    "running": [("k", b"f" * 16)], "text": "t",
    "given": True, "settings": {"heartbeat": 0.5}, "source": _HELD, "status": "paused", "tasks": [("k", 1)],
    "topic": "who_has",
    "transfer": 12, "type": "int", "value": b"value", "values": [("k", b"v")], "wait": False,
    "workers": ("w1", "w2"),
}  # fmt: skip


def full(kind: type[Any]) -> Any:
    """A message with every field set."""
    values = {field: SAMPLES[field] for field in kind.__struct_fields__}
    if kind is m.Submit:
        values["args"] = [b"1", b"2"]
    elif kind is m.Continue:
        values |= {"inputs": ["k1", "k2"], "options": {"queue": "q"}}
    elif kind is m.Inventory:
        values["held"] = [("k", 5, "/p")]
    elif kind in (m.ParcelPart, m.ParcelWanted):
        values["digest"] = "00ff"
    return kind(**values)


@pytest.mark.parametrize(("direction", "kind"), EACH)
def test_each_message_comes_back_as_it_went(direction: str, kind: type[Any]) -> None:
    """Every field of every message survives, alone and in a batch."""
    message = full(kind)
    assert m.decode(direction, m.encode([message])) == [message]
    assert m.decode(direction, memoryview(m.encode([message] * 3))) == [message] * 3


@pytest.mark.parametrize(("direction", "kind"), EACH)
def test_a_message_of_a_newer_version_is_read_as_far_as_it_is_known(direction: str, kind: type[Any]) -> None:
    """Fields are added at the end; an older reader must go on working while a cluster is upgraded."""
    packed = msgspec.msgpack.decode(m.encode([full(kind)]))
    packed[0] += ["a field of the future", {"and": "another"}]
    assert m.decode(direction, msgspec.msgpack.encode(packed)) == [full(kind)]


def test_each_message_has_a_tag_of_its_own() -> None:
    """Two with one tag could not be told apart."""
    kinds = {kind for _, kind in EACH}
    assert len({kind.__struct_config__.tag for kind in kinds}) == len(kinds)
    assert kinds == set(m.Message.__subclasses__())


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x80",
        b"\xc1",
        b"\x91\x90",
        b"\x91\x92\xcc\xc8\x01",
        b"\x91\x92\xcf" + b"\xff" * 8 + b"\x01",
        b"\x91\x92\xd3" + b"\xff" * 8 + b"\x01",
        b"\x91\x92\xa3Run\x01",
        b"\x91\x92\x06\xa2\xff\xfe",
        b"\x91\x93\x08\xc0",
        b"\x90\x90",
    ],
)
def test_what_is_no_list_of_messages_is_a_protocol_error(direction: str, body: bytes) -> None:
    """No tag, an unknown tag, text that is no UTF-8, too little, too much: one error for all."""
    with pytest.raises(ProtocolError, match="list of messages"):
        m.decode(direction, body)


@pytest.mark.parametrize(("direction", "kind"), EACH)
def test_a_message_in_the_wrong_direction_is_a_protocol_error(direction: str, kind: type[Any]) -> None:
    """A client can't speak as the scheduler, whatever it signs."""
    for other, union in DIRECTIONS.items():
        if kind not in get_args(union):
            with pytest.raises(ProtocolError):
                m.decode(other, m.encode([full(kind)]))


ANYTHING_FOLLOWS = [b"", b"\x91\x93\x54\x01", b"\x91\x93\x14\x01\xa1t", b"\x91\x97\x01\xa0\x01\xa0\x00\x00"]


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("start", ANYTHING_FOLLOWS)
@pytest.mark.parametrize(
    "rest",
    [b"\x91" * 1_000_000, b"\x81\xa1a" * 1_000_000, b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff",
     b"\xdb\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xc9\xff\xff\xff\xff\x01"],
)  # fmt: skip
def test_deep_nesting_and_huge_lengths_cost_no_memory(direction: str, start: bytes, rest: bytes) -> None:
    """Five bytes may claim four billion entries; believing them would end the process."""
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError):
            m.decode(direction, start + rest)
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


@given(st.sampled_from(sorted(DIRECTIONS)), st.binary(max_size=200))
def test_random_bytes_are_a_protocol_error(direction: str, body: bytes) -> None:
    """A body is opened only behind a signature, but a peer may have a bug."""
    _decode_or_refuse(direction, body)


@given(st.sampled_from(EACH), st.data())
def test_damaged_messages_are_a_protocol_error_or_messages(each: tuple[str, type[Any]], data: st.DataObject) -> None:
    """Closer to what is right than random bytes, and so further into the parser."""
    direction, kind = each
    body = bytearray(m.encode([full(kind)]))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    _decode_or_refuse(direction, bytes(body))


@given(
    st.sampled_from(EACH),
    st.lists(
        st.recursive(
            st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats() | st.text() | st.binary(),
            lambda inner: (
                st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.integers(0, 9), inner, max_size=4)
            ),
            max_leaves=8,
        ),
        max_size=8,
    ),
)
def test_right_tags_with_wrong_fields_are_a_protocol_error(each: tuple[str, type[Any]], fields: list[Any]) -> None:
    """Any values in place of the fields: refused, or taken as exactly what the record says."""
    direction, kind = each
    _decode_or_refuse(direction, msgspec.msgpack.encode([[kind.__struct_config__.tag, *fields]]))


def _decode_or_refuse(direction: str, body: bytes) -> None:
    try:
        messages = m.decode(direction, body)
    except ProtocolError:
        return
    assert all(type(message) in get_args(DIRECTIONS[direction]) for message in messages)
    packed = m.encode(messages)
    assert m.encode(m.decode(direction, packed)) == packed  # as bytes, because NaN isn't equal to itself
