"""A bar that shows how many of some futures are done: lines in a terminal, HTML in a notebook, else nothing."""

from __future__ import annotations

import html
import importlib
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TextIO

from futurebroker.client.futures import FINISHED, KeyState
from futurebroker.client.gathering import futures_in
from futurebroker.client.waiters import Countdown, pause, run_blocking
from futurebroker.client.waiting import by_keeper

#: seconds between two drawings
INTERVAL = 0.1
#: functions that have a line of their own in a terminal
MOST_LINES = 10


class Tally:
    """Counts, for each function's name, how many of its keys are settled; itself a `Waiter`."""

    def __init__(self, states: list[KeyState]) -> None:
        self.total = Counter(name_in(state.key) for state in states)
        self.finished: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.all_done = Countdown(len(states))
        self.began = time.monotonic()

    def ready(self, settled: Sequence[KeyState]) -> None:
        """See `Waiter.ready`."""
        for state in settled:
            counts = self.finished if state.status is FINISHED else self.failed
            counts[name_in(state.key)] += 1
        self.all_done.ready(settled)

    @property
    def seconds(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self.began


class Drawing(Protocol):
    """A place to draw progress in."""

    def draw(self, tally: Tally) -> None:
        """Show how things stand, in place of what was drawn before."""

    def end(self) -> None:
        """Nothing more will be drawn."""


def progress(*futures: Any, notebook: bool | None = None, file: TextIO | None = None) -> Any:
    """Wait until ``futures`` are done and meanwhile show a bar, as in dask.distributed.

    There is no bar when the output isn't a terminal. Failed and cancelled futures count as done and raise nothing. With
    futures of an asynchronous client this returns an awaitable.

    Args:
        futures: futures, in any nesting of lists, tuples, sets and dicts.
        notebook: draw HTML in a notebook; by default where there is one.
        file: where to draw instead of the standard error output.
    """
    states = list({id(future._state): future._state for future in futures_in(futures)}.values())
    output = sys.stderr if file is None else file
    if notebook is None:
        notebook = file is None and _in_notebook()
    drawing: Drawing | None = None
    if notebook:
        drawing = NotebookBar(importlib.import_module("IPython.display").display)
    elif output.isatty():
        drawing = TerminalBar(output)
    asynchronous = any(state.keeper.asynchronous for state in states)
    coroutine = _follow(states, drawing, not asynchronous)
    return coroutine if asynchronous else run_blocking(coroutine)


async def _follow(states: list[KeyState], drawing: Drawing | None, blocking: bool) -> None:
    tally = Tally(states)
    watched = by_keeper(states)
    for keeper, some in watched.items():
        keeper.watch(some, tally)
    try:
        if drawing is not None:
            drawing.draw(tally)
        interval = None if drawing is None else INTERVAL
        while states and not await pause(tally.all_done, blocking, interval):
            if drawing is not None:
                drawing.draw(tally)
        if drawing is not None:
            drawing.draw(tally)
    finally:
        for keeper, some in watched.items():
            keeper.unwatch(some, tally)
        if drawing is not None:
            drawing.end()


class TerminalBar:
    """A line of a terminal for all, and under it one for each function if there are several, drawn over again."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._height = 0

    def draw(self, tally: Tally) -> None:
        """See `Drawing.draw`."""
        size = shutil.get_terminal_size()
        drawn = lines(tally, size.columns - 1, size.lines - 1)
        # Back to the first line of what was drawn before; each line is cleared as it is written again.
        up = f"\x1b[{self._height - 1}A" if self._height > 1 else ""
        self._file.write(f"\r{up}" + "\n".join(f"\x1b[K{line}" for line in drawn))
        self._file.flush()
        self._height = len(drawn)

    def end(self) -> None:
        """See `Drawing.end`."""
        self._file.write("\n")
        self._file.flush()


def lines(tally: Tally, width: int, height: int) -> list[str]:
    """The bar of all tasks and, if they are of several functions, of the functions with the most tasks."""
    finished, failed, total = tally.finished.total(), tally.failed.total(), tally.total.total()
    drawn = [_line("", finished, failed, total, f" | {tally.seconds:.1f} s", width)]
    if len(tally.total) > 1:
        # Always the same ones in the same order, for lines must not jump.
        for name, count in tally.total.most_common(max(0, min(height - 1, MOST_LINES))):
            drawn.append(_line(name, tally.finished[name], tally.failed[name], count, "", width))
    return drawn


def _line(name: str, finished: int, failed: int, total: int, rest: str, width: int) -> str:
    """One bar of at most ``width`` characters."""
    done = finished + failed
    part = done / total if total else 1.0
    text = f" {part:4.0%} | {done:,} of {total:,}{rest}" + (f" | {failed:,} failed" if failed else "")
    if name:
        text += f" | {name}"
    room = min(40, width - len(text) - 2)
    if room < 5:
        return text.strip()[: max(0, width)]
    filled = int(part * room)
    return f"[{'#' * filled}{' ' * (room - filled)}]{text}"


class NotebookBar:
    """A bar for each function in the output of a notebook's cell, drawn over again."""

    def __init__(self, display: Callable[..., Any]) -> None:
        self._display = display
        self._handle: Any = None

    def draw(self, tally: Tally) -> None:
        """See `Drawing.draw`."""
        content = {"text/html": bars(tally), "text/plain": "\n".join(lines(tally, 79, MOST_LINES))}
        if self._handle is None:
            self._handle = self._display(content, raw=True, display_id=True)
        else:
            self._handle.update(content, raw=True)

    def end(self) -> None:
        """See `Drawing.end`."""


def bars(tally: Tally) -> str:
    """The bars as HTML; of each function the part that is done, and in red the part that failed."""
    rows = []
    for name, total in tally.total.most_common():
        finished, failed = tally.finished[name], tally.failed[name]
        rows.append(
            f"<tr><td>{html.escape(name)}</td><td style='width: 300px'>"
            "<div style='display: flex; height: 1em; background: #ddd'>"
            f"<div style='width: {100 * finished / total:.1f}%; background: #2a7'></div>"
            f"<div style='width: {100 * failed / total:.1f}%; background: #c33'></div></div></td>"
            f"<td>{finished + failed:,} of {total:,}{f', {failed:,} failed' if failed else ''}</td></tr>"
        )
    return f"<table>{''.join(rows)}</table><p>{tally.seconds:.1f} s</p>"


def name_in(key: str) -> str:
    """The function's name that a key begins with."""
    return key.rpartition("-")[0] or key


def _in_notebook() -> bool:
    """Whether IPython runs this program with a display that understands HTML."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"
