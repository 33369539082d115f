"""Runs whose truth is known, and how often the gate's statistics err or find in them.

    rate = error_rate(NULLS["24 items in 8 passages"], runs=2000, draws=999, seed=7)
    rate.share, rate.at_least, rate.at_most          with exact binomial bounds

Used by `run.py` (the tables) and by the tests of `gpu_runner/statistics.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpu_runner.gate import decide
from gpu_runner.statistics import paired
from lab.config import GatePolicy

ALPHA = 0.05
SURE = 0.99
Floats = NDArray[np.float64]
Draw = Callable[[np.random.Generator], tuple[Floats, Floats]]


@dataclass(frozen=True)
class Truth:
    """`draw` makes base's and candidate's scores; in truth the candidate is better by `difference`, and the
    gate asks whether it is better by more than that: every yes is an error."""

    draw: Draw
    passages: list[int]
    difference: float


@dataclass(frozen=True)
class Rate:
    """`found` of `runs`, with exact bounds (Clopper & Pearson 1934, Biometrika 26), 99 % to either side."""

    found: int
    runs: int

    @property
    def share(self) -> float:
        return self.found / self.runs

    @property
    def at_least(self) -> float:
        return 0.0 if self.found == 0 else _bisect(lambda p: _tail(self.found, self.runs, p) < 1 - SURE)

    @property
    def at_most(self) -> float:
        if self.found == self.runs:
            return 1.0
        return _bisect(lambda p: 1 - _tail(self.found + 1, self.runs, p) > 1 - SURE)


def _tail(count: int, runs: int, p: float) -> float:
    """P(X >= count) for X ~ Binomial(runs, p)."""
    logs = [
        math.lgamma(runs + 1)
        - math.lgamma(k + 1)
        - math.lgamma(runs - k + 1)
        + k * math.log(p)
        + (runs - k) * math.log1p(-p)
        for k in range(count, runs + 1)
    ]
    return min(1.0, math.fsum(math.exp(value) for value in logs))


def _bisect(goes_up: Callable[[float], bool]) -> float:
    low, high = 1e-9, 1 - 1e-9
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if goes_up(middle) else (low, middle)
    return low


def _singles(items: int) -> list[int]:
    return list(range(items))


def _passages(items: int, clusters: int) -> list[int]:
    return [index * clusters // items for index in range(items)]


def right_or_wrong(items: int, disagree: float, difference: float) -> Draw:
    """Items on which the two models disagree in a share `disagree`, more often to the candidate's side by
    `difference`."""

    def draw(generator: np.random.Generator) -> tuple[Floats, Floats]:
        u = generator.random(items)
        up = u < (disagree + difference) / 2
        down = (u >= (disagree + difference) / 2) & (u < disagree)
        return down.astype(float), up.astype(float)

    return draw


def by_passage(passages: list[int], disagree: float) -> Draw:
    """A passage goes one way or the other as a whole, by a coin: the worst case of dependence."""
    clusters = max(passages) + 1
    labels = np.array(passages)

    def draw(generator: np.random.Generator) -> tuple[Floats, Floats]:
        sign = generator.choice([1, -1], size=clusters)[labels]
        moved = generator.random(len(labels)) < disagree
        return (moved & (sign < 0)).astype(float), (moved & (sign > 0)).astype(float)

    return draw


def marks(items: int, lost: float = 0.0) -> Draw:
    """A judge's three points for two models; the candidate loses half a mark on a share of 2 * `lost`."""

    def draw(generator: np.random.Generator) -> tuple[Floats, Floats]:
        base = generator.choice([0.0, 0.5, 1.0], size=items)
        moved = generator.random(items) < 0.4
        other = generator.choice([0.0, 0.5, 1.0], size=items)
        candidate = np.where(moved, other, base)
        falls = (generator.random(items) < 2 * lost) & (candidate >= 0.5)
        return base, np.where(falls, candidate - 0.5, candidate)

    return draw


def ratings(items: int, lost: float) -> Draw:
    """MT-Bench in tenths: question means of two models that differ by a shift and by chance (sd 0.1 each)."""

    def draw(generator: np.random.Generator) -> tuple[Floats, Floats]:
        question = generator.uniform(0.45, 0.75, size=items)
        scores = [question + shift + generator.normal(0, 0.1, size=items) for shift in (0.0, -lost)]
        return scores[0].clip(0.1, 1.0).round(3), scores[1].clip(0.1, 1.0).round(3)

    return draw


NULLS: Mapping[str, Truth] = {
    "20 items": Truth(right_or_wrong(20, 0.3, 0.0), _singles(20), 0.0),
    "60 items": Truth(right_or_wrong(60, 0.3, 0.0), _singles(60), 0.0),
    "200 items, few disagree": Truth(right_or_wrong(200, 0.05, 0.0), _singles(200), 0.0),
    "24 items in 8 passages": Truth(by_passage(_passages(24, 8), 0.5), _passages(24, 8), 0.0),
    "40 items in 5 passages": Truth(by_passage(_passages(40, 5), 0.8), _passages(40, 5), 0.0),
    "12 items in 4 passages": Truth(by_passage(_passages(12, 4), 0.9), _passages(12, 4), 0.0),
    "40 judge's marks": Truth(marks(40), _singles(40), 0.0),
}
LOSSES: Mapping[str, Truth] = {
    "120 items, margin 10 points": Truth(right_or_wrong(120, 0.2, -0.10), _singles(120), -0.10),
    "1,172 items, margin 2 points": Truth(right_or_wrong(1172, 0.1, -0.02), _singles(1172), -0.02),
    "14,042 items, margin 1 point": Truth(right_or_wrong(14042, 0.1, -0.01), _singles(14042), -0.01),
    "80 MT-Bench questions, margin 0.3": Truth(ratings(80, 0.03), _singles(80), -0.03),
}

