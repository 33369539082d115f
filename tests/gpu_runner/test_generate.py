"""The generate stage: with an endpoint that answers by rule, and with the real small model."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gpu_runner.generate import GenerateError, GenerateSettings, Progress, run
from gpu_runner.plan import PlanSettings
from gpu_runner.plan import run as plan
from gpu_runner.stage import StageError
from lab.contracts import read_json, read_lines
from lab.synthesis.endpoints import EndpointError
from lab.synthesis.engine import EngineSettings
from tests.gpu_runner.synthesis_world import ISLAND, World, build, commit_all
from tests.lab.synthesis.helpers import Model, Rule, asker, model


@contextmanager
def answering(rule: Rule = asker) -> Iterator[Model]:
    """The rule's endpoint in a thread of its own: the stage runs an event loop itself."""
    started, stop = threading.Event(), threading.Event()
    box: list[Model] = []

    def serve() -> None:
        async def inner() -> None:
            async with model(rule) as found:
                box.append(found)
                started.set()
                while not stop.is_set():  # noqa: ASYNC110 (the event belongs to another thread)
                    await asyncio.sleep(0.02)

        asyncio.run(inner())

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        assert started.wait(10)
        yield box[0]
    finally:
        stop.set()
        thread.join(10)


@pytest.fixture
def world(tmp_path: Path) -> World:
    """The example with few rows: what is tested here does not depend on how many there are."""
    made = build(tmp_path)
    config = made.tree / ".github" / "treewright.yml"
    text = config.read_text("utf-8")
    for name, count in (("rows_changed", 28), ("rows_unchanged", 3), ("replay_rows", 5)):
        text, found = re.subn(rf"{name}: \d+", f"{name}: {count}", text)
        assert found == 1
    config.write_text(text, "utf-8")
    head = commit_all(made.tree, "Few rows")
    return World(made.tree, made.cache, made.env, made.base, head)


def planned(world: World, work: Path) -> Path:
    plan(world.tree, work, PlanSettings(world.head, world.base, (2,)), world.cache, world.env)
    return work


def test_the_stage_writes_samples_rejections_and_the_yield_by_reason(world: World, tmp_path: Path) -> None:
    work = planned(world, tmp_path / "work")
    lines: list[str] = []
    with answering() as found:
        run(work, found.environment(), show=lambda progress: lines.append(progress.line()))
    samples = list(read_lines(work / "generate" / "samples.jsonl", "sample"))
    rejections = list(read_lines(work / "generate" / "rejections.jsonl", "rejection"))
    told = read_json(work / "generate" / "yield.json", "yield")
    assert {sample["dataset"] for sample in samples} >= {
        "knowledge_short",
        "knowledge_long",
        "replay",
        "skill",
    }
    for leaf in told["leaves"]:
        assert leaf["asked"] == leaf["kept"] + sum(leaf["rejected"].values())
        assert sum(leaf["rejected"].values()) == sum(one["leaf"] == leaf["leaf"] for one in rejections)
    assert told["replay"] == {"rows": 5, "failed": 0}
    assert len({sample["id"] for sample in samples}) == len(samples)
    assert lines[-1].startswith(f"{len(lines)}/{len(lines)} rows")
    heldout = {
        item["question"] for item in read_lines(work / "plan" / "heldout.jsonl") if item["context"] is None
    }
    assert not heldout & {sample["question"] for sample in samples}
    # Without an answer of its own to a skill's task, a skill has the rows that people wrote, and says why.
    assert any("unreadable" in leaf["rejected"] for leaf in told["leaves"] if leaf["kind"] != "knowledge")


def test_a_second_run_sends_nothing_even_when_the_first_result_is_gone(world: World, tmp_path: Path) -> None:
    import shutil

    work = planned(world, tmp_path / "work")
    with answering() as found:
        env = found.environment()
        run(work, env)
        first = (work / "generate" / "samples.jsonl").read_bytes()
        asked = len(found.asked)
        assert run(work, env).reused
        shutil.rmtree(work / "generate")
        assert not run(work, env).reused
        assert len(found.asked) == asked
    assert (work / "generate" / "samples.jsonl").read_bytes() == first


def test_a_killed_run_goes_on_where_it_was(world: World, tmp_path: Path) -> None:
    work = planned(world, tmp_path / "work")

    def slow(body: dict[str, object]) -> str | int:
        time.sleep(0.02)
        return asker(body)

    with answering(slow) as found:
        env = {**os.environ, **found.environment()}
        command = [sys.executable, "-m", "treewright", "generate", "--work", str(work)]
        process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while len(found.asked) < 20 and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not (work / "generate").exists()
        time.sleep(0.3)
        before = len(found.asked)
        assert before >= 20
        subprocess.run(command, env=env, check=True, capture_output=True)
        after = len(found.asked)
        again = [repr(body) for body in found.asked]
        assert len(again) - len(set(again)) <= 8  # only what was in flight when the kill came
        assert after > before
    assert (work / "generate" / "manifest.json").is_file()


def test_missing_and_dead_endpoints_are_told_with_the_variable(world: World, tmp_path: Path) -> None:
    work = planned(world, tmp_path / "work")
    with pytest.raises(EndpointError, match="treewright serve"):
        run(work, {})
    with answering() as found:
        env = found.environment()
    with pytest.raises(EndpointError, match=r"TREEWRIGHT_\w+_URL"):
        run(work, env, GenerateSettings())
    with pytest.raises(GenerateError, match="treewright plan"):
        run(tmp_path / "empty", env)


