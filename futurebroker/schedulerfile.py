"""Scheduler files: where a cluster is, written by one program for others to read, as on a cluster's shared disk.

A file holds the cluster's address, its name, and its secret: whoever reads it may run code on the workers. So it is
made for its owner's eyes only (mode 0600), and one with a secret that others may read isn't used. Without the secret it
may be read by anybody, and is no use without the secret.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from futurebroker.exceptions import ConfigError, SecretError

#: bytes that such a file may have
LIMIT = 64 * 1024
#: seconds between looks for a file that isn't there yet
LOOK_EVERY = 0.05


@dataclass(frozen=True, slots=True)
class SchedulerFile:
    """What stands in one."""

    address: str  #: URL of the broker
    cluster: str
    secret: str | None = None


def write(path: str | os.PathLike[str], told: SchedulerFile) -> None:
    """Write the file, all at once; one that is there is replaced.

    Raises:
        ConfigError: the address has a password, and the file is for everybody.
        OSError: it can't be written.
    """
    if told.secret is None and any(urlsplit(part).password for part in told.address.split(";")):
        raise ConfigError("the broker's address has a password, so a file with it is as secret as the secret itself")
    text = json.dumps({"type": "Scheduler", "address": told.address, "cluster": told.cluster, "secret": told.secret})
    target = Path(path)
    number, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(number, "w") as file:
            file.write(text + "\n")
            os.fchmod(file.fileno(), 0o600 if told.secret is not None else 0o644)
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def read(path: str | os.PathLike[str], timeout: float = 0.0) -> SchedulerFile:
    """Read the file; waits up to ``timeout`` seconds for it to be there.

    Raises:
        ConfigError: it isn't there, or isn't such a file.
        SecretError: others may read the secret in it.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            with open(path, "rb") as file:
                mode, data = os.fstat(file.fileno()).st_mode, file.read(LIMIT + 1)
            break
        except FileNotFoundError:
            if time.monotonic() >= deadline:
                raise ConfigError(
                    f"there is no scheduler file {os.fspath(path)} after {timeout:g} s; write it with futurebroker "
                    "scheduler --scheduler-file, or client.write_scheduler_file"
                ) from None
            time.sleep(LOOK_EVERY)
        except OSError as error:
            raise ConfigError(f"the scheduler file {os.fspath(path)} can't be read: {error.strerror}") from None
    told = _parsed(path, data)
    if told.secret is not None and stat.S_IMODE(mode) & 0o077:
        raise SecretError(
            f"others may read the secret in {os.fspath(path)}: run chmod 600 on it, and if they may have read it, "
            "start the cluster with another secret"
        )
    return told


def remove(path: str | os.PathLike[str], told: SchedulerFile) -> None:
    """Take away what `write` wrote, unless somebody else has written there since."""
    with contextlib.suppress(OSError, ConfigError, SecretError):
        if read(path) == told:
            os.unlink(path)


def _parsed(path: str | os.PathLike[str], data: bytes) -> SchedulerFile:
    try:
        told: Any = json.loads(data) if len(data) <= LIMIT else None
        address, cluster, secret = told["address"], told["cluster"], told["secret"]
    except (ValueError, LookupError, TypeError, RecursionError):
        address = cluster = secret = None
    if not (isinstance(address, str) and isinstance(cluster, str) and (secret is None or isinstance(secret, str))):
        raise ConfigError(
            f"{os.fspath(path)} is no scheduler file of futurebroker: address, cluster and secret are needed"
        )
    return SchedulerFile(address, cluster, secret)
