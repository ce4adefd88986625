"""Exceptions on their way from a task to its client: as their raiser would know them, or as text."""

from __future__ import annotations

import functools
import pickle
import subprocess
import sys
import threading
import traceback
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import numpy as np
import pytest

from futurebroker import exceptions
from futurebroker.exceptions import CancelledError, ExecutorDiedError, RemoteError
from futurebroker.protocol.messages import Failure
from futurebroker.protocol.serialize import LEVELS_MOST, PAYLOAD_LIMIT, TRACEBACK_LIMIT, dump_failure, load_failure


def travel(error: BaseException) -> BaseException:
    """An exception as a client gets it, through the bytes of a message."""
    failure = dump_failure(error, "inc-1", "w1")
    packed = msgspec.msgpack.encode(failure)
    return load_failure(msgspec.msgpack.decode(packed, type=Failure))


def caught(call: Any) -> BaseException:
    """What a call raises."""
    try:
        call()
    except BaseException as error:  # noqa: BLE001 - whatever it is
        return error
    raise AssertionError("it did not raise")


def fail_deep() -> NoReturn:
    """Raise from a line that a traceback should show."""
    raise ZeroDivisionError("this very line")


class OddInitError(Exception):
    """Takes other arguments than it hands on, as most of users' exceptions do."""

    def __init__(self, code: int, *, hint: str) -> None:
        super().__init__(f"failed with {code}: {hint}")
        self.code = code


class ManglingError(Exception):
    """Would be opened, but as something else: its text grows each time it is made."""

    def __init__(self, text: str) -> None:
        super().__init__(f"failed: {text}")


class OddReduceError(Exception):
    """Says how to be pickled, wrongly."""

    def __reduce__(self) -> Any:
        return int, ("no number",)


class BecomesAnotherError(Exception):
    """Says how to be pickled, as another type."""

    def __reduce__(self) -> Any:
        return ValueError, ("x",)


class HoldsLockError(Exception):
    """Can't be pickled at all."""

    def __init__(self) -> None:
        super().__init__("held")
        self.lock = threading.Lock()


class BrokenTextError(Exception):
    """Can't be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_a_traceback_through_a_thousand_calls_arrives_without_its_middle() -> None:
    """Whole it would be too large, and the user's own exception would be lost for a text."""

    def fall(depth: int) -> None:
        if not depth:
            raise KeyError("the bottom")
        fall(depth - 1)

    with pytest.raises(KeyError) as caught:
        fall(500)
    error = load_failure(dump_failure(caught.value, "key", "worker"))
    assert (type(error), error.args) == (KeyError, ("the bottom",))
    lines = traceback.extract_tb(error.__traceback__)
    assert len(lines) == LEVELS_MOST
    assert (lines[0].name, lines[-1].line) == (
        "test_a_traceback_through_a_thousand_calls_arrives_without_its_middle",
        'raise KeyError("the bottom")',
    )


def test_the_users_line_is_in_the_traceback_at_the_client() -> None:
    """That line is what the user looks for."""
    error = travel(caught(fail_deep))
    shown = "".join(traceback.format_exception(error))
    assert isinstance(error, ZeroDivisionError)
    assert 'raise ZeroDivisionError("this very line")' in shown
    assert "in fail_deep" in shown


def test_frames_that_are_not_the_users_can_be_left_out() -> None:
    """A traceback begins with the user's own line, not with ours."""
    failure = dump_failure(caught(fail_deep), "k", "w", skip=1)
    assert "in caught" not in failure.traceback
    assert "in fail_deep" in failure.traceback


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a", 1),
        KeyError("k"),
        FileNotFoundError(2, "gone", "/x"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        SystemExit(3),
        KeyboardInterrupt(),
        StopIteration(5),
        ImportError("no", name="numpy"),
        OddInitError(3, hint="try"),
        ManglingError("once"),
        np.linalg.LinAlgError("singular"),
        exceptions.NoSchedulerError("amqp://x", 3.0),
    ],
)
def test_exceptions_come_back_as_themselves(error: BaseException) -> None:
    """``except MyError as error: error.code`` works as if the function had run here."""
    copy = travel(error)
    assert type(copy) is type(error)
    assert (str(copy), copy.args, vars(copy)) == (str(error), error.args, vars(error))


@pytest.mark.parametrize("error", [OddReduceError("t"), BecomesAnotherError("t"), HoldsLockError()])
def test_an_exception_that_cannot_travel_arrives_as_text(error: Exception) -> None:
    """Never as another exception, and never not at all."""
    copy = travel(caught(functools.partial(_throw, error)))
    assert isinstance(copy, RemoteError)
    assert type(error).__name__ in str(copy)
    assert "in _throw" in str(copy)


def test_an_exception_without_a_text_is_still_a_failure() -> None:
    """A broken ``__str__`` must hide neither that the task failed nor where."""
    failure = dump_failure(caught(functools.partial(_throw, BrokenTextError("t"))), "k", "w")
    assert "can't be made" in failure.message
    assert "in _throw" in failure.traceback
    assert type(load_failure(failure)) is BrokenTextError


