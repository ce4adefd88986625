"""Values over a direct connection: right bytes or an error, and nothing for who doesn't know the secret."""

from __future__ import annotations

import os
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from futurebroker.data import channel, pool, server
from futurebroker.data.channel import Channel, Credentials, Get
from futurebroker.data.files import map_value
from futurebroker.data.pool import MissingError, Pool, UnreachableError
from futurebroker.data.sealed import write_sealed
from futurebroker.data.server import DataServer, Source
from futurebroker.data.ways import credentials_of
from futurebroker.exceptions import ProtocolError, SignatureError

CREDENTIALS = Credentials(b"secret", "cluster")
MiB = 2**20
#: a certificate that has signed itself, for localhost
TLS = Path(__file__).parents[2] / "integration" / "tls"


class Shop:
    """A data server, what it has, and a pool of connections to it."""

    def __init__(self, folder: Path, credentials: Credentials = CREDENTIALS) -> None:
        self.folder = folder
        self.sources: dict[str, Source] = {}
        self.damaged: list[tuple[str, str, str]] = []
        self.names = iter(range(1000))
        self.server = DataServer(
            "127.0.0.1", credentials, self.sources.get, self.new_path, lambda *about: self.damaged.append(about)
        )
        self.address = self.server.address
        self.pool = Pool(CREDENTIALS)

    def new_path(self, nbytes: int) -> str:
        """Large ones are sealed."""
        return str(self.folder / f"put-{next(self.names)}{'.sealed' if nbytes > 8 * MiB else ''}")

    def plain(self, key: str, data: bytes) -> str:
        """Have it in a file."""
        path = self.folder / key
        path.write_bytes(data)
        self.sources[key] = Source(len(data), None, str(path), 7)
        return str(path)

    def sealed(self, key: str, data: bytes) -> str:
        """Have it in a file with checksums."""
        path = str(self.folder / f"{key}.sealed")
        write_sealed(path, [data])
        self.sources[key] = Source(len(data), None, path, 7)
        return path

    def close(self) -> None:
        """End both."""
        self.pool.close()
        self.server.close()


@pytest.fixture(params=["plain bytes", "codes"])
def shop(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    """On loopback, as between machines: what differs is only whether each piece has a code."""
    if request.param == "codes":
        monkeypatch.setattr(channel, "is_near", lambda connection: False)
    shop = Shop(tmp_path)
    yield shop
    shop.close()


@pytest.mark.parametrize("size", [1, 1000, MiB, 9 * MiB + 5, 20 * MiB])
def test_every_byte_arrives_however_it_is_kept_and_wherever_it_goes(shop: Shop, size: int, tmp_path: Path) -> None:
    """Bytes, plain and sealed files; into memory, plain and sealed files."""
    data = os.urandom(size)
    shop.sources["bytes"] = Source(size, data, "")
    shop.plain("plain", data)
    shop.sealed("sealed", data)
    for key in ("bytes", "plain", "sealed"):
        view = shop.pool.fetch(shop.address, key)
        assert view == data
        view[0] ^= 1  # arrays made from it are writable
        for target in (tmp_path / f"got-{key}", tmp_path / f"got-{key}.sealed"):
            assert shop.pool.fetch_to(shop.address, key, str(target)) == size
            assert bytes(map_value(str(target))) == data
    assert shop.pool.connections == 1, "connections are used again"
    assert shop.pool.fetched == 9 * size


@pytest.mark.parametrize("size", [1, MiB, 9 * MiB + 5])
def test_what_is_put_is_what_is_kept(shop: Shop, size: int) -> None:
    """In pieces of any size."""
    data = os.urandom(size)
    pieces = [memoryview(data)[start : start + 700_001] for start in range(0, size, 700_001)]
    path = shop.pool.put(shop.address, size, pieces)
    assert bytes(map_value(path)) == data
    assert path.endswith(".sealed") == (size > 8 * MiB)


def test_what_is_missing_is_said_and_the_connection_stays_good(shop: Shop, tmp_path: Path) -> None:
    """The key is unknown, or its file has gone."""
    os.unlink(shop.plain("gone", b"x"))
    for key in ("unknown", "gone"):
        with pytest.raises(MissingError):
            shop.pool.fetch(shop.address, key)
        with pytest.raises(MissingError):
            shop.pool.fetch_to(shop.address, key, str(tmp_path / "target"))
    assert not (tmp_path / "target").exists()
    shop.plain("there", b"x")
    assert shop.pool.fetch(shop.address, "there").tobytes() == b"x"
    assert shop.pool.connections == 1


def test_a_damaged_file_is_never_sent_as_if_it_were_whole(shop: Shop, tmp_path: Path) -> None:
    """The server is told, and the other side has an error and no file."""
    path = shop.sealed("x", bytes(3 * MiB))
    with open(path, "r+b") as file:
        file.seek(2 * MiB)
        file.write(b"\1")
    with pytest.raises(OSError):
        shop.pool.fetch_to(shop.address, "x", str(tmp_path / "target"))
    assert not (tmp_path / "target").exists()
    assert shop.damaged[0][:2] == ("x", path)


def test_a_wrong_secret_gets_and_gives_nothing(tmp_path: Path) -> None:
    """Either side refuses; and such a server isn't asked again for a while."""
    shop = Shop(tmp_path, Credentials(b"another", "cluster"))
    shop.plain("x", b"x")
    with pytest.raises(UnreachableError, match="doesn't know this cluster's secret"):
        shop.pool.fetch(shop.address, "x")
    assert not shop.pool.may_reach(shop.address)
    with socket.create_connection(("127.0.0.1", int(shop.address.rpartition(":")[2]))) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 10)
        stranger.settimeout(10)
        with pytest.raises((ConnectionError, AssertionError)):
            assert stranger.recv(1000) != b""
    shop.close()


