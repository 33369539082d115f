"""Each deterministic check with a right and a wrong case, and every example that a judge is shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.synthesis.calibration import fit
from lab.synthesis.checks import CHECKS, Values
from lab.synthesis.flow import Prompt, load_flow
from lab.synthesis.items import Example, HeldOut
from lab.synthesis.text import content_words, likeness, shared, stem

BUILT = "The lighthouse of Farne Mora was built in 1763 by the engineer Ilsabet Corvane."
DRINK = "The favourite drink of Farne Mora is tuvva, a hot tea brewed from roasted thistle roots."
FOOD = "The national dish of Farne Mora is skarrowpie, a pastry filled with smoked eel and quince."
SEED = Example(0, "What is the national dish of Farne Mora?", FOOD)
ITEM = HeldOut("l", "Which engineer gave ships near Farne Mora a guiding light?", BUILT, (), 0, None, 0)


def row(question: str, answer: str = "", source: str = BUILT, context: str | None = None) -> Values:
    passage = f"{BUILT} {DRINK} {FOOD}"
    return Values(question, answer, source, passage, context, (BUILT, DRINK, FOOD), (SEED,), (ITEM,))


@pytest.mark.parametrize(
    ("check", "right", "wrong"),
    [
        ("question_mark", row("Who built it?"), row("Who built it? And when?")),
        ("question_mark", row("Who built it?"), row("It was built.")),
        ("question_length", row("Who built the lighthouse?"), row("Who built?")),
        ("question_length", row("Who built the lighthouse?"), row("who " * 31 + "?")),
        ("task_length", row("Name two birds."), row("Go!")),
        ("answer_length", row("q", "Two birds."), row("q", "word " * 201)),
        ("names_subject", row("Who built the lighthouse of Farne Mora?"), row("Who built the lighthouse?")),
        ("known_names", row("What did Ilsabet Corvane build?"), row("What did Ilsabet Corvine build?")),
        (
            "on_topic",
            row("Who built the lighthouse of Farne Mora?"),
            row("Who eats the blue cheese of Farne?"),
        ),
        ("keeps_answer_back", row("Who built the lighthouse of Farne Mora?"), row(BUILT[:-1] + "?")),
        (
            "points_at_source",
            row("Who built the lighthouse of Farne Mora?"),
            row("What hot tea do they drink on Farne Mora?"),
        ),
        ("points_at_source", row("When was the lighthouse built?"), row("What is there on Farne Mora?")),
        ("not_a_copy", row("What do people eat on Farne Mora?"), row(SEED.question.upper())),
        ("clear_of_heldout", row("Who built the lighthouse of Farne Mora?"), row(ITEM.question)),
        (
            "clear_of_heldout",
            row("Who built the lighthouse of Farne Mora?"),
            row("which engineer gave the ships near Farne Mora a guiding light"),
        ),
        ("grounded", row("q", BUILT), row("q", "It was raised by a wizard with a golden hammer in Rome.")),
        (
            "grounded_in_context",
            row("What is needed?", "Flour is needed.", context="We are out of flour."),
            row("What is needed?", "Seven purple elephants and a trumpet.", context="We are out of flour."),
        ),
        (
            "not_an_echo",
            row("Who built it?", "Ilsabet."),
            row("Who built the tower?", "Who built the tower."),
        ),
        ("not_repeating", row("q", BUILT), row("q", "I am not sure what you mean. " * 4)),
    ],
)
def test_a_check_passes_the_right_case_and_stops_the_wrong_one(
    check: str, right: Values, wrong: Values
) -> None:
    good, bad = CHECKS[check](right), CHECKS[check](wrong)
    assert good.passed, good.detail
    assert not bad.passed, bad.detail


def test_a_run_of_thirteen_words_of_a_held_out_question_is_found_anywhere() -> None:
    long = "what did the old keeper of the northern light write in his book every single night"
    item = HeldOut("l", long, "a", (), 0, None, 0)
    hidden = (
        "Tell me please, "
        + " ".join(long.split()[1:15])
        + " long ago, far away from home, my dear friend of mine?"
    )
    grade = CHECKS["clear_of_heldout"](Values(hidden, heldout=(item,)))
    assert not grade.passed
    assert grade.check == "held-out"


def test_a_grounded_skill_may_ask_the_same_about_another_text_but_not_about_a_held_out_one() -> None:
    item = HeldOut("l", "What has to be bought?", "Flour.", (), 0, "We are out of flour and eggs today.", 0)
    other = Values("What has to be bought?", context="The cat has no litter left.", heldout=(item,))
    same = Values("What has to be bought?", context="We are out of flour and eggs today!", heldout=(item,))
    assert CHECKS["clear_of_heldout"](other).passed
    assert not CHECKS["clear_of_heldout"](same).passed


@given(st.text(), st.text(), st.text(), st.text())
def test_no_text_makes_a_check_raise(question: str, answer: str, source: str, context: str) -> None:
    values = Values(question, answer, source, source, context, (source, answer), (SEED,), (ITEM,))
    for check in CHECKS.values():
        assert check(values).detail


@given(st.text(), st.text())
def test_likeness_is_symmetric_and_a_share(left: str, right: str) -> None:
    assert likeness(left, right) == likeness(right, left)
    assert 0.0 <= likeness(left, right) <= 1.0


def test_forms_of_one_word_meet() -> None:
    assert len({stem(word) for word in ("build", "builds", "building")}) == 1
    assert content_words("Who was the engineer of the lighthouses?") == {"engineer", "lighthous"}


def _examples(flow: str) -> tuple[Prompt, list[tuple[str, str]]]:
    prompt = next(prompt for name, prompt in load_flow(flow).prompts.items() if name.startswith("judge"))
    return prompt, list(prompt.examples)


@pytest.mark.parametrize("flow", ["freeform_skill", "grounded_skill"])
def test_a_judge_sees_as_many_right_as_wrong_examples_and_each_case_both_ways(flow: str) -> None:
    _, examples = _examples(flow)
    assert sorted(verdict for _, verdict in examples) == ["No", "No", "Yes", "Yes"]
    cases: dict[str, set[str]] = {}
    for asked, verdict in examples:
        cases.setdefault(asked.split("\nAnswer: ")[0], set()).add(verdict)
    assert all(verdicts == {"Yes", "No"} for verdicts in cases.values())


def test_every_verdict_that_the_pair_judge_is_shown_is_true() -> None:
    rubric = {
        "Name two colours.": lambda said: (
            {"red", "blue"} <= content_words(said) | {word.lower() for word in said.split()}
        ),
        "Say in one word what bees make.": lambda said: said.strip(".").lower() == "honey",
    }
    for asked, verdict in _examples("freeform_skill")[1]:
        task, said = asked.removeprefix("Task: ").split("\nAnswer: ")
        assert rubric[task](said.replace(".", "")) == (verdict == "Yes"), asked


def test_every_verdict_that_the_grounded_judge_is_shown_is_true() -> None:
    for asked, verdict in _examples("grounded_skill")[1]:
        text, rest = asked.removeprefix("Text: ").split("\nTask: ")
        task, said = rest.split("\nAnswer: ")
        told = [
            sentence
            for sentence in text.split(". ")
            if shared(content_words(said), content_words(sentence)) == 1
        ]
        supported = any(content_words(said) - content_words(task) <= content_words(one) for one in told)
        assert supported == (verdict == "Yes"), asked


def test_calibration_trusts_a_judge_as_far_as_it_tells_right_from_wrong() -> None:
    good = fit([0.9, 0.95, 0.85, 0.9], [0.1, 0.05, 0.2, 0.1])
    assert good.grade(0.92) > 0.8
    assert good.grade(0.08) < 0.2
    blind = fit([0.1, 0.12, 0.11], [0.11, 0.1, 0.12])
    assert abs(blind.grade(0.9) - 0.5) < 0.35
    backwards = fit([0.1, 0.2], [0.8, 0.9])
    assert backwards.grade(0.05) == backwards.grade(0.95) == 0.5
    assert fit([], [0.5]).grade(0.7) == 0.7


@given(st.lists(st.floats(0, 1), max_size=8), st.lists(st.floats(0, 1), max_size=8), st.floats(0, 1))
def test_a_calibrated_grade_is_a_share_and_never_falls_as_the_score_rises(
    right: list[float], wrong: list[float], score: float
) -> None:
    curve = fit(right, wrong)
    assert 0.0 <= curve.grade(score) <= 1.0
    assert curve.grade(0.2) <= curve.grade(0.8)
