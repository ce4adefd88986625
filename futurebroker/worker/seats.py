"""An executor's threads: as many run tasks as it has slots, and any number wait for what other tasks do.

A thread reads packets and runs what they hold. When its task waits (for a future, a lock, a queue), or secedes, another
thread reads in its place, so that what it waits for can run here, however few slots there are. When the wait ends, the
task goes on as soon as fewer tasks run than there are slots: running ones keep theirs until they end or wait. A packet
that was read in the meantime is handed back to the agent, which knows of both and sends no more than there is room for.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from futurebroker.exceptions import TaskError
from futurebroker.types import Key
from futurebroker.worker.packets import AWAY_MAX, Result, Task

#: seconds a thread that nobody needs is kept for the next task that waits
PARKED = 10.0


class Slot:
    """One thread: the packet it runs, and what it hasn't reported.

    Both queues are deques because the control thread takes from them too: each pop is atomic, so a task is begun or
    handed back, and a result reported, exactly once.
    """

    __slots__ = (
        "is_away",
        "is_extra",
        "key",
        "made",
        "measured",
        "started",
        "number",
        "results",
        "seats",
        "seceded",
        "thread",
        "task",
        "todo",
        "waits",
    )

    def __init__(self, seats: Seats, number: int) -> None:
        self.seats = seats
        self.number = number  #: of its breadcrumb
        self.task = 0  #: number of the task it runs, or ran last
        self.started = 0  #: when its task began in user code, by the same clock as below; 0 if it didn't
        self.key: Key = ""  #: of that task
        self.thread = 0  #: which thread it is, for who looks at what runs
        self.measured = 0  #: nanoseconds at which the time of the last task ended
        self.todo: deque[Task] = deque()
        self.results: deque[Result] = deque()
        self.waits = 0  #: how many threads of the task wait
        self.seceded = False  #: by the task's own wish
        self.is_away = False  #: whether another runs in its place
        self.made: dict[bytes, int] = {}  #: see `inside.Slot.calls`
        self.is_extra = False  #: whether another thread reads in its place

    # -- see `inside.Slot` ------------------------------------------------------------------------------------------

    def give_up(self, number: int) -> bool:
        """See `inside.Slot.give_up`."""
        return self.seats.leave_seat(self, number, seceded=False)

    def take_back(self, number: int) -> None:
        """See `inside.Slot.take_back`."""
        self.seats.return_to_seat(self, number, seceded=False)

    def secede(self, number: int) -> None:
        """See `inside.Slot.secede`."""
        self.seats.leave_seat(self, number, seceded=True)

    def rejoin(self, number: int) -> None:
        """See `inside.Slot.rejoin`."""
        self.seats.return_to_seat(self, number, seceded=True)

    def calls(self, number: int) -> dict[bytes, int]:
        """See `inside.Slot.calls`."""
        return self.made if self.task == number else {}


class Seats:
    """See the top of this file.

    Args:
        count: tasks that run at a time.
        read: what a thread does: reads and runs packets until `leave` says that it isn't needed, or all ends.
        left: told, on any thread, that the slot's task is away: hand back what would wait behind it, and say so.
        returning: told that it wants to run again.
        seated: told that it does.
    """

    def __init__(
        self,
        count: int,
        read: Callable[[Slot], None],
        left: Callable[[Slot, int], None],
        returning: Callable[[Slot, int], None],
        seated: Callable[[Slot, int], None],
    ) -> None:
        self._count = count
        self._read = read
        self._left = left
        self._returning = returning
        self._seated = seated
        self._changed = threading.Condition()
        self._running = 0
        self._reading = count
        self._away = 0
        self._returners = 0
        self._parked = 0
        #: threads that want to be alone, and whether one is
        self._loners = 0
        self._is_alone = False
        self._closed = False
        self._free = list(range(count + AWAY_MAX - 1, count - 1, -1))
        self.slots = [Slot(self, number) for number in range(count)]
        self.threads: list[threading.Thread] = []

    # -- threads that read ------------------------------------------------------------------------------------------

    def enter(self) -> bool:
        """A packet was read: may its tasks run? False when others came first, and it must be handed back."""
        with self._changed:
            if self._is_alone:
                self._changed.wait_for(lambda: not self._is_alone)
            if self._running >= self._count or self._returners:
                return False
            self._running += 1
            return True

    def leave(self, slot: Slot) -> bool:
        """The packet is done; whether the thread is to read another. One that isn't needed waits here for a while."""
        with self._changed:
            if slot.is_away:
                self._away -= 1
            else:
                self._running -= 1
            slot.task = slot.waits = 0
            slot.is_away = slot.seceded = False
            if self._returners or self._loners:
                self._changed.notify_all()
            if not slot.is_extra:
                return True
            return self._park(slot)

    def _park(self, slot: Slot) -> bool:
        """Whether an extra thread is needed again; the first threads of all wait for that as long as it takes."""
        keep = slot.number < self._count
        self._parked += 1
        try:
            self._changed.wait_for(
                lambda: self._reading < self._count or self._closed, timeout=None if keep else PARKED
            )
        finally:
            self._parked -= 1
        if self._closed or self._reading >= self._count:
            if not keep:
                self.slots.remove(slot)
                self._free.append(slot.number)
            return False
        self._reading += 1
        slot.is_extra = False
        return True

    def alone(self, call: Callable[[], object]) -> None:
        """Run ``call`` once no task runs or waits here, and have none begin until it is done."""
        with self._changed:
            self._loners += 1
            try:
                self._changed.wait_for(lambda: self._closed or not (self._running or self._away or self._is_alone))
            finally:
                self._loners -= 1
            if self._closed:
                return
            self._is_alone = True
        try:
            call()
        finally:
            with self._changed:
                self._is_alone = False
                self._changed.notify_all()

    def close(self) -> None:
        """There is nothing more to read."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    # -- tasks that wait --------------------------------------------------------------------------------------------

    def leave_seat(self, slot: Slot, number: int, *, seceded: bool) -> bool:
        """The task with this number is away; False when it isn't running here any more.

        Raises:
            TaskError: no more tasks of this executor may wait, or the system has no thread for another.
        """
        with self._changed:
            if slot.task != number or not number or (seceded and slot.seceded):
                return False
            if not slot.is_away:
                if self._away >= AWAY_MAX:
                    raise TaskError(
                        f"{AWAY_MAX:,} tasks of this executor wait for others already, and each holds a thread; submit "
                        "the calls with futures as arguments instead of waiting for these inside tasks"
                    )
                self._replace(slot)
                first = True
            else:
                first = False
            if seceded:
                slot.seceded = True
            else:
                slot.waits += 1
        if first:
            self._left(slot, number)
        return True

    def _replace(self, slot: Slot) -> None:
        """Have another thread read in place of the slot's own."""
        if not slot.is_extra:
            if self._parked > self._count - self._reading:  # one of them isn't called yet
                self._reading -= 1
            else:
                self._start_thread()
            slot.is_extra = True
        slot.is_away = True
        self._away += 1
        self._running -= 1
        self._changed.notify_all()

    def _start_thread(self) -> None:
        slot = Slot(self, self._free.pop())
        thread = threading.Thread(target=self._read, args=(slot,), name=f"task-{slot.number}", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            # Waiting in the slot all the same would be waiting for ever, where what it waits for needs that slot.
            self._free.append(slot.number)
            raise TaskError(
                f"a task can't wait for others: the system gives its executor no thread beside {self._away:,} waiting "
                f"ones ({error}); raise the limit of processes, or wait for fewer at a time"
            ) from error
        self.slots.append(slot)
        self.threads = [other for other in self.threads if other.is_alive()]
        self.threads.append(thread)

    def return_to_seat(self, slot: Slot, number: int, *, seceded: bool) -> None:
        """The task with this number wants to run again; blocks until fewer run than there are slots."""
        with self._changed:
            if slot.task != number:
                return
            if not seceded:
                slot.waits -= 1
            elif slot.seceded:
                slot.seceded = False
            else:
                raise TaskError("rejoin() undoes secede(), which this task hasn't called")
            if slot.waits or slot.seceded or not slot.is_away:
                return
        self._returning(slot, number)
        with self._changed:
            self._returners += 1
            try:
                self._changed.wait_for(
                    lambda: self._running < self._count or self._closed or slot.task != number or not slot.is_away
                )
            finally:
                self._returners -= 1
            if slot.task == number and slot.is_away:
                self._running += 1
                self._away -= 1
                slot.is_away = False
                self._seated(slot, number)
