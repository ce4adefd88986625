"""Canvas: what is composed of signatures, and what becomes of it.

Each test shows a row of the table in docs/from-celery.md.
"""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from futurebroker.celery import (
    chain,
    chord,
    chunks,
    group,
)
from futurebroker.celery.canvas import GroupStampingVisitor, StampingVisitor
from futurebroker.celery.exceptions import (
    ChordError,
    TaskRevokedError,
)
from tests.integration import celery_tasks as t
from tests.integration.celery_rows import shows
from tests.integration.celery_tasks import GATES, LOG, MyError, app
from tests.integration.celery_waits import get, until

pytestmark = pytest.mark.usefixtures("celery_cluster")


@shows("canvas", "signatures: partials, `set`, `clone`, `replace`, `link`, `link_error`, `on_error`, `|`, `~`, JSON")
def test_signatures() -> None:
    sig = t.add.s(1).set(priority=3)
    assert sig.clone((2,)).args == (2, 1)
    assert ~t.add.s(1, 1) == 2
    assert sig.options["priority"] == 3


@shows("canvas", "`chain`, `group`, `chord`, nested in any way")
def test_nested_canvases() -> None:
    sig = chain(group(chain(t.add.s(1, 1), t.add.s(1)), t.add.s(2, 2)), t.total.s(), group(t.add.s(1), t.add.s(2)))
    assert get(sig()) == [8, 9]
    nested = chord([chord([t.add.s(1, 1), t.add.s(2, 2)], t.total.s()), t.add.s(3, 3)], t.total.s())
    assert get(nested()) == 12


@shows("canvas", "`chunks`, `xmap`, `xstarmap`, `group.skew`, `freeze`")
def test_other_canvases() -> None:
    assert get(chunks(t.add.s(), [(1, 1)], 1)()) == [[2]]
    sig = t.add.s(1, 1)
    frozen = sig.freeze()
    sig.apply_async()
    assert get(frozen) == 2


class ByTask(StampingVisitor):
    """Stamps each task with its name, and with what it is in."""

    def on_signature(self, sig: Any, /, **headers: Any) -> dict[str, Any]:
        return {"task": sig.task}

    def on_chain_start(self, chain: Any, /, **headers: Any) -> dict[str, Any]:
        return {"in": "chain"}

    def on_group_start(self, group: Any, /, **headers: Any) -> dict[str, Any]:
        return {"in": "group"}

    def on_chord_body(self, sig: Any, /, **header: Any) -> dict[str, Any]:
        return {"is": "body"}

    def on_callback(self, callback: Any, /, **header: Any) -> dict[str, Any]:
        return {"called": True}


@shows(
    "canvas",
    "stamping: `Signature.stamp`, `StampingVisitor`, `GroupStampingVisitor`, `append_stamps`, `request.stamps`, "
    "`request.stamped_headers`; `revoke_by_stamped_headers`",
    "differs",
    "a chord's body is stamped without a visitor too; values are compared as text when tasks are revoked by them",
)
def test_stamping() -> None:
    (seen,) = get(group(t.stamps_of_request.si()).stamp(tenant="a", shop=[1, 2])())
    assert seen == ({"tenant": "a", "shop": [1, 2]}, ["tenant", "shop"])
    name = t.stamps_of_request.name
    one, two = t.stamps_of_request.si(), t.stamps_of_request.si()
    assert get(chain(one, two).stamp(ByTask(), tenant="a")())[0] == {"tenant": "a", "in": "chain", "task": name}
    body = get(chord([t.identity.s(1)], t.stamps_of_request.si()).stamp(ByTask())())
    assert body[0] == {"in": "group", "is": "body", "task": name}
    plain = get(chord([t.identity.s(1)], t.stamps_of_request.si()).stamp(tenant="a")())
    assert plain[0] == {"tenant": "a"}
    twice = t.stamps_of_request.si().stamp(tenant="a").stamp(append_stamps=True, tenant="b")
    assert get(twice.apply_async())[0] == {"tenant": ["b", "a"]}
    assert twice.apply().get()[0] == {"tenant": ["b", "a"]}
    one, two = get(group([t.stamps_of_request.si()] * 2).stamp(GroupStampingVisitor())())
    assert one == two
    assert list(one[0]) == ["groups"]
    called = t.add.s(1, 1)
    called.link(t.stamps_of_request.si())
    called.stamp(ByTask())
    (link,) = called.options["link"]
    assert (link.options["called"], link.options["task"]) == (True, name)
    assert get(t.replaced_by_stamped.si().stamp(tenant="a").apply_async())[0] == {"tenant": "a"}
    assert get(t.stamps_of_request.delay()) == (None, None)


def test_stamped_tasks_are_revoked_together() -> None:
    """Those that have not begun, and those that come later, but no others."""
    stamped = t.add.s(1, 1).stamp(tenant="gone").apply_async(countdown=60)
    other = t.add.s(1, 1).stamp(tenant="stays").apply_async(countdown=0.2)
    assert app.control.revoke_by_stamped_headers({"tenant": ["gone", "away"]}) == [stamped.id]
    with pytest.raises(TaskRevokedError):
        get(stamped)
    with pytest.raises(TaskRevokedError):
        get(t.add.s(1, 1).stamp(tenant="away").apply_async())
    assert get(other) == 2
    other.revoke_by_stamped_headers({"tenant": "unheard of"})


