"""The checks of ``futurebroker doctor``: each finds out one thing about a deployment and says what to change."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from futurebroker import __version__
from futurebroker.broker_adapters.inspection import QueueFigures, inspect
from futurebroker.client.client import Client
from futurebroker.config import Settings, hide_password
from futurebroker.exceptions import BrokerRefusedError, FuturebrokerError, RefusedError, SecretError
from futurebroker.protocol.messages import PROTOCOL
from futurebroker.protocol.queues import command_queue, dead_queue
from futurebroker.secret import find_secret, is_loopback, secret_origin
from futurebroker.transport.registry import open_link

Level = Literal["ok", "warn", "fail"]

#: characters below which a secret that guards more than this machine can be guessed
SECRET_LENGTH = 16
#: commands waiting above which the scheduler doesn't keep up
DEEP = 1000
#: seconds that clocks may differ before times in logs mislead; a heartbeat's own age is within them
SKEW = 5.0
#: queues of a cluster that stay when its processes end
STANDING_QUEUES = 2


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check came to."""

    check: str
    level: Level
    text: str  #: what was found
    change: str = ""  #: what to do about it

    def row(self) -> dict[str, str]:
        """As JSON shows it."""
        return asdict(self)


def examine(settings: Settings, url: str, max_connections: int | None) -> Iterator[Finding]:
    """Check the deployment at ``url``, one finding after the other; ends where nothing more can be found out."""
    try:
        secret = find_secret(settings, create=False)
    except SecretError as error:
        yield Finding("secret", "fail", str(error), "set FUTUREBROKER_SECRET, the same on every machine")
        return
    yield _secret(settings, url, secret)
    yield _tls(url)
    reached = True
    for finding in _broker(settings, url, secret):
        reached = reached and finding.level != "fail"
        yield finding
    if not reached:
        return
    try:
        info = _ask(settings, url, secret)
    except RefusedError as error:
        yield Finding("scheduler", "fail", str(error), "install the same futurebroker and Python on both sides")
    except FuturebrokerError as error:
        yield Finding("scheduler", "fail", str(error), "start a scheduler for this cluster at this broker")
    else:
        yield from _cluster(info, max_connections)


def _secret(settings: Settings, url: str, secret: bytes) -> Finding:
    origin = secret_origin(settings)
    # A file has been found to be the user's own and of mode 0600, or reading it would have failed.
    shown = f"set, from {origin}" + (" (mode 0600)" if settings.secret is None else "")
    if len(secret) < SECRET_LENGTH and not is_loopback(url):
        change = "make a longer one: openssl rand -hex 32"
        return Finding("secret", "warn", f"{shown}; it has only {len(secret)} characters", change)
    return Finding("secret", "ok", shown)


def _tls(url: str) -> Finding:
    plain = [part for part in url.split(";") if not is_loopback(part) and urlsplit(part).scheme in ("amqp", "redis")]
    if plain:
        secure = f"{urlsplit(plain[0]).scheme}s://"
        text = f"off for {hide_password(plain[0])}: messages are signed, but anyone on the way can read them"
        return Finding("tls", "warn", text, f"use an address that begins with {secure}")
    if is_loopback(url):
        return Finding("tls", "ok", "not needed: the broker is on this machine")
    return Finding("tls", "ok", "on, with certificate and host name checked")


def _broker(settings: Settings, url: str, secret: bytes) -> Iterator[Finding]:
    shown = hide_password(url)
    commands, dead = command_queue(settings.cluster), dead_queue(settings.cluster)
    began = time.monotonic()
    is_amqp = urlsplit(url.split(";", maxsplit=1)[0]).scheme in ("amqp", "amqps")
    product, queues = "", {}
    try:
        if is_amqp:
            figures = inspect(url, [commands, dead], secret=secret, timeout=settings.connect_timeout)
            product, queues = f" ({figures.product})", figures.queues
        else:
            open_link(url, [], secret=secret, timeout=settings.connect_timeout, name="doctor").close()
    except BrokerRefusedError as error:
        yield Finding("broker", "ok", f"reached {shown}")
        yield Finding("credentials", "fail", error.reason, "correct user, password, virtual host or permissions")
        return
    except FuturebrokerError as error:
        yield Finding("broker", "fail", str(error), "start the broker, or correct --broker or FUTUREBROKER_BROKER_URL")
        return
    yield Finding("broker", "ok", f"reached {shown}{product} in {(time.monotonic() - began) * 1000:.0f} ms")
    yield Finding("credentials", "ok", "accepted")
    if is_amqp:
        yield _commands(commands, queues.get(commands))
        parked = queues.get(dead)
        if parked is not None and parked.messages:
            text = f"{parked.messages} refused commands lie in {dead}; each begins with a line that says why"
            yield Finding("dead letters", "warn", text, "look for a process with another secret, then purge the queue")


