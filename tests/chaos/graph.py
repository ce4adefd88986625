"""A layered random graph of integers, and its right answer worked out without any scheduling.

The value of a task is H(task, values of its inputs) mod p, so one wrong, missing or swapped input anywhere shows in
the value of everything after it.
"""

from __future__ import annotations

import hashlib
import random
import time
from dataclasses import dataclass

from tests.chaos.ledger import write_down

PRIME = 2**61 - 1
#: tasks that a task depends on, at the most
INPUTS_MAX = 3
#: the share of tasks whose result is too large for the scheduler to keep, so that it is lost with its worker
LARGE_SHARE = 0.05
LARGE_BYTES = 100_000


@dataclass(frozen=True)
class Node:
    """One task of the graph."""

    key: str
    inputs: tuple[int, ...]  #: positions in the graph
    seconds: float
    padding: int  #: bytes that make its result large


def value_of(key: str, inputs: list[int]) -> int:
    """H(task, inputs) mod p."""
    digest = hashlib.blake2b(f"{key}:{inputs}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % PRIME


def layered(seed: int, tasks: int, seconds: float, prefix: str) -> list[Node]:
    """``tasks`` tasks of ``seconds`` on average, in layers; each depends on some of the two layers before."""
    choose = random.Random(f"graph {seed}")
    width = max(4, round(tasks**0.5))
    graph = []
    for position in range(tasks):
        layer = position // width
        before = range(max(0, layer - 2) * width, layer * width)
        inputs = choose.sample(before, choose.randint(1, INPUTS_MAX)) if before else []
        padding = LARGE_BYTES if choose.random() < LARGE_SHARE else 0
        graph.append(Node(f"{prefix}-{position}", tuple(inputs), seconds * choose.uniform(0.2, 1.8), padding))
    return graph


def answers(graph: list[Node]) -> list[int]:
    """What each task must come to."""
    values: list[int] = []
    for node in graph:
        values.append(value_of(node.key, [values[position] for position in node.inputs]))
    return values


def work(ledger: str, key: str, seconds: float, padding: int, *inputs: tuple[int, bytes]) -> tuple[int, bytes]:
    """A task: note that it begins, take its time, and give its value; what large inputs carry along must be whole."""
    write_down(ledger, key)
    if any(padded.strip(b"x") for _, padded in inputs):
        raise ValueError(f"an input of {key} is damaged")
    time.sleep(seconds)
    return value_of(key, [value for value, _ in inputs]), b"x" * padding
