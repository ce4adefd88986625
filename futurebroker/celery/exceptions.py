"""Celery's exceptions, by its names; those that the scheduler makes stand in `futurebroker.exceptions`."""

from __future__ import annotations

from builtins import TimeoutError as TimeoutError
from typing import Any

from futurebroker.exceptions import ChordError as ChordError
from futurebroker.exceptions import ClusterConnectionError
from futurebroker.exceptions import FuturebrokerError as CeleryError
from futurebroker.exceptions import NotRegistered as NotRegistered
from futurebroker.exceptions import SoftTimeLimitExceeded as SoftTimeLimitExceeded
from futurebroker.exceptions import TaskRevokedError as TaskRevokedError
from futurebroker.exceptions import TimeLimitExceeded as TimeLimitExceeded
from futurebroker.exceptions import WorkerLostError as WorkerLostError

#: what a task can't be sent for: the broker or the scheduler isn't there
OperationalError = ClusterConnectionError


#: the base of what has to do with tasks; here it is that of everything
TaskError = CeleryError


class CeleryWarning(UserWarning):
    """Base of warnings."""


class AlwaysEagerIgnored(CeleryWarning):
    """``send_task`` sends, whatever ``task_always_eager`` says."""


class DuplicateTaskNameWarning(CeleryWarning):
    """A second task was given a name that is taken; the first one is used."""


class UnknownSettingWarning(CeleryWarning):
    """A setting that neither Celery nor this package knows; the text names the nearest."""


class NotConfigured(CeleryWarning):
    """Celery has found no settings; never raised here, since there are defaults."""


class SecurityWarning(CeleryWarning):
    """Celery warns of settings that aren't safe; never raised here."""


class CPendingDeprecationWarning(PendingDeprecationWarning):
    """Of Celery's; never raised here."""


class CDeprecationWarning(DeprecationWarning):
    """Of Celery's; never raised here."""


class AlreadyRegistered(CeleryError):
    """Of Celery's; never raised here: a second task of a name is warned of, and the first is used."""


class ImproperlyConfigured(CeleryError):
    """Settings that can't be used; the text says which."""


class SecurityError(CeleryError):
    """Something that settings don't allow."""


class TaskPredicate(CeleryError):
    """Base of what a task raises to say how it goes on."""


class Retry(TaskPredicate):
    """The task is to be run again; `Task.retry` raises it.

    Args:
        message: why.
        exc: the exception that made it so.
        when: seconds, or a datetime.
        is_eager: it happened in `Task.apply`; then ``sig`` is the call to make again.
    """

    def __init__(
        self,
        message: str | None = None,
        exc: BaseException | None = None,
        when: Any = None,
        is_eager: bool = False,
        sig: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(exc, when)
        self.message = message
        self.exc: BaseException | None = exc
        self.excs = repr(exc) if exc is not None else None
        self.when = when
        self.is_eager = is_eager
        self.sig = sig
        #: what the next run is to have otherwise, as `Task.apply_async` names it
        self.options: dict[str, Any] = {}

    def humanize(self) -> str:
        """When."""
        return f"in {self.when}s" if isinstance(self.when, (int, float)) else f"at {self.when}"

    def __str__(self) -> str:
        if self.message:
            return self.message
        return f"Retry {self.humanize()}" + (f": {self.excs}" if self.excs else "")


class Ignore(TaskPredicate):
    """The task has no result, and nothing follows from it; its state stays what `Task.update_state` made it."""


class Reject(TaskPredicate):
    """The task gives its message back: with ``requeue`` it is run again, else it has failed."""

    def __init__(self, reason: Any = None, requeue: bool = False) -> None:
        super().__init__(reason, requeue)
        self.reason = reason
        self.requeue = requeue

    def __repr__(self) -> str:
        return f"reject requeue={self.requeue}: {self.reason}"


class MaxRetriesExceededError(CeleryError):
    """A task asked to be run again more often than it may."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.task_args = kwargs.pop("task_args", ())
        self.task_kwargs = kwargs.pop("task_kwargs", {})
        super().__init__(*args)


class InvalidTaskError(CeleryError):
    """A call that no task can be made of."""


class EncodeError(CeleryError, TypeError):
    """``task_serializer="json"`` is set, and a value can't be carried by JSON."""


class QueueNotFound(CeleryError, KeyError):
    """A queue that is not in ``task_queues``, while ``task_create_missing_queues`` is off."""


class IncompleteStream(CeleryError):
    """Of older programs; not raised here."""


class BackendError(CeleryError):
    """Base of errors about kept results."""


class BackendGetMetaError(BackendError):
    """What is known of a task could not be read."""


class BackendStoreError(BackendError):
    """A result could not be kept."""


class Terminated(CeleryError):
    """Of older programs: a task was ended where it ran; see `TaskRevokedError`."""


class WorkerTerminate(SystemExit):
    """Of older programs; not raised here."""


class WorkerShutdown(SystemExit):
    """Of older programs; not raised here."""


def chord_error(key: str, error: BaseException) -> ChordError:
    """What a body that can't run fails with, because ``key`` in its header raised ``error``."""
    return ChordError(f"Dependency {key} raised {error!r}", key)
