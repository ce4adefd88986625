"""Looking into a cluster: stories of tasks, call stacks, profiles, the task stream, versions, events and logs."""

from __future__ import annotations

import gzip
import html
import itertools
import json
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from futurebroker.client.calls import worker_names
from futurebroker.client.core import ClientCore
from futurebroker.client.futures import Future
from futurebroker.client.inquiries import Keyed, keys_of
from futurebroker.types import Key
from futurebroker.versions import versions

#: file endings that `Insight.dump_cluster_state` writes, and the word for each
_ENDINGS = {"msgpack": ".msgpack.gz", "json": ".json.gz"}


class Insight(ClientCore):
    """Each method returns its answer, or an awaitable with an asynchronous client."""

    def story(self, *keys: Key | Future[Any]) -> Any:
        """What became of tasks: a list of [wall time, key, what happened, worker, attempt], oldest first.

        Kept is what isn't usual (runs that were taken back, exceptions answered by a retry, lost executors, workers and
        results, failures), the newest 10,000 such notes of the cluster; the last line of each key says where it stands
        now. Usual runs are there while `get_task_stream` records them, or somebody looks at a site without a history.
        """
        return self._ask("story", [key.key if isinstance(key, Future) else key for key in keys])

    def call_stack(self, futures: Keyed | None = None, workers: str | Iterable[str] | None = None) -> Any:
        """By the key of each running task, its stack, outermost call first; of ``futures``, or of all."""
        keys = keys_of(futures)
        return self._ask("call_stack", {"keys": keys, "workers": _names(workers)})

    def output(self, *keys: Key | Future[Any]) -> Any:
        """By the key of each task, what it printed, and its arguments and result in short words.

        ``{"arguments": ..., "result": ..., "output": ...}``, of a task that runs as far as it has come. Output is kept
        of tasks that print; words are made of those that print, fail or take over 10 ms. The scheduler keeps those of
        the newest tasks, 4 MB in all; settings ``task_output`` and ``task_arguments`` of workers turn either off.
        """
        wanted = [key.key if isinstance(key, Future) else key for key in keys]

        async def work(blocking: bool) -> dict[Key, dict[str, str]]:
            told: dict[Key, dict[str, str]] = await self._connection.ask("task_notes", {"keys": wanted}, blocking)
            for note in told.values():
                note["result"] = ""
            # Asked afterwards: what ended in between is told by one of the two.
            ended = await self._connection.ask("notes", [key for key in wanted if key not in told], blocking)
            for key, note in ended.items():
                told[key] = {name: note[name] for name in ("arguments", "result", "output")}
            return told

        return self._enter(work)

    def profile(
        self,
        key: str | None = None,
        start: float | None = None,
        stop: float | None = None,
        workers: str | Iterable[str] | None = None,
        merge_workers: bool = True,
        filename: str | os.PathLike[str] | None = None,
    ) -> Any:
        """Where tasks spent their time in the last ten minutes, sampled 50 times a second in every executor.

        A node is ``{name, file, line, count, children}``: how often a call was seen, with what it called. The first
        level below the root are the names of tasks.

        Args:
            key: only tasks of this name, as ``inc`` for ``client.submit(inc, ...)``.
            start: wall time, and ``stop`` likewise, to within ten seconds.
            merge_workers: False gives a tree for each worker.
            filename: write a page with a flame graph there as well.
        """
        about = {"key": key, "start": start, "stop": stop, "workers": _names(workers)}

        async def work(blocking: bool) -> Any:
            tree = await self._connection.ask("profile" if merge_workers else "profiles", about, blocking)
            if filename is not None:
                Path(filename).write_text(flame_page(tree if merge_workers else _under_one_root(tree)))
            return tree

        return self._enter(work)

    def get_task_stream(
        self, start: float | None = None, stop: float | None = None, count: int | None = None
    ) -> TaskStream:
        """The ends of tasks, recorded from the first call on; within a ``with`` block, those in it.

        Called outside of ``with`` it records from then on, and ``.data`` asks for what was recorded. Each end is
        ``{key, worker, start, stop, nbytes, type, status}``; the newest 100,000 are kept.
        """
        return TaskStream(self, start, stop, count)

    def get_versions(self, check: bool = False, packages: Iterable[str] = ()) -> Any:
        """Versions of Python and packages: ``{"scheduler": ..., "workers": {id: ...}, "client": ...}``.

        Args:
            check: raise ValueError, with a table, when they differ.
            packages: look for these as well.
        """
        extra = list(packages)

        async def work(blocking: bool) -> dict[str, Any]:
            answer = await self._connection.ask("versions", {"packages": extra}, blocking)
            found = {**answer, "client": versions(extra)}
            if check and (table := differences(found)):
                raise ValueError(f"versions differ, so what one side pickles another may not open:\n{table}")
            return found

        return self._enter(work)

    def dump_cluster_state(self, filename: str = "futurebroker-dump", format: str = "msgpack") -> Any:
        """Write all the scheduler knows to a file, for reports of errors; returns its path.

        Args:
            filename: without an ending.
            format: "msgpack" (``.msgpack.gz``) or "json" (``.json.gz``).
        """
        if format not in _ENDINGS:
            raise ValueError(f"format= takes 'msgpack' or 'json', got {format!r}")

        async def work(blocking: bool) -> str:
            state: dict[str, Any] = {"tasks": {}, "client": {"id": self.id, "versions": versions()}}
            offset: int | None = 0
            while offset is not None:
                page = await self._connection.ask("dump", offset, blocking)
                state["tasks"].update(page.pop("tasks"))
                offset = page.pop("next", None)
                state.update(page)
            path = filename + _ENDINGS[format]
            packed = msgspec.msgpack.encode(state) if format == "msgpack" else json.dumps(state, default=str).encode()
            Path(path).write_bytes(gzip.compress(packed))
            return path

        return self._enter(work)

    def log_event(self, topic: str | Iterable[str], msg: Any) -> Any:
        """Keep ``msg``, of plain data, under one topic or several; the newest 1,000 of each are kept."""
        topics = [topic] if isinstance(topic, str) else list(topic)
        return self._ask("log_event", {"topics": topics, "event": msg})

    def get_events(self, topic: str | None = None) -> Any:
        """What was logged under a topic, as (wall time, event) pairs; without one, all by topic.

        The topic "all" has everything; workers coming and going are logged under their ids.
        """

        async def work(blocking: bool) -> Any:
            answer = await self._connection.ask("get_events", topic, blocking)
            if topic is not None:
                return tuple((at, event) for at, event in answer)
            return {name: tuple((at, event) for at, event in kept) for name, kept in answer.items()}

        return self._enter(work)

    def get_scheduler_logs(self, n: int | None = None) -> Any:
        """The newest lines of the scheduler's log, newest last, as (level, line)."""

        async def work(blocking: bool) -> list[tuple[str, str]]:
            return _lines(await self._connection.ask("scheduler_logs", None, blocking), n)

        return self._enter(work)

    def get_worker_logs(self, n: int | None = None, workers: str | Iterable[str] | None = None) -> Any:
        """By worker id, the newest lines of its log, newest last, as (level, line)."""

        async def work(blocking: bool) -> dict[str, list[tuple[str, str]]]:
            answer = await self._connection.ask("worker_logs", {"workers": _names(workers)}, blocking)
            return {worker: _lines(lines, n) for worker, lines in answer.items()}

        return self._enter(work)

    def get_logs(self) -> Any:
        """The newest lines of the logs of all processes, by worker id, and ``scheduler``."""

        async def work(blocking: bool) -> dict[str, list[tuple[str, str]]]:
            ours = await self._connection.ask("scheduler_logs", None, blocking)
            theirs = await self._connection.ask("worker_logs", {}, blocking)
            lines = {worker: _lines(kept, None) for worker, kept in theirs.items()}
            return {"scheduler": _lines(ours, None), **lines}

        return self._enter(work)


