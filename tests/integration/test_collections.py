"""Dask collections with a real scheduler: what is computed, where, and what is said when it can't be."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from operator import add
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import dask.bag as db
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from dask._task_spec import Task, TaskRef
from dask.base import annotate
from dask.delayed import delayed
from dask.utils_test import GetFunctionTestMixin

from futurebroker import Client, Future, LocalCluster, futures_of, get_worker
from futurebroker.exceptions import GraphError, SerializationError
from tests.integration.software import has_imported

PATIENCE = 40.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """Three workers, named local-1 to local-3, with a slot each."""
    with LocalCluster(n_workers=3, executors_per_worker=1, processes=False) as cluster:
        yield cluster


@pytest.fixture
def frame() -> Any:
    """A dataframe of eight partitions."""
    return dd.from_pandas(pd.DataFrame({"a": np.arange(800) % 7, "b": np.arange(800.0)}), npartitions=8)


def inc(x: int) -> int:
    return x + 1


def where(*_: Any) -> str:
    """The name of the worker that runs this."""
    return get_worker().name


class TestGet(GetFunctionTestMixin):
    """Dask's own expectations of a scheduler."""

    @pytest.fixture(autouse=True)
    def _use(self, client: Client) -> None:
        self.client = client

    @property
    def get(self) -> Callable[..., Any]:
        """What is tested."""
        return self.client.get


def test_all_collections_compute(client: Client, frame: Any) -> None:
    """Array, bag, delayed and dataframe, with a shuffle by tasks."""
    assert (da.ones(1000, chunks=10) + 1).sum().compute() == 2000
    assert db.from_sequence(range(100), npartitions=5).map(inc).sum().compute() == 5050
    assert delayed(add)(delayed(inc)(1), 2).compute() == 4
    assert frame.groupby("a").b.sum().compute().sum() == 319600
    assert dask.config.get("dataframe.shuffle.method") == "tasks"
    assert len(frame.merge(frame, on="b").compute()) == 800
    assert "sum-partial" in client.scheduler_info()["kinds"]


def test_persisted_collections_hold_futures(client: Client, frame: Any) -> None:
    """They are of the same type, and what is made from them doesn't compute them again."""
    kept = client.persist(frame[frame.a < 3])
    array = (da.random.random((40, 40), chunks=(10, 10)) + 1).persist()
    assert [type(one) for one in (kept, array)] == [type(frame), da.Array]
    assert (len(futures_of(kept)), len(futures_of([array, {"x": array}]))) == (8, 16)
    assert float(array.sum().compute()) == float(array.sum().compute())
    assert kept.b.sum().compute() == frame[frame.a < 3].b.sum().compute(scheduler="sync")
    assert client.futures_of(array)[0].done()


def test_compute_gives_futures(client: Client, frame: Any) -> None:
    """One for one, a list for a list, and what is no collection as it is."""
    total, other = client.compute([frame.b.sum(), 5])
    assert isinstance(total, Future)
    assert (total.result(PATIENCE), other) == (319600, 5)
    assert client.compute(delayed(inc)(1), sync=True) == 2


def test_what_is_held_is_not_computed_again(client: Client) -> None:
    """As in dask, a graph that names what was computed before and is held finds it."""
    array = da.random.random(100, chunks=10)
    kept = array.persist()
    first = kept.compute()
    assert np.isclose((array + 0).sum().compute(), first.sum())
    assert futures_of(client.normalize_collection(array * 2))
    assert client.normalize_collection(da.ones(3)) is not None


def test_futures_are_welcome_in_graphs(client: Client) -> None:
    """On their own and inside containers."""
    future = client.submit(inc, 1)
    assert delayed(inc)(future).compute() == 3
    assert delayed(sum)([future, 1]).compute() == 3
    assert client.get({"y": (sum, [future, 1])}, "y") == 3
    assert client.get({"y": (inc, "x"), "x": future}, ["x", ["y"]]) == (2, (3,))


def test_large_values_travel_once(client: Client) -> None:
    """A frame inside a graph is data, and not part of every call."""
    values = np.arange(100_000)
    array = da.from_array(values, chunks=10_000)
    assert int(array.sum().compute()) == int(values.sum())
    assert int(delayed(np.sum)(values).compute()) == int(values.sum())


# -- where -----------------------------------------------------------------------------------------------------------


def test_a_computation_runs_where_it_is_told_to(client: Client) -> None:
    """All of it, by name."""
    parts = [delayed(where)(number) for number in range(4)]
    assert client.compute(parts, workers="local-2", sync=True) == ["local-2"] * 4
    assert client.compute(parts, workers=["nobody", "local-3"], allow_other_workers=True, sync=True) == ["local-3"] * 4


