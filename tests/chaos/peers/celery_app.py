"""The Celery application of a chaos run, set to lose nothing: late acks, and tasks of lost workers are queued again."""

from __future__ import annotations

import os

from celery import Celery

from tests.chaos.graph import work

app = Celery("chaos", broker=os.environ.get("CHAOS_CELERY_BROKER"), backend=os.environ.get("CHAOS_CELERY_BACKEND"))
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    task_serializer="pickle",
    result_serializer="pickle",
    accept_content=["pickle"],
    broker_heartbeat=5,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    worker_hijack_root_logger=False,
)


run = app.task(name="chaos.work")(work)
