"""What `leases` and `mailboxes` have in common: who waits for something that is shared by name, and for how long.

Every request carries an id of its asker's making, by which it is known when it comes again: who lost touch with the
scheduler, or met a restarted one, asks once more, and gets the answer that was lost on the way.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import msgspec

from futurebroker.protocol.messages import Answer, Ask
from futurebroker.scheduler.records import ClientRecord
from futurebroker.scheduler.shared import Line, Request, Waiting
from futurebroker.scheduler.state import SchedulerState
from futurebroker.types import ClientId

#: seconds that an answer is kept for an asker that doesn't get it, and a key for who was given it
KEPT = 60.0
#: characters a name may have
NAME_LENGTH = 255

R = TypeVar("R", bound=Request)
#: takes up a request whose ``about`` has been read
TakeUp = Callable[[SchedulerState, ClientRecord, int, R], None]


def request(kind: type[R], take_up: TakeUp[R]) -> Callable[[SchedulerState, ClientRecord, Ask], None]:
    """What `requests.REQUESTS` holds for a topic: ``about`` is read as ``kind``, or answered with what is wrong."""

    def ask(state: SchedulerState, client: ClientRecord, message: Ask) -> None:
        try:
            about = msgspec.convert(message.about, kind)
            if not 0 < len(about.name) <= NAME_LENGTH:
                raise ValueError(f"a name has 1 to {NAME_LENGTH} characters")
            take_up(state, client, message.number, about)
        except (msgspec.ValidationError, ValueError) as error:
            state.send(client.client_id, Answer(message.number, None, f"{message.topic}: {error}"))

    return ask


def answer(state: SchedulerState, client: ClientId, number: int, op: str, value: Any) -> None:
    """Answer a request, and remember the answer for a while."""
    if op:
        state.shared.answers[op] = value
        state.timers.at(state.now + KEPT, partial(_forget, state, op))
    state.send(client, Answer(number, value))


def _forget(state: SchedulerState, op: str) -> None:
    state.shared.answers.pop(op, None)


def answered_before(state: SchedulerState, client: ClientRecord, number: int, about: Request) -> bool:
    """Whether this request was met already; then it gets the same answer."""
    if about.op not in state.shared.answers:
        return False
    state.send(client.client_id, Answer(number, state.shared.answers[about.op]))
    return True


def wait(
    state: SchedulerState,
    line: Line,
    client: ClientRecord,
    number: int,
    about: Request,
    then: Callable[[SchedulerState, str], None] | None = None,
) -> None:
    """Put a request in line; it is answered with None when its time is over. One that comes again keeps its place.

    Args:
        then: is given the request's name when it was given up, for what nobody uses any more.
    """
    waiting = line.get(about.op)
    if waiting is not None:
        waiting.client, waiting.number = client.client_id, number
        return
    if about.timeout is not None and about.timeout <= 0:
        state.send(client.client_id, Answer(number, None))
        return
    waiting = line[about.op] = Waiting(client.client_id, number, about)
    if about.timeout is not None:
        waiting.timer = state.timers.at(state.now + about.timeout, partial(_give_up, state, line, about.op, then))


def _give_up(
    state: SchedulerState, line: Line, op: str, then: Callable[[SchedulerState, str], None] | None = None
) -> None:
    waiting = line.pop(op, None)
    if waiting is not None:
        state.send(waiting.client, Answer(waiting.number, None))
        if then is not None:
            then(state, waiting.about.name)


def leave(state: SchedulerState, line: Line, op: str) -> Waiting:
    """Take a request out of its line: it is met now."""
    waiting = line.pop(op)
    if waiting.timer is not None:
        state.timers.cancel(waiting.timer)
    return waiting


def drop_client(state: SchedulerState, line: Line, client: ClientId) -> None:
    """A client is gone, with what it waits for."""
    for op in [op for op, waiting in line.items() if waiting.client == client]:
        leave(state, line, op)


def dump_line(state: SchedulerState, line: Line) -> list[Any]:
    """A line as plain data."""
    return [
        (
            waiting.client,
            waiting.number,
            msgspec.to_builtins(waiting.about),
            None if waiting.timer is None else waiting.timer.due - state.now,
        )
        for waiting in line.values()
    ]


def load_line(
    state: SchedulerState,
    line: Line,
    kind: type[Request],
    rows: list[Any],
    then: Callable[[SchedulerState, str], None] | None = None,
) -> None:
    """Take in what `dump_line` gave; for ``then`` see `wait`."""
    for client, number, about, left in rows:
        asked = msgspec.convert(about, kind)
        waiting = line[asked.op] = Waiting(client, number, asked)
        if left is not None:
            waiting.timer = state.timers.at(state.now + left, partial(_give_up, state, line, asked.op, then))
