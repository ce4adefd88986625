"""Data on its way: scattered, made of large arguments, and fetched."""

from __future__ import annotations

from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from futurebroker.client import data as data_module
from futurebroker.client.client import Client
from futurebroker.client.fetching import PART
from futurebroker.data.files import map_value, write_value
from futurebroker.exceptions import IntakeError, ResultError, SerializationError
from futurebroker.protocol import messages as m
from futurebroker.protocol.serialize import dump_frames, dumps, layout, loads
from tests.unit.client.scripted import ScriptedScheduler

Pair = namedtuple("Pair", "left right")


def adopt(scheduler: ScriptedScheduler, put: m.PutFile) -> None:
    """As a worker on this host does."""
    scheduler.say(m.KeyFinished(put.key, None, m.Held(put.key, put.nbytes, [("w", put.path)]), ""))


@pytest.fixture
def worker(scheduler: ScriptedScheduler) -> ScriptedScheduler:
    """The scheduler, with a worker that takes files over."""
    scheduler.script[m.Ask] = lambda s, ask: s.say(m.Answer(ask.number, 1))
    scheduler.script[m.PutFile] = adopt
    return scheduler


def test_scatter_takes_containers_apart(scheduler: ScriptedScheduler, client: Client) -> None:
    """Of exactly these types; all else is one piece of data."""
    assert len(client.scatter([1, 2])) == 2
    assert isinstance(client.scatter((1, 2)), tuple)
    assert len(client.scatter({1, 2})) == 2
    assert client.scatter(Pair(1, 2)).left.key
    assert len(client.scatter(range(3))) == len(client.scatter(iter([1, 2, 3]))) == 3
    named = client.scatter({"x": 1, 5: 2})
    assert named["x"].key == "x"
    assert set(named) == {"x", 5}
    assert client.scatter("text").key.startswith("str-")
    puts = scheduler.wait_for(m.PutValue, 17)
    assert [loads(put.value) for put in puts][:4] == [1, 2, 1, 2]


def test_scatter_passes_its_wishes_on(scheduler: ScriptedScheduler, client: Client) -> None:
    """Which workers, and whether all of them."""
    client.scatter(1, workers="alice", broadcast=True)
    (put,) = scheduler.wait_for(m.PutValue)
    assert (put.workers, put.broadcast) == (("alice",), True)


def test_equal_data_is_sent_once_if_named_by_content(scheduler: ScriptedScheduler, client: Client) -> None:
    """As long as a future of it lives."""
    a, b = client.scatter([[1], [1]], hash=True)
    c = client.scatter([1])
    assert a.key == b.key
    assert client.scatter([[1]])[0].key != a.key
    assert len(c) == 1
    assert scheduler.wait_for(m.PutValue, 3)[0].key == a.key


def test_large_data_goes_through_a_file(worker: ScriptedScheduler, client: Client) -> None:
    """Which a worker on the same host takes over; it is never copied through a socket."""
    array = np.arange(100_000)
    future = client.scatter(array)
    (put,) = worker.wait_for(m.PutFile)
    assert put.nbytes == Path(put.path).stat().st_size
    assert (loads(map_value(put.path)) == array).all()
    assert future.done()
    client.scatter(array)
    assert len(worker.wait_for(m.Ask)) == 1


def test_large_data_goes_in_parts_where_files_dont_work(scheduler: ScriptedScheduler, client: Client) -> None:
    """The first file shows it; nothing is left of that file. No worker can be connected to either."""
    answers = {"wait_for_workers": 1, "storing_place": None}
    scheduler.script[m.Ask] = lambda s, ask: s.say(m.Answer(ask.number, answers[ask.topic]))
    scheduler.script[m.PutFile] = lambda s, put: s.say(m.KeyCancelled(put.key, "can't open it", "rejected"))
    array = np.arange(200_000)
    future = client.scatter(array)
    size = scheduler.wait_for(m.PutFile)[0].nbytes
    assert not Path(scheduler.wait_for(m.PutFile)[0].path).exists()
    frames = dump_frames(array)
    whole = b"".join(layout(frames))
    while sum(len(part.data) for part in scheduler.wait_for(m.PutPart)) < size:
        scheduler.wait_for(m.PutPart, len(scheduler.wait_for(m.PutPart)) + 1)
    parts = scheduler.wait_for(m.PutPart)
    assert b"".join(part.data for part in parts) == whole
    assert [part.offset for part in parts] == sorted(part.offset for part in parts)
    assert max(len(part.data) for part in parts) <= data_module.PART
    assert future.status == "pending"
    client.scatter(array)
    assert len(scheduler.wait_for(m.PutFile)) == 1


