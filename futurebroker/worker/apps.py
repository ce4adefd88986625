"""The app that a worker serves with ``-A``: what is said of it, and what the worker takes because of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from futurebroker.protocol.messages import Said
from futurebroker.worker.packets import Saying

#: what imports the app in executors; loaded by name, because it is above this module
ENTRY = "futurebroker.celery.entry"


@dataclass
class AppPlan:
    """What the command says."""

    name: str = ""  #: as ``-A`` has it; empty: no app
    queues: list[str] | None = None  #: that tasks are taken from; None: what the app says, or all
    time_limit: float = 0.0  #: seconds that tasks of apps may run where nothing else is said; 0: any time
    soft_time_limit: float = 0.0
    max_tasks: int = 0  #: after which an executor is replaced; 0: never
    max_bytes: int = 0  #: of memory after which it is; 0: never


@dataclass
class AppHost:
    """The app as the agent knows it."""

    plan: AppPlan
    send: Callable[[Said], None]
    described: Said | None = None  #: what executors told of the app, for every scheduler that takes us in
    is_told: bool = False
    has_joined: bool = False

    def info(self) -> dict[str, Any]:
        """What the scheduler is told when the worker joins."""
        plan = self.plan
        if not (plan.name or plan.queues or plan.time_limit or plan.soft_time_limit):
            return {}
        return {"queues": plan.queues, "time_limit": plan.time_limit, "soft_time_limit": plan.soft_time_limit}

    def said(self, saying: Saying) -> None:
        """An executor tells something; of the app once for all of them."""
        message = Said(saying.topic, saying.key, saying.about)
        if saying.topic != "app":
            self.send(message)
        elif self.described is None:
            self.described = message
            self.tell()

    def tell(self, joined: bool = False, fresh: bool = False) -> None:
        """Tell a scheduler that doesn't know it yet of the app."""
        self.is_told = self.is_told and not fresh
        self.has_joined = self.has_joined or joined
        if self.has_joined and not self.is_told and self.described is not None:
            self.is_told = True
            self.send(self.described)


def open_app(name: str) -> dict[str, Any] | None:
    """In an executor: import the app; what the scheduler is told of it."""
    described: dict[str, Any] | None = import_module(ENTRY).start(name) if name else None
    return described


def close_app(name: str) -> None:
    """In an executor that ends."""
    if name:
        import_module(ENTRY).stop()
