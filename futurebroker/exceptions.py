"""Every error futurebroker raises, as one tree.

Arguments are data and the sentence is built in ``__str__``, so an error keeps its fields and survives pickling between
processes. Each docstring says what happened and then what to do.
"""

from __future__ import annotations

from concurrent.futures import CancelledError as _FutureCancelledError


class FuturebrokerError(Exception):
    """Base of everything this package raises."""


# -- reaching the cluster ------------------------------------------------------------------------------------------


class ClusterConnectionError(FuturebrokerError, ConnectionError):
    """The scheduler or the broker could not be reached, or the connection was refused."""


class NoSchedulerError(ClusterConnectionError):
    """Nothing answered as a scheduler at ``url`` within ``timeout`` seconds.

    Start one with the command in the message, or correct the address.
    """

    def __init__(self, url: str, timeout: float, reason: str = "") -> None:
        super().__init__(url, timeout, reason)
        self.url = url
        self.timeout = timeout
        self.reason = reason

    def __str__(self) -> str:
        because = f" ({self.reason})" if self.reason else ""
        return (
            f"no scheduler answered at {self.url} within {self.timeout:g} s{because}; "
            f"start one with: futurebroker scheduler{_scheduler_arguments(self.url)}"
        )


def _scheduler_arguments(url: str) -> str:
    """The options with which `futurebroker scheduler` would serve ``url``."""
    scheme, _, rest = url.rpartition("://")
    host, _, port = rest.rpartition("@")[2].partition("/")[0].rpartition(":")
    if not port.isdigit():
        return f" --broker {url}"
    if scheme in ("", "amqp", "tcp") and host in ("127.0.0.1", "localhost", "[::1]"):
        return f" --port {port}"
    return f" --host {host} --port {port}"


class RefusedError(ClusterConnectionError):
    """The scheduler refused this process: its secret, its protocol or its Python does not fit.

    The reason names both sides; make them equal and connect again.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"refused by the scheduler: {self.reason}"


class StartError(ClusterConnectionError):
    """A process of a cluster on this machine did not start; ``reason`` is its error, or the last it wrote."""

    def __init__(self, title: str, reason: str) -> None:
        super().__init__(title, reason)
        self.title = title
        self.reason = reason

    def __str__(self) -> str:
        return f"the {self.title} did not start: {self.reason}"


class BrokerUnreachableError(ClusterConnectionError):
    """The broker at ``url`` could not be reached; ``reason`` says how.

    Start the broker, or correct the address.
    """

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(url, reason)
        self.url = url
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot reach the broker at {self.url}: {self.reason}"


class BrokerRefusedError(ClusterConnectionError):
    """The broker at ``url`` is there, but refused what was asked of it; ``reason`` says what to change."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(url, reason)
        self.url = url
        self.reason = reason

    def __str__(self) -> str:
        return f"the broker at {self.url} refused: {self.reason}"


class SecretRefusedError(BrokerRefusedError):
    """The scheduler at ``url`` has another secret than we, whose secret came from ``origin``.

    Give both the same: ``futurebroker config`` shows where each setting comes from.
    """

    def __init__(self, url: str, reason: str, origin: str = "") -> None:
        super().__init__(url, reason)
        self.args = (url, reason, origin)
        self.origin = origin

    def __str__(self) -> str:
        return super().__str__() + (f"; ours comes from {self.origin}" if self.origin else "")


class LinkLostError(ClusterConnectionError):
    """The connection to the broker at ``url`` ended while it was in use; what was not acknowledged is sent again."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(url, reason)
        self.url = url
        self.reason = reason

    def __str__(self) -> str:
        return f"the connection to the broker at {self.url} ended: {self.reason}"


class SecretError(FuturebrokerError):
    """The cluster's secret is missing, wrong or readable by others; the message says which and where to look."""


class ConfigError(FuturebrokerError, ValueError):
    """A setting has a value that cannot be used; the message names the setting, its source and what it accepts."""


class ClientClosedError(FuturebrokerError, RuntimeError):
    """The client was closed; create another one to go on."""


# -- messages ------------------------------------------------------------------------------------------------------


class ProtocolError(FuturebrokerError):
    """Bytes that do not follow the protocol; the peer that sent them is not one of ours or runs another version."""


class SignatureError(ProtocolError):
    """An envelope whose signature does not fit its content: another secret, or tampered bytes. It was not parsed."""


class MessageTooLargeError(ProtocolError):
    """A message of ``size`` bytes is over the bound of ``limit`` bytes.

    Pass large data with ``scatter`` or return it from a task; both travel in chunks.
    """

    def __init__(self, what: str, size: int, limit: int) -> None:
        super().__init__(what, size, limit)
        self.what = what
        self.size = size
        self.limit = limit

    def __str__(self) -> str:
        return f"{self.what} takes {self.size:,} bytes, more than the {self.limit:,} one message may have; use scatter"


