"""What an executor notes of its tasks for who looks later: what they print, and arguments and results in words.

A task that prints nothing and is done soon costs one comparison. Notes leave with the reports of the tasks, one message
for many, and no more of them than an executor is allowed in a second; what is beyond that is counted and left out.
"""

from __future__ import annotations

import re
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping
from time import monotonic, time
from typing import Any, Final

from futurebroker.inside import NO_TASK, current_task
from futurebroker.types import Key
from futurebroker.worker.packets import Result
from futurebroker.worker.words import call_in_words, in_words

#: characters kept of what a task prints: of its beginning, and of its end
HEAD = 4_000
TAIL = 12_000
#: microseconds in user code after which the words for a task are worth making
SLOW: Final = 10_000
NEVER: Final = 1 << 62
#: characters of notes that an executor may send a second, and at once after a pause
PER_SECOND = 256_000
AT_ONCE = 1_000_000
#: characters that a note counts for beside its text
OVERHEAD = 100
#: notes of tasks that have not ended; what a task began may print on when it has, and nobody comes for that
OPEN_MOST = 2_000

#: colours, movements of the cursor, titles of windows
_STEERING = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)")

Tell = Callable[[str, Key, Any], None]


class Note:
    """Of one run of a task; written to by its thread, and read by any."""

    __slots__ = ("arguments", "began", "head", "key", "result", "room", "tail", "tailed", "written")

    def __init__(self, key: Key) -> None:
        self.key = key
        self.began = time()
        self.arguments = ""
        self.result = ""
        self.head: list[str] = []
        self.room = HEAD
        self.tail: deque[str] = deque()
        self.tailed = 0
        self.written = 0

    def add(self, text: str) -> None:
        """The task has printed ``text``."""
        self.written += len(text)
        if self.room:
            taken, text = text[: self.room], text[self.room :]
            self.head.append(taken)
            self.room -= len(taken)
        if text:
            text = text[-TAIL:]
            self.tail.append(text)
            self.tailed += len(text)
            while self.tailed - len(self.tail[0]) >= TAIL:
                self.tailed -= len(self.tail.popleft())

    def output(self) -> str:
        """What is kept of all that was printed so far."""
        tail = "".join(list(self.tail))[-TAIL:]
        head = "".join(list(self.head))
        left_out = self.written - len(head) - len(tail)
        return f"{head}\n… {left_out:,} characters left out …\n{tail}" if left_out > 0 else head + tail


class Notebook:
    """The notes of one executor.

    Args:
        output: whether what tasks print is kept.
        arguments: whether arguments and results are put in words.
    """

    def __init__(self, *, output: bool, arguments: bool) -> None:
        self._keeps_output = output
        #: microseconds after which a task's arguments and result are put in words
        self.after = SLOW if arguments else NEVER
        #: by the number of the task; empty as long as nobody prints and nothing takes long
        self.open: dict[int, Note] = {}
        self._lock = threading.Lock()
        self._allowance = float(AT_ONCE)
        self._counted_at = monotonic()
        self._left_out = 0

    def listen(self) -> None:
        """Note what tasks print from now on, if that is kept; only where standard output is this process's own."""
        if self._keeps_output:
            for name in ("stdout", "stderr"):
                setattr(sys, name, Printed(getattr(sys, name), self, name))

    def printed(self, text: str) -> None:
        """Whatever runs on this thread prints ``text``."""
        _, key, _, number = current_task.get(NO_TASK)
        if number and text:
            self._note(number, key).add(text)

    def ended(self, number: int, key: Key, args: tuple[Any, ...], keywords: Mapping[str, Any]) -> Note | None:
        """A task that failed or took long has ended; None where no words are wanted."""
        if self.after == NEVER:
            return None
        note = self._note(number, key)
        note.arguments = call_in_words(args, keywords)
        return note

    def returned(
        self, number: int, key: Key, args: tuple[Any, ...], keywords: Mapping[str, Any], value: Any, duration: int
    ) -> None:
        """A task has returned ``value``; if it took long, or printed, it is put in words."""
        if duration > self.after or number in self.open:
            note = self.ended(number, key, args, keywords)
            if note is not None:
                note.result = in_words(value)

    def _note(self, number: int, key: Key) -> Note:
        note = self.open.get(number)
        if note is None:
            if len(self.open) >= OPEN_MOST:
                self.open.pop(next(iter(self.open)), None)
            note = self.open[number] = Note(key)
        return note

    def send(self, results: list[Result], tell: Tell) -> None:
        """Tell the scheduler what was noted of the tasks that are reported now; ``tell`` takes topic, key and that."""
        opened = self.open
        notes = [note for result in results if (note := opened.pop(result.number, None)) is not None]
        told = []
        with self._lock:
            now = monotonic()
            self._allowance = min(AT_ONCE, self._allowance + (now - self._counted_at) * PER_SECOND)
            self._counted_at = now
            for note in notes:
                output, arguments, result = map(clean, (note.output(), note.arguments, note.result))
                size = OVERHEAD + len(output) + len(arguments) + len(result)
                if size > self._allowance:
                    self._left_out += 1
                    continue
                self._allowance -= size
                told.append([note.key, note.began, arguments, result, output])
            left_out, self._left_out = (self._left_out, 0) if told else (0, self._left_out)
        if told:
            tell("notes", "", [told, left_out])

    def so_far(self, number: int) -> str:
        """What a task that runs has printed."""
        note = self.open.get(number)
        return clean(note.output()) if note is not None else ""


def standard(name: str) -> Any:
    """This process's ``stdout`` or ``stderr``."""
    return getattr(sys, name)


def clean(text: str) -> str:
    """``text`` as it can travel and be read.

    What isn't Unicode, as in names of files that can't be decoded, is replaced. What steers a terminal is left out, and
    of a line that was written over again and again, as progress bars are, the last state stays.
    """
    if "\x1b" in text:
        text = _STEERING.sub("", text)
    if "\r" in text:
        lines = text.replace("\r\n", "\n").split("\n")
        text = "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in lines)
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


class Printed:
    """Standard output or error: what is written goes where it went before, and is noted of the task that writes."""

    def __init__(self, stream: Any, notebook: Notebook, name: str = "stdout") -> None:
        self._stream = stream
        self._notebook = notebook
        self._name = name

    def write(self, text: str) -> int:
        """See `io.TextIOBase.write`."""
        written: int = self._stream.write(text)
        self._notebook.printed(text)
        return written

    def writelines(self, lines: Any) -> None:
        """See `io.IOBase.writelines`."""
        for line in lines:
            self.write(line)

    def __iter__(self) -> Any:
        return iter(self._stream)

    def __reduce__(self) -> tuple[Any, ...]:
        # Where a task's result refers to it, it is there what standard output is there.
        return standard, (self._name,)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
