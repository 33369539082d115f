"""Sentences and passages are cut by rule, always in the same places."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.taxonomy.chunks import chunk, sections
from lab.taxonomy.documents import SourceDocument
from lab.taxonomy.sentences import clean, sentences

TEXT = """\
# Farne Mora

Farne Mora lies 3.5 km off St. Brid, e.g. by boat. Dr. J. Hale built its first light in 1871! Did it last?
"No," he wrote. It fell in 1903.

| year | lights |
|------|--------|
| 1871 | 1 |

## Birds

- The **grey tern** nests on the [north cliff](cliffs.md).
- Visitors stay on the path. Dogs are kept at home.

```
code is not a sentence.
```

Lights
======
Two lights remain; see [1]. <https://example.org>
"""


def test_sentences_leave_out_what_is_no_running_text() -> None:
    assert sentences(TEXT) == [
        "Farne Mora lies 3.5 km off St. Brid, e.g. by boat.",
        "Dr. J. Hale built its first light in 1871!",
        "Did it last?",
        '"No," he wrote.',
        "It fell in 1903.",
        "The grey tern nests on the north cliff.",
        "Visitors stay on the path.",
        "Dogs are kept at home.",
        "Two lights remain; see [1].",
    ]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("He met the U.S. envoy. She stayed.", 2),
        ("It opens at 9 a.m. The gate is green.", 2),
        ("Prices rose by 2.5 percent. No. 7 was sold.", 2),
        ("Wait... what is it? It is here.", 2),
        ("Nets, ropes, etc. are kept dry.", 1),
    ],
)
def test_abbreviations_and_numbers_do_not_end_a_sentence(text: str, count: int) -> None:
    assert len(sentences(text)) == count


def document(text: str) -> SourceDocument:
    return SourceDocument("a.md", text, "sha256:0")


def test_chunks_follow_headings_and_keep_their_ids_when_others_move() -> None:
    chunks = chunk(document(TEXT))
    assert [each.heading for each in chunks] == ["Farne Mora", "Farne Mora > Birds", "Lights"]
    assert [each.index for each in chunks] == [0, 1, 2]
    again = chunk(document("# Preface\n\nNew words here.\n\n" + TEXT))
    assert {each.id for each in chunks} <= {each.id for each in again}


def test_a_long_paragraph_is_cut_between_sentences() -> None:
    parts = [f"Sentence number {number} has a few plain words in it." for number in range(60)]
    chunks = chunk(document(" ".join(parts)), words=50)
    assert len(chunks) > 5
    assert all(len(each.text.split()) <= 50 for each in chunks)
    assert [s for each in chunks for s in sentences(each.text)] == parts


def test_a_heading_in_a_code_fence_is_code() -> None:
    assert sections("# A\n\n```\n# not a heading\n```\n") == [("A", "```\n# not a heading\n```")]


@given(st.text(alphabet="ab .!?\n#|`-*[]()1\"'é", max_size=300))
@settings(max_examples=300, deadline=None)
def test_no_word_is_lost_or_doubled_by_chunking(text: str) -> None:
    chunks = chunk(document(text), words=5)
    assert len({each.id for each in chunks}) == len(chunks)
    words = [word for _, body in sections(text) for word in body.split()]
    told = [word for each in chunks for word in each.text.split()]
    assert set(told) == set(words)
    assert len(told) <= len(words)
    assert all(clean(s) for s in sentences(text))
