"""Keys that users chose for their calls: which of them were used before, and are used for another call now.

What the scheduler says of such a key may be on its way since the call before. So it is asked something first: until its
answer is there, whatever it says of the key is about that call. Everything here happens with the ledger's lock held.
"""

from __future__ import annotations

from collections.abc import Callable

from futurebroker.protocol.messages import Ask
from futurebroker.types import Key

#: keys that are remembered: one that was used before so many others has nothing on its way any more
MOST = 100_000


class ChosenKeys:
    """The keys of one client; see the top of this file.

    Args:
        number: gives a number for a question.
    """

    def __init__(self, number: Callable[[], int]) -> None:
        self._number = number
        self._used: dict[Key, None] = {}
        #: those that were used more than once
        self.again: dict[Key, None] = {}
        #: keys of which all that comes is about the call before, with the questions that end this
        self.former: dict[Key, set[int]] = {}

    def use(self, key: Key) -> Ask | None:
        """A call is made under ``key``; what to ask before it is sent, if the key was used before."""
        if key not in self._used:
            _add(self._used, key)
            return None
        _add(self.again, key)
        self.former[key] = set()
        return self._ask(key)

    def _ask(self, key: Key) -> Ask:
        number = self._number()
        self.former[key].add(number)
        return Ask(number, "who_has", [])  # which costs nothing to answer

    def ask_again(self) -> list[Ask]:
        """Another scheduler goes on, and the answers may have gone with the one before."""
        return [self._ask(key) for key in self.former]

    def answered(self, number: int) -> None:
        """A question is answered; perhaps one of ours."""
        for key in [key for key, asked in self.former.items() if number in asked]:
            del self.former[key]

    def forget(self) -> None:
        """The scheduler is a new one, which can't say anything about calls before."""
        self.former.clear()


def _add(keys: dict[Key, None], key: Key) -> None:
    keys[key] = None
    if len(keys) > MOST:
        del keys[next(iter(keys))]