def _throw(error: BaseException) -> NoReturn:
    raise error


def test_causes_and_contexts_come_along() -> None:
    """Often the cause is the explanation, and of users' exceptions Python's own pickling drops it."""

    def wrap() -> None:
        try:
            try:
                fail_deep()
            except ZeroDivisionError:
                _throw(KeyError("missing"))
        except KeyError as error:
            raise OddInitError(1, hint="wrapped") from error

    error = travel(caught(wrap))
    assert isinstance(error.__cause__, KeyError)
    assert isinstance(error.__cause__.__context__, ZeroDivisionError)
    assert "this very line" in "".join(traceback.format_exception(error))


def test_a_suppressed_context_stays_suppressed() -> None:
    """``raise ... from None`` was meant."""

    def wrap() -> None:
        try:
            fail_deep()
        except ZeroDivisionError:
            raise ValueError("instead") from None

    assert "this very line" not in "".join(traceback.format_exception(travel(caught(wrap))))


def test_groups_notes_and_arrays_come_along() -> None:
    """What Python lets an exception hold, it holds when it arrives."""
    error = ExceptionGroup("both", [OddInitError(1, hint="a"), ValueError(np.arange(100_000))])
    error.add_note("look here")
    copy = travel(error)
    assert isinstance(copy, ExceptionGroup)
    assert [type(one) for one in copy.exceptions] == [OddInitError, ValueError]
    assert copy.__notes__ == ["look here"]


def test_a_ring_of_contexts_arrives_as_text() -> None:
    """Python prevents most of them; one that a user made must not hang a worker."""
    error, other = ValueError("a"), TypeError("b")
    error.__context__, other.__context__ = other, error
    assert "ValueError: a" in str(travel(error))


def test_huge_exceptions_are_bounded() -> None:
    """Each dependent's failure carries the same exception; a gigabyte would be sent to everybody."""
    failure = dump_failure(caught(functools.partial(_throw, ValueError("x" * 10_000_000))), "k", "w")
    assert failure.payload is None
    assert len(failure.message) <= TRACEBACK_LIMIT
    assert len(failure.traceback) <= TRACEBACK_LIMIT + 20
    assert "in _throw" in failure.traceback
    small = dump_failure(ValueError("x" * 100_000), "k", "w")
    assert small.payload is not None
    assert len(small.payload) < PAYLOAD_LIMIT


def test_deep_recursion_is_shown_at_both_ends() -> None:
    """The first and the last lines tell what called what."""

    def dive(depth: int) -> None:
        dive(depth + 1)

    failure = dump_failure(caught(functools.partial(dive, 0)), "k", "w")
    assert failure.type == "RecursionError"
    assert len(failure.traceback) <= TRACEBACK_LIMIT + 20


def test_an_exception_that_cannot_be_opened_here_says_why() -> None:
    """Its module may be missing at the client."""
    payload = pickle.dumps(ValueError("x")).replace(b"builtins", b"nosuchmo")
    error = load_failure(Failure("MyError", "text", "Traceback of there", "k", "w", payload))
    assert isinstance(error, RemoteError)
    assert "No module named 'nosuchmo'" in str(error)
    assert "Traceback of there" in str(error)


def test_the_schedulers_own_failures_are_made_from_fields() -> None:
    """The scheduler never pickles; its failures name a type of ours and its arguments."""
    failure = Failure("ExecutorDiedError", "", "", "k", "w", None, ["k", "w", "SIGKILL", 3])
    error = load_failure(failure)
    assert isinstance(error, ExecutorDiedError)
    assert (error.how, error.deaths) == ("SIGKILL", 3)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("_FutureCancelledError", ["x"]),
        ("annotations", []),
        ("__builtins__", ["x"]),
        ("SystemExit", [3]),
        ("_scheduler_arguments", ["x"]),
        ("ExecutorDiedError", []),
    ],
)
def test_only_our_own_exceptions_are_made_from_fields(kind: str, fields: list[Any]) -> None:
    """A name in a message chooses among our exceptions and nothing else in that module or outside."""
    error = load_failure(Failure(kind, "text", "", "k", "w", None, fields))
    assert type(error) is RemoteError
    assert "text" in str(error)


def test_cancellation_is_ours_and_that_of_concurrent_futures() -> None:
    """Code written for concurrent.futures catches it."""
    assert isinstance(load_failure(Failure("CancelledError", "", "", "k", "", None, ["gone"])), CancelledError)


def test_importing_us_leaves_the_programs_own_pickling_alone() -> None:
    """Changing how every exception of a program is pickled is not ours to do."""
    program = (
        "import copyreg, futurebroker.protocol.serialize\n"
        "assert not [kind for kind in copyreg.dispatch_table if issubclass(kind, BaseException)]\n"
    )
    environment = {"PYTHONPATH": str(Path(exceptions.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
