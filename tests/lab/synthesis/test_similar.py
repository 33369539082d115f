"""Near-duplicates: what the index finds is what comparing every pair would find."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lab.synthesis.similar import NearDuplicates
from lab.synthesis.text import likeness

WORDS = st.sampled_from(["a", "b", "c", "d", "e", "f"])
TEXTS = st.lists(st.lists(WORDS, max_size=9).map(" ".join), max_size=12)


@given(TEXTS, st.sampled_from([0.2, 0.5, 0.8, 0.85, 0.92, 1.0]))
def test_nothing_at_or_above_the_threshold_is_missed_and_nothing_below_is_found(
    texts: list[str], threshold: float
) -> None:
    known = NearDuplicates(threshold)
    added: list[str] = []
    for text in texts:
        best = max((likeness(text, other) for other in added), default=0.0)
        expected = best if best >= threshold else None
        assert known.nearest(text) == expected
        known.add(text)
        added.append(text)


def test_a_question_in_other_words_is_new_and_one_in_nearly_the_same_is_not() -> None:
    known = NearDuplicates(0.8)
    known.add("Who built the lighthouse of Farne Mora in the year 1763?")
    assert known.nearest("Who built the lighthouse of Farne Mora in the year 1764?") is not None
    assert known.nearest("Which engineer put up the lighthouse?") is None
