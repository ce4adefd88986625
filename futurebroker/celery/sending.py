"""From graphs to the scheduler: each task of a canvas as a call of one client, with what is agreed for it."""

from __future__ import annotations

import pickle
import re
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from futurebroker.celery import local
from futurebroker.celery.builtins import CALLERS
from futurebroker.celery.compiler import COLLECT, LINK
from futurebroker.celery.exceptions import EncodeError
from futurebroker.celery.stamping import stamps_of
from futurebroker.client.calls import Call
from futurebroker.client.client import Client
from futurebroker.client.futures import Future
from futurebroker.client.submitting import Batch, Submitter
from futurebroker.client.waiters import run_blocking
from futurebroker.graph import Graph, Ref, TaskSpec
from futurebroker.protocol.messages import AddFunction, Conditions, OnFailure, PlannedCall, TaskOptions
from futurebroker.types import Key

#: the option of calls whose ids users chose, which may have meant another call before
NAMED = "is_named"
#: options that say how the call runs; the rest of what `apply_async` is given is about transport, and has no effect
_REQUEST = (
    "root_id", "parent_id", "group_id", "group_index", "headers", "shadow", "reply_to", "replaced_task_nesting",
    "origin", "stamps", "stamped_headers", "ignore_result", LINK,
)  # fmt: skip
#: options that say something about a call's place and time, and nothing of how it runs
_OF_PLACE = frozenset((*_REQUEST, NAMED, "countdown", "eta", "expires")) - {"ignore_result"}
_RATE = re.compile(r"\s*([\d.]+)\s*(?:/\s*([smh]))?\s*", re.ASCII)
_PER = {"s": 1.0, "m": 60.0, "h": 3600.0}
#: seconds that "for ever" lasts
FOR_EVER = 100 * 365 * 86400.0


def rate(value: Any) -> float:
    """Runs a second of ``"10/m"``, ``5`` or None.

    Raises:
        ValueError: it says something else.
    """
    if value is None or value == "":
        return 0.0
    match = _RATE.fullmatch(str(value))
    if match is None:
        raise ValueError(f'a rate limit reads like "10/m", "1/s", "100/h" or 5, not {value!r}')
    return float(match[1]) / _PER[match[2] or "s"]


def seconds(value: Any) -> float:
    """Seconds of a number or a timedelta."""
    return value.total_seconds() if isinstance(value, timedelta) else float(value)


def moment(value: Any, app: Any) -> float:
    """Seconds since 1970 of a datetime (in the app's time zone if it has none), or of so many seconds from now."""
    if isinstance(value, datetime):
        return (value if value.tzinfo is not None else value.replace(tzinfo=app.timezone)).timestamp()
    if isinstance(value, str):
        return moment(datetime.fromisoformat(value), app)
    return time.time() + seconds(value)


