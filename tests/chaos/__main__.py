"""Ill-treat a cluster while it works: ``python -m tests.chaos --seed N --minutes M [--tasks 10000]``; or kill its
scheduler at chosen steps of writing the journal, over and over: ``python -m tests.chaos --step all --kills 200``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.chaos.runner import Plan, run
from tests.chaos.steps import STEPS, kill_at


def main() -> int:
    """Prints the report as JSON; the exit status is 0 if nothing was lost, wrong or hung."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of the graphs and the faults")
    parser.add_argument("--minutes", type=float, default=1.0, help="graphs follow one another for at least so long")
    parser.add_argument("--tasks", type=int, default=10_000, help="of a graph")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--executors", type=int, default=1, help="of each worker")
    parser.add_argument("--pace", type=float, default=1.0, help="seconds between faults, on average")
    parser.add_argument("--broker", help="an AMQP broker that runs already, in place of the scheduler's own")
    parser.add_argument("--rabbitmq", action="store_true", help="start a RabbitMQ, use it, and kill it as well")
    parser.add_argument(
        "--scheduler",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="whether the scheduler is killed and stopped as well",
    )
    parser.add_argument(
        "--client",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="whether the client's link is cut and held as well",
    )
    parser.add_argument("--journal", action="store_true", help="have the scheduler keep a journal, in a SQLite file")
    parser.add_argument(
        "--peer", choices=("dask", "celery"), default="", help="another system under the same graphs and faults"
    )
    parser.add_argument("--step", choices=("all", *STEPS), help="kill schedulers at this step of writing instead")
    parser.add_argument("--kills", type=int, default=200, help="at each step")
    parser.add_argument("--json", type=Path, help="write the report to this file as well")
    options = parser.parse_args()
    report = by_steps(options) if options.step else by_plan(options)
    text = json.dumps(report, indent=1)
    if options.json is not None:
        options.json.write_text(text + "\n")
    print(text)
    return 0 if report["passed"] else 1


def by_steps(options: argparse.Namespace) -> dict[str, Any]:
    """Kill schedulers at one step after the other; each is told as soon as it is over."""
    reports = []
    for step in STEPS if options.step == "all" else (options.step,):
        with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
            reports.append(kill_at(step, options.kills, Path(folder)))
        print(json.dumps(reports[-1]), file=sys.stderr)
    return {"passed": all(report["passed"] for report in reports), "steps": reports}


def by_plan(options: argparse.Namespace) -> dict[str, Any]:
    """One run with faults of all kinds."""
    plan = Plan(
        options.seed,
        options.tasks,
        options.minutes,
        workers=options.workers,
        executors=options.executors,
        pace=options.pace,
        broker=options.broker,
        own_rabbitmq=options.rabbitmq,
        with_scheduler=options.scheduler and options.peer != "celery",
        with_client=options.client,
        journal=options.journal,
        peer=options.peer,
    )
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        return run(plan, Path(folder))


if __name__ == "__main__":
    raise SystemExit(main())
