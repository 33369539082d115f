"""Packing inside one effective batch: which rows share a forward pass, on which rank.

The optimizer must see exactly the rows that were chosen for its step, so packing never looks beyond the
step's own batch. Two passes: best-fit-decreasing finds how few packs are needed, then
longest-processing-time-first spreads the rows over that many packs so that they are nearly equal (Graham
1969), which is what keeps ranks from waiting for each other. Pure Python; a batch of 3,840 rows takes tens
of milliseconds.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Sequence

Pack = tuple[int, ...]
"""Positions in the batch, ascending."""


class PackingError(ValueError):
    """A row is longer than a pack."""


def pack(lengths: Sequence[int], capacity: int, ranks: int = 1) -> list[list[Pack]]:
    """`result[micro_step][rank]`: every position of `lengths` exactly once, no pack above `capacity` tokens.

    With several ranks the count of packs is rounded up to a multiple of them, and packs of like size share a
    micro-step. A rank may get an empty pack when there are fewer rows than packs. Raises PackingError.
    """
    if not lengths:
        return []
    longest = max(lengths)
    if longest > capacity or min(lengths) <= 0:
        raise PackingError(f"rows of {min(lengths)} to {longest} tokens do not fit packs of 1 to {capacity}")
    order = sorted(range(len(lengths)), key=lambda position: (-lengths[position], position))
    fewest = _best_fit([lengths[position] for position in order], capacity)
    count = -(-len(fewest) // ranks) * ranks
    packs = _balance(order, lengths, capacity, count)
    if packs is None:  # balancing overflowed a pack: keep the tight packing, which never does
        packs = [[order[position] for position in one] for one in fewest]
        packs += [[] for _ in range(count - len(packs))]
    loads = sorted(
        packs, key=lambda one: (-sum(lengths[position] for position in one), min(one, default=len(lengths)))
    )
    ordered = [tuple(sorted(one)) for one in loads]
    return [ordered[start : start + ranks] for start in range(0, count, ranks)]


def _best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Positions of `lengths` (descending) by pack: each into the fullest pack that still takes it."""
    packs: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (free tokens, pack), sorted
    for position, length in enumerate(lengths):
        place = bisect_left(room, (length, -1))
        if place == len(room):
            packs.append([position])
            insort(room, (capacity - length, len(packs) - 1))
        else:
            free, index = room.pop(place)
            packs[index].append(position)
            insort(room, (free - length, index))
    return packs


def _balance(
    order: Sequence[int], lengths: Sequence[int], capacity: int, count: int
) -> list[list[int]] | None:
    packs: list[list[int]] = [[] for _ in range(count)]
    loads = [(0, index) for index in range(count)]
    for position in order:
        load, index = loads[0]
        if load + lengths[position] > capacity:
            return None
        packs[index].append(position)
        heapq.heapreplace(loads, (load + lengths[position], index))
    return packs
