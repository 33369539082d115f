"""Old leaves move to version 3 by edits of their text: comments, order and quoting stay."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from inline_snapshot import snapshot

from lab.config import RepositoryConfig
from lab.taxonomy import examples
from lab.taxonomy.checks import check
from lab.taxonomy.migrate import Migration, migrate
from lab.untrusted import read_yaml

SKILL = "compositional_skills/writing/plain/qna.yaml"
ISLES = "knowledge/geography/isles/qna.yaml"
CONFIG = RepositoryConfig()
HEAD = """\
# The isles
version: 2 # old
created_by: "octocat"
domain: 'Geography'

# What it is about
task_description: The isles and their lights.
seed_examples:
  # first
  - question: How many lights has Mora?  # a number
    answer: |
      Mora has 2 lights.

        The oldest is on the pier.
  # second
  - answer: >-
      On the
      skerry.

    question: 'Where is the light of Ess?'
"""
TAIL = """\
document:
  repo: https://github.com/acme/documents.git
  commit: 0123456789abcdef0123456789abcdef01234567
  patterns: ["guides/*.md"] # all
"""


def moved(file: str, text: str) -> Migration:
    found = migrate(file, text.encode(), CONFIG)
    assert found is not None
    return found


def test_knowledge_moves_as_far_as_nothing_is_lost_and_says_what_is_missing() -> None:
    found = moved(ISLES, HEAD + TAIL)
    assert found.outcome == "rewritten"
    assert found.data.decode() == snapshot(
        """\
# The isles
version: 3 # old
created_by: "octocat"
domain: 'Geography'

# What it is about
document_outline: The isles and their lights.
seed_examples:
  # first
  - questions_and_answers:
      - question: How many lights has Mora?  # a number
        answer: |
          Mora has 2 lights.

            The oldest is on the pier.
  # second
  - questions_and_answers:
      - answer: >-
          On the
          skerry.

        question: 'Where is the light of Ess?'
document:
  repo: https://github.com/acme/documents.git
  commit: 0123456789abcdef0123456789abcdef01234567
  patterns: ["guides/*.md"] # all
