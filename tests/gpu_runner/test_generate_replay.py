"""No row of the stage is there twice, or is one that the release is measured by: replay, and other leaves."""

from __future__ import annotations

import json
import re
from pathlib import Path

from gpu_runner.generate import run
from gpu_runner.plan import PlanSettings, tasks_of
from gpu_runner.plan import run as plan
from lab.contracts import read_lines
from lab.synthesis.heldout import split
from lab.synthesis.mixing import Budget, mix
from lab.synthesis.text import words
from tests.gpu_runner.synthesis_world import ISLAND, build, commit_all
from tests.gpu_runner.test_generate import answering
from tests.lab.synthesis.helpers import Cut, asker
from tests.lab.synthesis.test_flows import island


def test_replay_asks_each_prompt_once_and_nothing_that_the_release_is_measured_by(
    tmp_path: Path,
) -> None:
    world = build(tmp_path)
    home = world.tree / ".treewright"
    prompts = [json.loads(line) for line in (home / "replay_prompts.jsonl").read_text("utf-8").splitlines()]
    item = json.loads((home / "general.jsonl").read_text("utf-8").splitlines()[0])
    held_out = split(island(), 0.5, 42).heldout[0].question
    odd = [item["question"], held_out.lower(), None]
    own = [prompts[0], prompts[0], *({"prompt": text} for text in odd)]
    (home / "replay_prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in own), "utf-8")
    config = world.tree / ".github" / "treewright.yml"
    text = re.sub(r"(rows_(?:un)?changed): \d+", r"\1: 1", config.read_text("utf-8"))
    config.write_text(text, "utf-8")
    head = commit_all(world.tree, "Prompts that somebody did not look at")
    work = tmp_path / "work"
    plan(world.tree, work, PlanSettings(head, world.base), world.cache, world.env)
    with answering() as found:
        run(work, found.environment())
    samples = list(read_lines(work / "generate" / "samples.jsonl", "sample"))
    assert [one["question"] for one in samples if one["dataset"] == "replay"] == [prompts[0]["prompt"]]
    rejections = list(read_lines(work / "generate" / "rejections.jsonl", "rejection"))
    lost = [one["reason"] for one in rejections if one["stage"] == "replay"]
    assert lost == ["duplicate-prompt", "benchmark", "benchmark", "empty-prompt"]
    mix(samples, [Budget(("skill",), buffer_rows=9)], 1)  # which refuses two rows with one id
    tasks = {task.leaf: task for task in tasks_of(work / "plan")}
    stranger = next(task for leaf, task in tasks.items() if leaf != ISLAND)
    asked = words(held_out)
    assert stranger.benchmark is not None
    assert stranger.benchmark.hit(asked, [asked]) == f"held out of {ISLAND}"


def test_a_replay_answer_that_reached_its_limit_ends_with_its_last_whole_sentence(tmp_path: Path) -> None:
    world = build(tmp_path)
    own = [{"prompt": text} for text in ("How do tides rise?", "Tell me more.", "Say it shortly.")]
    said = {
        own[0]["prompt"]: Cut("The Moon pulls the sea. It does so twice a day. 2. The Su"),
        own[1]["prompt"]: Cut("There is so much that one could tell of the"),
        own[2]["prompt"]: "Short and with no full stop",
    }
    (world.tree / ".treewright" / "replay_prompts.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in own), "utf-8"
    )
    config = world.tree / ".github" / "treewright.yml"
    text = re.sub(r"(rows_(?:un)?changed): \d+", r"\1: 1", config.read_text("utf-8"))
    config.write_text(re.sub(r"replay_tokens: \d+", "replay_tokens: 31", text), "utf-8")
    head = commit_all(world.tree, "Answers of another length")
    work = tmp_path / "work"
    plan(world.tree, work, PlanSettings(head, world.base), world.cache, world.env)
    with answering(lambda body: said.get(body["messages"][-1]["content"]) or asker(body)) as found:
        run(work, found.environment())
        limits = {row["max_tokens"] for row in found.asked if row["messages"][-1]["content"] in said}
    assert limits == {31}
    rows = read_lines(work / "generate" / "samples.jsonl", "sample")
    assert [row["answer"] for row in rows if row["dataset"] == "replay"] == [
        "The Moon pulls the sea. It does so twice a day.",
        "Short and with no full stop",
    ]
    rejections = read_lines(work / "generate" / "rejections.jsonl", "rejection")
    assert [row["reason"] for row in rejections if row["stage"] == "replay"] == ["cut-off"]
