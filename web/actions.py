"""What an operator may change: cancel tasks, run failed ones again, fire a schedule; each is written down.

The forms of pages and the API end here alike. Nothing else can be done through the site: it takes no code and no data.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from flask import Blueprint, Response, g, redirect, request, url_for
from werkzeug.exceptions import BadRequest
from werkzeug.wrappers import Response as AnyResponse

from futurebroker.protocol.messages import Cancel, Message, Retry
from futurebroker.web import api
from futurebroker.web.collector import UnansweredError
from futurebroker.web.queries import BadQueryError, HistoryAwayError
from futurebroker.web.site import Action, Missing, Site
from futurebroker.web.views import tasks

audit = logging.getLogger("futurebroker.web.audit")

#: tasks that one action may name
MOST = 10_000
#: keys that the record of an action repeats
KEYS_NOTED = 20


def register(blueprint: Blueprint) -> None:
    """Add the actions to ``blueprint``."""
    blueprint.add_url_rule("/actions/<any(retry,cancel):what>", "act", act, methods=["POST"])
    blueprint.add_url_rule("/api/v1/<any(retry,cancel):what>", "api_act", api_act, methods=["POST"])
    blueprint.add_url_rule("/actions/run_schedule", "run_schedule", run_schedule, methods=["POST"])
    blueprint.add_url_rule("/api/v1/run_schedule", "api_run_schedule", api_run_schedule, methods=["POST"])


def act(what: str) -> Response | AnyResponse:
    """An action of a page's form; goes back to the page."""
    query = request.form.get("query")
    keys = _found(what, query) if query else [key for key in request.form.getlist("key") if key]
    if not keys and not query:
        raise BadRequest("No task was named.")
    target = request.form.get("next", "")
    if not target.startswith("/") or target.startswith(("//", "/\\")):
        target = url_for(".overview")
    if keys:
        _perform(what, keys, query)
    return redirect(target, 303)


def api_act(what: str) -> Response:
    """An action of a program: ``{"keys": [...]}``, or ``{"query": "...", "dry_run": true}`` for what a search finds."""
    body: Any = request.get_json(silent=True)
    if not isinstance(body, dict):
        raise BadRequest('Send JSON: {"keys": [...]} or {"query": "..."}.')
    keys, query = body.get("keys"), body.get("query")
    if query is not None:
        if not isinstance(query, str):
            raise BadRequest("query is text, as in the search of tasks.")
        keys = _found(what, query)
    if not isinstance(keys, list) or not all(isinstance(key, str) and key for key in keys):
        raise BadRequest("keys is a list of text.")
    if len(keys) > MOST:
        raise BadRequest(f"An action takes up to {MOST:,} tasks, and these are {len(keys):,}.")
    dry = bool(body.get("dry_run"))
    if not dry and keys:
        _perform(what, keys, query)
    return api.reply({"action": what, "count": len(keys), "dry_run": dry})


def run_schedule() -> Response | AnyResponse:
    """The button of a schedule; goes to the task that it makes, where that is still known when it has ended."""
    name = request.form.get("name", "")
    if not name:
        raise BadRequest("No schedule was named.")
    key = _fire(name)
    kept = Site.current().history.available
    return redirect(url_for(".task", key=key) if kept else url_for(".schedules"), 303)


def api_run_schedule() -> Response:
    """The same for programs: ``{"name": "..."}``; answers with the key of the task."""
    body: Any = request.get_json(silent=True)
    name = body.get("name") if isinstance(body, dict) else None
    if not isinstance(name, str) or not name:
        raise BadRequest('Send JSON: {"name": "..."}.')
    return api.reply({"name": name, "key": _fire(name)})


def _fire(name: str) -> str:
    """Have a schedule's task run now; returns its key."""
    site = Site.current()
    try:
        names = {row["name"] for row in site.collector.ask("schedules")}
        if name not in names:
            raise Missing(f"There is no schedule called “{name[:200]}”.")
        key: str = site.collector.ask("run_schedule", name)
    except UnansweredError as error:
        raise ServiceAway(str(error)) from error
    _note("run_schedule", f"{name}: {key}")
    return key


def _found(what: str, query: str) -> list[str]:
    """The tasks that a search finds and an action can be about: failed ones to retry, unfinished ones to cancel."""
    site = Site.current()
    try:
        if what == "cancel":
            return tasks.keys_of(site, query, tasks.UNFINISHED)
        if not site.history.available:
            return tasks.keys_of(site, query, ("erred",))
        failed = site.history.keys(f"{query} state:failed", MOST)
        # Of those in the history only what the scheduler still knows can be run again.
        known: list[str] = site.collector.ask("keys", {"keys": failed, "states": ["erred"]})
        return known
    except BadQueryError as error:
        raise BadRequest(str(error)) from error
    except (HistoryAwayError, UnansweredError) as error:
        raise ServiceAway(str(error)) from error


def _perform(what: str, keys: list[str], query: str | None = None) -> None:
    site = Site.current()
    reason = "cancelled by an operator in the dashboard"
    message: Message = Retry(keys) if what == "retry" else Cancel(keys, force=True, reason=reason)
    try:
        site.collector.send(message)
    except UnansweredError as error:
        raise ServiceAway(str(error)) from error
    shown = ", ".join(key[:200] for key in keys[:KEYS_NOTED]) + (
        f" and {len(keys) - KEYS_NOTED:,} more" if len(keys) > KEYS_NOTED else ""
    )
    _note(what, f"{query!r}: {shown}" if query else shown)


def _note(what: str, about: str) -> None:
    """Write down who did what."""
    site = Site.current()
    audit.info("%s by %s at %s: %s", what, g.fb_role, request.remote_addr, about)
    site.note(Action(time.time(), g.fb_role, request.remote_addr or "", what, about))


class ServiceAway(BadRequest):
    """The scheduler can't be told at the moment."""

    code = 503