def test_a_server_accepts_no_plain_bytes_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is in between could change them."""
    shop = Shop(tmp_path)
    port = int(shop.address.rpartition(":")[2])
    monkeypatch.setattr(channel, "is_near", lambda connection: connection.getpeername()[1] == port)  # to who connects
    with pytest.raises(UnreachableError):
        shop.pool.fetch(shop.address, "x")
    shop.close()


def pair(guarded: bool) -> tuple[Channel, Channel]:
    """Both ends of a connection, without a handshake."""
    here, there = socket.socketpair()
    for end in (here, there):
        end.settimeout(10)
    keys = (b"a" * 32, b"b" * 32) if guarded else (None, None)
    return Channel(here, *keys), Channel(there, *reversed(keys))


def test_data_that_was_changed_repeated_or_reordered_on_its_way_is_refused() -> None:
    """Each piece's code counts the pieces before it."""
    ours, theirs = pair(guarded=True)
    ours.send(Get("x"))
    raw = theirs.socket.recv(1000)
    middle, end = socket.socketpair()
    receiver = Channel(end, None, b"a" * 32)
    changed = bytearray(raw)
    changed[6] ^= 1
    for content in (bytes(changed), raw[:4] + raw[4:-1] + b"\0"):
        middle.sendall(content)
        with pytest.raises(ProtocolError):
            receiver.receive()
        receiver._received = 0
    middle.sendall(raw + raw)
    assert receiver.receive() == Get("x")
    with pytest.raises(SignatureError):
        receiver.receive()
    for channel_ in (ours, theirs, receiver):
        channel_.close()
    middle.close()