def test_data_that_nobody_can_hold_is_an_error(scheduler: ScriptedScheduler, client: Client) -> None:
    """With the scheduler's reason."""
    future = client.scatter(5)
    scheduler.say(m.KeyCancelled(future.key, "no worker is connected", "rejected"))
    with pytest.raises(IntakeError, match="no worker"):
        future.result(5)


def test_what_cant_be_pickled_cant_be_scattered(client: Client) -> None:
    """The error names its type."""
    with pytest.raises(SerializationError, match="the generator to scatter"):
        client.scatter({"a": (n for n in range(3))})


def test_large_keywords_of_a_map_are_sent_once(worker: ScriptedScheduler, client: Client) -> None:
    """Not once a call."""
    table = list(range(10_000))
    client.map(lambda x, table: x, range(50), table=table)
    worker.wait_for_keys(50)
    puts = [message for message in worker.heard if isinstance(message, (m.PutValue, m.PutFile))]
    assert len(puts) == 1
    assert all(row == (puts[0].key,) for submit in worker.wait_for(m.Submit) for row in submit.dependencies)


def test_a_held_result_is_mapped(scheduler: ScriptedScheduler, client: Client, tmp_path: Path) -> None:
    """An array is a view into the map: writable here, and unchanged for everybody else."""
    path = write_value(tmp_path, dump_frames(np.zeros(50_000)))
    future = client.submit(len, "x")
    scheduler.say(
        m.KeyFinished(future.key, None, m.Held(future.key, 0, [("far", "/nowhere"), ("w", str(path))]), "ndarray")
    )
    array = future.result(5)
    assert not array.flags.owndata
    array += 1
    assert array.sum() == 50_000
    assert loads(map_value(str(path))).sum() == 0
    path.unlink()
    assert future.result() is array


def serve(value: bytes, missing: int = 0) -> Any:
    """Answers requests for parts of ``value``, after ``missing`` times having nothing."""
    left = [missing]

    def answer(scheduler: ScriptedScheduler, wanted: m.DataWanted) -> None:
        if left[0] > 0:
            left[0] -= 1
            scheduler.say(m.DataPart(wanted.transfer, wanted.key, wanted.offset, -1, b""))
        else:
            part = value[wanted.offset : wanted.offset + wanted.length]
            scheduler.say(m.DataPart(wanted.transfer, wanted.key, wanted.offset, len(value), part))

    return answer


@pytest.mark.parametrize("missing", [0, 1])
def test_a_result_elsewhere_is_fetched_in_parts(scheduler: ScriptedScheduler, client: Client, missing: int) -> None:
    """A few ahead; a holder that doesn't have it yet is asked again."""
    value = dumps(np.arange(300_000))
    scheduler.script[m.DataWanted] = serve(value, missing)
    future = client.submit(len, "x")
    scheduler.say(m.KeyFinished(future.key, None, m.Held(future.key, len(value), [("w", "/nowhere")]), "ndarray"))
    array = client.gather(future)
    assert array.sum() == 44999850000
    array[0] = 1
    wanted = scheduler.wait_for(m.DataWanted)
    assert len([one for one in wanted if one.transfer == wanted[-1].transfer]) == -(-len(value) // PART)
    assert client._connection.routes == {}


def test_a_result_that_moves_while_it_is_fetched_is_fetched_anew(scheduler: ScriptedScheduler, client: Client) -> None:
    """The first holder is gone; the scheduler has it computed again."""
    future = client.submit(len, "x")

    def lose(scripted: ScriptedScheduler, wanted: m.DataWanted) -> None:
        scripted.say(m.KeyLost(future.key), m.DataPart(wanted.transfer, wanted.key, 0, -1, b""))
        scripted.say(m.KeyFinished(future.key, dumps(7), None, "int"))

    scheduler.script[m.DataWanted] = lose
    scheduler.say(m.KeyFinished(future.key, None, m.Held(future.key, 10, [("w", "/nowhere")]), "int"))
    assert future.result(5) == 7


def test_a_result_that_nobody_has_is_an_error(scheduler: ScriptedScheduler, client: Client) -> None:
    """In the end; not an endless wait."""
    scheduler.script[m.DataWanted] = serve(b"", missing=1000)
    future = client.submit(len, "x")
    scheduler.say(m.KeyFinished(future.key, None, m.Held(future.key, 10, [("w", "/nowhere")]), "int"))
    with pytest.raises(ResultError, match="could not be fetched"):
        future.result(5)
