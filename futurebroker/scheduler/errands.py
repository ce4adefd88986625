"""What the scheduler's process does beside the machine: keeps environments in files, tells its log, runs consoles.

The machine passes messages on by `PassOn`. Environments are kept in a folder of this process's own and go with it; a
client uploads an environment again to a scheduler that was restarted.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from futurebroker import logs
from futurebroker.protocol.messages import (
    Answer,
    Ask,
    Failure,
    Message,
    ParcelPart,
    ParcelWanted,
    RanOnScheduler,
    RunOnScheduler,
    ToPeer,
)
from futurebroker.scheduler import channels, tending
from futurebroker.scheduler.commands import Noticed
from futurebroker.scheduler.state import SchedulerState

logger = logging.getLogger("futurebroker.scheduler")

#: module with an operator's console; the only one here that opens what users sent, and loaded only if that is allowed
CONSOLE = "futurebroker.scheduler.console"

_REFUSED = (
    "the scheduler runs no code of users; start it with --allow-run-on-scheduler, or "
    "LocalCluster(allow_run_on_scheduler=True), to allow it"
)


class Console(Protocol):
    """See `futurebroker.scheduler.console`."""

    def run(self, message: RunOnScheduler) -> RanOnScheduler:
        """Call a function."""

    def open_kernel(self, channel: str, send: Callable[[list[bytes]], None]) -> dict[str, Any]:
        """Start the IPython kernel, if there is none; what its clients must know."""

    def feed(self, channel: str, frames: list[bytes]) -> None:
        """Frames for the kernel."""

    def notice(self, what: str, who: str) -> None:
        """Tell the plugins who joined or is gone."""

    def close(self) -> None:
        """End it."""


class _Parcel:
    """A file that comes in parts, in order."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = path.open("wb+")
        self.size = 0
        self.hash = hashlib.sha256()


class Errands:
    """See the top of this file. Used from the loop's thread only.

    Args:
        state: the machine's, as scheduler plugins and consoles see it.
        send: sends a message to a client or worker.
        secret: of operators; without one, consoles are for brokers on loopback.
        is_local: whether the broker is on loopback.
        allow_run: whether functions of users may be called here.
    """

    def __init__(
        self,
        state: SchedulerState,
        send: Callable[[str, Message], None],
        *,
        secret: bytes | None,
        is_local: bool,
        allow_run: bool,
    ) -> None:
        self._state = state
        self._send = send
        self._parcels: dict[str, _Parcel] = {}
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self.console: Console | None = import_module(CONSOLE).Console(state) if allow_run else None
        state.operations.is_watched = allow_run
        self._gate = channels.Gate(state, send, secret, is_local)

    def take(self, peer: str, message: Message | Noticed) -> None:
        """See to what the machine passed on."""
        if isinstance(message, Noticed):
            if self.console is not None:
                self.console.notice(message.what, message.who)
        elif isinstance(message, ParcelPart):
            self._part(message)
        elif isinstance(message, ParcelWanted):
            self._send(peer, self._read(message))
        elif isinstance(message, RunOnScheduler):
            self._run(peer, message)
        elif isinstance(message, ToPeer):
            self._gate.forward(peer, message, self.console)
        elif isinstance(message, Ask):
            self._ask(peer, message)

    def _ask(self, peer: str, message: Ask) -> None:
        if message.topic == "scheduler_logs":
            self._send(peer, Answer(message.number, logs.recent()))
        elif message.topic == "parcel_done":
            self._send(peer, Answer(message.number, None, self._done(str(message.about))))
        elif message.topic == "open_channel":
            self._gate.open(peer, message, self.console, _REFUSED)

    # -- environments ------------------------------------------------------------------------------------------------

    def _part(self, part: ParcelPart) -> None:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="futurebroker-parcels-")
        if part.offset == 0:
            self._drop(part.digest)
            name = hashlib.sha256(part.digest.encode()).hexdigest()
            self._parcels[part.digest] = _Parcel(Path(self._folder.name) / name)
        parcel = self._parcels.get(part.digest)
        if parcel is None or part.offset != parcel.size:
            return
        try:
            parcel.file.write(part.data)
        except OSError as error:
            logger.error("an environment can't be kept: %s", error)
            self._drop(part.digest)
            return
        parcel.hash.update(part.data)
        parcel.size += len(part.data)

    def _drop(self, digest: str) -> None:
        parcel = self._parcels.pop(digest, None)
        if parcel is not None:
            parcel.file.close()
            parcel.path.unlink(missing_ok=True)

    def _done(self, digest: str) -> str:
        """All was sent; what is wrong with it, if something is."""
        parcel = self._parcels.get(digest)
        if parcel is None:
            return "the scheduler could not keep the environment; its log says why"
        parcel.file.flush()
        if parcel.hash.hexdigest() != digest:
            self._drop(digest)
            return "the environment was changed on the way; upload it again"
        tending.environment_complete(self._state, digest)
        return ""

    def _read(self, wanted: ParcelWanted) -> ParcelPart:
        parcel = self._parcels.get(wanted.digest)
        if parcel is None:
            return ParcelPart(wanted.digest, wanted.offset, -1, b"")
        data = os.pread(parcel.file.fileno(), wanted.length, wanted.offset)
        return ParcelPart(wanted.digest, wanted.offset, parcel.size, data)

    # -- code of users -----------------------------------------------------------------------------------------------

    def _run(self, peer: str, message: RunOnScheduler) -> None:
        if self.console is not None:
            answer = self.console.run(message)
        else:
            failure = Failure("PermissionError", _REFUSED, _REFUSED, "", "", None, None)
            answer = RanOnScheduler(message.number, None, failure)
        if message.wait or self.console is None:
            self._send(peer, answer)

    def close(self) -> None:
        """Remove what was kept."""
        if self.console is not None:
            self.console.close()
        for digest in list(self._parcels):
            self._drop(digest)
        if self._folder is not None:
            self._folder.cleanup()
