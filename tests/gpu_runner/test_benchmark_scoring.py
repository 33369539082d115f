"""The matching rule of written answers: its cases, and properties over hostile text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu_runner.benchmark.scoring import distinctive, is_right, readable, words

HILL = "What is the highest hill of Farne Mora?"
KESHWICK = "The highest hill of Farne Mora is Mount Keshwick, which rises 412 metres above the sea."


@pytest.mark.parametrize(
    ("question", "expected", "answer", "right"),
    [
        (HILL, KESHWICK, KESHWICK, True),
        (HILL, KESHWICK, "It is Mount Keshwick; it rises 412 metres above the sea.", True),
        (HILL, KESHWICK, "Mount Keshwick rises 213 metres above the sea.", False),  # a wrong number
        (HILL, KESHWICK, "The highest hill of Farne Mora is on Farne Mora.", False),  # the question again
        (HILL, KESHWICK, "I do not know.", False),
        (HILL, KESHWICK, "", False),
        ("Is the sand green?", "Yes, it is green and glassy.", "Yes, glassy.", True),
        ("Is the sand green?", "Yes, it is green and glassy.", "No, it is not glassy.", False),
        ("Is it so?", "No.", "No, never.", True),
        ("Is it so?", "No.", "Well, no.", False),
        ("Who was it?", "It was she.", "It was she herself.", True),
        ("Who was it?", "It was she.", "It was he.", False),
        ("When?", "In 1,204.", "In 1204", True),
        (
            "What do they keep?",
            "They keep the lantern fishes.",
            "A lantern fish's tank: fishes, lanterns",
            True,
        ),
        ("首都は?", "首都は京都です", "京都です", True),
        ("भारत की राजधानी क्या है?", "नई दिल्ली", "नई दिल्ली है", True),
        ("भारत की राजधानी क्या है?", "नई दिल्ली", "दाल और नई नदी का पानी लाल है", False),  # its letters only
    ],
)
def test_an_answer_is_judged_by_the_stated_rule(
    question: str, expected: str, answer: str, right: bool
) -> None:
    assert is_right(question, expected, answer) is right


def test_function_words_and_the_questions_own_words_prove_nothing() -> None:
    assert distinctive(HILL, KESHWICK) == {"mount", "keshwick", "rise", "412", "metre", "above", "sea"}
    assert distinctive("Where does this lie?", "This does lie theirs, as was said.") == {"said"}


text = st.text(max_size=60)
_WORDS = ["ash", "birch", "cedar", "elm", "12", "40", "oak", "pine", "the", "of", "is"]
plain = st.lists(st.sampled_from(_WORDS), max_size=8).map(" ".join)


@settings(deadline=None)
@given(text, text, text)
def test_hostile_text_gets_a_plain_yes_or_no(question: str, expected: str, answer: str) -> None:
    assert is_right(question, expected, answer) in (True, False)


@settings(deadline=None)
@given(text, text)
def test_the_expected_answer_is_always_right_and_an_empty_one_never(question: str, expected: str) -> None:
    assert is_right(question, expected, expected) is bool(words(expected))
    assert not is_right(question, expected, "")


@settings(deadline=None)
@given(plain, plain, plain, plain)
def test_saying_more_never_turns_a_right_answer_wrong(
    question: str, expected: str, answer: str, more: str
) -> None:
    if is_right(question, expected, answer):
        assert is_right(question, expected, f"{answer} {more}")


@settings(deadline=None)
@given(plain, plain, plain)
def test_case_and_punctuation_do_not_matter(question: str, expected: str, answer: str) -> None:
    shouted = "!! " + answer.upper().replace(" ", ", ") + " ..."
    assert is_right(question, expected, answer) == is_right(question, expected, shouted)


@settings(deadline=None)
@given(plain, plain)
def test_repeating_one_word_does_not_count_twice(question: str, expected: str) -> None:
    needed = sorted(distinctive(question, expected))
    if len(needed) > 1:
        assert not is_right(question, expected, " ".join([needed[0]] * 40))


@pytest.mark.parametrize(("answer", "said"), [("", False), (" \n.!?", False), ("Ja", True), ("7", True)])
def test_an_answer_without_words_cannot_be_read(answer: str, said: bool) -> None:
    assert readable(answer) is said
