"""A leaf beside its documents: contexts that stand there, contexts that do not, and the nearest passage."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from lab.config import LintPolicy
from lab.taxonomy import examples, excerpts
from lab.taxonomy.documents import SourceDocument
from lab.taxonomy.findings import Finding
from lab.taxonomy.leaf import build
from lab.untrusted import YamlNode, parse_yaml

ROOT = Path(__file__).parents[3]
CORPUS = ROOT.parent / "shared" / "corpus"


def check(text: str, documents: dict[str, str], policy: LintPolicy | None = None) -> list[Finding]:
    root = parse_yaml(text.encode())
    assert isinstance(root, YamlNode)
    sources = [SourceDocument(path, body, "sha256:0") for path, body in documents.items()]
    leaf = build("knowledge/geography/isles", root)
    return excerpts.findings(leaf, "knowledge/geography/isles/qna.yaml", sources, policy, text)


def leaf(*contexts: str) -> str:
    seeds = "".join(
        f"  - context: |\n{''.join(f'      {line}' for line in context.splitlines(True))}\n"
        "    questions_and_answers: []\n"
        for context in contexts
    )
    head = "version: 3\ncreated_by: a\ndomain: b\ndocument_outline: c\nseed_examples:\n"
    tail = "document:\n  repo: https://github.com/a/b.git\n  commit: c\n  patterns:\n    - a.md\n"
    return head + seeds + tail


def test_a_changed_passage_is_shown_beside_the_nearest_one() -> None:
    bad = examples.KNOWLEDGE.replace("Vik has 6 lights; the oldest", "Vik has 9 lights; the oldest")
    (told,) = check(bad, {"guides/lights.md": examples.DOCUMENT})
    assert (told.rule, told.severity, told.line) == ("context-not-excerpt", "warning", 38)
    assert "guides/lights.md, line 11" in told.help
    assert "Vik has 6 lights" in told.help
    assert "`6` where the context has `9`" in told.help


def test_line_breaks_marks_and_links_do_not_matter() -> None:
    document = (
        "# Bird\n\nThe **black-capped chickadee** (*Poecile\natricapillus*) is a [passerine](passerine\n"
        '"wikilink") bird.[^1] It is a member of the [Paridae](Paridae "wikilink")\nfamily. It sings.\n\n'
        'It \u201csleeps\u201d at night. <b>It</b> eats [seeds](Seed_(plant) "wikilink").\n'
    )
    plain = (
        "The black-capped chickadee (Poecile atricapillus) is a passerine bird. "
        "It is a member of the Paridae family."
    )
    raw = (
        'The **black-capped chickadee** (*Poecile atricapillus*) is a [passerine](passerine "wikilink") bird.'
    )
    left_out = 'It sings.\n\nIt "sleeps" at night. It eats seeds.'
    assert check(leaf(plain, raw, left_out), {"a.md": document}) == []
    assert [each.rule for each in check(leaf(f"{plain} It swims."), {"a.md": document})] == [
        "context-not-excerpt"
    ]


def test_a_context_like_nothing_has_no_nearest_passage() -> None:
    (told,) = check(leaf("Quite another matter is told here."), {"a.md": "# One\n\nA short text.\n"})
    assert "nearest" not in told.help


def test_patterns_without_a_document_and_mixed_types_are_told_at_their_lines() -> None:
    text = examples.KNOWLEDGE.replace("    - guides/*.md\n", "    - guides/*.md\n    - guide/lights.md\n")
    documents = {"guides/lights.md": examples.DOCUMENT, "guides/more.pdf": "x"}
    told = [(each.rule, each.line) for each in check(text, documents)]
    assert told == [("document-mixed", 49), ("document-match", 51)]
    missing = next(each for each in check(text, documents) if each.rule == "document-match")
    assert "`guides/lights.md`" in missing.help
    off = LintPolicy(rules={"document-match": "off", "document-mixed": "note"})
    assert [each.severity for each in check(text, documents, off)] == ["note"]


def test_a_skill_has_no_documents_to_be_held_against() -> None:
    assert check(examples.GROUNDED, {"a.md": "x"}) == []


def test_the_example_leaves_are_excerpts_of_their_documents() -> None:
    documents = {
        str(path.relative_to(ROOT / "examples" / "documents")): path.read_text("utf-8")
        for path in (ROOT / "examples" / "documents").rglob("*.md")
    }
    leaves = [
        *(ROOT / "examples" / "taxonomy").rglob("qna.yaml"),
        *(ROOT / "examples").rglob("farne_mora/qna.yaml"),
    ]
    assert len(leaves) > 5
    for path in leaves:
        assert check(path.read_text("utf-8"), documents) == [], path


@pytest.mark.skipif(not CORPUS.is_dir(), reason="the corpus of real leaves is not beside this checkout")
def test_a_real_document_is_quoted_with_and_without_its_links() -> None:
    document = (CORPUS / "documents" / "sdg" / "phoenix.md").read_text("utf-8")
    raw = document.split("\n\n")[1]
    plain = (
        "The brightest star, Alpha Phoenicis, is named Ankaa, an Arabic word meaning 'the Phoenix'. It is an "
        "orange giant of apparent magnitude 2.4."
    )
    assert check(leaf(raw, plain), {"a.md": document}) == []
    (told,) = check(leaf(plain.replace("2.4", "2.9")), {"a.md": document})
    assert "magnitude" in told.message
    assert "`4`" in told.help


def test_a_hostile_document_costs_seconds_at_most() -> None:
    start = time.process_time()
    for document in ("[" * 300_000, "[a](" * 100_000, "the same words " * 60_000, "<a " * 100_000):
        check(leaf("the same words are the same words", "x [a](b)"), {"a.md": document})
    assert time.process_time() - start < 10


def test_the_nearest_passage_is_looked_for_only_while_findings_are_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []
    nearest = excerpts._nearest

    def counted(*arguments: Any) -> Any:
        asked.append(1)
        return nearest(*arguments)

    monkeypatch.setattr(excerpts, "_nearest", counted)
    wrong = leaf(*(f"The light {number} of Mora is out." for number in range(150)))
    found = check(wrong, {"a.md": examples.DOCUMENT})
    assert found[-1].message.startswith("50 more findings")
    assert len(asked) == 100
