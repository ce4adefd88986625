"""``python -m bench``: measure what is installed, print a table, write JSON and a plot."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter

import click

from bench import data, durability, report, runner, workloads
from bench.peers.entries import BY_NAME, ENTRIES, OURS, PeerEntry

#: One colour a peer in every panel; ours stands out.
COLOURS = ("#d1495b", "#e07a5f", "#30638e", "#5b8fb9", "#7a8b99", "#edae49", "#00798c", "#8cb369", "#b5cf99")

QUICK_REPEAT, REPEAT = 1, 5


def names_among(known: Sequence[str]) -> Callable[[click.Context, click.Parameter, str | None], tuple[str, ...]]:
    """A callback that splits an option at its commas and refuses names that aren't known; none given means all."""

    def split(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[str, ...]:
        if value is None:
            return tuple(known)
        names = tuple(name.strip() for name in value.split(","))
        unknown = [name for name in names if name not in known]
        if unknown:
            raise click.BadParameter(f"unknown: {', '.join(unknown)}; known: {', '.join(known)}", context, parameter)
        return names

    return split


def choose_peers(names: Sequence[str]) -> tuple[list[PeerEntry], dict[str, str]]:
    """The entries that can run, and for the others the reason why they can't."""
    usable, unavailable = [], {}
    for name in names:
        reason = runner.why_unavailable(BY_NAME[name])
        if reason is None:
            usable.append(BY_NAME[name])
        else:
            unavailable[name] = reason
            click.echo(f"without {BY_NAME[name].label}: {reason}", err=True)
    return usable, unavailable


def journal(repeat: int, quick: bool, soak: bool, out: Path) -> None:
    """Only what survives; only how it grows in a soak."""
    if soak:
        durability.run(0, 0, (), durability.GROW_SOAK, out)
    elif quick:
        durability.run(durability.TASKS // 10, 1, durability.RECOVERED[:1], durability.GROW, out)
    else:
        durability.run(durability.TASKS, repeat, durability.RECOVERED, durability.GROW, out)


@click.command()
@click.option("--repeat", type=click.IntRange(1), help=f"Samples of each figure [default: {REPEAT}, quick: 1].")
@click.option("--quick", is_flag=True, help="Small sizes, to see that all of it runs; the figures mean little.")
@click.option("--only", callback=names_among(workloads.NAMES), help="Workloads, with commas [default: all].")
@click.option("--peers", callback=names_among(list(BY_NAME)), help="Peers, with commas [default: all].")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), default=Path("bench-results"), show_default=True
)
@click.option("--timeout", type=float, default=900.0, show_default=True, help="Seconds for one peer in one repeat.")
@click.option("--data", "moves", is_flag=True, help="Only how data moves; see bench/data.py.")
@click.option("--journal", "lasts", is_flag=True, help="Only what survives: cost, recovery; see bench/durability.py.")
@click.option(
    "--soak",
    is_flag=True,
    help="Only what takes long: with --data 20 GB of intermediates through a worker limited to 512 MiB, with --journal "
    "5 million tasks through a journal; else both.",
)
def main(
    repeat: int | None, quick: bool, only: tuple[str, ...], peers: tuple[str, ...], out: Path, timeout: float,
    moves: bool, lasts: bool, soak: bool,
) -> None:  # fmt: skip
    """Measure futurebroker beside its peers, interleaved, on this machine.

    Ends with 1 when a workload of ours failed or ours can't run; never because of a figure.
    """
    if moves or (soak and not lasts):
        data.run(soak, repeat or QUICK_REPEAT, tempfile.gettempdir(), out / "data.json")
    if lasts or (soak and not moves):
        journal(repeat or REPEAT, quick, soak, out / "journal.json")
    if moves or lasts or soak:
        return
    started, clock = datetime.now(UTC), perf_counter()
    usable, unavailable = choose_peers(peers)
    if not usable:
        raise click.ClickException("none of these peers can run here")
    plan = runner.Plan(usable, only, repeat or (QUICK_REPEAT if quick else REPEAT), quick, timeout)
    samples = runner.run(plan, lambda line: click.echo(line, err=True))
    found = report.build(
        settings={
            "started": started.isoformat(timespec="seconds"),
            "seconds": round(perf_counter() - clock, 1),
            "repeat": plan.repeat,
            "quick": quick,
            "workloads": list(only),
        },
        peers=runner.notes_of(usable),
        unavailable=unavailable,
        samples=samples,
        root=runner.ROOT,
    )
    labels = {entry.name: entry.label for entry in ENTRIES}
    for line in report.table(found, labels):
        click.echo(line)
    out.mkdir(parents=True, exist_ok=True)
    stem = f"bench-{started:%Y%m%d-%H%M%S}"
    report.write_json(found, out / f"{stem}.json")
    report.write_plot(found, labels, dict(zip(BY_NAME, COLOURS, strict=True)), out / f"{stem}.html")
    click.echo(f"\nwritten: {out / stem}.json and .html")
    if OURS in unavailable or any(sample["peer"] == OURS and "error" in sample for sample in samples):
        sys.exit(1)


if __name__ == "__main__":
    main(prog_name="python -m bench")
