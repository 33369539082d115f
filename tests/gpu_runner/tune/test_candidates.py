"""Runs that learn all there is in their first epochs: an earlier one than the last is released, after a kill
too; two ranks measure as one does; and never more than one candidate waits on the disk.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from test_choice import of_document
from test_tune import command, losses

from gpu_runner.tune.candidates import Candidates, Validation, measure
from gpu_runner.tune.loop import Position, StepReport
from gpu_runner.tune.ranks import Ranks
from gpu_runner.tune.student_model import load_student
from gpu_runner.tune.targets import TokenRow
from gpu_runner.tune.tune import TuneSettings, run
from lab.contracts import read_json, read_lines, write_json, write_lines

OVERRIDES = {
    "epochs": 14, "effective_batch": 10, "warmup_steps": 0, "checkpoint_steps": 4, "validation_share": 0.3,
}  # fmt: skip


def work_of(folder: Path, **overrides: Any) -> Path:
    """80 rows of twelve documents whose answers are drawn by chance: nothing of one tells of another."""
    dice = random.Random(0)
    rows = []
    for number in range(80):
        row = of_document(number)
        answer = "".join(dice.choices("abcdefgh", k=6))
        rows.append({**row, "messages": [row["messages"][0], {"role": "assistant", "content": answer}]})
    write_lines(folder / "generate" / "samples.jsonl", rows)
    write_json(folder / "plan" / "plan.json", {"config": {"tune": {"overrides": OVERRIDES | overrides}}})
    return folder


def start(work: Path, student: Path, ranks: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*command(work, student, "--ranks", str(ranks)), "--learning-rate", "0.02"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        start_new_session=True,
    )


def likelihood(work: Path) -> float:
    """Of the rows held back, by the released model, as plainly as can be."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from gpu_runner.tune.loop import token_losses
    from gpu_runner.tune.targets import tokenize

    tokenizer = AutoTokenizer.from_pretrained(work / "tune" / "model")
    model = AutoModelForCausalLM.from_pretrained(work / "tune" / "model").eval()
    values = []
    for held in read_lines(work / "tune" / "validation.jsonl", "sample"):
        row = tokenize(held["id"], held["messages"], tokenizer, 512)
        assert isinstance(row, TokenRow)
        with torch.no_grad():
            loss = token_losses(model, [row], torch.device("cpu"), nullcontext)
        values.append(-loss.item() / row.target_count)
    return sum(values) / len(values)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_student: Path) -> tuple[Path, list[int]]:
    """One undisturbed run, and how many model folders lay in its scratch folder after each step."""
    work = work_of(tmp_path_factory.mktemp("choice"))
    child = start(work, tiny_student, 1)
    seen = []
    while child.poll() is None:
        seen.append(len(list(work.glob("tune.partial-*/.scratch/candidates/*/config.json"))))
        time.sleep(0.02)
    assert child.returncode == 0
    return work, seen


def test_an_earlier_epoch_is_released_when_later_ones_are_not_shown_to_be_better(
    whole: tuple[Path, list[int]],
) -> None:
    work, seen = whole
    choice = read_json(work / "tune" / "phases.json", "phases")["choice"]
    assert (choice["rows"], choice["documents"], len(choice["candidates"])) == (24, 12, OVERRIDES["epochs"])
    last, chosen = choice["candidates"][-1], choice["candidates"][choice["chosen"] - 1]
    assert chosen["epoch"] < last["epoch"]
    assert "is shown to be better" in choice["why"]
    assert likelihood(work) == pytest.approx(chosen["mean"], abs=1e-4)
    assert likelihood(work) != pytest.approx(last["mean"], abs=1e-3)
    assert 1 in seen
    assert max(seen) <= 2, "the one kept, and the one that takes its place while it is written"
    trained = {row["id"] for row in read_lines(work / "tune" / "training" / "phase_1.jsonl")}
    assert not trained & {row["id"] for row in read_lines(work / "tune" / "validation.jsonl")}
    assert (work / "tune" / "model" / "curves.svg").is_file()
    assert not (work / "tune" / ".scratch").exists()


