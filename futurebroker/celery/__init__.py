"""The Celery face: a Celery program changes its imports, and its canvases become graphs of this scheduler."""

from futurebroker.celery import exceptions, signals, states
from futurebroker.celery.app import Celery, current_app, shared_task
from futurebroker.celery.canvas import chain, chord, chunks, group, xmap, xstarmap
from futurebroker.celery.eagerly import EagerResult
from futurebroker.celery.groups import GroupResult, ResultSet
from futurebroker.celery.local import Proxy
from futurebroker.celery.local import current_task as _current_task
from futurebroker.celery.log import get_task_logger
from futurebroker.celery.results import AsyncResult, allow_join_result
from futurebroker.celery.schedules import crontab, schedule
from futurebroker.celery.signature import Signature, maybe_signature, signature, subtask, uuid
from futurebroker.celery.task import Task

#: the task that runs here
current_task = Proxy(_current_task)

__all__ = [
    "AsyncResult",
    "Celery",
    "EagerResult",
    "GroupResult",
    "ResultSet",
    "Signature",
    "Task",
    "allow_join_result",
    "chain",
    "chord",
    "chunks",
    "crontab",
    "current_app",
    "current_task",
    "exceptions",
    "get_task_logger",
    "group",
    "maybe_signature",
    "schedule",
    "shared_task",
    "signals",
    "signature",
    "states",
    "subtask",
    "uuid",
    "xmap",
    "xstarmap",
]
