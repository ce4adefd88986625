"""`ResultSet` and `GroupResult`: several results as one."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from typing import Any

from futurebroker.celery import local
from futurebroker.celery.results import AsyncResult, assert_will_not_block
from futurebroker.client.waiting import as_completed


class ResultSet:
    """Several results as one."""

    def __init__(self, results: Iterable[Any], app: Any = None, **_: Any) -> None:
        self.results = list(results)
        self._app = app

    @property
    def app(self) -> Any:
        return self._app or (self.results[0].app if self.results else local.current_app())

    def add(self, result: Any) -> None:
        """Add one, unless it is here."""
        if result not in self.results:
            self.results.append(result)

    def remove(self, result: Any) -> None:
        """Take one out; KeyError if it isn't here."""
        found = self.app.AsyncResult(result) if isinstance(result, str) else result
        if found not in self.results:
            raise KeyError(result)
        self.results.remove(found)

    def discard(self, result: Any) -> None:
        """Take one out, if it is here."""
        with contextlib.suppress(KeyError):
            self.remove(result)

    def update(self, results: Iterable[Any]) -> None:
        """Add several."""
        for result in results:
            self.add(result)

    def clear(self) -> None:
        """Take all out."""
        self.results.clear()

    def successful(self) -> bool:
        return all(result.successful() for result in self.results)

    def failed(self) -> bool:
        return any(result.failed() for result in self.results)

    def ready(self) -> bool:
        return all(result.ready() for result in self.results)

    def waiting(self) -> bool:
        return any(not result.ready() for result in self.results)

    def completed_count(self) -> int:
        return sum(result.successful() for result in self.results)

    def maybe_throw(self, callback: Any = None, propagate: bool = True) -> None:
        for result in self.results:
            result.maybe_throw(callback=callback, propagate=propagate)

    maybe_reraise = maybe_throw

    def forget(self) -> None:
        for result in self.results:
            result.forget()

    def revoke(self, connection: Any = None, terminate: bool = False, signal: Any = None, **_: Any) -> None:
        """As `AsyncResult.revoke`, of all."""
        ids = [name for result in self.results for name in _ids_of(result)]
        self.app.control.revoke(ids, terminate=terminate, signal=signal)

    def get(
        self, timeout: float | None = None, propagate: bool = True, interval: float = 0.5, callback: Any = None,
        no_ack: bool = True, on_message: Any = None, disable_sync_subtasks: bool = True, on_interval: Any = None,
    ) -> list[Any]:  # fmt: skip
        """All results, in order; raises the first failure."""
        if disable_sync_subtasks:
            assert_will_not_block()
        end = None if timeout is None else time.monotonic() + timeout
        values = []
        for result in self.results:
            left = None if end is None else max(0.0, end - time.monotonic())
            value = result.get(
                timeout=left, propagate=propagate, interval=interval, on_message=on_message, on_interval=on_interval,
                disable_sync_subtasks=False,
            )  # fmt: skip
            if callback is not None:
                callback(result.id, value)
            values.append(value)
        return values

    join = join_native = get

    def iter_native(self, timeout: float | None = None, **_: Any) -> Iterator[tuple[str, dict[str, Any]]]:
        """(id, meta) of each, as they end."""
        open_results = {result.future: result for result in self.results}
        for future in as_completed(list(open_results), timeout=timeout):
            result = open_results[future]
            value = result.get(propagate=False, disable_sync_subtasks=False)
            yield result.id, {"status": result.state, "result": value, "task_id": result.id}

    @property
    def supports_native_join(self) -> bool:
        return True

    def __iter__(self) -> Iterator[Any]:
        return iter(self.results)

    def __getitem__(self, index: Any) -> Any:
        return self.results[index]

    def __len__(self) -> int:
        return len(self.results)

    def __eq__(self, other: object) -> bool:
        return self.results == other.results if isinstance(other, ResultSet) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: [{', '.join(str(result) for result in self.results)}]>"


class GroupResult(ResultSet):
    """The results of a group."""

    def __init__(
        self, id: str | None = None, results: Iterable[Any] | None = None, parent: Any = None, app: Any = None,
        **_: Any,
    ) -> None:  # fmt: skip
        super().__init__(results or [], app)
        self.id = id
        self.parent = parent

    @property
    def children(self) -> list[Any]:
        return self.results

    def save(self, backend: Any = None) -> Any:
        """Keep which results belong to it, for `restore`."""
        return self.app.sender.ask("save_group", [self.id, self.as_tuple()])

    def delete(self, backend: Any = None) -> None:
        """Undo `save`."""
        self.app.sender.ask("save_group", [self.id, None])

    @classmethod
    def restore(cls, id: str, backend: Any = None, app: Any = None) -> Any:
        """A group that was saved; None if none was."""
        app = app or local.current_app()
        saved = app.sender.ask("saved_group", id)
        return None if saved is None else result_from_tuple(saved, app)

    def as_tuple(self) -> Any:
        parent = self.parent.as_tuple() if self.parent is not None else None
        return (self.id, parent), [result.as_tuple() for result in self.results]

    def forget(self) -> None:
        super().forget()
        if self.parent is not None:
            self.parent.forget()

    def __bool__(self) -> bool:
        return bool(self.id or self.results)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, GroupResult):
            return self.id == other.id and self.results == other.results and self.parent == other.parent
        return NotImplemented

    __hash__ = None

    def __str__(self) -> str:
        return str(self.id)

    def __repr__(self) -> str:
        return f"<GroupResult: {self.id} [{', '.join(str(result) for result in self.results)}]>"

    def __reduce__(self) -> tuple[Any, ...]:
        return GroupResult, (self.id, self.results, self.parent)


def _ids_of(result: Any) -> list[str]:
    if isinstance(result, ResultSet):
        return [name for one in result.results for name in _ids_of(one)]
    return [result.id]


def result_from_tuple(r: Any, app: Any = None) -> Any:
    """The result that `as_tuple` was called on."""
    app = app or local.current_app()
    if isinstance(r, (AsyncResult, ResultSet)):
        return r
    head, children = r
    name, parent = head if isinstance(head, (list, tuple)) else (head, None)
    before = result_from_tuple(parent, app) if parent else None
    if children is not None:
        return app.GroupResult(name, [result_from_tuple(child, app) for child in children], parent=before)
    return app.AsyncResult(name, parent=before)