@contextmanager
def breaking(shop: Shop, after: int) -> Iterator[str]:
    """An address from which the first connection breaks after so many bytes; later ones don't."""
    target = int(shop.address.rpartition(":")[2])
    listener = socket.create_server(("127.0.0.1", 0))
    limits = iter([after])

    def carry(source: socket.socket, sink: socket.socket, limit: int) -> None:
        while limit > 0:
            try:
                data = source.recv(min(65536, limit))
                sink.sendall(data)
            except OSError:
                break
            if not data:
                break
            limit -= len(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    threads: list[threading.Thread] = []
    sockets: list[socket.socket] = [listener]

    def accept() -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", target))
            sockets.extend((near, far))
            limit = next(limits, 1 << 60)
            for source, sink, most in ((near, far, 1 << 60), (far, near, limit)):
                threads.append(threading.Thread(target=carry, args=(source, sink, most), daemon=True))
                threads[-1].start()

    accepting = threading.Thread(target=accept, daemon=True)
    accepting.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        shop.pool.close()
        listener.shutdown(socket.SHUT_RDWR)
        accepting.join()
        for thread in threads:
            thread.join()
        for one in sockets:
            one.close()


def test_a_transfer_that_breaks_off_goes_on_where_it_was(shop: Shop, tmp_path: Path) -> None:
    """From the last whole piece on; what has come isn't fetched again."""
    data = os.urandom(30 * MiB)
    shop.plain("x", data)
    with breaking(shop, 20 * MiB) as address:
        path = str(tmp_path / "got")
        assert shop.pool.fetch_to(address, "x", path) == len(data)
        assert bytes(map_value(path)) == data
        assert shop.pool.fetched == len(data)


def test_a_transfer_does_not_go_on_with_another_value_of_the_same_key(shop: Shop) -> None:
    """The task ran again meanwhile: two halves of different results would make no result."""
    shop.plain("x", bytes(30 * MiB))
    with breaking(shop, 20 * MiB) as address:
        find = shop.sources.get
        asked = []

        def another(key: str) -> Source | None:
            asked.append(key)
            source = find(key)
            if source is None or len(asked) == 1:
                return source
            return Source(source.nbytes, None, source.path, 8)

        shop.server._find = another
        with pytest.raises(MissingError):
            shop.pool.fetch(address, "x")


def test_connections_are_bounded_and_idle_ones_are_closed(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Descriptors are few, and firewalls forget what is silent."""
    monkeypatch.setattr(server, "CONNECTIONS", 3)
    shop.plain("x", b"x")
    channels = [Channel.connect(shop.address, CREDENTIALS, 5) for _ in range(3)]
    with pytest.raises(UnreachableError):
        shop.pool.fetch(shop.address, "x")
    for one in channels:
        one.close()
    shop.pool._unreachable.clear()
    while not shop.pool.may_reach(shop.address) or not _reached(shop):
        shop.pool._unreachable.clear()
    monkeypatch.setattr(pool, "IDLE", -1.0)
    assert shop.pool.fetch(shop.address, "x").tobytes() == b"x"
    assert shop.pool.connections == 2


def _reached(shop: Shop) -> bool:
    try:
        return shop.pool.fetch(shop.address, "x").tobytes() == b"x"
    except UnreachableError:
        return False


def test_a_full_disk_on_the_other_side_is_an_error_that_says_so(shop: Shop) -> None:
    """And the connection is still good."""
    shop.new_path = lambda nbytes: "/nowhere/x"  # type: ignore[method-assign]
    shop.server._new_path = shop.new_path
    with pytest.raises(OSError, match="No such file"):
        shop.pool.put(shop.address, 5 * MiB, [memoryview(bytes(5 * MiB))])
    shop.plain("x", b"x")
    assert shop.pool.fetch(shop.address, "x").tobytes() == b"x"
    assert shop.pool.connections == 1


def test_a_connection_may_be_tls_and_is_then_refused_to_who_does_not_know_its_signer(tmp_path: Path) -> None:
    """The bytes are hidden from who is in between, and the server's name is checked."""
    transfer = {"tls_cert": str(TLS / "server.pem"), "tls_key": str(TLS / "server.key")}
    shop = Shop(tmp_path, credentials_of(transfer, b"secret", "cluster"))
    data = os.urandom(5 * MiB)
    shop.plain("x", data)
    assert shop.address.startswith("tls://")
    trusting = Pool(credentials_of({"tls_ca": str(TLS / "server.pem")}, b"secret", "cluster"))
    address = shop.address.replace("127.0.0.1", "localhost")
    assert trusting.fetch(address, "x").tobytes() == data
    path = trusting.put(address, len(data), [memoryview(data)])
    assert bytes(map_value(path)) == data
    trusting.close()
    with pytest.raises(UnreachableError, match="no certificate authority"):
        shop.pool.fetch(shop.address, "x")
    stranger = Pool(Credentials(b"secret", "cluster", None, ssl.create_default_context()))
    with pytest.raises(UnreachableError, match="certificate"):
        stranger.fetch(address, "x")
    shop.close()
