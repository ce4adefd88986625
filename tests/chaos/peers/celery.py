"""Celery over a RabbitMQ, with results in a Redis; the client holds the graph and calls what has its inputs."""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

from kombu.exceptions import OperationalError

from tests.chaos.peers.processes import PeerWorker
from tests.chaos.proxy import Switchboard, Wire
from tests.services.links import own_redis

#: seconds between looks for results
LOOK_EVERY = 0.02


class KeyedFuture(Future[Any]):
    """A future as the runner knows them."""

    def __init__(self, key: str, arguments: tuple[Any, ...]) -> None:
        super().__init__()
        self.key = key
        self.arguments = arguments

    def is_ready(self) -> bool:
        """Whether all its inputs are there."""
        return all(one.done() for one in self.arguments if isinstance(one, KeyedFuture))


class CeleryClient:
    """Calls tasks of the application in the order of the graph."""

    def __init__(self, app: Any, task: Any) -> None:
        self._app = app
        self._task = task
        self._lock = threading.Lock()
        self._waiting: list[KeyedFuture] = []
        self._called: dict[str, tuple[KeyedFuture, Any]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="celery driver")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def submit(self, function: Any, *arguments: Any, key: str) -> KeyedFuture:
        """As `Client.submit`."""
        future = KeyedFuture(key, arguments)
        with self._lock:
            self._waiting.append(future)
        return future

    def _run(self) -> None:
        while not self._stop.wait(LOOK_EVERY):
            with self._lock:
                ready = [future for future in self._waiting if future.is_ready()]
                self._waiting = [future for future in self._waiting if not future.is_ready()]
            for future in ready:
                self._call(future)
            self._collect()

    def _call(self, future: KeyedFuture) -> None:
        try:
            arguments = [one.result(0) if isinstance(one, KeyedFuture) else one for one in future.arguments]
            result = self._task.apply_async(arguments, task_id=future.key, retry=True)
        except OperationalError:
            with self._lock:  # the broker is away: later
                self._waiting.append(future)
        except BaseException as error:  # noqa: BLE001 - the runner counts it
            future.set_exception(error)
        else:
            self._called[future.key] = (future, result)

    def _collect(self) -> None:
        backend = self._app.backend
        keys = list(self._called)
        for start in range(0, len(keys), 500):
            some = keys[start : start + 500]
            for key, packed in zip(some, backend.mget([backend.get_key_for_task(one) for one in some])):
                if packed is None:
                    continue
                future, _ = self._called.pop(key)
                meta = backend.decode_result(packed)
                if meta["status"] == "SUCCESS":
                    future.set_result(meta["result"])
                else:
                    future.set_exception(RuntimeError(f"{meta['status']}: {meta['result']}"))


class CeleryRig:
    """See `tests.chaos.rig.Rig`. There is no scheduler; wires lead to the broker, the way to the backend is whole."""

    rabbitmq = None
    scheduler_wire = None

    def __init__(self, workers: int, broker: str, folder: Path) -> None:
        self.outposts: list[PeerWorker] = []
        self._count = workers
        self._broker = broker
        self._redis = own_redis(folder)
        self._board = Switchboard()
        self.client_wire: Wire

    def _through(self, wire: Wire) -> str:
        parts = urlsplit(self._broker)
        credentials, at, _ = parts.netloc.rpartition("@")
        return urlunsplit(parts._replace(netloc=f"{credentials}{at}127.0.0.1:{wire.port}"))

    def _wire(self) -> Wire:
        return self._board.wire("127.0.0.1", urlsplit(self._broker).port or 5672)

    def client(self) -> CeleryClient:
        """Who calls the tasks."""
        from tests.chaos.peers import celery_app  # noqa: PLC0415 - it reads its addresses from the environment

        return CeleryClient(celery_app.app, celery_app.run)

    def __enter__(self) -> Self:
        backend, _ = self._redis.__enter__()
        self.client_wire = self._wire()
        os.environ["CHAOS_CELERY_BROKER"] = self._through(self.client_wire)
        os.environ["CHAOS_CELERY_BACKEND"] = backend
        for number in range(self._count):
            wire = self._wire()
            command = ("celery", "-A", "tests.chaos.peers.celery_app", "worker", "--concurrency=1", "--loglevel=ERROR")
            name = f"--hostname=w{number}@%h"
            variables = {"CHAOS_CELERY_BROKER": self._through(wire), "C_FORCE_ROOT": "1"}
            self.outposts.append(PeerWorker(f"w{number}", wire, (*command, name), **variables))
            self.outposts[-1].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for outpost in self.outposts:
            outpost.end()
        self._board.close()
        self._redis.__exit__(None, None, None)


def make_rig(workers: int, broker: str | None, folder: Path) -> CeleryRig:
    """See `tests.chaos.runner.rig_for`.

    Raises:
        ValueError: there is no broker.
    """
    if broker is None:
        raise ValueError("Celery needs a broker: add --rabbitmq, or name one with --broker")
    return CeleryRig(workers, broker, folder)
