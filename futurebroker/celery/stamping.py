"""Stamps: headers that every task of a canvas carries, by which what belongs together is known, and can be revoked.

As in Celery, a stamp is an option of a signature, and ``stamped_headers`` names those options that are stamps. A
`StampingVisitor` says what each part is stamped with; plain headers are the same for all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

#: the option that names the others
NAMES = "stamped_headers"


class StampingVisitor(ABC):
    """Says what signatures are stamped with: each method returns headers for its part, and what is in it."""

    @abstractmethod
    def on_signature(self, sig: Any, /, **headers: Any) -> dict[str, Any]:
        """A task; what this returns is for it alone."""

    def on_chain_start(self, chain: Any, /, **headers: Any) -> dict[str, Any]:
        """A chain; what this returns is for all its tasks."""
        return {}

    def on_chain_end(self, chain: Any, /, **headers: Any) -> None:
        """All tasks of the chain are stamped."""
        return

    def on_group_start(self, group: Any, /, **headers: Any) -> dict[str, Any]:
        """A group; what this returns is for all its tasks."""
        return {}

    def on_group_end(self, group: Any, /, **headers: Any) -> None:
        """All tasks of the group are stamped."""
        return

    def on_chord_header_start(self, sig: Any, /, **header: Any) -> dict[str, Any]:
        """A chord, whose header is a group."""
        return self.on_group_start(sig.tasks, **header)

    def on_chord_header_end(self, sig: Any, /, **header: Any) -> None:
        """All tasks of the header are stamped."""
        self.on_group_end(sig.tasks, **header)

    def on_chord_body(self, sig: Any, /, **header: Any) -> dict[str, Any]:
        """A chord; what this returns is for its body, which has what its header has too."""
        return {}

    def on_callback(self, callback: Any, /, **header: Any) -> dict[str, Any]:
        """What is called with a result."""
        return {}

    def on_errback(self, errback: Any, /, **header: Any) -> dict[str, Any]:
        """What is called for a failure."""
        return {}


class GroupStampingVisitor(StampingVisitor):
    """Stamps tasks with the ids of the groups they are in, as ``groups``, outermost first.

    Args:
        groups: ids that all are stamped with.
        stamped_headers: names of other stamps that the signatures have.
    """

    def __init__(self, groups: Iterable[str] | None = None, stamped_headers: Iterable[str] | None = None) -> None:
        self.groups = list(groups or ())
        self.stamped_headers = list(dict.fromkeys((*(stamped_headers or ()), "groups")))

    def on_group_start(self, group: Any, /, **headers: Any) -> dict[str, Any]:
        if group.id is None:
            group.name_it()
        self.groups.append(group.id)
        return {}

    def on_group_end(self, group: Any, /, **headers: Any) -> None:
        self.groups.pop()

    def on_signature(self, sig: Any, /, **headers: Any) -> dict[str, Any]:
        return {"groups": list(self.groups), NAMES: list(self.stamped_headers)}


def stamps_of(options: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The stamps among options, by name."""
    return {name: _listed(options[name]) for name in options.get(NAMES) or () if name in options}


def merged(
    headers: Mapping[str, Any], given: Mapping[str, Any] | None, append: bool, own: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Headers, with those that a visitor has ``given`` and those among a signature's ``own`` options.

    As in Celery, the value that was there first counts; with ``append``, and of two lists, both do.
    """
    result = {**headers, NAMES: list(headers[NAMES] if headers.get(NAMES) is not None else headers)}
    if given is not None:
        _add(result, {**given, NAMES: list(given.get(NAMES, given))}, append)
    if own is not None:
        result[NAMES] += own.get(NAMES) or ()
        _add(result, {name: own[name] for name in result[NAMES] if name in own}, append)
    result[NAMES] = list(dict.fromkeys(result[NAMES]))
    return result


def _add(headers: dict[str, Any], more: Mapping[str, Any], append: bool) -> None:
    for name, value in more.items():
        if name not in headers:
            headers[name] = value
            continue
        before = headers[name]
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            headers[name] = inner = dict(before)
            _add(inner, value, append)
        elif isinstance(before, list) and isinstance(value, list):
            headers[name] = [*before, *value]
        elif append:
            first = [] if before is None else _listed(before)
            # A string's value stays one: what was a single value before is followed by all of a list.
            headers[name] = [*first, *value] if isinstance(value, list) else [*first, value]


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple, set, frozenset)) else [value]


def stamp_task(sig: Any, visitor: StampingVisitor | None, append: bool, headers: Mapping[str, Any]) -> None:
    """Stamp a signature that is one task."""
    given = visitor.on_signature(sig, **headers) or {} if visitor is not None else None
    stamped = merged(headers, given, append, sig.options)
    if not stamped[NAMES]:
        del stamped[NAMES]
    sig.options.update(stamped)


def stamp_links(
    sig: Any, visitor: StampingVisitor | None, append: bool, headers: Mapping[str, Any], opened: Any
) -> None:
    """Stamp what is called after a signature; ``opened`` makes signatures of dicts."""
    for option, method in (("link", "on_callback"), ("link_error", "on_errback")):
        links = sig.options.get(option)
        if not links:
            continue
        made = [opened(link) for link in _listed(links)]
        inner = dict(headers)
        for link in made:
            given = getattr(visitor, method)(link, **inner) or {} if visitor is not None else None
            inner = merged(inner, given, append)
            link.stamp(visitor, append, **inner)
        sig.options[option] = made
