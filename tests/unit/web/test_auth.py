"""Who gets in: the site is closed unless a token opens it, and no other site's page can use it."""

from __future__ import annotations

import dataclasses

import pytest
from flask import Flask

from futurebroker.config import Settings
from futurebroker.web.auth import Guard, door_for, host_is_ours, host_name
from futurebroker.web.site import Site
from tests.unit.web.conftest import TOKEN, VIEWER_TOKEN, Visitor


def test_every_page_and_answer_is_closed_without_a_token(app: Flask, nobody: Visitor) -> None:
    """A page that somebody forgets to guard would be open from the first second on the internet."""
    opened = []
    for rule in app.url_map.iter_rules():
        path = rule.rule.replace("<path:filename>", "none.css").replace("<any(retry,cancel):what>", "retry")
        path = path.replace("<path:rest>", "somewhere")
        for method in (rule.methods or set()) - {"OPTIONS", "HEAD"}:
            status = nobody.client.open(path, method=method).status_code
            if status < 400 or status >= 500:
                opened.append((method, rule.rule))
    assert sorted(opened) == [("GET", "/healthz"), ("GET", "/login"), ("GET", "/plotly.js")]


def test_a_link_with_the_token_becomes_a_cookie_and_leaves_the_address(app: Flask) -> None:
    """A token that stays in the address bar ends in screenshots, logs and referrers."""
    browser = app.test_client()
    answer = browser.get(f"/workers?token={TOKEN}&q=1")
    assert (answer.status_code, answer.headers["Location"]) == (302, "/workers?q=1")
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert TOKEN not in cookie
    assert browser.get("/workers").status_code == 200


def test_on_https_the_cookie_is_bound_to_the_host(app: Flask) -> None:
    """A sister site under the same domain must not be able to plant one."""
    answer = app.test_client().get(f"/?token={TOKEN}", base_url="https://localhost")
    cookie = answer.headers["Set-Cookie"]
    assert cookie.startswith("__Host-")
    assert "Secure" in cookie


def test_a_new_token_locks_out_who_had_the_old_one(app: Flask, site: Site) -> None:
    """Changing the token is what one does when it leaked."""
    browser = app.test_client()
    browser.get(f"/?token={TOKEN}")
    site.guard.door = dataclasses.replace(site.guard.door, operator="another")
    assert browser.get("/").status_code == 401


def test_viewers_look_and_operators_change(operator: Visitor, viewer: Visitor, nobody: Visitor) -> None:
    """The link that is passed around for looking must not cancel anybody's work."""
    body = {"keys": ["nothing"], "dry_run": True}
    assert operator.post("/api/v1/cancel", body)[0] == 200
    status, text = viewer.post("/api/v1/cancel", body)
    assert status == 403
    assert "operator" in text
    assert nobody.post("/api/v1/cancel", body)[0] == 401


def test_read_only_stops_operators_too(site: Site, operator: Visitor) -> None:
    """A wall display shows, whoever stands before it."""
    site.guard.door = dataclasses.replace(site.guard.door, read_only=True)
    assert operator.post("/api/v1/cancel", {"keys": []})[0] == 403


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "http://localhost"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({}, 403),
    ],
)
def test_changes_come_from_our_own_pages_only(app: Flask, headers: dict[str, str], status: int) -> None:
    """A page elsewhere could post with the visitor's cookie; browsers say where a request comes from."""
    browser = app.test_client()
    browser.get(f"/?token={TOKEN}")
    answer = browser.post("/api/v1/cancel", json={"keys": [], "dry_run": True}, headers=headers)
    assert answer.status_code == status


def test_a_foreign_host_name_is_refused(nobody: Visitor, operator: Visitor) -> None:
    """DNS rebinding: a page elsewhere gives its own name our address, and would read us as its own."""
    assert operator.get("/", Host="evil.example")[0] == 421
    assert nobody.get("/healthz", Host="evil.example")[0] == 200


def test_host_names_are_compared_whole() -> None:
    """Neither a prefix nor a port nor a dot at the end makes another host ours."""
    allowed = ["site.example", ".apps.example"]
    ours = ["localhost", "127.0.0.1:8787", "[::1]:80", "Site.Example:80", "site.example.", "a.apps.example"]
    assert [host for host in ours if not host_is_ours(host, allowed)] == []
    others = ["localhost.evil.example", "evilsite.example", "apps.example", "127.0.0.1.evil", "", "[::1"]
    assert [host for host in others if host_is_ours(host, allowed)] == []
    assert host_name("user@site.example:80") == "site.example"


def test_wrong_tokens_are_counted(app: Flask) -> None:
    """Guessing must take longer than the site will stand."""
    browser = app.test_client()
    statuses = [browser.get("/?token=wrong").status_code for _ in range(11)]
    assert statuses == [401] * 10 + [429]
    assert browser.get(f"/?token={TOKEN}").status_code == 429


def test_a_public_address_without_a_token_serves_nothing_but_its_health(cluster: object) -> None:
    """A dyno is on the internet from its first second."""
    for settings, environ in (
        (Settings(), {"DYNO": "web.1"}),
        (Settings(web_host="0.0.0.0"), {}),
    ):
        door = door_for(settings, b"secret", environ)
        assert "FUTUREBROKER_WEB_TOKEN" in door.unset
    assert door_for(Settings(web_token="t", web_host="0.0.0.0"), b"s", {}).unset == ""
    assert door_for(Settings(), b"s", {}).unset == ""


def test_the_closed_site_says_what_to_set(app: Flask, site: Site, operator: Visitor, nobody: Visitor) -> None:
    """Whoever deployed it sees at once what is missing."""
    site.guard.door = dataclasses.replace(site.guard.door, unset="set FUTUREBROKER_WEB_TOKEN")
    status, text = operator.get("/")
    assert status == 503
    assert "FUTUREBROKER_WEB_TOKEN" in text
    assert nobody.get("/healthz")[0] == 200


def test_the_login_form_gives_the_cookie_and_goes_where_one_wanted(app: Flask) -> None:
    """A colleague's deep link leads there after the token, and never to another site."""
    browser = app.test_client()
    assert 'name="token"' in browser.get("/memory").get_data(as_text=True)
    answer = browser.post("/login", data={"token": VIEWER_TOKEN, "next": "/memory"})
    assert (answer.status_code, answer.headers["Location"]) == (303, "/memory")
    for target in ("//evil.example", "https://evil.example", "/\\evil.example"):
        answer = browser.post("/login", data={"token": VIEWER_TOKEN, "next": target})
        assert answer.headers["Location"] == "/"


def test_every_answer_carries_the_policy(operator: Visitor, nobody: Visitor, app: Flask) -> None:
    """The policy is the second wall behind escaping: it must stand on errors too."""
    for visitor, path in ((operator, "/"), (nobody, "/"), (operator, "/nowhere"), (operator, "/api/v1/overview")):
        headers = app.test_client().get(path, headers=visitor.headers).headers
        policy = headers["Content-Security-Policy"]
        assert "unsafe" not in policy
        assert "default-src 'none'" in policy
        assert headers["X-Content-Type-Options"] == "nosniff"


def test_a_host_application_may_decide_itself() -> None:
    """Mounted in another application, its own login counts."""
    door = door_for(Settings(), b"s", {})
    guard = Guard(door, lambda request: request.headers.get("X-Role"))
    app = Flask("host")
    with app.test_request_context("/", headers={"X-Role": "viewer"}) as context:
        assert guard.admit(context.request) == "viewer"
