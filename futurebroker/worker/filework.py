"""Carries out what the machine says about files, and answers it, on threads of its own: a disk may take its time.

One thread does what must stay in order, as writing, reading and deleting pieces; another copies whole values to disk.
Only what takes no longer than a system call in any case happens on the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

from futurebroker.data.sealed import DamagedFileError
from futurebroker.data.valuefiles import MappedError, ValueFiles
from futurebroker.protocol.bulk import Bulk
from futurebroker.protocol.messages import DataPart, Message
from futurebroker.worker.commands import (
    Damaged,
    Event,
    KeepFreed,
    KeepFunction,
    Probe,
    Probed,
    Relink,
    SendPart,
    Spill,
    Spilled,
    TakeFile,
    Taken,
    Unlink,
    WriteFailed,
    WritePart,
    Written,
)
from futurebroker.worker.packets import FUNCTIONS

logger = logging.getLogger("futurebroker.worker")

_Outcome = TypeVar("_Outcome")


class Lane:
    """A thread that does one thing after another, and tells the loop what each came to; started when first used."""

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop) -> None:
        self._name = name
        self._loop = loop
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def do(self, work: Callable[[], _Outcome], then: Callable[[_Outcome], None] | None = None) -> None:
        """Have ``work()`` done, and ``then`` called with what it returned, on the loop; ``work`` must not raise."""

        def run() -> None:
            outcome = work()
            if then is not None:
                with contextlib.suppress(RuntimeError):  # the loop has ended
                    self._loop.call_soon_threadsafe(then, outcome)

        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        self._work.put(run)

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            work()

    def close(self) -> None:
        """Wait for the end of what was begun and of what waits."""
        if self._thread is not None:
            self._work.put(None)
            self._thread.join()
            self._thread = None


class FileWork:
    """See the top of this file. Used from the loop's thread only.

    Args:
        answer: takes an event for the machine.
        send: takes a message for the scheduler.
        bulk: the second connection to the broker.
    """

    def __init__(
        self,
        files: ValueFiles,
        answer: Callable[[Event], None],
        send: Callable[[Message], None],
        loop: asyncio.AbstractEventLoop,
        bulk: Bulk,
    ) -> None:
        self._files = files
        self._bulk = bulk
        self._answer = answer
        self._send = send
        self._lane = Lane("files", loop)
        self._spills = Lane("spill", loop)
        self._copies = Lane("copies", loop)
        self._closed = threading.Event()

    def keep_function(self, instruction: KeepFunction) -> None:
        """Write a function to where executors look for it: at once, because tasks that need it follow."""
        try:
            self._files.write_function(FUNCTIONS, instruction.digest, instruction.code)
        except OSError as error:  # its tasks will say that it isn't there
            logger.error("a function can't be kept for the executors: %s", error)

    def probe(self, instruction: Probe) -> None:
        """Try whether a file can be opened here."""
        self._answer(Probed(instruction.key, instruction.path, self._files.can_open(instruction.path)))

    def take(self, instruction: TakeFile) -> None:
        """Make a file ours: by its name, or by a copy, which may take minutes."""
        self._lane.do(lambda: self._take(instruction), lambda outcome: self._taken(instruction, outcome))

    def _take(self, instruction: TakeFile) -> str | None:
        """Why it can't be had; empty: it is ours; None: by a copy only."""
        try:
            return "" if self._files.take(instruction.path, instruction.target, instruction.move) else None
        except OSError as error:
            return str(error)

    def _taken(self, instruction: TakeFile, outcome: str | None) -> None:
        if outcome is None:
            self._copies.do(lambda: self._copy(instruction), lambda reason: self._taken(instruction, reason))
        else:
            self._tell(Taken(instruction.key, instruction.target, outcome))

    def _copy(self, instruction: TakeFile) -> str:
        try:
            self._files.copy(instruction.path, instruction.target, instruction.move, self._closed.is_set)
        except OSError as error:
            return str(error)
        return ""

    def write_part(self, instruction: WritePart) -> None:
        """Write bytes of a value's file."""
        self._lane.do(lambda: self._write_part(instruction), self._tell)

    def _write_part(self, part: WritePart) -> Event | None:
        try:
            self._files.write_part(part.path, part.offset, part.data, part.nbytes, part.last)
        except OSError as error:
            return WriteFailed(part.path, str(error))
        return Written(part.path) if part.last else None

    def send_part(self, instruction: SendPart) -> None:
        """Answer who asked for bytes of a file of ours."""
        self._lane.do(lambda: self._read_part(instruction), lambda outcome: self._read(instruction, outcome))

    def _read_part(self, asked: SendPart) -> tuple[DataPart, bytes] | OSError:
        """The part, and what is to be sent of it past the scheduler."""
        try:
            data = self._files.read_part(asked.path, asked.offset, asked.length)
        except OSError as error:
            return error
        part = DataPart(asked.transfer, asked.key, asked.offset, asked.nbytes, data, asked.asker, asked.attempt)
        return part, self._bulk.seal(asked.inbox, part) if asked.inbox else b""

    def _read(self, asked: SendPart, outcome: tuple[DataPart, bytes] | OSError) -> None:
        if self._closed.is_set():
            return
        if isinstance(outcome, OSError):
            self._send(DataPart(asked.transfer, asked.key, asked.offset, -1, b"", asked.asker))
            if isinstance(outcome, DamagedFileError):
                self._tell(Damaged(asked.key, asked.path, str(outcome)))
            return
        part, sealed = outcome
        if sealed:
            self._bulk.send(asked.inbox, part, sealed, lambda: self._send(part))
        else:
            self._send(part)

    def spill(self, instruction: Spill) -> None:
        """Copy a value to disk."""
        self._spills.do(lambda: self._spill(instruction), self._tell)

    def _spill(self, spill: Spill) -> Spilled:
        try:
            self._files.spill(spill.path, spill.data, spill.target, self._closed.is_set)
        except MappedError as error:
            return Spilled(spill.key, spill.path, spill.target, str(error), True)
        except OSError as error:
            return Spilled(spill.key, spill.path, spill.target, str(error))
        return Spilled(spill.key, spill.path, spill.target)

    def relink(self, instruction: Relink) -> None:
        """Put a link to the copy on disk in the place of a file in memory."""
        self._lane.do(lambda: self._relink(instruction))

    def _relink(self, instruction: Relink) -> None:
        try:
            self._files.relink(instruction.path, instruction.target)
        except OSError as error:  # the file in memory stays as it is, and is as good
            logger.error("%s can't be replaced by a link to the disk: %s", instruction.path, error)

    def sweep(self, name: str, kept: set[str]) -> None:
        """Delete what an executor that is gone left behind; see `ValueFiles.sweep`."""
        self._lane.do(lambda: self._files.sweep(name, kept))

    def unlink(self, instruction: Unlink) -> None:
        """Delete a file of ours, or keep it for another value."""
        self._lane.do(lambda: self._files.discard(instruction.path))

    def keep_freed(self, instruction: KeepFreed) -> None:
        """Keep no more than so many bytes of freed files."""
        self._lane.do(lambda: self._files.keep_freed(instruction.most))

    def _tell(self, event: Event | None) -> None:
        if event is not None and not self._closed.is_set():
            self._answer(event)

    def close(self) -> None:
        """Give up what is being copied, and wait for the rest."""
        self._closed.set()
        for lane in (self._spills, self._copies, self._lane):
            lane.close()


#: instruction -> what carries it out
PERFORM: dict[type[Any], Callable[[FileWork, Any], None]] = {
    KeepFreed: FileWork.keep_freed,
    KeepFunction: FileWork.keep_function,
    Probe: FileWork.probe,
    TakeFile: FileWork.take,
    WritePart: FileWork.write_part,
    SendPart: FileWork.send_part,
    Unlink: FileWork.unlink,
    Spill: FileWork.spill,
    Relink: FileWork.relink,
}