def test_parts_of_a_computation_run_in_different_places(client: Client) -> None:
    """``workers={...}`` of 1.13.0: of a collection, of a tuple of them, and of a key."""
    left, right = delayed(where)(1), delayed(where)(2)
    third = delayed(where)(3, dask_key_name="third")
    both = delayed(lambda *names: [*names, where()])(left, right, third)
    places = {(left, right): "local-1", "third": "local-2", both: ["local-3"]}
    assert client.compute(both, workers=places, sync=True) == ["local-1", "local-1", "local-2", "local-3"]
    kept = client.persist(both, workers={both: "local-2"})
    assert kept.compute()[-1] == "local-2"


def test_some_parts_may_run_elsewhere(client: Client) -> None:
    """``allow_other_workers=[...]`` names those for which the place is a wish."""
    left, right = delayed(where)(1), delayed(where)(2)
    both = delayed(lambda *names: list(names))(left, right)
    names = client.compute(both, workers={left: "gone", right: "local-1"}, allow_other_workers=[left], sync=True)
    assert names[1] == "local-1"


def test_annotations_are_kept(client: Client) -> None:
    """Options given where the graph was made."""
    with annotate(workers="local-3"):
        array = da.ones(4, chunks=2).map_blocks(lambda block: np.array([where()] * len(block)), dtype=str)
    assert client.compute(array, optimize_graph=False, sync=True).tolist() == ["local-3"] * 4


#: what tasks in threads of this process share with their test
RUNS: list[str] = []
GATE = threading.Event()


def fails_twice(name: str) -> str:
    RUNS.append(name)
    if RUNS.count(name) < 3:
        raise ValueError(name)
    return name


def runs_after_the_gate(name: str) -> None:
    assert GATE.wait(PATIENCE)
    RUNS.append(name)


def test_retries_priority_and_resources_hold_for_the_tasks_of_a_computation(client: Client) -> None:
    """As for single calls; by compute and persist alike."""
    RUNS.clear()
    GATE.clear()
    assert client.compute(delayed(fails_twice)("a"), retries=2, sync=True) == "a"
    assert client.persist(delayed(fails_twice)("b"), retries=2).compute() == "b"
    with pytest.raises(ValueError, match="c"):
        client.compute(delayed(fails_twice)("c"), retries=1, sync=True)
    RUNS.clear()
    first = client.submit(runs_after_the_gate, "first", workers="local-1")
    until_begun(client, first)
    calls = [delayed(runs_after_the_gate)(name) for name in ("sent", "low", "high")]
    futures = [client.compute(call, workers="local-1", priority=by) for call, by in zip(calls, (0, -5, 5))]
    assert client.why(futures_of(futures[-1])[0])  # the scheduler has them all
    GATE.set()
    client.gather([first, *futures])
    assert RUNS == ["first", "sent", "high", "low"]  # one is always sent ahead
    for ask in (client.compute, client.persist):
        (future,) = futures_of(ask(delayed(inc)(1), resources={"GPU": 1}))
        assert "GPU" in client.why(future)


def until_begun(client: Client, future: Future[Any]) -> None:
    """Until the task runs."""
    while future.key not in client.call_stack():
        pass


# -- what is wrong -------------------------------------------------------------------------------------------------


def test_a_graph_that_can_not_be_computed_says_why(client: Client) -> None:
    """Before anything runs; the client goes on."""
    with pytest.raises(GraphError, match="'a' needs 'b' needs 'a'"):
        client.get({"a": (inc, "b"), "b": (inc, "a")}, "a")
    with pytest.raises(GraphError, match="'gone', which isn't in it"):
        client.get({"a": Task("a", inc, TaskRef("gone"))}, "a")
    with pytest.raises(KeyError, match="missing"):
        client.get({"a": 1}, "missing")
    with pytest.raises(ValueError, match="'nobody', and no connected worker has that name.*local-1"):
        client.compute(delayed(inc)(1), workers="nobody")
    with pytest.raises(ValueError, match="no part of what is computed"):
        client.compute(delayed(inc)(1), workers={delayed(inc)(2): "local-1"})
    with pytest.raises(SerializationError, match="lock"):
        client.get({"a": (inc, threading.Lock())}, "a")
    assert client.get({"a": (inc, 1)}, "a") == 2
    assert client.scheduler_info()["tasks"].get("processing", 0) == 0


