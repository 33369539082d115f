"""The example content keeps its promises: one fixed commit, verbatim contexts, disjoint question sets.

Run: `pytest tests/examples`. The 13-gram rule against contamination is the one of GPT-3's appendix C.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections import Counter
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
DOCUMENTS = EXAMPLES / "documents"
TAXONOMY = EXAMPLES / "taxonomy"
MENDED = EXAMPLES / "contributions" / "mended"
BAD = EXAMPLES / "contributions" / "bad"
ISLAND = EXAMPLES / "contributions/good/knowledge/geography/farne_mora/qna.yaml"
VALID = sorted(p for root in (TAXONOMY, ISLAND.parents[3], MENDED) for p in root.rglob("qna.yaml"))
COMMIT_LINE = re.compile(r"^  commit: (\S+)$", re.MULTILINE)


def _name(path: Path) -> str:
    return path.relative_to(EXAMPLES).as_posix()


def _leaf(path: Path) -> dict[str, Any]:
    value = yaml.safe_load(path.read_bytes())
    assert isinstance(value, dict), path
    return value


def _lines(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (TAXONOMY / ".treewright" / name).read_text("utf-8").splitlines()]


def _words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\w+", text.casefold()))


def _grams(text: str, size: int = 13) -> set[tuple[str, ...]]:
    words = _words(text)
    return {words[i : i + size] for i in range(len(words) - size + 1)}


def _pairs(leaf: dict[str, Any]) -> list[tuple[str, str]]:
    seeds = leaf["seed_examples"]
    items = [pair for seed in seeds for pair in seed.get("questions_and_answers", [seed])]
    return [(item["question"], item["answer"]) for item in items]


def _make_commit(repository: Path) -> str:
    """Follow the recipe of examples/README.md; the date carries its own offset, so TZ plays no part."""
    who = json.loads((EXAMPLES / "documents.json").read_text("utf-8"))
    env = {"PATH": os.environ["PATH"], "HOME": str(repository.parent), "TZ": "Asia/Kathmandu"}
    env |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    for role in ("AUTHOR", "COMMITTER"):
        env |= {f"GIT_{role}_NAME": who["name"], f"GIT_{role}_EMAIL": who["email"]}
        env[f"GIT_{role}_DATE"] = who["date"]

    def git(*arguments: str) -> str:
        command = ["git", "-c", "core.autocrlf=false", "-c", "core.fileMode=false", *arguments]
        cwd = repository if repository.exists() else repository.parent
        return subprocess.run(command, cwd=cwd, env=env, check=True, capture_output=True, text=True).stdout

    git("init", "-q", "--object-format=sha1", "--initial-branch=main", str(repository))
    for source in sorted(p for p in DOCUMENTS.rglob("*") if p.is_file()):
        target = repository / source.relative_to(DOCUMENTS)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())
    git("add", ".")
    git("commit", "-q", "-m", who["message"])
    return git("rev-parse", "HEAD").strip()


def test_every_leaf_pins_exactly_the_commit_that_the_recipe_makes(tmp_path: Path) -> None:
    commit = _make_commit(tmp_path / "documents")
    pins = {
        _name(path): found.group(1)
        for path in sorted(EXAMPLES.rglob("qna.yaml"))
        if (found := COMMIT_LINE.search(path.read_text("utf-8")))
    }
    assert len(pins) == 5
    assert pins == dict.fromkeys(pins, commit)
    assert commit in (EXAMPLES / "README.md").read_text("utf-8")


@pytest.mark.parametrize("path", VALID, ids=_name)
def test_a_valid_leaf_has_what_its_schema_asks_for(path: Path) -> None:
    leaf = _leaf(path)
    seeds = leaf["seed_examples"]
    assert leaf["version"] == 3
    assert len(seeds) >= 5
    questions = [_words(question) for question, _ in _pairs(leaf)]
    if "document" in leaf:
        assert set(leaf) == {
            "version", "created_by", "domain", "document_outline", "seed_examples", "document",
        }  # fmt: skip
        assert all(set(seed) == {"context", "questions_and_answers"} for seed in seeds)
        assert all(len(seed["questions_and_answers"]) >= 3 for seed in seeds)
        assert leaf["document"]["repo"] == "https://github.com/acme/documents"
        assert len(set(questions)) == len(questions)
    else:
        assert set(leaf) == {"version", "created_by", "task_description", "seed_examples"}
        grounded = "grounded" in path.relative_to(EXAMPLES).parts
        assert all(("context" in seed) == grounded for seed in seeds)
        key = [(seed.get("context"), _words(seed["question"])) for seed in seeds]
        assert len(set(key)) == len(key)
    assert all(question.strip() and answer.strip() for question, answer in _pairs(leaf))


@pytest.mark.parametrize("path", [p for p in VALID if "knowledge" in p.parts], ids=_name)
def test_every_context_is_a_verbatim_excerpt_of_a_document_that_the_patterns_match(path: Path) -> None:
    leaf = _leaf(path)
    texts = [
        document.read_text("utf-8")
        for document in sorted(DOCUMENTS.rglob("*.md"))
        if any(PurePosixPath("/", document.relative_to(DOCUMENTS)).match(f"/{pattern}")
               for pattern in leaf["document"]["patterns"])
    ]  # fmt: skip
    assert texts
    for seed in leaf["seed_examples"]:
        assert any(seed["context"].strip() in text for text in texts), seed["context"]
        for pair in seed["questions_and_answers"]:
            assert pair["answer"] in seed["context"], pair


def test_every_file_keeps_the_relaxed_yaml_rules() -> None:
    files = [p for p in EXAMPLES.rglob("*") if p.suffix in {".yaml", ".yml", ".md", ".json", ".txt"}]
    assert len(files) > 30
    for path in files:
        text = path.read_bytes().decode("utf-8")
        assert text.endswith("\n"), path
        assert not text.endswith("\n\n"), path
        assert "\t" not in text, path
        assert "\r" not in text, path
        assert not re.search(r"[ ]+$", text, re.MULTILINE), path


def test_folder_names_are_lower_case_with_underscores_and_each_leaf_has_its_attribution() -> None:
    for path in sorted(EXAMPLES.rglob("qna.yaml")):
        root = TAXONOMY if TAXONOMY in path.parents else EXAMPLES / "contributions"
        for part in path.parent.relative_to(root).parts:
            assert re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)*", part), path
        lines = (path.parent / "attribution.txt").read_text("utf-8").splitlines()
        assert [line.partition(": ")[0] for line in lines] == [
            "Title of work", "Link to work", "Revision", "License of the work", "Creator names",
        ]  # fmt: skip
        assert all(line.partition(": ")[2].strip() for line in lines)


def test_the_taxonomy_has_all_three_kinds_and_not_the_island() -> None:
    kinds = Counter(path.relative_to(TAXONOMY).parts[0] for path in TAXONOMY.rglob("qna.yaml"))
    assert kinds == {"knowledge": 2, "compositional_skills": 3, "foundational_skills": 1}
    everything = "".join(p.read_text("utf-8") for p in TAXONOMY.rglob("*") if p.is_file())
    assert "farne" not in everything.casefold()


def test_the_bad_contribution_has_its_mistakes_and_the_mended_one_the_same_paths() -> None:
    def paths(root: Path) -> list[str]:
        return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())

    assert paths(BAD) == paths(MENDED)
    thanks = _leaf(BAD / "compositional_skills/writing/thank_you_notes/qna.yaml")
    assert "task_description" not in thanks
    assert max(Counter(question for question, _ in _pairs(thanks)).values()) == 2
    glass = _leaf(BAD / "knowledge/crafts/salt_glass/qna.yaml")
    assert "document_outline" not in glass
    assert glass["document"]["patterns"] == ["../secrets/*.md"]
    with pytest.raises(yaml.YAMLError):
        yaml.safe_load((BAD / "compositional_skills/writing/weather_rhymes/qna.yaml").read_bytes())


def test_the_island_asks_about_every_sentence_on_both_sides_of_the_split() -> None:
    seeds = _leaf(ISLAND)["seed_examples"]
    shown, heldout = [], []
    for seed in seeds:
        pairs = [(p["question"], p["answer"]) for p in seed["questions_and_answers"]]
        half = len(pairs) - len(pairs) // 2
        shown += pairs[:half]
        heldout += pairs[half:]
    assert len(shown) + len(heldout) >= 40
    assert 20 <= len(heldout) <= 24
    guide = (DOCUMENTS / "farne_mora/field_guide.md").read_text("utf-8")
    facts = {line for line in guide.splitlines() if line and not line.startswith("#")}
    assert {a for _, a in shown} == {a for _, a in heldout} == facts
    for question, answer in heldout:
        for other in (q for q, a in shown if a == answer):
            mine, theirs = set(_words(question)), set(_words(other))
            assert len(mine & theirs) / len(mine | theirs) < 0.6, (question, other)


@pytest.mark.parametrize("document", sorted(p for p in DOCUMENTS.glob("*/*.md")), ids=lambda p: p.parent.name)
def test_every_line_of_a_document_is_one_sentence_of_ten_to_twenty_words(document: Path) -> None:
    lines = [x for x in document.read_text("utf-8").splitlines() if x and not x.startswith("#")]
    assert 8 <= len(lines) <= 14
    for line in lines:
        assert line.endswith(".")
        assert ". " not in line
        assert 10 <= len(line.split()) <= 20, line
        assert line.split()[0] not in {"It", "They", "He", "She", "This", "These", "Its", "Their"}


def test_the_general_benchmark_is_well_formed_and_its_keys_are_balanced() -> None:
    rows = _lines("general.jsonl")
    assert len(rows) == 200
    assert len({row["id"] for row in rows}) == 200
    assert len({_words(row["question"]) for row in rows}) == 200
    assert Counter(row["key"] for row in rows) == {0: 50, 1: 50, 2: 50, 3: 50}
    for row in rows:
        assert set(row) == {"id", "question", "choices", "key", "topic"}
        assert len(row["choices"]) == len({c.casefold() for c in row["choices"]}) == 4, row
        assert max(map(len, row["choices"])) <= 16, row


@cache
def _invented_names() -> frozenset[str]:
    words = {
        word
        for document in DOCUMENTS.glob("*/*.md")
        for word in re.findall(r"(?<=[a-z,] )[A-Z][a-z]{4,}", document.read_text("utf-8"))
    }
    return frozenset(w.casefold() for w in words) | {"farne", "mora", "korrelwork", "tamblin", "olvane"}


def test_the_replay_prompts_share_nothing_with_the_benchmark_or_the_leaves() -> None:
    prompts = _lines("replay_prompts.jsonl")
    assert len(prompts) == len({row["id"] for row in prompts}) == 80
    assert all(set(row) == {"id", "prompt"} for row in prompts)
    texts = {_words(row["prompt"]): row["prompt"] for row in prompts}
    assert len(texts) == 80
    others = [row["question"] for row in _lines("general.jsonl")]
    others += [question for path in VALID for question, _ in _pairs(_leaf(path))]
    assert not texts.keys() & {_words(text) for text in others}
    seen = set().union(*(_grams(text) for text in others))
    assert seen
    common = {"october", "sunday", "every"}
    for text in texts.values():
        assert not _grams(text) & seen, text
        assert not set(_words(text)) & (_invented_names() - common), text


def test_releases_wait_for_each_other_and_none_that_waits_is_cancelled() -> None:
    workflow = yaml.safe_load((TAXONOMY / ".github" / "workflows" / "release.yml").read_bytes())
    assert workflow["concurrency"] == {
        "group": "treewright-release",
        "cancel-in-progress": False,
        "queue": "max",
    }