class TaskStream:
    """The ends of tasks; see `Insight.get_task_stream`. ``with`` or ``async with`` record those within it."""

    def __init__(
        self, client: Insight, start: float | None = None, stop: float | None = None, count: int | None = None
    ) -> None:
        self._client = client
        self._about = {"start": start, "stop": stop, "count": count}
        self._inside: list[dict[str, Any]] | None = None
        self._began_recording = False
        if not client.asynchronous:
            self._began_recording = not client._ask("record_stream", True)

    @property
    def data(self) -> list[dict[str, Any]]:
        """The ends of tasks: those within the ``with`` block once that is over, else all that are kept."""
        if self._inside is not None:
            return self._inside
        ends: list[dict[str, Any]] = self._client._ask("task_stream", self._about)
        return ends

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.data)

    def __len__(self) -> int:
        return len(self.data)

    def __enter__(self) -> TaskStream:
        if self._client.asynchronous:
            raise TypeError("with an asynchronous client it is entered with: async with")
        self._about["start"] = time.time()
        return self

    def __exit__(self, *_: object) -> None:
        self._inside = self.data
        if self._began_recording:
            self._client._ask("record_stream", False)

    async def __aenter__(self) -> TaskStream:
        self._began_recording = not await self._client._ask("record_stream", True)
        self._about["start"] = time.time()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._inside = await self._client._ask("task_stream", self._about)
        if self._began_recording:
            await self._client._ask("record_stream", False)


