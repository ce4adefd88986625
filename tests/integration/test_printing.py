"""What tasks print, warn and log is seen by the programs of their cluster."""

from __future__ import annotations

import asyncio
import logging
import queue
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import futurebroker
from futurebroker import Client, LocalCluster
from futurebroker.client import printing

PATIENCE = 30


class Kept(logging.Handler):
    """Keeps records for a test that waits for them."""

    def __init__(self) -> None:
        super().__init__()
        self.records: queue.Queue[logging.LogRecord] = queue.Queue()

    def emit(self, record: logging.LogRecord) -> None:
        self.records.put(record)


@pytest.fixture
def kept() -> Iterator[Kept]:
    """What the logger ``told`` and those below it take here."""
    handler, logger = Kept(), logging.getLogger("told")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


def say(*words: Any, **options: Any) -> None:
    futurebroker.print(*words, **options)


def say_wrong() -> None:
    futurebroker.print("x", file=open("/dev/null"))  # noqa: SIM115 - it is refused


def say_to_errors() -> None:
    futurebroker.print("trouble", file=sys.stderr)


def warn_of(message: Any, category: Any = UserWarning) -> None:
    futurebroker.warn(message, category)


def read_until(read: Callable[[], Any], words: str) -> Any:
    """What was captured of output and errors, once ``words`` are in it."""
    output = errors = ""
    while words not in output + errors:
        new = read()
        output, errors = output + new.out, errors + new.err
    return output, errors


