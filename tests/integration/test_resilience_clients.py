"""Clients that die or are cut off: their work goes after a while, or waits for them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.ledger import Ledger
from tests.chaos.rig import Rig
from tests.integration.gate import Gate, pass_gate
from tests.integration.programs import lines_until, running
from tests.integration.test_resilience import PATIENCE, until

#: a client in a process of its own, which holds a result, one that is awaited and one that is to come
GUEST = """
import sys
from futurebroker import Client
from tests.integration.gate import pass_gate
address, secret, cluster, port, ledger = sys.argv[1:]
client = Client(address, secret=secret, cluster=cluster)
done = client.submit(bytes, 200_000, key="guest-done")
done.result()
held = client.submit(pass_gate, int(port), ledger, "guest-held", key="guest-held")
follows = client.submit(len, held, key="guest-follows")
print("submitted", flush=True)
held.result()
"""


@pytest.fixture
def gate() -> Iterator[Gate]:
    """Where tasks wait for the test."""
    with Gate() as gate:
        yield gate


def test_the_keys_of_a_killed_client_go_after_its_grace(gate: Gate, tmp_path: Path) -> None:
    """Nobody will ever ask for them; what another client wants stays."""
    ledger = Ledger(tmp_path)
    with Rig(1, client_grace=0.5, heartbeat_interval=0.2) as rig, rig.client() as client:
        mine = client.submit(bytes, 200_000, key="mine")
        mine.result(PATIENCE)
        place = [rig.url_through(rig.client_wire), rig.secret, rig.cluster]
        command = [sys.executable, "-c", GUEST, *place, str(gate.port), ledger.path]
        with running(command, tmp_path) as guest:
            lines_until(guest, "submitted")
            arrival = gate.arrival()
            assert client.scheduler_info()["clients"] == 2
            guest.kill()
            until(lambda: client.scheduler_info()["clients"] == 1)
        info = client.scheduler_info()
        assert sum(info["tasks"].values()) == 1
        assert set(client.who_has()) == {"mine"}
        arrival.release()
        assert client.submit(len, mine).result(PATIENCE) == 200_000
        until(lambda: [*client.has_what().values()] == [["mine"]])


def test_a_client_that_was_cut_off_gets_what_ended_meanwhile(gate: Gate, tmp_path: Path) -> None:
    """Its session keeps what was said; no future has to be asked for again."""
    ledger = Ledger(tmp_path)
    with Rig(1, heartbeat_interval=0.2) as rig, rig.client() as client:
        futures = [client.submit(pass_gate, gate.port, ledger.path, f"t{i}", 100_000 * i) for i in range(3)]
        first = gate.arrival()
        rig.client_wire.cut()
        first.release()
        for _ in range(2):
            gate.arrival().release()
        unsent = client.submit(abs, -5)
        rig.client_wire.mend()
        assert [len(future.result(PATIENCE)[1]) for future in futures] == [0, 100_000, 200_000]
        assert unsent.result(PATIENCE) == 5
        assert len(ledger.rows()) == 3
