"""What follows a running task, read out of the scheduler's graph: ``request.chain``, ``chord``, callbacks, errbacks.

A message here carries nothing of what comes after it, so this is asked for when a task first looks, and only then. A
task may empty one of them, as Celery's may, and what it named is then given up.
"""

from __future__ import annotations

import logging
import pickle
import time
from dataclasses import dataclass
from typing import Any

from futurebroker.celery import local, states
from futurebroker.celery.canvas import chain_of, chord, group
from futurebroker.celery.compiler import COLLECT, LINK
from futurebroker.celery.signature import Signature
from futurebroker.inside import NO_TASK, current_task
from futurebroker.protocol.refs import TaskRef
from futurebroker.protocol.serialize import loads_writable
from futurebroker.types import Key

logger = logging.getLogger("futurebroker.celery")

#: seconds that workers may take to give back what was sent ahead
PATIENCE = 5.0
#: what a request has of it
FIELDS = ("chain", "chord", "callbacks", "errbacks")


@dataclass(slots=True)
class _Call:
    """One call that follows."""

    sig: Signature
    needs: list[Key]
    joins: bool
    is_link: bool


@dataclass(slots=True, eq=False)
class _Line:
    """Steps one after another, the keys that they end with, and what joins these with others."""

    steps: list[Signature]
    ends: set[Key]
    join: Key


class Followers:
    """What follows one task, as Celery has it: signatures, those of the chain in reverse."""

    def __init__(self, app: Any, key: Key, answer: dict[str, Any]) -> None:
        self._app = app
        self._calls = {row[0]: self._call(row) for row in answer["calls"]}
        self._takers: dict[Key, list[Key]] = {}
        for name, call in self._calls.items():
            for needed in call.needs:
                self._takers.setdefault(needed, []).append(name)
        #: by field, the calls that are given up when the task empties it
        self.keys: dict[str, list[Key]] = {"chain": [], "chord": [], "callbacks": [], "errbacks": []}
        for name in self._takers.get(key, ()):
            call = self._calls[name]
            self.keys["callbacks" if call.is_link else "chord" if call.joins else "chain"].append(name)
        steps = self._after(key).steps
        links = [self._with_rest(name) for name in self.keys["callbacks"]]
        #: by field, what the request has
        self.fields: dict[str, Any] = {
            "chain": steps[::-1] or None,
            "chord": next(map(self._with_rest, self.keys["chord"]), None),
            "callbacks": links or None,
            "errbacks": self._errbacks(answer["planned"]) or None,
        }
        #: by field, the ids of what is in it, for noticing changes
        self.ids = {name: _ids(value) for name, value in self.fields.items()}

    def _call(self, row: list[Any]) -> _Call:
        key, name, packed, needs, request, joins = row
        args, kwargs = loads_writable(packed)
        # What a call is given of others comes first; one that waits without taking it is immutable.
        fields = pickle.loads(request) if request else {}
        taken = bool(args) and (_names_a_task(args[0]) or fields.get("is_errback", False))
        own = args[1:] if taken else args
        options = {
            "task_id": key,
            **{option: fields[name] for name, option in (("group", "group_id"),) if name in fields},
            **{name: fields[name] for name in ("group_index", "queue", "priority", "headers") if name in fields},
        }
        sig = Signature(name, own, kwargs, options=options, immutable=not taken, app=self._app)
        return _Call(sig, list(needs), bool(joins), bool(fields.get(LINK)))

    def _after(self, key: Key) -> _Line:
        """What follows ``key``, up to what joins it with others."""
        line = _Line([], {key}, "")
        while True:
            takers = [name for name in self._takers.get(key, ()) if not self._calls[name].is_link]
            line.join = next((name for name in takers if self._calls[name].joins), "")
            takers = [name for name in takers if not self._calls[name].joins]
            if not takers:
                return line
            if len(takers) == 1:
                (key,) = takers
                line.steps.append(self._calls[key].sig)
                line.ends = {key}
                continue
            branch = self._together([self._from(taker) for taker in takers])
            return _Line([*line.steps, *branch.steps], branch.ends, branch.join)

    def _from(self, key: Key) -> _Line:
        """``key`` with what follows it; what only gathers results for others is left out."""
        rest, sig = self._after(key), self._calls[key].sig
        return rest if sig.task == COLLECT else _Line([sig, *rest.steps], rest.ends, rest.join)

    def _together(self, lines: list[_Line]) -> _Line:
        """Lines that begin at the same place: groups, and chords where all that a call joins is among them."""
        while len(lines) > 1:
            for join in dict.fromkeys(line.join for line in lines):
                members = [line for line in lines if line.join == join]
                ends = {end for line in members for end in line.ends}
                if not join or not {name for name in self._calls[join].needs if name in self._calls} <= ends:
                    continue
                body, header = self._from(join), group([self._sig(line) for line in members], app=self._app)
                step = chord(header, self._sig(body), app=self._app) if body.steps else header
                at = lines.index(members[0])
                lines = [line for line in lines if line not in members]
                lines.insert(at, _Line([step], body.ends, body.join))
                break
            else:
                ends = {end for line in lines for end in line.ends}
                return _Line([group([self._sig(line) for line in lines], app=self._app)], ends, lines[-1].join)
        return lines[0]

    def _sig(self, line: _Line) -> Signature:
        return line.steps[0] if len(line.steps) == 1 else chain_of(line.steps, self._app)

    def _with_rest(self, key: Key) -> Signature:
        return self._sig(self._from(key))

    def _errbacks(self, rows: list[Any]) -> list[Signature]:
        """The first call of each errback; what they are called with is the failed task's id."""
        found = []
        for row in rows:
            call = self._call(row)
            if not call.needs:
                found.append(call.sig)
        return found


def _names_a_task(arg: Any) -> bool:
    return isinstance(arg, TaskRef) or (isinstance(arg, list) and any(map(_names_a_task, arg)))


def followers_of(request: Any, task: Any = None) -> Followers | None:
    """What follows the task of this request, asked for once; None if it isn't what runs here."""
    known: Followers | None = request.__dict__.get("followers")
    if known is None and not request.is_eager and not request.called_directly:
        task = task or local.current_task()
        if task is not None and current_task.get(NO_TASK)[1] == request.id:
            known = Followers(task.app, request.id, task.app.sender.ask("followers", request.id))
            request.__dict__["followers"] = known
    return known


def settle(task: Any, request: Any) -> None:
    """The task has a result: give up what it took out of its request."""
    given = {name: request.__dict__[name] for name in FIELDS if name in request.__dict__}
    known = followers_of(request, task) if given else None
    if known is None:
        return
    gone: list[Key] = []
    for name, value in given.items():
        if not value:
            gone += known.keys[name]
        elif _ids(value) != known.ids[name]:
            logger.warning("request.%s of %s was changed, which does nothing; use self.replace()", name, request.id)
    if gone:
        _revoke(task.app.sender, gone)


def _revoke(sender: Any, keys: list[Key]) -> None:
    """Revoke calls, and see them ended: some may have been sent ahead, to begin as soon as this task has ended."""
    sender.ask("revoke", [keys, False])
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        metas = sender.metas(keys)
        if all(meta is None or meta["status"] in states.READY_STATES for meta in metas):
            return
        time.sleep(0.002)


def _ids(value: Any) -> list[Any]:
    parts = value if isinstance(value, list) else [value] if value else []
    return [part.get("options", {}).get("task_id") if isinstance(part, dict) else part for part in parts]
