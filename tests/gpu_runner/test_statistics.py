"""The gate's statistics: published values, p-values that agree with bounds, and error rates by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu_runner.statistics import (
    bootstrap_differences,
    holm,
    mcnemar_exact,
    paired,
    tango_bound,
    wilson,
)

outcomes = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=40)


def test_wilson_gives_newcombes_published_interval() -> None:
    # Newcombe (1998), Statistics in Medicine 17, table I, method 3: 81 of 263 and 0 of 20.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)


def test_tango_gives_the_published_interval_of_the_airway_data() -> None:
    # Fagerland, Lydersen & Laake (2014), Statistics in Medicine 33, table VII: 1 and 7 discordant of 21.
    assert tango_bound(1, 7, 21, 0.025, upper=False) == pytest.approx(-0.517, abs=5e-4)
    assert tango_bound(1, 7, 21, 0.025, upper=True) == pytest.approx(-0.026, abs=5e-4)


def test_exact_mcnemar_is_the_binomial_tail() -> None:
    assert mcnemar_exact(7, 1)[0] == pytest.approx(9 / 256)
    assert mcnemar_exact(0, 0) == (1.0, 1.0)
    assert mcnemar_exact(3000, 3000)[0] == pytest.approx(0.5, abs=0.01)


def test_holm_rejects_as_in_its_definition() -> None:
    # Four tests at 0.05: 0.005 <= 0.0125, 0.011 <= 0.0167, 0.03 > 0.025 stands, and so does all behind it.
    result = holm([0.011, 0.03, 0.005, 0.04], 0.05)
    assert [adjusted for adjusted, _ in result] == pytest.approx([0.033, 0.06, 0.02, 0.06])
    assert [level for _, level in result] == pytest.approx([0.05 / 3, 0.025, 0.0125, 0.025])
    assert holm([], 0.05) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_says_the_same_by_adjusted_value_and_by_level(values: list[float]) -> None:
    for value, (adjusted, level) in zip(values, holm(values, 0.05), strict=True):
        if not math.isclose(adjusted, 0.05, rel_tol=1e-9):
            assert (adjusted <= 0.05) == (value <= level)


def test_two_models_that_never_disagree_are_not_certainly_equal() -> None:
    few, many = paired([1] * 4, [1] * 4, range(4)), paired([1] * 400, [1] * 400, range(400))
    assert few.low(0.05) < -0.3
    assert -0.01 < many.low(0.05) < 0 < many.high(0.05) < 0.01


def test_four_of_four_is_no_proof_and_twenty_of_twenty_is() -> None:
    assert paired([0] * 4, [1] * 4, range(4)).low(0.05) <= 0
    assert paired([0] * 20, [1] * 20, range(20)).low(0.05) > 0.7


def test_questions_about_one_passage_widen_the_interval() -> None:
    base, candidate = [0] * 40, [1] * 20 + [0] * 20
    alone = paired(base, candidate, range(40))
    together = paired(base, candidate, [index // 10 for index in range(40)])
    assert together.low(0.05) < alone.low(0.05) - 0.1
    assert (alone.clusters, together.clusters) == (40, 4)


def test_the_bootstraps_spread_is_the_standard_error_and_not_divided_by_the_draws() -> None:
    differences = [1.0] * 30 + [-1.0] * 30 + [0.0] * 240
    draws = bootstrap_differences(differences, range(300))
    assert np.std(draws) == pytest.approx(math.sqrt(0.2 / 300), rel=0.05)
    assert np.array_equal(draws, bootstrap_differences(differences, range(300)))


@settings(max_examples=60, deadline=None)
@given(outcomes, st.sampled_from([-0.2, -0.05, 0.0, 0.1]), st.sampled_from([0.01, 0.05]))
def test_a_bound_is_beyond_a_threshold_only_when_its_p_value_says_so(
    pairs: list[tuple[int, int]], threshold: float, alpha: float
) -> None:
    evidence = paired([b for b, _ in pairs], [c for _, c in pairs], range(len(pairs)), draws=999)
    low, high = evidence.low(alpha), evidence.high(alpha)
    assert -1 <= low <= evidence.difference + 1e-9
    assert evidence.difference - 1e-9 <= high <= 1
    if low > threshold + 1e-9:
        assert evidence.p_greater(threshold) <= alpha + 1e-9
    if high < threshold - 1e-9:
        assert evidence.p_less(threshold) <= alpha + 1e-9
    if threshold >= 0 and evidence.p_greater(threshold) < alpha - 1e-9:
        assert low >= threshold - 1e-9


@settings(max_examples=40, deadline=None)
@given(outcomes)
def test_swapping_the_models_mirrors_every_number(pairs: list[tuple[int, int]]) -> None:
    base, candidate = [b for b, _ in pairs], [c for _, c in pairs]
    clusters = range(len(pairs))
    there, back = (
        paired(base, candidate, clusters, draws=499),
        paired(candidate, base, clusters, draws=499),
    )
    assert there.difference == -back.difference
    assert there.low(0.05) == pytest.approx(-back.high(0.05), abs=1e-9)
    assert there.p_greater(0.0) == pytest.approx(back.p_less(0.0), abs=1e-9)


@pytest.mark.parametrize(("items", "clusters"), [(20, 20), (24, 8), (60, 60)])
def test_no_effect_is_called_a_gain_in_at_most_five_of_a_hundred_runs(items: int, clusters: int) -> None:
    generator = np.random.default_rng(7)
    runs, wrong = 400, 0
    labels = [index * clusters // items for index in range(items)]
    for _ in range(runs):
        sign = generator.choice([1, -1], size=clusters)  # a passage goes one way or the other as a whole
        moved = generator.random(items) < 0.3
        base = [int(m and sign[label] < 0) for m, label in zip(moved, labels, strict=True)]
        candidate = [int(m and sign[label] > 0) for m, label in zip(moved, labels, strict=True)]
        wrong += paired(base, candidate, labels, draws=600).p_greater(0.0) <= 0.05
    # 0.05 and three standard errors of 400 runs; few whole passages are the bootstrap's known weak spot.
    assert wrong / runs <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)


def test_a_loss_of_just_the_margin_is_ruled_out_in_at_most_five_of_a_hundred_runs() -> None:
    generator = np.random.default_rng(11)
    runs, wrong, items = 400, 0, 120
    for _ in range(runs):
        u = generator.random(items)
        base, candidate = (u < 0.15).astype(int), ((u >= 0.15) & (u < 0.20)).astype(int)  # -0.10 in truth
        wrong += paired(base.tolist(), candidate.tolist(), range(items), draws=600).p_greater(-0.10) <= 0.05
    assert wrong / runs <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)


def test_a_real_gain_of_the_demos_size_is_found() -> None:
    generator = np.random.default_rng(3)
    found = 0
    for _ in range(100):
        base = (generator.random(24) < 0.3).astype(int)
        candidate = np.maximum(base, (generator.random(24) < 0.85).astype(int))
        labels = [index // 3 for index in range(24)]
        found += paired(base.tolist(), candidate.tolist(), labels, draws=600).p_greater(0.0) <= 0.05 / 3
    assert found >= 95


@pytest.mark.parametrize(
    ("base", "candidate", "clusters"), [([], [], []), ([1], [1, 0], [0]), ([2], [1], [0])]
)
def test_values_that_are_no_scores_are_refused(
    base: list[int], candidate: list[int], clusters: list[int]
) -> None:
    with pytest.raises(ValueError, match=r"one value an item|0 or 1"):
        paired(base, candidate, clusters)
