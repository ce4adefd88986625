"""Opens connections to AMQP brokers with Kombu: addresses, TLS, failover and login, and says plainly what failed.

Everything here blocks and happens before a link is started.
"""

from __future__ import annotations

import os
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

from amqp.exceptions import AccessRefused, AMQPError, NotAllowed, PreconditionFailed, ResourceLocked
from kombu.connection import Connection as KombuConnection

from futurebroker.broker_adapters.credentials import USER, derive_password
from futurebroker.broker_adapters.shortcut import HereTransport
from futurebroker.exceptions import (
    BrokerRefusedError,
    BrokerUnreachableError,
    ClusterConnectionError,
    ConfigError,
    SecretRefusedError,
)

_Place = TypeVar("_Place")

HEARTBEAT_SECONDS = 15
_PORTS = {"amqp": 5672, "amqps": 5671}
#: a write that the other side does not acknowledge for so long ends the connection (py-amqp's own default is 1 s,
#: which a broker that pauses publishers runs into)
_UNACKED_WRITE_MS = 30_000
_TLS_OPTIONS = {"cacertfile": "ca_certs", "certfile": "certfile", "keyfile": "keyfile"}


@dataclass(frozen=True, slots=True)
class Address:
    """One broker's address, taken apart."""

    is_tls: bool
    host: str
    port: int
    user: str
    password: str
    vhost: str
    tls_files: dict[str, str]  #: py-amqp's option -> path
    is_derived: bool  #: the password comes from the cluster's secret

    def __repr__(self) -> str:
        """The address as errors and logs may show it: without the password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        user = "" if self.is_derived else f"{self.user}@"
        path = "" if self.vhost == "/" else f"/{self.vhost}"
        return f"{'amqps' if self.is_tls else 'amqp'}://{user}{host}:{self.port}{path}"

    __str__ = __repr__


def parse_addresses(url: str, secret: bytes) -> list[Address]:
    """The alternatives of ``url``, separated by semicolons.

    An address without user and password is one of an embedded broker, whose password follows from ``secret``.

    Raises:
        ConfigError: a part is no address.
    """
    return [_parse_address(part.strip(), secret) for part in url.split(";") if part.strip()]


def _parse_address(url: str, secret: bytes) -> Address:
    try:
        parts = urlsplit(url if "://" in url else f"amqp://{url}")
        default_port = _PORTS[parts.scheme]
        port = parts.port or default_port
    except (KeyError, ValueError):
        # not shown: a password may stand in it
        raise ConfigError("a broker's address looks like amqp://user:password@host:5672/vhost") from None
    is_derived = parts.username is None and parts.password is None
    options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    unknown = sorted(set(options) - set(_TLS_OPTIONS))
    if unknown:
        raise ConfigError(f"a broker's address has no option {unknown[0]!r}; it has {', '.join(sorted(_TLS_OPTIONS))}")
    return Address(
        is_tls=parts.scheme == "amqps",
        host=parts.hostname or "127.0.0.1",
        port=port,
        user=USER if is_derived else unquote(parts.username or ""),
        password=derive_password(secret) if is_derived else unquote(parts.password or ""),
        vhost=unquote(parts.path[1:]) or "/",
        tls_files={_TLS_OPTIONS[name]: path for name, path in options.items()},
        is_derived=is_derived,
    )


def connect_first(addresses: list[_Place], deadline: float, open_one: Callable[[_Place, float], Any]) -> Any:
    """What ``open_one`` makes of the first address that works, within ``deadline`` (monotonic seconds).

    Raises:
        ClusterConnectionError: none works; the error is that of the last one tried.
    """
    for at, address in enumerate(addresses, 1):
        # an address that swallows packets must leave time for those behind it
        share = (deadline - time.monotonic()) / (len(addresses) - at + 1)
        try:
            return open_one(address, time.monotonic() + max(share, 0.01))
        except ClusterConnectionError:
            if at == len(addresses):
                raise
    raise ConfigError("the broker's address is empty")


def connect(address: Address, deadline: float, name: str) -> Any:
    """A py-amqp connection that is logged in and tuned; ``name`` is shown in the broker's own tools.

    Its socket has a timeout that runs out at ``deadline``; whoever uses it blocking renews that with
    `limit_time`.

    Raises:
        ClusterConnectionError: see `explain`.
    """
    is_ip6 = ":" in address.host
    tls: dict[str, Any] | bool = False
    if address.is_tls:
        tls = {"server_hostname": address.host, "cert_reqs": ssl.CERT_REQUIRED, **address.tls_files}
    remaining = max(deadline - time.monotonic(), 0.01)
    opener = KombuConnection(  # type: ignore[no-untyped-call]
        hostname=f"[{address.host}]" if is_ip6 else address.host,
        port=address.port,
        userid=address.user,
        password=address.password,
        virtual_host=address.vhost,
        transport=HereTransport if address.is_derived and not address.is_tls else "pyamqp",
        ssl=tls,
        connect_timeout=remaining,
        heartbeat=HEARTBEAT_SECONDS,
        login_method="PLAIN",
        transport_options={
            "socket_settings": _socket_settings(),
            "client_properties": {
                "product": "futurebroker",
                "connection_name": name,
                "capabilities": {"futurebroker.peer_death": True},
            },
        },
    )
    try:
        # Kombu's own connect() tries twice with a pause of two seconds; who reconnects is decided above
        connection = opener.transport.establish_connection()
        limit_time(connection, deadline)
    except (OSError, AMQPError) as error:
        raise explain(error, address) from error
    return connection


def limit_time(connection: Any, deadline: float) -> None:
    """Let the next blocking use of ``connection`` fail with a timeout at ``deadline``."""
    connection.transport.sock.settimeout(max(deadline - time.monotonic(), 0.01))


def explain(error: Exception, address: Address) -> ClusterConnectionError:
    """``error`` of Kombu, py-amqp or the socket as one of ours, with one sentence that says what to change."""
    where = str(address)
    if isinstance(error, AccessRefused):
        if "Login was refused" in str(error.reply_text) or error.method_sig in ((0, 0), (10, 11)):
            refused = SecretRefusedError if address.is_derived else BrokerRefusedError
            return refused(where, _login_hint(address))
        text = f"the user {address.user!r} needs configure, write and read permission for queues ({error.reply_text})"
        return BrokerRefusedError(where, text)
    if isinstance(error, NotAllowed):
        return BrokerRefusedError(where, f"the virtual host {address.vhost!r} is not there or not open to this user")
    if isinstance(error, PreconditionFailed):
        text = f"a queue exists with other settings; delete it or use another cluster name ({error.reply_text})"
        return BrokerRefusedError(where, text)
    if isinstance(error, ResourceLocked):
        return BrokerRefusedError(where, f"a queue belongs to someone else ({error.reply_text})")
    if isinstance(error, AMQPError):
        return BrokerRefusedError(where, str(error.reply_text or error))
    if isinstance(error, ssl.SSLCertVerificationError):
        return BrokerUnreachableError(where, f"its TLS certificate is not valid here: {error.verify_message}")
    if isinstance(error, ssl.SSLError) and not isinstance(error, TimeoutError):
        return BrokerUnreachableError(where, f"TLS failed ({error.reason or error}); does this port speak TLS?")
    if isinstance(error, TimeoutError):
        return BrokerUnreachableError(where, "it did not answer in time")
    if isinstance(error, socket.gaierror):
        return BrokerUnreachableError(where, f"there is no host {address.host!r}")
    if isinstance(error, ConnectionRefusedError):
        return BrokerUnreachableError(where, "nothing listens there (connection refused)")
    if isinstance(error, OSError) and ("closed connection" in str(error) or isinstance(error, ConnectionResetError)):
        # a broker that does not tell why closes the socket in the middle of the login
        return BrokerUnreachableError(where, f"it closed the connection during the login; {_login_hint(address)}")
    detail = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
    return BrokerUnreachableError(where, detail)


def _login_hint(address: Address) -> str:
    if address.is_derived:
        return "the password was not accepted: the secret here and the secret of the scheduler differ"
    return f"user and password were not accepted for the user {address.user!r}"


def _socket_settings() -> dict[int, int]:
    settings = {socket.TCP_NODELAY: 1}
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        settings[socket.TCP_USER_TIMEOUT] = _UNACKED_WRITE_MS
    return settings
