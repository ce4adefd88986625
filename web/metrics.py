"""``/metrics`` for Prometheus, from the snapshot; needs the extra ``metrics``, and the token as everything else."""

from __future__ import annotations

import importlib
import importlib.util
import time
from collections.abc import Iterator
from typing import Any

from flask import Blueprint, Response

from futurebroker.snapshot import WorkerView
from futurebroker.web import api
from futurebroker.web.site import Site


def register(blueprint: Blueprint) -> None:
    """Add the metrics to ``blueprint``."""
    blueprint.add_url_rule("/metrics", "metrics", metrics)


def metrics() -> Response:
    """Everything a monitoring system would plot or alert on."""
    if importlib.util.find_spec("prometheus_client") is None:
        return api.problem(501, "metrics need the extra: pip install 'futurebroker[metrics]'")
    library = importlib.import_module("prometheus_client")
    site = Site.current()
    registry = library.CollectorRegistry()
    registry.register(_Figures(site))
    body = library.generate_latest(registry)
    return Response(body, content_type=library.CONTENT_TYPE_LATEST)


class _Figures:
    """What `prometheus_client` asks for its figures."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def collect(self) -> Iterator[Any]:
        core = importlib.import_module("prometheus_client.core")
        gauge, counter = core.GaugeMetricFamily, core.CounterMetricFamily
        snapshot = self._site.snapshot()
        away = bool(self._site.collector.trouble)
        yield gauge("futurebroker_up", "Whether the site has the scheduler.", value=0 if away else 1)
        if snapshot is None:
            return
        yield gauge(
            "futurebroker_snapshot_age_seconds", "Age of these figures.", value=max(0.0, time.time() - snapshot.time)
        )

        workers, kinds = snapshot.workers, snapshot.kinds
        states = (([state], float(count)) for state, count in snapshot.states.items())
        yield _family(gauge, "futurebroker_scheduler_tasks", "Tasks known, by state.", ["state"], states)
        yield gauge("futurebroker_scheduler_clients", "Programs connected.", value=len(snapshot.programs))
        by_status: dict[str, int] = {"running": 0, "paused": 0, "suspect": 0, "closing": 0}
        for worker in workers:
            by_status[worker.status] = by_status.get(worker.status, 0) + 1
        statuses = (([status], float(count)) for status, count in by_status.items())
        yield _family(gauge, "futurebroker_scheduler_workers", "Workers connected, by status.", ["state"], statuses)
        yield gauge("futurebroker_scheduler_loop_lag_seconds", "How late the scheduler's loop came at most.",
                    value=snapshot.scheduler.get("lag", 0.0))  # fmt: skip
        yield gauge("futurebroker_scheduler_cpu_percent", "CPU of the scheduler, percent of a core.",
                    value=snapshot.scheduler.get("cpu", 0.0))  # fmt: skip
        yield gauge("futurebroker_scheduler_memory_bytes", "Resident memory of the scheduler.",
                    value=snapshot.scheduler.get("memory", 0))  # fmt: skip
        yield gauge(
            "futurebroker_backlog_oldest_seconds",
            "How long the first ready task has waited.",
            value=snapshot.oldest or 0.0,
        )
        ended = (([kind.name], float(kind.ended - kind.errors)) for kind in kinds)
        yield _family(counter, "futurebroker_tasks_finished", "Runs that finished, by type.", ["type"], ended)
        errors = (([kind.name], float(kind.errors)) for kind in kinds)
        yield _family(counter, "futurebroker_tasks_raised", "Runs that raised, by type.", ["type"], errors)
        waiting = (([kind.name], float(kind.unfinished)) for kind in kinds)
        yield _family(
            gauge, "futurebroker_tasks_unfinished", "Tasks that are still to end, by type.", ["type"], waiting
        )
        durations = (([kind.name], kind.duration) for kind in kinds if kind.duration is not None)
        yield _family(
            gauge, "futurebroker_task_duration_seconds", "Mean time of a run, newest first.", ["type"], durations
        )
        yield from _of_workers(gauge, workers)
        dropped = (([reason], float(count)) for reason, count in snapshot.rejected.items())
        yield _family(
            counter, "futurebroker_envelopes_dropped", "Messages that were not taken, by reason.", ["reason"], dropped
        )
        site_queues = self._site.probes["broker"]()["queues"] if "broker" in self._site.probes else []
        depths = (([queue["name"]], float(queue["messages"])) for queue in site_queues if queue["messages"] is not None)
        yield _family(
            gauge, "futurebroker_broker_queue_messages", "Messages in a queue of the broker.", ["queue"], depths
        )


def _of_workers(gauge: Any, workers: list[WorkerView]) -> Iterator[Any]:
    """What they use, and what they have to do."""
    parts = (([worker.name, part], float(getattr(worker, part))) for worker in workers
             for part in ("managed", "unmanaged", "spilled"))  # fmt: skip
    yield _family(gauge, "futurebroker_worker_memory_bytes", "Memory of a worker.", ["worker", "type"], parts)
    yield _family(gauge, "futurebroker_worker_cpu_percent", "CPU of a worker, percent of a core.", ["worker"],
                 (([worker.name], worker.cpu) for worker in workers))  # fmt: skip
    yield _family(gauge, "futurebroker_worker_tasks", "Tasks of a worker.", ["worker", "state"], (
        ([worker.name, state], float(count)) for worker in workers
        for state, count in (("executing", worker.executing), ("ready", worker.backlog))))  # fmt: skip


def _family(kind: Any, name: str, doc: str, labels: list[str], rows: Iterator[tuple[list[str], float]]) -> Any:
    """A figure of several things, told apart by ``labels``."""
    made = kind(name, doc, labels=labels)
    for values, value in rows:
        made.add_metric(values, value)
    return made
