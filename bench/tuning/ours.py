"""Treewright's side of the tuning bench: one epoch of the stage's own loop; prints one JSON line."""

from __future__ import annotations

import json
import resource
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

import torch
from transformers import AutoTokenizer

from gpu_runner.tune.loop import Position, StepReport, make_optimizer, train_phase
from gpu_runner.tune.phases import EMBEDDED_CPU
from gpu_runner.tune.ranks import Ranks
from gpu_runner.tune.student_model import load_student
from gpu_runner.tune.targets import TokenRow, tokenize


def main() -> None:
    job: dict[str, Any] = json.load(sys.stdin)
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(job["student"], local_files_only=True)
    rows = []
    for row in job["rows"]:
        messages = [
            {"role": "user", "content": row["question"]},
            {"role": "assistant", "content": row["answer"]},
        ]
        made = tokenize(row["id"], messages, tokenizer, job["pack_tokens"])
        assert isinstance(made, TokenRow), made
        rows.append(made)
    preset = replace(EMBEDDED_CPU, pack_tokens=job["pack_tokens"], checkpoint_steps=10**9)
    phase = replace(
        preset.phases[0],
        epochs=1,
        effective_batch=job["batch"],
        learning_rate=job["learning_rate"],
        warmup_steps=0,
    )
    ranks = Ranks(0, 1, torch.device("cpu"))
    student = load_student(Path(job["student"]), ranks, torch.bfloat16)
    before = resource.getrusage(resource.RUSAGE_SELF)
    began = time.monotonic()
    reports: list[StepReport] = []
    train_phase(
        student.model,
        make_optimizer(student.model, preset),
        rows,
        phase,
        preset,
        0,
        Position(),
        ranks,
        save=lambda position: None,
        on_step=reports.append,
        stop=lambda: False,
        autocast=ranks.autocast(torch.bfloat16),
        losses=student.losses,
    )
    after = resource.getrusage(resource.RUSAGE_SELF)
    print(
        json.dumps(
            {
                "tokens": sum(report.tokens for report in reports),
                "targets": sum(report.targets for report in reports),
                "steps": len(reports),
                "loss": reports[0].loss,
                "way": str(student.way),
                "cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
                "wall": time.monotonic() - began,
                "peak": after.ru_maxrss * 1024,
            }
        )
    )


if __name__ == "__main__":
    main()
