"""The yield as people see it: by leaf and reason, in the terminal and on the data set's card."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lab.contracts import schema
from lab.report.cards import LeafFacts, dataset_card
from lab.synthesis.yields import HEAD, shortfalls, table, told
from tests.lab.report.test_cards import FACTS

ONE: dict[str, Any] = schema("yield")["examples"][0]["leaves"][0]
TWO = {
    **ONE,
    "leaf": "skills/b",
    "wanted": 4,
    "delivered": 4,
    "why": None,
    "asked": 5,
    "rejected": {"surplus": 1},
}


def test_the_table_has_a_row_for_each_leaf_and_one_for_all_and_the_commonest_reason_first() -> None:
    first, second, every = table([ONE, TWO])
    assert dict(zip(HEAD, first, strict=True)) == {
        "leaf": "knowledge/geography/farne_mora",
        "asked for": "160",
        "delivered": "152",
        "tried": "230",
        "rejected": "78",
        "reasons": "60 judged-unfaithful, 18 near-duplicate",
    }
    assert second[-1] == "1 surplus"
    assert every == (
        "all leaves",
        "164",
        "156",
        "235",
        "79",
        "60 judged-unfaithful, 18 near-duplicate, 1 surplus",
    )
    assert table([TWO]) == [second]
    assert told({}) == "none"
    assert shortfalls([ONE, TWO]) == [f"{ONE['leaf']}: {ONE['why']}"]


def test_the_card_says_what_was_asked_for_and_why_the_rest_did_not_come() -> None:
    leaf = LeafFacts("knowledge/x", "knowledge", "o", True, (2,), 9, 3, 2, None, None)
    known = replace(
        leaf,
        wanted=8,
        delivered=5,
        rejected_by_reason={"judged-unfaithful": 3},
        why="5 of 8 rows, <b>early</b>",
    )
    card = dataset_card(replace(FACTS, leaves=(known,)))
    assert "| `knowledge/x` | 8 | 5 | 3 judged-unfaithful |" in card
    assert "Fewer rows than were asked for:" in card
    assert "<b>" not in card
