"""`Control` and `Inspect`: what is done to workers and tasks, and asked of them. The scheduler answers for all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from futurebroker.celery.sending import rate
from futurebroker.celery.stamping import stamps_of


def _names(destination: Any) -> list[str] | None:
    if destination is None:
        return None
    return [destination] if isinstance(destination, str) else list(destination)


class Inspect:
    """Questions about workers; each returns ``{worker: answer}``, or None if there is no worker."""

    def __init__(
        self, destination: Any = None, timeout: float = 1.0, callback: Any = None, connection: Any = None,
        app: Any = None, limit: Any = None, pattern: str | None = None, matcher: Any = None,
    ) -> None:  # fmt: skip
        self.app = app
        self._destination = _names(destination)
        self._pattern = pattern

    def _ask(self, method: str, argument: Any = None) -> Any:
        answers = self.app.sender.ask("inspect", [method, self._destination, self._pattern, argument])
        return answers or None

    def ping(self, destination: Any = None) -> Any:
        """``{"ok": "pong"}`` of each."""
        if destination is not None:
            self._destination = _names(destination)
        return self._ask("ping")

    def stats(self) -> Any:
        """What each is, and what it has done."""
        return self._ask("stats")

    def active(self, safe: Any = None) -> Any:
        """Tasks that run."""
        return self._ask("active")

    def reserved(self, safe: Any = None) -> Any:
        """Tasks that were sent to a worker and have not begun."""
        return self._ask("reserved")

    def scheduled(self, safe: Any = None) -> Any:
        """Tasks whose time hasn't come; the scheduler holds them, so each worker that may run one lists it."""
        answers = self._ask("scheduled") or {}
        for entry in (entry for entries in answers.values() for entry in entries):
            entry["eta"] = datetime.fromtimestamp(entry["eta"], self.app.timezone).isoformat()
        return answers or None

    def revoked(self) -> Any:
        """Ids that must not run."""
        return self._ask("revoked")

    def registered(self, *taskinfoitems: str) -> Any:
        """Names of the tasks that its app has."""
        return self._ask("registered", list(taskinfoitems))

    registered_tasks = registered

    def active_queues(self) -> Any:
        """Queues it takes from."""
        return self._ask("active_queues")

    def query_task(self, *ids: Any) -> Any:
        """Where tasks are, by id."""
        flat = ids[0] if len(ids) == 1 and isinstance(ids[0], (list, tuple)) else ids
        return self._ask("query_task", list(flat))

    def conf(self, with_defaults: bool = False) -> Any:
        """Settings of its app."""
        return self._ask("conf", with_defaults)

    def report(self) -> Any:
        """What it runs on."""
        return self._ask("report")

    def clock(self) -> Any:
        """A number that rises."""
        return self._ask("clock")


#: what Celery has and there is none of here, and what takes its place
_ABSENT = {
    "autoscale": "cluster.adapt() gives and takes workers as there is work",
    "broadcast": "client.run() calls a function in every executor",
    "disable_events": "nothing is sent as events; client.get_events() and the dashboard tell what happens",
    "election": "one scheduler leads, and others stand by",
    "enable_events": "nothing is sent as events; client.get_events() and the dashboard tell what happens",
    "heartbeat": "workers send theirs by themselves",
    "mailbox": "client.run() calls a function in every executor",
    "pool_restart": "client.restart() starts all executors anew",
}


