"""Who is told of events as they are logged, by their topics; a client says so with its hello as well (sans-IO)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from futurebroker.protocol.messages import Answer, Ask, Published, Said
from futurebroker.scheduler import terms
from futurebroker.scheduler.records import ClientRecord, WorkerRecord
from futurebroker.scheduler.state import SchedulerState
from futurebroker.scheduler.stories import wall
from futurebroker.types import ClientId

#: topics that a client may subscribe to, and bytes of a topic; all of them must find room in a hello
MOST = 100
LENGTH = 255


def _checked(topic: Any) -> str:
    if not isinstance(topic, str) or not 0 < len(topic.encode()) <= LENGTH:
        raise ValueError(f"a topic is a text of 1 to {LENGTH} characters, fewer if they aren't ASCII")
    return topic


def subscribed(state: SchedulerState, client: ClientId) -> list[str]:
    """The topics of a client."""
    return [topic for topic, clients in state.operations.subscribers.items() if client in clients]


def client_joined(state: SchedulerState, client: ClientId, topics: Any) -> None:
    """A client is there, or there again, and says which topics it wants to be told of."""
    client_gone(state, client)
    if isinstance(topics, list):
        for topic in topics[:MOST]:
            if isinstance(topic, str):
                state.operations.subscribers.setdefault(topic[:LENGTH], {})[client] = None


def client_gone(state: SchedulerState, client: ClientId) -> None:
    """It is told of nothing any more."""
    _leave(state, client, subscribed(state, client))


def _leave(state: SchedulerState, client: ClientId, topics: Iterable[str]) -> None:
    subscribers = state.operations.subscribers
    for topic in topics:
        clients = subscribers.get(topic, {})
        clients.pop(client, None)
        if not clients:
            subscribers.pop(topic, None)


def _subscribe(state: SchedulerState, client: ClientId, topic: str) -> None:
    if len(subscribed(state, client)) >= MOST:
        raise ValueError(f"a client may subscribe to {MOST} topics")
    state.operations.subscribers.setdefault(topic, {})[client] = None


def told(state: SchedulerState, worker: WorkerRecord, message: Said) -> None:
    """An executor has an event for who subscribed; it isn't kept."""
    about = message.about
    topic = about.get("topic") if isinstance(about, dict) else None
    if not isinstance(topic, str):
        state.counters["unexpected"] += 1
        return
    for client in state.operations.subscribers.get(topic, ()):
        state.send(client, Published(topic, wall(state, state.now), about.get("event")))


def _request(act: Callable[[SchedulerState, ClientId, str], None]) -> Callable[..., None]:
    def request(state: SchedulerState, client: ClientRecord, message: Ask) -> None:
        try:
            act(state, client.client_id, _checked(message.about))
        except ValueError as error:
            state.send(client.client_id, Answer(message.number, None, f"{message.topic}: {error}"))
        else:
            state.send(client.client_id, Answer(message.number))

    return request


#: see `requests.REQUESTS`
REQUESTS: dict[str, Callable[[SchedulerState, ClientRecord, Ask], None]] = {
    "subscribe_topic": _request(_subscribe),
    "unsubscribe_topic": _request(lambda state, client, topic: _leave(state, client, [topic])),
}
terms.SAYINGS["event"] = told
