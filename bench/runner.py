"""Runs the peers round robin, one process a peer and repeat, and collects their samples."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from time import perf_counter
from typing import Any

import psutil

from bench import workloads
from bench.peers.entries import OURS, PeerEntry

ROOT = Path(__file__).resolve().parent.parent
BROKER_VARIABLES = ("FUTUREBROKER_TEST_RABBITMQ_URL", "FUTUREBROKER_TEST_REDIS_URL")

#: Tasks in the graphs that go through the scheduler machine.
MACHINE_SIZES = (10_000, 100_000, 1_000_000)
MACHINE_SIZES_QUICK = (1_000, 10_000)

#: How often Python is started for one sample of the import time; the sample is the median of the differences.
IMPORT_STARTS = 3

#: A sample as it stands in the report: "peer", "workload", "repeat", and figures or "error".
Sample = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """What is to be run."""

    entries: Sequence[PeerEntry]
    names: Sequence[str]  #: workloads
    repeat: int
    quick: bool
    timeout: float  #: seconds for one peer in one repeat; then it is killed and counted as failed


def why_unavailable(entry: PeerEntry) -> str | None:
    """The reason why a peer can't run here, None if it can."""
    for distribution in entry.distributions:
        try:
            metadata.version(distribution)
        except metadata.PackageNotFoundError:
            return f"{distribution} is not installed"
    if entry.broker and not any(os.environ.get(name) for name in BROKER_VARIABLES):
        return f"needs a broker: set {' or '.join(BROKER_VARIABLES)}"
    if entry.variable and not os.environ.get(entry.variable):
        return f"set {entry.variable}"
    # Also compiles the package, so that the first import measured is no slower than the others.
    tried = subprocess.run(
        [sys.executable, "-c", entry.imports_client], cwd=ROOT, env=environment(0), stderr=subprocess.PIPE, text=True
    )
    if tried.returncode != 0:
        return (tried.stderr.strip().splitlines() or ["its import failed"])[-1]
    return None


def environment(repeat: int) -> dict[str, str]:
    """For the measured processes and all they start: the tasks must be importable there."""
    search = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(search),
        "RAY_USAGE_STATS_ENABLED": "0",
        "BENCH_CELERY_QUEUE": f"bench-celery-{os.getpid()}-{repeat}",
    }


@contextmanager
def whole_family_ends(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """On the way out, whatever happened, kill the process if it still runs, and its descendants."""
    try:
        yield
    finally:
        if process.poll() is None:
            try:
                family = psutil.Process(process.pid).children(recursive=True)
            except psutil.NoSuchProcess:
                family = []
            process.kill()
            for member in family:
                try:
                    member.send_signal(signal.SIGKILL)
                except psutil.NoSuchProcess:
                    continue
            psutil.wait_procs(family, timeout=10)
        process.wait()


def run_peer(entry: PeerEntry, plan: Plan, repeat: int) -> list[Sample]:
    """All workloads of one peer, once; collections in a process of their own, whose start isn't measured."""
    names = [name for name in plan.names if name in workloads.BY_NAME and name not in entry.left_out]
    collections = [name for name in names if workloads.BY_NAME[name].is_collection]
    others = [name for name in names if name not in collections]
    samples: list[Sample] = []
    if others or workloads.START in plan.names:
        start = [workloads.START] if workloads.START in plan.names else []
        samples += _run_names(entry, plan, repeat, others, start)
    if collections:
        samples += _run_names(entry, plan, repeat, collections, [])
    return samples


def _run_names(entry: PeerEntry, plan: Plan, repeat: int, names: list[str], start: list[str]) -> list[Sample]:
    """These workloads, in one process. What could not be finished is returned as failed samples."""
    wanted = [(name, workloads.BY_NAME[name].size_for(entry.name, plan.quick)) for name in names]
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder:
        out = Path(folder, "samples")
        out.touch()
        command = [sys.executable, "-m", "bench.sample", entry.name, json.dumps(wanted), str(out)]
        # Peers leave logs, sockets and spill files in the folder for temporary files: they go with this one.
        surroundings = environment(repeat) | {"TMPDIR": folder, **entry.environment}
        process = subprocess.Popen(command, cwd=ROOT, env=surroundings, stdin=subprocess.DEVNULL)
        problem = None
        with whole_family_ends(process):
            try:
                status = process.wait(plan.timeout)
                if status != 0:
                    problem = f"its process ended with {status}"
            except subprocess.TimeoutExpired:
                problem = f"not finished after {plan.timeout:g} s"
        samples: list[Sample] = [json.loads(line) for line in out.read_text().splitlines()]
    if problem is not None:
        seen = {sample["workload"] for sample in samples}
        missing = [name for name in (*start, *names) if name not in seen]
        samples += [{"peer": entry.name, "workload": name, "error": problem} for name in missing or ["stop"]]
    return [sample | {"repeat": repeat} for sample in samples if sample["workload"] in (*start, *names, "stop")]


def seconds_of_python(statement: str) -> float:
    start = perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True, cwd=ROOT, env=environment(0))
    return perf_counter() - start


