"""Parts of dask's own tests, with us as the scheduler."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

#: tests of dask -> the choice among them, and how many that is at the least. Left out is what looks at things that only
#: exist inside one process (identity, monkeypatching, files of a shuffle by disk), and bags grouped by what isn't a
#: function, which dask can do by disk only.
SUITES = {
    "dask.tests.test_delayed": ("not traverse_false and not callable_obj", 55),
    "dask.bag.tests.test_bag": (
        "not tasks and not indexer and not changed and not optimize_graph and not msgpack and not temporary_directory",
        150,
    ),
    "dask.array.tests.test_linalg": ("tsqr or sfqr or lu or cholesky", 65),
    "dask.dataframe.dask_expr.tests.test_shuffle": ("not predicate", 100),
}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("module", SUITES)
def test_dask_passes_its_own_tests_with_us(module: str, tmp_path: Path) -> None:
    """Delayed, bag, array and dataframe, by programs that know nothing of us."""
    choice, least = SUITES[module]
    command = [sys.executable, "-m", "pytest", "-q", "--pyargs", module, "-k", choice, "-W", "ignore"]
    plugins = ["-p", "tests.foreign.dask_by_us", "-p", "no:cacheprovider", "-p", "no:randomly", "-p", "no:xdist"]
    where = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": ""}
    done = subprocess.run(
        [*command, *plugins], cwd=tmp_path, env=where, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert int(done.stdout.rpartition("\n")[0].rpartition(" passed")[0].rpartition("\n")[2].split()[-1]) >= least
