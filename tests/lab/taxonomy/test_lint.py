# ruff: noqa: E501 - messages are shown whole
"""Lint stories: every finding of every file at once, each at the very value it is about."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inline_snapshot import snapshot

from lab.config import LintPolicy, RepositoryConfig
from lab.contracts import problems
from lab.taxonomy import examples, render
from lab.taxonomy.findings import Finding
from lab.taxonomy.leaf import LeafError, load_leaf, load_leaves
from lab.taxonomy.lint import LintReport, lint
from lab.taxonomy.tree import FolderTree
from lab.untrusted import Refused

LEAF = "knowledge/geography/isles"
SKILL = "compositional_skills/writing/plain"
CORPUS = Path(__file__).parents[4] / "shared" / "corpus"


def put(
    root: Path, leaf: str, text: str | bytes, attribution: str | None = examples.ATTRIBUTION
) -> FolderTree:
    folder = root / leaf
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "qna.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    if attribution is not None:
        (folder / "attribution.txt").write_text(attribution, "utf-8")
    return FolderTree(root)


def run(tree: FolderTree, only: list[str] | None = None) -> LintReport:
    return lint(tree, RepositoryConfig(), only)


def short(report: LintReport) -> list[str]:
    return [
        f"{f.file.split('/')[-1]}:{f.line}:{f.column} {f.severity} {f.rule}: {f.message} {f.help}"
        for f in report.findings
    ]


def test_a_knowledge_leaf_with_several_mistakes_gets_all_of_them_at_their_lines(tmp_path: Path) -> None:
    text = (
        examples.KNOWLEDGE.replace("created_by", "createdby")
        .replace("Where is the oldest light of Vik?", "How many lights has Vik?")
        .replace("commit: 0123456789abcdef0123456789abcdef01234567", "commit: 0123456")
        .replace("guides/*.md", "../guides/*.md")
        .replace("answer: Ess has lights.", "answer: Yes")
    )
    assert short(run(put(tmp_path, LEAF, text))) == snapshot(
        [
            "qna.yaml:1:1 error missing-field: `created_by` is missing. Add `created_by: your-github-name`.",
            "qna.yaml:2:1 error unknown-field: `createdby` is not a field. Did you mean `created_by`?",
            "qna.yaml:21:17 error wrong-type: `answer`: YAML reads the bare `Yes` as a boolean, not as text. Put it in quotes: `'Yes'`.",
            "qna.yaml:42:19 error duplicate-question: The question `How many lights has Vik?` stands already on line 40. Ask something else, or delete one of the two.",
            "qna.yaml:48:11 error document-commit: `0123456` is not a full commit id. Use the full id of 40 hex digits: `git rev-parse HEAD` in the document repository prints it.",
            "qna.yaml:50:7 error document-pattern: `../guides/*.md` leaves the repository by `..`. Write the path from the root, without `..`.",
        ]
    )


def test_a_broken_file_does_not_hide_another(tmp_path: Path) -> None:
    put(tmp_path, SKILL, "seed_examples: [\n")
    tree = put(tmp_path, LEAF, examples.KNOWLEDGE.replace("domain: Geography\n", ""))
    assert [(f.file, f.rule) for f in run(tree).findings] == [
        (f"{SKILL}/qna.yaml", "yaml-syntax"),
        (f"{LEAF}/qna.yaml", "missing-field"),
    ]


def test_old_formats_stay_as_they_are_until_somebody_changes_them(tmp_path: Path) -> None:
    old = "created_by: octocat\ntask_description: Say it.\nseed_examples:\n  - question: Say hello.\n    answer: Hello.\n"
    tree = put(tmp_path, SKILL, old, attribution=None)
    untouched = run(tree)
    assert untouched.ok
    assert [f.severity for f in untouched.findings] == ["warning"]
    changed = run(tree, [f"{SKILL}/qna.yaml"])
    assert {f.rule for f in changed.findings if f.severity == "error"} == {
        "version",
        "seed-count",
        "attribution-missing",
    }
    assert load_leaf(tree, SKILL).version == 1


def test_knowledge_of_an_old_version_is_told_how_to_move(tmp_path: Path) -> None:
    report = run(put(tmp_path, LEAF, "version: 2\n"))
    assert [f.rule for f in report.findings] == ["version"]
    assert "questions_and_answers" in report.findings[0].help


def test_changing_only_the_attribution_lints_the_leaf(tmp_path: Path) -> None:
    tree = put(
        tmp_path,
        SKILL,
        examples.SKILL,
        "Title of work: x\nLicence of the work: CC BY-SA 4.0\nCreater names: y\n",
    )
    assert short(run(tree, [f"{SKILL}/attribution.txt"])) == snapshot(
        [
            "attribution.txt:1:1 error attribution-field: `Creator names` is missing in the work that begins here. Add a line `Creator names: ...`.",
            "attribution.txt:1:1 error attribution-field: `Link to work` is missing in the work that begins here. Add a line `Link to work: ...`. Write an https address, or `-` for your own work.",
            "attribution.txt:2:22 warning licence: `CC BY-SA 4.0` is not written as its SPDX id. Write `CC-BY-SA-4.0`.",
            "attribution.txt:3:1 error attribution-field: `Creater names` is not a label of attribution.txt. Did you mean `Creator names`?",
        ]
    )


def test_a_leaf_of_50_megabytes_is_answered_by_its_size(tmp_path: Path) -> None:
    tree = put(tmp_path, SKILL, b"")
    with (tmp_path / SKILL / "qna.yaml").open("wb") as stream:
        stream.truncate(50 << 20)
    start = time.process_time()
    report = run(tree)
    assert time.process_time() - start < 0.5
    assert [f.rule for f in report.findings] == ["yaml-limits"]
    assert "50.0 MiB" in report.findings[0].message
    with pytest.raises(Refused, match="at most"):
        tree.read(f"{SKILL}/qna.yaml", 1 << 20)


def test_a_megabyte_of_mistakes_is_answered_quickly_and_cut(tmp_path: Path) -> None:
    tree = put(tmp_path, SKILL, b" \n" * 500_000)
    start = time.process_time()
    report = run(tree)
    assert time.process_time() - start < 2
    assert len(report.findings) < 110
    assert "too-many" in {finding.rule for finding in report.findings}


def test_files_outside_the_branches_are_not_leaves(tmp_path: Path) -> None:
    (tmp_path / ".github").mkdir()
    (tmp_path / ".github" / "labeler.yml").write_text("x: [\n")
    (tmp_path / "README.md").write_text("hello\n")
    assert run(put(tmp_path, SKILL, examples.SKILL)).to_json() == {"ok": True, "files": 2, "findings": []}


def test_the_configuration_is_linted_with_the_tree(tmp_path: Path) -> None:
    (tmp_path / ".github").mkdir()
    (tmp_path / ".github" / "treewright.yml").write_text("version: 1\napproval:\n  user: [mona]\n")
    found = run(FolderTree(tmp_path)).findings
    assert [(f.rule, f.line, f.column, f.help) for f in found] == [("config", 3, 3, "Did you mean `users`?")]


def test_a_leaf_that_cannot_be_read_says_why_and_the_others_load(tmp_path: Path) -> None:
    put(tmp_path, SKILL, "version: 3\n")
    tree = put(tmp_path, LEAF, examples.KNOWLEDGE)
    assert [leaf.path for leaf in load_leaves(tree)] == [LEAF]
    with pytest.raises(LeafError, match=r"qna.yaml:1:1: `created_by` is missing"):
        load_leaf(tree, SKILL)


def test_a_leaf_keeps_the_lines_of_its_questions_and_a_digest_of_its_content(tmp_path: Path) -> None:
    leaf = load_leaf(put(tmp_path, LEAF, examples.KNOWLEDGE), LEAF)
    assert (leaf.kind, leaf.version, leaf.domain, len(leaf.seeds)) == ("knowledge", 3, "Geography", 5)
    lines = examples.KNOWLEDGE.split("\n")
    for seed in leaf.seeds:
        for pair in seed.pairs:
            assert pair.question in lines[pair.line - 1]
    moved = load_leaf(put(tmp_path / "b", LEAF, "# a comment\n" + examples.KNOWLEDGE), LEAF)
    renamed = load_leaf(put(tmp_path / "c", LEAF, examples.KNOWLEDGE.replace("octocat", "hubot")), LEAF)
    changed = load_leaf(put(tmp_path / "d", LEAF, examples.KNOWLEDGE.replace("quay", "key")), LEAF)
    assert leaf.digest == moved.digest == renamed.digest != changed.digest


@given(st.binary(max_size=120), st.integers(0, 300), st.sampled_from(["skill", "knowledge"]))
@settings(max_examples=300, deadline=None)
def test_any_bytes_in_a_leaf_give_a_report_that_fits_the_schema(noise: bytes, at: int, kind: str) -> None:
    base = (examples.SKILL if kind == "skill" else examples.KNOWLEDGE).encode()
    data = base[:at] + noise + base[at + 20 :]
    path = f"{SKILL if kind == 'skill' else LEAF}/qna.yaml"

    class Memory:
        def paths(self) -> list[str]:
            return [path]

        def read(self, name: str, limit: int) -> bytes:
            return data

    report = lint(Memory(), RepositoryConfig(), [path])
    assert problems("lint_report", report.to_json()) == []
    lines = data.count(b"\n") + 1
    assert all(1 <= finding.line <= lines for finding in report.findings)
    render.text(report, lambda file, line: "")
    json.dumps(render.sarif(report, "0"))


def test_a_workflow_command_cannot_be_forged_by_a_file_name() -> None:
    finding = Finding(
        "knowledge/a,b::\n::error::x/qna.yaml", 1, 1, "licence", "error", "100% wrong\n::set-output", "h"
    )
    line = render.github(LintReport((finding,), 1))
    assert "\n" not in line
    assert line.startswith("::error file=knowledge/a%2Cb%3A%3A%0A%3A%3Aerror%3A%3Ax/qna.yaml,line=1")
    assert line.endswith("::100%25 wrong%0A::set-output h")


def test_the_terminal_shows_the_line_with_a_caret_and_no_escapes() -> None:
    finding = Finding("a/qna.yaml", 3, 5, "licence", "error", "Wrong.", "Mend it.", "good")
    shown = render.text(LintReport((finding,), 1), lambda file, line: "key\x1b: bad")
    assert shown == snapshot("""\
