"""Who may see the site and who may change things, checked before every request and closed unless something opens it.

A token opens it: in a link (swapped for a cookie and taken out of the address by a redirect), in the login form, or as
a bearer of a program. There are two, for viewers and for operators. Requests under a foreign host name are refused, so
that no page elsewhere can reach a site on this machine by renaming it (DNS rebinding), and so are changes that another
site's page sends. On a public address nothing opens before tokens were set.
"""

from __future__ import annotations

import hashlib
import hmac
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import urlencode, urlsplit

from flask import Request, Response
from itsdangerous import BadData, URLSafeTimedSerializer

from futurebroker.config import Settings
from futurebroker.secret import derive_token, is_loopback

VIEWER, OPERATOR = "viewer", "operator"

#: methods that change nothing
SAFE = frozenset(("GET", "HEAD", "OPTIONS"))
#: seconds a cookie is good for
COOKIE_AGE = 30 * 24 * 3600
#: wrong tokens one address may send within a minute
TRIES = 10
#: names that always mean this machine
LOCAL_NAMES = frozenset(("localhost", "127.0.0.1", "::1"))


@dataclass(frozen=True)
class Door:
    """What opens the site."""

    operator: str  #: the token; empty admits nobody
    viewer: str
    key: bytes  #: cookies are signed with it
    hosts: frozenset[str]  #: besides this machine's own names; ``.example.com`` takes all below it, ``*`` any
    read_only: bool = False
    unset: str = ""  #: why the site may not be opened at all; says what to set
    behind_proxy: bool = False  #: whether one proxy in front tells scheme and address of the client

    def role_of(self, token: str) -> str | None:
        """The role that a token gives."""
        given = token.encode()
        # Both are compared, so that the time taken tells nothing.
        is_operator = bool(self.operator) and hmac.compare_digest(given, self.operator.encode())
        is_viewer = bool(self.viewer) and hmac.compare_digest(given, self.viewer.encode())
        return OPERATOR if is_operator else VIEWER if is_viewer else None

    def token_for(self, role: str) -> str:
        """The token that gives a role."""
        return self.operator if role == OPERATOR else self.viewer


def door_for(settings: Settings, secret: bytes, environ: Mapping[str, str]) -> Door:
    """The door that settings and surroundings ask for."""
    is_dyno = bool(environ.get("DYNO"))
    is_public = is_dyno or not is_loopback(settings.web_host)
    unset = ""
    if is_public and settings.web_token is None:
        unset = "this site can be reached from elsewhere, so its token must be set: FUTUREBROKER_WEB_TOKEN"
    hosts = {name.strip().lower() for name in (settings.web_hosts or "").split(",") if name.strip()}
    if is_dyno and not hosts:
        hosts.add(environ.get("HEROKU_APP_DEFAULT_DOMAIN_NAME", "").lower() or ".herokuapp.com")
    if settings.web_host not in ("0.0.0.0", "::"):
        hosts.add(settings.web_host.lower())
    operator = settings.web_token or derive_token(secret, OPERATOR)
    viewer = settings.web_viewer_token or derive_token(operator.encode() + secret, VIEWER)
    key = hmac.new(secret, b"futurebroker site cookie", hashlib.sha256).digest()
    return Door(operator, viewer, key, frozenset(hosts), settings.web_read_only, unset, is_dyno)


# -- where a request comes from ------------------------------------------------------------------------------------