def test_a_run_whose_endpoints_fail_everything_is_not_taken_for_done(world: World, tmp_path: Path) -> None:
    work = planned(world, tmp_path / "work")
    settings = GenerateSettings(engine=EngineSettings(attempts=1))
    sick = True
    with answering(lambda body: 500 if sick else asker(body)) as found:
        with pytest.raises(GenerateError, match=rf"failed what was asked for .*{ISLAND}, replay \(.* again"):
            run(work, found.environment(), settings)
        assert not (work / "generate").exists()
        sick = False
        run(work, found.environment(), settings)
    told = read_json(work / "generate" / "yield.json", "yield")
    assert next(leaf for leaf in told["leaves"] if leaf["leaf"] == ISLAND)["delivered"]
    assert told["replay"] == {"rows": 5, "failed": 0}
    (work / "plan" / "plan.json").write_text('{"version":', "utf-8")
    with pytest.raises(StageError, match=r"plan\.json has other content"):
        run(work, found.environment())


def test_a_base_model_that_refuses_us_ends_the_run_before_the_teacher_has_done_all_of_it(
    world: World, tmp_path: Path
) -> None:
    work = planned(world, tmp_path / "work")
    with answering() as teacher, answering(lambda body: 401) as student:
        env = {**teacher.environment(), "TREEWRIGHT_STUDENT_URL": student.url}
        with pytest.raises(EndpointError, match="TREEWRIGHT_STUDENT_KEY"):
            run(work, env)
        early = len(teacher.asked)
        run(work, teacher.environment())
        assert early < len(teacher.asked) / 2


def test_the_command_leaves_with_2_and_says_what_to_set(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from treewright.cli import app

    for name in list(os.environ):
        if name.startswith("TREEWRIGHT_"):
            monkeypatch.delenv(name)
    work = planned(world, tmp_path / "work")
    done = CliRunner().invoke(app, ["generate", "--work", str(work)])
    assert done.exit_code == 2
    assert "TREEWRIGHT_TEACHER_URL" in done.output
    shown = CliRunner().invoke(app, ["preview", str(world.tree)])
    assert shown.exit_code == 2
    assert "treewright serve" in shown.output


def test_a_preview_of_no_taxonomy_or_of_a_leaf_that_cannot_be_read_is_not_a_preview_of_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from treewright.cli import app

    for role in ("TEACHER", "JUDGE", "STUDENT"):
        monkeypatch.setenv(f"TREEWRIGHT_{role}_URL", "http://127.0.0.1:9/v1")
    nothing = CliRunner().invoke(app, ["preview", str(tmp_path / "nowhere")])
    assert nothing.exit_code == 2
    assert "There is no leaf in" in nothing.output
    leaf = tmp_path / "tree" / ISLAND
    leaf.mkdir(parents=True)
    (leaf / "qna.yaml").write_text("version: 3\n", "utf-8")
    broken = CliRunner().invoke(app, ["preview", str(tmp_path / "tree")])
    assert broken.exit_code == 1
    assert f"{ISLAND}/qna.yaml:1:1: `seed_examples` is missing" in broken.output


def test_progress_counts_rate_yield_and_time_left() -> None:
    progress = Progress(total=4)
    progress.started -= 2.0
    progress.tick("l", "made")
    progress.tick("l", "held-out")
    assert progress.line() == "2/4 rows, 1.0/s, 50% kept, 2 s left"
    assert progress.reasons == {"held-out": 1}


@pytest.mark.model
def test_the_small_model_yields_good_rows_for_an_invented_island(world: World, tmp_path: Path) -> None:
    from gpu_runner.serving import serve

    config = world.tree / ".github" / "treewright.yml"
    config.write_text(config.read_text("utf-8").replace("rows_unchanged: 3", "rows_unchanged: 1"), "utf-8")
    head = commit_all(world.tree, "The island is what counts")
    work = planned(replace(world, head=head), tmp_path / "work")
    with serve() as served:
        run(work, served.environment())
        told = {leaf["leaf"]: leaf for leaf in read_json(work / "generate" / "yield.json")["leaves"]}
        assert told[ISLAND]["kept"] >= told[ISLAND]["asked"] // 3
        samples = list(read_lines(work / "generate" / "samples.jsonl", "sample"))
        island = [
            one
            for one in samples
            if one["lineage"]["leaf"] == ISLAND and one["lineage"]["flow"] == "knowledge"
        ]
        assert len({one["answer"] for one in island if one["dataset"] == "knowledge_short"}) >= 8
        assert all(one["lineage"]["teacher"]["revision"] for one in island)
        replayed = [one["answer"] for one in samples if one["dataset"] == "replay"]
        rejections = read_lines(work / "generate" / "rejections.jsonl", "rejection")
        lost = [one["reason"] for one in rejections if one["stage"] == "replay"]
        assert set(lost) <= {"cut-off"}
        assert len(replayed) + len(lost) == 5
        assert replayed


@pytest.mark.model
def test_a_preview_of_one_leaf_takes_less_than_a_minute_on_two_cores(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In processor time of server and client together, which other work on this machine does not change."""
    from gpu_runner.preview import preview_checkout
    from gpu_runner.serving import ServeSettings, serve

    def used() -> float:
        times = os.times()
        return times.user + times.system + times.children_user + times.children_system

    monkeypatch.setenv("TREEWRIGHT_CACHE", str(world.cache))
    started = used()
    with serve(settings=ServeSettings(threads=2)) as served:
        env = {**world.env, **served.environment()}
        found = asyncio.run(preview_checkout(world.tree, world.base, None, env))
    assert used() - started < 2 * 60
    assert [leaf.leaf for leaf in found.leaves] == [ISLAND]
    assert sum(answer.correct for answer in found.leaves[0].base) <= 1
    assert found.leaves[0].samples
