"""What a client knows of its keys: who holds them, who waits for them, and what became of them.

Everything here happens with the lock held, once for many keys, and touches neither loop nor link.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Any

from futurebroker.client.calls import PreparedCall, PreparedColumn
from futurebroker.client.chosen import ChosenKeys
from futurebroker.client.futures import CANCELLED, ERROR, FINISHED, LOST, PENDING, UNOPENED, KeyState
from futurebroker.client.intake import Intake
from futurebroker.client.remembering import Remembered, known_value
from futurebroker.client.threads import CallbackThread, CallWhenSettled
from futurebroker.client.waiters import Countdown, Waiter
from futurebroker.exceptions import CancelledError, DataLostError, DuplicateKeyError, IntakeError
from futurebroker.protocol.messages import (
    Cancel,
    Detach,
    DetachedEnded,
    Failure,
    GiveFailure,
    KeyCancelled,
    KeyErred,
    KeyFinished,
    KeyLost,
    Message,
    PutValue,
    Release,
    Retry,
    Want,
)
from futurebroker.tables import large_table
from futurebroker.types import Key

#: keys that one message asks for
KEYS_AT_A_TIME = 4096
#: dropped futures that are worked off with the lock held once
DROPPED_AT_A_TIME = 4096


class Ledger(ABC):
    """The keys of one client; see the top of this file. A `Connection` is a ledger that sends and hears.

    Args:
        patience: seconds that `submit` may block because the scheduler takes no more.
    """

    def __init__(self, name: str, patience: float) -> None:
        self.lock = threading.RLock()
        self.states: dict[Key, KeyState] = large_table()
        #: states of futures that are gone; appended to without a lock
        self.dropped: deque[KeyState] = deque()
        #: whether somebody will look at `dropped`
        self.noticed = False
        self.intake = Intake(self.lock, patience)
        self.callbacks = CallbackThread(f"futurebroker-callbacks-{name}")
        #: by key, how many of our own cancellations the scheduler has yet to confirm
        self._echoes: dict[Key, int] = {}
        #: keys that users chose
        self.chosen = ChosenKeys(self.number)
        #: keys the scheduler is to see to though no future of them may be left, until it says that they have ended
        self.detached: set[Key] = set()

    @abstractmethod
    def put(self, message: Message) -> None:
        """Send ``message`` after all that was put before."""

    @abstractmethod
    def flush(self) -> None:
        """Send now: somebody waits."""

    @abstractmethod
    def wait(self, countdown: Countdown, timeout: float | None) -> bool:
        """Block this thread until ``countdown`` has ended; False when ``timeout`` seconds went by first."""

    @abstractmethod
    def number(self) -> int:
        """A number for a question."""

    @abstractmethod
    def check_open(self) -> None:
        """Raise why nothing can be sent any more, if so."""

    # -- for user threads --------------------------------------------------------------------------------------------

    def watch(self, states: list[KeyState], waiter: Waiter) -> int:
        """Tell ``waiter`` of each of ``states``, at once of those that are settled; how many are not."""
        settled: list[KeyState] = []
        single = (waiter,)
        with self.lock:
            for state in states:
                if state.status is PENDING or state.status is LOST:
                    # States in a row with the same tuple are told in one call.
                    state.waiters = single if state.waiters is None else state.waiters + single
                else:
                    settled.append(state)
            if settled:
                waiter.ready(settled)
        pending = len(states) - len(settled)
        if pending:
            self.flush()
        return pending

    def unwatch(self, states: list[KeyState], waiter: Waiter) -> None:
        """Don't tell ``waiter`` any more."""
        with self.lock:
            for state in states:
                if state.waiters is not None:
                    state.waiters = tuple(other for other in state.waiters if other is not waiter) or None

    def call_back(self, states: list[KeyState], call: Callable[[], object]) -> None:
        """Run ``call`` on the callback thread once all ``states`` are settled."""
        self.callbacks.start()
        self.watch(states, CallWhenSettled(len(states), call, self.callbacks))

    def cancel(self, states: list[KeyState], force: bool, reason: str) -> None:
        """Cancel keys here at once, and at the scheduler."""
        with self.lock:
            self.check_open()
            keys = []
            for state in states:
                if state.status is CANCELLED:
                    continue
                keys.append(state.key)
                self._echoes[state.key] = self._echoes.get(state.key, 0) + 1
                text = f"{state.key} was cancelled" + (f": {reason}" if reason else "")
                self._reopen(state)
                state.cause = CancelledError(text)
                self._settle(state, CANCELLED)
            if force:
                keys = [state.key for state in states]
            if keys:
                self.put(Cancel(keys, force, reason))

    def retry(self, states: list[KeyState]) -> None:
        """Run failed keys again; others are left as they are."""
        with self.lock:
            self.check_open()
            failed = [state for state in states if state.status is ERROR]
            for state in failed:
                self._reopen(state)
                state.status = PENDING
            if failed:
                self.put(Retry([state.key for state in failed]))

    def detach(self, states: list[KeyState]) -> None:
        """Have these computed even if all their futures go."""
        with self.lock:
            self.check_open()
            keys = [state.key for state in states]
            self.detached.update(keys)
            self.put(Detach(keys))

    def renew(self, state: KeyState) -> None:
        """Have a key that was refused pending again: it is sent in another way."""
        with self.lock:
            self._reopen(state)
            state.status = PENDING
            self.states[state.key] = state

    # -- for the thread that sends and hears --------------------------------------------------------------------------

    def release_dropped(self, outbox: deque[Any]) -> None:
        """Take the futures that are gone off the count; what nobody holds any more is put into ``outbox``."""
        dropped = self.dropped
        states = self.states
        while dropped:
            gone: list[Key] = []
            with self.lock:
                # What a state was made of is dropped with it, and appended to what this loop works off.
                for _ in range(min(len(dropped), DROPPED_AT_A_TIME)):
                    state = dropped.popleft()
                    state.refs -= 1
                    if state.refs:
                        continue
                    key = state.key
                    if states.get(key) is state:
                        del states[key]
                        gone.append(key)
                    if state.status is not FINISHED and (state.status is PENDING or state.status is LOST):
                        state.cause = CancelledError(f"{key} was released before it was done")
                        self._settle(state, CANCELLED)
                    if state.inputs:
                        state.inputs = ()
                if gone:
                    # With the lock held: who submits the same key again comes after this.
                    outbox.append(Release(gone))

    def takes_little(self, most: int) -> bool:
        """Whether the futures that are gone are at most ``most``, of results that came with the news of their end."""
        dropped = list(self.dropped)
        for one in dropped:
            if one.status is not FINISHED or one.held is not None:
                return False
        return len(dropped) <= most

    def take(self, messages: list[Any]) -> None:
        """What the scheduler says, in order; what isn't about a key goes to `answered`."""
        states = self.states
        intake = self.intake
        former = self.chosen.former
        #: finished in a row, and all with the same waiters, who are told in one call
        run: list[KeyState] = []
        waiters: tuple[Waiter, ...] | None = None
        with self.lock:
            for message in messages:
                if type(message) is not KeyFinished:
                    _tell(waiters, run)
                    run, waiters = [], None
                    self._take_other(message)
                    continue
                state = states.get(message.key)
                if state is None or state.status is CANCELLED or (former and message.key in former):
                    continue
                if state.result is UNOPENED and state.value is None:
                    state.value = message.value
                    state.held = message.held
                    state.type = message.type
                state.cause = None
                state.status = FINISHED
                size = state.size
                if size >= 0:
                    intake.bytes -= size
                    intake.settled += 1
                    state.size = -1
                if state.waiters is not waiters:
                    _tell(waiters, run)
                    run, waiters = [], state.waiters
                if waiters is not None:
                    state.waiters = None
                    run.append(state)
            _tell(waiters, run)
        intake.tell(False)

    @abstractmethod
    def answered(self, message: Any) -> None:
        """A message that isn't about a key; the lock is held."""

    def fail_pending(self, error: Exception) -> None:
        """Settle all that is pending with ``error``."""
        with self.lock:
            for state in list(self.states.values()):
                if state.status is PENDING or state.status is LOST:
                    state.cause = error
                    self._settle(state, CANCELLED if isinstance(error, CancelledError) else ERROR)

    def part(self) -> None:
        """Nothing will be sent or heard any more: let go of futures, which still hold us."""
        with self.lock:
            self.states.clear()
            self.dropped = deque(maxlen=0)

    def start_over(self, remembered: Remembered) -> list[PreparedCall | PreparedColumn | Message]:
        """The scheduler is a new one: what to tell it, in order; the lock is held.

        Results that are here and small are given to it, for calls that need them later, and so are failures. What is
        not settled is submitted again, with all that it depends on, and so is what lies on workers: they tell that they
        have it. What nobody knows how to compute is waited for.
        """
        states = self.states
        self.chosen.forget()
        messages: list[PreparedCall | PreparedColumn | Message] = []
        given: set[Key] = set()
        for key, state in list(states.items()):
            value = known_value(state)
            if value is not None:
                given.add(key)
                messages.append(PutValue(key, value, given=True))
            elif state.status is ERROR and isinstance(state.cause, Failure):
                given.add(key)
                messages.append(GiveFailure(key, state.cause))
        again, refused = remembered.take(given)
        for key in refused:
            self._end(key, ERROR, DuplicateKeyError(f"{key}: what depends on another call under this key isn't done"))
        wanted: list[Key] = []
        for key, state in list(states.items()):
            if key in given:
                continue
            if state.status is FINISHED and state.held is not None and state.result is UNOPENED:
                self._reopen(state)
                state.status = LOST
            is_open = state.status is PENDING or state.status is LOST or state.held is not None
            # A call that was never sent has a size, and is still to come.
            if key not in again and state.size < 0 and is_open:
                wanted.append(key)
        if wanted:
            messages.append(Want(wanted, patient=True))
        messages += again.values()
        if self.detached:
            messages.append(Detach(list(self.detached)))
        released = [key for key in again if key not in states or key in refused]
        if released:
            messages.append(Release(released))
        cancelled = [key for key in self._echoes if key in again and self._is_cancelled(key)]
        self._echoes = dict.fromkeys(cancelled, 1)
        if cancelled:
            messages.append(Cancel(cancelled))
        return messages

    def _is_cancelled(self, key: Key) -> bool:
        state = self.states.get(key)
        return state is None or state.status is CANCELLED

    def go_on(self, remembered: Remembered) -> tuple[list[Message], list[PreparedCall | PreparedColumn]]:
        """Another scheduler goes on where the former stopped: ask what became of all that is open; the lock is held.

        What the former said last may not have arrived, and won't be said again by itself. Calls under keys that were
        used before are sent again: if one was refused, its key is another's, whose result must not be taken for its.
        """
        sent = set(remembered.keys())
        wanted: list[Key] = []
        again: set[Key] = set()
        for key, state in list(self.states.items()):
            if state.status is FINISHED and state.held is not None and state.result is UNOPENED:
                self._reopen(state)
                state.status = LOST
            # A call that was never sent has a size, and is still to come.
            if (state.status is PENDING or state.status is LOST) and (key in sent or state.size < 0):
                if key in sent and key in self.chosen.again:
                    again.add(key)
                else:
                    wanted.append(key)
        messages: list[Message] = [*self.chosen.ask_again()]
        messages += [Want(wanted[start : start + KEYS_AT_A_TIME]) for start in range(0, len(wanted), KEYS_AT_A_TIME)]
        if self.detached:
            messages.append(Detach(list(self.detached)))
        return messages, remembered.newest(again)

    # -- inside; the lock is held -------------------------------------------------------------------------------------

    def _take_other(self, message: Any) -> None:
        if isinstance(message, (KeyErred, KeyLost)) and message.key in self.chosen.former:
            return
        if isinstance(message, KeyErred):
            self._end(message.key, ERROR, message.failure)
        elif isinstance(message, KeyCancelled):
            if not self._is_echo(message.key) and message.key not in self.chosen.former:
                self._end(message.key, *_meaning(message))
        elif isinstance(message, KeyLost):
            self._lose(self.states.get(message.key))
        elif isinstance(message, DetachedEnded):
            self.detached.difference_update(message.keys)
        else:
            self.answered(message)

    def _is_echo(self, key: Key) -> bool:
        """Whether this answers a cancellation of ours; the key may mean a new task by now, which must not suffer."""
        due = self._echoes.pop(key, 0)
        if due > 1:
            self._echoes[key] = due - 1
        return due > 0

    def _lose(self, state: KeyState | None) -> None:
        """A key is computed again: its result was lost, or it failed and is retried. Results opened here stay."""
        if state is None or state.result is not UNOPENED:
            return
        if state.status is FINISHED or state.status is ERROR:
            state.status = LOST if state.status is FINISHED else PENDING
            self._reopen(state)

    def _end(self, key: Key, status: Any, cause: Failure | Exception) -> None:
        state = self.states.get(key)
        if state is not None and state.status is not CANCELLED:
            self._reopen(state)
            state.cause = cause
            self._settle(state, status)

    def _reopen(self, state: KeyState) -> None:
        state.cause = None
        state.value = None
        state.held = None
        state.result = UNOPENED

    def _settle(self, state: KeyState, status: Any) -> None:
        """The end of a key, until a retry or a lost result opens it again."""
        state.status = status
        if state.size >= 0:
            self.intake.bytes -= state.size
            self.intake.settled += 1
            state.size = -1
        waiters = state.waiters
        state.waiters = None
        _tell(waiters, [state])


def _tell(waiters: tuple[Waiter, ...] | None, settled: list[KeyState]) -> None:
    if waiters is not None:
        for waiter in waiters:
            waiter.ready(settled)


def _meaning(message: KeyCancelled) -> tuple[Any, Exception]:
    """The status and the error that a cancellation by the scheduler stands for."""
    because = f": {message.reason}" if message.reason else ""
    if message.kind == "lost":
        return CANCELLED, DataLostError(f"the data of {message.key} is lost{because}")
    if message.kind == "duplicate":
        return ERROR, DuplicateKeyError(f"{message.key}{because}")
    if message.kind == "rejected":
        return ERROR, IntakeError(f"the scheduler did not take {message.key}{because}")
    return CANCELLED, CancelledError(f"{message.key} was cancelled{because}")
