"""The texts of a release, read as a person reads them."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from inline_snapshot import snapshot
from markdown_it import MarkdownIt

from lab.report.cards import (
    Example,
    LeafFacts,
    ModelName,
    ReleaseFacts,
    Score,
    Source,
    before_after,
    dataset_card,
    model_card,
    percent,
    points,
    release_notes,
    results_table,
)

LEAF = "knowledge/geography/farne_mora"
FACTS = ReleaseFacts(
    tag="v2026.11.21-1a2b3c4d",
    model="acme/acme-lm",
    dataset="acme/acme-data",
    repository="acme/taxonomy",
    server="https://github.com",
    head="4f0c6d2a" * 5,
    licence="apache-2.0",
    student=ModelName("acme/base", "r1"),
    teacher=ModelName("acme/teacher", "r2"),
    judge=ModelName("acme/judge", "r3"),
    verdict="pass",
    sentences=("changed leaves, picking the answer: 25.0% before, 95.0% after over 20 items.",),
    confidence=0.95,
    scores=(
        Score("general", "general", None, "choice", 120, 0.6, 0.59, -0.04, 0.02),
        Score("changed leaves", "pooled", None, "choice", 20, 0.25, 0.95, 0.5, 0.85),
        Score(LEAF, "leaf", LEAF, "choice", 20, 0.25, 0.95, None, None),
    ),
    leaves=(
        LeafFacts(LEAF, "knowledge", "marit", True, (2,), 180, 20, 20, 0.25, 0.95),
        LeafFacts("compositional_skills/rhymes", "freeform_skill", "ola", False, (), 12, 1, 0, None, None),
    ),
    examples=(
        Example(LEAF, "Who built the lighthouse?", "Isolde Varrin", "I do not know.", "Isolde Varrin."),
    ),
    sources=(
        Source(LEAF, "https://github.com/acme/documents", "c" * 40, ("farne.md",), "Title of work: Farne"),
    ),
    rows_by_dataset={"knowledge_short": 180, "skill": 12},
    rejected_by_reason={"too-short": 20, "not-grounded": 1},
    phases=("Phase 1, knowledge: rows 180, epochs 2",),
    versions={"torch": "2.13.0"},
)
MARKDOWN = MarkdownIt("commonmark", {"html": True}).enable("table")


def test_the_notes_name_each_contribution_and_what_it_gained() -> None:
    assert release_notes(FACTS) == snapshot("""\
**acme/acme-lm** v2026.11.21-1a2b3c4d: 1 leaf learned anew, 1 of them measured on held-out questions.

### Contributions

| pull request | leaf | by | rows | held-out questions right |
| --- | --- | --- | --- | --- |
| #2 | `knowledge/geography/farne_mora` | marit | 180 | 25.0 % → 95.0 % |

### Results

| set | kind | metric | items | base | this model | gain in points | bounds, 95 % each |
| --- | --- | --- | --- | --- | --- | --- | --- |
| changed leaves | pooled | choice of four | 20 | 25.0 % | **95.0 %** | +70.0 | +50.0 to +85.0 |
| `knowledge/geography/farne_mora` | leaf | choice of four | 20 | 25.0 % | **95.0 %** | +70.0 | – |
| general | general | choice of four | 120 | 60.0 % | **59.0 %** | −1.0 | −4.0 to +2.0 |

Gate: **pass**

- changed leaves, picking the answer: 25.0% before, 95.0% after over 20 items.

### Pinned

- Taxonomy: `4f0c6d2a4f0c6d2a4f0c6d2a4f0c6d2a4f0c6d2a`
- Base: `acme/base` at revision `r1`
- Teacher: `acme/teacher` at revision `r2`
- Data set: `acme/acme-data` at tag `v2026.11.21-1a2b3c4d`
- `release.lock.json` and `report.json` are attached
""")


def test_the_pooled_new_leaves_come_first_and_a_missing_interval_is_a_dash() -> None:
    assert results_table(FACTS.scores, 0.95) == snapshot("""\
