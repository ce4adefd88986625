"""`Context`: what a running task knows of its own call, as ``self.request``."""

from __future__ import annotations

from typing import Any

from futurebroker.celery.following import FIELDS, followers_of

#: what every request has, whether or not it was given; as in Celery
_DEFAULTS: dict[str, Any] = {
    "id": None, "args": None, "kwargs": None, "logfile": None, "loglevel": None, "hostname": None, "retries": 0,
    "is_eager": False, "called_directly": True, "delivery_info": None, "reply_to": None, "correlation_id": None,
    "headers": None, "callbacks": None, "errbacks": None, "chain": None, "chord": None, "timelimit": None,
    "expires": None, "eta": None, "utc": True, "group": None, "group_index": None, "root_id": None, "parent_id": None,
    "ignore_result": False, "origin": None, "argsrepr": None, "kwargsrepr": None, "shadow": None, "properties": None,
    "stamps": None, "stamped_headers": None, "replaced_task_nesting": 0, "task": None, "lang": "py",
}  # fmt: skip
#: what is told of arguments as text, and how long that is at most
_REPRESENTED = ("argsrepr", "kwargsrepr")
REPR_MOST = 1024


class Parts(list[Any]):
    """What a task of a header came to that added others to it: its own result, then theirs. Only bodies see this."""


def spread(values: list[Any]) -> list[Any]:
    """The results of a header, those that were added to it behind the others."""
    if Parts not in map(type, values):
        return values
    own = [value[0] if type(value) is Parts else value for value in values]
    return own + [added for value in values if type(value) is Parts for added in value[1:]]


class Context:
    """A request; fields that were not given have Celery's defaults."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.__dict__.update(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name in FIELDS:
            known = followers_of(self)
            if known is not None:
                setattr(self, name, known.fields[name])
                return known.fields[name]
        if name in _REPRESENTED and name[: -len("repr")] in self.__dict__:
            return repr(self.__dict__[name[: -len("repr")]])[:REPR_MOST]
        if name in _DEFAULTS:
            return _DEFAULTS[name]
        if name in ("children", "added"):
            return self.__dict__.setdefault(name, [])
        raise AttributeError(f"the request of a task has no {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name in FIELDS:
            self.__dict__.setdefault("added", [])  # the end of the run looks at it; see `following.settle`
        self.__dict__[name] = value

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Set fields."""
        self.__dict__.update(*args, **kwargs)

    def get(self, key: str, default: Any = None) -> Any:
        """A field, or ``default``."""
        return getattr(self, key, default)

    def as_execution_options(self) -> dict[str, Any]:
        """Options of `Task.apply_async` for a call like this one."""
        hard, soft = self.timelimit or (None, None)
        options = {
            "task_id": self.id, "root_id": self.root_id, "parent_id": self.parent_id, "group_id": self.group,
            "group_index": self.group_index, "shadow": self.shadow, "expires": self.expires, "time_limit": hard,
            "soft_time_limit": soft, "headers": self.headers, "retries": self.retries, "reply_to": self.reply_to,
            "replaced_task_nesting": self.replaced_task_nesting, "origin": self.origin, "link": self.callbacks,
            "link_error": self.errbacks, "chain": self.chain, "chord": self.chord,
        }  # fmt: skip
        if self.stamps is not None and self.stamped_headers is not None:
            options |= {**self.stamps, "stamped_headers": self.stamped_headers}
        return options

    @property
    def task_id(self) -> Any:
        return self.id

    @property
    def time_limit(self) -> Any:
        """Seconds of the hard limit, if there is one."""
        return (self.timelimit or (None, None))[0]

    @property
    def soft_time_limit(self) -> Any:
        """Seconds of the soft limit, if there is one."""
        return (self.timelimit or (None, None))[1]

    def __repr__(self) -> str:
        return f"<Context: {self.__dict__!r}>"
