"""``futurebroker doctor``: what is wrong with a deployment, and what to change."""

from __future__ import annotations

import dataclasses
import json
import sys

import click

from futurebroker.cli.checks import Finding, examine
from futurebroker.config import hide_password, load_settings
from futurebroker.secret import normalize_address


@click.command()
@click.option("--broker", metavar="URL", help="The broker to check. [FUTUREBROKER_BROKER_URL, else this machine]")
@click.option("--cluster", help="The name that keeps clusters on one broker apart. [default]")
@click.option("--timeout", help="How long to wait for the broker and for the scheduler. [10s]")
@click.option("--max-connections", type=click.IntRange(1), help="Connections that the broker's plan allows.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(
    broker: str | None, cluster: str | None, timeout: str | None, max_connections: int | None, as_json: bool
) -> None:
    """Check broker, credentials, secret, TLS, queues, versions and clocks.

    Each check is a line that begins with ok, warn or fail. Exits with 1 if one fails.
    """
    settings = load_settings(broker_url=broker, cluster=cluster, connect_timeout=timeout)
    url = normalize_address(settings.broker_url or f"{settings.host}:{settings.port}", settings)
    settings = dataclasses.replace(settings, broker_url=url)
    findings: list[Finding] = []
    for finding in examine(settings, url, max_connections):
        findings.append(finding)
        if not as_json:
            _print(finding)
    worst = next((level for level in ("fail", "warn") if any(one.level == level for one in findings)), "ok")
    if as_json:
        about = {"broker": hide_password(url), "cluster": settings.cluster, "level": worst}
        click.echo(json.dumps({**about, "checks": [finding.row() for finding in findings]}, indent=2))
    if worst == "fail":
        sys.exit(1)


def _print(finding: Finding) -> None:
    click.echo(f"{finding.level:<4}  {finding.check:<12}  {finding.text}")
    if finding.change:
        click.echo(f"{'':<20}-> {finding.change}")
