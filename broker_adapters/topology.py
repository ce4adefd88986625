"""How queues are used by every adapter; their names are `futurebroker.protocol.queues`' business."""

from __future__ import annotations

#: deliveries of a command queue that its reader may hold unacknowledged
COMMAND_PREFETCH = 300
