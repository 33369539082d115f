"""The choice among checkpoints against simulated truth: no noise is chased, real gains are taken."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from test_tune import sample

from gpu_runner.tune.choice import MOST_ITEMS, choose, compared, hold_back
from lab.contracts import digest

CLUSTERS = [index // 4 for index in range(48)]


def simulated(truth: list[float], seed: int, noise: float = 0.1) -> list[list[float]]:
    """Candidates of true means `truth` over items that differ far more than candidates do, each document with
    a luck of its own at each candidate."""
    random = np.random.default_rng(seed)
    items = random.normal(-1.5, 0.6, len(CLUSTERS))
    rows = []
    for mean in truth:
        luck = random.normal(0, noise, max(CLUSTERS) + 1)[CLUSTERS]
        rows.append((items + mean + luck + random.normal(0, noise, len(CLUSTERS))).tolist())
    return rows


def chosen(truth: list[float], runs: int = 120) -> list[int]:
    return [choose(simulated(truth, seed), CLUSTERS, draws=2000).chosen for seed in range(runs)]


def test_among_equal_candidates_the_earliest_is_taken_and_not_the_luckiest() -> None:
    picked = chosen([0.0] * 6)
    assert picked.count(0) >= 0.95 * len(picked)
    luckiest = [int(np.argmax(np.mean(simulated([0.0] * 6, seed), axis=1))) for seed in range(120)]
    assert luckiest.count(0) < 0.4 * len(luckiest)


def test_a_clearly_better_later_candidate_is_taken_and_a_worse_one_after_it_is_not() -> None:
    assert chosen([0.0, 0.0, 0.5, 0.5]).count(2) >= 0.95 * 120
    assert chosen([0.0, 0.5, -0.5]).count(1) >= 0.95 * 120
    assert chosen([0.5, 0.0, 0.4]).count(0) >= 0.95 * 120


def test_a_proven_difference_below_the_margin_is_none() -> None:
    rows = simulated([0.0, 0.005], 0, noise=1e-5)
    assert choose(rows, CLUSTERS).chosen == 0
    assert choose(rows, CLUSTERS, margin=0.001).chosen == 1


def test_one_more_candidate_leaves_the_choice_or_is_it() -> None:
    for seed in range(20):
        rows = simulated([0.0, 0.2, 0.3, 0.3, 0.5], seed)
        picked = [choose(rows[:count], CLUSTERS, planned=5, draws=1000).chosen for count in range(1, 6)]
        for index in range(1, 5):
            assert picked[index] in (picked[index - 1], index)


def test_few_rows_documents_or_candidates_leave_the_last_one_and_say_so() -> None:
    rows = simulated([0.5, 0.0, -0.5], 0)
    few = choose([row[:12] for row in rows], CLUSTERS[:12])
    assert (few.chosen, "12 validation rows, 16 are needed" in few.why) == (2, True)
    narrow = choose(rows, [index % 7 for index in range(48)])
    assert (narrow.chosen, "of 7 documents or leaves, 12 are needed" in narrow.why) == (2, True)
    assert "there is one candidate" in choose(rows[:1], CLUSTERS).why
    with pytest.raises(ValueError, match="no candidate"):
        choose([], CLUSTERS)


def test_intervals_hold_their_means_and_the_chosen_one_differs_by_nothing_from_itself() -> None:
    first, second = compared(simulated([0.0, 0.5], 1), CLUSTERS, chosen=1)
    assert first.low < first.mean < first.high
    assert first.difference_low < first.difference < first.difference_high < 0
    assert (second.difference_low, second.difference, second.difference_high) == (0, 0, 0)


def of_document(number: int, documents: int = 12, **changes: Any) -> dict[str, Any]:
    row = sample(number, "knowledge_short")
    row["lineage"] = {**row["lineage"], "document": f"sha256:{number % documents:064x}"}
    return {**row, **changes}


DATASETS = ("knowledge_short", "skill")


def test_rows_held_back_are_generated_spread_over_documents_and_not_in_training_under_another_id() -> None:
    rows = [of_document(number) for number in range(200)]
    seeds = [of_document(number + 200) for number in range(50)]
    for row in seeds:
        row["lineage"]["flow"] = "seed"
    replay = [sample(number, "replay") for number in range(50)]
    twins = [{**row, "id": digest([row["id"], "twin"]), "dataset": "skill"} for row in rows]
    held = hold_back([*rows, *seeds, *replay, *twins], 0.2, 0, DATASETS)
    assert (held.why, len(held.validation)) == (None, 40)
    per_document: dict[str, int] = {}
    for row in held.validation:
        assert row["lineage"]["flow"] != "seed"
        assert row["dataset"] != "replay"
        per_document[row["lineage"]["document"]] = per_document.get(row["lineage"]["document"], 0) + 1
    assert sorted(set(per_document.values())) == [3, 4]
    kept_out = [row["question"] for row in held.validation]
    assert not {row["question"] for row in held.training} & set(kept_out)
    assert len(held.training) == 500 - 2 * 40
    again = hold_back([*twins[::-1], *replay, *seeds, *rows[::-1]], 0.2, 0, DATASETS)
    assert [row["question"] for row in again.validation] == kept_out
    assert len(hold_back(rows, 0.5, 0, DATASETS).validation) == MOST_ITEMS


def test_nothing_is_held_back_where_no_choice_could_be_made() -> None:
    rows = [of_document(number) for number in range(200)]
    assert "16 are needed" in str(hold_back(rows, 0.02, 0, DATASETS).why)
    narrow = hold_back([of_document(number, documents=3) for number in range(200)], 0.2, 0, DATASETS)
    assert "of 3 documents or leaves, 12 are needed" in str(narrow.why)
    for held in (narrow, hold_back(rows, 0.0, 0, DATASETS)):
        assert (len(held.training), held.validation) == (200, ())
