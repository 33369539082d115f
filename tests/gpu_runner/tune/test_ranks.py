"""Two ranks make the gradients of one: the loss is divided once, by the targets of the whole batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch
from two_ranks import gradients

from gpu_runner.tune.ranks import Ranks

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
