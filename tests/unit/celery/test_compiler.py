"""The compiler of canvases, held against a direct evaluation of the same canvas in Python."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from futurebroker.celery.canvas import Signature, chain, chord, chunks, group, maybe_signature, xmap, xstarmap
from futurebroker.celery.compiler import COLLECT, GroupHandle, Handle, TaskHandle, compile_canvas
from futurebroker.graph import Graph, Ref

# -- two ways to a result --------------------------------------------------------------------------------------------


def _call(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What a task of the tests does: it tells how it was called."""
    if name == COLLECT:
        return args[0]
    if name in ("celery.map", "celery.starmap"):
        inner, spread = kwargs["task"], name == "celery.starmap"
        return [_call(inner["task"], tuple(item) if spread else (item,), {}) for item in kwargs["it"]]
    return (name, args, tuple(sorted(kwargs.items())))


def _resolved(value: Any, results: dict[str, Any]) -> Any:
    if isinstance(value, Ref):
        return results[value.key]
    if isinstance(value, list):
        return [_resolved(item, results) for item in value]
    return value


def by_graph(graph: Graph) -> dict[str, Any]:
    """Every call in the graph's order, with the results of those before."""
    results: dict[str, Any] = {}
    for task in graph:
        inputs = tuple(_resolved(value, results) for value in task.inputs)
        assert all(reference.key in results for reference in task.after)
        results[task.key] = _call(task.name, (*inputs, *task.args), task.kwargs)
    return results


def shown(handle: Handle | None, results: dict[str, Any]) -> Any:
    """What ``get()`` of the result gives."""
    if isinstance(handle, GroupHandle):
        return [shown(child, results) for child in handle.children]
    assert handle is not None
    return results[handle.id]


def directly(sig: Signature, args: tuple[Any, ...] = ()) -> tuple[Any, Any]:
    """A canvas evaluated in plain Python: what it hands on to a next step, and what ``get()`` gives.

    Written from Celery's documented semantics, without the compiler's graph: a second opinion.
    """
    if isinstance(sig, chain):
        value, got, first = None, None, True
        for step in sig.tasks:
            if isinstance(step, group) and not first:
                flat = _flat(step)
                if not flat:
                    continue
                if len(step.tasks) == 1:
                    step = step.tasks[0]
            value, got = directly(step, args if first else (value,))
            first = False
        return value, got
    if isinstance(sig, group):
        values: list[Any] = []
        gots: list[Any] = []
        for task in _flat(sig):
            value, got = directly(task, args)
            ends_in_group = _ends_in_group(task)
            values += value if ends_in_group else [value]
            gots.append(got)
        return values, gots
    if isinstance(sig, chord):
        values, _ = directly(sig.header, args)
        return directly(sig.body, (values,))
    if isinstance(sig, chunks):
        return directly(sig.group(), args)
    called = sig.args if sig.immutable else (*args, *sig.args)
    result = _call(sig.task, called, sig.kwargs)
    return result, result


def _flat(sig: Any) -> list[Any]:
    found: list[Any] = []
    for task in sig.tasks:
        found += _flat(task) if isinstance(task, group) else [task]
    return found


def _ends_in_group(task: Any) -> bool:
    if isinstance(task, chain):
        last = task.tasks[-1]
        if isinstance(last, group) and len(task.tasks) > 1:
            if not _flat(last):
                return _ends_in_group(chain_without_last(task))
            if len(last.tasks) == 1:
                return _ends_in_group(last.tasks[0])
        return _ends_in_group(last)
    if isinstance(task, chord):
        return _ends_in_group(task.body)
    return isinstance(task, (group, chunks))


def chain_without_last(task: Any) -> Any:
    copied = task.clone()
    copied.tasks.pop()
    return copied


# -- random canvases -------------------------------------------------------------------------------------------------

_names = st.sampled_from(["a", "b", "c", "d"])
_task = st.builds(
    lambda name, args, immutable: Signature(name, tuple(args), immutable=immutable),
    _names,
    st.lists(st.integers(0, 9), max_size=2),
    st.booleans(),
)
_mapped = st.builds(lambda name, it: xmap(Signature(name), it), _names, st.lists(st.integers(0, 9), max_size=3))
_starmapped = st.builds(
    lambda name, it: xstarmap(Signature(name), it), _names, st.lists(st.tuples(st.integers(0, 9)), max_size=3)
)
_leaf = st.one_of(_task, _task, _task, _mapped, _starmapped)


