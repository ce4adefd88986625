"""A gate that tasks wait at: the test sees who comes, lets each of them through, and notices those that die there."""

from __future__ import annotations

import os
import select
import socket
from types import TracebackType
from typing import Self

from tests.chaos.ledger import write_down

#: seconds until a task that should come or go is missed
PATIENCE = 40.0


def pass_gate(port: int, ledger: str, key: str, size: int = 0) -> tuple[int, bytes]:
    """A task: note in the ledger that it begins, wait at the gate, and give its process and ``size`` bytes."""
    write_down(ledger, key)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(f"{key} {os.getpid()}\n".encode())
        if not connection.recv(1):
            raise ConnectionError("the gate was torn down")
    return os.getpid(), bytes(size)


class Arrival:
    """One execution that waits at the gate."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(PATIENCE)
        self._connection = connection
        line = b""
        while not line.endswith(b"\n"):
            received = connection.recv(100)
            if not received:
                raise ConnectionError("it died before it said who it is")
            line += received
        key, pid = line.decode().split()
        self.key = key
        self.pid = int(pid)

    def release(self) -> None:
        """Let it through."""
        self._connection.sendall(b"!")

    def gone(self) -> bool:
        """Wait until it has gone through, or died."""
        return self._connection.recv(1) == b""

    def close(self) -> None:
        """Who still waits here gets an error."""
        self._connection.close()


class Gate:
    """See the top of this file."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(PATIENCE)
        self._arrivals: list[Arrival] = []
        self.port: int = self._listener.getsockname()[1]

    def arrival(self) -> Arrival:
        """The next execution that comes."""
        connection, _ = self._listener.accept()
        self._arrivals.append(Arrival(connection))
        return self._arrivals[-1]

    def nobody_waits(self) -> bool:
        """Whether no execution has come that the test has not seen."""
        return not select.select([self._listener], [], [], 0)[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for arrival in self._arrivals:
            arrival.close()
        self._listener.close()
