"""The child that test_processes.py starts: a service that writes down what happens to it."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

from futurebroker.exceptions import ConfigError
from futurebroker.processes import Service, serve_parent


class Patient:
    """Ends only when it is closed."""

    def __init__(self, diary: str) -> None:
        self.diary = Path(diary)
        self._closed = asyncio.Event()

    async def finished(self) -> None:
        """Wait to be closed."""
        await self._closed.wait()

    async def close(self) -> None:
        """End, and write so."""
        if not self._closed.is_set():
            self._closed.set()
            self.write("closed")

    def write(self, line: str) -> None:
        """Append a line to the diary."""
        with self.diary.open("a") as diary:
            diary.write(f"{line}\n")


async def start(orders: dict[str, Any]) -> tuple[Service, dict[str, Any]]:
    """Begin, or fail in the way that is ordered."""
    match orders.get("fail"):
        case "sentence":
            raise ConfigError("port 1 is taken")
        case "bug":
            raise ZeroDivisionError("a bug")
        case "exit":
            os._exit(3)
        case "never":
            await asyncio.Event().wait()
    seen = " ".join([*sys.orig_argv, *os.environ.values()])
    return Patient(orders["diary"]), {"pid": os.getpid(), "betrayed": orders["secret"] in seen}


async def obey(service: Service, order: dict[str, Any]) -> dict[str, Any] | None:
    """Answer a question after the seconds that it gives; of any other order, write that it came, and end."""
    assert isinstance(service, Patient)
    if "question" in order:
        await asyncio.sleep(order["after"])
        return {"answer": order["question"].upper()}
    service.write("drained")
    return None


def main() -> None:
    """What a `Child` runs."""
    serve_parent(start, obey)
