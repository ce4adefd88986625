"""The book of stored values: freed means gone, unless a task still needs it."""

from __future__ import annotations

from futurebroker.data.objectstore import ObjectStore, StoredValue


def test_a_freed_value_goes_at_once_with_its_file() -> None:
    """Its bytes count until then."""
    store = ObjectStore()
    store.put("a", StoredValue(100, None, "/f/a"))
    store.put("b", StoredValue(3, b"abc"))
    assert store.managed == 103
    store.free("a")
    store.free("unknown")
    assert (store.managed, store.doomed, list(store)) == (3, ["/f/a"], ["b"])
    store.check()


def test_a_pinned_value_stays_until_its_last_pin() -> None:
    """A task that was sent here gets its input whatever happens elsewhere."""
    store = ObjectStore()
    store.put("a", StoredValue(100, None, "/f/a"))
    store["a"].pins = 2
    store.free("a")
    store.unpin("a")
    assert "a" in store
    store.unpin("a")
    assert (store.managed, store.doomed) == (0, ["/f/a"])


def test_another_workers_file_is_used_but_neither_counted_nor_deleted() -> None:
    """It is theirs."""
    store = ObjectStore()
    value = StoredValue(100, None, "/theirs/a", freed=True, holder="w2")
    value.pins = 1
    store.put("a", value)
    assert store.managed == 0
    store.unpin("a")
    assert (len(store), store.doomed) == (0, [])


def test_a_newer_value_takes_the_pins_of_the_older() -> None:
    """A task computed again while others wait with the first copy."""
    store = ObjectStore()
    store.put("a", StoredValue(100, None, "/f/a"))
    store["a"].pins = 1
    store.put("a", StoredValue(5, b"abcde"))
    assert (store["a"].pins, store.managed, store.doomed) == (1, 5, ["/f/a"])
    store.check()
