"""How the files of values are named."""

from __future__ import annotations

#: how the names of files with checksums end; the file of a value that was moved to disk keeps its old name as a link
SUFFIX = ".sealed"


def is_sealed(path: str) -> bool:
    """Whether a file of this name has checksums."""
    return path.endswith(SUFFIX)
