"""How figures are written on pages, in the report and in the terminal: the same everywhere."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def size(nbytes: float | None) -> str:
    """Bytes as people read them."""
    if nbytes is None:
        return "–"
    unit = 0
    while abs(nbytes) >= 1024 and unit < len(_UNITS) - 1:
        nbytes /= 1024
        unit += 1
    return f"{nbytes:.0f} {_UNITS[unit]}" if abs(nbytes) >= 10 or not unit else f"{nbytes:.1f} {_UNITS[unit]}"


def duration(seconds: float | None) -> str:
    """A length of time, with about three digits."""
    if seconds is None:
        return "–"
    if seconds < 1e-3:
        return "0 s" if not seconds else f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms"
    if seconds < 99.5:
        return f"{seconds:.3g} s"
    if seconds < 5400:
        return f"{seconds // 60:.0f} min {seconds % 60:02.0f} s"
    if seconds < 172_800:
        return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:02.0f} min"
    return f"{seconds / 86400:.1f} days"


def count(number: float | None) -> str:
    """A whole number with separators."""
    return "–" if number is None else f"{number:,.0f}"


def rate(per_second: float | None) -> str:
    """How many a second."""
    if not per_second:
        return "–"
    if per_second < 0.1:
        return f"{per_second * 60:.2g}/min"
    return f"{per_second:,.0f}/s" if per_second >= 10 else f"{per_second:.2g}/s"


def percent(share: float | None) -> str:
    """A share of one."""
    return "–" if share is None else f"{100 * share:.0f} %"


def moment(when: float | None) -> str:
    """A time as ISO 8601 in UTC; the page shows it in the reader's own."""
    if when is None:
        return "–"
    return datetime.fromtimestamp(when, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def ago(when: float | None) -> str:
    """How long ago a time was."""
    if when is None:
        return "–"
    return f"{duration(max(0.0, time.time() - when))} ago"


def until(when: float | None) -> str:
    """How long until a time."""
    if when is None:
        return "–"
    left = when - time.time()
    return f"in {duration(left)}" if left >= 1 else "now"


def shorten(text: Any, length: int = 80) -> str:
    """At most ``length`` characters, the middle left out."""
    words = str(text)
    if len(words) <= length:
        return words
    head = (length - 1) * 2 // 3
    return f"{words[:head]}…{words[-(length - 1 - head) :]}"


FILTERS = {
    "size": size,
    "duration": duration,
    "count": count,
    "rate": rate,
    "percent": percent,
    "moment": moment,
    "ago": ago,
    "until": until,
    "shorten": shorten,
}
