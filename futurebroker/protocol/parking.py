"""What is kept of a command that was refused, where an operator finds it."""

from __future__ import annotations

import json
import time

#: bytes of a parked envelope that are kept
PARKED_BYTES = 1024 * 1024


def parked(queue: str, body: bytes, reason: str, text: str) -> bytes:
    """A line of JSON that says what and why, then the envelope as it came."""
    about = {"reason": reason, "text": text, "queue": queue, "bytes": len(body), "time": time.time()}
    return json.dumps(about).encode() + b"\n" + body[:PARKED_BYTES]
