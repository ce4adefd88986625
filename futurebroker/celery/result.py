"""Celery's module of results, by its name."""

from __future__ import annotations

from futurebroker.celery.eagerly import EagerResult
from futurebroker.celery.groups import GroupResult, ResultSet, result_from_tuple
from futurebroker.celery.results import AsyncResult, allow_join_result, assert_will_not_block, denied_join_result

__all__ = [
    "AsyncResult",
    "EagerResult",
    "GroupResult",
    "ResultSet",
    "allow_join_result",
    "assert_will_not_block",
    "denied_join_result",
    "result_from_tuple",
]
