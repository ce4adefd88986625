"""The Celery application that both sides import. The address of its broker comes from the environment."""

from __future__ import annotations

import os

from celery import Celery

from bench import tasks

RABBITMQ = os.environ.get("FUTUREBROKER_TEST_RABBITMQ_URL", "")
REDIS = os.environ.get("FUTUREBROKER_TEST_REDIS_URL", "")

app = Celery(
    "bench",
    broker=RABBITMQ or REDIS,
    # Redis keeps results for any process; with RabbitMQ alone they come back over the caller's reply queue.
    backend=os.environ.get("BENCH_CELERY_RESULTS") or REDIS or "rpc://",
)
app.conf.update(
    # A queue of its own for each run keeps out what a killed run left behind.
    task_default_queue=os.environ.get("BENCH_CELERY_QUEUE", "bench-celery"),
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
    result_expires=600,
)

inc = app.task(name="bench.inc")(tasks.inc)
add = app.task(name="bench.add")(tasks.add)
