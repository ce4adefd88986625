"""What a running task knows of what follows it: ``request.chain``, ``chord``, ``callbacks``, ``errbacks``.

Each test shows a row of the table in docs/from-celery.md, or a part of one.
"""

from __future__ import annotations

from typing import Any

import pytest

from futurebroker.celery import chain, chord, group
from futurebroker.celery.exceptions import TaskRevokedError
from tests.integration import celery_tasks as t
from tests.integration.celery_rows import shows
from tests.integration.celery_tasks import LOG
from tests.integration.celery_waits import get, until

pytestmark = pytest.mark.usefixtures("celery_cluster")


@shows(
    "task",
    "`self.request`: `chain`, `chord`, `callbacks`, `errbacks`",
    "differs",
    "they are asked of the scheduler when a task first looks at them, so that no message grows. Emptying one of them "
    "revokes what it named, where Celery leaves it PENDING; any other change does nothing: use `replace`",
)
def test_a_task_of_a_chain_sees_what_is_left_of_it() -> None:
    """In reverse, as Celery has it: the next task is the last of the list."""
    sig = chain(t.tells_what_follows.s(), t.log.s("x"), t.add.s(1, 1).set(immutable=True))
    last = sig.freeze()
    result = sig.apply_async()
    get(result)
    assert result.id == last.id
    first = result.parent.parent
    assert get(first) == {"chain": [("add", (1, 1), result.id), ("log", ("x",), result.parent.id)]}
    assert get(chain(t.add.s(1, 1), t.tells_what_follows.s())()) == {}


def test_a_task_of_a_header_sees_the_body() -> None:
    """And in a chain inside the header only its last task does."""
    sig = chord([t.tells_what_follows.s(), chain(t.tells_what_follows.s(), t.tells_what_follows.s(1))], t.identity.s())
    result = sig.apply_async()
    one, last = get(result)
    body = ("identity", (), result.id)
    assert one == last == {"chord": body}
    inner = result.parent[1].parent
    assert get(inner) == {"chain": [("tells_what_follows", (1,), result.parent[1].id)]}
    longer = (chord([t.tells_what_follows.s()], t.identity.s()) | t.add.s([2])).apply_async()
    kind, steps = get(longer)[0]["chord"]
    assert (kind, [name for name, *_ in steps]) == ("chain", ["identity", "add"])


def test_groups_and_chords_that_follow_are_seen_as_such() -> None:
    """What is shown can be read as a canvas: which calls follow, and where they are joined."""

    def names(shape: Any) -> Any:
        """A shape without ids."""
        if isinstance(shape, list):
            return [names(one) for one in shape]
        if shape[0] == "chord":
            return "chord", names(shape[1]), names(shape[2])
        return (shape[0], names(shape[1])) if isinstance(shape[1], list) else shape[0]

    def follow(sig: Any) -> Any:
        result = chain(t.tells_what_follows.si(), sig)()
        get(result)
        while result.parent is not None:
            result = result.parent
        return names(get(result)["chain"])

    assert follow(group(t.log.s(1), t.log.s(2))) == [("group", ["log", "log"])]
    assert follow(chord([t.log.s(1), t.log.s(2)], t.log.s())) == [("chord", ["log", "log"], "log")]
    three = chain(group(t.log.s(1), chain(t.log.s(2), t.add.s((1,)))), t.log.s(), t.keywords.s())
    assert follow(three) == [("chord", ["log", ("chain", ["log", "add"])], ("chain", ["log", "keywords"]))]
    inner = chord([t.log.s(1), chord([t.log.s(2), t.log.s(3)], t.keywords.s())], t.log.s())
    assert follow(inner) == [("chord", ["log", ("chord", ["log", "log"], "keywords")], "log")]
    twice = chain(group(t.log.s(1), t.log.s(2)), group(t.log.s(3), t.log.s(4)))
    assert follow(twice) == [("chord", ["log", "log"], ("group", ["log", "log"]))]


def test_callbacks_and_errbacks_are_no_steps_of_the_chain() -> None:
    """They are lists of their own."""
    sig = t.tells_what_follows.s()
    sig.link(t.log.s("called"))
    sig.link(chain(t.log.s("one"), t.log.s("two")))
    sig.link_error(t.old_errback.s())
    result = chain(sig, t.identity.s())()
    seen = get(result)
    assert seen["chain"] == [("identity", (), result.id)]
    assert [shape[:2] for shape in seen["callbacks"][:1]] == [("log", ("called",))]
    kind, steps = seen["callbacks"][1]
    assert (kind, [shape[:2] for shape in steps]) == ("chain", [("log", ("one",)), ("log", ("two",))])
    assert [shape[:2] for shape in seen["errbacks"]] == [("old_errback", ())]


@pytest.mark.parametrize("read", [False, True])
def test_a_task_that_empties_its_chain_ends_it(read: bool) -> None:
    """A well-known way to stop a chain from within: nothing of it runs, but callbacks do, and its own result stays."""
    first = t.empties.s("chain", read)
    first.link(t.log.s("called"))
    result = chain(first, t.log.s("never"), t.log.s("never"))()
    with pytest.raises(TaskRevokedError):
        get(result)
    assert get(result.parent.parent) == "chain"
    until(lambda: LOG)
    assert LOG == [("chain", "called")]
    assert result.state == "REVOKED"


def test_a_task_that_empties_its_callbacks_has_none() -> None:
    sig = t.empties.s("callbacks")
    sig.link(t.log.s("never"))
    result = chain(sig, t.log.s("next"))()
    assert get(result) == ("callbacks", "next")
    assert LOG == [("callbacks", "next")]


def test_without_a_worker_nothing_is_known_to_follow() -> None:
    """Called as a function, or eagerly, a request has Celery's defaults."""
    assert t.tells_what_follows() == {}
    assert t.tells_what_follows.apply().get() == {"callbacks": [], "errbacks": []}
    assert get(t.tells_what_follows.delay()) == {}


def test_coroutines_see_what_follows_them_too() -> None:
    result = chain(t.tells_what_follows_later.si(), t.identity.s())()
    assert get(result) == [("identity", (), result.id)]