class SerializationError(FuturebrokerError, TypeError):
    """An object could not be turned into bytes; ``what`` names it. Pass something picklable in its place."""

    def __init__(self, what: str, cause: str) -> None:
        super().__init__(what, cause)
        self.what = what
        self.cause = cause

    def __str__(self) -> str:
        return f"cannot pickle {self.what}: {self.cause}"


# -- tasks ---------------------------------------------------------------------------------------------------------


class TaskError(FuturebrokerError):
    """A task failed for a reason that is not an exception of its own code."""


class MissingExtraError(FuturebrokerError, ImportError):
    """This needs a library that isn't installed; install ``futurebroker[extra]``."""

    def __init__(self, extra: str, what: str) -> None:
        super().__init__(extra, what)
        self.extra = extra
        self.what = what

    def __str__(self) -> str:
        return f"{self.what} need a library that isn't installed; run: pip install 'futurebroker[{self.extra}]'"


class GraphError(FuturebrokerError, ValueError):
    """A graph can't be computed as it is: it has a cycle, or names what isn't in it. The message says which keys."""


class LeaseLostError(FuturebrokerError):
    """A lock or semaphore that this client held was given to somebody else, because the client seemed to be gone.

    Undo or repeat what was done under it; whoever has it now may have interfered.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return f"{self.name} was given to somebody else, because this client was out of reach for too long"


class SchedulerRestartedError(FuturebrokerError):
    """The scheduler was restarted before it answered; ask again."""

    def __init__(self) -> None:
        super().__init__("the scheduler was restarted before it answered; ask again")


class KilledWorker(TaskError):  # noqa: N818 - the name is dask.distributed's
    """A task ended what ran it too often: it is a `WorkerLostError` or an `ExecutorDiedError`, which say what to do."""

    key: str
    worker: str
    #: the names of both in dask.distributed
    task = property(lambda self: self.key)
    last_worker = property(lambda self: self.worker)


class ExecutorDiedError(KilledWorker):
    """The executor process died while it ran this task, more often than the task may be tried again.

    ``how`` names the exit code or the signal. Look for a crash in native code, for memory (SIGKILL) or for a call
    that ends the process; ``retries=`` allows more attempts.
    """

    def __init__(self, key: str, worker: str, how: str, deaths: int = 1) -> None:
        super().__init__(key, worker, how, deaths)
        self.key = key
        self.worker = worker
        self.how = how
        self.deaths = deaths

    def __str__(self) -> str:
        times = "" if self.deaths == 1 else f", the last of {self.deaths} deaths"
        return f"task {self.key} ended its executor on worker {self.worker} with {self.how}{times}"


class WorkerLostError(KilledWorker):
    """Every worker that tried this task was lost while it ran. Look into the worker's log for the cause."""

    def __init__(self, key: str, worker: str, losses: int) -> None:
        super().__init__(key, worker, losses)
        self.key = key
        self.worker = worker
        self.losses = losses

    def __str__(self) -> str:
        return f"task {self.key} lost {self.losses} workers while it ran, the last was {self.worker}"


class ResultError(TaskError):
    """A task ended, but its result or exception could not be moved: it cannot be pickled, or not be opened here."""


class RemoteError(TaskError):
    """Stands for an exception of a task whose own type cannot be rebuilt here; the text holds the original's."""


class DataLostError(TaskError):
    """Something is needed that is gone and isn't made again by itself; the message says what.

    Scatter data again, or with ``broadcast=True``. Retry a task of ``at_most_once`` or ``keep`` if it may run again.
    """


class IntakeError(FuturebrokerError):
    """The scheduler takes no more work from this client; the message says which bound was reached.

    Wait for results or release futures, then submit again.
    """


class DuplicateKeyError(FuturebrokerError, ValueError):
    """A key was given twice with different work behind it; choose another ``key=``."""


class CancelledError(_FutureCancelledError, FuturebrokerError):
    """The task was cancelled, or what it depends on was; the text says by what."""


# -- published datasets --------------------------------------------------------------------------------------------


class DatasetError(FuturebrokerError):
    """A dataset could not be published, stored or removed; the message says why."""


class UnknownDatasetError(DatasetError, KeyError):
    """Nothing is published as ``name``; ``client.list_datasets()`` tells what is."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return f"no dataset is published as {self.name!r}; client.list_datasets() tells what there is"


class DuplicateDatasetError(DatasetError, KeyError):
    """Something is published as ``name`` already; choose another name, unpublish it, or say ``override=True``."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return f"{self.name} is published already; unpublish it first, or publish with override=True"


