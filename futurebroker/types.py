"""Names of the things that cross process boundaries, and the typed reference by which a task names another's result."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum

Key = str  #: names a task and its result, unique in a cluster; reads ``inc-<id>``
ClientId = str  #: names one connected program
WorkerId = str  #: names one incarnation of a worker; a restarted worker has another
Digest = bytes  #: first 16 bytes of the SHA-256 of a pickled function

#: what the name of a dataset is made of; names are never used as paths
DATASET_NAME = re.compile(r"[A-Za-z0-9_.-]{1,200}")


class Role(IntEnum):
    """What a process is to the others; decides which signing key an envelope is checked with."""

    SCHEDULER = 1
    WORKER = 2
    CLIENT = 3
    WEB = 4


@dataclass(frozen=True, slots=True)
class Peer:
    """One incarnation of a process on the network: a restart has another ``incarnation``."""

    role: Role
    name: str  #: client id, worker id, or "scheduler"
    incarnation: str
