"""Advice on seeds: what it finds, what it leaves alone, and that it costs little on hostile text."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.config import BenchmarkSettings, LintPolicy, RepositoryConfig
from lab.taxonomy import examples, secrets, sizes
from lab.taxonomy.benchmarks import Items
from lab.taxonomy.lint import NEIGHBOURS, lint
from lab.taxonomy.passages import LeafText, Passage, leaf_text, words
from lab.taxonomy.similar import LIKENESS, Entry, Index, entry, likeness
from lab.taxonomy.support import Given, context_of, copies, points, unsupported_names, unsupported_numbers
from lab.taxonomy.tree import FolderTree
from lab.untrusted import YamlNode, parse_yaml, read_yaml

CORPUS = Path(__file__).parents[4] / "shared" / "corpus"


def passage(context: str, question: str, answer: str) -> Passage:
    node = YamlNode("scalar", 1, 1)
    return Passage(
        seed=node,
        question=replace(node, text=question),
        answer=replace(node, text=answer),
        context=replace(node, text=context),
        first=True,
        asked=tuple(words(question)),
        answered=tuple(words(answer)),
        told=tuple(words(context)),
    )


# ---- numbers and names that the context lacks


CHICKADEE = (
    "The black-capped chickadee lives in North America, from the northern United States to Alaska.\n"
    "Twelve subspecies were counted in 1,990; the largest weighs 14 g. On the red list since the 1980s."
)


@pytest.mark.parametrize(
    ("answer", "missing"),
    [
        ("It weighs 15 g.", ["15"]),
        ("It weighs 14 g and there are 12 subspecies.", []),
        ("In 1990 there were twelve.", []),
        ("Since the 1980s it is on the list.", []),
        ("1. North America\n2. Alaska\n3. Canada", []),
        ("It weighs 14.0 g, or 0.5 oz.", ["0.5"]),
        ("B-52 and H2O are no numbers.", []),
        ("No number here.", []),
    ],
)
def test_numbers_of_an_answer_are_looked_for_in_its_context(answer: str, missing: list[str]) -> None:
    told = passage(CHICKADEE, "How is it?", answer)
    assert unsupported_numbers(told, context_of(told)) == missing


@pytest.mark.parametrize(
    ("answer", "missing"),
    [
        ("It lives in North America and in Mexico.", ["Mexico"]),
        ("It is a North American bird.", []),
        ("Alaskan birds are the largest, says Linnaeus.", ["Linnaeus"]),
        ("It lives in the US. Chickadees are small.", []),
        ("Yes. Sparrows are larger.", []),
        ("The Ursa bird is in the outline.", []),
    ],
)
def test_names_of_an_answer_are_looked_for_in_its_context(answer: str, missing: list[str]) -> None:
    told = passage(CHICKADEE, "Where?", answer)
    assert unsupported_names(told, context_of(told), Given("Ursa", ("ursa",))) == missing


def test_german_nouns_are_no_names() -> None:
    told = passage("Der Turm ist alt.", "Was?", "Der Turm am Meer hat Fenster, Türen, Treppen und Licht.")
    assert unsupported_names(told, context_of(told), Given("", ())) == []


def test_all_of_the_context_is_a_copy_and_a_sentence_of_it_is_not() -> None:
    first, second = CHICKADEE.split("\n")

    def copied(context: str, answer: str, knowledge: bool) -> bool:
        told = passage(context, "Say it in other words.", answer)
        return copies(told, context_of(told), knowledge)

    assert copied(CHICKADEE, CHICKADEE.replace("\n", " "), knowledge=True)
    assert copied(CHICKADEE, CHICKADEE.replace("Twelve", "Some twelve"), knowledge=True)
    assert not copied(CHICKADEE, first, knowledge=True)
    assert not copied(first, first, knowledge=True)
    assert not copied(second, second.replace("largest", "biggest"), knowledge=False)
    assert copied(second, second, knowledge=False)


@pytest.mark.skipif(not CORPUS.is_dir(), reason="the corpus of real leaves is not beside this checkout")
def test_real_knowledge_gives_no_false_alarm_and_changed_facts_are_told() -> None:
    """Every pair of the two real knowledge leaves, as it is and with its numbers changed."""
    changed = told = 0
    for file in sorted((CORPUS / "taxonomy" / "knowledge").rglob("qna.yaml")):
        root = read_yaml(file.read_bytes()).root
        assert root is not None
        leaf = leaf_text(root, True)
        outline = Given(leaf.outline, tuple(words(leaf.outline)))
        for each in leaf.passages:
            given = context_of(each)
            assert unsupported_numbers(each, given) == []
            assert unsupported_names(each, given, outline) == []
            for word in [word for word in each.answer.text.split() if word.isdigit()]:
                other = each.answer.text.replace(word, str(int(word) + 3))
                changed += 1
                wrong = replace(each, answer=replace(each.answer, text=other))
                told += bool(unsupported_numbers(wrong, given))
    assert changed >= 8
    assert told >= 0.85 * changed


@pytest.mark.parametrize(
    ("question", "pointing"),
    [
        ("According to the text, who built it?", "According to the text"),
        ("What is told in this passage?", "in this passage"),
        ("What does the Treaty of Vik say?", None),
        ("Who is quoted in the book about Vik?", None),
    ],
)
def test_a_question_that_points_at_its_source_is_told(question: str, pointing: str | None) -> None:
    assert points(question) == pointing


# ---- likeness


def sketch(text: str, file: str = "a") -> Entry:
    found = entry(file, 1, 1, words(text), words(text.split("?")[0]))
    assert found is not None
    return found


LONG = (
    "How do you keep bread dough from sticking to the table? Dust the table with a little flour, oil your "
    "hands, and let the dough rest for ten minutes before you shape it."
)


def test_one_changed_word_is_near_and_another_question_is_not() -> None:
    index = Index()
    index.add(sketch(LONG))
    assert index.nearest(sketch(LONG.replace("shape", "fold"))) is not None
    assert index.nearest(sketch(LONG.upper())) == (sketch(LONG), 1.0)
    assert index.nearest(sketch(LONG.replace("keep bread dough from sticking to", "wash and polish"))) is None
    other = "Why is the sky blue at noon and red at dusk? Blue light is scattered more than red light is."
    assert index.nearest(sketch(other)) is None


def test_exercises_with_other_numbers_are_no_duplicates() -> None:
    index = Index()
    text = "Ada pays with 20 coins for a map that costs 12 coins; how much change does she get back? 8 coins."
    index.add(sketch(text))
    assert index.nearest(sketch(text.replace("20", "21").replace("8 coins", "9 coins"))) is None


@given(st.lists(st.integers(0, 40), min_size=9, max_size=300), st.lists(st.integers(0, 40), min_size=9))
@settings(max_examples=100, deadline=None)
def test_likeness_is_the_share_of_common_word_pairs(left: list[int], right: list[int]) -> None:
    def grams(numbers: list[int]) -> set[tuple[int, int]]:
        return set(pairwise(numbers))

    first, second = (entry("a", 1, 1, [f"w{n}" for n in each]) for each in (left, right))
    assert first is not None
    assert second is not None
    exact = len(grams(left) & grams(right)) / len(grams(left) | grams(right))
    if max(first.size, second.size) < 128:
        assert (likeness(first, second) >= LIKENESS) == (exact >= LIKENESS)
    assert likeness(first, first) == 1.0


def test_a_leaf_full_of_the_same_words_costs_no_quadratic_time() -> None:
    index = Index()
    start = time.process_time()
    for number in range(4000):
        found = sketch(f"{LONG} and then some more of word{number} and so on")
        if index.nearest(found) is None or number % 2:
            index.add(found)
    assert time.process_time() - start < 5


# ---- across the tree


def tree(root: Path, leaves: dict[str, str]) -> FolderTree:
    for path, text in leaves.items():
        (root / path).mkdir(parents=True)
        (root / path / "qna.yaml").write_text(text, "utf-8")
        (root / path / "attribution.txt").write_text(examples.ATTRIBUTION, "utf-8")
    return FolderTree(root)


def test_a_seed_of_another_leaf_is_told_with_its_place(tmp_path: Path) -> None:
    taken = examples.SKILL.split("seed_examples:\n")[1].split("  - ")[1]
    second = examples.SECOND.replace("seed_examples:\n", f"seed_examples:\n  - {taken}")
    paths = {"compositional_skills/a/plain": examples.SKILL, "compositional_skills/z/single": second}
    found = tree(tmp_path, paths)
    for only in (None, ["compositional_skills/z/single/qna.yaml"]):
        told = lint(found, RepositoryConfig(), only).findings
        assert [(each.rule, each.file, each.line) for each in told] == [
            ("seed-elsewhere", "compositional_skills/z/single/qna.yaml", 5)
        ]
        assert "compositional_skills/a/plain/qna.yaml, line 5" in told[0].message
    assert lint(found, RepositoryConfig(), ["compositional_skills/a/plain/qna.yaml"]).findings[0].line == 5


def test_a_change_is_compared_with_so_many_leaves_and_no_more(tmp_path: Path) -> None:
    leaves = {f"compositional_skills/a{n:03}/plain": examples.SECOND for n in range(NEIGHBOURS + 60)}
    read: list[str] = []

    class Counting(FolderTree):
        def read(self, path: str, limit: int) -> bytes:
            read.append(path)
            return super().read(path, limit)

    tree(tmp_path, leaves)
    lint(Counting(tmp_path), RepositoryConfig(), ["compositional_skills/a010/plain/qna.yaml"])
    assert len(read) == NEIGHBOURS + 2  # the leaf and its attribution


def test_levels_and_off_hold_for_advice(tmp_path: Path) -> None:
    found = tree(
        tmp_path, {"compositional_skills/a/b": examples.GERMAN, "compositional_skills/a/c": examples.GERMAN}
    )
    rules = {each.rule for each in lint(found, RepositoryConfig()).findings}
    assert rules == {"language", "seed-elsewhere"}
    both = LintPolicy(languages=("en", "de"), rules={"seed-elsewhere": "off"})
    assert lint(found, RepositoryConfig(lint=both)).findings == ()
    strict = RepositoryConfig(lint=LintPolicy(rules={"language": "error"}))
    assert not lint(found, strict).ok


# ---- benchmarks


def test_thirteen_words_of_an_item_or_a_whole_short_question_count() -> None:
    long = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    rows = [
        {"id": "long", "question": f"Is it {long}?", "choices": ["a", "b"]},
        {"question": "Which animal says moo?", "choices": ["a cow"]},
        {"question": 7},
        ["no item"],
    ]
    items = Items("\n".join([*map(json.dumps, rows), "not json", "[" * 100_000]).encode())
    assert items.hit(words("which animal says MOO"), []) == "line 2"
    assert items.hit(["x"], [words(f"so {long} yes")]) == "long"
    assert items.hit(["x"], [words(long)[:12]]) is None
    assert items.hit(words("says moo"), []) is None


def test_a_benchmark_that_cannot_be_read_is_told_once(tmp_path: Path) -> None:
    found = tree(tmp_path, {"compositional_skills/a/b": examples.SKILL})
    with (tmp_path / "items.jsonl").open("wb") as stream:
        stream.truncate(9 << 20)
    config = RepositoryConfig(benchmark=BenchmarkSettings(general="items.jsonl"))
    told = lint(found, config).findings
    assert [(each.file, each.rule) for each in told] == [("items.jsonl", "benchmark-overlap")]


# ---- secrets and personal data


def leaked(text: str, personal: bool = True) -> list[str]:
    return [leak.what for leak in secrets.leaks(text.split("\n"), personal)]


A = "aB3dE5gH7jK9mN1pQ2rS4tU6vW8xY0zA1bC2dE3f"


@pytest.mark.parametrize(
    "text",
    [
        "-----BEGIN " + "RSA PRIVATE KEY-----",
        "-----BEGIN " + "OPENSSH PRIVATE KEY-----",
        "ghp_" + A[:36],
        "github_pat_" + A[:30],
        "glpat-" + A[:20],
        "AKIA" + "QWERTYUIOPASDFGH",
        "AIza" + A[:35],
        "xoxb-" + A[:24],
        "hf_" + A[:34],
        "sk-" + A,
        "sk-proj-" + A,
        "sk_live_" + A[:24],
        "npm_" + A[:36],
        "pypi-AgE" + A + A,
        "SG." + A[:22] + "." + A + "xyz",
        "eyJhbGciOiJIUzI1NiJ9" + ".eyJzdWIiOiIxMjM0In0." + A,
        "https://user:hunter22@db.acme.dev/x",
    ],
)
def test_a_secret_is_told_at_its_place_and_never_repeated(text: str) -> None:
    for line in (text, f"answer: use {text} here"):
        (leak,) = secrets.leaks(["", line])
        assert (leak.rule, leak.line, leak.column) == ("secret", 2, line.index(text[:3]) + 1)
        assert text[6:] not in leak.what


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("Write to mona.lisa@louvre.fr today.", "an e-mail address"),
        ("Card 4539 1488 0343 6467 expired.", "the number of a payment card"),
        ("IBAN FR14 2004 1010 0505 0001 3M02 606 here", "an IBAN"),
        ("Call +49 30 901820 now.", "a telephone number"),
        ("Call (212) 736-5000 now.", "a telephone number"),
    ],
)
def test_personal_data_is_told(text: str, what: str) -> None:
    assert leaked(text) == [what]
    assert leaked(text, personal=False) == []


@pytest.mark.parametrize(
    "text",
    [
        "name@example.org, me@test.example, 1+2@3",
        "Call +1 212 555 0123 or 555-0199.",
        "4111 1111 1111 1111 and 4539 1488 0343 6468 (no valid sum)",
        "GB82 WEST 1234 5698 7654 32 is the textbook's",
        "commit 0123456789abcdef0123456789abcdef01234567",
        "https://example.org/a:b@c and https://user:password@example.org/",
        "AKIAIOSFODNN7EXAMPLE",
        "sk-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
        "risk-averse task-oriented disk-based-storage-and-retrieval-systems",
        "3.14159265358979323846, 1234567890123456, 2024-05-01 12:30:45",
        "12 345 678 people, 1 000 000 000 grains, 10.1234/56789012",
        "ISBN 978-3-16-148410-0",
        "x = +1234567 + 7654321; range +20 to +30",
    ],
)
def test_what_only_looks_like_a_secret_is_left_alone(text: str) -> None:
    assert leaked(text) == []


@given(st.text(alphabet="gh_pAKIsk-@.:/+0123456789eyJ xobEGIN", max_size=4000))
@settings(max_examples=60, deadline=None)
def test_secrets_are_looked_for_in_linear_time(text: str) -> None:
    start = time.process_time()
    for leak in secrets.leaks(text.split("\n")):
        assert leak.column >= 1
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    "piece", ["a" * 60 + ".", "1 ", "+1 ", "a:b@", "https://a:", "eyJa.eyJ", "(1) ", "-a"]
)
def test_a_megabyte_of_near_misses_is_searched_quickly(piece: str) -> None:
    start = time.process_time()
    assert len(list(secrets.leaks([piece * (1_000_000 // len(piece))]))) < 100_000
    assert time.process_time() - start < 8


# ---- sizes


def test_tokens_are_counted_where_words_are_not_enough() -> None:
    assert sizes.tokens("Plain words.") == 3
    assert sizes.tokens("灯塔矗立在岛屿北部") == 9
    assert sizes.over_tokens("short", 5) == 0
    assert sizes.over_tokens("a_b_" * 10, 5) == 40


def test_a_context_without_spaces_is_long_by_its_tokens(tmp_path: Path) -> None:
    text = examples.KNOWLEDGE.replace("Vik has 6 lights;", "Vik has 6 lights " + "灯塔" * 500 + ";")
    found = tree(tmp_path, {"knowledge/a/b": text})
    told = [each for each in lint(found, RepositoryConfig()).findings if each.rule == "context-length"]
    assert len(told) == 1
    assert "tokens (estimated); at most 800" in told[0].message


def test_a_leaf_that_is_no_leaf_has_no_passages() -> None:
    for text in ("seed_examples: 1\n", "seed_examples: [1, [2], {question: x}]\n", "seed_examples: {a: 1}\n"):
        root = parse_yaml(text.encode())
        assert isinstance(root, YamlNode)
        assert leaf_text(root, True) == LeafText(True, "", ())


def test_a_megabyte_with_one_long_context_and_many_questions_costs_seconds_at_most(tmp_path: Path) -> None:
    pairs = "".join(
        f"      - question: How many lights has isle {n}?\n        answer: It has {n} of the Lights.\n"
        for n in range(3000)
    )
    context = " ".join(f"The isle {n} has lights. " for n in range(20_000))
    text = examples.KNOWLEDGE.replace(
        "seed_examples:\n",
        f"seed_examples:\n  - context: '{context}'\n    questions_and_answers:\n{pairs}",
    )
    found = tree(tmp_path, {"knowledge/a/b": text})
    start = time.process_time()
    told = {each.rule for each in lint(found, RepositoryConfig(), ["knowledge/a/b/qna.yaml"]).findings}
    assert time.process_time() - start < 5
    assert "context-length" in told
    assert "yaml-limits" not in told
