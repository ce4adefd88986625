"""What operators do to workers by name."""

from __future__ import annotations

from futurebroker.protocol import messages as m
from tests.unit.scheduler.play import Play, submit


def test_a_queue_is_joined_by_all_though_one_takes_everything() -> None:
    """The first of the workers that takes from every queue kept the others from joining one."""
    play = Play("all", "some", "other")
    for name in ("some", "other"):
        play.state.workers[name].queues = {"celery": None}
    play.ann(m.Ask(1, "control", ["add_consumer", None, "mail"]))
    assert [play.state.workers[name].queues for name in ("all", "some", "other")] == [
        None,
        {"celery": None, "mail": None},
        {"celery": None, "mail": None},
    ]
    play.ann(submit("x", queue="mail", workers=("other",)))
    assert play.task("x").worker is play.state.workers["other"]
    (answer,) = play.ann(m.Ask(2, "control", ["add_consumer", ["all"], "more"]))
    assert answer.message.value == {"all": {"ok": "already consuming from more"}}


def test_a_queue_that_is_left_gives_no_more_work() -> None:
    """What waits in it waits for another."""
    play = Play("w", slots=1)
    play.state.workers["w"].queues = {"celery": None, "mail": None}
    play.ann(m.Ask(1, "control", ["cancel_consumer", ["w"], "mail"]))
    play.ann(submit("x", queue="mail"))
    assert play.states() == {"x": "no_worker"}
