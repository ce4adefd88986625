"""What is done to a cluster while it works: faults drawn from a seed, one after another, and undone in time."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from heapq import heappop, heappush
from typing import Any

from tests.chaos.proxy import Wire
from tests.chaos.rig import Outpost, Rig

#: kinds, and how often each is drawn
WEIGHTS = {
    "kill executor": 5,
    "kill worker": 4,
    "cut worker": 4,
    "stop worker": 2,
    "hold worker": 2,
    "cut client": 2,
    "hold client": 1,
}
#: what befalls the scheduler, and with it its own broker
OF_SCHEDULER = {"kill scheduler": 2, "stop scheduler": 1}
#: what befalls a broker of its own process, and the way to it
OF_BROKER = {"kill broker": 1, "cut scheduler": 1}
#: seconds that what can be undone lasts: usually shorter than a grace of a second or so, sometimes much longer
SHORT = (0.05, 0.8)
LONG = (1.5, 3.0)
LONG_SHARE = 0.4


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong."""

    pause: float  #: seconds since the fault before
    kind: str
    victim: int  #: which of those that are well, counted round
    seconds: float  #: until it is undone


def drawn(seed: int, pace: float, weights: dict[str, int]) -> Iterator[Fault]:
    """Faults without end, ``pace`` seconds apart on average; the same for the same seed."""
    choose = random.Random(f"faults {seed}")
    while True:
        (kind,) = choose.choices(list(weights), list(weights.values()))
        span = LONG if choose.random() < LONG_SHARE else SHORT
        yield Fault(pace * choose.uniform(0.3, 1.7), kind, choose.randrange(1000), choose.uniform(*span))


class Injector:
    """Inflicts faults from a thread of its own, between `start` and `stop`; `stop` undoes what is left."""

    def __init__(self, rig: Rig, faults: Iterator[Fault]) -> None:
        self.log: list[dict[str, Any]] = []
        #: when which process was killed, by wall clock
        self.killed: list[tuple[float, int]] = []
        #: what went wrong in here, if anything
        self.failure: BaseException | None = None
        self._rig = rig
        self._faults = faults
        self._began = time.monotonic()
        self._stop = threading.Event()
        self._ill: dict[str, None] = {}
        self._undo: list[tuple[float, int, str, Callable[[], None]]] = []
        self._thread = threading.Thread(target=self._run, name="injector")

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Inflict nothing more, and have everything whole again."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            for fault in self._faults:
                if self._wait(fault.pause):
                    break
                self._inflict(fault)
        except BaseException as error:  # noqa: BLE001 - told to who waits for us
            self.failure = error
        finally:
            while self._undo:
                self._undo_next()

    def _wait(self, seconds: float) -> bool:
        """Undo what is due in these seconds; whether we are to stop."""
        until = time.monotonic() + seconds
        while self._undo and self._undo[0][0] <= until:
            if self._stop.wait(max(0.0, self._undo[0][0] - time.monotonic())):
                return True
            self._undo_next()
        return self._stop.wait(max(0.0, until - time.monotonic()))

    def _undo_next(self) -> None:
        _, _, name, undo = heappop(self._undo)
        undo()
        self._ill.pop(name, None)

    def _later(self, fault: Fault, name: str, undo: Callable[[], None]) -> None:
        self._ill[name] = None
        heappush(self._undo, (time.monotonic() + fault.seconds, len(self.log), name, undo))

    def _inflict(self, fault: Fault) -> None:
        rig = self._rig
        well = [outpost for outpost in rig.outposts if outpost.name not in self._ill]
        victim = fault.kind.split()[1]
        if victim in ("scheduler", "broker", "client"):
            if victim not in self._ill:
                self._note(fault, victim)
                _HEAVY[fault.kind](self, fault)
        elif len(well) > 1:  # one is left to work
            self._hurt(fault, well[fault.victim % len(well)])

    def _kill_scheduler(self, fault: Fault) -> None:
        self._rig.kill_scheduler()
        self._rig.start_scheduler()

    def _stop_scheduler(self, fault: Fault) -> None:
        self._rig.stop_scheduler(signal.SIGSTOP)
        self._later(fault, "scheduler", lambda: self._rig.stop_scheduler(signal.SIGCONT))

    def _kill_broker(self, fault: Fault) -> None:
        assert self._rig.rabbitmq is not None
        self._rig.rabbitmq.kill()
        self._rig.rabbitmq.revive()

    def _break(self, fault: Fault, wire: Wire | None) -> None:
        assert wire is not None
        how, name = fault.kind.split()
        (wire.cut if how == "cut" else wire.hold)()
        self._later(fault, name, wire.mend)

    def _hurt(self, fault: Fault, outpost: Outpost) -> None:
        executors = outpost.executors()
        if fault.kind == "kill worker":
            self._note(fault, outpost.name)
            now = time.time()
            outpost.kill()
            self.killed += [(now, pid) for pid in executors]
            outpost.start(wait=False)
        elif fault.kind == "kill executor":
            if executors:
                self._note(fault, outpost.name)
                pid = executors[fault.victim % len(executors)]
                self.killed.append((time.time(), pid))
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        elif fault.kind == "stop worker":
            self._note(fault, outpost.name)
            outpost.signal(signal.SIGSTOP)
            outpost.wire.cut()
            self._later(fault, outpost.name, lambda: self._revive(outpost))
        else:
            self._note(fault, outpost.name)
            (outpost.wire.cut if fault.kind == "cut worker" else outpost.wire.hold)()
            self._later(fault, outpost.name, outpost.wire.mend)

    @staticmethod
    def _revive(outpost: Outpost) -> None:
        outpost.wire.mend()
        outpost.signal(signal.SIGCONT)

    def _note(self, fault: Fault, name: str) -> None:
        known = {**asdict(fault), "victim": name, "seconds": round(fault.seconds, 3)}
        del known["pause"]
        self.log.append({"at": round(time.monotonic() - self._began, 3), **known})


_HEAVY: dict[str, Callable[[Injector, Fault], None]] = {
    "kill scheduler": Injector._kill_scheduler,
    "stop scheduler": Injector._stop_scheduler,
    "kill broker": Injector._kill_broker,
    "cut scheduler": lambda injector, fault: injector._break(fault, injector._rig.scheduler_wire),
    "cut client": lambda injector, fault: injector._break(fault, injector._rig.client_wire),
    "hold client": lambda injector, fault: injector._break(fault, injector._rig.client_wire),
}
