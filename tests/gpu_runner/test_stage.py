"""A stage runs once per key, survives a kill at any moment, and notices what changed behind its back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gpu_runner.stage import SCRATCH, Manifest, StageError, changed_files, execute, read_manifest
from lab.contracts import problems


def _run(
    work: Path, setting: int = 1, text: str = "rows", runs: list[str] | None = None, name: str = "generate"
) -> Manifest:
    def body(partial: Path) -> None:
        if runs is not None:
            runs.append(text)
        (partial / "deep").mkdir(exist_ok=True)
        (partial / "deep" / "rows.jsonl").write_text(text)

    plan = work / "plan"
    if not plan.exists():
        plan.mkdir(parents=True)
        (plan / "plan.json").write_text("{}")
    return execute(name, [plan], work / name, {"setting": setting}, body)


def test_the_same_run_happens_once_and_its_manifest_fits_the_schema(tmp_path: Path) -> None:
    runs: list[str] = []
    first = _run(tmp_path, runs=runs)
    again = _run(tmp_path, runs=runs)
    assert runs == ["rows"]
    assert again.reused
    assert not first.reused
    assert again == first
    written = json.loads((tmp_path / "generate" / "manifest.json").read_text())
    assert problems("manifest", written) == []
    assert [output["path"] for output in written["outputs"]] == ["deep/rows.jsonl"]
    assert read_manifest(tmp_path / "generate") == first


def test_another_setting_or_input_runs_again_and_replaces_the_folder(tmp_path: Path) -> None:
    runs: list[str] = []
    _run(tmp_path, setting=1, text="one", runs=runs)
    _run(tmp_path, setting=2, text="two", runs=runs)
    (tmp_path / "plan" / "plan.json").write_text('{"more": 1}')
    _run(tmp_path, setting=2, text="three", runs=runs)
    assert runs == ["one", "two", "three"]
    assert (tmp_path / "generate" / "deep" / "rows.jsonl").read_text() == "three"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".generate.lock", "generate", "plan"]


def test_equal_outputs_of_another_run_leave_later_stages_valid(tmp_path: Path) -> None:
    assert _run(tmp_path, setting=1).digest == _run(tmp_path, setting=2).digest
    assert _run(tmp_path, setting=3, text="other").digest != _run(tmp_path, setting=1).digest


def test_an_output_that_was_touched_is_made_again_and_refused_as_an_input(tmp_path: Path) -> None:
    manifest = _run(tmp_path)
    rows = tmp_path / "generate" / "deep" / "rows.jsonl"
    rows.write_text("evil")
    assert changed_files(tmp_path / "generate", manifest) == ["deep/rows.jsonl has other content"]
    with pytest.raises(
        StageError, match=r"changed after generate wrote it: deep/rows\.jsonl has other content"
    ):
        execute("tune", [tmp_path / "generate"], tmp_path / "tune", {}, lambda partial: None)
    assert not _run(tmp_path).reused
    assert rows.read_text() == "rows"


def test_a_manifest_that_was_edited_is_refused(tmp_path: Path) -> None:
    _run(tmp_path)
    path = tmp_path / "generate" / "manifest.json"
    value = json.loads(path.read_text())
    value["outputs"][0]["bytes"] += 1
    value["outputs"][0]["digest"] = "sha256:" + "0" * 64
    path.write_text(json.dumps(value))
    with pytest.raises(StageError, match="was edited"):
        read_manifest(tmp_path / "generate")


def test_a_missing_stage_says_which_command_makes_it(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="run `treewright plan` first"):
        execute("generate", [tmp_path / "plan"], tmp_path / "generate", {}, lambda partial: None)


def test_a_failed_body_leaves_its_partial_folder_and_the_next_run_goes_on_in_it(tmp_path: Path) -> None:
    source = tmp_path / "in.txt"
    source.write_text("in")

    def fails(partial: Path) -> None:
        (partial / "half.txt").write_text("half")
        raise ZeroDivisionError

    def goes_on(partial: Path) -> None:
        assert (partial / "half.txt").read_text() == "half"
        (partial / "whole.txt").write_text("whole")

    with pytest.raises(ZeroDivisionError):
        execute("tune", [source], tmp_path / "tune", {}, fails)
    assert not (tmp_path / "tune").exists()
    manifest = execute("tune", [source], tmp_path / "tune", {}, goes_on)
    assert manifest.resumed
    assert [output.path for output in manifest.outputs] == ["half.txt", "whole.txt"]


def test_scratch_is_neither_listed_nor_kept(tmp_path: Path) -> None:
    source = tmp_path / "in.txt"
    source.write_text("in")

    def body(partial: Path) -> None:
        (partial / SCRATCH).mkdir()
        (partial / SCRATCH / "checkpoint").write_text("big")
        (partial / "model").write_text("small")

    manifest = execute("tune", [source], tmp_path / "tune", {}, body)
    assert [output.path for output in manifest.outputs] == ["model"]
    assert sorted(path.name for path in (tmp_path / "tune").iterdir()) == ["manifest.json", "model"]


def test_a_link_in_the_outputs_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "in.txt"
    source.write_text("in")
    with pytest.raises(StageError, match="not a regular file"):
        execute(
            "tune", [source], tmp_path / "tune", {}, lambda partial: (partial / "x").symlink_to("/etc/hosts")
        )


_CHILD = """
import sys, time
from pathlib import Path
from gpu_runner import stage

