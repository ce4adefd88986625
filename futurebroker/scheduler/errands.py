"""What the scheduler's process does beside the machine: keeps environments in files, tells its log, runs consoles.

The machine passes messages on by `PassOn`. Environments are kept in a folder of this process's own, which goes with it,
or in one that stays; what isn't there any more, workers fetch from workers that have it, through the scheduler.
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
from futurebroker.scheduler import channels, standing, tending
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
    """A file that comes in parts, in order; or has come before."""

    def __init__(self, path: Path, *, is_there: bool = False) -> None:
        self.path = path
        self.file = path.open("rb" if is_there else "wb+")
        self.size = path.stat().st_size if is_there else 0
        self.hash = hashlib.sha256()


class Errands:
    """See the top of this file. Used from the loop's thread only.

    Args:
        state: the machine's, as scheduler plugins and consoles see it.
        send: sends a message to a client or worker.
        secret: of operators; without one, consoles are for brokers on loopback.
        is_local: whether the broker is on loopback.
        allow_run: whether functions of users may be called here.
        end: told when the cluster is shut down, see `ending`.
    """

    def __init__(
        self,
        state: SchedulerState,
        send: Callable[[str, Message], object],
        *,
        secret: bytes | None,
        is_local: bool,
        allow_run: bool,
        end: Callable[[Noticed], None],
    ) -> None:
        self._state = state
        self._send = send
        self._parcels: dict[str, _Parcel] = {}
        self._folder: Path | None = None
        self._passing: tempfile.TemporaryDirectory[str] | None = None
        #: what was asked of workers, by hash and offset: of whom, and for whom
        self._relayed: dict[tuple[str, int], tuple[str, ParcelWanted, list[str]]] = {}
        self._allow_run = allow_run
        self._end = end
        self.console: Console | None = import_module(CONSOLE).Console(state) if allow_run else None
        state.operations.is_watched = state.operations.may_run = allow_run
        self._gate = channels.Gate(state, send, secret, is_local)

    def take(self, peer: str, message: Message | Noticed) -> None:
        """See to what the machine passed on."""
        if isinstance(message, Noticed):
            if message.what in ("shutting_down", "shut_down"):
                self._end(message)
                return
            if self.console is not None:
                self.console.notice(message.what, message.who)
            if message.what == "remove_worker":
                self._ask_others(message.who)
        elif isinstance(message, ParcelPart):
            self._part(peer, message)
        elif isinstance(message, ParcelWanted):
            self._read(peer, message)
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

    def keep_in(self, folder: Path) -> None:
        """Keep environments here, beyond this process's life; those that are known and lie here are there again."""
        self._folder = folder
        environments = self._state.operations.environments.values()
        known = {self._path(one.parcel.digest): one.parcel for one in environments}
        try:
            for path in folder.glob("*.zip"):
                parcel = known.get(path)
                if parcel is None or path.stat().st_size != parcel.nbytes:
                    path.unlink(missing_ok=True)
                else:
                    self._parcels[parcel.digest] = _Parcel(path, is_there=True)
                    tending.environment_complete(self._state, parcel.digest)
        except OSError as error:
            logger.error("environments that were kept can't be read: %s", error)

    def _path(self, digest: str) -> Path:
        if self._folder is None:
            self._passing = tempfile.TemporaryDirectory(prefix="futurebroker-parcels-")
            self._folder = Path(self._passing.name)
        return self._folder / f"{hashlib.sha256(digest.encode()).hexdigest()}.zip"

    def _part(self, peer: str, part: ParcelPart) -> None:
        _, _, askers = self._relayed.pop((part.digest, part.offset), ("", None, ()))
        for asker in askers:
            self._send(asker, part)
        self._watch()
        if peer in self._state.workers:
            return
        if part.offset == 0:
            self._drop(part.digest)
            try:
                path = self._path(part.digest)
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._parcels[part.digest] = _Parcel(path)
            except OSError as error:
                logger.error("an environment can't be kept: %s", error)
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

    def _read(self, peer: str, wanted: ParcelWanted) -> None:
        parcel = self._parcels.get(wanted.digest)
        if parcel is None:
            self._relay(wanted, [peer])
            return
        data = os.pread(parcel.file.fileno(), wanted.length, wanted.offset)
        self._send(peer, ParcelPart(wanted.digest, wanted.offset, parcel.size, data))

    def _relay(self, wanted: ParcelWanted, askers: list[str]) -> None:
        """Have a worker send what we don't have."""
        place = (wanted.digest, wanted.offset)
        if place in self._relayed:
            self._relayed[place][2].extend(askers)
            return
        holders = [one.worker_id for one in standing.holders(self._state, wanted.digest)]
        others = [holder for holder in holders if holder not in askers]
        if not others:
            for asker in askers:
                self._send(asker, ParcelPart(wanted.digest, wanted.offset, -1, b""))
            return
        holder = others[wanted.offset // max(1, wanted.length) % len(others)]
        self._relayed[place] = (holder, wanted, askers)
        self._watch()
        self._send(holder, wanted)

    def _ask_others(self, gone: str) -> None:
        """A worker is gone: others have what was asked of it."""
        for place, (holder, wanted, askers) in list(self._relayed.items()):
            if holder == gone:
                del self._relayed[place]
                self._relay(wanted, [asker for asker in askers if asker != gone])
        self._watch()

    def _watch(self) -> None:
        self._state.operations.is_watched = self._allow_run or bool(self._relayed)

    # -- code of users -----------------------------------------------------------------------------------------------

    def _run(self, peer: str, message: RunOnScheduler) -> None:
        if self.console is not None:
            answer = self.console.run(message)
            if answer.failure is not None and message.keep:
                tending.forget_plugin(self._state, peer, message.keep)
        else:
            failure = Failure("PermissionError", _REFUSED, _REFUSED, "", "", None, None)
            answer = RanOnScheduler(message.number, None, failure)
        if message.wait or self.console is None:
            self._send(peer, answer)

    def start_plugins(self) -> None:
        """Start the plugins that former schedulers of the same journal had, if that is allowed here."""
        plugins = self._state.operations.plugins
        if plugins and self.console is None:
            logger.warning("plugins that were registered are not started (%s): %s", ", ".join(plugins), _REFUSED)
            return
        for name, message in list(plugins.items()):
            failure = self.console.run(message).failure if self.console is not None else None
            if failure is not None:
                logger.error("%s can't be started again: %s: %s", name, failure.type, failure.message)
                del plugins[name]

    def close(self) -> None:
        """Remove what was kept."""
        if self.console is not None:
            self.console.close()
        for parcel in self._parcels.values():
            parcel.file.close()
        self._parcels.clear()
        if self._passing is not None:
            self._passing.cleanup()
