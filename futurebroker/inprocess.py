"""A cluster inside this process: scheduler and workers on one asyncio loop in one thread; executors are threads too."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine, Sequence
from importlib import import_module
from typing import Any, TypeVar

from futurebroker.config import load_settings
from futurebroker.launch import ClusterPlan, LocalWorker
from futurebroker.polling import new_loop
from futurebroker.scheduler.main import service_for
from futurebroker.scheduler.service import SchedulerService
from futurebroker.worker.service import WorkerService

_T = TypeVar("_T")

#: module of the site in threads; loaded when somebody asks for the dashboard, because Flask takes its time
SITE = "futurebroker.web.server"


class OneThread:
    """The machinery of ``LocalCluster(processes=False)``."""

    def __init__(self, plan: ClusterPlan) -> None:
        self.url = ""
        self.workers: dict[str, LocalWorker] = {}
        self._plan = plan
        self._services: dict[str, WorkerService] = {}
        self._scheduler: SchedulerService | None = None
        self.loop: asyncio.AbstractEventLoop = new_loop()
        self._thread = threading.Thread(target=self._run, name=f"futurebroker-{plan.name}", daemon=True)
        self._ending: asyncio.Task[None] | None = None
        self._site: Any = None
        self._thread.start()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
            runner.get_loop().run_forever()

    def _call(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    def start(self, names: Sequence[str]) -> None:
        self._call(self._start())
        self.add(names)

    async def _start(self) -> None:
        plan = self._plan
        place = {"cluster": plan.name, "secret": plan.secret, "broker_url": f"memory://{plan.name}"}
        self._scheduler = service_for({**place, **plan.conduct})
        await self._scheduler.start()
        self.url = self._scheduler.url

    def add(self, names: Sequence[str]) -> None:
        self._call(self._add(names))

    async def _add(self, names: Sequence[str]) -> None:
        plan = self._plan
        for name in names:
            service = WorkerService(
                url=self.url,
                cluster=plan.name,
                secret=plan.secret.encode(),
                name=name,
                executors=plan.executors,
                threads=plan.threads,
                **plan.memory,
                processes=False,
            )
            self._services[name] = service
            try:
                await service.start(plan.timeout)
            except BaseException:
                await self._services.pop(name).close(drain=False)
                raise
            self.workers[name] = LocalWorker(name, os.getpid(), plan.executors, plan.threads)

    def remove(self, names: Sequence[str]) -> None:
        self._call(self._remove(names, drain=True))

    async def _remove(self, names: Sequence[str], *, drain: bool) -> None:
        for name in names:
            self.workers.pop(name, None)
        await asyncio.gather(*(self._services.pop(name).close(drain=drain) for name in names if name in self._services))

    def dashboard(self) -> str:
        """As of `ClusterProcesses`; its threads are this process's own, since nobody else can reach this broker."""
        if self._site is None:
            plan = self._plan
            kept = (plan.conduct.get("history") or {}).get("url")
            settings = load_settings(cluster=plan.name, history=kept is not None)
            self._site = import_module(SITE).SiteServer(
                settings, host=plan.web_host, port=plan.web_port, spare=True, url=self.url,
                secret=plan.secret.encode(), loop=self.loop,
                history_url=kept,
            )  # fmt: skip
            self._site.start()
        return str(self._site.link)

    def close(self) -> None:
        if self._site is not None:
            self._site.close()
            self._site = None
        if not self._thread.is_alive():
            return
        if threading.current_thread() is self._thread:
            # The garbage collector may end a forgotten cluster in any thread; this one can't wait for itself.
            self._ending = self.loop.create_task(self._close())
            self._ending.add_done_callback(lambda _: self.loop.stop())
            return
        try:
            self._call(self._close())
        finally:
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join()

    async def _close(self) -> None:
        await self._remove(list(self._services), drain=False)
        if self._scheduler is not None:
            await self._scheduler.close()
