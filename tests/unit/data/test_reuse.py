"""Files that are written again: never while anybody can see them, and never more of them than may be kept."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from futurebroker.data.channel import Credentials
from futurebroker.data.files import map_value, write_value
from futurebroker.data.folders import StoreFolder
from futurebroker.data.pool import Pool
from futurebroker.data.reuse import FILES, LEAST, FreedFiles
from futurebroker.data.server import DataServer, Source
from futurebroker.data.valuefiles import ValueFiles
from futurebroker.worker.packets import ROOM, Setup
from futurebroker.worker.results import ResultWriter
from tests.unit.data.reuse_bank import value_of

MOST = 64 * LEAST


@pytest.fixture
def store() -> Iterator[Path]:
    """An agent's folder in shared memory."""
    folder = StoreFolder.make()
    assert folder.is_memory
    yield folder.path
    folder.close()


@pytest.fixture
def freed(store: Path) -> FreedFiles:
    """What it keeps of freed files."""
    freed = FreedFiles.begin(store)
    assert freed is not None, "this kernel tells who uses a file"
    return freed


def kept(freed: FreedFiles, store: Path, nbytes: int, number: int = 1) -> int:
    """A value is written and freed; the number of its file."""
    path = write_value(store, [value_of(number, nbytes)])
    inode = path.stat().st_ino
    assert freed.keep(str(path), MOST)
    assert not path.exists(), "its name names nothing any more"
    return inode


def test_a_freed_file_is_taken_for_the_next_value_and_cut_to_its_size(store: Path, freed: FreedFiles) -> None:
    """The smallest that is large enough; of what was in it nothing may be left behind the new value's end."""
    inodes = {nbytes: kept(freed, store, nbytes) for nbytes in (2 * LEAST, 4 * LEAST, 3 * LEAST)}
    target = str(store / "target")
    taken = freed.take(2 * LEAST + 1, target)
    assert taken is not None
    number, had = taken
    assert (os.fstat(number).st_ino, os.fstat(number).st_size, had) == (inodes[3 * LEAST], 2 * LEAST + 1, 2 * LEAST + 1)
    os.close(number)
    assert freed.nbytes == 6 * LEAST


def test_a_smaller_one_does_if_it_is_half_the_value_and_a_much_larger_one_is_left(
    store: Path, freed: FreedFiles
) -> None:
    """Cutting a large file down for a small value would waste it."""
    kept(freed, store, 2 * LEAST)
    assert freed.take(LEAST, str(store / "target")) is None
    assert freed.take(5 * LEAST, str(store / "target")) is None
    taken = freed.take(3 * LEAST, str(store / "target"))
    assert taken is not None
    assert taken[1] == 2 * LEAST
    os.close(taken[0])


def test_what_is_mapped_is_left_alone_until_it_is_not(store: Path, freed: FreedFiles) -> None:
    """A private map shows what is written to its file later, and ends its process where the file was cut."""
    path = write_value(store, [value_of(7, LEAST)])
    view = map_value(str(path))
    assert freed.keep(str(path), MOST)
    assert freed.take(LEAST, str(store / "target")) is None
    assert not (store / "target").exists()
    assert bytes(view) == value_of(7, LEAST)
    view.release()
    taken = freed.take(LEAST, str(store / "target"))
    assert taken is not None
    os.close(taken[0])


