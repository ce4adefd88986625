"""Which tasks were submitted together, and that their ends are counted for that."""

from __future__ import annotations

import msgspec
import pytest

from futurebroker.protocol import messages as m
from futurebroker.protocol.history import Batch, GraphEnds, add_graphs
from futurebroker.scheduler import checkpoint, graphs
from futurebroker.scheduler import chronicle as chronicle_module
from futurebroker.scheduler.chronicle import Chronicle
from futurebroker.scheduler.commands import ClientGone, ClientJoined, ClientSaid
from futurebroker.scheduler.families import INSIDE
from tests.unit.scheduler.play import FUNCTION, Play, failure, finished, submit
from tests.unit.scheduler.projection import projection, replayed

OFFSET = 1_000_000.0


@pytest.fixture
def play() -> Play:
    """A machine with a worker, a journal and a history."""
    play = Play("w")
    play.state.facts = []
    for client in (play.ann, play.bob):
        client(m.AddFunction(FUNCTION, "f", b"code"), m.AddFunction(b"g" * 16, "g", b"code"))
    _look(play)
    return play


def _look(play: Play) -> None:
    play.state.chronicle = Chronicle(play.state.moments.when, play.state.graphs)
    play.state.chronicle.offset = OFFSET


def taken(play: Play) -> Batch:
    """What the writer gets."""
    assert play.state.chronicle is not None
    batch = play.state.chronicle.take() or Batch()
    return msgspec.msgpack.decode(msgspec.msgpack.encode(batch), type=Batch)


class Table:
    """What the writer makes of it: for each graph its client, and tasks, finished, failed and cancelled."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self.tasks: dict[str, dict[str, int]] = {}
        self.ends: dict[str, GraphEnds] = {}

    def add(self, batch: Batch) -> None:
        """Take in a batch."""
        for one in batch.graphs:
            self.names.setdefault(one.graph, f"{one.client} {len(self.names)}")
            self.tasks[one.graph] = one.types
        add_graphs(self.ends, batch.rows, batch.spans)
        for graph, more in batch.ends.items():
            self.ends.setdefault(graph, GraphEnds()).add(more)

    def told(self) -> dict[str, tuple[dict[str, int], tuple[int, int, int]]]:
        """By client and number."""
        none = GraphEnds()
        ends = {graph: self.ends.get(graph, none) for graph in self.names}
        return {
            name: (self.tasks[graph], (ends[graph].finished, ends[graph].failed, ends[graph].cancelled))
            for graph, name in self.names.items()
        }


@pytest.fixture
def table() -> Table:
    """An empty one."""
    return Table()


def test_calls_without_a_pause_are_one_graph(play: Play, table: Table) -> None:
    """Also of several functions; after a pause another begins."""
    play.ann(submit("a"), submit("b"))
    play.now += graphs.PAUSE / 2
    play.ann(m.Submit(b"g" * 16, ["c"], [b""], [("a",)]))
    play.now += graphs.PAUSE
    play.ann(submit("d"))
    batch = taken(play)
    table.add(batch)
    assert table.told() == {"ann 0": ({"f": 2, "g": 1}, (0, 0, 0)), "ann 1": ({"f": 1}, (0, 0, 0))}
    first, second = batch.graphs
    assert (first.at, first.extended_at) == (OFFSET, OFFSET + graphs.PAUSE / 2)
    assert second.at == OFFSET + 1.5 * graphs.PAUSE
    play.worker("w", finished("d", play.task("d").attempt), finished("a", 1))
    play.worker("w", m.Erred("b", 2, failure("b")))
    table.add(taken(play))
    assert table.told() == {"ann 0": ({"f": 2, "g": 1}, (1, 1, 0)), "ann 1": ({"f": 1}, (1, 0, 0))}


def test_clients_that_take_turns_have_a_graph_each(play: Play, table: Table) -> None:
    """What is in between doesn't divide it."""
    for number in range(3):
        play.ann(submit(f"a{number}"))
        play.bob(submit(f"b{number}"), submit(f"c{number}"))
    for attempt, key in enumerate(["a0", "b0", "c0", "a1", "b1", "c1", "a2", "b2", "c2"], 1):
        play.worker("w", finished(key, attempt))
    table.add(taken(play))
    assert table.told() == {"ann 0": ({"f": 3}, (3, 0, 0)), "bob 1": ({"f": 6}, (6, 0, 0))}


def test_a_named_graph_is_one_however_long_it_takes_to_submit(play: Play, table: Table) -> None:
    """That of a collection comes in many messages, and what isn't of it is apart."""
    part = msgspec.structs.replace(submit("a"), graph="whole")
    end = m.EndGraph("whole", ["b"])
    # Past the ledger, which takes what comes before the end of a graph for wanted.
    play.machine.handle(_says("ann", submit("lone"), part), play.now)
    play.now += 2 * graphs.PAUSE
    play.machine.handle(_says("ann", msgspec.structs.replace(submit("b", "a"), graph="whole"), end), play.now)
    table.add(taken(play))
    assert table.told() == {"ann 0": ({"f": 1}, (0, 0, 0)), "ann 1": ({"f": 2}, (0, 0, 0))}