def run_imports(entry: PeerEntry, plan: Plan, repeat: int) -> list[Sample]:
    """Wall time of a Python that imports, less that of one that does nothing, started alternately."""
    samples = []
    for name, statement in ((workloads.IMPORT, entry.imports), (workloads.IMPORT_CLIENT, entry.imports_client)):
        if name not in plan.names:
            continue
        try:
            differences = [seconds_of_python(statement) - seconds_of_python("pass") for _ in range(IMPORT_STARTS)]
        except subprocess.CalledProcessError as error:
            figures: Sample = {"error": f"{statement!r} ended with {error.returncode}"}
        else:
            figures = {"seconds": statistics.median(differences), "statement": statement, "size": 1}
        samples.append({"peer": entry.name, "workload": name, "repeat": repeat, **figures})
    return samples


def run_machine(entry: PeerEntry, plan: Plan, repeat: int) -> list[Sample]:
    """Our scheduler alone, each size in a fresh process so that one's memory doesn't serve the next."""
    if entry.name != OURS:
        return []
    sizes = MACHINE_SIZES_QUICK if plan.quick else MACHINE_SIZES
    samples = []
    for name in workloads.MACHINE_SHAPES:
        for size in sizes if name in plan.names else ():
            figures = figures_of_machine(workloads.MACHINE_SHAPES[name], size, plan.timeout)
            samples.append({"peer": entry.name, "workload": name, "repeat": repeat, **figures})
    return samples


def figures_of_machine(shape: str, size: int, timeout: float) -> Sample:
    command = [sys.executable, "-m", "bench.graph_machine", shape, str(size)]
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment(0), timeout=timeout, check=True, stdout=subprocess.PIPE
        )
        figures: Sample = json.loads(done.stdout)
    except (subprocess.SubprocessError, ValueError) as error:
        return {"size": size, "error": f"{type(error).__name__}: {error}"[:500]}
    return figures


def run(plan: Plan, say: Callable[[str], None]) -> list[Sample]:
    """All samples, in the order they were taken: each repeat visits every peer before the next begins."""
    samples: list[Sample] = []
    for repeat in range(1, plan.repeat + 1):
        # A different peer goes first each time, so that none always runs on the coolest machine.
        turn = (repeat - 1) % len(plan.entries)
        for entry in [*plan.entries[turn:], *plan.entries[:turn]]:
            start = perf_counter()
            new = [*run_peer(entry, plan, repeat), *run_imports(entry, plan, repeat), *run_machine(entry, plan, repeat)]
            samples += new
            failed = [f"{sample['workload']}: {sample['error']}" for sample in new if "error" in sample]
            took = perf_counter() - start
            say(f"repeat {repeat}/{plan.repeat}  {entry.label:<22} {took:6.1f} s  {'; '.join(failed)}".rstrip())
    return samples


def notes_of(entries: Sequence[PeerEntry]) -> dict[str, Mapping[str, Any]]:
    """For the report: configuration, versions, and which workloads are emulated or left out by each peer."""
    notes: dict[str, Mapping[str, Any]] = {}
    for entry in entries:
        notes[entry.name] = {
            "label": entry.label,
            "setup": dict(entry.setup),
            "versions": entry.versions(),
            "emulated": dict(entry.emulated),
            "skipped": entry.left_out,
        }
    return notes
