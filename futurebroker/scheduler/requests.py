"""What a client may ask for by `Ask`: questions, answered at once, and requests, answered when they have been met.

A subject that clients can ask about brings its own two dicts and is named here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from futurebroker.protocol.messages import Answer, Ask
from futurebroker.scheduler import (
    beat,
    copying,
    datasets,
    ending,
    families,
    followers,
    leases,
    limits,
    mailboxes,
    metadata,
    observe,
    outcomes,
    revoking,
    rounds,
    shelving,
    steering,
    stories,
    tending,
    topics,
    viewing,
)
from futurebroker.scheduler.records import ClientRecord
from futurebroker.scheduler.state import SchedulerState

#: topic -> what answers ``about`` from the state; TypeError, AttributeError and ValueError become the answer's error
QUESTIONS: dict[str, Callable[[SchedulerState, Any], Any]] = {
    **observe.TOPICS,
    **outcomes.TOPICS,
    **beat.TOPICS,
    **revoking.TOPICS,
    **steering.TOPICS,
    **viewing.TOPICS,
    **copying.QUESTIONS,
    **families.QUESTIONS,
    **followers.QUESTIONS,
    **stories.QUESTIONS,
    **tending.QUESTIONS,
    **leases.QUESTIONS,
    **limits.TOPICS,
    **mailboxes.QUESTIONS,
    **metadata.QUESTIONS,
    **datasets.QUESTIONS,
}

#: topic -> what takes the request up; it sends the Answer itself, now or after a later event
REQUESTS: dict[str, Callable[[SchedulerState, ClientRecord, Ask], None]] = {
    "wait_for_workers": observe.wait_for_workers,
    **beat.REQUESTS,
    **copying.REQUESTS,
    **rounds.REQUESTS,
    **tending.REQUESTS,
    **topics.REQUESTS,
    **ending.REQUESTS,
    **leases.REQUESTS,
    **mailboxes.REQUESTS,
    **datasets.REQUESTS,
}


#: questions about keys, which may have left the memory
SOUGHT = frozenset({"task_metas"})


def ask(state: SchedulerState, client: ClientRecord, message: Ask) -> None:
    """Answer a question, or take a request up."""
    request = REQUESTS.get(message.topic)
    if request is not None:
        request(state, client, message)
        return
    question = QUESTIONS.get(message.topic)
    if state.shelf is not None and message.topic in SOUGHT and question is not None:
        if shelving.seek(state, message.about, partial(_answer, state, client, message, question)):
            return
    if question is None:
        known = ", ".join(sorted({*QUESTIONS, *REQUESTS}))
        error = f"unknown topic {message.topic!r}; known are {known}"
        state.send(client.client_id, Answer(message.number, None, error))
        return
    _answer(state, client, message, question)


def _answer(
    state: SchedulerState, client: ClientRecord, message: Ask, question: Callable[[SchedulerState, Any], Any]
) -> None:
    if state.clients.get(client.client_id) is not client:
        return
    try:
        value = question(state, message.about)
    except (TypeError, AttributeError, ValueError, LookupError) as error:
        state.send(client.client_id, Answer(message.number, None, f"{message.topic} of {message.about!r}: {error}"))
    else:
        state.send(client.client_id, Answer(message.number, value))
