"""Carries out what the machine says about files, and answers it; only a copy between file systems takes a thread."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable

from futurebroker.data.valuefiles import ValueFiles
from futurebroker.protocol.messages import DataPart, Message
from futurebroker.worker.commands import (
    Event,
    KeepFunction,
    Probe,
    Probed,
    SendPart,
    TakeFile,
    Taken,
    Unlink,
    WriteFailed,
    WritePart,
)
from futurebroker.worker.packets import FUNCTIONS


class FileWork:
    """See the top of this file. Used from the loop's thread only.

    Args:
        answer: takes an event for the machine.
        send: takes a message for the scheduler.
    """

    def __init__(
        self,
        files: ValueFiles,
        answer: Callable[[Event], None],
        send: Callable[[Message], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._files = files
        self._answer = answer
        self._send = send
        self._loop = loop
        self._copies: dict[str, threading.Thread] = {}
        self._closed = threading.Event()

    def keep_function(self, instruction: KeepFunction) -> None:
        """Write a function to where executors look for it."""
        self._files.write_function(FUNCTIONS, instruction.digest, instruction.code)

    def probe(self, instruction: Probe) -> None:
        """Try whether a file can be opened here."""
        self._answer(Probed(instruction.key, instruction.path, self._files.can_open(instruction.path)))

    def take(self, instruction: TakeFile) -> None:
        """Make a file ours: at once by its name, or by a copy, which may take minutes."""
        try:
            by_name = self._files.take(instruction.path, instruction.target, instruction.move)
        except OSError as error:
            self._answer(Taken(instruction.key, instruction.target, str(error)))
            return
        if by_name:
            self._answer(Taken(instruction.key, instruction.target, ""))
            return
        copy = threading.Thread(target=self._copy, args=(instruction,), name="copy", daemon=True)
        self._copies[instruction.target] = copy
        copy.start()

    def _copy(self, instruction: TakeFile) -> None:
        reason = ""
        try:
            self._files.copy(instruction.path, instruction.target, instruction.move, self._closed.is_set)
        except OSError as error:
            reason = str(error)
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._copied, instruction, reason)

    def _copied(self, instruction: TakeFile, reason: str) -> None:
        self._copies.pop(instruction.target).join()
        if not self._closed.is_set():
            self._answer(Taken(instruction.key, instruction.target, reason))

    def write_part(self, instruction: WritePart) -> None:
        """Write bytes of a value's file."""
        try:
            self._files.write_part(instruction.path, instruction.offset, instruction.data, instruction.nbytes)
        except OSError as error:
            self._answer(WriteFailed(instruction.path, str(error)))

    def send_part(self, instruction: SendPart) -> None:
        """Answer who asked for bytes of a file of ours."""
        nbytes = instruction.nbytes
        try:
            data = self._files.read_part(instruction.path, instruction.offset, instruction.length)
        except OSError:
            data, nbytes = b"", -1
        part = DataPart(instruction.transfer, instruction.key, instruction.offset, nbytes, data, instruction.asker)
        self._send(part)

    def unlink(self, instruction: Unlink) -> None:
        """Delete a file of ours."""
        self._files.unlink(instruction.path)

    def close(self) -> None:
        """Give up what is being copied."""
        self._closed.set()
        for copy in self._copies.values():
            copy.join()