work, moment = Path(sys.argv[1]), sys.argv[2]

def stand_still(*_):
    (work / "reached").write_text("")
    time.sleep(60)

def body(partial):
    with (work / "runs").open("a") as stream:
        stream.write("run\\n")
    (partial / "rows").write_text("rows")
    if moment == "body":
        stand_still()

if moment == "swap":
    stage._swap = stand_still
if moment == "between":
    real = Path.rename
    def rename(self, target):
        if ".partial-" in self.name:
            stand_still()
        return real(self, target)
    Path.rename = rename
manifest = stage.execute("tune", [work / "in.txt"], work / "tune", {}, body)
print("resumed" if manifest.resumed else "fresh", "reused" if manifest.reused else "ran")
"""


@pytest.mark.parametrize(
    ("moment", "runs", "said"),
    [
        ("body", 2, "resumed ran"),  # nothing was finished: the body goes on in what it left
        ("swap", 1, "fresh reused"),  # the manifest stood already: only the rename was missing
        ("between", 1, "fresh reused"),  # the old folder was moved away already
    ],
)
def test_kill_9_loses_nothing_that_was_finished(tmp_path: Path, moment: str, runs: int, said: str) -> None:
    (tmp_path / "in.txt").write_text("in")
    if moment == "between":  # there must be an older result in the way
        execute("tune", [tmp_path / "in.txt"], tmp_path / "tune", {"old": 1}, lambda partial: None)
    child = subprocess.Popen([sys.executable, "-c", _CHILD, str(tmp_path), moment])
    deadline = time.monotonic() + 30
    while not (tmp_path / "reached").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, str(tmp_path), "none"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == said
    assert (tmp_path / "runs").read_text().count("run") == runs
    assert (tmp_path / "tune" / "rows").read_text() == "rows"
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith("tune")) == ["tune"]


def test_two_processes_cannot_run_one_stage_at_once(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("in")
    child = subprocess.Popen([sys.executable, "-c", _CHILD, str(tmp_path), "body"])
    deadline = time.monotonic() + 30
    while not (tmp_path / "reached").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    try:
        with pytest.raises(StageError, match="another process is running tune"):
            execute("tune", [tmp_path / "in.txt"], tmp_path / "tune", {}, lambda partial: None)
    finally:
        child.kill()
        child.wait()


def test_what_was_made_from_an_earlier_plan_is_not_built_on(tmp_path: Path) -> None:
    def plan(text: str) -> None:
        execute("plan", [], tmp_path / "plan", {"head": text}, lambda p: _write(p / "plan.json", text))

    def later(name: str, before: str) -> Manifest:
        return execute(name, [tmp_path / before], tmp_path / name, {}, lambda p: _write(p / "out", name))

    plan("one commit")
    later("generate", "plan")
    later("tune", "generate")
    plan("another commit")
    for name, before in (("tune", "generate"), ("benchmark", "tune")):
        with pytest.raises(StageError, match=r"generate was run on another plan .* `treewright generate`"):
            later(name, before)
    later("generate", "plan")
    assert later("tune", "generate").reused  # the other plan gave the same rows


def test_a_folder_left_over_from_a_killed_run_of_the_same_number_is_in_nobodys_way(tmp_path: Path) -> None:
    _run(tmp_path, setting=1)
    left = tmp_path / f"generate.old-{os.getpid()}"  # in a container, every run has the same process id
    left.mkdir()
    (left / "rows.jsonl").write_text("old")
    assert not _run(tmp_path, setting=2).reused
    assert not left.exists()


def _write(path: Path, text: str) -> None:
    path.write_text(text, "utf-8")
