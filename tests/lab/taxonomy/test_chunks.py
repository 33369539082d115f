"""Passages: nothing lost, order kept, bounds held, the same ids everywhere, in every script."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.canonical import digest
from lab.taxonomy.chunks import chunk, sections
from lab.taxonomy.documents import SourceDocument
from lab.taxonomy.sentences import joined, sentences, size, split

EXAMPLES = Path(__file__).parents[3] / "examples" / "documents"
# (count, digest) of the ids of every passage of the examples, by file.
IDS = (17, "sha256:53a27c3ffe2fbf75a9ebabcf40defe956f9b9a0794dd0e1bcec92844cb0fc302")
# Numbered, for a passage that stands twice comes once.
CHINESE = "".join(
    f"远海岛位于大陆以西{n}公里处。岛上有两座灯塔，第一座建于一八七一年！它今天还亮着吗？" for n in range(12)
)
JAPANESE = "".join(f"島には灯台が{n}つあります。最初の灯台は一八七一年に建てられました。" for n in range(12))
THAI = "".join(f"เกาะแห่งนี้อยู่ห่างจากชายฝั่ง{n}กิโลเมตร มีประภาคารสองแห่ง " for n in range(12))
HINDI = "".join(f"यह द्वीप तट से {n} किलोमीटर दूर है। यहाँ दो प्रकाशस्तंभ हैं। पहला पुराना है। " for n in range(12))
ARABIC = "".join(f"تقع الجزيرة على بعد {n} كيلومترات. هل ما زالت المنارة مضيئة؟ نعم. " for n in range(12))


def document(text: str) -> SourceDocument:
    return SourceDocument("a.md", text, digest(text))


def letters(text: str) -> str:
    return re.sub(r"\s+", "", text)


def test_the_examples_keep_their_ids() -> None:
    """Rows and answers are kept under these ids; a change here makes every release ask its teacher again."""
    ids = []
    for path in sorted(EXAMPLES.rglob("*.md")):
        ids += [each.id for each in chunk(document(path.read_text("utf-8")))]
    assert len(ids) == IDS[0]
    assert digest(ids) == IDS[1]


def test_another_process_with_another_locale_and_hash_seed_gives_the_same_ids() -> None:
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from tests.lab.taxonomy.test_chunks import CHINESE, THAI, document\n"
        "from lab.taxonomy.chunks import chunk\n"
        "print(*[each.id for text in (CHINESE, THAI) for each in chunk(document(text))])"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", program, str(Path(__file__).parents[3])],
            env={"PYTHONHASHSEED": seed, "LC_ALL": locale, "PATH": ""},
            capture_output=True,
            check=True,
        ).stdout
        for seed, locale in (("1", "C"), ("2", "C.UTF-8"))
    }
    here = [each.id for text in (CHINESE, THAI) for each in chunk(document(text))]
    assert told == {(" ".join(here) + "\n").encode()}


@pytest.mark.parametrize("text", [CHINESE, JAPANESE, THAI, HINDI, ARABIC])
def test_every_script_is_cut_into_passages(text: str) -> None:
    chunks = chunk(document(text.strip()), words=60)
    assert len(chunks) > 1
    assert all(size(each.text) <= 60 for each in chunks)
    assert letters("".join(each.text for each in chunks)) == letters(text)
    assert all(len(each.text) < 500 for each in chunks)


def test_sentences_end_at_the_marks_of_their_script() -> None:
    assert split("岛上有灯塔。它亮着吗？是的！") == ["岛上有灯塔。", "它亮着吗？", "是的！"]
    assert split("彼は「はい。」と言った。次。") == ["彼は「はい。」", "と言った。", "次。"]
    assert [glue for glue, _ in joined("一二。三四。 五六。")] == ["", "", " "]
    assert len(split("यह एक है। वह दो है।")) == 2
    assert sentences("岛上有两座灯塔。") == ["岛上有两座灯塔。"]
    assert sentences("灯塔") == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("one two three", 3),
        ("", 0),
        ("naïve café", 2),
        ("灯塔灯塔", 2),
        ("a灯塔", 2),
        ("x" * 32, 1),
        ("x" * 80, 10),
        ("https://example.org/" + "a" * 60, 10),
    ],
)
def test_size_feels_like_words(text: str, words: int) -> None:
    assert size(text) == words


ROWS = [f"| {year} | the lamp was lit {year - 1800} times |" for year in range(1800, 1840)]
TABLE = "| year | what happened |\n| --- | --- |\n" + "\n".join(ROWS)
CODE = "```py\n" + "\n".join(f"lamp_{number} = light({number}) + 1" for number in range(60)) + "\n```"


def test_a_table_or_code_that_fits_stays_whole() -> None:
    text = (
        "# A\n\n" + "Words come first here. " * 8 + "\n\n" + "\n".join(TABLE.split("\n")[:8]) + "\n\nEnd.\n"
    )
    parts = [each.text for each in chunk(document(text), words=80)]
    assert sum("| year |" in part for part in parts) == 1
    whole = "\n".join(TABLE.split("\n")[:8])
    assert any(whole in part for part in parts)
    small = "```\na = 1\n\nb = 2\n```"
    assert small in chunk(document(f"Text.\n\n{small}\n"), words=20)[0].text


def test_a_long_table_keeps_its_head_row_in_every_passage() -> None:
    chunks = chunk(document(TABLE), words=60)
    assert len(chunks) > 3
    assert all(each.text.startswith("| year | what happened |\n| --- | --- |\n") for each in chunks)
    assert all(size(each.text) <= 60 for each in chunks)
    assert [line for each in chunks for line in each.text.split("\n")[2:]] == ROWS


def test_long_code_keeps_its_fence_in_every_passage() -> None:
    chunks = chunk(document(CODE), words=60)
    assert len(chunks) > 3
    assert all(each.text.startswith("```py\n") and each.text.endswith("\n```") for each in chunks)
    assert [line for each in chunks for line in each.text.split("\n")[1:-1]] == CODE.split("\n")[1:-1]


def test_a_sentence_is_cut_only_when_it_is_too_long_itself() -> None:
    long = " ".join(f"word{number}" for number in range(70)) + " end."
    text = f"First one is short. {long} Last one is short too."
    parts = [each.text for each in chunk(document(text), words=30)]
    assert parts[0].startswith("First one is short. ")
    assert parts[-1].endswith("end. Last one is short too.")
    assert all(size(part) <= 30 for part in parts)
    assert " ".join(parts) == text


def test_a_word_without_an_end_is_cut_between_characters() -> None:
    parts = [each.text for each in chunk(document("A" * 5000), words=100)]
    assert all(size(part) <= 100 for part in parts)
    assert all(set(part) == {"A"} for part in parts)


def test_a_teachers_own_count_can_be_the_measure() -> None:
    def tokens(text: str) -> int:
        return len(text.encode()) // 3 + 1

    text = " ".join(f"Sentence {number} is about the tern." for number in range(60))
    chunks = chunk(document(text), words=50, measure=tokens)
    assert all(tokens(each.text) <= 50 for each in chunks)
    assert " ".join(each.text for each in chunks) == text


PIECES = st.sampled_from(
    [
        "tern. ",
        "A ",
        "x" * 40,
        "灯塔。",
        "灯",
        "ไทย",
        " ",
        "\n",
        "\n\n",
        "# H\n",
        "- a\n",
        "```\n",
        "| a |\n",
        "|-|\n",
        "e\u0301",
        "!",
        "한국 ",
    ]
)


@given(st.lists(PIECES, max_size=60).map("".join), st.integers(4, 30))
@settings(max_examples=400, deadline=None)
def test_bounds_hold_and_ids_are_stable(text: str, words: int) -> None:
    chunks = chunk(document(text), words=words)
    assert all(size(each.text) <= words for each in chunks)
    assert chunks == chunk(document(text), words=words)
    assert [each.index for each in chunks] == list(range(len(chunks)))
    assert len({each.id for each in chunks}) == len(chunks)


@given(
    st.lists(st.sampled_from(["tern", "A", "long", "灯塔。", "end.", "ไทย", "?", "e\u0301"]), max_size=60),
    st.integers(4, 30),
)
@settings(max_examples=300, deadline=None)
def test_running_text_comes_whole_and_in_order(words: list[str], most: int) -> None:
    # Numbered, so that no two passages are the same.
    text = " ".join(
        "".join(f"q{number}z{at}" for at in range(12)) if word == "long" else f"{word}{number}"
        for number, word in enumerate(words)
    )
    assert letters("".join(each.text for each in chunk(document(text), words=most))) == letters(text)


@given(st.lists(st.lists(st.integers(3, 12), min_size=1, max_size=6), max_size=6), st.integers(14, 40))
@settings(max_examples=200, deadline=None)
def test_sentences_that_fit_are_never_cut(paragraphs: list[list[int]], most: int) -> None:
    count = 0
    told = []
    for paragraph in paragraphs:
        made = []
        for length in paragraph:
            count += 1
            made.append(" ".join(["Tern", *["nest"] * (length - 2), f"number{count}."]))
        told.append(made)
    text = "\n\n".join(" ".join(made) for made in told)
    found = [s for each in chunk(document(text), words=most) for s in sentences(each.text)]
    assert found == [s for made in told for s in made]


@given(st.text(max_size=200), st.integers(1, 20))
@settings(max_examples=200, deadline=None)
def test_any_text_at_all_gives_passages_of_its_words(text: str, most: int) -> None:
    body = [word for _, part in sections(text) for word in part.split()]
    parts = letters("".join(each.text for each in chunk(document(text), words=most)))
    assert set(parts) <= set("".join(body))


@pytest.mark.parametrize(
    "text",
    [
        "." * 500_000 + "x",
        "x" * 500_000 + ". ",
        "No. " * 100_000,
        "a. " * 66_000,
        "[" * 300_000,
        "![" * 100_000 + ". ",
        "# " + " " * 500_000 + "x",
        "# " + "# " * 100_000 + "x",
        "word " * 200 + "\n" + " " * 300_000 + "x",
        "a | b\n" + " |" * 100_000 + "x\n" + "word " * 200,
        "**a " * 100_000,
        "灯" * 300_000,
        "- a\n" * 60_000,
        "> " * 200_000,
        "```" * 100_000,
        "<a" * 150_000,
    ],
    ids=lambda text: repr(text[:6]),
)
def test_text_made_to_be_slow_costs_what_it_is_long(text: str) -> None:
    start = time.process_time()
    chunks = chunk(document(text))
    sentences(text)
    assert all(size(each.text) <= 180 for each in chunks)
    assert time.process_time() - start < 6


def test_a_heading_keeps_what_is_its_own() -> None:
    text = "# C#\n\na\n\n## Closed ##\n\nb\n\n### #\n\nc\n"
    assert [heading for heading, _ in sections(text)] == ["C#", "C# > Closed", "C# > Closed > "]


def test_a_letter_under_a_heap_of_accents_is_cut_like_any_long_word() -> None:
    heap = "a" + "\u0301" * 50_000
    parts = chunk(document(f"# Heap\n\n{heap}\n"))
    assert all(size(part.text) <= 180 for part in parts)
    accented = "e\u0301" * 2_000
    assert all(not part.text.startswith("\u0301") for part in chunk(document(f"{accented}\n")))
