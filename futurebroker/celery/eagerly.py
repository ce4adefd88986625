"""`EagerResult`: the result of a task that was run in this process."""

from __future__ import annotations

from typing import Any

from futurebroker.celery import states
from futurebroker.celery.exceptions import TaskRevokedError
from futurebroker.celery.results import AsyncResult, assert_will_not_block


class EagerResult(AsyncResult):
    """The result of a task that was run here."""

    def __init__(
        self,
        id: str,
        ret_value: Any,
        state: str,
        traceback: str | None = None,
        name: str | None = None,
        app: Any = None,
    ) -> None:
        super().__init__(id, task_name=name, app=app)
        self._value_here = ret_value
        self._state = state
        self._traceback = traceback

    def _meta(self) -> dict[str, Any]:
        return {"status": self._state}

    def _called(self) -> tuple[Any, Any]:
        return None, None

    def _value(self, timeout: float | None) -> Any:
        return self._value_here

    def get(self, timeout: float | None = None, propagate: bool = True, *args: Any, **kwargs: Any) -> Any:
        """The result; raises what the task raised, unless ``propagate=False``."""
        if kwargs.get("disable_sync_subtasks", True):
            assert_will_not_block()
        if self.successful():
            return self._value_here
        if propagate and self._state in states.PROPAGATE_STATES:
            raise self._value_here if isinstance(self._value_here, BaseException) else Exception(self._value_here)
        return self._value_here

    wait = get

    @property
    def state(self) -> str:
        return self._state

    status = state

    @property
    def result(self) -> Any:
        return self._value_here

    info = result

    @property
    def traceback(self) -> str | None:
        return self._traceback

    @property
    def children(self) -> list[AsyncResult] | None:
        return []

    def ready(self) -> bool:
        return True

    def forget(self) -> None:
        """Nothing is kept."""

    def revoke(self, *args: Any, **kwargs: Any) -> None:
        """It counts as revoked from now on."""
        self._state = states.REVOKED
        self._value_here = TaskRevokedError("revoked")

    def __reduce__(self) -> tuple[Any, ...]:
        return EagerResult, (self.id, self._value_here, self._state, self._traceback)

    def __repr__(self) -> str:
        return f"<EagerResult: {self.id}>"
