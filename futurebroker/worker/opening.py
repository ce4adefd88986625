"""Opens what a task consists of: its function, its arguments, its inputs. Only executors do."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from typing import Any

from futurebroker.data.files import map_value
from futurebroker.data.sealed import DamagedFileError
from futurebroker.exceptions import TaskError
from futurebroker.protocol.refs import open_arguments
from futurebroker.protocol.serialize import loads, loads_writable
from futurebroker.types import Digest
from futurebroker.worker.packets import Task, ValueFile

#: functions an executor keeps open; the one opened first goes first
FUNCTIONS_KEPT = 2000
_EMPTY_TUPLE_ARGS: tuple[tuple[()], dict[str, Any]] = ((), {})
#: what plain pickles begin with; `loads_writable` opens everything else
_PICKLE = pickle.PROTO[0]


class InputGone(Exception):  # noqa: N818 - not an error of the task's
    """The file of input ``index`` isn't there any more."""

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self.index = index


class InputFailed(Exception):  # noqa: N818 - not an error of the task's
    """An earlier task of the packet has no result."""


class Opener:
    """See the top of this file.

    Args:
        read_function: gives the pickled function with a digest.
    """

    def __init__(self, read_function: Callable[[Digest], bytes]) -> None:
        #: those that are open, by digest
        self.functions: dict[Digest, Callable[..., Any]] = {}
        self._read_function = read_function

    def open_arguments(self, task: Task, done: Mapping[int, bytes | ValueFile]) -> Any:
        """The arguments and keywords of a task.

        Args:
            done: the results of its packet so far, by number.

        Raises:
            InputGone, InputFailed: an input can't be had.
        """
        data = task.args
        if task.inputs:
            return open_arguments(loads_writable, data, self._open_inputs(task, done))
        if data:
            return pickle.loads(data) if data[0] == _PICKLE else loads_writable(data)
        return _EMPTY_TUPLE_ARGS

    def open_function(self, digest: Digest) -> Callable[..., Any]:
        """A function that isn't open."""
        functions = self.functions
        code = self._read_function(digest)
        function: Callable[..., Any] = loads(code)
        if len(functions) >= FUNCTIONS_KEPT:
            functions.pop(next(iter(functions)), None)
        functions[digest] = function
        return function

    def _open_inputs(self, task: Task, done: Mapping[int, bytes | ValueFile]) -> list[Any]:
        """Each task gets objects of its own, also of a result made in the same packet: tasks share nothing mutable."""
        opened = []
        for index, source in enumerate(task.inputs):
            if isinstance(source, int):
                made = done.get(source)
                if made is None:
                    raise InputFailed
                source = made
            if isinstance(source, ValueFile):
                try:
                    opened.append(loads(map_value(source.path)))
                except (FileNotFoundError, DamagedFileError):
                    raise InputGone(index) from None
            else:
                opened.append(loads_writable(source))
        return opened


def cannot_open(task: Task, error: BaseException) -> TaskError:
    """The failure of a task that can't be opened, because of ``error``."""
    reason = TaskError(
        f"{task.key} can't be opened in the executor: {type(error).__name__}: {error}; "
        "what its function and arguments import must be installed where the worker runs"
    )
    reason.__cause__ = error
    return reason
