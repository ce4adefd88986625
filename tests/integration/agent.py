"""A worker with real executors and, in the scheduler's place, a test that sends and collects messages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from futurebroker.protocol import serialize
from futurebroker.protocol.messages import AddFunction, Erred, Finished, Held, Leave, Message, Run, Welcome
from futurebroker.protocol.refs import TaskRef
from futurebroker.worker.service import WorkerService


class Mailbox:
    """The worker's conversation with the scheduler: what it sends is kept, what the test sends is delivered."""

    #: see `Member.bulk_url`
    bulk_url = ""

    def __init__(self, _role: object, name: str, *, events: WorkerService, **_settings: Any) -> None:
        self.worker_id = name
        self.events = events
        self.mail: list[Any] = []
        self.heartbeats: list[tuple[str, dict[str, Any]]] = []
        self.goodbye: str | None = None
        self._known: set[bytes] = set()
        self._news = asyncio.Event()

    async def connect(self, timeout: float) -> None:
        """The scheduler accepts at once."""
        self.events.welcomed(Welcome(1, 0, "inbox", settings={"heartbeat": 0.05}), True)

    def send(self, *messages: Message) -> None:
        """The worker says something."""
        self.mail += messages
        self._news.set()

    def send_now(self, *messages: Message) -> None:
        self.send(*messages)

    def flush(self) -> None:
        """All is there already."""

    def heartbeat(self, status: str, metrics: dict[str, Any]) -> None:
        """The worker is alive."""
        self.heartbeats.append((status, metrics))
        self._news.set()
        if status == "closing":
            self.events.deliver([Leave("nothing that is needed is left there")])

    async def close(self, reason: str = "") -> None:
        """The worker leaves."""
        self.goodbye = reason

    # -- the test's side --------------------------------------------------------------------------------------------

    def submit(self, key: str, function: Callable[..., Any], *arguments: Any, attempt: int = 1) -> None:
        """Send a task; `Held` among its arguments are its inputs."""
        digest, code = serialize.dump_function(function)
        inputs = tuple(argument for argument in arguments if isinstance(argument, Held))
        places = [TaskRef(inputs.index(a)) if isinstance(a, Held) else a for a in arguments]
        messages: list[Message] = []
        if digest not in self._known:
            self._known.add(digest)
            messages.append(AddFunction(digest, "f", code))
        messages.append(Run(key, attempt, digest, serialize.dumps((tuple(places), {})), inputs))
        self.events.deliver(messages)

    async def until(self, condition: Callable[[], Any]) -> Any:
        """Wait until ``condition`` holds; what it gave."""
        while not (met := condition()):
            self._news.clear()
            await self._news.wait()
        return met

    async def answer(self, key: str, attempt: int = 1) -> Any:
        """The message that answers an attempt of a task."""

        def find() -> Any:
            answers = ((getattr(m, "key", ""), getattr(m, "attempt", 0), m) for m in self.mail)
            return next((m for name, number, m in answers if (name, number) == (key, attempt)), None)

        return await self.until(find)

    async def value(self, key: str, attempt: int = 1) -> Any:
        """The result of a task, opened."""
        answer = await self.answer(key, attempt)
        assert isinstance(answer, Finished), answer
        assert answer.value is not None
        return serialize.loads(answer.value)

    async def error(self, key: str) -> BaseException:
        """The exception of a task, opened."""
        answer = await self.answer(key)
        assert isinstance(answer, Erred), answer
        return serialize.load_failure(answer.failure)


@asynccontextmanager
async def working(**settings: Any) -> AsyncIterator[Mailbox]:
    """A worker that runs; it is closed afterwards."""
    boxes: list[Mailbox] = []

    def make_link(*arguments: Any, **keywords: Any) -> Mailbox:
        boxes.append(Mailbox(*arguments, **keywords))
        return boxes[0]

    service = WorkerService(url="", cluster="test", secret=b"", make_link=make_link, name="w", **settings)
    await service.start(30)
    try:
        async with asyncio.timeout(30):
            yield boxes[0]
    finally:
        await service.close(drain=False)
