"""Every judge that ships: its rubric and its examples, each with a right and a wrong case.

The predecessor showed a judge an unsupported answer marked YES, and another an example without an answer.
Here an example is filled into the judge's own question, so it cannot lack a part, and each verdict is held
against an oracle written for it here: a table of what is true, not a second opinion of a model.
"""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

import pytest

from lab.synthesis.checks import Values, stands_alone
from lab.synthesis.flow import KINDS, Cell, Flow, load_flow, shipped
from lab.synthesis.grading import grade, reason, verdict

JUDGES = [(kind, cell.id) for kind in KINDS for cell in load_flow(kind, "lab").cells if cell.do == "judge"]
PASSES = {
    "judge_faithfulness.yaml": {"YES"},
    "judge_relevancy.yaml": {"2"},
    "judge_question.yaml": {"1"},
    "judge_instruction.yaml": {"1"},
    "judge_grounded_instruction.yaml": {"1"},
    "judge_pair.yaml": {"2", "3"},
    "judge_grounded_pair.yaml": {"2", "3"},
}


def judge(kind: str, name: str) -> tuple[Flow, Cell, dict[str, Any]]:
    flow = load_flow(kind, "lab")
    cell = next(one for one in flow.cells if one.id == name)
    return flow, cell, shipped(f"lab/{kind}")[1][cell.options["prompt"]]


def keeps(flow: Flow, cell: Cell, said: str) -> bool:
    """What the flow does with this answer of the judge."""
    score = grade(cell.options, said, {}, Values("Q?"))
    assert score is not None, said
    limit = next(one for one in flow.cells if one.do == "filter" and one.options["value"] == cell.id)
    return bool(score >= limit.options["at_least"])


@pytest.mark.parametrize(("kind", "name"), JUDGES)
def test_every_example_verdict_is_read_and_does_what_the_rubric_says(kind: str, name: str) -> None:
    flow, cell, raw = judge(kind, name)
    prompt = flow.prompts[cell.options["prompt"]]
    outcomes = []
    for (asked, answered), example in zip(prompt.examples, raw["examples"], strict=True):
        kept = keeps(flow, cell, answered)
        assert kept == (example["verdict"] in PASSES[cell.options["prompt"]])
        assert reason(answered) == example["reason"]
        assert all(example[part] in asked for part in set(example) - {"reason", "verdict"})
        outcomes.append(kept)
    assert outcomes.count(True) == outcomes.count(False) == 2


@pytest.mark.parametrize(("kind", "name"), JUDGES)
def test_every_rubric_names_each_word_of_its_scale_and_the_schema_allows_no_other(
    kind: str, name: str
) -> None:
    _, cell, raw = judge(kind, name)
    for word in cell.options["scale"]:
        assert re.search(rf"\b{word}\b", raw["system"]), word
    assert raw["schema"]["properties"]["verdict"]["enum"] == cell.options["scale"]
    assert {one["verdict"] for one in raw["examples"]} <= set(cell.options["scale"])
    scores = [
        verdict(json.dumps({"reason": "r", "verdict": word}), cell.options["scale"])
        for word in cell.options["scale"]
    ]
    assert scores[0] == 0.0
    assert scores[-1] == 1.0
    assert all(
        isinstance(low, float) and isinstance(high, float) and low < high
        for low, high in itertools.pairwise(scores)
    )


_NEEDED = {
    "It ground barley.": "It ground barley",
    "It was built in 1804 by monks.": "monks",
    "It grows two millimetres a year.": "two millimetres a year on dry slate",
    "It grows on wet slate, and not on dry slate.": "On dry slate it does not grow",
}
"""What a passage has to say for an answer to be faithful to it."""

_RELEVANT = {
    "Petra Lund repaired it in 1952.": "2",
    "Petra Lund repaired it.": "1",
    "The bell hangs in the north tower and weighs two tons.": "0",
    "The harbour of Ennis is nine metres deep.": "2",
}
_INSTRUCTION = {"attached": "0", "window": "0", "thank a neighbour": "1", "order of the alphabet": "1"}


