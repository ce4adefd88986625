"""A process with a link of its own, for tests that kill it: ``link_peer URL MODE QUEUE REPLY_TO``.

``echo`` sends what its inbox QUEUE gets to REPLY_TO; ``flood`` sends numbered bodies of a mebibyte there for ever;
``hold`` reads the command queue QUEUE, tells REPLY_TO of each body, and acknowledges nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys

from futurebroker.transport.base import Queue, QueueKind
from tests.integration.brokers import Owner, connect

SIZE = 1024 * 1024
#: bodies that a flood may be ahead of its reader
AHEAD = 4


def numbered(number: int) -> bytes:
    """A body that shows its number and whether it is whole."""
    filling = number.to_bytes(4, "big") * (SIZE // 4)
    return number.to_bytes(4, "big") + hashlib.sha256(filling).digest() + filling


def number_of(body: bytes) -> int:
    """The number of a whole body.

    Raises:
        ValueError: it was cut or mixed up.
    """
    if hashlib.sha256(body[36:]).digest() != body[4:36]:
        raise ValueError("not a whole body")
    return int.from_bytes(body[:4], "big")


async def more_than(owner: Owner, count: int) -> None:
    """Wait until over ``count`` bodies have arrived, or the link has ended."""
    await owner.until(lambda owner: len(owner.received_bodies) > count or owner.ends, timeout=60)


async def echo(owner: Owner, reply_to: str) -> None:
    answered = 0
    while not owner.ends:
        await more_than(owner, answered)
        for body in owner.received_bodies[answered:]:
            owner.link.send(reply_to, body)
            answered += 1
        owner.flush()


async def flood(owner: Owner, reply_to: str) -> None:
    number = 0
    while not owner.ends:
        owner.link.send(reply_to, numbered(number))
        owner.flush()
        number += 1
        await more_than(owner, number - AHEAD)


async def main(url: str, mode: str, queue: str, reply_to: str) -> None:
    kind = QueueKind.COMMAND if mode == "hold" else QueueKind.INBOX
    owner = await connect(url, [Queue(queue, kind)], acks=mode != "hold")
    print("ready", flush=True)
    await (flood if mode == "flood" else echo)(owner, reply_to)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
