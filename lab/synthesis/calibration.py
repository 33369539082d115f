"""What a judge's number is worth: Platt scaling on pairs whose truth is known.

A leaf's seeds give pairs that are right (a question with its own answer) and pairs that are wrong (with
another
seed's answer). A logistic curve fitted to the judge's numbers on both turns any later number into "how
likely is a
right pair, judged like this" (J. Platt, "Probabilistic outputs for support vector machines", 1999, with his
softened targets). A good judge's grades stay near 0 and 1; a judge that cannot tell right from wrong gives
0.5 to
everything, instead of a number that only looks like a grade. Measured on the embedded model: area under the
curve
about 0.6, so its grades lie close to 0.5, and the deterministic checks carry the weight.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

PAIRS = 8
"""Right pairs, and as many wrong ones, asked about for each leaf: one token each, so about 2 s on 2 CPU
cores.
"""

_EDGE = 1e-4
_STEPS = 200


@dataclass(frozen=True)
class Curve:
    """P(right | score) = 1 / (1 + exp(-(slope * logit(score) + offset)))."""

    slope: float = 1.0
    offset: float = 0.0
    pairs: int = 0

    def grade(self, score: float) -> float:
        return round(_sigmoid(self.slope * _logit(score) + self.offset), 4)


def fit(right: Sequence[float], wrong: Sequence[float]) -> Curve:
    """The curve through known pairs, both kinds counted equally; without both kinds a score stays itself.

    The slope is never negative: a judge that is worse than chance on a few pairs is taken for one that knows
    nothing, not for one to be believed backwards.
    """
    if not right or not wrong:
        return Curve()
    high, low = (len(right) + 1) / (len(right) + 2), 1 / (len(wrong) + 2)
    points = [(_logit(score), high, 0.5 / len(right)) for score in right]
    points += [(_logit(score), low, 0.5 / len(wrong)) for score in wrong]
    mean = sum(x * weight for x, _, weight in points)
    spread = math.sqrt(sum(weight * (x - mean) ** 2 for x, _, weight in points)) or 1.0
    slope = offset = 0.0
    for _ in range(_STEPS):  # gradient descent on a convex loss of two numbers, on standardised scores
        errors = [
            (weight * (_sigmoid(slope * (x - mean) / spread + offset) - target), (x - mean) / spread)
            for x, target, weight in points
        ]
        slope -= 2.0 * sum(error * x for error, x in errors)
        offset -= 2.0 * sum(error for error, _ in errors)
    if slope <= 0:
        return Curve(0.0, 0.0, len(points))
    return Curve(slope / spread, offset - slope * mean / spread, len(points))


def _logit(score: float) -> float:
    inside = min(max(score, _EDGE), 1 - _EDGE)
    return math.log(inside / (1 - inside))


def _sigmoid(value: float) -> float:
    if value >= 0:
        return 1 / (1 + math.exp(-value))
    return math.exp(value) / (1 + math.exp(value))
