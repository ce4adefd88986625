"""What the site reads of the history: the database's rows, as its pages want them."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any, TypeVar

from futurebroker.config import hide_password
from futurebroker.exceptions import DatabaseError, FuturebrokerError, QueryError
from futurebroker.persistence.lookup import Lookup
from futurebroker.web.formats import size
from futurebroker.web.streaming import Run

#: seconds for which a database that couldn't be read isn't asked again
PATIENCE = 2.0
#: seconds after which all that ended in a window is written, but for what waits for a database that is away
SETTLED = 300.0
#: windows of the stream that are kept
WINDOWS = 8
#: graphs of a run that are shown, the newest
GRAPHS = 50
#: seconds after which a scheduler that wrote nothing is taken for dead
SILENCE = 120.0

#: parts of the figures of memory and backlog
_MEMORY = ("managed", "unmanaged", "spilled")
_BACKLOG = ("processing", "queued", "waiting", "no_worker")

_SPAN = ("joined_at", "left_at")

Answer = TypeVar("Answer")


class BadQueryError(FuturebrokerError):
    """A search can't be understood; the message says which word and what there is."""


class HistoryAwayError(FuturebrokerError):
    """The database can't be read at the moment."""


class History:
    """The history of one cluster; without a database it is empty and says so.

    Args:
        url: of the database; None: there is none.
    """

    def __init__(self, url: str | None, cluster: str) -> None:
        self._url = url
        self._cluster = cluster
        self._lookup: Lookup | None = None
        self._away_until = 0.0
        self._reason = ""
        self._lock = threading.Lock()
        self._windows: OrderedDict[tuple[float, float], list[Run]] = OrderedDict()

    @property
    def available(self) -> bool:
        """Whether there is a database to read; a file that nobody has made yet is none."""
        if self._url is None:
            return False
        path = self._url.partition("?")[0].partition("sqlite:///")[2]
        return not path or Path(path).exists()

    def _ask(self, method: str, *arguments: Any) -> Any:
        """What a method of `Lookup` gives.

        Raises:
            HistoryAwayError: the database can't be read.
            BadQueryError: the search can't be understood.
        """
        if time.monotonic() < self._away_until:
            raise HistoryAwayError(self._reason)
        try:
            if self._lookup is None:
                self._lookup = Lookup(str(self._url), self._cluster)
            if not str(self._url).startswith("sqlite"):
                # PostgreSQL takes no NUL, and what it has was written without.
                arguments = tuple(one.replace("\0", "") if isinstance(one, str) else one for one in arguments)
            return getattr(self._lookup, method)(*arguments)
        except QueryError as error:
            raise BadQueryError(str(error)) from error
        except DatabaseError as error:
            self._reason = str(error)
            self._away_until = time.monotonic() + PATIENCE
            raise HistoryAwayError(self._reason) from error

    # -- tasks --------------------------------------------------------------------------------------------------------

    def search(self, query: str, after: str | None, most: int) -> dict[str, Any]:
        """Ended tasks that match, newest first; see `Lookup.search`."""
        place = int(after) if after and after.isdecimal() and len(after) < 19 else None
        found = self._ask("search", query, place, most)
        return {**found, "rows": [_row(row) for row in found["rows"]], "unfinished": 0}

    def keys(self, query: str, most: int) -> list[str]:
        """Keys of ended tasks that match."""
        if not self.available:
            return []
        keys: list[str] = self._ask("keys", query, most)
        return keys

    def task(self, key: str) -> dict[str, Any] | None:
        """What a task's page shows of its past; None for one that the history doesn't have."""
        found = self._ask("task", key) if self.available else None
        return _story(found) if found is not None else None

    def runs_between(self, since: float, until: float) -> list[Run]:
        """What the executors ran; where there was more than can be seen, several in one.

        What is long over is kept for who asks again, as every open page of such a window does.
        """
        is_over = until < time.time() - SETTLED
        with self._lock:
            if is_over and (since, until) in self._windows:
                return self._windows[since, until]
        runs = self._runs(since, until)
        if is_over:
            with self._lock:
                self._windows[since, until] = runs
                while len(self._windows) > WINDOWS:
                    self._windows.popitem(last=False)
        return runs

    def _runs(self, since: float, until: float) -> list[Run]:
        found = self._ask("stream", since, until)
        lanes = [" · ".join(lane.rsplit(" ", 1)) for lane in found["lanes"]]
        columns = [found[name] for name in ("lane", "type", "failed", "start", "length", "count", "key")]
        return [
            Run(since + start, since + start + length, found["types"][kind], lanes[lane], bool(failed), key, count)
            for lane, kind, failed, start, length, count, key in zip(*columns, strict=True)
        ]

    # -- the cluster --------------------------------------------------------------------------------------------------

    def events(self, most: int) -> list[dict[str, Any]]:
        """What happened, newest first."""
        if not self.available:
            return []
        return [_event(row) for row in self._ask("events", "", "", None, most)["rows"]]

    def worker(self, name: str) -> dict[str, Any] | None:
        """What a worker that is gone did; None for one that nobody heard of."""
        with contextlib.suppress(HistoryAwayError):
            found = self._ask("worker", name) if self.available else None
            if found is not None:
                ran = sum(row["count"] for row in found["tasks"])
                failed = sum(row["count"] for row in found["tasks"] if row["outcome"] == "failed")
                seconds = sum(row["seconds"] or 0.0 for row in found["tasks"])
                told = "; ".join(f"{event['kind']} {event['text']}".strip() for event in found["events"][:5])
                lives = [_life_of_worker(row) for row in found["lives"][:5]]
                return {
                    **({"it was there": "; ".join(lives)} if lives else {}),
                    "tasks it ran": f"{ran:,}",
                    "failed": f"{failed:,}",
                    "seconds of work": f"{seconds:,.1f}",
                    "last heard": told,
                }
        return None

    def runs(self, most: int) -> list[dict[str, Any]]:
        """Schedulers' lives, newest first."""
        return [_life(row) for row in self._ask("runs", most)] if self.available else []

    def run(self, number: int) -> dict[str, Any] | None:
        """One of them, with its types, its clients, and how fast it went; None when there is none of this number."""
        found = next((row for row in self.runs(1000) if row["id"] == number), None) if self.available else None
        if found is None:
            return None
        end = found["ended"] or found["seen"]
        pace = self._ask("throughput", found["started"], max(end, found["started"] + 1.0), 120, f"run:{number}")
        step = max((end - found["started"]) / 120, 1e-9)
        return {
            **found,
            "types": self._ask("types", number),
            "clients": self._ask("clients", number),
            "graphs": self._ask("graphs", GRAPHS, number),
            "throughput": {
                "time": [1000 * part["at"] for part in pace],
                "rate": [round((part["finished"] + part["failed"]) / step, 3) for part in pace],
            },
            **_over_time(self._ask("figures", found["started"], end + 1.0)),
        }

    def datasets(self) -> list[dict[str, Any]]:
        """What was published when a scheduler last wrote, by name."""
        return self._ask("datasets") if self.available else []

    def about(self) -> dict[str, Any]:
        """How much there is, for the page about the system."""
        if self._url is None:
            return {"history": "none is kept; FUTUREBROKER_DATABASE_URL names a database"}
        shown = hide_password(self._url)
        if not self.available:
            return {"history": f"none yet at {shown}"}
        try:
            kept = self._ask("about")
        except HistoryAwayError as error:
            return {"history": shown, "trouble": str(error)}
        told = {
            "history": shown,
            "tasks kept": f"{kept['tasks']:,}",
            "runs kept": f"{kept['runs']:,}",
            "left out under load": f"{kept['dropped']:,} rows",
        }
        if "bytes" in kept:
            told["size"] = size(kept["bytes"])
        if "connections" in kept:
            told["connections"] = f"{kept['connections']:,} of {kept['connections_most']:,}"
        return told

    def close(self) -> None:
        """Let the database go."""
        if self._lookup is not None:
            self._lookup.close()
            self._lookup = None


