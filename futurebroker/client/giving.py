"""What a client scatters to workers that can't open its files and that it can't reach: they ask for it in parts."""

from __future__ import annotations

from bisect import bisect_right

from futurebroker.protocol.messages import DataPart, DataWanted, PutPart
from futurebroker.protocol.serialize import Buffer, layout

#: bytes of one part
PART = 512 * 1024


class Giving:
    """A value whose parts are given to whoever asks. It isn't copied before, so it mustn't change until that has all.

    Args:
        announcement: what told the scheduler of it, without data; to be sent again to another one.
    """

    def __init__(self, announcement: PutPart, frames: list[Buffer]) -> None:
        self.announcement = announcement
        self._pieces = [view for piece in layout(frames) if (view := memoryview(piece).cast("B"))]
        self._starts = [0]
        for piece in self._pieces:
            self._starts.append(self._starts[-1] + len(piece))

    def answer(self, wanted: DataWanted) -> DataPart:
        """The part that is asked for."""
        nbytes = self._starts[-1]
        end = min(nbytes, wanted.offset + min(wanted.length, PART))
        at, data = wanted.offset, bytearray()
        while 0 <= at < end:
            index = bisect_right(self._starts, at) - 1
            first = at - self._starts[index]
            found = self._pieces[index][first : first + end - at]
            data += found
            at += len(found)
        return DataPart(wanted.transfer, wanted.key, wanted.offset, nbytes, bytes(data), wanted.asker)
