"""Tasks of ``__main__`` as they travel: what they are, since other processes can't import it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Definition:
    """One task: a function with the options of `Celery.task`, or an instance of a class of tasks."""

    app: Any
    name: str
    function: Any = None
    base: Any = None
    bind: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    kind: Any = None  #: class of a task that was registered as one

    @classmethod
    def of(cls, task: Any) -> Definition:
        """What ``task`` is."""
        if getattr(task, "made_from", None) is None or task.made_from[0] is REGISTERED:
            return cls(task.app, task.name, kind=type(task))
        base, options = task.made_from
        return cls(task.app, task.name, task.__wrapped__, base, task.bind, options)

    def register(self) -> None:
        """Add it to the app, unless it has a task of that name."""
        if self.name in self.app.tasks:
            return
        if self.kind is not None:
            self.app.register_task(self.kind)
        else:
            self.app._task_from_fun(self.function, name=self.name, base=self.base, bind=self.bind, **self.options)


#: stands for the base of tasks that are instances of a class of their own
REGISTERED = "registered"