def _over_time(rows: list[dict[str, Any]]) -> dict[str, dict[str, list[Any]]]:
    """Columns of the figures of memory and backlog, of what the history noted every few seconds."""
    memory: dict[float, dict[str, float]] = {}
    backlog: dict[float, dict[str, int]] = {}
    for row in rows:
        if not row["worker"]:
            backlog[row["at"]] = row.get("tasks") or {}
            continue
        sums = memory.setdefault(row["at"], dict.fromkeys(_MEMORY, 0.0))
        for part in _MEMORY:
            sums[part] += row.get(part) or 0
    return {
        "memory": {
            "time": [1000 * at for at in memory],
            **{part: [sums[part] for sums in memory.values()] for part in _MEMORY},
        },
        "backlog": {
            "time": [1000 * at for at in backlog],
            **{part: [counts.get(part, 0) for counts in backlog.values()] for part in _BACKLOG},
        },
    }


def _error(row: dict[str, Any]) -> str:
    return f"{row['error_type']}: {row['error']}" if row["error_type"] else row["error"]


def _row(row: dict[str, Any]) -> dict[str, Any]:
    started, submitted = row["started_at"], row["submitted_at"]
    return {
        "key": row["key"],
        "type": row["type"],
        "state": row["outcome"],
        "worker": row["worker"] or None,
        "submitted": submitted,
        "waited": max(0.0, started - submitted) if started is not None and submitted is not None else None,
        "took": row["duration"],
        "nbytes": row["nbytes"] or None,
        "error": _error(row),
        "ended": row["ended_at"],
        "run": row["run"],
    }