class DatasetNotStoredError(DatasetError):
    """``name`` is published, but is not stored, so that it may be lost with the workers; ``reason`` says why.

    What can be tried again is tried again; ``client.dataset_info(name)`` tells how it stands.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.name} is published, but not stored: {self.reason}"


# -- what survives --------------------------------------------------------------------------------------------------


class DatabaseError(FuturebrokerError):
    """The database at ``url`` can't be used; ``reason`` is what it said, and what to do."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(url, reason)
        self.url = url
        self.reason = reason

    def __str__(self) -> str:
        return f"the database {self.url}: {self.reason}"


class QueryError(FuturebrokerError):
    """A search of the history can't be understood; ``reason`` says what there is instead of ``word``."""

    def __init__(self, word: str, reason: str) -> None:
        super().__init__(word, reason)
        self.word = word
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.word!r} can't be searched for: {self.reason}"


class DatabaseInUseError(DatabaseError):
    """Another scheduler works with this database; end it, or wait as its standby."""


class ClusterShutDownError(FuturebrokerError):
    """A client shut the cluster down while this scheduler waited to lead it; start it anew to have the cluster back."""

    def __str__(self) -> str:
        return f"the cluster {self.args[0]} was shut down by a client; there is nothing to wait for"


class LeadershipLostError(DatabaseError):
    """Another scheduler has taken the lead of this cluster; what this one still wanted to write was not written."""


# -- tasks of the Celery face ----------------------------------------------------------------------------------------


class ChordError(TaskError):
    """The body of a chord can't run, because the task ``key`` of its header failed."""

    def __init__(self, message: str, key: str = "") -> None:
        super().__init__(message, key)
        self.message = message
        self.key = key

    def __str__(self) -> str:
        return self.message


class NotRegistered(TaskError, KeyError):  # noqa: N818 - the name is Celery's
    """No app of the process that was to run it has a task called ``name``; ``near`` are the nearest names it has.

    Start the worker with ``-A`` and the app that has it, or import the task's module there.
    """

    def __init__(self, name: str, near: list[str] | None = None) -> None:
        super().__init__(name, near or [])
        self.name = name
        self.near = near or []

    def __str__(self) -> str:
        hint = f"; did you mean {' or '.join(map(repr, self.near))}?" if self.near else ""
        return f"{self.name!r} is not registered here{hint}"


class TaskRevokedError(TaskError):
    """The task was not run, or not to its end: it was revoked, had expired, or was ended where it ran."""

    def __init__(self, reason: str = "revoked") -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class Reschedule(Exception):  # noqa: N818 - the name is dask.distributed's
    """Raised by a task that wants to be run again, after a pause and perhaps elsewhere; that is no failure of it."""


class SoftTimeLimitExceeded(Exception):  # noqa: N818 - the name is Celery's
    """Raised inside a task that has run as long as its ``soft_time_limit``, so that it can tidy up and end."""

    def __init__(self, seconds: float | None = None) -> None:
        super().__init__(*(() if seconds is None else (seconds,)))


class TimeLimitExceeded(TaskError):  # noqa: N818 - the name is Celery's
    """The task ran longer than its ``time_limit`` of ``seconds``, and its executor was ended."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds

    def __str__(self) -> str:
        return f"ran longer than its time limit of {self.seconds:g} s"


# -- inside --------------------------------------------------------------------------------------------------------


class InvalidTransition(FuturebrokerError):  # noqa: N818 - the name is the design's
    """A task was asked to make a move its state does not have. This is a bug in the scheduler; ``story`` tells how."""

    def __init__(self, key: str, start: str, finish: str, story: str = "") -> None:
        super().__init__(key, start, finish, story)
        self.key = key
        self.start = start
        self.finish = finish
        self.story = story

    def __str__(self) -> str:
        return f"{self.key} cannot go from {self.start} to {self.finish}; story: {self.story or 'none kept'}"


class InvariantViolation(FuturebrokerError, AssertionError):  # noqa: N818 - it names what happened, as the laws do
    """A law of the scheduler's state does not hold. This is a bug in the scheduler; ``story`` tells of the task."""

    def __init__(self, law: str, what: str, story: str = "") -> None:
        super().__init__(law, what, story)
        self.law = law
        self.what = what
        self.story = story

    def __str__(self) -> str:
        return f"{self.law}: {self.what}" + (f"; story: {self.story}" if self.story else "")


# -- environments --------------------------------------------------------------------------------------------------


class EnvironmentRefusedError(FuturebrokerError):
    """Executors can't run in the environment ``name``; ``reason`` says why. What runs now goes on.

    Pack a folder with ``futurebroker.pack_environment``, in which futurebroker is installed at the workers' version,
    for the workers' minor version of Python.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"the environment {self.name} can't be used: {self.reason}"