def _names(workers: str | Iterable[str] | None) -> list[str] | None:
    return None if workers is None else list(worker_names(workers))


def _lines(kept: list[Any], n: int | None) -> list[tuple[str, str]]:
    return [(level, line) for _, level, line in (kept if n is None else kept[-n:])]


# -- versions ----------------------------------------------------------------------------------------------------------


def differences(found: dict[str, Any]) -> str:
    """A table of the packages that not all sides have in one version; empty if there is none."""
    sides = {"client": found["client"], "scheduler": found["scheduler"], **found["workers"]}
    lines = []
    for package in dict.fromkeys(itertools.chain.from_iterable(sides.values())):
        seen = {side: about.get(package) for side, about in sides.items() if package in about}
        if len(set(seen.values())) > 1:
            lines.append(f"  {package}: " + ", ".join(f"{side} {version or 'none'}" for side, version in seen.items()))
    return "\n".join(lines)


# -- flame graphs ------------------------------------------------------------------------------------------------------


def _under_one_root(trees: dict[str, dict[str, Any]]) -> dict[str, Any]:
    children = [{**tree, "name": worker} for worker, tree in trees.items()]
    return {"name": "", "file": "", "line": 0, "count": sum(c["count"] for c in children), "children": children}


def flame_page(tree: dict[str, Any]) -> str:
    """A page that shows a profile as a flame graph, without scripts: wider means more time, lower means called."""
    total = tree["count"] or 1
    parts: list[str] = []

    def draw(node: dict[str, Any], left: float, depth: int) -> int:
        deepest = depth
        for child in node["children"]:
            width = 100 * child["count"] / total
            if width >= 0.1:
                share = f"{child['count']:,} samples, {width:.1f} %"
                title = html.escape(f"{child['name']} {share} {child['file']}:{child['line']}")
                hue = sum(child["name"].encode()) % 50 + 10
                parts.append(
                    f'<div title="{title}" style="left:{left:.3f}%;width:{width:.3f}%;top:{depth * 20}px;'
                    f'background:hsl({hue} 85% 72%)">{html.escape(child["name"])}</div>'
                )
                deepest = max(deepest, draw(child, left, depth + 1))
            left += width
        return deepest

    height = 20 * (draw(tree, 0.0, 0) + 1)
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>futurebroker profile</title><style>"
        "body{font:13px sans-serif;margin:1em}main{position:relative}"
        "main div{position:absolute;height:18px;overflow:hidden;white-space:nowrap;box-sizing:border-box;"
        "padding:1px 3px;border:1px solid #fff;font-size:11px;color:#222}</style>"
        f"<h1>Profile of {tree['count']:,} samples</h1><main style='height:{height}px'>{''.join(parts)}</main></html>"
    )