def _event(row: dict[str, Any]) -> dict[str, Any]:
    about = row["worker"] or row["client"] or row["key"]
    return {"at": row["at"], "kind": row["kind"], "about": about, "text": row["text"], "key": row["key"]}


def _life_of_worker(row: dict[str, Any]) -> str:
    begin, end = (time.strftime("%Y-%m-%d %H:%M", time.localtime(row[name])) if row[name] else "" for name in _SPAN)
    return f"{begin} to {end or '?'} on {row['host']}, {row['about'].get('executors', '?')} executors"


def _life(row: dict[str, Any]) -> dict[str, Any]:
    end = row["ended_at"] or row["seen_at"]
    return {
        "id": row["id"],
        "started": row["started_at"],
        "ended": row["ended_at"],
        "seen": row["seen_at"],
        "live": row["ended_at"] is None and time.time() - row["seen_at"] < SILENCE,
        "lasted": end - row["started_at"],
        "tasks": row["finished"] + row["failed"] + row["cancelled"],
        "finished": row["finished"],
        "failed": row["failed"],
        "cancelled": row["cancelled"],
        "seconds": row["seconds"],
        "host": row["host"],
        "version": row["version"],
        "dropped": row["dropped"],
    }


def _story(found: dict[str, Any]) -> dict[str, Any]:
    """A task's past as its page shows it."""
    steps = [
        {"state": state, "at": at, "worker": worker, "note": ""}
        for state, at, worker in (
            ("submitted", found["submitted_at"], ""),
            ("started", found["started_at"], found["worker"]),
            (found["outcome"], found["ended_at"], found["worker"]),
        )
        if at is not None
    ]
    steps += [
        {"state": event["kind"], "at": event["at"], "worker": event["worker"], "note": event["text"]}
        for event in found["events"]
    ]
    steps.sort(key=lambda step: step["at"])
    for before, step in zip([None, *steps[:-1]], steps, strict=True):
        step["after"] = step["at"] - before["at"] if before is not None else None
    ends = [found, *found["earlier"]]
    return {
        "state": found["outcome"],
        "type": found["type"],
        "worker": found["worker"] or None,
        "attempts": found["attempts"],
        "size": f"{found['nbytes']:,} bytes" if found["nbytes"] else None,
        "facts": {
            "client": found["client"], "executor": found["executor"] if found["worker"] else None,
            "type of the result": found["result_type"], "run": found["run"],
        },
        "timeline": steps,
        "attempts_made": [
            {"attempt": end["attempts"], "worker": end["worker"] or None, "began": end["started_at"],
             "took": end["duration"], "outcome": f"{end['outcome']} {_error(end)}".strip()}
            for end in ends
        ] if len(ends) > 1 else [],
        "failure": {
            "type": found["error_type"], "message": found["error"], "traceback": found["traceback"], "key": "",
            "worker": found["worker"],
        } if found["outcome"] == "failed" else None,
        "notes": [
            {name: row[name] for name in ("at", "worker", "arguments", "result", "output")} for row in found["notes"]
        ],
        "inputs": [_neighbour(row) for row in found["inputs"]],
        "inputs_count": len(found["inputs"]),
        "outputs": [_neighbour(row) for row in found["outputs"]],
        "outputs_count": len(found["outputs"]),
    }  # fmt: skip


def _neighbour(row: dict[str, Any]) -> dict[str, Any]:
    return {"key": row["key"], "type": row["type"], "state": row["outcome"]}
