"""Objects to bytes and back: values, functions, arguments, exceptions.

A value without large buffers is one plain pickle. One with pickle 5 out-of-band buffers is a small header followed by
the pickle and each buffer, aligned, so that a mapped file can be opened in place. Only executors and clients open what
they get; the scheduler and the agents pass the bytes on.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import struct
import traceback
from collections.abc import Callable, Iterable
from functools import partial
from types import BuiltinFunctionType, FunctionType, TracebackType
from typing import Any
from weakref import WeakKeyDictionary

import cloudpickle
from tblib import pickling_support

from futurebroker import exceptions
from futurebroker.exceptions import RemoteError, SerializationError
from futurebroker.protocol.messages import Failure
from futurebroker.types import Digest

MAGIC = b"FBV1"
ALIGNMENT = 4096
#: characters of a traceback's text that travel; the middle is cut out
TRACEBACK_LIMIT = 10_000
#: bytes of a pickled exception that travel; of a larger one only the text does
PAYLOAD_LIMIT = 1024 * 1024
#: levels of a traceback that travel, half of them outermost, half innermost
LEVELS_MOST = 60

_COUNT = struct.Struct("<4sI")
_LENGTH = struct.Struct("<Q")

Buffer = bytes | bytearray | memoryview


# -- values --------------------------------------------------------------------------------------------------------


def dump_frames(value: Any, what: str = "the value") -> list[Buffer]:
    """``value`` as its pickle followed by its out-of-band buffers.

    Plain pickle first, cloudpickle where that fails or would refer to ``__main__``, which is another module elsewhere.

    Raises:
        SerializationError: it can't be pickled; the message names ``what``.
    """
    buffers: list[pickle.PickleBuffer] = []
    try:
        head = pickle.dumps(value, 5, buffer_callback=buffers.append)
        plain = b"__main__" not in head
    except Exception:  # noqa: BLE001 - whatever pickle can't do, cloudpickle gets to try
        plain = False
    try:
        if not plain:
            buffers.clear()
            head = cloudpickle.dumps(value, 5, buffer_callback=buffers.append)
        return [head, *(buffer.raw() for buffer in buffers)]
    except Exception as error:
        raise SerializationError(what, f"{type(error).__name__}: {_text_of(error)}") from error


def dumps(value: Any, what: str = "the value") -> bytes:
    """``value`` as one run of bytes; see `dump_frames`."""
    frames = dump_frames(value, what)
    return bytes(frames[0]) if len(frames) == 1 else b"".join(layout(frames))


def frames_size(frames: list[Buffer]) -> int:
    """Bytes that `layout` makes of ``frames``."""
    if len(frames) == 1:
        return len(frames[0])
    start = _COUNT.size + _LENGTH.size * len(frames) + len(frames[0])
    for frame in frames[1:]:
        start += -start % _alignment(frame) + len(frame)
    return start


def layout(frames: list[Buffer]) -> Iterable[Buffer]:
    """The pieces, padding included, that stand one after another in a file or a message."""
    if len(frames) == 1:
        yield frames[0]
        return
    yield _COUNT.pack(MAGIC, len(frames))
    yield b"".join(_LENGTH.pack(len(frame)) for frame in frames)
    yield frames[0]
    position = _COUNT.size + _LENGTH.size * len(frames) + len(frames[0])
    for frame in frames[1:]:
        padding = -position % _alignment(frame)
        yield bytes(padding)
        yield frame
        position += padding + len(frame)


def loads(data: Buffer) -> Any:
    """The object behind bytes made by `dumps`, or behind a mapped file of the same layout.

    Buffers are slices of ``data``: writable if it is, so give a bytearray or a private map to get writable arrays.
    """
    if bytes(data[:4]) != MAGIC:
        return pickle.loads(data)
    view = memoryview(data)
    _, count = _COUNT.unpack_from(view)
    lengths = [_LENGTH.unpack_from(view, _COUNT.size + _LENGTH.size * i)[0] for i in range(count)]
    position = _COUNT.size + _LENGTH.size * count
    frames = [view[position : position + lengths[0]]]
    position += lengths[0]
    for length in lengths[1:]:
        position += -position % (ALIGNMENT if length >= ALIGNMENT else 64)
        frames.append(view[position : position + length])
        position += length
    if position > len(view):
        raise SerializationError("a stored value", f"{len(view):,} of its {position:,} bytes are left")
    return pickle.loads(frames[0], buffers=frames[1:])


def loads_writable(data: bytes) -> Any:
    """As `loads`, from a copy when there are buffers, so that arrays can be written to."""
    return loads(bytearray(data)) if data[:4] == MAGIC else pickle.loads(data)


def _alignment(frame: Buffer) -> int:
    return ALIGNMENT if len(frame) >= ALIGNMENT else 64


# -- functions -----------------------------------------------------------------------------------------------------

_functions: WeakKeyDictionary[Any, tuple[Digest, bytes]] = WeakKeyDictionary()


def dump_function(function: Callable[..., Any]) -> tuple[Digest, bytes]:
    """A function's digest and pickle.

    Remembered for plain functions, whose code doesn't change; any other callable is pickled each time, because its
    state may have changed.

    Raises:
        SerializationError: it, or something it closes over, can't be pickled.
    """
    plain = type(function) in (FunctionType, BuiltinFunctionType, type)
    if plain:
        known = _functions.get(function)
        if known is not None:
            return known
    code = dumps(function, f"the function {name_of(function)}")
    pair = hashlib.sha256(code).digest()[:16], code
    if plain:
        _functions[function] = pair
    return pair


def name_of(function: Callable[..., Any]) -> str:
    """What keys of calls to ``function`` start with: its own name, through partials and methods."""
    inner = function
    while isinstance(inner, partial):
        inner = inner.func
    name = getattr(inner, "__name__", None) or type(inner).__name__
    return "lambda" if name == "<lambda>" else str(name)


def guilty_part(parts: Iterable[tuple[str, Any]]) -> str:
    """The name of the first of ``parts`` that can't be pickled, for an error message; '' if each can alone."""
    for name, part in parts:
        try:
            dump_frames(part)
        except SerializationError:
            return name
    return ""


