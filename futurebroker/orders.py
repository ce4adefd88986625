"""What settings say of memory and data of workers and clients, and of what is noted, as orders that JSON can carry."""

from __future__ import annotations

from typing import Any

from futurebroker.config import Settings


def worker_data(settings: Settings, share: float = 1.0) -> dict[str, Any]:
    """What the settings say of a worker's memory, data and notes, as arguments of `WorkerService` that JSON can carry.

    Args:
        share: of workers on one machine, what each gets of an automatic limit.
    """
    return {
        "memory_limit": settings.memory_limit,
        "memory_share": share,
        "thresholds": {
            "target": settings.memory_target,
            "spill": settings.memory_spill,
            "pause": settings.memory_pause,
            "terminate": settings.memory_terminate,
            "reuse": settings.memory_reuse,
        },
        "transfer": data_transfer(settings),
        "notes": {"output": settings.task_output, "arguments": settings.task_arguments},
        "local_folder": str(settings.local_folder) if settings.local_folder is not None else None,
    }


def data_transfer(settings: Settings) -> dict[str, Any]:
    """How data may move; `futurebroker.data.ways` takes it."""
    certificates = {
        "tls_cert": settings.data_tls_cert,
        "tls_key": settings.data_tls_key,
        "tls_ca": settings.data_tls_ca,
    }
    return {
        "ways": list(settings.data_ways),
        "address": settings.data_address,
        **{name: str(path) for name, path in certificates.items() if path is not None},
    }
