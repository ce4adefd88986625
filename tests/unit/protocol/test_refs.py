"""References in arguments open to the inputs of the task being opened, and to nothing elsewhere."""

from __future__ import annotations

import pickle

from futurebroker.protocol.refs import TaskRef, open_arguments


def test_references_open_to_inputs_wherever_they_stand() -> None:
    """No walk through the arguments is needed, however deep they are nested."""
    data = pickle.dumps(({"a": [TaskRef(1)]}, {TaskRef(0)}))
    assert open_arguments(pickle.loads, data, ["zero", "one"]) == ({"a": ["one"]}, {"zero"})


def test_references_stay_references_outside_a_task() -> None:
    """A client may open what it sent."""
    assert pickle.loads(pickle.dumps(TaskRef(3))) == TaskRef(3)


def test_opening_inside_an_opening_restores_the_outer_inputs() -> None:
    """A user's own unpickling may open other arguments on the way."""

    def outer(data: bytes) -> object:
        inner = open_arguments(pickle.loads, data, ["inner"])
        return inner, pickle.loads(data)

    assert open_arguments(outer, pickle.dumps(TaskRef(0)), ["outer"]) == ("inner", "outer")
