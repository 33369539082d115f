"""Paired statistics: what the gate may conclude from one run of two models over the same items.

    evidence = paired(base=[0, 1, ...], candidate=[1, 1, ...], clusters=["seed-1", ...])
    evidence.p_greater(-0.02), evidence.low(0.05)

Two models that answer the same questions are compared item by item: items that both get right say nothing,
and leaving them out of the noise is worth several times the number of items (McNemar 1947). Several methods
are asked, and the most doubtful answer counts, since each is weak where another is strong:

- Tango's score interval holds when the models hardly disagree, where a bootstrap would claim certainty; for
  graded scores a padded mean does the same;
- the clustered bootstrap knows that questions about one passage stand and fall together;
- McNemar's test, exact for few items, holds whatever the sizes are; Student's distribution over passages and,
  for very few of them, the flip test of whole passages, where a bootstrap has too little to draw from.

`bench/gate/run.py` has the rates at which they err and find, by simulation.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

DRAWS = 10_000  # Efron & Tibshirani (1993), section 13.3: percentile bounds want more than 1,000
SEED = 20_240_301
FEW = 20
"""Discordant pairs (graded: clusters) below which only exact tests are believed. From there on McNemar's
mid-p value serves, whose error rate stays below the nominal one in every case that Fagerland et al. (2013,
BMC Medical Research Methodology 13:91) tried, without the exact test's loss of power."""
FEW_CLUSTERS = 5
"""Passages below which nothing is proven at 95 %: four coins all fall alike in 1 of 16."""
_CELLS_AT_ONCE = 4_000_000  # bounds the bootstrap's memory, about 32 MB of counts

Floats = NDArray[np.float64]