def test_the_faithfulness_examples_are_true() -> None:
    for one in shipped("lab/knowledge")[1]["judge_faithfulness.yaml"]["examples"]:
        assert (_NEEDED[one["answer"]] in one["passage"]) == (one["verdict"] == "YES"), one


def test_the_relevancy_examples_are_true() -> None:
    for one in shipped("lab/knowledge")[1]["judge_relevancy.yaml"]["examples"]:
        assert _RELEVANT[one["answer"]] == one["verdict"]
        wanted = {"who": "petra", "when": "1952", "deep": "nine"}
        asked = [word for key, word in wanted.items() if key in one["question"].lower()]
        given = sum(word in one["answer"].lower() for word in asked)
        assert (given == len(asked), given == 0) == (one["verdict"] == "2", one["verdict"] == "0"), one


def test_the_stand_alone_examples_are_true() -> None:
    for one in shipped("lab/knowledge")[1]["judge_question.yaml"]["examples"]:
        unnamed = re.search(r"\b(?:it|they|he|she)\b", one["question"]) is not None
        assert (stands_alone(Values(one["question"])).passed and not unnamed) == (one["verdict"] == "1"), one


def test_the_instruction_examples_are_true() -> None:
    for one in shipped("lab/freeform_skill")[1]["judge_instruction.yaml"]["examples"]:
        assert [said for words, said in _INSTRUCTION.items() if words in one["question"]] == [one["verdict"]]


def test_the_pair_examples_are_true() -> None:
    for one in shipped("lab/freeform_skill")[1]["judge_pair.yaml"]["examples"]:
        if "fruits" in one["question"]:
            fruits = one["answer"].strip(".").lower().split(", ")
            mark = "3" if len(fruits) == 3 and fruits == sorted(fruits) else "1"
        else:
            right, sentence = str(7 * 8) in one["answer"], len(one["answer"].split()) > 2
            mark = "1" if not right else "3" if sentence else "2"
        assert one["verdict"] == mark, one


def test_the_grounded_instruction_examples_are_true() -> None:
    asked_for = {
        "On which day": "Tuesday: fish",
        "cost": "price",
        "other one": "other",
        "times": "at six and at",
    }
    for one in shipped("lab/grounded_skill")[1]["judge_grounded_instruction.yaml"]["examples"]:
        needed = next(words for key, words in asked_for.items() if key in one["question"])
        assert (needed in one["context"]) == (one["verdict"] == "1"), one


def test_the_grounded_pair_examples_are_true() -> None:
    wanted = {"Bram": {"eggs", "flour", "milk"}, "tram": {"mill", "lane", "quay", "hill", "street"}}
    own = {"candles", "zoo"}  # somebody else's, and nobody's
    for one in shipped("lab/grounded_skill")[1]["judge_grounded_pair.yaml"]["examples"]:
        need = wanted["Bram" if "Bram" in one["question"] else "tram"]
        said = set(re.findall(r"[a-z]+", one["answer"].lower()))
        mark = "1" if said & own or not said & need else "3" if need <= said else "2"
        assert one["verdict"] == mark, one


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ('{"reason": "It is stated.", "verdict": "YES"}', 1.0),
        ('```json\n{"reason": "No.", "verdict": "no"}\n```', 0.0),
        ("It is stated in the second line. <verdict>YES</verdict>", 1.0),
        ("<verdict>YES</verdict> or rather <verdict>NO</verdict>", None),
        ("YES", None),
        ('{"reason": "both", "verdict": "MAYBE"}', None),
        ('{"verdict": ["YES"]}', None),
        ("", None),
        ("[" * 50_000, None),
    ],
)
def test_a_verdict_is_one_word_of_its_scale_or_none(said: str, expected: float | None) -> None:
    assert verdict(said, ["NO", "YES"]) == expected


def test_a_reason_is_one_harmless_line() -> None:
    assert reason("Because <|im_end|>\nof <verdict>NO</verdict>") == "Because < |im_end| > of"
    assert reason("YES") == ""