def test_a_run_that_is_killed_between_epochs_makes_the_same_choice(
    tmp_path: Path, tiny_student: Path, whole: tuple[Path, list[int]]
) -> None:
    work = work_of(tmp_path)
    child = start(work, tiny_student, 1)
    while child.poll() is None:
        files = list(work.glob("tune.partial-*/.scratch/candidates/measures.jsonl"))
        if files and files[0].read_bytes().count(b"\n") >= OVERRIDES["epochs"] // 2:
            break
        time.sleep(0.002)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not (work / "tune").exists()
    again = start(work, tiny_student, 1)
    said = again.communicate()[0]
    assert again.returncode == 0
    assert b"going on from phase 1" in said
    assert losses(work) == losses(whole[0])
    reports = [read_json(folder / "tune" / "phases.json")["choice"] for folder in (work, whole[0])]
    assert reports[0] == reports[1]
    weights = [(folder / "tune" / "model" / "model.safetensors").read_bytes() for folder in (work, whole[0])]
    assert weights[0] == weights[1]


def test_two_ranks_measure_what_one_measures(
    tmp_path: Path, tiny_student: Path, whole: tuple[Path, list[int]]
) -> None:
    work = work_of(tmp_path, epochs=3)
    assert start(work, tiny_student, 2).wait() == 0
    choice = read_json(work / "tune" / "phases.json", "phases")["choice"]
    alone = read_json(whole[0] / "tune" / "phases.json", "phases")["choice"]
    means = [one["mean"] for one in choice["candidates"]]
    assert means == pytest.approx([one["mean"] for one in alone["candidates"]][:3], rel=1e-2)
    chosen = choice["candidates"][choice["chosen"] - 1]
    assert likelihood(work) == pytest.approx(chosen["mean"], abs=1e-3)


def test_a_model_that_was_spoiled_after_its_first_epoch_is_not_released(
    tmp_path: Path, tiny_student: Path
) -> None:
    import torch
    from safetensors.torch import load_file

    ranks = Ranks(0, 1, torch.device("cpu"))
    loaded = load_student(tiny_student, ranks, torch.float32)
    rows = tuple(TokenRow(f"row-{n}", tuple(range(n, n + 20)), (False, *[True] * 19)) for n in range(24))
    validation = Validation(rows, tuple(str(n % 12) for n in range(24)))
    first = {name: value.detach().clone() for name, value in loaded.model.named_parameters()}
    checkpoints: list[Position] = []
    candidates = Candidates(tmp_path / "candidates", validation, 3, ranks)
    for epoch in (1, 2, 3):
        candidates.add(
            StepReport(1, epoch, 5 * epoch, 15, 1.0, 1, 1, 1, 0.1, 1.0, 1.0),
            lambda some: measure(loaded, some, ranks, nullcontext),
            lambda folder: loaded.model.save_pretrained(folder),
            checkpoints.append,
        )
        assert [path.name for path in (tmp_path / "candidates").glob("*/")] == ["step-00000005"]
        with torch.no_grad():
            for value in loaded.model.parameters():
                value += torch.randn_like(value)
    assert checkpoints == [Position(0, 5)]
    told = candidates.to_json(0.3)["candidates"]
    assert told[1]["difference_high"] < 0 > told[2]["difference_high"]
    assert candidates.put(tmp_path / "model")
    kept = load_file(tmp_path / "model" / "model.safetensors")
    assert all(torch.equal(value, first[name]) for name, value in kept.items())
    resumed = Candidates(tmp_path / "candidates", validation, 3, ranks)
    resumed.forget_after(Position(1))
    assert resumed.put(tmp_path / "model"), "killed after it was moved: it lies there already"
    resumed.forget_after(Position(0, 12))
    assert len(resumed.to_json(0.3)["candidates"]) == 2


def test_without_a_share_no_row_is_held_back_and_the_last_model_is_released(
    tmp_path: Path, tiny_student: Path
) -> None:
    work = work_of(tmp_path)
    settings = TuneSettings(str(tiny_student), overrides={"epochs": 1, "validation_share": 0})
    run(work, work / "tune", settings, say=lambda line: None)
    report = read_json(work / "tune" / "phases.json", "phases")
    assert report["choice"]["chosen"] is None
    assert report["choice"]["why"] == ("the last one, without a choice: tune.overrides.validation_share is 0")
    assert report["phases"][0]["rows"] == 80
    assert not (work / "tune" / "validation.jsonl").exists()
