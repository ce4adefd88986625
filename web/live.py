"""Open pages are kept up to date by a stream of events, or by asking again and again where streams don't get through.

One event a second holds the page's HTML, drawn here, and new columns for its figures; what changes is what arrives. A
stream ends after a while by itself, and when the site does; the browser comes back by itself.
"""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterator
from typing import Any

from flask import Blueprint, Response, g, request, stream_with_context
from werkzeug.exceptions import HTTPException

from futurebroker.web import api, contents
from futurebroker.web.api import arguments
from futurebroker.web.site import Page, Site

#: seconds a stream lives
LIFE = 300.0
#: milliseconds after which a browser comes back
RETRY = 3000
#: seconds that a browser should wait when there are too many streams
BUSY = 10

_DRAWINGS = contents.Drawings()


def register(blueprint: Blueprint) -> None:
    """Add the live feeds to ``blueprint``."""
    blueprint.add_url_rule("/api/v1/live", "live", live)
    blueprint.add_url_rule("/api/v1/tick", "tick", tick)


def _asked() -> tuple[Page, dict[str, str], int]:
    page = contents.page_called(request.args.get("page", "overview"))
    since = request.headers.get("Last-Event-ID") or request.args.get("since", "0")
    return page, arguments(), int(since) if since.isdecimal() else 0


def tick() -> Response:
    """What changed in a page since the tick with the number ``since``."""
    page, args, since = _asked()
    site = Site.current()
    return api.reply(contents.tick(site, page, args, g.fb_role, since, _DRAWINGS))


def live() -> Response:
    """The same, as a stream of server-sent events."""
    page, args, since = _asked()
    site = Site.current()
    if request.method == "HEAD":
        return Response(mimetype="text/event-stream")
    if not site.take_stream():
        response = api.problem(503, "too many streams are open; ask /api/v1/tick instead")
        response.headers["Retry-After"] = str(BUSY)
        return response
    events = stream_with_context(_Stream(site, page, args, g.fb_role, since))
    headers = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}
    return Response(events, mimetype="text/event-stream", headers=headers)


class _Stream:
    """The events of one open page; gives its place back when the server closes it, also before the first event."""

    def __init__(self, site: Site, page: Page, args: dict[str, str], role: str, since: int) -> None:
        self._site = site
        self._page = page
        self._args = args
        self._role = role
        self._since = since
        self._ended = False
        self._events = self._run()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        return next(self._events)

    def close(self) -> None:
        if not self._ended:
            self._ended = True
            self._events.close()
            self._site.give_stream()

    def __del__(self) -> None:
        self.close()

    def _run(self) -> Generator[str, None, None]:
        site, collector = self._site, self._site.collector
        yield f"retry: {RETRY}\n\n"
        until = time.monotonic() + LIFE
        sent: dict[str, Any] = {}
        while not collector.closed and time.monotonic() < until:
            began = time.monotonic()
            try:
                change = contents.tick(site, self._page, self._args, self._role, self._since, _DRAWINGS)
            except HTTPException as error:
                yield event("gone", {"error": error.description})
                return
            self._since = change["id"]
            # What the page has already is left out; the rest is small, and its coming says that the stream lives.
            same = [part for part in ("html", "figures") if sent.get(part) == change[part]]
            sent = change
            yield event("tick", {part: value for part, value in change.items() if part not in same}, change["id"])
            collector.since(self._since, patience=2.0)
            rest = self._page.every - (time.monotonic() - began)
            if rest > 0.05 and self._page.every > 1:
                collector.since(1 << 62, patience=rest)  # wakes early only when the site ends


def event(name: str, value: Any, number: int | None = None) -> str:
    """One server-sent event."""
    text = json.dumps(value, separators=(",", ":"), default=str)
    head = f"id: {number}\n" if number is not None else ""
    return f"{head}event: {name}\ndata: {text}\n\n"
