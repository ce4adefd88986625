"""The pages as browsers get them: complete when they arrive, and kept up to date afterwards by `live`."""

from __future__ import annotations

import json
from typing import Any

from flask import Blueprint, Response, g, make_response, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from futurebroker.web import contents, figures
from futurebroker.web.api import arguments
from futurebroker.web.auth import RefusedRequestError
from futurebroker.web.registry import PAGES
from futurebroker.web.site import Missing, Site
from futurebroker.web.views import cluster


def register(blueprint: Blueprint) -> None:
    """Add the pages to ``blueprint``."""
    for page in (*PAGES, *contents.DETAILS.values()):
        if page.name in contents.VIEWS:
            blueprint.add_url_rule(page.path, page.name, show, defaults={"called": page.name})
    blueprint.add_url_rule("/<path:rest>", "nowhere", nowhere)
    blueprint.add_url_rule("/login", "login", login, methods=["GET", "POST"])
    blueprint.add_url_rule("/logout", "logout", logout, methods=["POST"])


def show(called: str) -> Response:
    """A page."""
    site = Site.current()
    page = contents.page_called(called)
    args = arguments()
    data = contents.VIEWS[called](site, args)
    columns = data.pop("columns", {})
    added = cluster.series(site, page.figures, 0) if page.live else {}
    latest = site.collector.latest()
    boot = {
        "page": page.name,
        "args": args,
        "every": page.every,
        "id": latest.number if latest is not None else 0,
        "live": url_for(".live"),
        "tick": url_for(".tick"),
        "task": url_for(".task"),
        "plotly": url_for(".plotly", v=figures.PLOTLY_VERSION),
        "marks": figures.style_marks() if page.figures else [],
        "specs": figures.specs(page.figures),
        "figures": columns,
        "append": added,
    }
    body = render_template(
        "page.html", page=page, data=data, standing=site.standing(), boot=script_json(boot), args=args,
        figures=[figures.TITLES[name] for name in page.figures],
    )  # fmt: skip
    return make_response(body)


def script_json(value: Any) -> str:
    """JSON that may stand in a script element: nothing in it can end that."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False, default=str)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026").replace("\u2028", "\\u2028")


def nowhere(rest: str) -> Response:
    """Where no page is."""
    raise Missing(f"There is no page “/{rest[:200]}” here.")


# -- coming in -----------------------------------------------------------------------------------------------------


def login() -> Response | AnyResponse:
    """The form for the token, and what it sends."""
    site = Site.current()
    target = request.values.get("next", "")
    if not target.startswith("/") or target.startswith(("//", "/\\")):
        target = url_for(".overview")
    if request.method == "GET":
        return make_response(render_template("login.html", target=target, sentence=""))
    if site.guard.door.unset:
        raise RefusedRequestError(503, site.guard.door.unset)
    if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
        raise RefusedRequestError(403, "the form of another site can't open this one")
    role = site.guard.try_token(request, request.form.get("token", "").strip())
    if role is None:
        sentence = "That is not the token of this site (any more)."
        return make_response(render_template("login.html", target=target, sentence=sentence), 401)
    response = make_response(redirect(target, 303))
    site.guard.give_cookie(request, response, role)
    return response


def logout() -> AnyResponse:
    """Forget who looked."""
    response = make_response(redirect(url_for(".login"), 303))
    Site.current().guard.take_cookie(request, response)
    return response


def closed(refusal: RefusedRequestError) -> Response:
    """The page of a request that is refused; with a form where a token would help."""
    if refusal.ask:
        target = request.full_path.rstrip("?") if request.method == "GET" and "token" not in request.args else ""
        sentence = refusal.sentence if "token" in request.args else ""
        return make_response(render_template("login.html", target=target, sentence=sentence), refusal.status)
    return problem(refusal.status, refusal.sentence)


def problem(status: int, sentence: str) -> Response:
    """The page of an error."""
    g.setdefault("fb_role", None)
    return make_response(render_template("problem.html", status=status, sentence=sentence), status)