class Control:
    """What is done to workers and tasks."""

    def __getattr__(self, name: str) -> Any:
        why = f": {_ABSENT[name]}" if name in _ABSENT else ""
        raise AttributeError(f"app.control has no {name!r} here{why}")

    Inspect = Inspect

    def __init__(self, app: Any) -> None:
        self.app = app

    @property
    def inspect(self) -> Any:
        """Makes an `Inspect`."""

        def make(destination: Any = None, **kwargs: Any) -> Inspect:
            return Inspect(destination, app=self.app, **kwargs)

        return make

    def _do(self, method: str, destination: Any, about: Any, reply: bool) -> Any:
        answers = self.app.sender.ask("control", [method, _names(destination), about])
        return [{name: answer} for name, answer in answers.items()] if reply else None

    def _limit(self, kind: str, about: list[Any], reply: bool) -> Any:
        answers = self.app.sender.ask("limit_tasks", [kind, about])
        return [{name: answer} for name, answer in answers.items()] if reply else None

    def revoke(
        self, task_id: str | Iterable[str], destination: Any = None, terminate: bool = False, signal: Any = None,
        reply: bool = False, **kwargs: Any,
    ) -> Any:  # fmt: skip
        """These tasks must not run, nor what depends on them; with ``terminate`` they are ended where they run."""
        ids = [task_id] if isinstance(task_id, str) else [str(one) for one in task_id]
        known = self.app.sender.ask("revoke", [ids, terminate])
        return [{"scheduler": {"ok": f"tasks {', '.join(known or ids)} flagged as revoked"}}] if reply else None

    def revoke_by_stamped_headers(
        self, headers: Mapping[str, Any], destination: Any = None, terminate: bool = False, signal: Any = None,
        **kwargs: Any,
    ) -> Any:  # fmt: skip
        """As `revoke`, of all tasks that have one of these stamps, also of those that come later; returns their ids."""
        stamps = {
            str(name): [str(one) for one in values]
            for name, values in stamps_of({"stamped_headers": list(headers), **headers}).items()
        }
        return self.app.sender.ask("revoke_stamped", [stamps, terminate])

    def terminate(self, task_id: Any, destination: Any = None, signal: Any = None, **kwargs: Any) -> Any:
        """`revoke` with ``terminate``."""
        return self.revoke(task_id, destination, True, signal, **kwargs)

    def ping(self, destination: Any = None, timeout: float = 1.0, **kwargs: Any) -> list[dict[str, Any]]:
        """Which workers are there."""
        answers = Inspect(destination, app=self.app).ping() or {}
        return [{name: answer} for name, answer in answers.items()]

    def rate_limit(
        self, task_name: str, rate_limit: Any, destination: Any = None, reply: bool = False, **kwargs: Any
    ) -> Any:
        """Change how often tasks of a name are begun on each worker, from now on; 0 and None: any number."""
        return self._limit("rate_limit", [task_name, rate(rate_limit), bool(kwargs.get("for_all"))], reply)

    def time_limit(
        self, task_name: str, soft: float | None = None, hard: float | None = None, destination: Any = None,
        reply: bool = False, **kwargs: Any,
    ) -> Any:  # fmt: skip
        """Change how long tasks of a name may run, for those that begin from now on."""
        return self._limit("time_limit", [task_name, float(soft or 0), float(hard or 0)], reply)

    def add_consumer(self, queue: Any, destination: Any = None, reply: bool = False, **kwargs: Any) -> Any:
        """Have workers take from a queue."""
        return self._do("add_consumer", destination, str(getattr(queue, "name", queue)), reply)

    def cancel_consumer(self, queue: Any, destination: Any = None, reply: bool = False, **kwargs: Any) -> Any:
        """Have workers not take from a queue."""
        return self._do("cancel_consumer", destination, str(getattr(queue, "name", queue)), reply)

    def pool_grow(self, n: int = 1, destination: Any = None, reply: bool = False, **kwargs: Any) -> Any:
        """Give workers ``n`` executors more."""
        return self._do("pool_grow", destination, int(n), reply)

    def pool_shrink(self, n: int = 1, destination: Any = None, reply: bool = False, **kwargs: Any) -> Any:
        """Give workers ``n`` executors fewer, down to one."""
        return self._do("pool_shrink", destination, int(n), reply)

    def shutdown(self, destination: Any = None, reply: bool = False, **kwargs: Any) -> Any:
        """Have workers finish what they run, and end."""
        return self._do("shutdown", destination, None, reply)

    def purge(self, connection: Any = None) -> int:
        """Give up all tasks of apps that have not begun; returns how many."""
        return self.app.sender.ask("purge_tasks")  # type: ignore[no-any-return]

    discard_all = purge
