"""What a machine may mend, it mends at the exact bytes; everything else stays as a person wrote it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.config import RepositoryConfig
from lab.taxonomy import examples
from lab.taxonomy.findings import Finding
from lab.taxonomy.fix import fix_leaf, is_certain, replace_lines, unified, unified_file
from lab.taxonomy.lint import lint
from lab.taxonomy.tree import FilesTree
from lab.untrusted import read_yaml

SKILL = "compositional_skills/writing/plain"
ISLES = "knowledge/geography/isles"
CONFIG = RepositoryConfig()


def findings(files: dict[str, bytes]) -> tuple[Finding, ...]:
    return lint(FilesTree(files), CONFIG, None, True).findings


def leaf(text: str, folder: str = SKILL) -> dict[str, bytes]:
    return {f"{folder}/qna.yaml": text.encode(), f"{folder}/attribution.txt": examples.ATTRIBUTION.encode()}


def mended(text: str, folder: str = SKILL) -> str:
    return fix_leaf(leaf(text, folder), CONFIG, True).files[f"{folder}/qna.yaml"].decode()


def content(data: bytes) -> object:
    root = read_yaml(data).root
    return root.plain() if root is not None else None


@pytest.mark.parametrize(
    ("damage", "repaired"),
    [
        (lambda text: text.replace("octocat", "octocat  "), None),
        (lambda text: text.replace("\n", "\r\n"), None),
        (lambda text: "\ufeff" + text, None),
        (lambda text: text.rstrip("\n"), None),
        (lambda text: text.replace("version: 3", "version: '3'"), None),
        (lambda text: text.replace("version: 3\n", ""), None),
        (lambda text: text.replace("created_by", "createdby"), None),
        (lambda text: text.replace("answer: Tact", "anwser: Tact"), None),
        (lambda text: text.replace("  - question", "\t- question"), None),
        (lambda text: text.replace("Luck matters most.", "Yes"), lambda text: text.replace("Yes", "'Yes'")),
        (
            lambda text: text.replace("Luck matters most.", "Luck: it matters."),
            lambda text: text.replace("Luck: it matters.", "'Luck: it matters.'"),
        ),
    ],
)
def test_each_small_damage_is_undone_to_the_byte(
    damage: Callable[[str], str], repaired: Callable[[str], str] | None
) -> None:
    broken = damage(examples.SKILL)
    wanted = repaired(broken) if repaired is not None else examples.SKILL
    assert mended(broken) == wanted
    assert findings(leaf(wanted)) == ()


def test_a_document_over_http_is_asked_for_over_https() -> None:
    broken = examples.KNOWLEDGE.replace("https://github.com", "http://github.com")
    assert mended(broken, ISLES) == examples.KNOWLEDGE


def test_comments_quoting_and_order_stay_and_only_the_damaged_lines_change() -> None:
    text = "# first\nversion: 3 # three\n" + examples.SKILL.replace("version: 3\n", "").replace(
        "created_by: octocat", "createdby: 'octocat'   # me  "
    )
    assert mended(text) == text.replace("createdby: 'octocat'   # me  ", "created_by: 'octocat'   # me")


def test_what_could_mean_two_things_is_left_to_a_person() -> None:
    far = examples.SKILL.replace("created_by", "creator")
    assert mended(far) == far
    taken = examples.SKILL.replace("created_by: octocat", "created_by: octocat\ncreatedby: hubot")
    assert mended(taken) == taken
    # The tab may close the block, or be part of it: both are YAML, and they say different things.
    tab = examples.SKILL.replace(
        "    answer: Luck matters most.\n", "    answer: |\n      Luck\n\t  matters.\n"
    )
    assert mended(tab) == tab


def test_knowledge_of_an_older_shape_is_not_called_version_3() -> None:
    old = examples.KNOWLEDGE.replace("version: 3\n", "").replace("document_outline", "task_description")
    assert mended(old, ISLES) == old
    assert mended(examples.KNOWLEDGE.replace("version: 3\n", ""), ISLES) == examples.KNOWLEDGE


def test_a_space_that_the_text_needs_is_not_taken_for_one_too_many() -> None:
    text = examples.SKILL.replace(
        "answer: Luck matters most.", 'answer: "Luck\\ \n      matters  \n      most."'
    )
    assert content(mended(text).encode()) == content(text.encode())


def test_files_with_nearly_the_right_name_get_it_and_take_no_other_files_place() -> None:
    files = {
        f"{SKILL}/QNA.yml": examples.SKILL.encode(),
        f"{SKILL}/Attributions.md": examples.ATTRIBUTION.replace("Creator", "Creater").encode(),
    }
    fixed = fix_leaf(files, CONFIG, True)
    assert fixed.files == leaf(examples.SKILL)
    assert set(fixed.renamed) == {
        (f"{SKILL}/QNA.yml", f"{SKILL}/qna.yaml"),
        (f"{SKILL}/Attributions.md", f"{SKILL}/attribution.txt"),
    }
    both = {**leaf(examples.SKILL), f"{SKILL}/qna.yml": b"other\n", f"{SKILL}/attribution.md": b"other\n"}
    assert fix_leaf(both, CONFIG, True).files == both


def test_the_mended_line_is_the_very_suggestion_of_the_review() -> None:
    files = leaf(examples.SKILL.replace("created_by", "createdby").replace("Luck matters most.", "Yes  "))
    file = f"{SKILL}/qna.yaml"
    lines = fix_leaf(files, CONFIG, True).files[file].decode().split("\n")
    certain = [finding for finding in findings(files) if is_certain(finding, files)]
    assert {finding.rule for finding in certain} >= {"unknown-field"}
    assert any(lines[finding.line - 1] == finding.suggestion for finding in certain)


def test_a_file_with_more_findings_than_are_shown_is_mended_to_its_end() -> None:
    text = examples.SKILL.replace("\n", "  \n") + "# note \n" * 5_000
    assert mended(text) == examples.SKILL + "# note\n" * 5_000


@pytest.mark.parametrize(
    ("url", "becomes"),
    [
        ("http://github.com/acme/documents", "https://github.com/acme/documents"),
        ("https://github.com:8443/acme/documents.git", "https://github.com/acme/documents.git"),
        ("ssh://git@github.com:22/acme/documents", "https://github.com/acme/documents"),
        ("git@github.com:acme/documents.git", "https://github.com/acme/documents.git"),
        ("github.com/acme/documents/", "https://github.com/acme/documents"),
        ("github.com:22/acme/documents", "github.com:22/acme/documents"),
        ("https://other.example/acme/documents", "https://other.example/acme/documents"),
    ],
)
def test_an_address_is_mended_to_the_same_repository_or_not_at_all(url: str, becomes: str) -> None:
    text = examples.KNOWLEDGE.replace("https://github.com/acme/documents.git", url)
    assert f"  repo: {becomes}\n" in mended(text, ISLES)


def test_a_licence_with_a_clause_in_another_script_is_another_licence() -> None:
    told = examples.ATTRIBUTION.replace("CC-BY-SA-4.0", "CC-BY-SA-4.0 \u975e\u5546\u7528")  # non-commercial
    files = {**leaf(examples.SKILL), f"{SKILL}/attribution.txt": told.encode()}
    assert [(each.rule, each.severity) for each in findings(files)] == [("licence", "error")]
    assert fix_leaf(files, CONFIG, True).files == files


@pytest.mark.parametrize("name", ["qna.yaml.txt", "QNA.yml.txt", "qna.json", "qna"])
def test_a_leaf_that_an_editor_named_otherwise_is_not_passed_over(name: str) -> None:
    files = {f"{SKILL}/{name}": examples.SKILL.encode()}
    files[f"{SKILL}/attribution.txt"] = examples.ATTRIBUTION.encode()
    assert [(each.file, each.rule) for each in findings(files)] == [(f"{SKILL}/{name}", "file-name")]
    fixed = fix_leaf(files, CONFIG, True)
    assert (f"{SKILL}/qna.yaml" in fixed.files) == name.endswith(".txt")


def test_the_diff_shows_what_cannot_be_seen() -> None:
    files = leaf("\ufeff" + examples.SKILL.replace("octocat", "octocat\r").rstrip("\n"))
    shown = unified(files, fix_leaf(files, CONFIG, True))
    assert "-\\ufeffversion: 3" in shown
    assert "No newline at end of file" in shown


def test_the_diff_sends_nothing_to_the_terminal_that_a_leaf_put_there() -> None:
    files = leaf("# \x1b]0;owned\x07 \u202e\u009b31m é\n" + examples.SKILL.rstrip("\n") + "  \n")
    shown = unified(files, fix_leaf(files, CONFIG, True))
    assert shown.replace("\n", "").isprintable()
    hidden = unified_file("a", "a", files[f"{SKILL}/qna.yaml"], b"")[3]
    assert hidden == "-# \\x1b]0;owned\\x07 \\u202e\\x9b31m é\n"


def test_a_file_with_carriage_returns_for_line_ends_is_left_to_its_editor() -> None:
    files = leaf(examples.SKILL.rstrip("\n").replace("\n", "\r") + "\n")
    assert fix_leaf(files, CONFIG, True).files == files
    assert [each.suggestion for each in findings(files)] == [None]


DAMAGES: list[Callable[[str], str]] = [
    lambda text: "\ufeff" + text,
    lambda text: text.replace("\n", "\r\n"),
    lambda text: text.rstrip("\n"),
    lambda text: text.replace("version: 3\n", ""),
    lambda text: text.replace("version: 3", 'version: "3"'),
    lambda text: text.replace("version: 3", "version: 2"),
    lambda text: text.replace("answer", "anser", 2),
    lambda text: text.replace("seed_examples", "seed-examples"),
    lambda text: text.replace("most.", "most.  "),
    lambda text: text.replace("  - ", "\t- "),
    lambda text: text.replace("    answer", "\tanswer", 1),
    lambda text: text.replace("Time matters most.", "1990"),
    lambda text: text.replace("Time matters most.", "|\n      Time  \n\n      matters \n"),
    lambda text: text.replace("octocat", "@octocat"),
    lambda text: text.replace("octocat", "octo: cat # odd"),
    lambda text: text + "extra: {a: [1, 2]}\n",
    lambda text: text + "\n\n  \n# end \t\n",
    lambda text: text.replace("https://", "http://"),
    lambda text: text[: len(text) // 2],
]


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([(SKILL, examples.SKILL), (SKILL, examples.GROUNDED), (ISLES, examples.KNOWLEDGE)]),
    st.lists(st.sampled_from(DAMAGES), max_size=5),
    st.binary(max_size=6),
)
def test_mending_twice_is_mending_once_and_never_makes_anything_worse(
    start: tuple[str, str], damages: list[Callable[[str], str]], noise: bytes
) -> None:
    folder, text = start
    for damage in damages:
        text = damage(text)
    raw = text.encode()
    files = {**leaf("", folder), f"{folder}/qna.yaml": raw[: len(raw) // 3] + noise + raw[len(raw) // 3 :]}
    fixed = fix_leaf(files, CONFIG, True)
    assert fix_leaf(fixed.files, CONFIG, True).files == fixed.files
    if fixed.files == files:
        return
    before, after = findings(files), findings(dict(fixed.files))
    unread = [sum(each.rule == "yaml-syntax" for each in told) for told in (before, after)]
    assert len(after) < len(before) or unread[1] < unread[0]


@settings(max_examples=80, deadline=None)
@given(st.binary(max_size=200), st.dictionaries(st.integers(-3, 12), st.text(alphabet="ab ", max_size=5)))
def test_replacing_lines_touches_no_other_byte(data: bytes, texts: dict[int, str]) -> None:
    old, new = data.split(b"\n"), replace_lines(data, texts).split(b"\n")
    assert len(old) == len(new)
    assert all(a == b for number, (a, b) in enumerate(zip(old, new, strict=True), 1) if number not in texts)


def test_the_command_shows_first_and_then_writes_and_keeps_the_mode(tmp_path: Path) -> None:
    folder = tmp_path / SKILL
    folder.mkdir(parents=True)
    broken = examples.SKILL.replace("octocat", "octocat  ").replace("created_by", "createdby")
    (folder / "qna.yml").write_text(broken)
    (folder / "qna.yml").chmod(0o664)
    (folder / "attribution.txt").write_text(examples.ATTRIBUTION)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "treewright", "lint", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    shown = run("--diff")
    assert (shown.returncode, (folder / "qna.yml").read_text()) == (1, broken)
    assert "+created_by: octocat\n" in shown.stdout
    done = run("--fix")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (folder / "qna.yaml").read_text() == examples.SKILL
    assert (folder / "qna.yaml").stat().st_mode & 0o777 == 0o664
    assert sorted(path.name for path in folder.iterdir()) == ["attribution.txt", "qna.yaml"]
    assert run("--diff").returncode == 0
