"""A task's exception, bounded and freed of our own frames, as it leaves the executor."""

from __future__ import annotations

import os

import msgspec

import futurebroker
from futurebroker.protocol.messages import Failure
from futurebroker.protocol.serialize import dump_failure

#: bytes of a pickled exception that travel; of a larger one only the text does
PAYLOAD_LIMIT = 1024 * 1024

_OURS = os.path.join(os.path.dirname(futurebroker.__file__), "worker", "")


def failure_of(error: BaseException, key: str, worker: str) -> Failure:
    """``error`` as it travels, with a traceback that begins at the user's first line."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_OURS):
        trace = trace.tb_next
    error.__traceback__ = trace
    try:
        failure = dump_failure(error, key, worker)
    except BaseException as reason:  # noqa: BLE001 - an exception that can't even be looked at is still a failure
        kind = type(error).__qualname__
        return Failure(kind, f"the exception can't be described: {type(reason).__name__}", kind, key, worker)
    if failure.payload is not None and len(failure.payload) > PAYLOAD_LIMIT:
        return msgspec.structs.replace(failure, payload=None)
    return failure
