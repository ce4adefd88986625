"""What a client gives in parts is what it would have written to a file."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from futurebroker.client.giving import PART, Giving
from futurebroker.protocol.messages import DataPart, DataWanted, PutPart
from futurebroker.protocol.serialize import dump_frames, layout


@pytest.mark.parametrize(
    "value",
    [b"x" * 100_000, np.arange(200_000), [np.full(i % 5000, i) for i in range(300)] + [np.zeros(0), np.ones(99_999)]],
    ids=["one frame", "an array", "many buffers"],
)
def test_any_part_is_what_stands_there(value: Any) -> None:
    """Parts are asked for in any order, and again; padding between buffers counts as well."""
    frames = dump_frames(value)
    whole = b"".join(layout(frames))
    giving = Giving(PutPart("k", 0, len(whole), b""), frames)
    chance = random.Random(1)
    offsets = [0, len(whole) - 1, len(whole), len(whole) + 5, *(chance.randrange(len(whole)) for _ in range(50))]
    for offset in offsets:
        length = chance.choice((1, 100, 5000, PART, 10 * PART))
        part = giving.answer(DataWanted(7, "k", offset, length, "c", "w"))
        assert part == DataPart(7, "k", offset, len(whole), whole[offset : offset + min(length, PART)], "w")
