"""What the commands print and read: start lines, and resources as people write them."""

from __future__ import annotations

import shlex
import socket
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from futurebroker.config import SETTINGS, Settings, hide_password
from futurebroker.exceptions import ConfigError


def harmless(text: str) -> str:
    """What users named or printed, in one line and without what would steer the terminal."""
    return text if text.isprintable() else "".join(mark if mark.isprintable() else "·" for mark in text.expandtabs())


def scheduler_lines(settings: Settings, url: str, storage: Mapping[str, Any] | None = None) -> list[str]:
    """What a scheduler that serves at ``url`` and writes to ``storage`` tells whoever started it."""
    if storage is None:
        journal = "journal: none, nothing survives the end of this process"
    else:
        journal = f"journal: {storage['mode']}, in {hide_password(storage['database'])}"
    return [
        f"scheduler serves at {hide_password(url)}, cluster {settings.cluster}",
        journal,
        f"add a worker with: {worker_command(settings, url)}",
        "stop with Ctrl-C",
    ]


def worker_command(settings: Settings, url: str) -> str:
    """The command that adds a worker, from another terminal or machine."""
    command = ["futurebroker", "worker", reachable_address(settings, url)]
    if settings.cluster != SETTINGS["cluster"].default:
        command += ["--cluster", settings.cluster]
    return shlex.join(command)


def reachable_address(settings: Settings, url: str) -> str:
    """The shortest address under which others reach the scheduler."""
    if settings.broker_url is not None:
        return hide_password(url)
    place = urlsplit(url)
    host = place.hostname or settings.host
    if host in ("0.0.0.0", "::"):
        host = socket.gethostname()
    return f"[{host}]:{place.port}" if ":" in host else f"{host}:{place.port}"


def parse_resources(text: str) -> dict[str, float]:
    """Amounts by name of ``GPU=2 MEM=1e9``; commas may stand for spaces.

    Raises:
        ConfigError: it reads differently, or an amount is negative.
    """
    resources = {}
    for part in text.replace(",", " ").split():
        name, _, amount = part.partition("=")
        try:
            resources[name] = float(amount)
        except ValueError:
            resources[name] = -1.0
        if not name or not 0 <= resources[name] < float("inf"):
            raise ConfigError(f"{part!r} in --resources is no amount; write it like: --resources 'GPU=2 MEM=1e9'")
    return resources
