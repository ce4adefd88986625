"""The way to an embedded broker of this machine that spares TCP: a Unix socket, named after the port it stands for.

Its name is in Linux's abstract space, which belongs to the network namespace as ports do: no file to make, to guard or
to leave behind. Who connects checks that the other side is the same user, which a port can't tell; with any doubt the
way is TCP.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from struct import Struct
from typing import Any

from amqp.connection import Connection
from amqp.transport import TCPTransport
from kombu.transport.pyamqp import Transport

_CREDENTIALS = Struct("3i")  #: pid, uid, gid
#: the address an embedded broker of this machine is known by; what listens on all addresses listens there, too
_HERE = "127.0.0.1"


def _name(port: int) -> str:
    return f"\0futurebroker/{_HERE}:{port}"


def listen_here(listener: socket.socket, backlog: int) -> socket.socket | None:
    """A second, non-blocking listener beside the TCP ``listener``; None where there can't be one."""
    if listener.family != socket.AF_INET or listener.getsockname()[0] not in (_HERE, "0.0.0.0"):
        return None
    here = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        here.bind(_name(listener.getsockname()[1]))
        here.listen(backlog)
    except OSError:
        here.close()
        return None
    here.setblocking(False)
    return here


def connect_here(host: str, port: int, timeout: float | None) -> socket.socket | None:
    """A socket to the broker that serves ``port`` of this machine; None when the way is TCP."""
    if not _is_here(host):
        return None
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout)
        sock.connect(_name(port))
        _, user, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    except OSError:
        sock.close()
        return None
    if user != os.getuid():
        sock.close()
        return None
    return sock


def _is_here(host: str) -> bool:
    try:
        return host == "localhost" or str(ipaddress.ip_address(host)) == _HERE
    except ValueError:
        return False


class _HereTransport(TCPTransport):  # type: ignore[misc]
    def _connect(self, host: str, port: int, timeout: float | None) -> None:
        sock = connect_here(host, port, timeout)
        if sock is None:
            super()._connect(host, port, timeout)
        else:
            self.sock = sock

    def _set_socket_options(self, settings: dict[int, int] | None) -> None:
        if self.sock.family != socket.AF_UNIX:
            super()._set_socket_options(settings)


class _HereConnection(Connection):  # type: ignore[misc]
    def Transport(  # noqa: N802 - py-amqp's name for what makes its transport
        self,
        host: str,
        connect_timeout: float | None,
        ssl: object = False,
        read_timeout: float | None = None,
        write_timeout: float | None = None,
        **options: Any,
    ) -> TCPTransport:
        return _HereTransport(
            host, connect_timeout=connect_timeout, read_timeout=read_timeout, write_timeout=write_timeout, **options
        )


class HereTransport(Transport):
    """Kombu's transport for embedded brokers: over their Unix socket where there is one, else over TCP."""

    Connection = _HereConnection
