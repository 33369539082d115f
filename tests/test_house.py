"""The rules of the house: who imports whom, what starts without torch, how long a file may be."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

ROOT = Path(__file__).parent.parent
ROOMS = ("lab", "bot", "gpu_runner", "sandbox", "treewright", "schemas")
ALLOWED = {
    "schemas": set(),
    "lab": {"schemas"},
    "bot": {"lab", "schemas"},
    "gpu_runner": {"lab", "schemas"},
    "sandbox": set(),
    "treewright": {"lab", "bot", "gpu_runner", "sandbox", "schemas"},
}
SOURCES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
ACTIONS = sorted([*ROOT.glob("actions/*/action.yml"), *ROOT.glob("sandbox/actions/*/action.yml")])
WORKFLOWS = sorted(
    [*ROOT.glob(".github/workflows/*.yml"), *ROOT.glob("examples/taxonomy/.github/workflows/*.yml")]
)


def imported(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, "imports are absolute, so that this test can read them"
            names.add(node.module)
    return names


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_rooms_import_only_their_neighbours(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    rooms = {name.partition(".")[0] for name in imported(ast.parse(path.read_text()))} & set(ROOMS)
    assert rooms - {room} <= ALLOWED[room]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_stay_short_enough_to_read(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 520


@pytest.mark.parametrize(
    ("statement", "forbidden"),
    [
        (
            "import lab.taxonomy.lint, lab.taxonomy.diff, lab.synthesis.preview, lab.report.comment",
            "torch fastapi",
        ),
        ("import bot.main, bot.web", "torch transformers"),
        ("import treewright.cli", "torch fastapi transformers github dbos aiohttp"),
        ("import treewright.cli, lab.taxonomy.lint", "torch fastapi transformers aiohttp"),
        ("import sandbox.forge.app, sandbox.hub.app", "torch lab bot gpu_runner"),
    ],
)
def test_rooms_start_without_what_they_do_not_need(statement: str, forbidden: str) -> None:
    program = f"{statement}\nimport sys\nprint(*sorted(set({forbidden.split()!r}) & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("path", sorted((ROOT / "schemas").glob("*.json")), ids=lambda path: path.name)
def test_schemas_are_described_and_their_examples_are_valid(path: Path) -> None:
    schema = json.loads(path.read_text())
    Draft202012Validator.check_schema(schema)
    assert schema["description"]
    assert schema["examples"], "every schema shows an example"
    validator = Draft202012Validator(schema)
    for example in schema["examples"]:
        validator.validate(example)


def test_schemas_hold_no_code() -> None:
    assert [path.name for path in (ROOT / "schemas").glob("*.py")] == ["__init__.py"]
    assert (ROOT / "schemas" / "__init__.py").read_text() == ""


@pytest.mark.parametrize("path", ACTIONS, ids=lambda path: path.parent.name)
def test_actions_are_short_and_hold_no_logic(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 60
    for step in yaml.safe_load(text)["runs"]["steps"]:
        assert "${{" not in step.get("run", ""), "expressions go through env, never into a shell line"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: str(path.relative_to(ROOT)))
def test_workflows_grant_nothing_by_default_and_pin_what_they_use(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {}
    triggers = workflow[True]  # YAML 1.1 reads the key `on` as true
    assert "pull_request_target" not in triggers
    for job in workflow["jobs"].values():
        for used in [job.get("uses"), *(step.get("uses") for step in job.get("steps", []))]:
            if used and not used.startswith("treewright/"):
                assert re.search(r"@[0-9a-f]{40}$", used), f"{used} is not pinned to a commit"


def test_the_build_job_holds_no_secret() -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())["jobs"]
    assert jobs["build"]["permissions"] == {"contents": "read"}
    assert "secrets" not in json.dumps(jobs["build"])
    assert "github.token" not in json.dumps(jobs["build"])
    assert jobs["publish"]["environment"] == "release"


def test_the_release_workflow_runs_every_stage_in_order() -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())["jobs"]
    used = [
        step["uses"]
        for job in jobs.values()
        for step in job["steps"]
        if "treewright/actions/" in step["uses"]
    ]
    stages = [name for use in used if (name := use.split("/")[-1].split("@")[0]) != "setup"]
    assert stages == ["plan", "generate", "tune", "benchmark", "gate", "release", "publish"]
    for stage in stages:
        assert (ROOT / "actions" / stage / "action.yml").is_file()


def test_the_caller_and_the_reusable_workflow_agree_on_their_inputs() -> None:
    caller = yaml.safe_load((ROOT / "examples/taxonomy/.github/workflows/release.yml").read_text())
    called = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())
    assert set(caller["jobs"]["release"]["with"]) <= set(called[True]["workflow_call"]["inputs"])
    assert set(caller[True]["workflow_dispatch"]["inputs"]) == {"sha", "base", "pull_requests", "key"}
