"""Names met before, of millions: sixteen bytes each."""

import hashlib

import numpy as np

_RECENT = 65_536


class Seen:
    """Where each name was first met; of a name eight bytes of a digest are kept.

    Two of 100 million different names are taken for one with a chance of 3 in 10,000.
    """

    def __init__(self) -> None:
        self._heads = np.empty(0, np.uint64)
        self._places = np.empty(0, np.int64)
        self._recent: dict[int, int] = {}

    def first(self, name: str, place: int) -> int:
        """Return where this name was first met: `place` where it never was."""
        text = name.encode("utf-8", "surrogatepass")
        head = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest())
        at = int(np.searchsorted(self._heads, np.uint64(head)))
        if at < len(self._heads) and self._heads[at] == head:
            return int(self._places[at])
        found = self._recent.setdefault(head, place)
        if len(self._recent) >= _RECENT:
            self._sort_in()
        return found

    def _sort_in(self) -> None:
        # numbers of Python take ten times the room: they wait in small lots only
        heads = np.fromiter(self._recent.keys(), np.uint64, len(self._recent))
        places = np.fromiter(self._recent.values(), np.int64, len(self._recent))
        order = np.argsort(heads)
        at = np.searchsorted(self._heads, heads[order])
        self._heads = np.insert(self._heads, at, heads[order])
        self._places = np.insert(self._places, at, places[order])
        self._recent = {}