def test_what_a_task_prints_is_printed_here(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    """With the built-in's own options; what is too long is cut, and only two files are meant."""
    client.submit(say, 1, "two", [3], sep="-", end="!\n").result(PATIENCE)
    client.submit(say, "a" * 20_000).result(PATIENCE)
    client.submit(say_to_errors).result(PATIENCE)
    output, errors = read_until(capsys.readouterr, "trouble")
    assert output.startswith("1-two-[3]!\n" + "a" * printing.LENGTH)
    assert output.endswith(f"… {20_000 - printing.LENGTH:,} characters left out\n")
    assert errors == "trouble\n"
    with pytest.raises(TypeError, match="to sys.stdout and sys.stderr, not to"):
        client.submit(say_wrong).result(PATIENCE)
    futurebroker.print("here", end="")
    assert capsys.readouterr().out == "here"


def test_only_default_clients_print(cluster: LocalCluster, capsys: pytest.CaptureFixture[str]) -> None:
    """A tool's own client has no business with it; in one process with the executors it isn't printed twice."""
    with Client(cluster, set_as_default=False) as tool, Client(cluster) as client:
        assert "print" not in tool._connection.topics
        client.submit(say, "once").result(PATIENCE)
        assert read_until(capsys.readouterr, "once") == ("once\n", "")
    with LocalCluster(executors_per_worker=1, processes=False) as inside, Client(inside) as client:
        client.submit(say, "first").result(PATIENCE)
        client.submit(say, "last").result(PATIENCE)
        assert read_until(capsys.readouterr, "last") == ("first\nlast\n", "")


def test_a_flood_is_left_out_and_counted(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    """Or one task in a loop would keep scheduler and clients busy."""

    def flood() -> None:
        for number in range(5000):
            futurebroker.print(number)

    client.submit(flood, workers="local-1").result(PATIENCE)
    said = ""
    while "lines of tasks left out" not in said:
        client.submit(say, "after", workers="local-1").result(PATIENCE)
        said += capsys.readouterr().err


def test_what_a_task_warns_of_is_warned_of_here(client: Client) -> None:
    """By its category where that is known, and subject to this program's filters."""
    told: queue.Queue[Any] = queue.Queue()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        client.subscribe_topic("done", told.put)
        client.submit(warn_of, "mind this").result(PATIENCE)
        client.submit(warn_of, DeprecationWarning("old")).result(PATIENCE)
        client.submit(warn_of, "strange", _OwnWarning).result(PATIENCE)
        client.log_event("done", None)
        told.get(timeout=PATIENCE)
        seen = [(str(one.message), one.category) for one in caught]
    assert seen == [("mind this", UserWarning), ("old", DeprecationWarning), ("strange", _OwnWarning)]
    with pytest.warns(RuntimeWarning, match="here"):
        futurebroker.warn("here", RuntimeWarning)


class _OwnWarning(UserWarning):
    pass


def test_a_category_that_is_not_known_here_is_a_user_warning() -> None:
    """It is looked up; nothing is imported or opened because somebody named it."""
    with pytest.warns(UserWarning, match="who knows"):
        printing.show_warning((0.0, {"message": "who knows", "category": "antigravity:Odd"}))
    assert "antigravity" not in sys.modules
    with pytest.warns(UserWarning, match="no warning"):
        printing.show_warning((0.0, {"message": "no warning", "category": "builtins:print"}))
    with pytest.warns(UserWarning, match="plain"):
        printing.show_warning((0.0, "plain"))


def log(name: str, level: int, text: str) -> None:
    logging.getLogger(name).log(level, text)


def fail_and_log() -> None:
    try:
        raise ValueError("inner")
    except ValueError:
        logging.getLogger("told.below").exception("it went wrong")


def test_what_executors_log_is_logged_here(cluster: LocalCluster, client: Client, kept: Kept) -> None:
    """By the logger's name, of all executors, later ones too, until it isn't wanted any more."""
    client.forward_logging("told", level="WARNING")
    for worker in ("local-1", "local-2"):
        future = client.submit(log, "told", logging.ERROR, f"from {worker}", workers=worker)
        future.result(PATIENCE)
        record = kept.records.get(timeout=PATIENCE)
        assert (record.getMessage(), record.levelname, record.funcName) == (f"from {worker}", "ERROR", "log")
        assert (record.task, record.worker) == (future.key, worker)  # type: ignore[attr-defined]
    cluster.scale(3)
    client.submit(log, "told", logging.WARNING, "later", workers="local-3").result(PATIENCE)
    assert kept.records.get(timeout=PATIENCE).getMessage() == "later"
    client.submit(log, "elsewhere", logging.ERROR, "not wanted").result(PATIENCE)
    client.submit(log, "told", logging.INFO, "too quiet").result(PATIENCE)
    client.submit(fail_and_log).result(PATIENCE)
    record = kept.records.get(timeout=PATIENCE)
    assert record.name == "told.below"
    assert 'raise ValueError("inner")' in (record.exc_text or "")
    client.unforward_logging("told")
    client.submit(log, "told", logging.ERROR, "no more").result(PATIENCE)
    client.forward_logging("told")
    client.submit(log, "told", logging.ERROR, "again").result(PATIENCE)
    assert kept.records.get(timeout=PATIENCE).getMessage() == "again"


def test_what_cannot_be_forwarded_is_said(client: Client) -> None:
    """Before anything is changed."""
    with pytest.raises(ValueError, match="Unknown level"):
        client.forward_logging("told", level="LOUD")
    with pytest.raises(ValueError, match="doesn't forward told"):
        client.unforward_logging("told")
    with pytest.raises(ValueError, match="doesn't forward the root logger"):
        client.unforward_logging()


def test_a_client_that_is_closed_takes_its_forwarding_away(cluster: LocalCluster, kept: Kept) -> None:
    """Executors don't go on to send what nobody hears, and another client's stays."""

    with Client(cluster) as client, Client(cluster, set_as_default=False) as other:
        client.forward_logging("told")
        other.forward_logging("told")
        assert len(_standing(other)) == 2
        client.close()
        while len(_standing(other)) != 1:
            pass
        other.submit(log, "told", logging.ERROR, "once").result(PATIENCE)
        assert kept.records.get(timeout=PATIENCE).getMessage() == "once"
        assert kept.records.empty()


def _standing(client: Client) -> set[str]:
    page = client._ask("dump", 0)
    return {name for name in page["standing"] if "forward-logging" in name}


@pytest.mark.parametrize("processes", [True, False])
def test_it_works_in_asyncio(processes: bool, kept: Kept, capsys: pytest.CaptureFixture[str]) -> None:
    """And with all in one process, where records don't go round in circles."""

    async def inside() -> None:
        async with (
            LocalCluster(executors_per_worker=2, processes=processes, asynchronous=True) as cluster,
            Client(cluster, asynchronous=True) as client,
        ):
            await client.forward_logging("told")
            await client.submit(log, "told", logging.ERROR, "in a loop")
            records = [await asyncio.to_thread(kept.records.get, True, PATIENCE)]
            while not getattr(records[-1], "forwarded", False):
                records.append(await asyncio.to_thread(kept.records.get, True, PATIENCE))
            await client.submit(say, "from a task")
            await client.unforward_logging("told")
            await asyncio.to_thread(read_until, capsys.readouterr, "from a task")
            assert {record.getMessage() for record in records} == {"in a loop"}
            assert len(records) == (1 if processes else 2)
            assert kept.records.empty()

    asyncio.run(inside())
    assert not printing._senders