@shows("semantics", "1. partial arguments come first, keywords override")
def test_partial_arguments_come_first() -> None:
    assert get(t.keywords.s(3, a=1).apply_async((2,), {"a": 2})) == ((2, 3), {"a": 2})
    assert get((t.identity.s(2) | t.keywords.s(3))()) == ((2, 3), {})


@shows("semantics", "2. immutable signatures take neither results nor partial arguments")
def test_immutable_signatures_take_nothing() -> None:
    assert get((t.identity.s(2) | t.keywords.si(3))()) == ((3,), {})
    assert get(t.keywords.si(3).apply_async((2,))) == ((3,), {})


@shows("semantics", "3. a chain's result is its last task's; `parent` leads back; `get` raises what failed first")
def test_a_chain_is_its_last_task() -> None:
    result = chain(t.add.s(1, 1), t.add.s(2), t.add.s(3))()
    assert get(result) == 7
    assert get(result.parent) == 4
    assert get(result.parent.parent) == 2
    with pytest.raises(MyError):
        get(chain(t.fail.s(), t.add.s(1))())


@shows(
    "semantics",
    "4. the rest of a chain travels in each message, reversed",
    "not",
    "a chain is one graph; no message carries what follows",
)
def test_a_chain_sends_each_task_once() -> None:
    sig = t.add.s(1, 1) | t.add.s(2)
    before = json.dumps(sig)
    get(sig())
    assert json.dumps(sig) == before


@shows(
    "semantics",
    "5. group then task is a chord; chord then task extends the body; task then group stays a group; a group of one inside a chain gives its value",
)
def test_upgrades_of_groups() -> None:
    assert get((group(t.add.s(1, 1), t.add.s(2, 2)) | t.total.s())()) == 6
    assert get((group(t.add.s(1, 1), t.add.s(2, 2)) | t.total.s() | t.add.s(1))()) == 7
    assert get((t.add.s(1, 1) | group(t.add.s(1), t.add.s(2)))()) == [3, 4]
    assert get((t.add.s(1, 1) | group(t.add.s(1)) | t.identity.s())()) == 3


@shows("semantics", "6. empty groups and headers")
def test_empty_groups_and_headers() -> None:
    assert get(chord([], t.total.s())()) == 0
    empty = group([]).apply_async()
    assert get(empty) == []
    assert get(chain(t.add.s(1, 1), group([]))()) == 2


@shows("semantics", "9. a body gets results in the header's order, and chains count by their last task")
def test_a_body_gets_results_in_order() -> None:
    GATES["first"] = threading.Event()
    result = chord([t.waits_for.s("first"), t.identity.s(2), chain(t.add.s(1, 1), t.add.s(1))], t.identity.s())()
    until(lambda: result.parent[1].ready())
    GATES["first"].set()
    assert get(result) == ["first", 2, 3]


@shows("semantics", "10. errbacks of a chain are every task's, links the last one's; links of a group the first one's")
def test_links_of_compositions() -> None:
    sig = chain(t.add.s(1, 1), t.add.s(2))
    sig.link(t.log.s("end"))
    get(sig())
    until(lambda: LOG)
    assert LOG == [(4, "end")]
    with pytest.raises(TypeError, match="cannot add link to a group"):
        group(t.add.s(1, 1)).apply_async(link=t.log.s())


@shows(
    "semantics",
    "11. links of a chord are the body's; errbacks of the body are called when the header fails",
    "differs",
    "`get` of the chord raises ChordError, as Celery's guide has it; Celery 5.7 raises what the header's task did",
)
def test_errbacks_of_a_body_hear_of_the_header() -> None:
    result = chord([t.fail.s(), t.add.s(1, 1)], t.total.s().on_error(t.old_errback.s()))()
    with pytest.raises(ChordError, match="MyError"):
        get(result)
    until(lambda: LOG)
    assert [("old", result.id)] == LOG
    LOG.clear()
    chord([t.fail.s(), t.add.s(1, 1)], t.total.s().on_error(t.new_errback.s()))()
    until(lambda: len(LOG) == 2)
    assert "ChordError" in LOG[0][2]
    assert "raised MyError('no')" in LOG[0][2]
    assert LOG[1] == ("total", (), {})


@shows(
    "semantics",
    "12. errbacks with one argument get the id, others request, exception and traceback",
    "differs",
    "both kinds run as tasks of their own; `request` has the id, the task, its arguments and retries",
)
def test_two_kinds_of_errbacks() -> None:
    result = t.fail.apply_async((1,), link_error=[t.new_errback.s(), t.old_errback.s()])
    with pytest.raises(MyError):
        get(result)
    until(lambda: len(LOG) == 3)
    assert sorted(LOG) == [("fail", (1,), {}), ("new", result.id, "MyError('no')", True), ("old", result.id)]


@shows("semantics", "38. the same link twice counts once")
def test_links_count_once() -> None:
    sig = t.add.s(1, 1)
    sig.link(t.log.s("x"))
    sig.link(t.log.s("x"))
    sig.link(t.log.s("y"))
    get(sig.apply_async())
    until(lambda: len(LOG) == 2)
    assert sorted(LOG) == [(2, "x"), (2, "y")]
