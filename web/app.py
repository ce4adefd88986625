"""Makes the site: as an application of its own, or as a blueprint in somebody else's."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import logging
import os
import time
from collections.abc import Callable
from functools import cache
from importlib import resources
from typing import Any
from urllib.parse import urlsplit

from flask import Blueprint, Flask, Request, Response, g, request
from werkzeug.exceptions import HTTPException
from werkzeug.middleware.proxy_fix import ProxyFix

from futurebroker.config import Settings, database_of, history_of, load_settings
from futurebroker.secret import find_secret, is_loopback, normalize_address
from futurebroker.web import actions, api, contents, exporting, live, metrics, pages
from futurebroker.web.auth import OPERATOR, Guard, RefusedRequestError, door_for
from futurebroker.web.broker import BrokerProbe
from futurebroker.web.collector import Collector
from futurebroker.web.formats import FILTERS
from futurebroker.web.queries import History
from futurebroker.web.registry import PAGES
from futurebroker.web.site import EXTENSION, Site

logger = logging.getLogger("futurebroker.web")

#: what a page of this site may load and do; there is no script, style or frame but our own files
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "font-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors {ancestors}"
)
#: endpoints of files that never change under one address
STATIC: frozenset[str] = frozenset({"static", "plotly"})
#: endpoints that need no token: they tell nothing of the cluster
OPEN: frozenset[str] = frozenset({"static", "plotly", "healthz", "login"})
#: bytes of a request; the site takes no data
LARGEST_REQUEST = 64 * 1024


def create_app(settings: Settings | None = None, **arguments: Any) -> Flask:
    """The site as an application, for gunicorn: ``gunicorn "futurebroker.web:create_app()"``.

    Settings come from the environment and ``futurebroker.toml`` as everywhere. The cluster is joined in the background
    with the first request, so that a server may fork after loading this.

    Args:
        arguments: see `make_site`.
    """
    settings = settings or load_settings()
    app = Flask("futurebroker.web.host", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = LARGEST_REQUEST
    site = make_site(settings, **arguments)
    app.register_blueprint(create_blueprint(site=site))
    app.after_request(_finish)
    if site.guard.door.behind_proxy:
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=1, x_proto=1, x_host=0)  # type: ignore[method-assign]
    return app


def make_site(
    settings: Settings,
    *,
    url: str | None = None,
    secret: bytes | None = None,
    link: str = "",
    loop: Any = None,
    history_url: str | None = None,
    streams: int = 26,
    host_role: Callable[[Request], str | None] | None = None,
) -> Site:
    """What the pages are made from.

    Args:
        url: of the cluster, when it isn't that of the settings.
        link: where the site can be found, for who asks the scheduler for its dashboard.
        loop: of a cluster in this process.
        history_url: of the database, when it isn't that of the settings.
        streams: live streams served at a time; keep some threads of the server free for pages.
        host_role: see `Guard`.
    """
    address = url or normalize_address(settings.broker_url or f"{settings.host}:{settings.port}", settings)
    if secret is None:
        secret = find_secret(dataclasses.replace(settings, broker_url=address), create=True)
    guard = Guard(door_for(settings, secret, os.environ), host_role)
    token_set = settings.web_token is not None
    collector = Collector(address, settings.cluster, secret, link=link, token_set=token_set, loop=loop)
    history = History(history_url or history_url_for(settings, address), settings.cluster)
    # A cluster in this process keeps no journal.
    published = History(database_of(_named_by(settings, address)), settings.cluster) if loop is None else None
    probe = BrokerProbe(address, settings.cluster, secret)
    probes = {"broker": probe.figures}
    return Site(collector, guard, history, settings.cluster, streams, published=published, probes=probes)


def history_url_for(settings: Settings, address: str) -> str | None:
    """Where the scheduler at ``address`` keeps its history, as far as settings tell; None: it keeps none."""
    return None if settings.history is False else history_of(_named_by(settings, address))


def _named_by(settings: Settings, address: str) -> Settings:
    """The settings by which the scheduler at ``address`` names its files."""
    place = urlsplit(address)
    if settings.database_url is None and is_loopback(address) and place.port and place.scheme == "amqp":
        # One that listens itself, on this machine: its file is named after its port.
        return dataclasses.replace(settings, broker_url=None, port=place.port)
    return settings


def create_blueprint(
    site: Site | None = None, *, role: Callable[[Request], str | None] | None = None, **arguments: Any
) -> Blueprint:
    """The site as a blueprint: ``app.register_blueprint(create_blueprint(role=...), url_prefix="/jobs")``.

    Args:
        role: decides who may come in, in place of tokens: given the request, it returns "viewer", "operator" or None.
        arguments: see `make_site`.
    """
    if site is None:
        site = make_site(load_settings(), host_role=role, **arguments)
    made = site
    blueprint = Blueprint(
        "futurebroker",
        "futurebroker.web",
        template_folder="templates",
        static_folder="static",
        static_url_path="/static",
    )
    blueprint.record_once(lambda setup: setup.app.extensions.__setitem__(EXTENSION, made))
    for module in (pages, api, live, actions, exporting, metrics):
        module.register(blueprint)
    blueprint.add_url_rule("/plotly.js", "plotly", _plotly)
    blueprint.add_url_rule("/healthz", "healthz", _healthz)
    for name, function in FILTERS.items():
        blueprint.add_app_template_filter(function, f"fb_{name}")
    blueprint.before_request(_guard)
    blueprint.after_request(_finish)
    blueprint.register_error_handler(RefusedRequestError, _refused)
    blueprint.register_error_handler(HTTPException, _failed)
    blueprint.register_error_handler(Exception, _broken)
    blueprint.context_processor(_context)
    return blueprint


# -- around every request ------------------------------------------------------------------------------------------


def _guard() -> Response | None:
    site = Site.current()
    endpoint = (request.endpoint or "").partition(".")[2]
    g.fb_role = None
    g.fb_began = time.perf_counter()
    site.collector.start()
    if endpoint in OPEN:
        return None
    swapped = site.guard.swap(request)
    if swapped is not None:
        return swapped
    g.fb_role = site.guard.admit(request)
    return None


def _finish(response: Response) -> Response:
    headers = response.headers
    headers.setdefault("Content-Security-Policy", POLICY.format(ancestors="'none'"))
    headers.setdefault("X-Content-Type-Options", "nosniff")
    headers.setdefault("Referrer-Policy", "no-referrer")
    headers.setdefault("Cross-Origin-Opener-Policy", "same-origin")
    headers.setdefault("Cross-Origin-Resource-Policy", "same-origin")
    headers.setdefault("X-Frame-Options", "DENY")
    if request.is_secure:
        headers.setdefault("Strict-Transport-Security", "max-age=31536000")
    if (request.endpoint or "").partition(".")[2] not in STATIC:
        headers["Cache-Control"] = headers.get("Cache-Control") or "no-store"
        _compress(response)
    return response


def _compress(response: Response) -> None:
    """Zip what is large and whole; a stream is never zipped, since that would hold it back."""
    if response.is_streamed or response.direct_passthrough or not _takes_gzip():
        return
    body = response.get_data()
    if len(body) > 2000 and "Content-Encoding" not in response.headers:
        response.set_data(gzip.compress(body, 3))
        response.headers["Content-Encoding"] = "gzip"
        response.headers.add("Vary", "Accept-Encoding")


def _wants_json() -> bool:
    path = request.path
    return "/api/v1/" in path or path.endswith("/metrics")


def _refused(refusal: RefusedRequestError) -> Response:
    if _wants_json():
        response = api.problem(refusal.status, refusal.sentence)
    else:
        response = pages.closed(refusal)
    if refusal.status == 401:
        response.headers["WWW-Authenticate"] = 'Bearer realm="futurebroker"'
    if refusal.status == 429:
        response.headers["Retry-After"] = "60"
    return response


def _failed(error: HTTPException) -> Response:
    status, sentence = error.code or 500, str(error.description or error.name)
    response = api.problem(status, sentence) if _wants_json() else pages.problem(status, sentence)
    for name, value in error.get_headers():
        if name in ("Allow", "Retry-After"):
            response.headers[name] = value
    return response


def _broken(error: Exception) -> Response:
    logger.error("%s %s failed", request.method, request.path, exc_info=error)
    sentence = "this page could not be made; the log of the site says why"
    return api.problem(500, sentence) if _wants_json() else pages.problem(500, sentence)


def _context() -> dict[str, Any]:
    site = Site.current()
    role = g.get("fb_role")
    return {
        "site": site,
        "pages": PAGES,
        "role": role,
        "may_change": role == OPERATOR and not site.guard.door.read_only,
        "built": frozenset(contents.VIEWS),
        "version": asset_version(),
    }


# -- files and health ----------------------------------------------------------------------------------------------


@cache
def asset_version() -> str:
    """Changes whenever a file of ours does, so that browsers may keep them for ever."""
    digest = hashlib.sha256()
    for file in sorted(resources.files("futurebroker.web").joinpath("static").iterdir(), key=lambda file: file.name):
        if file.is_file():
            digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


@cache
def _plotly_file() -> tuple[bytes, str]:
    """Plotly's script from its own wheel, zipped once, and its mark."""
    script = resources.files("plotly").joinpath("package_data", "plotly.min.js").read_bytes()
    return gzip.compress(script, 6), hashlib.sha256(script).hexdigest()[:16]


def _plotly() -> Response:
    zipped, mark = _plotly_file()
    body = zipped if _takes_gzip() else gzip.decompress(zipped)
    response = Response(body, mimetype="text/javascript")
    if body is zipped:
        response.headers["Content-Encoding"] = "gzip"
    response.headers["Vary"] = "Accept-Encoding"
    response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
    response.set_etag(mark)
    response.make_conditional(request)
    return response


def _healthz() -> Response:
    """Whether the site serves and has the cluster; says nothing else, since anybody may ask."""
    site = Site.current()
    word = "degraded" if site.collector.trouble else "ok"
    return Response(f"{word}\n", mimetype="text/plain", headers={"Cache-Control": "no-store"})


def _takes_gzip() -> bool:
    return request.accept_encodings.quality("gzip") > 0
