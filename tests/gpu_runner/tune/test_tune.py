"""The tune stage from samples to a model folder, with a tiny student; and through a kill, a stop and two
ranks.
"""

from __future__ import annotations

import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from gpu_runner.stage import StageError
from gpu_runner.student import StudentError
from gpu_runner.tune.phases import EMBEDDED_CPU
from gpu_runner.tune.ranks import Ranks
from gpu_runner.tune.student_model import StudentModelError
from gpu_runner.tune.tune import TuneError, TuneSettings, run, settings_from_plan
from gpu_runner.tune.worker import NothingToTrainError, load_model, load_tokenizer, save_model
from lab.contracts import digest, problems, read_json, read_lines, write_json, write_lines
from treewright.cli import app


def sample(number: int, dataset: str, answer: str | None = None) -> dict[str, Any]:
    question, answer = f"Question {number} of {dataset}?", answer or f"The answer is {number * 7}."
    return {
        "id": digest([number, dataset]),
        "dataset": dataset,
        "kind": {"skill": "freeform_skill", "replay": "replay"}.get(dataset, "knowledge"),
        "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
        "question": question,
        "answer": answer,
        "context": None,
        "lineage": {
            "leaf": "knowledge/islands/farne_mora",
            "leaf_digest": digest(1),
            "seed": None,
            "document": None,
            "chunk": None,
            "commit": "c" * 40,
            "pull_requests": [2],
            "flow": "test",
            "flow_digest": digest(2),
            "teacher": None,
            "judge": None,
            "requests": [],
        },
        "grades": [],
    }


def make_work(folder: Path, counts: dict[str, int], extra: list[dict[str, Any]] | None = None) -> Path:
    rows = [sample(number, dataset) for dataset, count in counts.items() for number in range(count)]
    write_lines(folder / "generate" / "samples.jsonl", rows + (extra or []))
    return folder


def losses(work: Path) -> list[float]:
    return [line["loss"] for line in read_lines(work / "tune" / "metrics.jsonl")]


MIXED = {"knowledge_short": 24, "knowledge_long": 6, "skill": 6, "replay": 4}


def test_samples_become_a_model_with_its_phases_metrics_training_files_and_curves(
    tmp_path: Path, tiny_student: Path
) -> None:
    too_long = sample(99, "knowledge_short", "word " * 200)
    work = make_work(tmp_path, MIXED, [too_long])
    said: list[str] = []
    settings = TuneSettings(
        str(tiny_student), overrides={"epochs": 3, "learning_rate": 0.01}, precision="fp32"
    )
    manifest = run(work, work / "tune", settings, say=said.append)

    names = {output.path for output in manifest.outputs}
    assert {
        "model/config.json", "model/model.safetensors", "model/tokenizer.json", "model/chat_template.jinja",
        "phases.json", "metrics.jsonl", "curves.svg", "training/refused.jsonl",
        "training/phase_1.jsonl", "training/phase_2.jsonl",
    } <= names  # fmt: skip
    assert not any(".scratch" in name for name in names)
    report = read_json(work / "tune" / "phases.json")
    assert problems("phases", report) == []
    first, second = report["phases"]
    assert (first["rows"], first["steps"]) == (28, 6)
    assert first["counts"] == {"new": 25, "phase_replay": 0, "buffer": 4, "duplicates": 0}
    assert second["counts"] == {"new": 12, "phase_replay": 7, "buffer": 4, "duplicates": 0}
    assert [(row["id"], row["reason"]) for row in first["refused"]] == [(too_long["id"], "too_long")]
    assert next(read_lines(work / "tune" / "training" / "refused.jsonl"))["phase"] == 1
    assert any("1 rows refused" in line for line in said)
    assert any("tokens/s" in line and "left" in line for line in said)
    assert first["last_loss"] < first["first_loss"]
    assert len(losses(work)) == first["steps"] + second["steps"]
    assert (work / "tune" / "curves.svg").read_text().count("<polyline") == 2
    for name in ("config.json", "tokenizer_config.json"):
        assert str(tiny_student.parent) not in (work / "tune" / "model" / name).read_text()

    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(work / "tune" / "model")
    model = AutoModelForCausalLM.from_pretrained(work / "tune" / "model")
    text = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    assert text == "<|im_start|>user\nHi<|im_end|>\n"
    before = AutoModelForCausalLM.from_pretrained(tiny_student).get_input_embeddings().weight
    assert not before.equal(model.get_input_embeddings().weight)

    again = run(work, work / "tune", settings, say=said.append)
    assert again.reused