a/qna.yaml:3:5: error: Wrong. [licence]
    3 | key�: bad
      |     ^
      = help: Mend it.
      = write: good

1 file: 1 error.\
""")


def command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "treewright", *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )


def test_the_command_prints_the_contract_and_leaves_with_the_right_code(tmp_path: Path) -> None:
    put(tmp_path, LEAF, examples.KNOWLEDGE)
    put(tmp_path, SKILL, examples.SKILL.replace("version: 3", 'version: "3"'))
    bad = command("lint", ".", "--format", "json", cwd=tmp_path)
    assert bad.returncode == 1
    told = json.loads(bad.stdout)
    assert problems("lint_report", told) == []
    assert [(f["file"], f["line"], f["rule"]) for f in told["findings"]] == [
        (f"{SKILL}/qna.yaml", 1, "version")
    ]
    for path in (LEAF, f"{LEAF}/qna.yaml"):
        assert command("lint", path, cwd=tmp_path).returncode == 0
    single = command("lint", "qna.yaml", "--format", "json", cwd=tmp_path / SKILL)
    assert json.loads(single.stdout)["findings"] == told["findings"]
    assert command("lint", "nowhere", cwd=tmp_path).returncode == 2
    assert command("lint", "--base", "main", cwd=tmp_path).returncode == 2
    assert command("explain", "licence", cwd=tmp_path).returncode == 0
    assert "Did you mean licence" in command("explain", "license", cwd=tmp_path).stderr


def test_lint_imports_no_heavy_library(tmp_path: Path) -> None:
    put(tmp_path, SKILL, examples.SKILL)
    code = (
        "import sys\nfrom treewright.cli import app\n"
        "try:\n    app(['lint', '.'])\nexcept SystemExit as end:\n    assert not end.code\n"
        "heavy = {'torch', 'fastapi', 'transformers', 'jsonschema', 'jinja2', 'aiohttp'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


# Where we differ from the predecessor on purpose.
STRICTER = {"p010": {"document-commit", "duplicate-context"}}


@pytest.mark.skipif(not CORPUS.is_dir(), reason="the corpus of real leaves is not beside this checkout")
def test_verdicts_agree_with_the_predecessors_on_its_own_cases() -> None:
    # Its cases have no attribution.txt: another script of its CI looked for that.
    config = RepositoryConfig(lint=LintPolicy(rules={"attribution-missing": "off"}))
    cases = json.loads((CORPUS / "lint_cases.json").read_text("utf-8"))["cases"]
    differ = {}
    for case in cases:
        tree = FolderTree(CORPUS / case["root"])
        report = lint(tree, config, [case["path_in_tree"]], strict=case["schema_version"] > 0)
        if report.ok != case["expected_ok"]:
            differ[case["id"]] = {f.rule for f in report.findings if f.severity == "error"}
    assert differ == STRICTER


@pytest.mark.skipif(not CORPUS.is_dir(), reason="the corpus of real leaves is not beside this checkout")
def test_real_leaves_all_load_and_only_a_non_commercial_licence_is_an_error() -> None:
    tree = FolderTree(CORPUS / "taxonomy")
    report = run(tree)
    assert [f.rule for f in report.findings if f.severity == "error"] == ["licence"]
    assert len(load_leaves(tree)) == 16
