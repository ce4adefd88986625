"""Amounts as people write them: durations, bytes, parts of a whole."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

_DURATION_UNITS = {
    **dict.fromkeys(("us", "microsecond", "microseconds"), 1e-6),
    **dict.fromkeys(("ms", "millisecond", "milliseconds"), 1e-3),
    **dict.fromkeys(("", "s", "sec", "second", "seconds"), 1.0),
    **dict.fromkeys(("m", "min", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hour", "hours"), 3600.0),
    **dict.fromkeys(("d", "day", "days"), 86400.0),
}
_BYTE_UNITS = {
    **dict.fromkeys(("", "b", "byte", "bytes"), 1),
    **{prefix + "b": 1000**power for power, prefix in enumerate("kmgt", start=1)},
    **{prefix + "ib": 1024**power for power, prefix in enumerate("kmgt", start=1)},
}
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_QUANTITY = re.compile(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*([a-z]*)\s*", re.IGNORECASE | re.ASCII)


def parse_duration(value: object) -> float:
    """Seconds of ``5``, ``"5s"``, ``"200ms"`` or ``"1 min"``; anything else is a ValueError."""
    return quantity(value, _DURATION_UNITS)


def parse_bytes(value: object) -> int:
    """Bytes of ``4000``, ``"4GB"`` or ``"512 MiB"``; anything else is a ValueError."""
    return int(quantity(value, _BYTE_UNITS))


def quantity(value: object, units: Mapping[str, float]) -> float:
    """A number with one of ``units``, or without; anything else is a ValueError."""
    # The comparison also refuses nan, and infinity is no time to wait for.
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < float("inf"):
        return value
    match = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
    if match is None or match[2].lower() not in units:
        raise ValueError(value)
    return float(match[1]) * units[match[2].lower()]


def memory_limit(value: object) -> int | float | Literal["auto"] | None:
    """ "auto", a part of the machine's memory (a float up to 1), or bytes; None: no limit."""
    if isinstance(value, str) and value.strip().lower() == "auto":
        return "auto"
    if isinstance(value, str) and value.strip().lower() == "none":
        return None
    amount = quantity(value, _BYTE_UNITS)
    if 0 < amount < 1 or (amount == 1 and "." in str(value)):
        return float(amount)
    return int(amount) or None


def part(value: object) -> float:
    """0 to 1, also as a percentage; "off" is 0."""
    if value is False or (isinstance(value, str) and value.strip().lower() in ("off", "false", "none")):
        return 0.0
    if isinstance(value, str) and value.strip().endswith("%"):
        value = quantity(value.strip()[:-1].strip(), {"": 0.01})
    found = quantity(value, {"": 1.0})
    if found > 1:
        raise ValueError(value)
    return found


def show_bytes(nbytes: float) -> str:
    """Bytes as people read them."""
    unit = 0
    while nbytes >= 1024 and unit < len(_UNITS) - 1:
        nbytes /= 1024
        unit += 1
    return f"{nbytes:.0f} {_UNITS[unit]}" if nbytes >= 10 or not unit else f"{nbytes:.1f} {_UNITS[unit]}"
