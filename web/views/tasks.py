"""Pages about tasks: the search over all of them, and one with everything that is known of it."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Iterable, Mapping
from typing import Any

from futurebroker.states import TaskState
from futurebroker.web.collector import UnansweredError
from futurebroker.web.queries import BadQueryError, HistoryAwayError
from futurebroker.web.site import Missing, Site

#: tasks on one page of a search
ROWS = 100
UNFINISHED = frozenset(("waiting", "no_worker", "queued", "processing"))
_CHIPS = (
    ("all", ""), ("failed", "state:failed"), ("running", "state:processing"), ("ready", "state:queued"),
    ("waiting", "state:waiting"), ("nobody serves", "state:no_worker"), ("done", "state:done"),
    ("last hour", "since:1h"),
)  # fmt: skip
#: words of a query -> states of the scheduler
_STATES = {"failed": "erred", "done": "memory", "running": "processing", "finished": "memory", "ready": "queued"}


def tasks(site: Site, args: Mapping[str, str]) -> dict[str, Any]:
    """Tasks that match the query ``q``, newest first, from ``after`` on."""
    query = args.get("q", "").strip()[:1000]
    chips = [{"name": name, "query": words, "at": words == query} for name, words in _CHIPS]
    page: dict[str, Any] = {
        "query": query, "chips": chips, "rows": [], "next": None, "total": None, "first": bool(args.get("after")),
        "error": "", "trouble": "", "source": "database", "failed": 0, "unfinished": 0, "kept": site.history.available,
    }  # fmt: skip
    try:
        if site.history.available and not _asks_for_unfinished(query):
            page.update(site.history.search(query, args.get("after"), ROWS))
        else:
            page.update(_live(site, query), source="scheduler")
    except BadQueryError as error:
        page["error"] = str(error)
    except HistoryAwayError as error:
        page["trouble"] = f"The database can't be read: {error}"
        page.update(_live(site, query), source="scheduler")
    return page


def _asks_for_unfinished(query: str) -> bool:
    """Whether tasks are wanted that have not ended, which only the scheduler knows."""
    states = re.findall(r"(?:^|\s)state:(\S+)", query)
    return any(_STATES.get(state, state) in UNFINISHED for state in states)


def keys_of(site: Site, query: str, states: Iterable[str]) -> list[str]:
    """Keys of tasks that match and are in one of ``states`` now, as the scheduler knows them.

    Raises:
        BadQueryError: the query has a word that only a history can answer.
        UnansweredError: the scheduler can't be asked.
    """
    about = parse(query)
    about.pop("state", None)
    keys: list[str] = site.collector.ask("keys", {**about, "states": list(states)})
    return keys


def _live(site: Site, query: str) -> dict[str, Any]:
    try:
        answer = site.collector.ask("find", parse(query))
    except UnansweredError as error:
        return {"trouble": f"The scheduler can't be asked: {error}"}
    now = time.time()
    rows = [
        {**row, "submitted": now - row["submitted"] if row["submitted"] is not None else None, "waited": _waited(row)}
        for row in answer["rows"]
    ]  # fmt: skip
    states = [row["state"] for row in rows]
    return {
        "rows": rows, "total": answer["matches"], "next": None, "failed": states.count("erred"),
        "unfinished": sum(state in UNFINISHED for state in states),
    }  # fmt: skip


def _waited(row: dict[str, Any]) -> float | None:
    """Seconds from a task's submission to its run, of which the scheduler tells how long ago they were."""
    if row["submitted"] is None or row["ended"] is None:
        return None
    return max(0.0, float(row["submitted"] - row["ended"] - row["took"]))


def parse(query: str) -> dict[str, str]:
    """A query as the scheduler's own search takes it.

    Raises:
        BadQueryError: it has a word that only a history can answer.
    """
    try:
        words = shlex.split(query)
    except ValueError:
        words = query.split()
    about: dict[str, str] = {}
    text = []
    for word in words:
        name, colon, value = word.partition(":")
        if not colon or name not in (
            "state",
            "type",
            "worker",
            "since",
            "until",
            "took",
            "error",
            "run",
            "tag",
            "client",
        ):
            text.append(word)
        elif name == "state":
            about["state"] = _STATES.get(value, value)
            if about["state"] not in {state.value for state in TaskState}:
                raise BadQueryError(
                    f"there is no state {value!r}; there are {', '.join(state.value for state in TaskState)}"
                )
        elif name in ("type", "worker"):
            about[name] = value
        else:
            raise BadQueryError(f"{name}: needs a history, and this site has no database (FUTUREBROKER_DATABASE_URL)")
    about["text"] = " ".join(text)
    return about


