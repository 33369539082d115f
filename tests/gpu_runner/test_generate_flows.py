"""From a taxonomy that chooses its flows to the files that training reads: plan, generate, mix."""

from __future__ import annotations

import random
import re
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gpu_runner.generate import run
from gpu_runner.plan import PlanError, PlanSettings
from gpu_runner.plan import run as plan
from gpu_runner.tune.phases import preset
from lab.contracts import read_json, read_lines, write_lines
from lab.synthesis.mixing import mix
from tests.gpu_runner.synthesis_world import ISLAND, World, build, commit_all
from tests.gpu_runner.test_generate import answering
from tests.lab.synthesis.scholar import scholar

FLOW = """\
version: 1
name: our_tasks
kind: freeform_skill
describe: One task for each seed, and an answer.
unit: seed
asks_per_row: 1
ways:
  - {temperature: 0.5}
cells:
  - {id: way, do: fan_out, over: ways}
  - id: drafts
    do: model
    role: teacher
    prompt: task.yaml
    n: 2
    params: {max_tokens: 60, seed: $way.seed}
  - {id: written, do: fan_out, over: drafts}
  - {id: parsed, do: parse, from: written, parser: task}
  - {id: told, do: model, role: teacher, prompt: answer.yaml, params: {max_tokens: 60}}
  - {id: answered, do: parse, from: told, parser: answer}
keep: {near_duplicate: 0.9}
"""
HOME = ".github/flows/ours"
TASK = """\
system: "You write new tasks of one kind: {{ task.description }}"
shots: shots
shot_user: Another.
shot_assistant: "{{ shot.question }}"
user: Another.
"""
ANSWER = 'system: Answer briefly.\nuser: "{{ question }}"\n'


def world_with(folder: Path, flow: str = FLOW) -> World:
    """The example with the LAB flows, a flow of its own for freeform skills, and few rows."""
    made = build(folder)
    config = made.tree / ".github" / "treewright.yml"
    text = config.read_text("utf-8")
    for name, count in (("rows_changed", 6), ("rows_unchanged", 2), ("replay_rows", 2)):
        text = re.sub(rf"{name}: \d+", f"{name}: {count}", text)
    chosen = f"preset: lab\n  flows:\n    freeform_skill: {HOME}/flow.yml"
    config.write_text(text.replace("preset: compact", chosen), "utf-8")
    prompts = made.tree / HOME / "prompts"
    prompts.mkdir(parents=True)
    (made.tree / HOME / "flow.yml").write_text(flow, "utf-8")
    (prompts / "task.yaml").write_text(TASK, "utf-8")
    (prompts / "answer.yaml").write_text(ANSWER, "utf-8")
    head = commit_all(made.tree, "Flows of our own")
    return World(made.tree, made.cache, made.env, made.base, head)


def planned(world: World, work: Path) -> Path:
    plan(world.tree, work, PlanSettings(world.head, world.base, (2,)), world.cache, world.env)
    return work


def test_a_taxonomys_flows_reach_the_training_files_which_are_the_same_bytes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = world_with(tmp_path)

    def unsteady(body: dict[str, Any]) -> str | int | list[str]:
        time.sleep(random.uniform(0, 0.01))
        return scholar(body)

    found = []
    for name in ("first", "second"):
        work = planned(world, tmp_path / name)
        with answering(unsteady) as endpoint:
            run(work, endpoint.environment())
        samples = list(read_lines(work / "generate" / "samples.jsonl", "sample"))
        budgets = [phase.budget for phase in preset("lab-merlinite-7b").phases]
        for phase in mix(samples, budgets, seed=7):
            write_lines(work / f"phase_{phase.number}.jsonl", phase.rows)
        names = ("generate/samples.jsonl", "generate/rejections.jsonl", "generate/yield.json")
        phases = ("phase_1.jsonl", "phase_2.jsonl", "phase_3.jsonl")
        found.append([(work / one).read_bytes() for one in (*names, *phases)])
    assert found[0] == found[1]
    assert {one["dataset"] for one in samples} >= {
        "knowledge_short",
        "knowledge_long",
        "foundational",
        "skill",
    }
    flows = {one["lineage"]["flow"] for one in samples}
    assert flows == {"lab_knowledge", "lab_grounded_skill", "our_tasks", "seed", "replay"}
    sources = {kind: one["source"] for kind, one in read_json(work / "plan" / "flows.json").items()}
    assert sources == {
        "knowledge": "treewright:lab/knowledge",
        "freeform_skill": f"{HOME}/flow.yml",
        "grounded_skill": "treewright:lab/grounded_skill",
    }
    told = read_json(work / "generate" / "yield.json", "yield")
    leaf = next(one for one in told["leaves"] if one["leaf"] == ISLAND)
    assert leaf["delivered"] == leaf["wanted"] == 6
    assert leaf["why"] is None
    held_out = {one["question"] for one in read_lines(work / "plan" / "heldout.jsonl") if not one["context"]}
    assert not held_out & {one["question"] for one in samples}

    from treewright.cli import app

    for variable, value in endpoint.environment().items():
        monkeypatch.setenv(variable, value)
    shown = CliRunner().invoke(app, ["generate", "--work", str(work)])
    assert shown.exit_code == 0
    assert re.search(rf"{ISLAND} +6 +6 ", shown.output)
    assert "all leaves" in shown.output
    assert "generated before; nothing was asked" in shown.output


def test_a_flow_that_does_not_hold_together_stops_the_plan_with_its_line(tmp_path: Path) -> None:
    world = world_with(tmp_path, FLOW.replace("parser: answer", "parser: ode"))
    with pytest.raises(PlanError, match=rf"{HOME}/flow\.yml:20:5: our_tasks\.answered: no parser 'ode'"):
        planned(world, tmp_path / "work")
