"""Arguments of a call are checked by counting where that is enough, and never otherwise than by binding them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from futurebroker.celery.shapes import Shape


def none() -> None: ...
def one(a: Any) -> None: ...
def defaults(a: Any, b: Any = 1) -> None: ...
def only_places(a: Any, b: Any, /, c: Any = 2) -> None: ...
def only_names(a: Any, *, b: Any, c: Any = 3) -> None: ...
def any_places(a: Any, *rest: Any) -> None: ...
def any_names(a: Any = 0, **rest: Any) -> None: ...
def anything(*args: Any, **kwargs: Any) -> None: ...
def names_behind_places(*args: Any, b: Any = 1) -> None: ...


FUNCTIONS: list[Any] = [
    none,
    one,
    defaults,
    only_places,
    only_names,
    any_places,
    any_names,
    anything,
    names_behind_places,
]


@given(
    st.sampled_from(FUNCTIONS),
    st.lists(st.integers(), max_size=4).map(tuple),
    st.dictionaries(st.sampled_from("abcd"), st.integers(), max_size=3),
)
def test_a_call_is_refused_when_and_only_when_it_can_not_be_bound(
    function: Any, args: tuple[int, ...], kwargs: dict[str, int]
) -> None:
    """A task that takes what it can't run with would fail at a worker, long after the mistake."""
    assert _refusal(Shape(function).check, args, kwargs) == _refusal(_bind(function), args, kwargs)


def _refusal(check: Callable[[tuple[int, ...], dict[str, int]], object], args: Any, kwargs: Any) -> str:
    try:
        check(args, kwargs)
    except TypeError as error:
        return str(error)
    return ""


def _bind(function: Any) -> Callable[[tuple[int, ...], dict[str, int]], object]:
    return lambda args, kwargs: inspect.signature(function).bind(*args, **kwargs)


def test_what_counting_says_is_never_more_than_binding_says() -> None:
    """`Task.apply_async` counts by itself before it asks for more."""
    for function in FUNCTIONS:
        shape = Shape(function)
        for count in range(6):
            if shape.least <= count <= shape.most:
                inspect.signature(function).bind(*range(count))
