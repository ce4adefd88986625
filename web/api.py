"""The same for programs: each page's data as JSON under ``/api/v1``, described by ``/api/v1/openapi.json``."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

from flask import Blueprint, Response, request

from futurebroker.web import contents
from futurebroker.web.registry import PAGES
from futurebroker.web.site import Site


def register(blueprint: Blueprint) -> None:
    """Add the API to ``blueprint``."""
    for page in (*PAGES, *contents.DETAILS.values()):
        if page.name in contents.VIEWS:
            blueprint.add_url_rule(f"/api/v1/{page.name}", f"api_{page.name}", data, defaults={"called": page.name})
    blueprint.add_url_rule("/api/v1/openapi.json", "openapi", openapi)


def data(called: str) -> Response:
    """What a page shows."""
    return reply(contents.VIEWS[called](Site.current(), arguments()))


def arguments() -> dict[str, str]:
    """The query of this request, the first value of each name."""
    return {name: value for name, value in request.args.items() if name not in ("since", "page", "token")}


def openapi() -> Response:
    """The description of this API."""
    text = resources.files("futurebroker.web").joinpath("openapi.json").read_text("utf-8")
    return Response(text, mimetype="application/json")


def reply(value: Any, status: int = 200) -> Response:
    """``value`` as JSON."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False, default=str)
    return Response(text, status, mimetype="application/json")


def problem(status: int, sentence: str) -> Response:
    """An error as JSON (RFC 9457)."""
    return Response(json.dumps({"status": status, "title": sentence}), status, mimetype="application/problem+json")
