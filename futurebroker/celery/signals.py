"""Celery's signals: functions that are called when something happens in this process.

A signal of a task is sent where the task runs. Signals about the worker's process are sent by each of its executors,
since these are the processes in which tasks run.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable
from inspect import ismethod
from typing import Any

logger = logging.getLogger("futurebroker.celery")


class Signal:
    """Receivers, connected by `connect` and called by `send`."""

    def __init__(self, name: str = "", providing_args: Any = None, use_caching: bool = False) -> None:
        self.name = name
        #: (receiver or a reference to it, id of the sender, id)
        self.connected: list[tuple[Any, int | None, Any]] = []
        self._lock = threading.Lock()

    def connect(self, *args: Any, weak: bool = True, sender: Any = None, dispatch_uid: Any = None, **_: Any) -> Any:
        """Call a function with each signal, of ``sender`` only if one is given; also a decorator.

        A receiver must accept ``sender`` and any keyword arguments. Unless ``weak=False``, it is not kept alive.
        """
        if args and callable(args[0]):
            return self._connect(args[0], weak, sender if len(args) < 2 else args[1], dispatch_uid)
        return lambda function: self._connect(function, weak, sender, dispatch_uid)

    def _connect(self, receiver: Callable[..., Any], weak: bool, sender: Any, dispatch_uid: Any) -> Any:
        reference: Any = receiver
        if weak:
            reference = weakref.WeakMethod(receiver) if ismethod(receiver) else weakref.ref(receiver)
        uid = dispatch_uid if dispatch_uid is not None else id(receiver)
        with self._lock:
            self.connected = [entry for entry in self.connected if (entry[2], entry[1]) != (uid, _sender_id(sender))]
            self.connected.append((reference, _sender_id(sender), uid))
        return receiver

    def disconnect(self, receiver: Any = None, sender: Any = None, weak: Any = None, dispatch_uid: Any = None) -> bool:
        """Don't call it any more; whether it was connected."""
        uid = dispatch_uid if dispatch_uid is not None else id(receiver)
        with self._lock:
            left = [entry for entry in self.connected if (entry[2], entry[1]) != (uid, _sender_id(sender))]
            changed = len(left) != len(self.connected)
            self.connected = left
        return changed

    def has_listeners(self, sender: Any = None) -> bool:
        """Whether anybody would be called."""
        return bool(self._live(sender))

    @property
    def receivers(self) -> list[Any]:
        """All that are connected."""
        return list(self.connected)

    def _live(self, sender: Any) -> list[Callable[..., Any]]:
        wanted = (None, _sender_id(sender))
        found = []
        for reference, known, _ in self.connected:
            if known in wanted:
                receiver = reference() if isinstance(reference, weakref.ref) else reference
                if receiver is not None:
                    found.append(receiver)
        return found

    def send(self, sender: Any, **named: Any) -> list[tuple[Any, Any]]:
        """Call every receiver; an exception of one is logged and returned in place of what it would have returned."""
        if not self.connected:
            return []
        answers = []
        for receiver in self._live(sender):
            try:
                answer = receiver(signal=self, sender=sender, **named)
            except Exception as error:
                logger.exception("the receiver %r of the signal %s raised", receiver, self.name)
                answer = error
            answers.append((receiver, answer))
        return answers

    send_robust = send

    def __repr__(self) -> str:
        return f"<Signal: {self.name}>"


def _sender_id(sender: Any) -> int | None:
    if sender is None:
        return None
    name = getattr(sender, "name", None)
    return hash(name) if isinstance(name, str) else hash(sender) if isinstance(sender, str) else id(sender)


before_task_publish = Signal("before_task_publish")
after_task_publish = Signal("after_task_publish")
task_received = Signal("task_received")
task_prerun = Signal("task_prerun")
task_postrun = Signal("task_postrun")
task_success = Signal("task_success")
task_retry = Signal("task_retry")
task_failure = Signal("task_failure")
task_internal_error = Signal("task_internal_error")
task_revoked = Signal("task_revoked")
task_rejected = Signal("task_rejected")
task_unknown = Signal("task_unknown")
import_modules = Signal("import_modules")
worker_init = Signal("worker_init")
worker_process_init = Signal("worker_process_init")
worker_process_shutdown = Signal("worker_process_shutdown")
worker_before_create_process = Signal("worker_before_create_process")
worker_ready = Signal("worker_ready")
worker_shutting_down = Signal("worker_shutting_down")
worker_shutdown = Signal("worker_shutdown")
celeryd_init = Signal("celeryd_init")
celeryd_after_setup = Signal("celeryd_after_setup")
heartbeat_sent = Signal("heartbeat_sent")
setup_logging = Signal("setup_logging")
after_setup_logger = Signal("after_setup_logger")
after_setup_task_logger = Signal("after_setup_task_logger")
beat_init = Signal("beat_init")
beat_embedded_init = Signal("beat_embedded_init")
user_preload_options = Signal("user_preload_options")
