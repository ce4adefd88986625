"""Stamps on signatures, as Celery 5.7 puts them there: these cases were read off it."""

from __future__ import annotations

from typing import Any

import pytest

from futurebroker.celery import Celery, chain, chord, group, signature
from futurebroker.celery.canvas import GroupStampingVisitor, StampingVisitor

app = Celery("stamped", set_as_current=False)


@app.task(name="t")
def t(*args: Any) -> Any:
    return args


class Everywhere(StampingVisitor):
    """Stamps every part by what it is."""

    def on_signature(self, sig: Any, /, **headers: Any) -> dict[str, Any]:
        return {"n": sig.args[0]}

    def on_chain_start(self, chain: Any, /, **headers: Any) -> dict[str, Any]:
        return {"chain": "c"}

    def on_group_start(self, group: Any, /, **headers: Any) -> dict[str, Any]:
        return {"group": "g"}

    def on_chord_body(self, sig: Any, /, **header: Any) -> dict[str, Any]:
        return {"body": "b"}

    def on_callback(self, callback: Any, /, **header: Any) -> dict[str, Any]:
        return {"callback": "y"}

    def on_errback(self, errback: Any, /, **header: Any) -> dict[str, Any]:
        return {"errback": "y"}


def stamps(sig: Any) -> dict[str, Any]:
    """What a signature is stamped with."""
    return {name: sig.options[name] for name in sig.options.get("stamped_headers") or ()}


def test_each_part_has_the_stamps_of_what_it_is_in() -> None:
    sig = chain(t.si(1), group(t.si(2), t.si(3)), t.si(4))
    sig.stamp(Everywhere())
    first, rest = sig.tasks
    assert stamps(first) == {"n": 1, "chain": "c"}
    assert [stamps(one) for one in rest.tasks] == [{"n": n, "chain": "c", "group": "g"} for n in (2, 3)]
    assert stamps(rest.body) == {"n": 4, "chain": "c", "group": "g", "body": "b"}


def test_links_are_stamped_with_what_they_follow_and_not_with_its_own_stamp() -> None:
    sig = group(t.si(1).on_error(t.si(3)), t.si(4))
    sig.tasks[0].link(t.si(2))
    sig.stamp(Everywhere(), tenant="a")
    (link,), (errback,) = sig.tasks[0].options["link"], sig.tasks[0].options["link_error"]
    assert stamps(link) == {"n": 2, "tenant": "a", "group": "g", "callback": "y"}
    assert stamps(errback) == {"n": 3, "tenant": "a", "group": "g", "errback": "y"}


def test_links_that_came_as_data_are_stamped_too() -> None:
    sig = t.si(1).set(link=[dict(t.si(2))])
    sig.stamp(tenant="a")
    assert stamps(signature(sig.options["link"][0])) == {"tenant": "a"}


def test_what_was_there_first_counts_and_both_do_when_appended() -> None:
    """A header that is given wins over the visitor's, and both over what the task has."""
    assert stamps(t.si(1).stamp(n="before").stamp(n="after")) == {"n": "after"}
    assert stamps(t.si(1).stamp(Everywhere(), n="given")) == {"n": "given"}
    assert stamps(t.si(1).stamp(n="before").stamp(append_stamps=True, n="after")) == {"n": ["after", "before"]}
    assert stamps(t.si(1).stamp(n=[1]).stamp(n=[2])) == {"n": [2, 1]}
    assert stamps(t.si(1).stamp(n={"a": 1}).stamp(n={"b": 2})) == {"n": {"a": 1, "b": 2}}


def test_only_named_headers_are_stamps() -> None:
    sig = t.si(1).stamp(tenant="a", priority=5, stamped_headers=["tenant"])
    assert stamps(sig) == {"tenant": "a"}
    assert sig.options["priority"] == 5


def test_groups_are_stamped_on_what_is_in_them() -> None:
    sig = group(chain(t.si(1), t.si(2)), chord([t.si(3), t.si(4)], t.si(5)))
    sig.stamp(GroupStampingVisitor(["of all"]))
    inner, outer = sig.tasks[1].header.id, sig.id
    assert outer
    assert inner not in (None, outer)
    assert [stamps(one) for one in sig.tasks[0].tasks] == [{"groups": ["of all", outer]}] * 2
    assert [stamps(one) for one in sig.tasks[1].header.tasks] == [{"groups": ["of all", outer, inner]}] * 2
    assert stamps(sig.tasks[1].body) == {"groups": ["of all", outer]}


def test_a_visitor_says_what_tasks_are_stamped_with() -> None:
    """As in Celery it is an abstract class."""
    with pytest.raises(TypeError, match="on_signature"):
        StampingVisitor()  # type: ignore[abstract]