POWER: tuple[tuple[str, int, float, float], ...] = (
    ("MMLU", 14042, 0.05, 0.0047),
    ("MMLU", 14042, 0.10, 0.0066),
    ("MMLU", 14042, 0.20, 0.0094),
    ("HellaSwag", 10042, 0.10, 0.0078),
    ("ARC-Challenge", 1172, 0.05, 0.0162),
    ("ARC-Challenge", 1172, 0.10, 0.0230),
    ("ARC-Challenge", 1172, 0.20, 0.0325),
    ("a leaf, 200 items", 200, 0.10, 0.056),
    ("a leaf, 200 items", 200, 0.20, 0.079),
    ("a leaf, 40 items", 40, 0.20, 0.176),
)
"""Set, items, share of items on which the models disagree, and the difference that (1.645 + 0.842) standard
errors make: what a paired test at 5 % is to see in 80 % of runs."""


def error_rate(truth: Truth, runs: int, draws: int, seed: int) -> Rate:
    """How often a difference beyond the true one is called proven."""
    generator = np.random.default_rng(seed)
    found = 0
    for _ in range(runs):
        base, candidate = truth.draw(generator)
        evidence = paired(base, candidate, truth.passages, draws=draws)
        found += evidence.p_greater(truth.difference) <= ALPHA
    return Rate(found, runs)


def power(items: int, disagree: float, difference: float, runs: int, draws: int, seed: int) -> Rate:
    """How often a real difference is proven to be one."""
    generator = np.random.default_rng(seed)
    draw, labels = right_or_wrong(items, disagree, difference), _singles(items)
    found = 0
    for _ in range(runs):
        base, candidate = draw(generator)
        found += paired(base, candidate, labels, draws=draws).p_greater(0.0) <= ALPHA
    return Rate(found, runs)


@dataclass(frozen=True)
class Release:
    """A whole release in truth: shares of right answers to held-out questions before and after, and what the
    general items lose."""

    before: float
    after: float
    lost: float


RELEASES: Mapping[str, Release] = {
    "nothing learned, nothing lost": Release(0.3, 0.3, 0.0),
    "30 % to 50 %, nothing lost": Release(0.3, 0.5, 0.0),
    "30 % to 80 %, nothing lost": Release(0.3, 0.8, 0.0),
    "30 % to 80 %, the margin lost": Release(0.3, 0.8, 0.1),
    "30 % to 80 %, twice the margin lost": Release(0.3, 0.8, 0.2),
    "80 % to 30 %, nothing lost": Release(0.8, 0.3, 0.0),
}
HELD_OUT, PASSAGES, GENERAL = 42, 14, 300


def verdicts(release: Release, runs: int, seed: int) -> dict[str, int]:
    """How often each outcome comes about: 42 held-out questions in 14 passages, asked in two ways, 300
    general items of which the models disagree on 10 %, and the default policy."""
    generator = np.random.default_rng(seed)
    found: dict[str, int] = {}
    for _ in range(runs):
        outcome = decide(_rows(release, generator), GatePolicy()).outcome
        found[outcome] = found.get(outcome, 0) + 1
    return found


def _rows(release: Release, generator: np.random.Generator) -> list[dict[str, object]]:
    base, candidate = right_or_wrong(GENERAL, max(0.1, 1.5 * release.lost), -release.lost)(generator)
    rows = [_row("general", None, "choice", n, n, base[n], candidate[n]) for n in range(GENERAL)]
    # A passage is easy or hard as a whole, before and after alike.
    ease = np.repeat(generator.normal(0, 0.1, size=PASSAGES), HELD_OUT // PASSAGES)
    for metric in ("choice", "short_answer"):
        before = generator.random(HELD_OUT) < release.before + ease
        after = generator.random(HELD_OUT) < release.after + ease
        kept = generator.random(HELD_OUT) < 0.5  # half of the answers do not move but by learning
        after = np.where(kept & (release.before == release.after), before, after)
        rows += [
            _row("leaf", "leaf", metric, n, n * PASSAGES // HELD_OUT, float(before[n]), float(after[n]))
            for n in range(HELD_OUT)
        ]
    return rows


def _row(
    name: str, leaf: str | None, metric: str, number: int, cluster: int, base: float, candidate: float
) -> dict[str, object]:
    return {
        "id": f"{name}/{number}",
        "set": name,
        "leaf": leaf,
        "metric": metric,
        "cluster": f"{name}#{cluster}",
        "question": "",
        "base": base,
        "candidate": candidate,
    }
