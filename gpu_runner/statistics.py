"""Paired statistics for 0/1 scores: what the gate may conclude from one run of two models over the same
items.

    evidence = paired(base=[0, 1, ...], candidate=[1, 1, ...], clusters=["seed-1", ...])
    evidence.p_greater(-0.02), evidence.low(0.05)

Two models that answer the same questions are compared item by item: items that both get right say nothing,
and leaving them out of the noise is worth several times the number of items (McNemar 1947). Three methods
are asked, and the most doubtful answer counts, since each is weak where another is strong:

- Tango's score interval holds when the models hardly disagree, where a bootstrap would claim certainty;
- the clustered bootstrap knows that questions about one passage stand and fall together;
- the exact McNemar test holds for very few items.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

DRAWS = 10_000  # Efron & Tibshirani (1993), section 13.3: percentile bounds want more than 1,000
SEED = 20_240_301
_CELLS_AT_ONCE = 4_000_000  # bounds the bootstrap's memory, about 32 MB of counts

Floats = NDArray[np.float64]


def wilson(successes: int, items: int, confidence: float = 0.95) -> tuple[float, float]:
    """Two-sided score interval of one proportion, so that 0 of 40 is never "± 0".

    Wilson (1927), "Probable inference, the law of succession, and statistical inference", JASA 22.
    """
    if not 0 <= successes <= items or items == 0:
        raise ValueError(f"{successes} of {items} is not a proportion")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / items
    centre = share + z * z / (2 * items)
    reach = z * math.sqrt(share * (1 - share) / items + z * z / (4 * items * items))
    scale = 1 + z * z / items
    return max(0.0, (centre - reach) / scale), min(1.0, (centre + reach) / scale)


def mcnemar_exact(gains: int, losses: int) -> tuple[float, float]:
    """One-sided exact p-values (for more gains, for more losses) of the discordant pairs.

    McNemar (1947), "Note on the sampling error of the difference between correlated proportions",
    Psychometrika 12; exact under the binomial with one half. Twice the smaller one, at most 1, is the usual
    two-sided value.
    """
    pairs = gains + losses
    return _tail(gains, pairs), _tail(losses, pairs)


def _tail(count: int, pairs: int) -> float:
    """P(X >= count) for X ~ Binomial(pairs, 1/2), in logarithms so that thousands of pairs do not
    overflow."""
    if count <= 0:
        return 1.0
    logs = [
        math.lgamma(pairs + 1) - math.lgamma(k + 1) - math.lgamma(pairs - k + 1) - pairs * math.log(2)
        for k in range(count, pairs + 1)
    ]
    return min(1.0, math.fsum(math.exp(value) for value in logs))


def tango_z(gains: int, losses: int, items: int, difference: float) -> float:
    """Score statistic of the hypothesis that the candidate's share minus the base's share is `difference`.

    Tango (1998), "Equivalence test and confidence interval for the difference in proportions for the
    paired-sample design", Statistics in Medicine 17, equation 7. Large when the data speak for more than
    `difference`.
    """
    a = 2 * items
    b = -gains - losses + (2 * items - gains + losses) * difference
    c = -losses * difference * (1 - difference)
    loss_share = (math.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a)
    variance = items * (2 * loss_share + difference * (1 - difference))
    excess = gains - losses - items * difference
    if variance <= 1e-12:
        return 0.0 if abs(excess) < 1e-9 else math.copysign(math.inf, excess)
    return excess / math.sqrt(variance)


def tango_bound(gains: int, losses: int, items: int, alpha: float, upper: bool) -> float:
    """One-sided bound at level `alpha` for the paired difference: the score test, inverted by bisection."""
    wanted = NormalDist().inv_cdf(1 - alpha) * (-1 if upper else 1)
    low, high = -1.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if tango_z(gains, losses, items, middle) > wanted:
            low = middle
        else:
            high = middle
    return high if upper else low


def bootstrap_differences(
    differences: Sequence[float],
    clusters: Sequence[Hashable],
    draws: int = DRAWS,
    seed: int = SEED,
) -> Floats:
    """Sorted means of `draws` resamples of whole clusters, with replacement, from a seeded generator.

    Efron (1979), "Bootstrap methods: another look at the jackknife", Annals of Statistics 7; resampling whole
    clusters as in Davison & Hinkley (1997), section 3.8. The spread of the draws is the error bar itself: it
    is not to be divided by the root of their number.
    """
    if len(differences) != len(clusters) or not differences:
        raise ValueError(
            f"{len(differences)} differences and {len(clusters)} clusters: one each, at least one"
        )
    number = {name: index for index, name in enumerate(dict.fromkeys(clusters))}
    sums, sizes = np.zeros(len(number)), np.zeros(len(number))
    for difference, name in zip(differences, clusters, strict=True):
        sums[number[name]] += difference
        sizes[number[name]] += 1
    generator = np.random.default_rng(seed)
    share = np.full(len(number), 1 / len(number))
    step = max(1, _CELLS_AT_ONCE // len(number))
    parts = []
    for start in range(0, draws, step):
        counts = generator.multinomial(len(number), share, size=min(step, draws - start))
        parts.append((counts @ sums) / (counts @ sizes))
    return np.sort(np.concatenate(parts))


def holm(p_values: Sequence[float], alpha: float) -> list[tuple[float, float]]:
    """For each p-value: the adjusted one, and the level at which its own interval is to be read.

    Holm (1979), "A simple sequentially rejective multiple test procedure", Scandinavian Journal of
    Statistics 6. A test is rejected exactly when its adjusted value is at most `alpha`, and exactly when its
    own p-value is at most its level; tests behind the first one that stands keep that one's level.
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    result = [(1.0, alpha)] * len(p_values)
    adjusted, level, standing = 0.0, alpha, False
    for rank, index in enumerate(order):
        left = len(p_values) - rank
        adjusted = min(1.0, max(adjusted, p_values[index] * left))
        if not standing:
            level = alpha / left
            standing = p_values[index] > level
        result[index] = (adjusted, level)
    return result