def host_name(host: str) -> str:
    """``host`` of a header without its port, in small letters."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def host_is_ours(host: str, allowed: Iterable[str]) -> bool:
    """Whether a request for ``host`` may be meant for this site."""
    name = host_name(host)
    if name in LOCAL_NAMES:
        return True
    return any(entry in ("*", name) or (entry.startswith(".") and name.endswith(entry)) for entry in allowed)


def is_foreign(request: Request) -> bool:
    """Whether another site's page may have sent this request, as browsers tell it.

    ``Sec-Fetch-Site`` counts where it is sent; else the origin must be ours; a request with neither comes from no
    browser, and is believed with a bearer token only.
    """
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site not in ("same-origin", "none")
    origin = request.headers.get("Origin")
    if origin is not None:
        return urlsplit(origin).netloc.lower() != request.host.lower()
    return _bearer(request) is None


def _bearer(request: Request) -> str | None:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


# -- the guard -----------------------------------------------------------------------------------------------------


class RefusedRequestError(Exception):
    """The request is not answered; ``status`` and sentence say why."""

    def __init__(self, status: int, sentence: str, *, ask: bool = False) -> None:
        super().__init__(status, sentence)
        self.status = status
        self.sentence = sentence
        self.ask = ask  #: whether a token would help


class Guard:
    """Decides about requests; one for each site.

    Args:
        host_role: asked instead of tokens and cookies when another application carries the site: the role of who sends
            this request, None for nobody.
    """

    def __init__(self, door: Door, host_role: Callable[[Request], str | None] | None = None) -> None:
        self.door = door
        self._host_role = host_role
        self._signer = URLSafeTimedSerializer(door.key, salt="futurebroker site")
        self._wrong: dict[str, deque[float]] = {}
        self._counting = threading.Lock()
        #: sites on one machine share its name, and so its cookies: each has one of its own
        self.cookie = f"fb-{hashlib.sha256(door.key).hexdigest()[:12]}"

    def admit(self, request: Request) -> str:
        """The role of who sends ``request``.

        Raises:
            RefusedRequestError: it is not answered.
        """
        if not host_is_ours(request.host, self.door.hosts):
            raise RefusedRequestError(
                421, f"this site is not called {host_name(request.host)[:100]!r}; FUTUREBROKER_WEB_HOSTS may name it"
            )
        if self._host_role is None and self.door.unset:
            raise RefusedRequestError(503, self.door.unset)
        role = self._host_role(request) if self._host_role is not None else self._own_role(request)
        if role is None:
            raise RefusedRequestError(401, "this site needs its token", ask=self._host_role is None)
        if request.method not in SAFE:
            if is_foreign(request):
                raise RefusedRequestError(403, "a change must come from this site's own pages, or carry a bearer token")
            if self.door.read_only:
                raise RefusedRequestError(403, "this site is read-only (FUTUREBROKER_WEB_READ_ONLY)")
            if role != OPERATOR:
                raise RefusedRequestError(403, "changes need the operator's token; this one is for looking")
        return role

    def _own_role(self, request: Request) -> str | None:
        bearer = _bearer(request)
        if bearer is not None:
            return self.try_token(request, bearer)
        return self._read_cookie(request)

    def try_token(self, request: Request, token: str) -> str | None:
        """The role that ``token`` gives; wrong ones are counted.

        Raises:
            RefusedRequestError: this address has tried too often.
        """
        address = request.remote_addr or ""
        now = time.monotonic()
        with self._counting:
            wrong = self._wrong.get(address, deque())
            while wrong and now - wrong[0] > 60:
                wrong.popleft()
            if len(wrong) >= TRIES:
                raise RefusedRequestError(429, "too many wrong tokens; wait a minute")
            role = self.door.role_of(token)
            if role is None:
                if len(self._wrong) > 10_000:
                    self._wrong.clear()
                wrong.append(now)
                self._wrong[address] = wrong
        return role

    # -- cookies ------------------------------------------------------------------------------------------------------

    def _cookie_name(self, request: Request) -> str:
        return f"__Host-{self.cookie}" if request.is_secure else self.cookie

    def _read_cookie(self, request: Request) -> str | None:
        text = request.cookies.get(self._cookie_name(request))
        if not text:
            return None
        try:
            role, mark = self._signer.loads(text, max_age=COOKIE_AGE)
        except (BadData, TypeError, ValueError):
            return None
        # Who changes a token locks out those that it let in.
        return role if role in (VIEWER, OPERATOR) and mark == self._mark(role) else None

    def _mark(self, role: str) -> str:
        return hmac.new(self.door.key, self.door.token_for(role).encode(), hashlib.sha256).hexdigest()[:16]

    def give_cookie(self, request: Request, response: Response, role: str) -> None:
        """Have the browser keep its role."""
        response.set_cookie(
            self._cookie_name(request), self._signer.dumps([role, self._mark(role)]), max_age=COOKIE_AGE,
            httponly=True, samesite="Lax", secure=request.is_secure, path="/",
        )  # fmt: skip

    def take_cookie(self, request: Request, response: Response) -> None:
        """Have the browser forget its role."""
        response.delete_cookie(self._cookie_name(request), path="/", secure=request.is_secure)

    def swap(self, request: Request) -> Response | None:
        """For an address with a token in it: the cookie, and the same address without it. None without a token.

        Raises:
            RefusedRequestError: the token is wrong, or the site is not to be opened.
        """
        token = request.args.get("token")
        if token is None or request.method not in ("GET", "HEAD") or self._host_role is not None:
            return None
        if not host_is_ours(request.host, self.door.hosts) or self.door.unset:
            return None  # refused anyway, and for the better reason
        role = self.try_token(request, token)
        if role is None:
            raise RefusedRequestError(401, "this is not the token of this site (any more)", ask=True)
        rest = [(name, value) for name, value in request.args.items(multi=True) if name != "token"]
        response = Response(status=302, headers={"Location": _path_with(request, rest)})
        self.give_cookie(request, response, role)
        response.headers["Cache-Control"] = "no-store"
        return response


def _path_with(request: Request, arguments: list[tuple[str, str]]) -> str:
    path = request.script_root + request.path
    path = "/" + path.lstrip("/\\")  # never another host's
    return f"{path}?{urlencode(arguments)}" if arguments else path