def task(site: Site, args: Mapping[str, str]) -> dict[str, Any]:
    """One task: why it is where it is, what happened to it, and what surrounds it."""
    key = args.get("key", "")
    if not key:
        raise Missing("This page is about a task: add ?key=… to its address.")
    trouble = []
    now: dict[str, Any] | None = None
    past: dict[str, Any] | None = None
    try:
        now = site.collector.ask("task", key)
    except UnansweredError as error:
        trouble.append(f"The scheduler can't be asked: {error}.")
    try:
        past = site.history.task(key)
    except HistoryAwayError as error:
        trouble.append(f"The database can't be read: {error}.")
    page: dict[str, Any] = {"key": key, "found": now is not None or past is not None, "trouble": " ".join(trouble)}
    if not page["found"]:
        page["trouble"] = page["trouble"] or (
            "It was never submitted, or it was released and forgotten"
            + (
                ", and the history doesn't have it (any more)."
                if site.history.available
                else "; without a database nothing of it is kept."
            )
        )
        return page
    page = {**page, **_merged(now or {}, past or {})}
    if now is not None:
        page.update(_seen(site, now))
        page["timeline"] = page["timeline"] or _so_far(site, now)
    return page


def _so_far(site: Site, now: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What happened to a task that the history doesn't have yet, as far as the scheduler noted it."""
    steps = []
    if now.get("submitted") is not None:
        steps.append({"state": "submitted", "at": time.time() - now["submitted"], "worker": "", "note": ""})
    try:
        *notes, _ = site.collector.ask("story", [now["key"]]) or [None]
    except UnansweredError:
        notes = []
    steps += [{"state": what, "at": at, "worker": worker, "note": ""} for at, _, what, worker, _ in notes]
    for before, step in zip([None, *steps[:-1]], steps, strict=True):
        step["after"] = max(0.0, step["at"] - before["at"]) if before is not None else None
    return steps


def _seen(site: Site, now: Mapping[str, Any]) -> dict[str, Any]:
    """What the executor sees of a task that runs: where it is, its arguments, and what it has printed so far."""
    if now["state"] != "processing" or not now.get("worker_id"):
        return {}
    about = {"workers": [now["worker_id"]], "keys": [now["key"]]}
    try:
        stack = site.collector.ask("call_stack", about).get(now["key"])
        note = site.collector.ask("task_notes", about).get(now["key"])
    except UnansweredError:
        return {}
    if stack is None:
        return {"why": f"was sent to worker {now.get('worker')}, which has not begun it"}
    seen: dict[str, Any] = {"stack": "\n".join(stack)[:20_000], "why": f"runs on worker {now.get('worker')}"}
    if note is not None and any(note.values()):
        seen["notes"] = [{"at": None, "worker": now.get("worker"), "result": "", **note}]
    return seen


def _merged(now: Mapping[str, Any], past: Mapping[str, Any]) -> dict[str, Any]:
    """What the scheduler knows, over what the history does."""
    state = now.get("state") or past.get("state", "")
    options = now.get("options") or {}
    submitted = now.get("submitted")
    facts: dict[str, Any] = {
        "worker": now.get("worker") or past.get("worker"),
        "attempts": (now.get("attempt") and (now["retried"] + now["deaths"] + 1)) or past.get("attempts"),
        "result": f"{now['nbytes']:,} bytes" if now.get("nbytes") else past.get("size"),
        "held by": ", ".join(now.get("holders", [])),
        "wanted by": ", ".join(now.get("clients", [])[:10]),
        "submitted": f"{submitted:.0f} s ago" if submitted is not None and not past.get("timeline") else None,
        "may run on": ", ".join(options.get("workers", [])),
        "resources": options.get("resources"),
        "retries allowed": options.get("retries") or None,
        "priority": options.get("priority") or None,
        **past.get("facts", {}),
    }
    return {
        "state": state,
        "type": now.get("type") or past.get("type", ""),
        "unfinished": state in UNFINISHED,
        "why": now.get("why", ""),
        "facts": facts,
        "timeline": past.get("timeline", []),
        "attempts": past.get("attempts_made", []),
        "failure": now.get("failure") or past.get("failure"),
        "notes": past.get("notes") or [note for note in [now.get("note")] if note],
        "stack": "",
        "inputs": now.get("inputs") or past.get("inputs", []),
        "inputs_count": now.get("inputs_count") or past.get("inputs_count", 0),
        "outputs": now.get("outputs") or past.get("outputs", []),
        "outputs_count": now.get("outputs_count") or past.get("outputs_count", 0),
    }
