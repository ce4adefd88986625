"""Serves the site from this process, for `futurebroker web`, local clusters and tests; deployments have gunicorn."""

from __future__ import annotations

import logging
import socket
import threading
from typing import Any

from flask import Flask
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from futurebroker.config import Settings
from futurebroker.web.app import create_app
from futurebroker.web.auth import OPERATOR
from futurebroker.web.site import EXTENSION, Site

logger = logging.getLogger("futurebroker.web")


class _QuietHandler(WSGIRequestHandler):
    """Logs no line a request: a page asks once a second."""

    protocol_version = "HTTP/1.1"

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        logger.debug("%s %s", self.requestline if hasattr(self, "requestline") else "", code)

    def log(self, type: str, message: str, *args: Any) -> None:
        logger.debug(message, *args)

    def version_string(self) -> str:
        return "futurebroker"


class SiteServer:
    """The site on a socket of its own, served by threads; `start` returns when it can be asked.

    Args:
        port: 0 takes any free one.
        spare: take any free port when ``port`` is taken, and say so.

    Raises:
        OSError: the port is taken.
    """

    def __init__(self, settings: Settings, *, host: str, port: int, spare: bool = False, **site: Any) -> None:
        self._socket = _listen(host, port, spare)
        self.port: int = self._socket.getsockname()[1]
        named = f"[{host}]" if ":" in host else host
        #: where it is for others, without the token
        self.address = f"http://{socket.gethostname() if host in ('0.0.0.0', '::') else named}:{self.port}/"
        self.app: Flask = create_app(settings, link=self.address, **site)
        self.site: Site = self.app.extensions[EXTENSION]
        self._server: BaseWSGIServer = make_server(
            host, self.port, self.app, threaded=True, request_handler=_QuietHandler, fd=self._socket.fileno()
        )
        self._server.daemon_threads = True  # type: ignore[attr-defined]
        serve = self._server.serve_forever
        self._thread = threading.Thread(target=serve, args=(0.1,), name="futurebroker-web", daemon=True)

    @property
    def link(self) -> str:
        """The address with the operator's token in it, for who started the site."""
        door = self.site.guard.door
        return f"{self.address}?token={door.token_for(OPERATOR)}"

    def start(self) -> None:
        """Serve from now on."""
        self.site.collector.start()
        self._thread.start()

    def close(self) -> None:
        """Stop serving and leave the cluster; open streams end."""
        self.site.close()
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()
        self._socket.close()


def _listen(host: str, port: int, spare: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
        except OSError:
            if not spare:
                raise
            logger.info("port %s is taken; the dashboard takes another", port)
            listening.bind((host, 0))
        listening.listen(128)
    except BaseException:
        listening.close()
        raise
    return listening