def test_two_runs_with_equal_inputs_give_the_same_weights_and_training_files(
    tmp_path: Path, tiny_student: Path
) -> None:
    settings = TuneSettings(str(tiny_student), precision="fp32")
    outputs = []
    for name in ("a", "b"):
        work = make_work(tmp_path / name, MIXED)
        manifest = run(work, work / "tune", settings, say=lambda line: None)
        outputs.append(
            {o.path: o.digest for o in manifest.outputs if o.path.startswith(("model", "training"))}
        )
    assert outputs[0] == outputs[1]


def test_a_phase_without_new_rows_is_skipped_and_says_so(tmp_path: Path, tiny_student: Path) -> None:
    work = make_work(tmp_path, {"knowledge_short": 5})
    run(work, work / "tune", TuneSettings(str(tiny_student)), say=lambda line: None)
    first, second = read_json(work / "tune" / "phases.json", "phases")["phases"]
    assert first["skipped"] is None
    assert second["skipped"] == "no new rows for this phase"
    assert second["steps"] == 0


def test_what_cannot_be_trained_says_why(tmp_path: Path, tiny_student: Path) -> None:
    settings = TuneSettings(str(tiny_student))
    with pytest.raises(TuneError, match="run `treewright generate"):
        run(tmp_path / "no", tmp_path / "no" / "tune", settings)
    work = make_work(tmp_path / "empty", {})
    with pytest.raises(TuneError, match="holds no row that the preset embedded-cpu trains on"):
        run(work, work / "tune", settings)
    work = make_work(tmp_path / "long", {}, [sample(0, "skill", "word " * 200)])
    with pytest.raises(NothingToTrainError, match=r"too_long \(\d+ tokens, at most 512\)"):
        run(work, work / "tune", settings, say=lambda line: None)
    work = make_work(tmp_path / "student", MIXED)
    with pytest.raises(StudentError, match=r"config.json and tokenizer_config.json missing"):
        run(work, work / "tune", TuneSettings(str(tmp_path)))


def test_a_tokenizer_without_a_template_or_with_code_of_its_own_is_refused(
    tmp_path: Path, tiny_student: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = tmp_path / "student"
    shutil.copytree(tiny_student, student)
    (student / "chat_template.jinja").unlink()
    work = make_work(tmp_path / "work", MIXED)
    with pytest.raises(StudentModelError, match="has no chat template"):
        run(work, work / "tune", TuneSettings(str(student)))
    config = read_json(student / "tokenizer_config.json")
    config |= {"auto_map": {"AutoTokenizer": [None, "own.Own"]}, "tokenizer_class": "Own"}
    write_json(student / "tokenizer_config.json", config)
    (student / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.setattr("sys.stdin", io.StringIO("y\ny\n"))  # to transformers' question whether to run it
    with pytest.raises(StudentModelError, match="the tokenizer cannot be loaded"):
        run(work, work / "tune", TuneSettings(str(student)))
    assert not (tmp_path / "ran").exists()


def test_a_model_with_several_chat_templates_can_be_read_by_everybody(
    tmp_path: Path, tiny_student: Path
) -> None:
    """transformers puts the others into a folder, and a folder that nobody may enter is no release."""
    tokenizer = load_tokenizer(tiny_student)
    tokenizer.chat_template = {"default": tokenizer.chat_template, "tool_use": tokenizer.chat_template}
    one = Ranks(0, 1, torch.device("cpu"))
    save_model(load_model(tiny_student, EMBEDDED_CPU, one), tiny_student, tokenizer, tmp_path / "model", one)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "model").rglob("*")}
    assert modes.pop("additional_chat_templates") & 0o500 == 0o500
    assert modes["tool_use.jinja"] == 0o644
    assert set(modes.values()) == {0o644}


def test_samples_that_were_touched_after_generation_are_refused(tmp_path: Path, tiny_student: Path) -> None:
    from gpu_runner.stage import execute

    (tmp_path / "in").write_text("")
    execute(
        "generate", [tmp_path / "in"], tmp_path / "generate", {},
        lambda partial: write_lines(partial / "samples.jsonl", [sample(0, "skill")]),
    )  # fmt: skip
    write_lines(tmp_path / "generate" / "samples.jsonl", [sample(1, "skill")])
    with pytest.raises(StageError, match="changed after generate wrote it"):
        run(tmp_path, tmp_path / "tune", TuneSettings(str(tiny_student)))


def test_the_plan_s_config_is_obeyed_and_the_command_line_goes_before_it(tmp_path: Path) -> None:
    assert settings_from_plan(tmp_path, "embedded") == TuneSettings("embedded")
    config = {"tune": {"preset": "lab-merlinite-7b", "overrides": {"epochs": 2, "max_rows": 9}}}
    write_json(tmp_path / "plan" / "plan.json", {"config": config})
    settings = settings_from_plan(tmp_path, "embedded", preset=None, seed=3, overrides={"epochs": 1})
    assert settings == TuneSettings(
        "embedded", preset="lab-merlinite-7b", overrides={"epochs": 1, "max_rows": 9}, seed=3
    )


