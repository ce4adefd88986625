"""How tests of the Celery face wait."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

WAIT = 20.0


def get(result: Any) -> Any:
    """The result, waited for."""
    return result.get(timeout=WAIT)


def until(condition: Callable[[], Any]) -> Any:
    """Wait for what another process says only when asked."""
    end = time.monotonic() + WAIT
    while not (found := condition()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)
    return found
