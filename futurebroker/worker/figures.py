"""What a worker's machine tells of its tasks (sans-IO)."""

from __future__ import annotations

from futurebroker.worker.machine import WorkerMachine


def task_counts(machine: WorkerMachine) -> dict[str, int]:
    """How many tasks run, are ready and wait; for metrics."""
    sent, ready = len(machine.dispatcher.sent), machine.dispatcher.ready
    running = sum(min(executor.threads, len(executor.packets)) for executor in machine.executors.values())
    return {
        "executing": running,
        "ready": ready + sent - running - len(machine.dispatcher.away),
        "waiting": max(0, len(machine.tasks) - sent - ready),
    }
