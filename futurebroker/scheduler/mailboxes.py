"""Queues and variables that clients and tasks share by name (sans-IO).

What is in them is bytes that nobody here opens, with the keys of the futures inside: these are wanted on behalf of the
queue or variable, and for a while of whoever took them out, until that client wants them itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

from futurebroker.protocol.messages import Answer, Ask
from futurebroker.scheduler import recording, sharing
from futurebroker.scheduler.records import ClientRecord
from futurebroker.scheduler.shared import Mailbox, Request, Slate
from futurebroker.scheduler.state import SchedulerState
from futurebroker.scheduler.wants import TRANSIT, hand_over, hold, let_go
from futurebroker.types import ClientId, Key


class Put(Request):
    """Something to keep."""

    item: bytes = b""
    keys: list[Key] = []
    maxsize: int = 0  #: items a queue may have; 0: any number


class Take(Request):
    """Something to take out."""

    most: int = 1  #: items; 0: all that are there, without waiting
    least: int = 1  #: items to wait for


# -- queues --------------------------------------------------------------------------------------------------------


def _mailbox(state: SchedulerState, name: str, maxsize: int = 0) -> Mailbox:
    mailbox = state.shared.mailboxes.get(name)
    if mailbox is None:
        mailbox = state.shared.mailboxes[name] = Mailbox(maxsize)
    return mailbox


def _queue_open(state: SchedulerState, client: ClientRecord, number: int, about: Put) -> None:
    """A queue of a bounded size is there before the first item."""
    mailbox = _mailbox(state, about.name, about.maxsize)
    mailbox.maxsize = about.maxsize or mailbox.maxsize
    state.send(client.client_id, Answer(number, True))


def _queue_put(state: SchedulerState, client: ClientRecord, number: int, about: Put) -> None:
    if sharing.answered_before(state, client, number, about):
        return
    mailbox = _mailbox(state, about.name, about.maxsize)
    if about.op not in mailbox.putters:
        hold(state, f"queue:{about.name}", about.keys)
    if mailbox.maxsize and len(mailbox.items) >= mailbox.maxsize:
        sharing.wait(state, mailbox.putters, client, number, about)
        if about.op not in mailbox.putters:  # it wouldn't wait
            let_go(state, f"queue:{about.name}", about.keys)
        return
    mailbox.items.append((about.item, about.keys))
    sharing.answer(state, client.client_id, number, about.op, True)
    _serve(state, about.name, mailbox)


def _queue_take(state: SchedulerState, client: ClientRecord, number: int, about: Take) -> None:
    if sharing.answered_before(state, client, number, about):
        return
    mailbox = _mailbox(state, about.name)
    if not mailbox.takers and len(mailbox.items) >= about.least:
        _give(state, about.name, mailbox, client.client_id, number, about)
    else:
        sharing.wait(state, mailbox.takers, client, number, about)
    _serve(state, about.name, mailbox)


def _serve(state: SchedulerState, name: str, mailbox: Mailbox) -> None:
    """Let those go on that can."""
    moved = True
    while moved:
        moved = False
        if mailbox.takers:
            op = next(iter(mailbox.takers))
            if len(mailbox.items) >= mailbox.takers[op].about.least:
                waiting = sharing.leave(state, mailbox.takers, op)
                _give(state, name, mailbox, waiting.client, waiting.number, waiting.about)
                moved = True
        while mailbox.putters and (not mailbox.maxsize or len(mailbox.items) < mailbox.maxsize):
            waiting = sharing.leave(state, mailbox.putters, next(iter(mailbox.putters)))
            mailbox.items.append((waiting.about.item, waiting.about.keys))
            sharing.answer(state, waiting.client, waiting.number, waiting.about.op, True)
            moved = True


def _give(state: SchedulerState, name: str, mailbox: Mailbox, client: ClientId, number: int, about: Take) -> None:
    count = len(mailbox.items) if not about.most else min(about.most, len(mailbox.items))
    items = [mailbox.items.popleft() for _ in range(count)]
    for _, keys in items:
        hand_over(state, f"queue:{name}", keys)
    sharing.answer(state, client, number, about.op, [item for item, _ in items])


def _queue_close(state: SchedulerState, client: ClientRecord, number: int, about: Request) -> None:
    mailbox = state.shared.mailboxes.pop(about.name, None)
    if mailbox is not None:
        for _, keys in mailbox.items:
            let_go(state, f"queue:{about.name}", keys)
        for line in (mailbox.putters, mailbox.takers):
            for op in list(line):
                waiting = sharing.leave(state, line, op)
                if line is mailbox.putters:
                    let_go(state, f"queue:{about.name}", waiting.about.keys)
                state.send(waiting.client, Answer(waiting.number, None, f"the queue {about.name} was closed"))
    state.send(client.client_id, Answer(number, True))


def queue_size(state: SchedulerState, name: str) -> int:
    """How many items a queue has."""
    mailbox = state.shared.mailboxes.get(name)
    return len(mailbox.items) if mailbox is not None else 0


# -- variables -----------------------------------------------------------------------------------------------------


def _variable_set(state: SchedulerState, client: ClientRecord, number: int, about: Put) -> None:
    slate = state.shared.slates.setdefault(about.name, Slate())
    before, slate.item = slate.item, (about.item, about.keys)
    hold(state, f"variable:{about.name}", about.keys)
    if before is not None:
        hand_over(state, f"variable:{about.name}", before[1])  # somebody may have got it just now
    state.send(client.client_id, Answer(number, True))
    while slate.line:
        waiting = sharing.leave(state, slate.line, next(iter(slate.line)))
        state.send(waiting.client, Answer(waiting.number, about.item))


def _variable_get(state: SchedulerState, client: ClientRecord, number: int, about: Request) -> None:
    slate = state.shared.slates.setdefault(about.name, Slate())
    if slate.item is None:
        sharing.wait(state, slate.line, client, number, about)
        return
    state.send(client.client_id, Answer(number, slate.item[0]))


def _variable_delete(state: SchedulerState, client: ClientRecord, number: int, about: Request) -> None:
    slate = state.shared.slates.get(about.name)
    if slate is not None and slate.item is not None:
        hand_over(state, f"variable:{about.name}", slate.item[1])
        slate.item = None
        if not slate.line:
            del state.shared.slates[about.name]
    state.send(client.client_id, Answer(number, True))


# -- for the machine -----------------------------------------------------------------------------------------------


def client_gone(state: SchedulerState, client: ClientId) -> None:
    """A client is gone for good; what it put somewhere stays."""
    for name, mailbox in state.shared.mailboxes.items():
        for op in [op for op, waiting in mailbox.putters.items() if waiting.client == client]:
            let_go(state, f"queue:{name}", sharing.leave(state, mailbox.putters, op).about.keys)
        sharing.drop_client(state, mailbox.takers, client)
    for slate in state.shared.slates.values():
        sharing.drop_client(state, slate.line, client)


def dump(state: SchedulerState) -> Any:
    """For a checkpoint."""
    return [
        [
            (name, one.maxsize, list(one.items), sharing.dump_line(state, one.putters),
             sharing.dump_line(state, one.takers))
            for name, one in state.shared.mailboxes.items()
        ],
        [(name, one.item, sharing.dump_line(state, one.line)) for name, one in state.shared.slates.items()],
        [(place, dict(counts)) for place, counts in state.shared.kept.items()],
        list(state.shared.answers.items()),
    ]  # fmt: skip


def load(state: SchedulerState, value: Any) -> None:
    """Take in what `dump` gave."""
    mailboxes, slates, kept, answers = value
    for name, maxsize, items, putters, takers in mailboxes:
        mailbox = state.shared.mailboxes[name] = Mailbox(maxsize)
        mailbox.items.extend((item, keys) for item, keys in items)
        sharing.load_line(state, mailbox.putters, Put, putters)
        sharing.load_line(state, mailbox.takers, Take, takers)
    for name, item, line in slates:
        slate = state.shared.slates[name] = Slate()
        slate.item = None if item is None else (item[0], item[1])
        sharing.load_line(state, slate.line, Request, line)
    for place, counts in kept:
        state.shared.kept[place] = Counter(counts)
    transit = list(state.shared.kept.get(TRANSIT, Counter()).elements())
    if transit:
        state.timers.at(state.now + sharing.KEPT, partial(let_go, state, TRANSIT, transit))
    state.shared.answers.update(answers)


#: see `requests`
QUESTIONS: dict[str, Callable[[SchedulerState, Any], Any]] = {"queue_size": queue_size}
REQUESTS: dict[str, Callable[[SchedulerState, ClientRecord, Ask], None]] = {
    "queue_open": sharing.request(Put, _queue_open),
    "queue_put": sharing.request(Put, _queue_put),
    "queue_take": sharing.request(Take, _queue_take),
    "queue_close": sharing.request(Request, _queue_close),
    "variable_set": sharing.request(Put, _variable_set),
    "variable_get": sharing.request(Request, _variable_get),
    "variable_delete": sharing.request(Request, _variable_delete),
}
recording.KEPT_TOPICS.update(REQUESTS)