def _composed(parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    some = st.lists(parts, min_size=1, max_size=4)
    return st.one_of(
        some.map(lambda tasks: chain(*tasks)),
        st.lists(parts, min_size=2, max_size=4).map(lambda tasks: _joined(tasks)),
        st.lists(parts, max_size=4).map(lambda tasks: group(tasks)),
        st.tuples(st.lists(parts, max_size=4), parts).map(lambda pair: chord(pair[0], pair[1])),
    )


def _joined(tasks: list[Any]) -> Any:
    joined = tasks[0]
    for task in tasks[1:]:
        joined = joined | task
    return joined


_canvas = st.recursive(_leaf, _composed, max_leaves=14)


@settings(max_examples=400)
@given(_canvas, st.lists(st.integers(10, 19), max_size=2))
def test_a_canvas_and_its_graph_come_to_the_same(sig: Signature, args: list[int]) -> None:
    """The graph of any nesting gives what evaluating the canvas step by step gives."""
    graph, handle = compile_canvas(sig, args)
    _, expected = directly(sig, tuple(args))
    assert shown(handle, by_graph(graph)) == expected


@settings(max_examples=200)
@given(_canvas)
def test_a_canvas_survives_json_as_a_dict(sig: Signature) -> None:
    """A signature is a dict; what it became on its way through JSON is the same canvas."""
    opened = maybe_signature(_plain(sig))
    assert type(opened) is type(sig)
    graph, handle = compile_canvas(opened)
    expected_graph, expected = compile_canvas(sig)
    assert shown(handle, by_graph(graph)) == shown(expected, by_graph(expected_graph))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in dict.items(value)}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


@settings(max_examples=200)
@given(_canvas)
def test_compiling_changes_nothing(sig: Signature) -> None:
    """A signature is used again and again; each call has ids of its own."""
    before = repr(_plain(sig))
    first, _ = compile_canvas(sig)
    second, _ = compile_canvas(sig)
    assert repr(_plain(sig)) == before
    assert not first.tasks.keys() & second.tasks.keys()


# -- rules with a name -------------------------------------------------------------------------------------------------

a, b, c, d = (Signature(name) for name in "abcd")


def _names_of(graph: Graph) -> list[str]:
    return [task.name for task in graph]


def test_partial_arguments_come_first() -> None:
    """``add.s(3).apply_async((2,))`` is ``add(2, 3)``, and keywords given later win."""
    graph, _ = compile_canvas(Signature("a", (3,), {"x": 1, "y": 1}), (2,), {"x": 2})
    (task,) = graph
    assert (*task.inputs, *task.args) == (2, 3)
    assert task.kwargs == {"x": 2, "y": 1}


def test_an_immutable_step_waits_and_takes_nothing() -> None:
    """``si`` ignores the result before it, and still runs after it."""
    graph, _ = compile_canvas(chain(a, Signature("b", (1,), immutable=True)))
    first, second = graph
    assert second.inputs == ()
    assert second.after == (Ref(first.key),)


def test_a_chain_is_known_by_its_last_task() -> None:
    """``chain.apply_async(task_id=...)`` names the last; parents lead back to the first."""
    graph, handle = compile_canvas(chain(a, b, c), options={"task_id": "last"})
    assert list(graph)[-1].key == "last"
    assert isinstance(handle, TaskHandle)
    assert handle.parent is not None
    assert handle.parent.parent == TaskHandle(next(iter(graph)).key)


def test_options_of_a_chain_are_those_of_its_first_task() -> None:
    """As in Celery: ``countdown`` delays the beginning of the chain, not each step."""
    graph, _ = compile_canvas(chain(a, b), options={"countdown": 5})
    assert [task.options.get("countdown") for task in graph] == [5, None]


def test_a_group_before_a_task_becomes_a_chord() -> None:
    """``group | task`` is a chord, ``chord | task`` has a longer body, ``task | group`` stays a group at the end."""
    upgraded = group(a, b) | c
    assert isinstance(upgraded, chord)
    longer = upgraded | d
    assert isinstance(longer, chord)
    assert isinstance(longer.body, chain)
    last: Any = a | group(b, c)
    assert isinstance(last, chain)
    assert isinstance(last.tasks[-1], group)
    both = chain(group(a, b), group(c, d))
    assert isinstance(both, chord)
    assert isinstance(both.body, group)


def test_a_group_of_one_inside_a_chain_is_that_one() -> None:
    """Its result is the value and not a list of it."""
    graph, handle = compile_canvas(chain(a | group(b), c))
    assert _names_of(graph) == ["a", "b", "c"]
    assert isinstance(handle, TaskHandle)
    assert list(graph)[2].inputs == (Ref(list(graph)[1].key),)


def test_an_empty_header_gives_the_body_an_empty_list() -> None:
    """``chord([], body)`` runs the body at once."""
    graph, _ = compile_canvas(chord([], b))
    (body,) = graph
    assert body.inputs == ([],)


