"""Packing inside one effective batch: which rows share a forward pass, on which rank.

The optimizer must see exactly the rows that were chosen for its step, so packing never looks beyond the
step's own batch. Three passes: best-fit-decreasing finds how few packs are needed;
longest-processing-time-first spreads the rows over that many packs so that those of one micro-step are
nearly equal (Graham 1969, "Bounds on multiprocessing timing anomalies"); then rows change places within a
micro-step until its ranks hardly wait for each other. Pure Python; a batch of 3,840 rows takes about ten
milliseconds (`bench/packing/`).
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence

Pack = tuple[int, ...]
"""Positions in the batch, ascending."""

_EVEN = 0.002  # a rank that waits for less than this share of a micro-step is not worth a search


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
    packs = _balance(order, lengths, capacity, count, ranks)
    if packs is None:  # balancing overflowed a pack: keep the tight packing, which never does
        packs = [[order[position] for position in one] for one in fewest]
        packs += [[] for _ in range(count - len(packs))]
    packs.sort(key=lambda one: (-sum(lengths[position] for position in one), min(one, default=len(lengths))))
    return [
        [tuple(sorted(one)) for one in _even_out(packs[start : start + ranks], lengths)]
        for start in range(0, count, ranks)
    ]


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
    order: Sequence[int], lengths: Sequence[int], capacity: int, count: int, ranks: int
) -> list[list[int]] | None:
    """Longest rows first, each into the pack that is furthest below its level; None when one fits nowhere."""
    packs: list[list[int]] = [[] for _ in range(count)]
    loads = [0] * count
    room = [(-level, index) for index, level in enumerate(_levels(order, lengths, count, ranks))]
    heapq.heapify(room)
    for position in order:
        length, full = lengths[position], []
        while room and loads[room[0][1]] + length > capacity:
            full.append(heapq.heappop(room))
        if not room:
            return None
        free, index = room[0]
        packs[index].append(position)
        loads[index] += length
        heapq.heapreplace(room, (free + length, index))
        for entry in full:
            heapq.heappush(room, entry)
    return packs


def _levels(order: Sequence[int], lengths: Sequence[int], count: int, ranks: int) -> Iterator[float]:
    """How full each pack should be: alike, but where one long row holds up a micro-step anyway, its other
    ranks may as well do as much, and the micro-steps after it less."""
    left = float(sum(lengths))
    for first in range(0, count, ranks):
        longest = lengths[order[first]] if first < len(order) else 0
        level = max(longest, left / (count - first))
        left = max(0.0, left - level * ranks)
        yield from [level] * ranks


def _even_out(packs: list[list[int]], lengths: Sequence[int]) -> list[list[int]]:
    """The packs of one micro-step with rows moved, or swapped in pairs, from the fullest to another pack for
    as long as the fullest gets smaller by it. No pack grows beyond the one that was fullest before."""
    if len(packs) == 1:
        return packs
    loads = [sum(lengths[position] for position in one) for one in packs]
    mean = sum(loads) / len(loads)
    for _ in range(8 * len(packs)):
        full = max(range(len(packs)), key=loads.__getitem__)
        if loads[full] - mean <= _EVEN * mean or not _relieve(full, packs, loads, lengths):
            break
    return packs


def _relieve(full: int, packs: list[list[int]], loads: list[int], lengths: Sequence[int]) -> bool:
    """Make the pack `full` smaller by the change that leaves it and its partner most alike, the emptiest
    partner first; False when no change helps."""
    for other in sorted(range(len(packs)), key=loads.__getitem__):
        gap = loads[full] - loads[other]
        if gap <= 1:
            return False
        # (length, position) of what could come back; nothing at all is the first choice.
        back = sorted((lengths[position], position) for position in packs[other])
        best: tuple[int, int, int | None] | None = None
        for position in packs[full]:
            length = lengths[position]
            at = bisect_left(back, (length - gap // 2, -1))
            for returned, partner in [(0, None), *back[max(0, at - 1) : at + 1]]:
                moved = length - returned
                if 0 < moved < gap and (best is None or abs(2 * moved - gap) < best[0]):
                    best = (abs(2 * moved - gap), position, partner)
        if best is not None:
            _, position, partner = best
            packs[full].remove(position)
            packs[other].append(position)
            moved = lengths[position]
            if partner is not None:
                packs[other].remove(partner)
                packs[full].append(partner)
                moved -= lengths[partner]
            loads[full] -= moved
            loads[other] += moved
            return True
    return False