def test_what_needs_something_unfinished_belongs_to_its_graph(play: Play, table: Table) -> None:
    """So each task's end is counted where the task is; also if it has a priority, or another client submitted it."""
    play.ann(submit("a"))
    play.now += 2 * graphs.PAUSE
    play.bob(submit("b", "a", priority=5), submit("c", priority=-3), submit("d", "a", "c"))
    table.add(taken(play))
    assert table.told() == {"ann 0": ({"f": 3}, (0, 0, 0)), "bob 1": ({"f": 1}, (0, 0, 0))}
    play.worker("w", finished("a", 1))
    play.ann(submit("late", "a"))  # which is finished
    sent = {task.key: task.attempt for task in play.state.tasks.values()}
    play.worker("w", *(finished(key, sent[key]) for key in ("c", "b", "d", "late")))
    table.add(taken(play))
    assert table.told() == {
        "ann 0": ({"f": 3}, (3, 0, 0)), "bob 1": ({"f": 1}, (1, 0, 0)), "ann 2": ({"f": 1}, (1, 0, 0)),
    }  # fmt: skip


def test_what_tasks_submit_belongs_to_their_graph(play: Play, table: Table) -> None:
    """However deep: another client's graph stands before it in order, and gets none of it."""
    play.bob(submit("other"))
    play.ann(submit("t0"))
    for depth in range(1, 6):
        name = f"inside{depth}"
        play.handle(ClientJoined(name, {INSIDE: True}))
        nested = msgspec.structs.replace(submit(f"t{depth}"), parent=f"t{depth - 1}")
        play.handle(_says(name, m.AddFunction(FUNCTION, "f", b"code"), nested))
    for depth in range(5, -1, -1):
        play.worker("w", finished(f"t{depth}", play.task(f"t{depth}").attempt))
    table.add(taken(play))
    assert table.told() == {"bob 0": ({"f": 1}, (0, 0, 0)), "ann 1": ({"f": 6}, (6, 0, 0))}


def _says(client: str, *messages: m.Message) -> ClientSaid:
    return ClientSaid(client, list(messages))


def test_ends_are_counted_although_rows_are_left_out(play: Play, table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under overload detail goes, and sums stay right."""
    monkeypatch.setattr(chronicle_module, "ROWS_MOST", 2)
    play.ann(*[submit(f"a{number}") for number in range(4)])
    play.bob(submit("b"))
    play.worker("w", *(finished(f"a{number}", number + 1) for number in range(4)), finished("b", 5))
    batch = taken(play)
    table.add(batch)
    assert (len(batch.rows), batch.dropped) == (2, 3)
    assert table.told() == {"ann 0": ({"f": 4}, (4, 0, 0)), "bob 1": ({"f": 1}, (1, 0, 0))}


def test_a_call_planned_for_a_failure_belongs_to_no_graph(play: Play, table: Table) -> None:
    """Nobody submitted it; nor does what comes after it become part of what came before."""
    plan = m.OnFailure("a", [m.PlannedCall(FUNCTION, "e", b"")])
    play.ann(submit("a"), plan)
    play.worker("w", m.Erred("a", 1, failure("a")))
    play.worker("w", finished("e", 2))
    play.ann(submit("b"))
    play.worker("w", finished("b", 3))
    table.add(taken(play))
    assert table.told() == {"ann 0": ({"f": 2}, (1, 1, 0))}


def test_what_a_client_leaves_unfinished_is_cancelled(play: Play, table: Table) -> None:
    """It ends as well."""
    play.ann(submit("a"), submit("b"))
    play.handle(ClientGone("ann"))
    table.add(taken(play))
    assert table.told() == {"ann 0": ({"f": 2}, (0, 0, 2))}


def test_the_next_scheduler_goes_on_with_them(play: Play, table: Table) -> None:
    """Replayed, or from a checkpoint, they have the same names and numbers."""
    play.ann(submit("a"), submit("b"))
    play.bob(submit("c"))
    play.ann(submit("d"))
    table.add(taken(play))
    play.worker("w", finished("a", 1))
    table.add(taken(play))
    assert play.state.facts is not None
    again = replayed(play.state.facts, play.state.policy)
    folded = replayed([], play.state.policy, list(checkpoint.dump(again)))
    for state in (again, folded):
        assert projection(state)["extras"] == projection(play.state)["extras"]
        chronicle = Chronicle(state.moments.when, state.graphs)
        batch = chronicle.take()
        assert batch is not None
        table.add(batch)
        assert table.told() == {"ann 0": ({"f": 3}, (1, 0, 0)), "bob 1": ({"f": 1}, (0, 0, 0))}


def test_old_ones_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scheduler runs for months; the ends of what is so old are nobody's."""
    monkeypatch.setattr(graphs, "MOST", 10)
    known = graphs.Graphs()
    number = 0
    first = number
    for place in range(25):
        number = known.enter(f"c{place}", "", number, float(place)) + 1
        known.add("f", 1)
    assert known.around(first + graphs.GAP + 1)[0] is None
    graph, start, stop = known.around(number)
    assert graph is known.current
    assert start <= number < stop
    assert len(known.changed) <= 10


def test_numbers_of_clients_that_come_and_go_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only of those that may go on."""
    monkeypatch.setattr(graphs, "OPEN_MOST", 3)
    known = graphs.Graphs()
    number = 0
    for place in range(20):
        number = known.enter(f"c{place}", "", number, 10.0 * place)
    assert len(known._open) <= 4