def test_what_another_process_has_mapped_is_left_alone_however_it_came_to_it(store: Path, freed: FreedFiles) -> None:
    """A fork has the maps of its parent, though it never opened a file."""
    path = write_value(store, [value_of(7, LEAST)])
    view = map_value(str(path))
    ready, go = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        os.write(ready[1], b"x")
        os.read(go[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    view.release()
    assert freed.keep(str(path), MOST)
    assert freed.take(LEAST, str(store / "target")) is None
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    taken = freed.take(LEAST, str(store / "target"))
    assert taken is not None
    for number in (*ready, *go, taken[0]):
        os.close(number)


def test_a_file_with_another_name_is_never_kept(store: Path, freed: FreedFiles) -> None:
    """A replica on the same host is a second name of it."""
    path = write_value(store, [value_of(1, LEAST)])
    replica = ValueFiles(store)
    assert replica.take(str(path), str(store / "replica"), move=False)
    assert not freed.keep(str(path), MOST)
    late = write_value(store, [value_of(1, LEAST)])
    assert freed.keep(str(late), MOST)
    os.link(next((store / "freed").iterdir()), store / "another")
    assert freed.take(LEAST, str(store / "target")) is None
    assert freed.nbytes == 0
    assert (store / "another").read_bytes() == value_of(1, LEAST)


def test_links_spilled_files_and_small_ones_are_deleted(store: Path) -> None:
    """Only what was in memory is worth keeping, and not much time is spent on what is quickly written anew."""
    freed = FreedFiles.begin(store)
    files = ValueFiles(store, freed=freed)
    files.keep_freed(MOST)
    small = write_value(store, [bytes(LEAST - 1)])
    spilled = store / "link"
    spilled.symlink_to(store / "x.sealed")
    for path in (small, spilled):
        files.discard(str(path))
        assert not os.path.lexists(path)
    assert freed is not None
    assert freed.nbytes == 0


def test_no_more_is_kept_than_may_be_and_the_oldest_go_first(store: Path, freed: FreedFiles) -> None:
    """The bound comes from the worker's limit; none at all is kept when it says so."""
    files = ValueFiles(store, freed=freed)
    files.keep_freed(4 * LEAST)
    inodes = []
    for _ in range(6):
        path = write_value(store, [bytes(LEAST)])
        inodes.append(path.stat().st_ino)
        files.discard(str(path))
    assert freed.nbytes == 4 * LEAST
    assert sorted(path.stat().st_ino for path in (store / "freed").iterdir()) == sorted(inodes[2:])
    files.discard(str(write_value(store, [bytes(5 * LEAST)])))
    assert freed.nbytes == 4 * LEAST
    files.keep_freed(LEAST)
    assert [path.stat().st_ino for path in (store / "freed").iterdir()] == inodes[5:]
    files.keep_freed(0)
    files.discard(str(write_value(store, [bytes(LEAST)])))
    assert freed.nbytes == 0
    assert sorted(path.name for path in store.iterdir()) == [".lock", "freed"]


def test_no_more_files_are_kept_than_can_be_looked_through(store: Path, freed: FreedFiles) -> None:
    """A look at all of them must cost nothing beside writing a value."""
    for _ in range(FILES + 5):
        kept(freed, store, LEAST)
    assert len(list((store / "freed").iterdir())) == FILES


#: opens a file while a lease is asked for; in a process with no other threads, which would get the signal
_OPEN_MEANWHILE = """
import os, signal, sys, threading
from futurebroker.data.files import map_value
from futurebroker.data.pool import Pool
from futurebroker.data.reuse import asking, others_use

number = os.open(sys.argv[1], os.O_RDONLY)
views = []
reader = threading.Thread(target=lambda: views.append(map_value(sys.argv[1])))
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGURG, signal.SIGIO})
with asking(number) as answer:
    reader.start()
    print(answer, signal.sigwait({signal.SIGURG, signal.SIGIO}).name, len(views))
reader.join()
print(bytes(views.pop()), others_use(number))
"""


def test_who_opens_a_file_while_it_is_asked_for_ends_nobody(store: Path) -> None:
    """The kernel tells the holder of a lease by a signal, and the usual one ends a process that doesn't expect it."""
    path = write_value(store, [b"value"])
    command = [sys.executable, "-c", _OPEN_MEANWHILE, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.split("\n") == ["False SIGURG 0", "b'value' False", ""], done.stderr


def test_what_is_kept_gives_way_to_a_result_that_needs_the_room(store: Path, freed: FreedFiles, tmp_path: Path) -> None:
    """It counts against the room that executors are told; a value must not go to disk because of it."""
    room, disk = store / "room", tmp_path / "disk"
    disk.mkdir()
    setup = Setup("w", "w", str(store), 1, str(store), "", room=str(room), disk=str(disk), reuse=True)

    def write(left: int, nbytes: int) -> Path:
        room.write_bytes(ROOM.pack(left))
        writer = ResultWriter(setup)
        path = Path(writer.write([bytes(nbytes)]))
        writer.close()
        assert path.stat().st_size >= nbytes
        return path

    inode = kept(freed, store, 4 * LEAST)
    assert write(0, 4 * LEAST).stat().st_ino == inode, "it needs no room of its own"
    kept(freed, store, 4 * LEAST)
    assert write(LEAST, 5 * LEAST).parent == store, "it needs one part more, which there is"
    kept(freed, store, 4 * LEAST)
    kept(freed, store, 2 * LEAST)
    assert write(0, 6 * LEAST).parent == store, "one is filled, and the other makes room for the rest"
    assert freed.nbytes == 0
    kept(freed, store, 16 * LEAST)
    assert write(0, LEAST).parent == store, "none fits, and it makes room for a new one"
    kept(freed, store, 2 * LEAST)
    assert write(LEAST, 4 * LEAST).parent == disk
    assert freed.nbytes == 0


def test_what_comes_from_elsewhere_is_written_to_freed_files_as_well(store: Path, freed: FreedFiles) -> None:
    """By a connection, put by one, and in parts: each holds what came and nothing of what was there."""
    files = ValueFiles(store, freed=freed)
    source = write_value(store, [value_of(9, 2 * LEAST)])
    credentials = Credentials(b"secret", "cluster")
    found = {"key": Source(2 * LEAST, None, str(source))}
    server = DataServer("127.0.0.1", credentials, found.get, lambda _: files.new_path(), print, freed=freed)
    pool = Pool(credentials, freed)
    try:
        inodes = [kept(freed, store, nbytes) for nbytes in (2 * LEAST, 3 * LEAST, LEAST)]
        pool.fetch_to(server.address, "key", str(store / "fetched"))
        put = pool.put(server.address, 2 * LEAST, [memoryview(value_of(9, 2 * LEAST))])
        for offset in (LEAST, 0):
            files.write_part(str(store / "parts"), offset, value_of(9, LEAST), 2 * LEAST)
    finally:
        pool.close()
        server.close()
    paths = [store / "fetched", Path(put), store / "parts"]
    assert [path.stat().st_ino for path in paths] == inodes
    assert all(path.read_bytes() == value_of(9, 2 * LEAST) for path in paths)


# -- a bank ----------------------------------------------------------------------------------------------------------


class _Program:
    """A reader or writer that can be killed at any time; then another takes its place."""

    def __init__(self, *arguments: str) -> None:
        self._arguments = arguments
        self.begin()

    def begin(self) -> None:
        command = [sys.executable, "-m", "tests.unit.data.reuse_bank", *self._arguments]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def tell(self, *words: object) -> None:
        assert self._process.stdin is not None
        print(*words, file=self._process.stdin, flush=True)

    def answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        for file in (self._process.stdin, self._process.stdout):
            assert file is not None
            with contextlib.suppress(BrokenPipeError):
                file.close()

    def kill_and_begin(self) -> None:
        self.kill()
        self.begin()


def _bank(store: Path, freed: FreedFiles, rounds: int, blind: str) -> Counter[str]:
    """Values are written, told to readers, and freed while those read; any of them may be killed. What was answered."""
    chance = random.Random(5)
    writer = _Program("writer", str(store), blind)
    readers = [_Program("reader", str(seed)) for seed in range(2)]
    answers: Counter[str] = Counter()
    numbers = itertools.count(1)
    living: list[str] = []
    try:
        for turn in range(rounds):
            path, number = str(store / f"value{turn}"), next(numbers)
            writer.tell(path, number, chance.choice((LEAST, LEAST + 4096, 2 * LEAST)))
            if turn % 40 == 19:
                writer.kill_and_begin()
                continue
            answers[writer.answer()] += 1
            for reader in readers:
                reader.tell(path, number)
            living.append(path)
            while len(living) > chance.randrange(3):  # also what was only just told
                freed.keep(living.pop(chance.randrange(len(living))), MOST)
            if turn % 40 == 39:
                for reader in readers:
                    reader.kill_and_begin()
                continue
            for reader in readers:
                answers[reader.answer()] += 1
    finally:
        for program in (writer, *readers):
            program.kill()
    return answers


def test_no_reader_ever_sees_another_value_whoever_is_killed(store: Path, freed: FreedFiles) -> None:
    """Readers open what is freed at the same moment, hold maps long after it was, and end anyhow, as do writers."""
    answers = _bank(store, freed, 320, "careful")
    assert answers["wrong"] == 0
    assert answers["again"] > 100, answers
    assert answers["ok"] > 200, answers


def test_the_bank_would_show_it(store: Path, freed: FreedFiles) -> None:
    """With a writer that doesn't ask who uses a file, readers see other values than they were told of."""
    assert _bank(store, freed, 60, "blind")["wrong"] > 0