"""
    )
    assert [(f.line, f.message) for f in found.left] == snapshot(
        [
            (8, "2 seed examples here; at least 5 are needed."),
            (10, "`context` is missing in seed example 1."),
            (10, "1 questions here; at least 3 are needed."),
            (17, "`context` is missing in seed example 2."),
            (17, "1 questions here; at least 3 are needed."),
        ]
    )


def test_a_skill_of_version_2_changes_one_digit() -> None:
    for written, becomes in (("2", "3"), ("'2'", "3"), ("2   # two", "3   # two")):
        found = moved(SKILL, examples.SKILL.replace("version: 3", f"version: {written}"))
        assert found.data.decode() == examples.SKILL.replace("version: 3", f"version: {becomes}")
        assert found.left == ()


def test_a_skill_of_version_1_moves_when_it_fulfils_version_3() -> None:
    old = "# mine\n" + examples.SKILL.replace("version: 3\n", "")
    assert moved(SKILL, old).data.decode() == "# mine\n" + examples.SKILL
    short = "\n".join(old.split("\n")[:-3]) + "\n"
    found = moved(SKILL, short)
    assert (found.outcome, found.data.decode()) == ("blocked", short)
    assert [finding.rule for finding in found.left] == ["seed-count"]


def test_line_ends_and_marks_stay() -> None:
    data = ("\ufeff" + HEAD + TAIL).replace("\n", "\r\n").encode()
    found = migrate(ISLES, data, CONFIG)
    assert found is not None
    assert found.data == ("\ufeff" + moved(ISLES, HEAD + TAIL).data.decode()).replace("\n", "\r\n").encode()


@pytest.mark.parametrize("text", [examples.KNOWLEDGE, "", "- a\n", "version: 7\ncreated_by: x\n", "3\n"])
def test_what_is_new_or_nothing_of_ours_is_left_alone(text: str) -> None:
    assert migrate(ISLES, text.encode(), CONFIG) is None


@pytest.mark.parametrize(
    "text",
    ["{version: 2, task_description: x}\n", "version: 2\nversion: 2\n", "seed_examples: [\n", "a: &b 1\n"],
)
def test_what_cannot_be_edited_safely_stays_and_says_why(text: str) -> None:
    found = moved(ISLES, text)
    assert (found.outcome, found.data.decode()) == ("blocked", text)
    assert found.reason


WORDS = st.text(alphabet="abc :#'\"-\né|>", min_size=1, max_size=25).filter(lambda text: text.strip())
STYLES = st.sampled_from([None, "'", '"', "|", ">"])


class _Styled(str):
    __slots__ = ("style",)


class _Dumper(yaml.SafeDumper):
    pass


_Dumper.add_representer(
    _Styled,
    lambda dumper, data: dumper.represent_scalar("tag:yaml.org,2002:str", str(data), style=data.style),
)


@st.composite
def _texts(draw: st.DrawFn) -> str:
    text = _Styled(draw(WORDS))
    text.style = draw(STYLES)
    return text


@settings(max_examples=120, deadline=None)
@given(
    st.lists(st.tuples(_texts(), _texts()), min_size=1, max_size=4),
    st.sampled_from([None, 1, 2]),
    st.integers(2, 6),
    st.booleans(),
    st.lists(st.integers(0, 40), max_size=4),
)
def test_the_data_is_the_same_in_the_new_shape_and_every_comment_is_still_there(
    seeds: list[tuple[str, str]], version: int | None, indent: int, turned: bool, comments: list[int]
) -> None:
    pairs = [("question", "answer")] * len(seeds)
    data = {
        **({} if version is None else {"version": version}),
        "created_by": "octocat",
        "task_description": "The isles.",
        "seed_examples": [
            dict(sorted(zip(keys, seed, strict=True), reverse=turned))
            for keys, seed in zip(pairs, seeds, strict=True)
        ],
    }
    text = yaml.dump(data, Dumper=_Dumper, sort_keys=False, indent=indent, allow_unicode=True)
    lines = text.split("\n")
    for number, at in enumerate(comments):
        if at < len(lines) and lines[at].startswith(
            ("- ", "created_by", "task_description", "seed_examples")
        ):
            lines.insert(at, f"# note {number}")
    text = "\n".join(lines)
    found = moved(ISLES, text)
    assert found.outcome == "rewritten"
    told = yaml.safe_load(found.data)
    assert told == {
        "version": 3,
        "created_by": "octocat",
        "document_outline": "The isles.",
        "seed_examples": [{"questions_and_answers": [dict(seed)]} for seed in data["seed_examples"]],
    }
    assert [line for line in found.data.decode().split("\n") if line.startswith("# note")] == [
        line for line in lines if line.startswith("# note")
    ]
    assert migrate(ISLES, found.data, CONFIG) is None


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=120), st.booleans())
def test_no_bytes_break_it(noise: bytes, knowledge: bool) -> None:
    data = b"version: 2\ntask_description: x\nseed_examples:\n- question: a\n  answer: b\n" + noise
    found = migrate(ISLES if knowledge else SKILL, data, CONFIG)
    if found is not None and found.outcome == "rewritten":
        assert read_yaml(found.data).root is not None


def test_the_command_writes_what_it_showed(tmp_path: Path) -> None:
    for file, text in ((SKILL, examples.SKILL.replace("version: 3", "version: 2")), (ISLES, HEAD + TAIL)):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).write_text(text)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "treewright", "migrate", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    shown = run("--diff")
    assert shown.returncode == 1
    assert "+document_outline: The isles and their lights.\n" in shown.stdout
    assert (tmp_path / ISLES).read_text() == HEAD + TAIL
    told = json.loads(run("--format", "json").stdout)
    assert [(one["file"], one["outcome"], len(one["left"])) for one in told] == [
        (SKILL, "rewritten", 0),
        (ISLES, "rewritten", 5),
    ]
    assert (tmp_path / SKILL).read_text() == examples.SKILL
    document = read_yaml((tmp_path / ISLES).read_bytes())
    assert [f.line for f in check(ISLES, document, CONFIG, True, True)] == [
        f["line"] for f in told[1]["left"]
    ]
    assert run().stdout == "0 moved to version 3, 0 moved and need you, 0 stay.\n"
