"""The yield of a run as tables: what was asked for, what came, and why the rest did not, by leaf and reason.

Pure functions over `yield.json` (schema `yield.json`); the terminal, the data set's card and whoever else
shows counts show these, so that no surface tells another story than the ledger.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

HEAD = ("leaf", "asked for", "delivered", "tried", "rejected", "reasons")


def table(leaves: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """One row for each leaf under `HEAD`, and one for all of them when there are several."""
    rows = [_row(leaf["leaf"], [leaf]) for leaf in leaves]
    return [*rows, _row("all leaves", leaves)] if len(rows) > 1 else rows


def _row(name: str, leaves: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    reasons: Counter[str] = Counter()
    for leaf in leaves:
        reasons.update(leaf["rejected"])
    numbers = [sum(leaf[field] for leaf in leaves) for field in ("wanted", "delivered", "asked")]
    return (name, *map(str, numbers), str(reasons.total()), told(reasons))


def told(reasons: Mapping[str, int]) -> str:
    """Reasons, the commonest first."""
    ordered = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} {reason}" for reason, count in ordered) or "none"


def shortfalls(leaves: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence for each leaf that has fewer rows than were asked for."""
    return [f"{leaf['leaf']}: {leaf['why']}" for leaf in leaves if leaf.get("why")]
