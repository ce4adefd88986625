"""How queues are used by every adapter; their names are `futurebroker.protocol.queues`' business."""

from __future__ import annotations

#: deliveries of a command queue that its reader may hold unacknowledged
COMMAND_PREFETCH = 300
#: what a queue of parked commands keeps; the oldest is dropped first
DEAD_LENGTH = 1000
DEAD_BYTES = 64 * 1024 * 1024
#: tokens that wait for who watches, at most
TOKENS_LENGTH = 10_000