| set | kind | metric | items | base | this model | gain in points | bounds, 95 % each |
| --- | --- | --- | --- | --- | --- | --- | --- |
| changed leaves | pooled | choice of four | 20 | 25.0 % | **95.0 %** | +70.0 | +50.0 to +85.0 |
| `knowledge/geography/farne_mora` | leaf | choice of four | 20 | 25.0 % | **95.0 %** | +70.0 | – |
| general | general | choice of four | 120 | 60.0 % | **59.0 %** | −1.0 | −4.0 to +2.0 |\
""")


def test_the_model_card_says_what_it_is_made_from_and_how_to_use_it() -> None:
    card = model_card(FACTS)
    for part in (
        "`acme/base` at revision `r1`",
        "[acme/taxonomy](<https://github.com/acme/taxonomy/tree/4f0c6d2a",
        "arXiv 2403.01081",
        "name, revision = 'acme/acme-lm', 'v2026.11.21-1a2b3c4d'",
        "[2](<https://github.com/acme/taxonomy/pull/2>)",
        "25.0 % → 95.0 %",
        "## Limits",
        "`apache-2.0`",
        "Phase 1, knowledge: rows 180, epochs 2",
    ):
        assert part in card


def test_the_usage_in_the_card_is_python() -> None:
    for card in (model_card(FACTS), dataset_card(FACTS)):
        compile(card.split("```python\n")[1].split("```")[0], "card", "exec")


def test_the_data_set_card_shows_the_yield_the_rejections_and_the_sources() -> None:
    card = dataset_card(FACTS)
    for part in (
        "192 rows were kept, 21 rejected (90 % kept)",
        "Never train on them",
        "| too-short | 20 |",
        "(<https://github.com/acme/documents>)",
        "Title of work: Farne",
    ):
        assert part in card


def test_a_release_without_a_repository_or_a_changed_leaf_still_reads_well() -> None:
    bare = replace(FACTS, repository="", leaves=(), examples=(), sources=(), rejected_by_reason={})
    assert "a taxonomy of knowledge and skills at commit" in model_card(bare)
    assert "No leaf changed in this release." in model_card(bare)
    assert "Nothing was rejected." in dataset_card(bare)
    assert "0 leaves learned anew" in release_notes(bare)


def test_notes_that_would_not_fit_say_so() -> None:
    many = tuple(replace(FACTS.leaves[0], path=f"knowledge/{number:04d}") for number in range(3000))
    notes = release_notes(replace(FACTS, leaves=many))
    assert len(notes) < 120_000
    assert "do not fit here" in notes
    assert "Pinned" in notes


def test_numbers_are_written_for_people() -> None:
    assert percent(0.5) == "50.0 %"
    assert percent(None) == "–"
    assert points(-0.021) == "\u22122.1"
    assert before_after(None, 0.5) == "not measured"


@settings(max_examples=60, deadline=None)
@given(
    st.text(max_size=60),
    st.sampled_from(["<script>x</script>", "\n# h\n", "| a |", "```", "@all", "</details>"]),
)
def test_contributed_text_never_becomes_structure(noise: str, attack: str) -> None:
    bad = f"{noise}{attack}{noise}"
    leaf = replace(FACTS.leaves[0], path=bad, created_by=bad)
    hostile = replace(
        FACTS,
        leaves=(leaf,),
        examples=(Example(bad, bad, bad, bad, bad),),
        sources=(Source(bad, bad, bad, (bad,), bad),),
        sentences=(bad,),
        rejected_by_reason={bad: 1},
    )
    calm = replace(
        hostile,
        leaves=(replace(leaf, path="a", created_by="a"),),
        examples=(Example(*["a"] * 5),),
        sources=(Source("a", "a", "a", ("a",), "a"),),
        sentences=("a",),
        rejected_by_reason={"a": 1},
    )
    for view in (model_card, dataset_card, release_notes):
        html, expected = MARKDOWN.render(view(hostile)), MARKDOWN.render(view(calm))
        for tag in ("<script", "<h1", "<h2", "<h3", "<table", "<tr", "<td", "<details", "</details", "<pre"):
            assert html.count(tag) == expected.count(tag), tag
