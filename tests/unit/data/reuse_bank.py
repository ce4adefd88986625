"""Writers and readers of values in files that are written again and again, as processes that a test can kill.

A value is one number, over and over, so that a single page of another value shows. ``reader`` maps what it is told of,
holds some maps and looks at pages of them that nobody has touched yet; ``writer`` writes to files that were freed.
"""

from __future__ import annotations

import random
import struct
import sys
from pathlib import Path

from futurebroker.data import reuse
from futurebroker.data.files import map_value, open_new, write_to
from futurebroker.data.reuse import FreedFiles

PAGE = 4096
_NUMBER = struct.Struct("<Q")
#: maps that a reader holds
_HELD = 3


def value_of(number: int, nbytes: int) -> bytes:
    """A value that holds nothing but its number."""
    return _NUMBER.pack(number) * (nbytes // _NUMBER.size)


def _is_wrong(number: int, view: memoryview, at: int) -> bool:
    page = bytes(view[at : at + PAGE])
    return page != value_of(number, len(page))


def read(seed: int) -> None:
    """Lines of a path and its number come in; ``ok``, ``gone`` or ``wrong`` goes out for each."""
    chance = random.Random(seed)
    held: list[tuple[int, memoryview, list[int]]] = []
    for line in sys.stdin:
        path, number = line.split()
        answer = "ok"
        try:
            view = map_value(path)
        except FileNotFoundError:
            answer = "gone"
        else:
            pages = list(range(0, len(view), PAGE))
            chance.shuffle(pages)
            held.append((int(number), view, pages))
        for known, view, pages in held:
            if pages and _is_wrong(known, view, pages.pop()):
                answer = "wrong"
        if len(held) > _HELD:
            known, view, pages = held.pop(chance.randrange(len(held)))
            if any(_is_wrong(known, view, at) for at in pages):
                answer = "wrong"
            del view, pages
        print(answer, flush=True)


def write(store: str, blind: bool) -> None:
    """Lines of a path, a number and bytes come in; ``again`` or ``new`` goes out when that value is there.

    Args:
        blind: don't ask whether somebody uses a file: the mistake that readers have to see.
    """
    if blind:
        reuse.others_use = lambda number: False
    freed = FreedFiles(Path(store))
    for line in sys.stdin:
        path, number, nbytes = line.split()
        taken = freed.take(int(nbytes), path)
        descriptor = taken[0] if taken is not None else open_new(path)
        write_to(descriptor, path, [value_of(int(number), int(nbytes))])
        print("again" if taken is not None else "new", flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "reader":
        read(int(sys.argv[2]))
    else:
        write(sys.argv[2], sys.argv[3] == "blind")
