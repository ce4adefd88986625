"""What ties an executor's process to its agent: its first orders, its breadcrumbs, and an end with the agent's."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import signal
import socket
from types import FrameType

from futurebroker.worker.packets import Setup, take_controls

_PR_SET_PDEATHSIG = 1


def map_crumbs(path: str, size: int) -> mmap.mmap:
    """The page in which an executor notes what it runs, which its agent reads when it has died."""
    number = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        return mmap.mmap(number, size)
    finally:
        os.close(number)


def die_with_parent() -> None:
    """Code that holds the interpreter lock can't notice a closed socket; the kernel's signal reaches it anyhow."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def ignore(_number: int, _frame: FrameType | None) -> None:
    """Ending the executors is the agent's business; unlike SIG_IGN, this isn't inherited by what a task starts."""


def read_setup(control: socket.socket) -> Setup:
    """The first record on the control socket.

    Raises:
        EOFError: the agent is gone already.
    """
    buffer = bytearray()
    while True:
        data = control.recv(4096)
        if not data:
            raise EOFError
        buffer += data
        for record in take_controls(buffer):
            if isinstance(record, Setup):
                return record
