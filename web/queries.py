"""What the site reads of the database: the history of tasks, runs, workers and datasets."""

from __future__ import annotations

from typing import Any

from futurebroker.exceptions import FuturebrokerError


class BadQueryError(FuturebrokerError):
    """A search can't be understood; the message says which word and what there is."""


class HistoryAwayError(FuturebrokerError):
    """The database can't be read at the moment."""


class History:
    """The history of one cluster; without a database it is empty and says so."""

    def __init__(self, url: str | None, cluster: str) -> None:
        self.url = url
        self.cluster = cluster

    @property
    def available(self) -> bool:
        """Whether there is a database to read."""
        return False

    def search(self, query: str, after: str | None, most: int) -> dict[str, Any]:
        return {}

    def keys(self, query: str, most: int) -> list[str]:
        return []

    def task(self, key: str) -> dict[str, Any] | None:
        return None

    def runs_between(self, since: float, until: float) -> list[Any]:
        return []

    def worker(self, name: str) -> dict[str, Any] | None:
        return None

    def events(self, most: int) -> list[dict[str, Any]]:
        return []

    def runs(self, most: int) -> list[dict[str, Any]]:
        return []

    def about(self) -> dict[str, Any]:
        return {"url": self.url}

    def note_action(self, action: Any) -> None:
        """Keep who changed what."""

    def close(self) -> None:
        """Let the database go."""
