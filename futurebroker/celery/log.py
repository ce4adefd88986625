"""`get_task_logger`: a logger for tasks, whose lines can name the task."""

from __future__ import annotations

import logging
from typing import Any

from futurebroker.celery.local import current_task

task_logger = logging.getLogger("celery.task")


def get_logger(name: str) -> logging.Logger:
    """The logger of that name."""
    return logging.getLogger(name)


def get_task_logger(name: str) -> logging.Logger:
    """A logger below ``celery.task``, so that one setting reaches all loggers of tasks.

    Raises:
        RuntimeError: ``celery`` and ``celery.task`` are taken.
    """
    if name in ("celery", "celery.task"):
        raise RuntimeError(f"the logger name {name!r} is reserved")
    logger = logging.getLogger(name)
    if logger.parent is logging.root:
        logger.parent = task_logger
    return logger


class TaskFormatter(logging.Formatter):
    """Knows ``%(task_id)s`` and ``%(task_name)s`` of the task that runs."""

    def format(self, record: Any) -> str:
        task = current_task()
        if task is not None:
            record.__dict__.update(task_id=task.request.id, task_name=task.name)
        else:
            record.__dict__.setdefault("task_name", "???")
            record.__dict__.setdefault("task_id", "???")
        return super().format(record)
