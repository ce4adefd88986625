"""The cluster's secret, and addresses as people write them.

The secret is text. It comes from the variable FUTUREBROKER_SECRET, or from a file that only its owner can read; the
file is made on first local use. Both hold the same text, so one machine's file can become another's variable.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import ipaddress
import os
import secrets
import stat
from pathlib import Path

from futurebroker.config import Settings, default_secret_file, hide_password
from futurebroker.exceptions import ConfigError, SecretError

#: Schemes of the brokers and links this project has.
SCHEMES = ("amqp", "amqps", "memory", "redis", "rediss")
_VARIABLE = "FUTUREBROKER_SECRET"
_LARGEST_SECRET = 4096


def operator_proof(secret: bytes, channel: str) -> bytes:
    """What shows that somebody knows the operator's secret, for one channel to a console."""
    return hmac.digest(secret, f"futurebroker channel {channel}".encode(), "sha256")


# -- addresses -----------------------------------------------------------------------------------------------------


def normalize_address(address: str, settings: Settings) -> str:
    """The URL of an address: ``scheduler`` and ``scheduler:8786`` stand for ``amqp://scheduler:8786``.

    A URL passes as it is when its scheme is one of ``SCHEMES`` or begins with ``kombu+``; its missing port is its
    scheme's, not ours.
    """
    address = address.strip()
    scheme, separator, _ = address.partition("://")
    if separator:
        if scheme.lower() not in SCHEMES and not scheme.lower().startswith("kombu+"):
            raise ConfigError(f"{hide_password(address)}: the scheme {scheme} is not one of {', '.join(SCHEMES)}")
        return scheme.lower() + address[len(scheme) :]
    place, slash, path = address.partition("/")
    credentials, at, place = place.rpartition("@")
    host, port = _split_port(place, settings)
    return f"amqp://{credentials}{at}{host}:{port}{slash}{path}"


def _split_port(place: str, settings: Settings) -> tuple[str, int]:
    """Host and port of ``host``, ``host:port``, ``:port``, ``[::1]:port`` or ``::1``."""
    if _is_ip(place):
        return (f"[{place}]" if ":" in place else place), settings.port
    host, colon, port = place.rpartition(":")
    if not colon or place.endswith("]"):
        host, port = place, str(settings.port)
    number = int(port) if port.isdecimal() else 0
    named = host.startswith("[") and host.endswith("]") and _is_ip(host[1:-1])
    if not 0 < number < 65536 or (":" in host and not named) or not place or any(map(str.isspace, place)):
        raise ConfigError(f"{place!r} is no address; write host, host:port or a URL like amqp://host:port")
    return host or "127.0.0.1", number


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def is_loopback(address: str) -> bool:
    """Whether a host, ``host:port`` or URL reaches this machine only; names other than localhost do not count."""
    # A failover list ("a;b") is as local as its least local part.
    return all(part.lower().startswith("memory://") or _is_loopback_host(_host(part)) for part in address.split(";"))


def _host(part: str) -> str:
    place = part.rpartition("://")[2].partition("?")[0].partition("/")[0].rpartition("@")[2]
    if place.startswith("["):
        return place[1:].partition("]")[0]
    return place if _is_ip(place) else place.partition(":")[0]


def _is_loopback_host(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    return _is_ip(host) and ipaddress.ip_address(host).is_loopback


# -- the secret ----------------------------------------------------------------------------------------------------


def secret_file(settings: Settings) -> Path:
    """The file that holds the secret, or will: ``secret_file``, else one in the user's state folder."""
    return default_secret_file() if settings.secret_file is None else settings.secret_file


def find_secret(settings: Settings, *, create: bool) -> bytes:
    """The secret of the variable, else of the file; with ``create`` the file is made when it is missing.

    None is made when the broker or the listening host is not on loopback: another machine could never know it, so
    there it must be given. SecretError says what to do.
    """
    if settings.secret is not None:
        return settings.secret.encode()
    path = secret_file(settings)
    found = _read(path)
    if found is not None:
        return found
    remote = [place for place in (settings.broker_url, settings.host) if place is not None and not is_loopback(place)]
    if not create or remote:
        where = f" for {hide_password(remote[0])}" if remote else ""
        raise SecretError(f"no secret{where}: set {_VARIABLE} or put it into {path} (mode 0600), the same everywhere")
    return _create(path)


def secret_origin(settings: Settings) -> str:
    """Where `find_secret` found it, for an error message."""
    if settings.secret is None:
        return f"the file {secret_file(settings)}"
    source = settings.sources.get("secret", "argument")
    return "the argument secret=" if source == "argument" else source


def _read(path: Path) -> bytes | None:
    """The secret in a file that only we can read; None when there is no file."""
    try:
        # Not to hang on a pipe that was put there.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise SecretError(f"cannot read the secret: {error}; make it yours, or set {_VARIABLE}") from error
    try:
        status = os.fstat(descriptor)
        _check_private(path, status)
        content = os.read(descriptor, _LARGEST_SECRET + 1).strip()
    finally:
        os.close(descriptor)
    if not content or len(content) > _LARGEST_SECRET:
        raise SecretError(f"{path} holds no secret of 1 to {_LARGEST_SECRET} bytes; remove it and a new one is made")
    return content


def _check_private(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise SecretError(f"{path} is not a regular file; remove it, or name another with FUTUREBROKER_SECRET_FILE")
    if status.st_uid != os.geteuid():
        raise SecretError(
            f"{path} belongs to user {status.st_uid}, not to this one ({os.geteuid()}); "
            f"give each user a file of its own, or set {_VARIABLE}"
        )
    if status.st_mode & 0o077:
        raise SecretError(
            f"{path} can be read by others (mode {stat.S_IMODE(status.st_mode):04o}); they may know it: "
            f"remove it and a new one is made, or keep it with: chmod 600 {path}"
        )


def _create(path: Path) -> bytes:
    """Make the file with a new secret; when another process was faster, take its secret."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _check_folder(path.parent)
        draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(descriptor, "wb") as file:
                file.write(secrets.token_hex(32).encode() + b"\n")
            # A link appears whole or not at all, and never replaces a file that is there.
            with contextlib.suppress(FileExistsError):
                os.link(draft, path)
        finally:
            os.unlink(draft)
    except OSError as error:
        raise SecretError(f"cannot make {path}: {error}; set {_VARIABLE}") from error
    made = _read(path)
    if made is None:
        raise SecretError(f"{path} was removed while it was made; try again, or set {_VARIABLE}")
    return made


def _check_folder(folder: Path) -> None:
    status = folder.stat()
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise SecretError(
            f"others can write to {folder}, so the secret would not be safe there; chmod 700 it, or set {_VARIABLE}"
        )


def derive_token(secret: bytes, role: str) -> str:
    """The token that opens the cluster's dashboard when none was set; who knows the secret may do more anyway."""
    return hmac.new(secret, b"futurebroker site token " + role.encode(), hashlib.sha256).hexdigest()[:40]
