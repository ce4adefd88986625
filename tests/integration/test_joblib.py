"""joblib and scikit-learn on a cluster: large arguments once, calls inside calls, and an early end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from joblib import Parallel, delayed, parallel_config
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.tree import DecisionTreeClassifier

from futurebroker import Client, LocalCluster
from tests.chaos.ledger import Ledger, write_down


@pytest.fixture
def client() -> Iterator[Client]:
    """A client of a cluster with two slots."""
    with LocalCluster(n_workers=1, executors_per_worker=2) as cluster, Client(cluster) as client:
        yield client


def square(x: int) -> int:
    return x * x


def total(array: Any, factor: int) -> float:
    return float(array.sum()) * factor


def rows_of_sums(n: int) -> list[int]:
    return list(Parallel()(delayed(square)(i) for i in range(n)))


def test_parallel_calls_run_in_the_cluster(client: Client) -> None:
    """In order, with large arguments stored once; inside others as well, on two slots."""
    with parallel_config("futurebroker"):
        assert Parallel()(delayed(square)(i) for i in range(300)) == [i * i for i in range(300)]
        array = np.ones(100_000)
        assert Parallel()(delayed(total)(array, i) for i in range(6)) == [i * 100_000.0 for i in range(6)]
        assert Parallel(n_jobs=4)(delayed(rows_of_sums)(n) for n in (2, 3, 4, 5)) == [
            [i * i for i in range(n)] for n in (2, 3, 4, 5)
        ]
    kinds = client.scheduler_info()["kinds"]
    assert kinds["data"]["states"] == {"forgotten": 1}
    assert kinds["run_batch"]["ended"] > 4


@pytest.mark.slow
def test_a_grid_search_with_forests_runs_in_the_cluster(client: Client) -> None:
    """Its fits are tasks, and the trees of each forest are tasks of these."""
    features, labels = load_iris(return_X_y=True)
    forest = RandomForestClassifier(n_estimators=4, random_state=0, n_jobs=-1)
    search = GridSearchCV(forest, {"max_depth": [1, 3]}, cv=2, n_jobs=-1)
    with parallel_config("futurebroker"):
        search.fit(features, labels)
    assert search.best_params_ == {"max_depth": 3}
    assert client.scheduler_info()["kinds"]["run_batch"]["ended"] >= 2 * 2 * 2


class Fussy(DecisionTreeClassifier):  # type: ignore[misc]
    """A tree that won't be fitted with depth 1, and takes its time with others."""

    def __init__(self, ledger: str = "", max_depth: int | None = None) -> None:
        super().__init__(max_depth=max_depth)
        self.ledger = ledger

    def fit(self, features: Any, labels: Any, **_: Any) -> Any:
        """See `DecisionTreeClassifier.fit`."""
        write_down(self.ledger, f"depth {self.max_depth}")
        if self.max_depth == 1:
            raise ValueError("too shallow")
        time.sleep(0.05)
        return super().fit(features, labels)


@pytest.mark.slow
def test_what_is_left_of_a_search_is_cancelled_when_it_ends_early(client: Client, tmp_path: Any) -> None:
    """The first error ends it; of a thousand fits only some have begun, and no more do."""
    ledger = Ledger(tmp_path)
    features, labels = load_iris(return_X_y=True)
    depths = {"max_depth": [2, 2, 2, 1, *range(2, 252)]}
    search = GridSearchCV(Fussy(ledger.path), depths, cv=4, n_jobs=-1, error_score="raise", pre_dispatch="all")
    with parallel_config("futurebroker"), pytest.raises(ValueError, match="too shallow"):
        search.fit(features, labels)
    while any(client.processing().values()):
        pass
    # What executors had when the search ended runs out before they take what comes after it.
    client.gather(client.map(square, range(200)))
    begun = len(ledger.rows())
    assert begun < 500
    assert client.submit(square, 3).result(30) == 9
    assert len(ledger.rows()) == begun
