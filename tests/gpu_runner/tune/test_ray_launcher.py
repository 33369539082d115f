"""Two workers that Ray places give the losses of two that `torchrun` starts."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from test_tune import MIXED, command, losses, make_work

from lab.contracts import read_json


def test_two_workers_of_ray_give_the_losses_and_weights_of_torchrun(
    tmp_path: Path, tiny_student: Path
) -> None:
    pytest.importorskip("ray.train", reason="the extra `scale` is not installed")
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "RAY_AUTH_MODE": "disabled",  # else Ray writes a token under the home directory
        "RAY_raylet_start_wait_time_s": "180",  # a busy machine starts nodes slowly
    }
    environment.pop("RAY_ADDRESS", None)
    works = {launcher: make_work(tmp_path / launcher, MIXED) for launcher in ("torchrun", "ray")}
    running = [
        subprocess.Popen(
            command(work, tiny_student, "--ranks", "2", "--epochs", "3", "--launcher", launcher),
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for launcher, work in works.items()
    ]  # fmt: skip
    said = [child.communicate()[0].decode() for child in running]
    assert [child.returncode for child in running] == [0, 0], "".join(said)
    assert "Ray: 2 workers" in said[1]
    assert losses(works["ray"]) == losses(works["torchrun"])
    weights = [(work / "tune" / "model" / "model.safetensors").read_bytes() for work in works.values()]
    assert weights[0] == weights[1]
    assert read_json(works["ray"] / "tune" / "phases.json", "phases")["ranks"] == 2
    assert not list((works["ray"] / "tune").glob("**/ray"))
