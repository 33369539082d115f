"""Mixing: budgets are kept, nothing is repeated, and equal samples give equal bytes."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.contracts import problems, write_lines
from lab.synthesis.mixing import Budget, Limits, MixError, estimated_tokens, mix


def sample(number: int, dataset: str = "knowledge_short", leaf: str = "knowledge/a") -> dict[str, Any]:
    return {
        "id": f"{dataset}-{leaf}-{number}",
        "dataset": dataset,
        "messages": [
            {"role": "user", "content": f"Question {number} of {leaf}, {dataset}?"},
            {"role": "assistant", "content": f"Answer {number}."},
        ],
        "lineage": {"leaf": leaf},
    }


SHORT = Budget(datasets=("knowledge_short",))
SECOND = Budget(datasets=("knowledge_long", "skill"), replay_share=0.25, buffer_rows=3)


def test_phase_two_sees_its_own_rows_a_share_of_phase_one_and_the_buffer() -> None:
    samples = [sample(n) for n in range(8)]
    samples += [sample(n, "knowledge_long") for n in range(4)] + [
        sample(n, "skill", "skills/b") for n in range(2)
    ]
    samples += [sample(n, "replay", "") for n in range(5)]
    first, second = mix(samples, [SHORT, SECOND], seed=0)
    assert first.counts == {"new": 8, "phase_replay": 0, "buffer": 0, "duplicates": 0}
    assert second.counts == {"new": 6, "phase_replay": 2, "buffer": 3, "duplicates": 0}
    replayed = {row["id"] for row in second.rows if row["origin"] == "phase_replay"}
    assert replayed < {row["id"] for row in first.rows}
    assert all(problems("training_row", row) == [] for row in (*first.rows, *second.rows))


def test_replay_takes_only_rows_that_were_trained_on() -> None:
    samples = [sample(n) for n in range(20)] + [sample(0, "skill")]
    first, second = mix(
        samples,
        [Budget(datasets=("knowledge_short",), max_rows=5), Budget(datasets=("skill",), replay_share=1.0)],
        seed=3,
    )
    assert second.counts["phase_replay"] == 5
    assert {row["id"] for row in first.rows} < {row["id"] for row in second.rows}


def test_fewer_rows_than_the_budget_are_reported_and_never_repeated() -> None:
    (phase,) = mix([sample(0)], [Budget(datasets=("knowledge_short",), max_rows=30, buffer_rows=4)], seed=0)
    assert len(phase.rows) == 1
    assert phase.notes == (
        "budget of 30 new rows, 1 there",
        "budget of 4 rows of the replay buffer, 0 there",
    )


def test_the_same_conversation_under_two_ids_is_trained_once_and_counted() -> None:
    twin = {**sample(0), "id": "another"}
    (phase,) = mix([sample(0), twin], [SHORT], seed=0)
    assert phase.counts["duplicates"] == 1
    assert len(phase.rows) == 1
    assert phase.notes == ("1 rows left out: another row of the phase has the same messages",)


def test_two_samples_with_one_id_are_refused_by_name() -> None:
    with pytest.raises(MixError, match="knowledge_short-knowledge/a-0"):
        mix([sample(0), sample(0)], [SHORT], seed=0)


def test_a_large_leaf_cannot_crowd_out_a_small_one() -> None:
    samples = [sample(n, leaf="knowledge/large") for n in range(100)]
    samples += [sample(n, leaf="knowledge/small") for n in range(5)]
    (phase,) = mix(samples, [Budget(datasets=("knowledge_short",), max_rows=10)], seed=0)
    assert phase.by_leaf == {"knowledge/large": 5, "knowledge/small": 5}


def test_replay_alone_is_not_worth_a_phase() -> None:
    first, second = mix([sample(0)], [SHORT, SECOND], seed=0)
    assert first.worth_training
    assert not second.worth_training


@pytest.mark.parametrize("wrong", [{"replay_share": 1.5}, {"replay_share": -0.1}, {"max_rows": -1}])
def test_a_budget_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"share|budget"):
        Budget(datasets=("skill",), **wrong)


def test_equal_samples_in_any_order_give_byte_identical_files(tmp_path: Path) -> None:
    samples = [sample(n, leaf=f"knowledge/{n % 3}") for n in range(40)]
    samples += [sample(n, "replay", "") for n in range(9)]
    shuffled = random.Random(5).sample(samples, len(samples))
    budgets = [Budget(datasets=("knowledge_short",), max_rows=20, buffer_rows=4)]
    for name, rows in (("a", samples), ("b", shuffled)):
        write_lines(tmp_path / name, mix(rows, budgets, seed=7)[0].rows)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    write_lines(tmp_path / "c", mix(samples, budgets, seed=8)[0].rows)
    assert (tmp_path / "a").read_bytes() != (tmp_path / "c").read_bytes()


@given(
    counts=st.lists(st.integers(0, 12), min_size=1, max_size=4),
    limit=st.integers(0, 30),
    share=st.floats(0, 1),
    seed=st.integers(0, 3),
)
def test_no_budget_is_exceeded_and_no_row_is_twice_in_a_phase(
    counts: list[int], limit: int, share: float, seed: int
) -> None:
    samples = [
        sample(number, dataset, f"knowledge/{leaf}")
        for leaf, count in enumerate(counts)
        for number in range(count)
        for dataset in ("knowledge_short", "skill")
    ]
    budgets = [
        Budget(datasets=("knowledge_short",), max_rows=limit),
        Budget(datasets=("skill",), max_rows=limit, replay_share=share),
    ]
    for phase in mix(samples, budgets, seed):
        assert phase.counts["new"] == min(limit, sum(counts))
        ids = [row["id"] for row in phase.rows]
        assert len(ids) == len(set(ids)) == sum(phase.by_leaf.values())


def test_a_leafs_budget_of_rows_holds_over_new_replayed_and_buffer_rows_and_is_reported() -> None:
    samples = [sample(n, leaf="knowledge/large") for n in range(20)]
    samples += [sample(n, leaf="knowledge/small") for n in range(3)]
    samples += [sample(n, "skill", "knowledge/large") for n in range(10)]
    budgets = [SHORT, Budget(datasets=("skill",), replay_share=1.0)]
    for phase in mix(samples, budgets, seed=0, limits=Limits(leaf_rows=5)):
        assert phase.by_leaf["knowledge/large"] == 5
        assert any(note.startswith("budget of leaf knowledge/large: ") for note in phase.notes)
    first = mix(samples, [SHORT], seed=0, limits=Limits(leaf_rows=5))[0]
    assert first.by_leaf == {"knowledge/large": 5, "knowledge/small": 3}
    assert first.notes == ("budget of leaf knowledge/large: 15 rows left out",)


def test_what_a_limit_keeps_out_of_the_replay_buffer_is_not_called_missing() -> None:
    samples = [sample(0), *(sample(n, "replay", "prompts") for n in range(8))]
    budget = Budget(datasets=("knowledge_short",), buffer_rows=10)
    (phase,) = mix(samples, [budget], seed=1, limits=Limits(source_rows={"replay": 3}))
    assert phase.counts["buffer"] == 3
    assert phase.notes == (
        "budget of 10 rows of the replay buffer, 8 there",
        "budget of source replay: 5 rows left out",
    )


def test_a_sources_budget_makes_room_for_the_other_sources() -> None:
    samples = [sample(n, "knowledge_long") for n in range(30)] + [sample(n, "skill") for n in range(30)]
    budget = Budget(datasets=("knowledge_long", "skill"), max_rows=20)
    (phase,) = mix(samples, [budget], seed=1, limits=Limits(source_rows={"knowledge_long": 4}))
    assert phase.by_source == {"knowledge_long": 4, "skill": 16}


def test_rows_that_people_wrote_are_a_source_of_their_own() -> None:
    samples = [sample(n) for n in range(6)]
    for one in samples[:4]:
        one["lineage"]["flow"] = "seed"
    (phase,) = mix(samples, [SHORT], seed=1, limits=Limits(source_rows={"seed": 1}))
    assert phase.by_source == {"knowledge_short": 3, "seed": 1}


def test_budgets_in_tokens_count_the_messages_and_are_never_exceeded() -> None:
    samples = [sample(n, leaf=f"knowledge/{n % 2}") for n in range(20)]
    size = estimated_tokens(samples[0])
    limits = Limits(leaf_tokens=3 * size, source_tokens={"knowledge_short": 5 * size})
    (phase,) = mix(samples, [SHORT], seed=2, limits=limits, tokens=lambda _: size)
    assert len(phase.rows) == 5
    assert max(phase.by_leaf.values()) == 3
    with pytest.raises(ValueError, match="0 or more"):
        Limits(leaf_tokens=-1)


def test_the_three_phases_of_the_paper_teach_what_they_should_and_replay_all_that_came_before() -> None:
    from gpu_runner.tune.phases import preset

    kinds = ("knowledge_short", "knowledge_long", "foundational", "skill")
    samples = [sample(n, kind, f"leaf/{kind}") for kind in kinds for n in range(6)]
    budgets = [phase.budget for phase in preset("lab-merlinite-7b").phases]
    first, second, third = mix(samples, budgets, seed=0)
    assert first.by_source == {"knowledge_short": 6}
    assert second.by_source == {"knowledge_short": 6, "knowledge_long": 6, "foundational": 6}
    assert third.by_source == dict.fromkeys(sorted(kinds), 6)
    assert third.counts == {"new": 6, "phase_replay": 18, "buffer": 0, "duplicates": 0}
