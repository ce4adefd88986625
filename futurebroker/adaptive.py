"""As many workers as there is work for: what `LocalCluster.adapt` and ``futurebroker adapt`` do.

The scheduler says how many workers would be done with everything in the time wished for. More are started at once;
fewer only when that was so several times in a row, and then those leave that have nothing to do, after they have handed
over what only they hold. No worker is killed.
"""

from __future__ import annotations

import contextlib
import logging
import math
import shlex
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from futurebroker.client.client import Client
from futurebroker.exceptions import FuturebrokerError

logger = logging.getLogger("futurebroker.adaptive")


class Target(Protocol):
    """What starts workers, and takes away those that have left."""

    #: tasks one worker runs at a time; 0: ask the scheduler
    slots: int

    def count(self, connected: int) -> int:
        """Workers there are, or that are starting; ``connected`` is what the scheduler sees."""

    def scale_up(self, n: int) -> None:
        """Have ``n`` workers."""

    def left(self, names: list[str], n: int) -> None:
        """These have left by themselves; ``n`` remain."""


@dataclass
class Decider:
    """Decides from one look after another; knows no clock and no cluster.

    Args:
        minimum: workers there are at least; ``maximum`` at most.
        wait_count: looks in a row that must want fewer before any leaves.
    """

    minimum: int
    maximum: float
    wait_count: int
    _wanted_fewer: list[int] = field(default_factory=list)

    def decide(self, wanted: int, present: int, idle: list[str]) -> tuple[int, list[str]]:
        """How many workers to have at least, and who may leave."""
        wanted = int(min(max(wanted, self.minimum), self.maximum))
        if wanted >= present:
            self._wanted_fewer.clear()
            return wanted, []
        self._wanted_fewer.append(wanted)
        if len(self._wanted_fewer) < self.wait_count:
            return present, []
        surplus = present - max(self._wanted_fewer)
        self._wanted_fewer.clear()
        return present, idle[:surplus]


class Adaptive:
    """Adapts a cluster to its work, from a thread of its own, until `stop`.

    Args:
        connect: makes a client of the cluster.
        target: starts workers.
        target_duration: seconds in which all that is submitted should be done.
        interval: seconds between looks.
    """

    def __init__(
        self,
        connect: Callable[[], Client],
        target: Target,
        *,
        minimum: int = 0,
        maximum: float = math.inf,
        target_duration: float = 5.0,
        interval: float = 1.0,
        wait_count: int = 3,
    ) -> None:
        if minimum < 0 or maximum < max(minimum, 1):
            raise ValueError(f"minimum= must be 0 or more and maximum= at least as much, got {minimum} and {maximum}")
        if target_duration <= 0 or interval <= 0:
            raise ValueError("target_duration= and interval= are seconds above 0")
        self.minimum = minimum
        self.maximum = maximum
        #: what was done, newest last: (workers there were, workers wanted, who was asked to leave)
        self.log: list[tuple[int, int, list[str]]] = []
        self._connect = connect
        self._target = target
        self._target_duration = target_duration
        self._interval = interval
        self._decider = Decider(minimum, maximum, wait_count)
        self._leaving: list[str] = []
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="futurebroker-adaptive", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        state = "stopped" if self._stopped.is_set() else "running"
        return f"<Adaptive: {self.minimum} to {self.maximum} workers, {state}>"

    def stop(self) -> None:
        """Leave the cluster as it is. May be called twice."""
        self._stopped.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def wait(self) -> None:
        """Return once it is stopped."""
        self._stopped.wait()

    def _run(self) -> None:
        with self._connect() as client:
            while True:
                try:
                    self.look(client)
                except (FuturebrokerError, OSError, subprocess.SubprocessError) as error:
                    logger.warning("the cluster can't be adapted now: %s", error)
                if self._stopped.wait(self._interval):
                    return

    def look(self, client: Client) -> None:
        """Look once, and do what follows."""
        about = {"target_duration": self._target_duration, "slots": self._target.slots}
        seen: dict[str, Any] = client._ask("adaptive_target", about)
        names = set(seen["names"])
        gone = [name for name in self._leaving if name not in names]
        if gone:
            self._leaving = [name for name in self._leaving if name in names]
            self._target.left(gone, len(names) - len(self._leaving))
        present = self._target.count(len(names)) - len(self._leaving)
        idle = [name for name in seen["idle"] if name not in self._leaving]
        wanted, leaving = self._decider.decide(seen["target"], present, idle)
        if wanted > present:
            self.log.append((present, wanted, []))
            self._target.scale_up(wanted + len(self._leaving))
        elif leaving:
            self.log.append((present, present - len(leaving), leaving))
            self._leaving += leaving
            # Who got a task just before finishes it, however long that takes.
            with contextlib.suppress(TimeoutError):
                client.retire_workers(leaving, timeout=self._interval)


class Command:
    """Workers that a command of a platform starts and stops, such as ``heroku ps:scale worker={n}``.

    ``{n}`` is the number of workers there shall be, ``{names}`` who has left. On the way down the workers have left by
    themselves before the command is run, so that none is killed; a platform that starts ended ones again, or picks
    others to stop, runs against that.

    Args:
        command: split as a shell would, but no shell is started.
        slots: tasks one worker runs at a time; 0 asks the scheduler.
        patience: looks that started workers may take to connect.
    """

    def __init__(self, command: str, *, slots: int = 0, patience: int = 60) -> None:
        if "{n}" not in command:
            raise ValueError(f"the command must contain {{n}}, the number of workers: {command!r}")
        self.slots = slots
        self._words = shlex.split(command)
        self._patience = patience
        self._asked = 0
        self._looks = 0

    def count(self, connected: int) -> int:
        """See `Target.count`; those asked for count as there until patience ends."""
        if connected >= self._asked or self._looks >= self._patience:
            self._asked = 0
            return connected
        self._looks += 1
        return self._asked

    def scale_up(self, n: int) -> None:
        """See `Target.scale_up`."""
        self._asked, self._looks = n, 0
        self._run(n, [])

    def left(self, names: list[str], n: int) -> None:
        """See `Target.left`."""
        self._asked = 0
        self._run(n, names)

    def _run(self, n: int, names: list[str]) -> None:
        words = [word.replace("{n}", str(n)).replace("{names}", ",".join(names)) for word in self._words]
        logger.info("running %s", shlex.join(words))
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode:
            said = (done.stderr or done.stdout).strip()[-500:]
            raise FuturebrokerError(f"{shlex.join(words)} ended with {done.returncode}: {said}")
