"""Near duplicates among many pictures, by their perceptual hashes, without comparing all with all.

Multi-index hashing (Norouzi, Punjani, Fleet 2012): two hashes of 64 bits that differ in at most 7
differ in at most one of the bits of at least one of their four quarters. So each is only compared
with those that have a quarter in common, but for one bit: 68 look-ups a hash.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

APART = 7  # bits; for more a quarter may differ in two, which is 548 look-ups
COLOURS_APART = 12.0  # mean difference of the small thumbnails' colours, of 255
MOST_COMPARED = 2_000_000  # at once: some 100 MB

_QUARTERS = np.arange(0, 64, 16, dtype=np.uint64)
_FLIPS = np.concatenate(([0], 1 << np.arange(16)))  # a quarter as it is, and with one other bit

Places = NDArray[np.int64]


def groups(hashes: NDArray[np.uint64], colours: NDArray[np.uint8]) -> list[list[int]]:
    """Pictures that look nearly the same, as places in the arrays, each in one group at most.

    ``hashes`` (n,) and ``colours`` (n, channels) are in order, the best picture first. A group is a
    picture and all worse ones that are near *it*: a chain of small steps makes no group of a whole
    set.
    """
    index = _Index(hashes)
    taken = np.zeros(len(hashes), bool)
    found: dict[int, list[int]] = {}
    begin, ends = 0, np.cumsum(index.compared)
    while begin < len(hashes):
        before = ends[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(ends, before + MOST_COMPARED, "right")))
        asking = np.arange(begin, end)
        begin = end
        asking = asking[~taken[asking]]
        if not len(asking):
            continue
        one, other = index.near(asking)
        apart = np.abs(colours[one].astype(np.int16) - colours[other]).mean(axis=1)
        alike = apart <= COLOURS_APART
        by_place = np.lexsort((other[alike], one[alike]))
        pairs = zip(one[alike][by_place].tolist(), other[alike][by_place].tolist(), strict=True)
        for best, worse in pairs:
            if not taken[worse] and (best in found or not taken[best]):
                taken[best] = taken[worse] = True
                found.setdefault(best, [best]).append(worse)
    return list(found.values())


class _Index:
    """Hashes by each of their quarters. ``compared``: with how many each one is compared."""

    def __init__(self, hashes: NDArray[np.uint64]) -> None:
        self._hashes = hashes
        quarters = (hashes[:, None] >> _QUARTERS & np.uint64(0xFFFF)).astype(np.int64)
        self._keys = quarters + np.arange(4) * 0x10000  # (n, 4)
        flat = self._keys.T.ravel()
        self._places = np.argsort(flat, kind="stable") % max(len(hashes), 1)
        self._starts = np.concatenate(([0], np.cumsum(np.bincount(flat, minlength=4 * 0x10000))))
        counts = np.diff(self._starts)
        self.compared = np.zeros(len(hashes), np.int64)
        for flip in _FLIPS:
            self.compared += counts[self._keys ^ flip].sum(axis=1)

    def near(self, asking: Places) -> tuple[Places, Places]:
        """Each of ``asking`` with every later hash that is at most APART from it."""
        keys = (self._keys[asking][:, :, None] ^ _FLIPS).reshape(len(asking), -1)  # (m, 68)
        starts = self._starts[keys].ravel()
        counts = self._starts[keys + 1].ravel() - starts
        one = np.repeat(np.repeat(asking, keys.shape[1]), counts)
        within = np.arange(len(one)) - np.repeat(np.cumsum(counts) - counts, counts)
        other = self._places[np.repeat(starts, counts) + within]
        later = other > one
        one, other = one[later], other[later]
        near = np.bitwise_count(self._hashes[one] ^ self._hashes[other]) <= APART
        return one[near], other[near]
