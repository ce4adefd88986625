"""Which ways data may take, and what direct connections are made with."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from futurebroker.data.channel import Credentials
from futurebroker.exceptions import ConfigError
from futurebroker.secret import is_loopback

#: best first: a file on the same host, a connection to who has it, pieces through the broker by a second connection
#: there, pieces that the scheduler passes on
MAP, DIRECT, BULK, RELAY = WAYS = ("map", "direct", "bulk", "relay")


def credentials_of(transfer: Mapping[str, Any], secret: bytes, cluster: str) -> Credentials:
    """What direct connections are made with.

    Args:
        transfer: see `futurebroker.config.data_transfer`.

    Raises:
        ConfigError: a certificate can't be used.
    """
    server: ssl.SSLContext | None = None
    client: ssl.SSLContext | None = None
    cert, key, authority = (transfer.get(name) for name in ("tls_cert", "tls_key", "tls_ca"))
    try:
        if cert:
            server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            server.load_cert_chain(cert, key)
        if authority:
            client = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=authority)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"a certificate for direct transfers can't be used: {error}") from error
    return Credentials(secret, cluster, server, client)


def listening_place(wanted: str, broker_url: str) -> tuple[str, int] | None:
    """Where a worker listens for direct transfers; None: nowhere.

    Args:
        wanted: "none", ``host`` or ``host:port``, or "auto": nowhere when the broker is on this machine, where others
            map the files, else at the address from which this machine reaches the broker.
    """
    if wanted == "none":
        return None
    if wanted != "auto":
        host, _, port = wanted.rpartition(":") if wanted.rpartition(":")[2].isdecimal() else (wanted, "", "0")
        return host.strip("[]"), int(port)
    if is_loopback(broker_url):
        return None
    parts = urlsplit(broker_url.partition(";")[0])
    try:
        found = socket.getaddrinfo(parts.hostname, parts.port or 5672, type=socket.SOCK_DGRAM)
        family, kind, _, _, place = found[0]
        with socket.socket(family, kind) as probe:
            probe.connect(place)  # sends nothing
            return str(probe.getsockname()[0]), 0
    except (OSError, ValueError):
        return None
