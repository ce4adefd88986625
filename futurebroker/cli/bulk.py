"""``futurebroker retry`` and ``cancel``: many tasks at once, by a query, after a look at what it finds."""

from __future__ import annotations

import shlex
from typing import Any

import click

from futurebroker.cli.tasks import history
from futurebroker.client.client import Client
from futurebroker.config import load_settings
from futurebroker.protocol.messages import Cancel, Message, Retry
from futurebroker.secret import normalize_address

#: keys of one message
AT_ONCE = 1_000
#: keys that are shown
SHOWN = 20
_UNFINISHED = ("waiting", "no_worker", "queued", "processing")


def _client(address: str | None, cluster: str | None) -> Client:
    settings = load_settings(broker_url=address, cluster=cluster)
    url = normalize_address(settings.broker_url or f"{settings.host}:{settings.port}", settings)
    return Client(url, cluster=settings.cluster, set_as_default=False, name="operator")


def _options(command: Any) -> Any:
    for option in (
        click.option("--dry-run", is_flag=True, help="Show what would be done, and do nothing."),
        click.option("--address", help="The scheduler's address or broker. [this machine's]"),
        click.option("--cluster", help="The name that keeps clusters on one broker apart. [default]"),
        click.argument("query", nargs=-1, required=True),
    ):
        command = option(command)
    return command


@click.command()
@click.option("--database", metavar="URL", help="Where the history is. [as for `futurebroker tasks`]")
@_options
def retry(
    query: tuple[str, ...], cluster: str | None, address: str | None, dry_run: bool, database: str | None
) -> None:
    """Run again the failed tasks that QUERY finds in the history and the scheduler still knows.

    A scheduler knows a failed task as long as somebody holds its future.
    """
    port, broker = _place(address)
    with history(database, cluster, port, broker) as lookup:
        keys = lookup.keys(" ".join([*query, "state:failed"]), 10 * AT_ONCE)
    with _client(address, cluster) as client:
        known = client._ask("keys", {"states": ["erred"], "keys": keys}) if keys else []
        _do(client, "retry", known, dry_run, lambda some: Retry(some))
        if len(known) < len(keys):
            click.echo(f"{len(keys) - len(known):,} more are history only: nobody holds their futures any more")


@click.command()
@_options
def cancel(query: tuple[str, ...], cluster: str | None, address: str | None, dry_run: bool) -> None:
    """Cancel the unfinished tasks that QUERY finds at the scheduler, for everybody.

    QUERY is words that must all fit: type:train worker:w1, and any other word is part of a key.
    """
    about: dict[str, Any] = {"states": list(_UNFINISHED)}
    text = []
    for word in shlex.split(" ".join(query)):
        name, colon, value = word.partition(":")
        if not colon:
            text.append(word)
        elif name in ("type", "worker"):
            about[name] = value
        else:
            raise click.ClickException(f"{word!r}: unfinished tasks are found by type:, worker: and parts of keys")
    if len(text) > 1:
        raise click.ClickException("give one part of a key, in quotes if it has blanks")
    about["text"] = "".join(text)
    with _client(address, cluster) as client:
        keys = client._ask("keys", about)
        reason = "cancelled by an operator"
        _do(client, "cancel", keys, dry_run, lambda some: Cancel(some, force=True, reason=reason))


def _place(address: str | None) -> tuple[int | None, str | None]:
    """The port, or the broker, of the scheduler at ``address``, by which its SQLite file is found."""
    if address is None:
        return None, None
    _, colon, port = address.rpartition(":")
    if "@" not in address and colon and port.isdecimal():
        return int(port), None
    return None, address


def _do(client: Client, what: str, keys: list[str], dry_run: bool, make: Any) -> None:
    for key in keys[:SHOWN]:
        click.echo(f"  {key}")
    if len(keys) > SHOWN:
        click.echo(f"  and {len(keys) - SHOWN:,} more")
    if dry_run or not keys:
        click.echo(f"would {what} {len(keys):,} tasks" if keys else f"no task to {what}")
        return
    for start in range(0, len(keys), AT_ONCE):
        message: Message = make(keys[start : start + AT_ONCE])
        client._connection.put(message)
    # An answer means that the scheduler has all that was sent before the question.
    client._ask("nthreads", None)
    click.echo(f"told the scheduler to {what} {len(keys):,} tasks")