def test_an_empty_group_is_an_empty_result_and_a_step_that_does_nothing() -> None:
    """``group([])`` has no task; behind a task it is left out."""
    graph, handle = compile_canvas(group([]))
    assert len(graph) == 0
    assert isinstance(handle, GroupHandle)
    assert handle.children == []
    graph, handle = compile_canvas(chain(a, group([])))
    assert _names_of(graph) == ["a"]
    assert isinstance(handle, TaskHandle)


def test_a_body_gets_results_in_the_order_of_the_header() -> None:
    """Order of definition, not of completion; nested groups and chains that end in groups are flattened."""
    graph, _ = compile_canvas(chord([a, group(b, c), chain(d, group(a, b))], d))
    body = list(graph)[-1]
    names = [graph.tasks[reference.key].name for reference in body.inputs[0]]
    assert names == ["a", "b", "c", "a", "b"]


def test_callbacks_follow_and_errbacks_are_kept_apart() -> None:
    """A callback is a task that depends on the result; an errback is sent along, to be begun on failure only."""
    sig = a.clone()
    sig.link(b)
    sig.link(b)
    sig.link_error(chain(c, d))
    graph, _ = compile_canvas(sig)
    task, callback = graph
    assert callback.name == "b"
    assert callback.inputs == (Ref(task.key),)
    (errback,) = task.on_failure
    assert _names_of(errback) == ["c", "d"]
    assert next(iter(errback)).inputs == (task.key,)


def test_links_of_a_chain_are_the_last_ones_and_its_errbacks_everyones() -> None:
    """``chain.link`` hears of the end, ``chain.link_error`` of every step."""
    sig = chain(a, b)
    sig.link(c)
    sig.link_error(d)
    graph, _ = compile_canvas(sig)
    assert _names_of(graph) == ["a", "b", "c"]
    first, second, callback = graph
    assert callback.inputs == (Ref(second.key),)
    assert [len(first.on_failure), len(second.on_failure)] == [1, 1]


def test_a_group_links_its_first_task_only() -> None:
    """Celery links a group's callback to its first child, without arguments; errbacks to all."""
    sig = group(a, b)
    sig.link(c)
    sig.link_error(d)
    assert [len(task.options.get("link", [])) for task in sig.tasks] == [1, 0]
    assert sig.tasks[0].options["link"][0].immutable
    assert [len(task.options["link_error"]) for task in sig.tasks] == [1, 1]


def test_a_chord_links_its_body() -> None:
    """Callbacks of a chord hear of the body's end."""
    sig = chord([a, b], c)
    sig.link(d)
    graph, _ = compile_canvas(sig)
    assert _names_of(graph) == ["a", "b", "c", "d"]
    assert list(graph)[3].inputs == (Ref(list(graph)[2].key),)


def test_a_circle_of_callbacks_is_refused() -> None:
    """Before anything is sent, with the signature that is meant."""
    sig = Signature("a")
    sig.options["link"] = [sig]
    with pytest.raises(ValueError, match="lead back to itself"):
        compile_canvas(sig)


def test_an_id_used_twice_is_refused() -> None:
    """Two tasks can't have one result."""
    with pytest.raises(ValueError, match="two tasks of one canvas"):
        compile_canvas(group(a.clone(task_id="x"), b.clone(task_id="x")))


def test_chained_chords_grow_by_their_tasks_only() -> None:
    """Five chords of ten are 55 tasks, with an edge or two each: nothing is repeated per header task."""
    sig = chain(*(chord([a] * 10, b) for _ in range(5)))
    graph, _ = compile_canvas(sig)
    assert len(graph) == 55
    assert sum(sum(1 for _ in task.references()) for task in graph) <= 2 * 55


def test_groups_after_groups_meet_in_one_place() -> None:
    """A hundred after a hundred are two hundred edges, not ten thousand."""
    graph, handle = compile_canvas(chain(group([a] * 100), group([b] * 100)))
    assert len(graph) == 201
    assert sum(sum(1 for _ in task.references()) for task in graph) == 200
    assert isinstance(handle, GroupHandle)
    assert len(handle.children) == 100


def test_links_in_one_group_are_merged_with_those_of_the_call() -> None:
    """``apply_async(link=...)`` adds to the signature's own callbacks."""
    graph, _ = compile_canvas(a.clone(link=[b]), options={"link": c})
    assert _names_of(graph) == ["a", "b", "c"]


def test_skew_spreads_a_group_in_time() -> None:
    """``group.skew`` gives the calls rising countdowns."""
    sig = group([a] * 3).skew(start=1, step=2)
    assert [task.options["countdown"] for task in sig.tasks] == [1, 3, 5]


def test_chunks_are_a_group_of_starmaps() -> None:
    """``chunks(it, n)`` sends a task per ``n`` items."""
    graph, handle = compile_canvas(chunks(a, [(i,) for i in range(5)], 2))
    assert _names_of(graph) == ["celery.starmap"] * 3
    assert isinstance(handle, GroupHandle)
