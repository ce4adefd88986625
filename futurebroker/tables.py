"""Dicts for very many keys."""

from __future__ import annotations

from typing import Any


def large_table() -> dict[Any, Any]:
    """An empty dict for so many strings that hardly one of them is in the processor's caches when it is looked up.

    Where a dict had strings only, each key that is passed by in a search is visited for its hash, wherever it lies. One
    that has had another key keeps the hashes beside each other: at a million keys it takes half the time to fill.
    """
    table: dict[Any, Any] = {None: None}
    del table[None]
    return table
