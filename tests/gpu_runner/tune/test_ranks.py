"""Two ranks make the gradients of one: the loss is divided once, by the targets of the whole batch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from test_tune import MIXED, losses, make_work
from two_ranks import gradients

from gpu_runner.tune.ranks import Ranks
from lab.contracts import write_json

HERE = Path(__file__).parent


def test_two_sharded_ranks_make_the_gradients_of_one(tmp_path: Path) -> None:
    whole = gradients(Ranks(0, 1, torch.device("cpu")))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parents[2])}
    subprocess.run(
        [*command, str(HERE / "two_ranks.py"), str(tmp_path / "two.pt")],
        check=True,
        env=environment,
        capture_output=True,
    )
    shared = torch.load(tmp_path / "two.pt")
    assert shared.keys() == whole.keys()
    for name, value in whole.items():
        assert (shared[name] - value).norm() <= 1e-5 * value.norm(), name


def test_two_ranks_that_were_killed_go_on_with_the_same_losses(tmp_path: Path, tiny_student: Path) -> None:
    works = {name: make_work(tmp_path / name, MIXED) for name in ("whole", "cut")}
    overrides = {"checkpoint_steps": 2, "epochs": 6, "learning_rate": 0.01, "effective_batch": 8}
    for work in works.values():
        write_json(work / "plan" / "plan.json", {"config": {"tune": {"overrides": overrides}}})
    running = {name: _start(work, tiny_student) for name, work in works.items()}
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline and running["cut"].poll() is None:
        lines = [path.read_bytes().count(b"\n") for path in works["cut"].glob("tune.partial-*/metrics.jsonl")]
        if lines and lines[0] >= 5:
            break
        time.sleep(0.01)
    os.kill(running["cut"].pid, signal.SIGKILL)  # its launcher and both ranks die with it
    running["cut"].wait()
    assert not (works["cut"] / "tune").exists()
    again = _start(works["cut"], tiny_student)
    said = again.communicate()[0]
    running["whole"].communicate()
    assert again.returncode == running["whole"].returncode == 0
    assert b"going on from phase" in said
    assert losses(works["cut"]) == losses(works["whole"])


def _start(work: Path, student: Path) -> subprocess.Popen[Any]:
    command = [sys.executable, "-m", "treewright", "tune", "--work", str(work), "--student", str(student)]
    return subprocess.Popen(
        [*command, "--precision", "fp32", "--ranks", "2"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
