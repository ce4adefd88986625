"""What executors noted of tasks, for who looks at one: what it printed, and its arguments and result in words.

The newest are kept here up to a bound, and all go on to the history, where there is one. Nothing else depends on them.
"""

from __future__ import annotations

from collections import OrderedDict

import msgspec

from futurebroker.types import Key

#: characters of notes that are kept, and what each counts for beside its text
KEPT = 4_000_000
OVERHEAD = 500
#: characters that each part of a note may have; an executor sends less
MOST = 20_000


class Note(msgspec.Struct, array_like=True, gc=False):
    """Of one run of a task, as its executor tells it."""

    key: Key
    at: float  #: seconds since 1970, by the worker's clock: when something was first noted
    arguments: str
    result: str
    output: str
    worker: str = ""  #: its name; said here, not by the executor


class Notes:
    """The newest notes by the keys of their tasks."""

    __slots__ = ("_kept", "_size")

    def __init__(self) -> None:
        self._kept: OrderedDict[Key, Note] = OrderedDict()
        self._size = 0

    def add(self, note: Note) -> None:
        """Keep a task's note in place of its last one."""
        before = self._kept.pop(note.key, None)
        if before is not None:
            self._size -= _size(before)
        self._kept[note.key] = note
        self._size += _size(note)
        while self._size > KEPT:
            _, oldest = self._kept.popitem(last=False)
            self._size -= _size(oldest)

    def get(self, key: Key) -> Note | None:
        """The last note of a task, if it is still kept."""
        return self._kept.get(key)


def read(about: object) -> tuple[list[Note], int]:
    """What an executor tells: notes, and how many it left out.

    Raises:
        msgspec.ValidationError: it tells something else.
    """
    notes, left_out = msgspec.convert(about, tuple[list[Note], int])
    for note in notes:
        note.arguments, note.result, note.output = note.arguments[:MOST], note.result[:MOST], note.output[:MOST]
    return notes, left_out


def _size(note: Note) -> int:
    return OVERHEAD + len(note.key) + len(note.arguments) + len(note.result) + len(note.output)