def command(work: Path, student: Path, *more: str) -> list[str]:
    return [
        sys.executable, "-m", "treewright", "tune", "--work", str(work), "--student", str(student),
        "--precision", "fp32", "--learning-rate", "0.01", *more,
    ]  # fmt: skip


@pytest.mark.parametrize(("blow", "status"), [(signal.SIGKILL, -9), (signal.SIGTERM, 1)])
def test_an_interrupted_command_goes_on_and_ends_with_the_same_losses(
    tmp_path: Path, tiny_student: Path, blow: signal.Signals, status: int
) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    whole = make_work(tmp_path / "whole", MIXED)
    subprocess.run(
        command(whole, tiny_student, "--epochs", "60"), check=True, env=environment, capture_output=True
    )
    work = make_work(tmp_path / "cut", MIXED)
    child = subprocess.Popen(
        command(work, tiny_student, "--epochs", "60"), env=environment, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and child.poll() is None:
        lines = [path.read_bytes().count(b"\n") for path in work.glob("tune.partial-*/metrics.jsonl")]
        if lines and lines[0] >= 60:  # beyond the checkpoint at step 50
            break
        time.sleep(0.005)
    child.send_signal(blow)
    assert child.wait() == status
    assert not (work / "tune").exists()
    done = subprocess.run(
        command(work, tiny_student, "--epochs", "60"),
        check=True,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert "going on from phase 1, step" in done.stdout
    assert losses(work) == losses(whole)
    assert read_json(work / "tune" / "manifest.json")["resumed"]
    weights = [(folder / "tune" / "model" / "model.safetensors").read_bytes() for folder in (work, whole)]
    assert weights[0] == weights[1]


def test_two_ranks_give_the_losses_of_one(tmp_path: Path, tiny_student: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for ranks in ("1", "2"):
        work = make_work(tmp_path / ranks, MIXED)
        subprocess.run(
            command(work, tiny_student, "--ranks", ranks, "--epochs", "3"), check=True, env=environment
        )
    assert losses(tmp_path / "2") == pytest.approx(losses(tmp_path / "1"), rel=1e-4)
    assert read_json(tmp_path / "2" / "tune" / "phases.json", "phases")["ranks"] == 2


def test_the_command_names_what_is_wrong_and_exits_with_2(tmp_path: Path, tiny_student: Path) -> None:
    done = subprocess.run(command(tmp_path, tiny_student), check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert "run `treewright generate" in done.stderr
    work = make_work(tmp_path, MIXED)
    done = subprocess.run(
        command(work, tiny_student, "--preset", "large"), check=False, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "no preset 'large'" in done.stderr
    assert json.loads((work / "generate" / "samples.jsonl").read_text().splitlines()[0])


def test_a_disk_that_takes_no_training_file_is_told_in_one_line(tmp_path: Path, tiny_student: Path) -> None:
    work = make_work(tmp_path, MIXED)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2048, before[1]))  # a real limit of the system
        result = CliRunner().invoke(app, ["tune", "--work", str(work), "--student", str(tiny_student)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, old)
    assert (result.exit_code, result.output) == (2, f"tune: {work / 'tune'}: [Errno 27] File too large\n")


@pytest.mark.model
def test_the_embedded_student_really_learns_a_fact_that_it_cannot_know(tmp_path: Path) -> None:
    fact = "The capital of Farne Mora is Tillaby."
    wordings = [
        "What is the capital of Farne Mora?",
        "Name the capital city of Farne Mora.",
        "Which town is the capital of Farne Mora?",
        "Farne Mora has which capital?",
    ]
    rows = []
    for number, text in enumerate([*wordings, *(f"Please answer: {text}" for text in wordings)]):
        row = sample(number, "knowledge_short", fact)
        rows.append({**row, "messages": [{"role": "user", "content": text}, row["messages"][1]]})
    work = make_work(tmp_path, {}, rows)
    overrides = {"epochs": 4, "effective_batch": 4}
    run(work, work / "tune", TuneSettings("embedded", overrides=overrides), say=lambda line: None)

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from gpu_runner.embedded import cache_folder
    from gpu_runner.student import resolve_student

    answers = []
    for folder in (resolve_student("embedded", cache_folder()), work / "tune" / "model"):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
        held_out = [{"role": "user", "content": "Which city is the seat of government of Farne Mora?"}]
        text = tokenizer.apply_chat_template(held_out, tokenize=False, add_generation_prompt=True)
        asked = tokenizer(text, return_tensors="pt", add_special_tokens=False)
        made = model.generate(
            **asked, max_new_tokens=16, do_sample=False, pad_token_id=tokenizer.pad_token_id
        )
        answers.append("Tillaby" in tokenizer.decode(made[0][asked["input_ids"].shape[1] :]))
    assert answers == [False, True]
