"""Stamps: headers that every task of a canvas carries, by which what belongs together is known, and can be revoked.

As in Celery, a stamp is an option of a signature, and ``stamped_headers`` names those options that are stamps. A
`StampingVisitor` says what each part is stamped with; plain headers are the same for all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: the option that names the others
NAMES = "stamped_headers"


class StampingVisitor:
    """Says what signatures are stamped with: each method returns headers for its part, and what is in it."""

    def on_signature(self, sig: Any, **headers: Any) -> dict[str, Any] | None:
        """A task; what this returns is for it alone."""
        raise NotImplementedError("a StampingVisitor says at least what tasks are stamped with, in on_signature")

    def on_chain_start(self, sig: Any, **headers: Any) -> dict[str, Any] | None:
        """A chain; what this returns is for all its tasks."""

    def on_chain_end(self, sig: Any, **headers: Any) -> None:
        """All tasks of the chain are stamped."""

    def on_group_start(self, sig: Any, **headers: Any) -> dict[str, Any] | None:
        """A group; what this returns is for all its tasks."""

    def on_group_end(self, sig: Any, **headers: Any) -> None:
        """All tasks of the group are stamped."""

    def on_chord_header_start(self, sig: Any, **headers: Any) -> dict[str, Any] | None:
        """A chord, whose header is a group."""
        return self.on_group_start(sig.tasks, **headers)

    def on_chord_header_end(self, sig: Any, **headers: Any) -> None:
        """All tasks of the header are stamped."""
        self.on_group_end(sig.tasks, **headers)

    def on_chord_body(self, sig: Any, **headers: Any) -> dict[str, Any] | None:
        """A chord; what this returns is for its body."""

    def on_callback(self, callback: Any, **headers: Any) -> dict[str, Any] | None:
        """What is called with a result."""

    def on_errback(self, errback: Any, **headers: Any) -> dict[str, Any] | None:
        """What is called for a failure."""


def stamps_of(options: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The stamps among options, by name."""
    return {name: _listed(options[name]) for name in options.get(NAMES) or () if name in options}


def merged(before: Mapping[str, Any], given: Mapping[str, Any] | None, append: bool) -> dict[str, Any]:
    """Headers with those that are ``given`` in addition; with ``append`` beside the values that were there."""
    given = dict(given or {})
    names = given.pop(NAMES, None)
    stamped = dict.fromkeys((*(before.get(NAMES) or ()), *(given if names is None else names)))
    result = {name: value for name, value in before.items() if name != NAMES}
    for name, value in given.items():
        if append and name in result:
            value = list(dict.fromkeys((*_listed(result[name]), *_listed(value))))
        result[name] = value
    return {**result, NAMES: list(stamped)} if stamped else result


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple, set, frozenset)) else [value]


def begin(headers: Mapping[str, Any]) -> dict[str, Any]:
    """The headers of a call of ``stamp``: all of them are stamps, unless it names those that are."""
    return merged({}, headers, append=False)


def stamp_task(sig: Any, visitor: StampingVisitor | None, append: bool, headers: Mapping[str, Any]) -> None:
    """Stamp a signature that is one task."""
    given = visitor.on_signature(sig, **headers) if visitor is not None else None
    kept = {NAMES, *(sig.options.get(NAMES) or ())}
    own = {name: value for name, value in sig.options.items() if name in kept}
    sig.options.update(merged(own, merged(headers, given, append), append))


def stamp_links(
    sig: Any, visitor: StampingVisitor | None, append: bool, headers: Mapping[str, Any], opened: Any
) -> None:
    """Stamp what is called after a signature; ``opened`` makes signatures of dicts."""
    for option, method in (("link", "on_callback"), ("link_error", "on_errback")):
        links = sig.options.get(option)
        if not links:
            continue
        made = [opened(link) for link in _listed(links)]
        for link in made:
            given = getattr(visitor, method)(link, **headers) if visitor is not None else None
            link.stamp(visitor, append, **merged(headers, given, append))
        sig.options[option] = made