def test_an_error_of_a_task_is_the_users_own(client: Client) -> None:
    """Raised where the result is asked for."""
    with pytest.raises(ZeroDivisionError):
        delayed(lambda: 1 // 0)().compute()
    future = client.compute(delayed(inc)(delayed(lambda: 1 // 0)()))
    assert isinstance(future.exception(PATIENCE), ZeroDivisionError)


# -- defaults --------------------------------------------------------------------------------------------------------


def mean_inside(size: int) -> float:
    return float(da.ones(size, chunks=10).mean().compute())


def test_dask_computes_inside_tasks() -> None:
    """By the client of the task, on the one scheduler there is."""
    with LocalCluster(executors_per_worker=1, processes=False) as cluster, Client(cluster) as client:
        assert client.submit(mean_inside, 100).result(PATIENCE) == 1.0
        assert client.scheduler_info()["kinds"]["mean_agg-aggregate"]["ended"] > 0


def test_a_new_client_is_the_default_until_it_is_closed(cluster: LocalCluster) -> None:
    """Then the one before is again, and in the end what was set at first."""
    former = dask.config.get("scheduler", None)
    with Client(cluster) as first:
        with Client(cluster) as second:
            assert dask.config.get("scheduler").__self__ is second
        with Client(cluster, set_as_default=False):
            assert dask.config.get("scheduler").__self__ is first
    assert dask.config.get("scheduler", None) is former


LATE = """
from futurebroker import Client, LocalCluster

if __name__ == "__main__":
    with Client(LocalCluster(executors_per_worker=1), name="late") as client:
        import sys
        assert "dask" not in sys.modules
        import dask.array as da
        assert da.ones(100, chunks=10).sum().compute() == 100
        inner = client.submit(lambda: __import__("dask.array").array.ones(30, chunks=10).sum().compute())
        assert inner.result(30) == 30
        assert client.scheduler_info()["kinds"]["sum-aggregate"]["states"] is not None
        client.cluster.close()
"""


def test_dask_may_be_imported_after_the_client_was_made(tmp_path: Path) -> None:
    """The order of imports is nothing that users should have to think of; nor do they pay for dask without it."""
    script = tmp_path / "late.py"
    script.write_text(LATE)
    done = subprocess.run([sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout


def mapped_from(array: Any) -> tuple[str, int, int]:
    """The file that the memory of ``array`` is mapped from, its inode, and how many bytes of the map are copies."""
    address = array.__array_interface__["data"][0]
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    for line in lines:
        first, *rest = line.split()
        start, dash, end = first.partition("-")
        if dash and int(start, 16) <= address and address + array.nbytes <= int(end, 16):
            copied = next(int(one.split()[1]) for one in lines if one.startswith("Anonymous:"))
            return rest[4] if len(rest) > 4 else "", int(rest[3]), copied * 1024
    raise AssertionError("its memory lies in several maps")


def sums_and_maps(array: Any) -> tuple[float, tuple[str, int, int]]:
    """Every page has been looked at when the map is."""
    return float(array.sum()), mapped_from(array)


def test_persisted_results_are_read_on_one_host_without_copying() -> None:
    """By tasks of the same worker, of another, and by the client: all have the pages of one file, none its own."""
    with LocalCluster(n_workers=2, executors_per_worker=1) as cluster, Client(cluster) as client:
        x = client.persist(da.ones((1000, 1000), chunks=1000) + 0.5, workers="local-1")
        (future,) = futures_of(x)
        maps = [client.submit(sums_and_maps, future, workers=name).result(PATIENCE) for name in ("local-1", "local-2")]
        maps += x.map_blocks(lambda block: np.array([[sums_and_maps(block)]], dtype=object)).compute()[0][:1].tolist()
        maps.append(sums_and_maps(future.result()))
        assert {total for total, _ in maps} == {1.5e6}
        files = {(path, inode) for _, (path, inode, _) in maps}
        assert len(files) == 1
        ((path, _),) = files
        assert Path(path).stat().st_size >= 8_000_000
        assert {copied for _, (_, _, copied) in maps} == {0}
        mine = future.result()
        mine[:] = 2.0  # a copy is made of what is written to, and only then
        assert mapped_from(mine)[2] >= 8_000_000
        assert client.submit(np.sum, future).result(PATIENCE) == 1.5e6


def test_executors_import_what_the_program_has_before_they_need_it() -> None:
    """The first computation would wait for pandas otherwise; nothing is submitted here."""
    with LocalCluster(n_workers=1, executors_per_worker=1) as cluster:
        with Client(cluster, set_as_default=False) as client:
            assert list(client.run(has_imported, "dask.dataframe").values()) == [False]
        with Client(cluster) as client:
            while list(client.run(has_imported, "dask.dataframe").values()) != [True]:
                pass
            client.import_ahead(["no_such_module", "colorsys"])
            while list(client.run(has_imported, "colorsys").values()) != [True]:
                pass
