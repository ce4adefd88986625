"""One idempotency key from several programs, and over a restart of the scheduler: the call is made once."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.ledger import Ledger
from tests.integration.gate import PATIENCE, Gate
from tests.integration.killable import Cluster
from tests.integration.programs import lines_until, running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """One that ends with the test."""
    with contextlib.ExitStack() as stack:
        yield Cluster(tmp_path, stack)


#: a function of the program's own, as users have them: two programs pickle it to different bytes
PAY = """
from tests.chaos.ledger import write_down
def pay(ledger, program):
    write_down(ledger, "paid")
    return f"paid for {{program}}"
print(client.submit(pay, {ledger!r}, {program!r}, idempotency_key="invoice 4711").result())
"""

WAIT = """
from tests.integration.gate import pass_gate
future = client.submit(pass_gate, {port}, {ledger!r}, "shared", idempotency_key="invoice 4712")
client.why(future)
print("submitted", flush=True)
print("by process", future.result()[0], flush=True)
"""


def test_programs_after_one_another_get_the_first_ones_result(cluster: Cluster) -> None:
    """The first has ended, then the scheduler is killed; neither makes the call anew."""
    ledger = Ledger(cluster.folder)
    for program in ("the first", "the second"):
        assert cluster.program(PAY.format(ledger=ledger.path, program=program)) == "paid for the first"
    cluster.kill(cluster.scheduler)
    cluster.start_scheduler()
    assert cluster.program(PAY.format(ledger=ledger.path, program="the third")) == "paid for the first"
    assert ledger.count("paid") == 1


def test_programs_at_the_same_time_share_the_run(cluster: Cluster) -> None:
    """Also one that comes after the scheduler was killed in the middle of it."""
    ledger = Ledger(cluster.folder)
    with Gate() as gate, contextlib.ExitStack() as stack:
        lines = [
            "from futurebroker import Client",
            f"client = Client({cluster.address!r})",
            WAIT.format(port=gate.port, ledger=ledger.path),
        ]
        command = [sys.executable, "-c", "\n".join(lines)]
        programs = []
        for _ in range(2):
            programs.append(stack.enter_context(running(command, cluster.folder, **cluster.variables)))
            lines_until(programs[-1], "submitted")
        arrival = gate.arrival()
        cluster.kill(cluster.scheduler)
        cluster.start_scheduler()
        programs.append(stack.enter_context(running(command, cluster.folder, **cluster.variables)))
        lines_until(programs[-1], "submitted")
        arrival.release()
        for program in programs:
            lines_until(program, f"by process {arrival.pid}")
            program.communicate(timeout=PATIENCE)
        assert gate.nobody_waits()
    assert ledger.count("shared") == 1
