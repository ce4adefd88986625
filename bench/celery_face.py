"""Celery and its face here, one after the other in one run, over the same RabbitMQ: ``python -m bench.celery_face``.

BENCH_BROKER_URL is the RabbitMQ; each gets one worker with two processes. Celery is measured with results over RabbitMQ
(``rpc://``), and with results in Redis as well where FUTUREBROKER_TEST_REDIS_URL names one.
"""

from __future__ import annotations

import json
import os
import secrets
import statistics
import subprocess
import sys
from collections.abc import Callable
from time import perf_counter
from typing import Any

from celery import chain as celery_chain

from bench.peers import celery_app, face_app
from futurebroker import Client
from futurebroker.celery import chain, chord
from futurebroker.launch import ClusterPlan, ClusterProcesses
from futurebroker.protocol import messages as m

CALLS, CHAIN, TRIPS, HEADER = 3_000, 200, 200, 1_000


def median_of(repeats: int, work: Callable[[], float]) -> float:
    """The median of several measurements."""
    return statistics.median(work() for _ in range(repeats))


def measure(app: Any, make_chain: Any, calls: int, steps: int) -> dict[str, float]:
    """Calls a second, chained steps a second, and the median round trip in milliseconds."""

    def many() -> float:
        start = perf_counter()
        results = [app.inc.delay(number) for number in range(calls)]
        assert [result.get(timeout=300) for result in results] == list(range(1, calls + 1))
        return calls / (perf_counter() - start)

    def one_after_the_other() -> float:
        start = perf_counter()
        assert make_chain(app.inc.s(0), *(app.inc.s() for _ in range(steps - 1)))().get(timeout=300) == steps
        return steps / (perf_counter() - start)

    def trip() -> float:
        start = perf_counter()
        app.inc.delay(1).get(timeout=60)
        return (perf_counter() - start) * 1000

    many()
    trips = [trip() for _ in range(TRIPS)]
    return {
        "delay and get, calls/s": median_of(3, many),
        "chain, steps/s": median_of(3, one_after_the_other),
        "round trip p50, ms": statistics.median(trips),
    }


def chord_latency() -> float:
    """Milliseconds from the end of the last header task to the beginning of the body; the median of five."""

    def once() -> float:
        header = [face_app.ended.s(number) for number in range(HEADER)]
        last, begin = chord(header, face_app.began.s())().get(timeout=300)
        return (begin - last) * 1000  # type: ignore[no-any-return]

    return median_of(5, once)


def submitted_bytes() -> int:
    """Bytes of the messages with which five chained chords of ten are submitted."""
    sent: list[Any] = []
    coalescer = face_app.app.sender.client._connection.outbox._coalescer
    send = coalescer._send

    def note(message: Any) -> None:
        sent.append(message)
        send(message)

    coalescer._send = note
    try:
        tasks = chain(*(chord([face_app.inc.si(1)] * 10, face_app.began.s()) for _ in range(5)))()
        tasks.get(timeout=60)
    finally:
        coalescer._send = send
    return len(m.encode([message for message in sent if isinstance(message, m.Submit)]))


def celery_side() -> dict[str, float]:
    """Celery's figures, with results where the environment says; see `celery_app`."""
    worker = subprocess.Popen(
        [sys.executable, "-m", "celery", "-A", "bench.peers.celery_app", "worker", "--concurrency=2"]
        + ["--loglevel=ERROR", f"--hostname=bench-{os.getpid()}@%h"],
        stdout=subprocess.DEVNULL,
    )
    try:
        celery_app.inc.delay(1).get(timeout=60)
        return measure(celery_app, celery_chain, CALLS, CHAIN)
    finally:
        worker.terminate()
        worker.wait(60)
        with celery_app.app.connection_for_write() as connection:
            connection.default_channel.queue_delete(celery_app.app.conf.task_default_queue)
        celery_app.app.close()


def our_side(url: str) -> dict[str, float]:
    """Ours."""
    name, secret = f"bench-{secrets.token_hex(4)}", secrets.token_hex(32)
    plan = ClusterPlan(name, secret, "127.0.0.1", 0, 2, 1, {}, 60.0, "warning", {}, broker_url=url)
    cluster = ClusterProcesses(plan)
    cluster.start(["bench"])
    try:
        with Client(url, cluster=name, secret=secret, set_as_default=False) as client:
            face_app.app.use_client(client)
            figures = measure(face_app, chain, CALLS, CHAIN)
            figures["chord of 1,000: body begins after, ms"] = chord_latency()
            figures["five chords of ten, bytes submitted"] = submitted_bytes()
            return figures
    finally:
        cluster.close()


def celery_with(redis: str) -> dict[str, float]:
    """Celery's figures, measured in a process of its own; without ``redis`` its results come over RabbitMQ."""
    url = os.environ["BENCH_BROKER_URL"]
    env = {**os.environ, "FUTUREBROKER_TEST_RABBITMQ_URL": url, "FUTUREBROKER_TEST_REDIS_URL": redis}
    done = subprocess.run(
        [sys.executable, "-m", "bench.celery_face", "--celery"], env=env, stdout=subprocess.PIPE, check=True
    )
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def main() -> None:
    """Measure both, and print figures and ratios."""
    if sys.argv[1:] == ["--celery"]:
        print(json.dumps(celery_side()))
        return
    redis = os.environ.get("FUTUREBROKER_TEST_REDIS_URL", "")
    ours = our_side(os.environ["BENCH_BROKER_URL"])
    theirs = {"rpc": celery_with(""), **({"Redis": celery_with(redis)} if redis else {})}
    for name, figure in ours.items():
        ratios = [
            f"   Celery, {where} {figures[name]:,.1f}   ratio {figure / figures[name]:.2f}"
            for where, figures in theirs.items()
            if name in figures
        ]
        print(f"{name:<42} {figure:,.1f}{''.join(ratios)}")
    print(json.dumps({"ours": ours, "celery": theirs}))


if __name__ == "__main__":
    main()
