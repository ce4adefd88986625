"""The end of a whole cluster, as a client asks for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from futurebroker.client.core import ClientCore
from futurebroker.exceptions import FuturebrokerError, TaskError
from futurebroker.inside import NO_TASK, current_task

#: seconds until the scheduler must have answered; it gives workers ten to leave
PATIENCE = 30.0


class Ending(ClientCore):
    """`Client.shutdown`."""

    def shutdown(self) -> Any:
        """End the whole cluster, scheduler and workers, and close this client. May be called twice.

        What runs is given up. Other clients are told, and what they wait for fails with `RefusedError`. What was
        published or journaled stays in the database: the next scheduler that is started there goes on with it. What a
        cluster object has started is ended by that object; elsewhere the scheduler asks the workers to leave, and ends
        after them. Whatever watches over the processes (systemd, Heroku, Kubernetes) may start them again.

        Raises:
            FuturebrokerError: the scheduler was started with ``--no-shutdown``; nothing has changed.
            TaskError: a task called it, which would end itself.
            TimeoutError: the scheduler can't be reached, or does not answer in half a minute.
        """
        if current_task.get(NO_TASK)[2] is not None:
            raise TaskError("a task can't shut down the cluster that it runs in; do that in the program that submits")
        return self._enter(self._shutdown)

    async def _shutdown(self, blocking: bool) -> None:
        if self.status == "closed":
            return
        cluster = self.cluster
        try:
            await self._connection.ask("shutdown", None, blocking, PATIENCE)
        except (FuturebrokerError, TimeoutError):
            # Who holds the cluster object may end it all the same; the others just aren't told.
            if cluster is None:
                raise
        await self._close(blocking)
        if cluster is None or self._owns_cluster:
            return
        if not getattr(cluster, "asynchronous", False):
            await (_at_once(cluster.close) if blocking else asyncio.to_thread(cluster.close))
        elif not blocking:
            # Only in its own loop such a cluster can be closed; its scheduler and workers have ended by themselves.
            await cluster.close()


async def _at_once(close: Callable[[], Any]) -> None:
    close()