def _commands(name: str, queue: QueueFigures | None) -> Finding:
    if queue is None:
        text, change = f"there is no queue {name}", "start a scheduler; --cluster must be the same for all"
        return Finding("commands", "fail", text, change)
    text = f"{queue.messages} waiting in {name}, {queue.consumers} reading"
    if not queue.consumers:
        return Finding("commands", "fail", text, "start a scheduler for this cluster")
    if queue.consumers > 1:
        return Finding("commands", "warn", text, "end all schedulers but one, unless the others are to take over")
    if queue.messages > DEEP:
        return Finding("commands", "warn", text, "the scheduler doesn't keep up: submit fewer and longer tasks")
    return Finding("commands", "ok", text)


def _ask(settings: Settings, url: str, secret: bytes) -> dict[str, Any]:
    client = Client(
        url,
        secret=secret.decode(),
        cluster=settings.cluster,
        timeout=settings.connect_timeout,
        set_as_default=False,
        name="doctor",
    )
    with client:
        client.scheduler_info()
        # The question wakes workers at rest; what they tell then has a clock of now.
        time.sleep(1.0)
        info: dict[str, Any] = client.scheduler_info()
        info["asked"] = time.time()
        return info


def _cluster(info: dict[str, Any], max_connections: int | None) -> Iterator[Finding]:
    about, workers = info["scheduler"], info["workers"]
    yield Finding("scheduler", "ok", f"answers on {about['host']}, process {about['pid']}")
    yield _workers(workers)
    yield _versions(info)
    yield _clocks(info)
    yield _budget(info, max_connections)


def _workers(workers: dict[str, dict[str, Any]]) -> Finding:
    odd = [f"{worker['name']} is {worker['status']}" for worker in workers.values() if worker["status"] != "running"]
    if not workers:
        return Finding("workers", "warn", "none connected", "start one: futurebroker worker")
    text = f"{len(workers)} with {sum(worker['nthreads'] for worker in workers.values())} slots"
    if odd:
        change = "paused ones need memory; look into the log of suspect ones"
        return Finding("workers", "warn", f"{text}; {', '.join(odd)}", change)
    return Finding("workers", "ok", text)


def _versions(info: dict[str, Any]) -> Finding:
    about = info["scheduler"]
    ours = (__version__, platform.python_version())
    differing = [] if (about["version"], about["python"]) == ours else [_version("the scheduler", about)]
    differing += [
        _version(f"worker {worker['name']}", worker)
        for worker in info["workers"].values()
        if (worker["version"], worker["python"]) != ours
    ]
    differing += [
        f"a client on {program.get('host')} has futurebroker {program['version']}"
        for program in info["programs"].values()
        if program.get("version", __version__) != __version__
    ]
    text = f"futurebroker {__version__}, protocol {PROTOCOL}, Python {ours[1]}"
    if differing:
        return Finding("versions", "warn", f"here {text}; {'; '.join(differing)}", "install the same on all machines")
    return Finding("versions", "ok", f"{text} everywhere")


def _version(who: str, about: dict[str, Any]) -> str:
    return f"{who} has futurebroker {about['version']}, Python {about['python']}"


def _clocks(info: dict[str, Any]) -> Finding:
    clocks = {"the scheduler": info["scheduler"]["time"]}
    clocks |= {f"worker {worker['name']}": worker["metrics"].get("time") for worker in info["workers"].values()}
    skews = {who: at - info["asked"] for who, at in clocks.items() if at is not None}
    off = [f"{who} by {skew:+.0f} s" for who, skew in skews.items() if abs(skew) > SKEW]
    if off:
        return Finding("clocks", "warn", f"differ from ours: {', '.join(off)}", "let NTP set them")
    return Finding("clocks", "ok", f"agree within {SKEW:g} s")


def _budget(info: dict[str, Any], max_connections: int | None) -> Finding:
    # The one that asks is a client too, and soon gone.
    members = len(info["workers"]) + info["clients"] - 1
    connections = 1 + members
    text = (
        f"{connections} connections and {connections + STANDING_QUEUES} queues at the broker; "
        "each worker or client adds one of both"
    )
    if max_connections is not None and connections + 1 > max_connections:
        change = "run fewer workers with more executors each, or take a larger plan"
        return Finding("budget", "warn", f"{text}; of {max_connections} connections none is left", change)
    return Finding("budget", "ok", text)