# -- exceptions ----------------------------------------------------------------------------------------------------


def dump_failure(error: BaseException, key: str, worker: str, skip: int = 0) -> Failure:
    """An exception as it travels: pickled with its traceback if that can be opened again, and as text in any case.

    Args:
        skip: innermost callers' frames to leave out of the traceback, so that it begins with the user's own line.
    """
    trace = error.__traceback__
    for _ in range(skip):
        if trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
    error.__traceback__ = _shortened(trace)
    text = _traceback_of(error)
    if len(text) > TRACEBACK_LIMIT:
        text = text[: TRACEBACK_LIMIT // 2] + "\n  [...]\n" + text[-TRACEBACK_LIMIT // 2 :]
    message = _text_of(error)
    return Failure(type(error).__qualname__, message, text, key, worker, _dump_exception(error))


def _shortened(trace: TracebackType | None) -> TracebackType | None:
    """The traceback without its middle, if it is very long: an error may come through a thousand tasks."""
    levels = []
    level = trace
    while level is not None:
        levels.append(level)
        level = level.tb_next
    if len(levels) > LEVELS_MOST:
        levels[LEVELS_MOST // 2 - 1].tb_next = levels[-LEVELS_MOST // 2]
    return trace


def load_failure(failure: Failure) -> BaseException:
    """The exception a task raised, with its traceback; a `RemoteError` with the text where it can't be rebuilt."""
    if failure.fields is not None:
        kind = getattr(exceptions, failure.type, None)
        if isinstance(kind, type) and issubclass(kind, exceptions.FuturebrokerError):
            try:
                return kind(*failure.fields)
            except TypeError:  # made by another version, which has other fields
                pass
    if failure.payload is not None:
        try:
            error = loads(failure.payload)
        except Exception as reason:  # noqa: BLE001 - the user's class decides what its opening raises
            why = f"(the exception can't be opened here: {_text_of(reason)})"
            return RemoteError(f"{failure.type}: {failure.message}\n{why}\n{failure.traceback}")
        if isinstance(error, BaseException):
            return error
    return RemoteError(f"{failure.type}: {failure.message}\n{failure.traceback}")


class _FailurePickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles exceptions with their tracebacks, causes and contexts, which Python's own way leaves behind."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, BaseException):
            return _reduce_exception(obj)
        if isinstance(obj, TracebackType):
            return pickling_support.pickle_traceback(obj)
        return super().reducer_override(obj)


def _reduce_exception(error: BaseException) -> tuple[Any, ...]:
    if isinstance(type(error).__init__, FunctionType):
        # Its arguments need not be those of its ``__init__``, so that isn't called again.
        reduced: tuple[Any, ...] = pickling_support.pickle_exception(error)
        return reduced
    how: Any = error.__reduce__()
    function, arguments, *rest = how
    notes = getattr(error, "__notes__", None)
    chain = (error.__cause__, error.__traceback__, error.__context__, error.__suppress_context__, notes)
    return pickling_support.unpickle_exception, (function, arguments, *chain), *rest


def _dump_exception(error: BaseException) -> bytes | None:
    """The pickled exception, opened once to see that the same comes out; None if it doesn't, or if it is huge."""
    file = io.BytesIO()
    try:
        _FailurePickler(file, 5).dump(error)
        payload = file.getvalue()
        if len(payload) > PAYLOAD_LIMIT:
            return None
        opened = loads(payload)
    except Exception:  # noqa: BLE001 - any failure means the text must do
        return None
    same = type(opened).__qualname__ == type(error).__qualname__ and _text_of(opened) == _text_of(error)
    return payload if same else None


def _traceback_of(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error))
    except Exception:  # noqa: BLE001 - as in `_text_of`
        return f"{type(error).__qualname__}: {_text_of(error)}"


def _text_of(error: BaseException) -> str:
    try:
        return str(error)[:TRACEBACK_LIMIT]
    except Exception:  # noqa: BLE001 - a broken __str__ must not hide that the task failed
        return "<its text can't be made>"