@dataclass(frozen=True)
class Evidence:
    """Two models on the same items; `gains` are items that only the candidate has right, `losses` only the
    base."""

    items: int
    clusters: int
    base: float
    candidate: float
    gains: int
    losses: int
    draws: Floats

    @property
    def difference(self) -> float:
        return (self.gains - self.losses) / self.items

    def p_greater(self, threshold: float) -> float:
        """One-sided p-value against "the candidate is better by `threshold` or less"."""
        z = tango_z(self.gains, self.losses, self.items, threshold)
        below = int(np.searchsorted(self.draws, threshold + 1e-12, side="right"))
        values = [1 - NormalDist().cdf(z), (1 + below) / (len(self.draws) + 1)]
        if threshold >= 0:  # not even better by 0 means not better by more
            values.append(mcnemar_exact(self.gains, self.losses)[0])
        return max(values)

    def p_less(self, threshold: float) -> float:
        """One-sided p-value against "the candidate is better by `threshold` or more"."""
        return self._mirrored().p_greater(-threshold)

    def low(self, alpha: float) -> float:
        """Lower bound at one-sided level `alpha`: above a threshold exactly when `p_greater` of it is at most
        `alpha` (up to rounding)."""
        rank = max(0, math.floor(alpha * (len(self.draws) + 1)) - 1)
        bounds = [
            tango_bound(self.gains, self.losses, self.items, alpha, upper=False),
            float(self.draws[rank]),
        ]
        if mcnemar_exact(self.gains, self.losses)[0] > alpha:
            bounds.append(0.0)
        return min(bounds)

    def high(self, alpha: float) -> float:
        return -self._mirrored().low(alpha)

    def _mirrored(self) -> Evidence:
        return Evidence(
            self.items,
            self.clusters,
            self.candidate,
            self.base,
            self.losses,
            self.gains,
            np.sort(-self.draws),
        )


def paired(
    base: Sequence[int],
    candidate: Sequence[int],
    clusters: Sequence[Hashable],
    draws: int = DRAWS,
    seed: int = SEED,
) -> Evidence:
    """The evidence of 0/1 scores, item by item; `clusters` names what an item's fate hangs on (its
    passage)."""
    if not len(base) == len(candidate) == len(clusters) or not base:
        raise ValueError("base, candidate and clusters want one value an item, and at least one item")
    if any(score not in (0, 1) for scores in (base, candidate) for score in scores):
        raise ValueError("scores are 0 or 1")
    differences = [after - before for before, after in zip(base, candidate, strict=True)]
    return Evidence(
        items=len(base),
        clusters=len(set(clusters)),
        base=sum(base) / len(base),
        candidate=sum(candidate) / len(candidate),
        gains=sum(difference > 0 for difference in differences),
        losses=sum(difference < 0 for difference in differences),
        draws=bootstrap_differences(differences, clusters, draws, seed),
    )


def summary(evidence: Evidence, alpha: float) -> dict[str, Any]:
    """The numbers of one comparison with its two-sided interval at `alpha` on either side, for reports."""
    return {
        "items": evidence.items,
        "clusters": evidence.clusters,
        "base": evidence.base,
        "candidate": evidence.candidate,
        "difference": evidence.difference,
        "low": evidence.low(alpha),
        "high": evidence.high(alpha),
        "gains": evidence.gains,
        "losses": evidence.losses,
    }