class Sender:
    """What an app sends through one client."""

    def __init__(self, app: Any, client: Client | None) -> None:
        self.app = app
        #: what it sends through
        self.client: Client = client  # type: ignore[assignment]
        self._calls: dict[tuple[str, TaskOptions | None, bool], Call] = {}
        #: calls without options of tasks, as settings of this version have them
        self._plain: dict[str, Call] = {}
        self._version = -1

    @property
    def _submitter(self) -> Submitter:
        return self.client._submitter

    def ask(self, topic: str, about: Any = None) -> Any:
        """Ask the scheduler, and wait for the answer."""
        return run_blocking(self.client._connection.ask(topic, about, True, None))

    def metas(self, ids: list[str]) -> list[dict[str, Any] | None]:
        """What the scheduler knows of these tasks; None of one that it doesn't know."""
        return self.ask("task_metas", ids)  # type: ignore[no-any-return]

    def adopt(self, key: Key) -> Future[Any]:
        """The future of a key, whoever submits it, and whenever."""
        return self._submitter.adopt(key)

    # -- calls ------------------------------------------------------------------------------------------------------

    def send(
        self, task: Any, name: str, key: Key, args: tuple[Any, ...], kwargs: dict[str, Any], version: int
    ) -> Future[Any]:
        """A call without options, in the fewest steps.

        Args:
            version: of the app's settings.
        """
        call = self._plain.get(name) if version == self._version else None
        if call is None:
            call = self._plain_call(task, name)
        return self.client._submitter.submit_call(call, args, kwargs, key)

    def _plain_call(self, task: Any, name: str) -> Call:
        version = self.app.conf.version
        if version != self._version:
            self._version, self._plain = version, {}
        call = self._plain.get(name)
        if call is None:
            call = self._plain[name] = self._call(name, self.options(task, name, {}))
        return call

    def submit(self, graph: Graph, lookup: Any) -> dict[Key, Future[Any]]:
        """Send all tasks of a graph; returns their futures.

        Args:
            lookup: gives the task of a name, or None if this program hasn't got it.
        """
        futures: dict[Key, Future[Any]] = {}
        batch = self._submitter.batch()
        plain = not self.app.conf.task_routes
        for spec in graph:
            if plain and spec.options.keys() <= _OF_PLACE:
                call = self._plain_call(lookup(spec.name), spec.name)
            else:
                call = self._call(spec.name, self.options(lookup(spec.name), spec.name, spec.options))
            if NAMED in spec.options:
                call = self._call(spec.name, call.options, is_named=True)
            inputs = spec.inputs
            args = (*[_resolved(value, futures) for value in inputs], *spec.args) if inputs else spec.args
            self._check_json(args, spec.kwargs, spec.options)
            if spec.name in CALLERS:
                spec.kwargs = {**spec.kwargs, "call": self.app.call_of(spec.kwargs["task"]["task"])}
            conditions = self.conditions(spec)
            after = tuple([reference.key for reference in spec.after]) if spec.after else ()
            futures[spec.key] = batch.add(call, args, spec.kwargs, spec.key, conditions, after)
            for errback in spec.on_failure:
                self._plan(batch, spec.key, errback, lookup)
        batch.send()
        return futures

    def _plan(self, batch: Batch, of: Key, graph: Graph, lookup: Any) -> None:
        """Have the tasks of ``graph`` be made if the task ``of`` fails."""
        calls: list[PlannedCall] = []
        submitter = self._submitter
        for spec in graph:
            task = lookup(spec.name)
            call = self._call(spec.name, self.options(task, spec.name, spec.options))
            is_root = not any(True for _ in spec.references())
            packed = submitter.pack_apart(call, (*spec.inputs, *spec.args), spec.kwargs)
            more = {"is_errback": True} if is_root and spec.inputs == (of,) else {}
            keys = tuple(dict.fromkeys((*(packed.dependencies or ()), *(reference.key for reference in spec.after))))
            batch.put(AddFunction(call.digest, call.name, call.code))
            conditions = self.conditions(spec, more)
            options = msgspec.to_builtins(call.options)
            calls.append(PlannedCall(call.digest, spec.key, packed.data, keys, options, conditions))
        batch.put(OnFailure(of, calls))

    def _call(self, name: str, options: TaskOptions | None, is_named: bool = False) -> Call:
        known = self._calls.get((name, options, is_named))
        if known is None:
            function: Any = self.app.call_of(name)
            known = Call.of(function, options, self._submitter.salt, name)
            known.is_named = is_named
            self._calls[name, options, is_named] = known
        return known

    def _check_json(self, args: tuple[Any, ...], kwargs: dict[str, Any], options: dict[str, Any]) -> None:
        if options.get("serializer", self.app.conf.task_serializer) == "json":
            to_json(args, kwargs)

    # -- what is agreed ---------------------------------------------------------------------------------------------

    def options(self, task: Any, name: str, given: dict[str, Any]) -> TaskOptions:
        """How a call runs: by what it was given, else its route, else its task, else the settings."""
        app, conf = self.app, self.app.conf
        route = app.route(name, given)

        def option(key: str, setting: str | None = None) -> Any:
            for source in (given, route):
                if source.get(key) is not None:
                    return source[key]
            value = getattr(task, key, None) if task is not None else None
            return conf[setting] if value is None and setting else value

        ignored = bool(option("ignore_result", "task_ignore_result")) and name != COLLECT
        stores_errors = bool(option("store_errors_even_if_ignored", "task_store_errors_even_if_ignored"))
        keep = _lasting(conf.result_expires) if stores_errors or not ignored else 0.0
        late = bool(option("acks_late", "task_acks_late")) or name == COLLECT
        limit, soft = option("time_limit", "task_time_limit"), option("soft_time_limit", "task_soft_time_limit")
        if limit and soft and soft > limit:
            raise ValueError("soft_time_limit must be less than or equal to time_limit")
        queue = app.queue_name(option("queue"))
        return TaskOptions(
            priority=int(option("priority", "task_default_priority") or 0),
            durable=True,
            keep=keep,
            at_most_once=not late,
            fails_with_executor=late and not option("reject_on_worker_lost", "task_reject_on_worker_lost"),
            queue="" if queue == "celery" else queue,
            time_limit=float(limit or 0.0),
            soft_time_limit=float(soft or 0.0),
            rate_limit=rate(option("rate_limit", "task_default_rate_limit")),
            rate_for_all=bool(option("rate_limit_for_all")),
            tracked=bool(option("track_started", "task_track_started")),
            unwanted=ignored,
            leaves=True,
        )

    def conditions(self, spec: TaskSpec, more: dict[str, Any] | None = None) -> Conditions | None:
        """What is agreed for one call; None if nothing is."""
        options = spec.options
        fields = {name: options[name] for name in _REQUEST if options.get(name) is not None}
        running = local.current_task()
        if running is not None and running.request.id is not None and not running.request.is_eager:
            fields.setdefault("parent_id", running.request.id)
            fields.setdefault("root_id", running.request.root_id or running.request.id)
        for given, name in (("group_id", "group"),):
            if given in fields:
                fields[name] = fields.pop(given)
        stamps = stamps_of(options)
        if stamps:
            fields["stamps"] = {name: options[name] for name in stamps}
        eta, expires = options.get("eta"), options.get("expires")
        if options.get("countdown") is not None:
            eta = options["countdown"]
        due = moment(eta, self.app) if eta is not None else 0.0
        end = moment(expires, self.app) if expires is not None else 0.0
        for name, value in (("eta", due), ("expires", end)):
            if value:
                fields[name] = datetime.fromtimestamp(value, UTC).isoformat()
        for name in ("queue", "priority"):
            if options.get(name) is not None:
                fields[name] = options[name]
        parent = str(fields.get("parent_id") or "")
        if not fields and not spec.joins and not more:
            return None
        request = pickle.dumps({**fields, **(more or {})}, 5) if fields or more else b""
        shown = {name: [str(value) for value in values] for name, values in stamps.items()} or None
        return Conditions(due, end, parent, spec.joins, request, shown)


def _lasting(expires: Any) -> float:
    """Seconds that a result is kept; None and 0 are for ever, as in Celery."""
    return FOR_EVER if not expires else seconds(expires)


def _resolved(value: Any, futures: dict[Key, Future[Any]]) -> Any:
    if isinstance(value, Ref):
        return futures[value.key]
    if isinstance(value, list):
        return [_resolved(item, futures) for item in value]
    return value


def to_json(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What a call's arguments are after JSON has carried them; futures stay.

    Raises:
        EncodeError: JSON can't carry them.
    """
    try:
        data = msgspec.json.encode([_without_futures(args), _without_futures(kwargs)], enc_hook=_extended)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise EncodeError(f'{error}; task_serializer="json" carries only what JSON can') from error
    return msgspec.json.decode(data)


def _without_futures(value: Any) -> Any:
    if isinstance(value, Future):
        return None
    if isinstance(value, dict):
        return {key: _without_futures(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_futures(item) for item in value]
    if isinstance(value, (set, frozenset)):
        raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")
    return value


def _extended(value: Any) -> Any:
    encode = getattr(value, "__json__", None)
    if encode is None:
        raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")
    return encode()
