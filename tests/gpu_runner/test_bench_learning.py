"""The learning benchmark's material: what is asked was never taught, and what is taught is fit to be."""

from __future__ import annotations

import re
import runpy
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from gpu_runner.benchmark.scoring import is_right, words
from gpu_runner.contamination import contaminated
from lab.contracts import problems

BENCH = Path(__file__).parents[2] / "bench" / "learning"
MATERIAL = runpy.run_path(str(BENCH / "material.py"))
FACTS = MATERIAL["facts"]()
HELD_OUT = MATERIAL["held_out_items"](FACTS)


def samples(seed: int) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = MATERIAL["training_samples"](FACTS, [("Hello?", "Hello.")], seed, 12)
    return made


def test_there_are_twenty_facts_of_the_document_with_two_held_out_wordings_each() -> None:
    document = " ".join((BENCH / "document.md").read_text("utf-8").split())
    assert len(FACTS) == 20
    assert len(HELD_OUT) == 40
    for fact in FACTS:
        assert fact.answer in document, fact.id
        assert len(fact.train) == 10


def test_no_held_out_question_is_in_the_training_rows_of_any_seed() -> None:
    for seed in range(3):
        asked = [(item["id"], item["question"]) for item in HELD_OUT]
        assert contaminated(asked, samples(seed)) == []


def test_no_held_out_question_has_the_words_of_a_trained_one() -> None:
    trained = {frozenset(words(question)) for fact in FACTS for question in fact.train}
    assert [item["id"] for item in HELD_OUT if frozenset(words(item["question"])) in trained] == []


def test_every_training_row_fits_the_schema_and_no_two_have_one_id() -> None:
    made = samples(0)
    assert [found for row in made for found in problems("sample", row)] == []
    assert max(Counter(row["id"] for row in made).values()) == 1


def test_seeds_draw_rows_of_their_own_and_equally_many_a_fact() -> None:
    first, second = samples(1), samples(2)
    assert [row["id"] for row in first] != [row["id"] for row in second]
    assert first == samples(1)
    for fact in FACTS:
        assert sum(row["answer"] == fact.said() for row in first) == 12


def test_the_wrong_choices_are_right_answers_of_other_facts_of_the_kind() -> None:
    said = {fact.said(): fact for fact in FACTS}
    for item in HELD_OUT:
        assert item["choices"][item["key"]] in said
        fact = said[item["choices"][item["key"]]]
        like_it = {fact.said(other.answer) for other in FACTS if other.group == fact.group}
        assert set(item["choices"]) <= like_it
        assert len(set(item["choices"])) == 4


@pytest.mark.parametrize("item", HELD_OUT, ids=lambda item: item["id"])
def test_only_the_right_choice_counts_as_a_written_answer(item: dict[str, Any]) -> None:
    right = [is_right(item["question"], item["answer"], choice) for choice in item["choices"]]
    assert right == [index == item["key"] for index in range(4)]


def test_the_skill_asks_for_other_orders_than_it_trains() -> None:
    trained, asked = MATERIAL["requests"]()
    assert len(asked) == 20
    assert not {answer for _, answer in trained} & {answer for _, answer in asked}
    assert all(re.fullmatch(r"Could you please .+\?", answer) for _, answer in trained + asked)
