"""What is kept of a command that was refused, where an operator finds it."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter

logger = logging.getLogger("futurebroker.endpoint")

#: bytes of a parked envelope that are kept
PARKED_BYTES = 1024 * 1024


def parked(queue: str, body: bytes, reason: str, text: str) -> bytes:
    """A line of JSON that says what and why, then the envelope as it came."""
    about = {"reason": reason, "text": text, "queue": queue, "bytes": len(body), "time": time.time()}
    return json.dumps(about).encode() + b"\n" + body[:PARKED_BYTES]


class Rejections(Counter[str]):
    """Envelopes that were dropped, by reason; the first of each is logged."""

    def note(self, reason: str, text: str) -> None:
        """Count one more."""
        self[reason] += 1
        if self[reason] == 1:
            logger.warning("dropped %s; more of this kind are only counted", text)
