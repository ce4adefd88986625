"""The description of the API holds: schemathesis asks what it says may be asked, and worse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from flask import Flask
from hypothesis import HealthCheck, given, settings
from schemathesis import Case
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import ignored_auth

from futurebroker import Client
from futurebroker.web.registry import PAGES
from tests.unit.web.conftest import SCHEDULE, TOKEN, Visitor, plan

FILE = Path(__file__).resolve().parents[3] / "web" / "openapi.json"

pytestmark = pytest.mark.timeout(180)


def test_every_page_has_its_twin_in_the_description(app: Flask) -> None:
    """A page without JSON, or JSON that nobody described, would be found by nobody."""
    described = set(json.loads(FILE.read_text())["paths"])
    served = {rule.rule for rule in app.url_map.iter_rules() if rule.rule.startswith("/api/v1/")}
    served = {path.replace("<any(retry,cancel):what>", "retry") for path in served} | {"/api/v1/cancel"}
    assert described == served - {"/api/v1/live"}  # a stream has no end to wait for
    assert {f"/api/v1/{page.name}" for page in PAGES} <= described


@pytest.mark.slow
def test_no_question_breaks_the_site_and_none_is_open(app: Flask, work: Client, operator: Visitor) -> None:
    """No 5xx whatever is asked, no answer without a token, and what comes is what the description says."""
    work.gather(work.map(pow, range(20), range(20)))
    work.submit(int, "<b>no number</b>").exception()
    plan(work, SCHEDULE)
    schema = schemathesis.openapi.from_wsgi("/api/v1/openapi.json", app, headers=operator.headers)
    asked = 0
    for result in schema.get_all_operations():
        assert isinstance(result, Ok)
        operation = result.ok()

        @given(case=operation.as_strategy())
        @settings(max_examples=12, suppress_health_check=list(HealthCheck), deadline=None)
        def ask(case: Case[Any]) -> None:
            nonlocal asked
            asked += 1
            answer = case.call(headers={"Authorization": f"Bearer {TOKEN}", "Accept-Encoding": "identity"})
            # The cluster is there: nothing may be away, and nothing may break.
            assert answer.status_code < 500, answer.text
            case.validate_response(answer, excluded_checks=_NOT_OURS)
            closed = case.call(headers={"Authorization": "", "Accept-Encoding": "identity"})
            assert closed.status_code in (401, 404, 405), closed.text

        ask()
    assert asked > 100


#: it takes the token that we add for one that it made up; without a token we ask ourselves
_NOT_OURS = [ignored_auth]
