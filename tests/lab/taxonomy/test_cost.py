"""A change's cost is counted with the flows that will run, and timed by rates that runs have recorded."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from git_host import commit

from lab.config import RepositoryConfig, SynthesisSettings
from lab.synthesis.flow import load_flow, shipped
from lab.synthesis.heldout import split
from lab.synthesis.leaf import make_task
from lab.synthesis.run import count_rows
from lab.taxonomy import examples
from lab.taxonomy.cost import LeafCost, Rates, RatesError, cost, leaf_cost, read_rates, text
from lab.taxonomy.diff import diff
from lab.taxonomy.leaf import load_leaf
from lab.taxonomy.tree import FilesTree, GitTree

PLAIN = "compositional_skills/writing/plain"
GROUNDED = "compositional_skills/writing/about"
ISLES = "knowledge/geography/isles"
CONFIG = RepositoryConfig()
FILES: dict[str, str | bytes | None] = {
    f"{PLAIN}/qna.yaml": examples.SKILL,
    f"{GROUNDED}/qna.yaml": examples.GROUNDED,
    f"{ISLES}/qna.yaml": examples.KNOWLEDGE,
    f"{ISLES}/attribution.txt": examples.ATTRIBUTION,
}


@pytest.mark.parametrize("path", [PLAIN, GROUNDED, ISLES])
def test_tries_and_requests_are_those_of_the_flow(path: str) -> None:
    leaf = load_leaf(FilesTree({k: v.encode() for k, v in FILES.items() if isinstance(v, str)}), path)
    found = leaf_cost(leaf, 40, CONFIG)
    flow = load_flow(leaf.kind)
    task = make_task(leaf, split(leaf, CONFIG.generate.heldout_share, CONFIG.generate.seed), (), 40)
    if leaf.kind != "knowledge":
        assert found.tries == count_rows(flow, task)
    assert found.tries >= 40 * flow.asks_per_row
    assert found.teacher_requests == found.tries * sum(cell.do == "model" for cell in flow.cells)
    assert found.judge_requests >= found.tries * sum(cell.do == "judge" for cell in flow.cells)
    assert found.prompt_tokens > 20 * found.teacher_requests
    assert 0 < found.completion_tokens < 200 * found.teacher_requests


def test_a_repositorys_own_flow_is_what_is_counted() -> None:
    value, prompts = shipped("lab/freeform_skill")
    home = ".github/flows/ours"
    files = {path: text.encode() for path, text in FILES.items() if isinstance(text, str)}
    files[f"{home}/flow.yml"] = json.dumps(value).encode()
    files |= {f"{home}/prompts/{name}": json.dumps(prompt).encode() for name, prompt in prompts.items()}
    head = FilesTree(files)
    changes = diff(FilesTree({}), head)
    own = SynthesisSettings(preset="compact", flows={"freeform_skill": f"{home}/flow.yml"})

    def counted(synthesis: SynthesisSettings) -> dict[str, LeafCost]:
        found = cost(changes, head, replace(CONFIG, synthesis=synthesis))
        return {leaf.leaf: leaf for leaf in found.leaves}

    compact, lab = counted(SynthesisSettings(preset="compact")), counted(SynthesisSettings(preset="lab"))
    assert counted(own) == {**compact, PLAIN: lab[PLAIN]}
    assert compact[PLAIN] != lab[PLAIN]


@pytest.mark.parametrize("path", [PLAIN, GROUNDED, ISLES])
def test_a_flow_that_branches_costs_what_its_branches_ask(path: str) -> None:
    leaf = load_leaf(FilesTree({k: v.encode() for k, v in FILES.items() if isinstance(v, str)}), path)
    lab = replace(CONFIG, synthesis=SynthesisSettings(preset="lab"))
    found = leaf_cost(leaf, 40, lab)
    flow = load_flow(leaf.kind, "lab")
    assert 40 * flow.asks_per_row <= found.tries < 40
    judges = sum(cell.do == "judge" for cell in flow.cells)
    assert found.judge_requests == found.tries * judges * flow.branches
    assert found.teacher_requests > found.tries * flow.branches
    assert found.prompt_tokens > 60 * found.teacher_requests


def between(folder: Path, files: dict[str, str | bytes | None]) -> tuple[GitTree, GitTree]:
    base = commit(folder, FILES)
    return GitTree(folder, base), GitTree(folder, commit(folder, files))


def test_only_what_is_generated_anew_costs(tmp_path: Path) -> None:
    base, head = between(
        tmp_path,
        {
            f"{PLAIN}/qna.yaml": examples.SKILL.replace("Tact matters", "Care matters"),
            f"{GROUNDED}/qna.yaml": examples.GROUNDED.replace("Name what", "Say what"),
            f"{ISLES}/attribution.txt": examples.ATTRIBUTION + "Changes: none\n",
        },
    )
    found = cost(diff(base, head), head, CONFIG)
    assert [(leaf.leaf, leaf.rows) for leaf in found.leaves] == [
        (GROUNDED, CONFIG.generate.rows_changed),
        (PLAIN, CONFIG.generate.rows_changed),
    ]
    assert (found.generate_minutes, found.tune_minutes) == (None, None)
    requests = found.total("teacher_requests") + found.total("judge_requests")
    lines = text(found).split("\n")
    assert lines[0].startswith(f"Cost: 400 rows, {requests:,} requests, at most ")
    plain = found.leaves[1]
    assert lines[2] == (
        f"    {PLAIN}: 200 rows by {plain.teacher_requests:,} teacher requests "
        f"and {plain.judge_requests:,} judge requests"
    )
    assert lines[3] == "Minutes are not known: no rates are recorded here (--rates WORK, or a JSON file)."


def test_a_leaf_that_cannot_be_read_is_named_and_not_counted(tmp_path: Path) -> None:
    base, head = between(
        tmp_path, {f"{PLAIN}/qna.yaml": "version: 3\nseed_examples: x\n", f"{ISLES}/qna.yaml": None}
    )
    found = cost(diff(base, head), head, CONFIG)
    assert (found.leaves, found.unread) == ((), (f"{PLAIN}/qna.yaml",))
    assert "cannot be read" in text(found)


def recorded(work: Path, **manifest: Any) -> Path:
    """A work folder with the parts of manifests that rates are read from, as the stages write them."""
    for stage, report, value in (
        (
            "generate",
            "yield.json",
            {"leaves": [{"asked": 90}, {"asked": 0}], "replay": {"rows": 9, "failed": 1}, "samples": {}},
        ),
        ("tune", "phases.json", {"device": "cuda:0", "phases": [{"rows": 50, "skipped": None}]}),
    ):
        (work / stage).mkdir(parents=True, exist_ok=True)
        (work / stage / report).write_text(json.dumps(value))
        (work / stage / "manifest.json").write_text(
            json.dumps({"seconds": 200, "resumed": False, **manifest})
        )
    return work


def test_rates_come_from_the_stages_manifests(tmp_path: Path) -> None:
    assert read_rates(recorded(tmp_path)) == Rates(2.0, 4.0, "cuda:0", str(tmp_path))
    with pytest.raises(RatesError, match="uninterrupted"):
        read_rates(recorded(tmp_path, resumed=True))
    with pytest.raises(RatesError, match="uninterrupted"):
        read_rates(recorded(tmp_path, seconds=True))


@pytest.mark.parametrize(
    "told",
    [
        "",
        "[]",
        "{}",
        '{"tune_seconds_a_row": "4"}',
        '{"tune_seconds_a_row": -1}',
        '{"tune_seconds_a_row": NaN}',
    ],
)
def test_rates_that_say_nothing_are_refused(tmp_path: Path, told: str) -> None:
    (tmp_path / "rates.json").write_text(told)
    with pytest.raises(RatesError):
        read_rates(tmp_path / "rates.json")


def test_the_command_counts_uncommitted_work_and_gives_minutes_with_rates(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    commit(tree, FILES)
    (tree / PLAIN / "qna.yaml").write_text(examples.SKILL.replace("Tact", "Grace"))
    rates = tmp_path / "rates.json"
    rates.write_text('{"generate_seconds_a_try": 0.6, "tune_seconds_a_row": 3}')

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "treewright", "diff", "--base", "main", *arguments]
        return subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)

    told = json.loads(run("--cost", "--format", "json").stdout)["cost"]
    assert [leaf["leaf"] for leaf in told["leaves"]] == [PLAIN]
    assert told["minutes"] == {"generate": None, "tune": None}
    assert told["total"]["rows"] == 200
    timed = json.loads(run("--rates", str(rates), "--format", "json").stdout)["cost"]
    assert timed["minutes"] == {"generate": told["total"]["tries"] * 0.6 / 60, "tune": 10.0}
    assert "10.0 minutes to tune" in run("--rates", str(rates)).stdout
    lost = run("--rates", str(tmp_path / "nowhere.json"))
    assert (lost.returncode, "cannot be read" in lost.stderr) == (2, True)
