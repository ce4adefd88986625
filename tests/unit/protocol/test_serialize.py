"""Objects to bytes and back: values with their buffers, and functions."""

from __future__ import annotations

import functools
import mmap
import operator
import pickle
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from futurebroker import exceptions
from futurebroker.exceptions import SerializationError
from futurebroker.protocol.serialize import (
    ALIGNMENT,
    dump_frames,
    dump_function,
    dumps,
    frames_size,
    guilty_part,
    layout,
    loads,
    loads_writable,
    name_of,
)

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner) | st.frozensets(st.integers())
    ),
    max_leaves=20,
)


@dataclass
class Reading:
    """A record as users have them."""

    name: str
    values: Any


# -- values --------------------------------------------------------------------------------------------------------


@given(PLAIN)
def test_values_come_back_equal(value: Any) -> None:
    """Whatever pickle can do works, and as one plain pickle."""
    data = dumps(value)
    assert loads(data) == value
    assert pickle.loads(data) == value


@given(st.lists(st.integers(0, 3 * ALIGNMENT), max_size=5), st.sampled_from(["u1", "<i4", ">f8"]))
def test_arrays_come_back_equal_and_aligned(sizes: list[int], kind: str) -> None:
    """A mapped file is opened in place, so large arrays in it must begin where the processor wants them."""
    arrays = [np.arange(size).astype(kind) for size in sizes]
    frames = dump_frames({"deep": [arrays]})
    data = b"".join(layout(frames))
    assert len(data) == frames_size(frames)
    assert data == dumps({"deep": [arrays]})
    base = np.zeros(len(data) + ALIGNMENT, "u1")
    start = -base.ctypes.data % ALIGNMENT
    base[start : start + len(data)] = np.frombuffer(data, "u1")
    for array, copy in zip(arrays, loads(memoryview(base.data)[start : start + len(data)])["deep"][0], strict=True):
        assert copy.dtype == array.dtype
        np.testing.assert_array_equal(copy, array)
        if len(frames) > 1 and copy.nbytes >= ALIGNMENT:
            assert copy.ctypes.data % ALIGNMENT == 0


def test_buffers_inside_of_records_travel_outside_of_the_pickle() -> None:
    """Copying a large array into a pickle and out again would double its memory."""
    big = np.ones(1_000_000)
    frames = dump_frames([Reading("a", big), Reading("b", big)])
    assert [len(frame) for frame in frames[1:]] == [big.nbytes]
    first, second = loads(dumps([Reading("a", big), Reading("b", big)]))
    assert first.values is second.values


def test_read_only_bytes_give_read_only_arrays_and_a_copy_gives_writable_ones() -> None:
    """A task may change its own input, but never the bytes of somebody else's."""
    data = dumps(np.arange(10_000))
    assert not loads(data).flags.writeable
    array = loads_writable(data)
    array[0] = 7
    assert loads(data)[0] == 0
    assert loads_writable(dumps([1])) == [1]


def test_a_mapped_file_is_opened_in_place(tmp_path: Path) -> None:
    """Results on the same host arrive without a copy, writable, and the file stays as it is."""
    path = tmp_path / "value"
    path.write_bytes(dumps(np.arange(10_000)))
    with path.open("rb") as file:
        view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    array = loads(view)
    assert np.shares_memory(array, np.frombuffer(view, "u1"))
    array[:] = -1
    assert loads(path.read_bytes())[5] == 5


def test_a_value_that_was_cut_off_is_refused() -> None:
    """A disk that was full when the file was written must not give a shorter array."""
    data = dumps(np.arange(10_000))
    with pytest.raises(SerializationError, match="bytes are left"):
        loads(data[:-1])


def test_objects_of_main_open_in_another_program(tmp_path: Path) -> None:
    """A script's own classes and functions must work in executors, whose ``__main__`` is another module."""
    script = tmp_path / "script.py"
    script.write_text(
        "from dataclasses import dataclass\n"
        "from futurebroker.protocol.serialize import dumps, dump_function\n"
        "import sys\n"
        "@dataclass\n"
        "class Point:\n"
        "    x: int\n"
        "def move(point, by=1):\n"
        "    return Point(point.x + by)\n"
        "sys.stdout.buffer.write(dumps((dump_function(move)[1], Point(3))))\n"
    )
    done = subprocess.run([sys.executable, str(script)], cwd=Path.cwd(), env=_path(), capture_output=True, check=True)
    code, point = loads(done.stdout)
    assert loads(code)(point, by=4).x == 7


def _path() -> dict[str, str]:
    return {"PYTHONPATH": str(Path(exceptions.__file__).parents[1])}


def test_lambdas_and_local_classes_are_pickled_by_value() -> None:
    """Plain pickle can't do them; users do."""
    factor = 3

    class Local:
        value = 5

    assert loads(dumps(lambda number: number * factor))(4) == 12
    assert loads(dumps(Local())).value == 5


class _Holds:
    """Holds what can't be pickled."""

    def __init__(self) -> None:
        self.lock = threading.Lock()


class _Sliced:
    """Offers a buffer that isn't in one piece."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        return bytearray, (pickle.PickleBuffer(memoryview(bytearray(10))[::2]),)


@pytest.mark.parametrize("value", [_Holds(), [_Holds()], (one for one in "ab"), sys._getframe(), _Sliced()])
def test_what_cannot_be_pickled_is_named(value: Any) -> None:
    """The error comes where the user submitted, and says what it is about."""
    with pytest.raises(SerializationError, match="cannot pickle argument 2 of f"):
        dumps(value, "argument 2 of f")


def test_the_guilty_part_is_found() -> None:
    """Of ten arguments the error names the one."""
    assert guilty_part([("a", 1), ("b", threading.Lock()), ("c", 3)]) == "b"
    assert guilty_part([("a", 1)]) == ""


def test_bottomless_values_are_an_error_and_not_a_crash() -> None:
    """Recursion ends in an error about the argument."""
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(SerializationError, match="[Rr]ecursion"):
        dumps(value)
    while value:  # or its own destruction would go as deep
        value = value.pop()


# -- functions -----------------------------------------------------------------------------------------------------


def test_one_function_has_one_digest_and_is_pickled_once() -> None:
    """The digest is what keeps a function from being sent with each of a million calls."""

    def add(left: int, right: int) -> int:
        return left + right

    digest, code = dump_function(add)
    assert len(digest) == 16
    assert dump_function(add)[1] is code
    assert loads(code)(2, 3) == 5
    assert dump_function(operator.add)[0] != digest


def test_a_callable_with_state_is_pickled_each_time() -> None:
    """Its state may have changed since."""
    counts = functools.partial(max, 1)
    before = dump_function(counts)[0]
    counts.keywords["default"] = 2
    assert dump_function(counts)[0] != before


class _AnswersAnything:
    """Has every attribute, as proxies and mocks do."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self) -> None:
        """Do nothing."""


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (len, "len"),
        (lambda: 0, "lambda"),
        (functools.partial(functools.partial(pow, 2), 3), "pow"),
        ([].append, "append"),
        (Reading, "Reading"),
        (operator.itemgetter(1), "itemgetter"),
        (_AnswersAnything(), "_AnswersAnything"),
    ],
)
def test_keys_are_named_after_the_users_function(function: Any, name: str) -> None:
    """A dashboard of ``partial`` and ``method`` would say nothing."""
    assert name_of(function) == name