def wilson(successes: float, items: int, confidence: float = 0.95) -> tuple[float, float]:
    """Two-sided score interval of one proportion, so that 0 of 40 is never "± 0".

    Wilson (1927), "Probable inference, the law of succession, and statistical inference", JASA 22. The sum of
    graded scores serves as well: no score from 0 to 1 varies more than a coin of the same mean.
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


def mcnemar(gains: int, losses: int) -> float:
    """One-sided p-value for more gains: exact where pairs are few, mid-p from FEW on."""
    pairs = gains + losses
    exact = _tail(gains, pairs)
    return exact if pairs < FEW else exact - (exact - _tail(gains + 1, pairs)) / 2


def student(t: float, freedom: int) -> float:
    """Upper tail of Student's distribution by Wallace's normal approximation (1959, Annals of Mathematical
    Statistics 30): within 4 % of the tail from 3 degrees of freedom on."""
    scale = (8 * freedom + 1) / (8 * freedom + 3)
    z = math.copysign(scale * math.sqrt(freedom * math.log1p(t * t / freedom)), t)
    return 1 - NormalDist().cdf(z)


def student_quantile(alpha: float, freedom: int) -> float:
    """Where the upper tail is `alpha`, at most one half: the inverse of `student`."""
    z = NormalDist().inv_cdf(1 - alpha) * (8 * freedom + 3) / (8 * freedom + 1)
    return math.sqrt(freedom * math.expm1(min(z * z / freedom, 700)))


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
    differences: Sequence[float] | Floats,
    clusters: Sequence[Hashable],
    draws: int = DRAWS,
    seed: int = SEED,
) -> Floats:
    """Sorted means of `draws` resamples of whole clusters, with replacement, from a seeded generator.

    Efron (1979), "Bootstrap methods: another look at the jackknife", Annals of Statistics 7; resampling whole
    clusters as in Davison & Hinkley (1997), section 3.8. The spread of the draws is the error bar itself: it
    is not to be divided by the root of their number.
    """
    return _resampled(*_by_cluster(differences, clusters), draws, seed)


def _by_cluster(differences: Sequence[float] | Floats, clusters: Sequence[Hashable]) -> tuple[Floats, Floats]:
    """Sum and size of each cluster."""
    if len(differences) != len(clusters) or not len(differences):
        raise ValueError(
            f"{len(differences)} differences and {len(clusters)} clusters: one each, at least one"
        )
    number = {name: index for index, name in enumerate(dict.fromkeys(clusters))}
    places = np.fromiter((number[name] for name in clusters), dtype=np.intp, count=len(clusters))
    sums = np.bincount(places, weights=np.asarray(differences, dtype=np.float64), minlength=len(number))
    sizes = np.bincount(places, minlength=len(number))
    return np.asarray(sums, np.float64).round(9), np.asarray(sizes, np.float64)


def _resampled(sums: Floats, sizes: Floats, draws: int, seed: int) -> Floats:
    """A resample is told by how often each *kind* of cluster is in it (same sum, same size), so that 14,000
    questions of one item each cost three counts a draw."""
    kinds, first, counts = np.unique(np.stack([sums, sizes]), axis=1, return_index=True, return_counts=True)
    order = np.argsort(first)  # as they first come, so that swapping the models swaps the draws
    kinds, counts = kinds[:, order], counts[order]
    generator = np.random.default_rng(seed)
    step = max(1, _CELLS_AT_ONCE // len(counts))
    parts = []
    for start in range(0, draws, step):
        drawn = generator.multinomial(len(sums), counts / len(sums), size=min(step, draws - start))
        parts.append((drawn @ kinds[0]) / (drawn @ kinds[1]))
    return np.sort(np.concatenate(parts))


def flipped(sums: Floats, draws: int = DRAWS, seed: int = SEED) -> float:
    """One-sided p-value of the whole clusters' signs: how often a sum as large comes about when each cluster
    goes up or down by a coin.

    Fisher's randomisation test (The design of experiments, 1935, section 21), sampled; its p-value counts the
    data as one of the draws (Phipson & Smyth 2010), so that it holds for any number of clusters. Four
    passages that all went up are 1 in 16, however many questions they have.
    """
    sizes, counts = np.unique(np.abs(sums[sums != 0]), return_counts=True)
    if not len(sizes):
        return 1.0
    generator = np.random.default_rng(seed)
    drawn = generator.binomial(counts, 0.5, size=(draws, len(counts)))
    totals = (2 * drawn - counts) @ sizes
    return float((1 + np.sum(totals >= sums.sum() - 1e-9)) / (draws + 1))


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
    """Two models on the same items; `gains` are items that the candidate does better, `losses` the base.

    `sums` and `sizes` are of the clusters' differences; `graded` is true where a score may lie between 0
    and 1. `flips` are the flip test's p-values for and against the candidate, made where clusters are few.
    """

    items: int
    clusters: int
    base: float
    candidate: float
    gains: int
    losses: int
    graded: bool
    sums: Floats
    sizes: Floats
    draws: Floats
    flips: tuple[float, float]

    @property
    def difference(self) -> float:
        return float(self.sums.sum() / self.items)

    def p_greater(self, threshold: float) -> float:
        """One-sided p-value against "the candidate is better by `threshold` or less"."""
        below = int(np.searchsorted(self.draws, threshold + 1e-12, side="right"))
        values = [(1 + below) / (len(self.draws) + 1)]
        if self.graded:
            values.append(_t_test(*self._padded, threshold))
        else:
            values.append(1 - NormalDist().cdf(tango_z(self.gains, self.losses, self.items, threshold)))
        if 1 < self.clusters < self.items:
            values.append(_t_test(*self._robust, threshold))
        if threshold >= 0:  # not even better by 0 means not better by more
            values.append(self._exact)
        return max(values)

    def p_less(self, threshold: float) -> float:
        """One-sided p-value against "the candidate is better by `threshold` or more"."""
        return self._mirrored().p_greater(-threshold)

    def low(self, alpha: float) -> float:
        """Lower bound at one-sided level `alpha`: above a threshold exactly when `p_greater` of it is at most
        `alpha` (up to rounding)."""
        rank = max(0, math.floor(alpha * (len(self.draws) + 1)) - 1)
        bounds = [float(self.draws[rank])]
        if self.graded:
            bounds.append(_t_bound(*self._padded, alpha))
        else:
            bounds.append(tango_bound(self.gains, self.losses, self.items, alpha, upper=False))
        if 1 < self.clusters < self.items:
            bounds.append(_t_bound(*self._robust, alpha))
        if self._exact > alpha:
            bounds.append(0.0)
        return max(-1.0, min(bounds))

    def high(self, alpha: float) -> float:
        return -self._mirrored().low(alpha)

    @property
    def _exact(self) -> float:
        """Against "no better at all": by items that are right or wrong, and by whole clusters if few."""
        by_item = 0.0 if self.graded else mcnemar(self.gains, self.losses)
        few = self.clusters < (FEW if self.graded else FEW_CLUSTERS)
        return max(by_item, self.flips[0] if few else 0.0)

    @property
    def _robust(self) -> tuple[float, float, int]:
        """Mean, its standard error over clusters, and the degrees of freedom: with few passages Student's
        distribution and not the normal one (Cameron, Gelbach & Miller 2008, "Bootstrap-based improvements for
        inference with clustered errors", Review of Economics and Statistics 90)."""
        return _mean_of_clusters(self.sums, self.sizes)

    @property
    def _padded(self) -> tuple[float, float, int]:
        """The same with two clusters more, one of the best and one of the worst difference there is: what
        Agresti & Min (2005, Biostatistics 6) do to pairs of right and wrong, so that 24 marks without a
        difference are not certainty."""
        return _mean_of_clusters(np.append(self.sums, [1.0, -1.0]), np.append(self.sizes, [1.0, 1.0]))

    def _mirrored(self) -> Evidence:
        return Evidence(
            self.items,
            self.clusters,
            self.candidate,
            self.base,
            self.losses,
            self.gains,
            self.graded,
            -self.sums,
            self.sizes,
            np.sort(-self.draws),
            self.flips[::-1],
        )


def _mean_of_clusters(sums: Floats, sizes: Floats) -> tuple[float, float, int]:
    """The error is the jackknife's (leave one cluster out), which errs to the safe side when clusters are
    few (MacKinnon, Nielsen & Webb 2023, Journal of Applied Econometrics 38)."""
    total, count = float(sizes.sum()), len(sums)
    centre = float(sums.sum()) / total
    spread = float(np.sum((sums - centre * sizes) ** 2)) * (count / (count - 1)) ** 2
    return centre, math.sqrt(spread) / total, count - 1


def _t_test(centre: float, error: float, freedom: int, threshold: float) -> float:
    if error < 1e-12:
        return 0.0 if centre > threshold else 1.0
    return student((centre - threshold) / error, freedom)


def _t_bound(centre: float, error: float, freedom: int, alpha: float) -> float:
    return centre - student_quantile(alpha, freedom) * error


def paired(
    base: Sequence[float] | Floats,
    candidate: Sequence[float] | Floats,
    clusters: Sequence[Hashable],
    draws: int = DRAWS,
    seed: int = SEED,
) -> Evidence:
    """The evidence of scores from 0 to 1, item by item; `clusters` names what an item's fate hangs on (its
    passage)."""
    before, after = np.asarray(base, dtype=np.float64), np.asarray(candidate, dtype=np.float64)
    if not len(before) == len(after) == len(clusters) or not len(before):
        raise ValueError("base, candidate and clusters want one value an item, and at least one item")
    if not all(np.all((scores >= 0) & (scores <= 1)) for scores in (before, after)):
        raise ValueError("scores are from 0 to 1")
    differences = after - before
    sums, sizes = _by_cluster(differences, clusters)
    return Evidence(
        items=len(before),
        clusters=len(sums),
        base=float(before.mean()),
        candidate=float(after.mean()),
        gains=int(np.sum(differences > 0)),
        losses=int(np.sum(differences < 0)),
        graded=bool(np.any((before % 1 != 0) | (after % 1 != 0))),
        sums=sums,
        sizes=sizes,
        draws=_resampled(sums, sizes, draws, seed),
        flips=(flipped(sums, draws, seed), flipped(-sums, draws, seed)) if len(sums) < FEW else (0.0, 0.0),
    )
