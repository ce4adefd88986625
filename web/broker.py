"""How deep the cluster's queues at the broker are: looked up aside, at most every few seconds, and only when asked."""

from __future__ import annotations

import threading
import time
from typing import Any

from futurebroker.broker_adapters.inspection import inspect
from futurebroker.config import hide_password
from futurebroker.exceptions import FuturebrokerError
from futurebroker.protocol.queues import command_queue, dead_queue

#: seconds that figures are good for
FRESH = 10.0
#: seconds the broker has to answer
TIMEOUT = 5.0

_PURPOSES = {"cmd": "commands of clients, and everybody's hello", "dead": "messages that could not be trusted"}


class BrokerProbe:
    """Figures of one cluster's broker; may be asked from any thread."""

    def __init__(self, url: str, cluster: str, secret: bytes) -> None:
        self._url = url
        self._secret = secret
        self._names = [command_queue(cluster), dead_queue(cluster)]
        self._lock = threading.Lock()
        self._asked = 0.0
        self._known: dict[str, Any] = {"product": "", "queues": [], "trouble": "not asked yet", "at": None}
        self._is_amqp = url.partition("://")[0] in ("amqp", "amqps")
        if not self._is_amqp:
            self._known["trouble"] = f"a {url.partition('://')[0]} broker tells nothing of its queues"
        self._known["url"] = hide_password(url)

    def figures(self) -> dict[str, Any]:
        """What is known now; has newer figures fetched for the next time when these are old."""
        with self._lock:
            if self._is_amqp and time.monotonic() - self._asked > FRESH:
                self._asked = time.monotonic()
                threading.Thread(target=self._look, name="web-broker-probe", daemon=True).start()
            return dict(self._known)

    def _look(self) -> None:
        try:
            seen = inspect(self._url, self._names, secret=self._secret, timeout=TIMEOUT)
        except (FuturebrokerError, OSError) as error:
            with self._lock:
                self._known["trouble"] = str(error)
            return
        queues = [
            {
                "name": name, "purpose": _PURPOSES[name.rpartition(".")[2]],
                "messages": found.messages if found is not None else None,
                "consumers": found.consumers if found is not None else None,
            }
            for name, found in seen.queues.items()
        ]  # fmt: skip
        with self._lock:
            self._known = {
                **self._known, "product": seen.product, "tls": seen.is_tls, "queues": queues, "trouble": "",
                "at": time.time(),
            }  # fmt: skip
