"""`run_worker`: the whole of a worker process that somebody's own program starts."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from typing import Any

from futurebroker.worker.service import WorkerService


async def run_worker(*, timeout: float = 30.0, **settings: Any) -> None:
    """Run a worker until it is told to end: by SIGTERM or SIGINT, or by its scheduler.

    Args:
        timeout: seconds to join the cluster in.
        settings: for `WorkerService`.

    Raises:
        ClusterConnectionError: it could not join, or was refused later on.
    """
    loop = asyncio.get_running_loop()
    service = WorkerService(**settings)
    ending: list[asyncio.Task[None]] = []
    work = loop.create_task(_run(service, timeout))

    def end() -> None:
        """The first signal drains; later ones change nothing, because platforms send several."""
        if not ending:
            ending.append(loop.create_task(_end_early(service, work)))

    signals = (signal.SIGTERM, signal.SIGINT)
    for number in signals:
        loop.add_signal_handler(number, end)
    try:
        with contextlib.suppress(asyncio.CancelledError):
            await work
        await asyncio.gather(*ending)
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
        sys.stdout.flush()
    if service.refusal is not None:
        raise service.refusal


async def _run(service: WorkerService, timeout: float) -> None:
    await service.start(timeout)
    await service.finished()


async def _end_early(service: WorkerService, work: asyncio.Task[None]) -> None:
    if service.started:
        await service.close()
    else:
        work.cancel()
