"""The short form of a chaos run, and the parts of the runner that must be right for its verdict to mean anything."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from tests.chaos.faults import WEIGHTS, drawn
from tests.chaos.graph import answers, layered, value_of
from tests.chaos.ledger import Ledger, write_down
from tests.chaos.runner import Plan, reruns, run


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_nothing_is_lost_wrong_or_hung_whatever_dies(tmp_path: Path) -> None:
    """The promise of the whole: at least thirty faults, and each of the tasks counts exactly once."""
    report = run(Plan(seed=15, tasks=1_000, faults=30, task_seconds=0.03, pace=0.35), tmp_path)
    assert report["passed"], report
    assert report["fault_count"] >= 30
    assert report["counts"]["accepted"] == report["counts"]["submitted"]
    assert report["faults_by_kind"]["kill scheduler"]


@pytest.mark.slow
@pytest.mark.service("rabbitmq")
@pytest.mark.timeout(400)
def test_nothing_is_lost_wrong_or_hung_at_rabbitmq_that_dies_as_well(tmp_path: Path) -> None:
    """Scheduler and broker are killed apart here, and links to the broker are cut for each of them."""
    report = run(Plan(seed=51, tasks=1_000, faults=30, task_seconds=0.03, pace=0.5, own_rabbitmq=True), tmp_path)
    assert report["passed"], report
    assert report["fault_count"] >= 30
    kinds = report["faults_by_kind"]
    assert kinds["kill scheduler"]
    assert kinds["kill broker"]
    assert kinds["cut scheduler"]


def test_a_seed_draws_the_same_graph_and_faults_each_time() -> None:
    """A failure that can't be played again can't be understood."""
    assert layered(3, 200, 0.01, "g") == layered(3, 200, 0.01, "g")
    assert layered(3, 200, 0.01, "g") != layered(4, 200, 0.01, "g")
    assert [*islice(drawn(3, 1.0, WEIGHTS), 50)] == [*islice(drawn(3, 1.0, WEIGHTS), 50)]


def test_one_wrong_input_changes_every_answer_after_it() -> None:
    """Or a result that was swapped with another's could go unnoticed."""
    graph = layered(5, 400, 0.01, "g")
    right = answers(graph)
    assert len(set(right)) == len(graph)
    last = graph[-1]
    inputs = [right[position] for position in last.inputs]
    assert value_of(last.key, inputs) == right[-1]
    assert value_of(last.key, [inputs[0] + 1, *inputs[1:]]) != right[-1]


def test_the_ledger_keeps_every_execution(tmp_path: Path) -> None:
    """A task that ran twice has two rows."""
    ledger = Ledger(tmp_path)
    for key in ("a", "b", "a"):
        write_down(ledger.path, key)
    assert [key for key, _, _ in ledger.rows()] == ["a", "b", "a"]
    assert (ledger.count("a"), ledger.count("b"), ledger.count("c")) == (2, 1, 0)


def test_the_delay_of_a_rerun_counts_from_the_kill() -> None:
    """Only of what the killed process was running, and not of what it had done before."""
    rows = [("a", 1, 10.0), ("b", 1, 11.0), ("c", 2, 11.0), ("a", 2, 11.5), ("b", 2, 14.0)]
    assert reruns(rows, [(12.0, 1), (12.0, 3)]) == [2.0]
