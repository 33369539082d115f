"""A run that cannot go on says why and leaves its last checkpoint: runaway losses, full disks, no memory."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from two_ranks import rows, tiny_model

from gpu_runner.tune import guard
from gpu_runner.tune.checkpoints import latest_checkpoint, save_checkpoint
from gpu_runner.tune.guard import DiskFullError, DivergedError, LossWatch, checkpoint_bytes
from gpu_runner.tune.loop import OutOfMemoryError, Position, make_optimizer, token_losses, train_phase
from gpu_runner.tune.phases import EMBEDDED_CPU
from gpu_runner.tune.progress import PEAKS, peak_flops, shape_of
from gpu_runner.tune.ranks import Ranks

ALONE = Ranks(0, 1, torch.device("cpu"))


def watched(losses: list[float]) -> None:
    watch = LossWatch()
    for step, loss in enumerate(losses, start=1):
        watch.add(1, step, loss, 1e-3)


def test_a_loss_that_stays_far_above_its_running_median_ends_the_run() -> None:
    with pytest.raises(DivergedError, match=r"phase 1, step 15: the loss was 9\.000 .*lower tune\.overrides"):
        watched([2.0] * 10 + [9.0] * 5)


@pytest.mark.parametrize(
    "losses",
    [
        [2.0] * 10 + [9.0] * 4 + [2.0] * 10,  # a few bad batches
        [5.0, 3.0, 2.0, 1.0, 0.1, 0.001] + [0.001] * 20 + [0.4] * 20,  # noise near nothing
        [2.0 + 0.02 * step for step in range(100)],  # a slow rise is for the held-out measures to judge
    ],
)
def test_noise_is_no_divergence(losses: list[float]) -> None:
    watched(losses)


def test_a_new_phase_starts_with_its_own_losses() -> None:
    watch = LossWatch()
    for step in range(1, 20):
        watch.add(1, step, 0.01, 1e-3)
    for step in range(1, 20):
        watch.add(2, step, 3.0, 1e-3)


def test_a_checkpoint_that_would_not_fit_is_refused_before_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model()
    optimizer = make_optimizer(model, EMBEDDED_CPU)
    save_checkpoint(tmp_path, model, optimizer, Position(0, 1), ALONE)
    # The file system's answer is the one thing that a test cannot make true.
    monkeypatch.setattr(guard.shutil, "disk_usage", lambda _path: SimpleNamespace(free=1000))
    with pytest.raises(DiskFullError, match=r"a checkpoint needs \d+ MiB at .*, 0 MiB are free"):
        save_checkpoint(tmp_path, model, optimizer, Position(0, 2), ALONE)
    found = latest_checkpoint(tmp_path)
    assert found is not None
    assert found[1] == Position(0, 1)


def test_a_disk_that_fills_while_a_checkpoint_is_written_leaves_the_one_before(tmp_path: Path) -> None:
    model = tiny_model()
    optimizer = make_optimizer(model, EMBEDDED_CPU)
    save_checkpoint(tmp_path, model, optimizer, Position(0, 1), ALONE)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))  # a real limit of the system
        with pytest.raises(DiskFullError, match="goes on from the last checkpoint"):
            save_checkpoint(tmp_path, model, optimizer, Position(0, 2), ALONE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, old)
    found = latest_checkpoint(tmp_path)
    assert found is not None
    assert found[1] == Position(0, 1)


def test_a_checkpoint_is_no_larger_than_what_was_asked_for(tmp_path: Path) -> None:
    model = tiny_model()
    optimizer = make_optimizer(model, EMBEDDED_CPU)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    save_checkpoint(tmp_path, model, optimizer, Position(0, 1, 1, 0.5), ALONE)
    written = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert 0.5 * checkpoint_bytes(model, 1) < written + 2**20 <= checkpoint_bytes(model, 1) + 2**20


def test_a_step_that_was_packed_otherwise_is_begun_again(tmp_path: Path) -> None:
    model = tiny_model()
    optimizer = make_optimizer(model, EMBEDDED_CPU)
    save_checkpoint(tmp_path, model, optimizer, Position(0, 0, 2, 0.5), ALONE, pack_tokens=96)
    assert latest_checkpoint(tmp_path, 96)[1] == Position(0, 0, 2, 0.5)  # type: ignore[index]  # None would fail here
    assert latest_checkpoint(tmp_path, 64)[1] == Position(0, 0)  # type: ignore[index]  # None would fail here


_NO_MEMORY = """
import resource, sys
from contextlib import nullcontext
sys.path.insert(0, sys.argv[1])
import test_guard
limit = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize() + 200 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
test_guard.train_long(60_000)
"""


def train_long(length: int) -> None:
    """One step over rows whose attention needs far more memory than there is."""
    model = tiny_model()
    phase = replace(EMBEDDED_CPU.phases[0], epochs=1, effective_batch=2, warmup_steps=0)
    long: Any = [replace(row, tokens=row.tokens[:1] * length, targets=(True,) * length) for row in rows(2)]
    preset = replace(EMBEDDED_CPU, pack_tokens=2 * length)
    train_phase(
        model, make_optimizer(model, preset), long, phase, preset, 0, Position(), ALONE,
        save=lambda position: None, on_step=lambda report: None, stop=lambda: False,
        autocast=nullcontext, losses=token_losses,
    )  # fmt: skip


def test_want_of_memory_says_how_large_the_pass_was_and_what_to_set() -> None:
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", _NO_MEMORY, str(here)],
        capture_output=True,
        text=True,
        check=False,
        cwd=here.parents[2],
        env={**os.environ, "PYTHONPATH": str(here.parents[2])},
    )
    assert done.returncode == 1
    assert f"{OutOfMemoryError.__name__}: phase_1, step 1 of 1: out of memory in a pass of" in done.stderr
    assert "Set tune.overrides.pack_tokens below 120000" in done.stderr


def test_mfu_is_counted_from_what_is_computed() -> None:
    assert peak_flops("NVIDIA H200") == 989e12
    assert peak_flops("NVIDIA H100 PCIe") == 756e12
    assert peak_flops("NVIDIA A100-SXM4-80GB") == 312e12
    assert peak_flops("NVIDIA L4") == 121e12
    assert peak_flops("NVIDIA L40S") == 362e12
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    for other in ("Some other device", "NVIDIA L40", "NVIDIA RTX A1000 Laptop GPU", "NVIDIA A16"):
        assert peak_flops(other) is None
    assert all(peak > 0 for _, peak in PEAKS)
    shape = shape_of(tiny_model())
    # Two layers of q 32x32, k and v 32x16, o 32x32, three of 32x64, two norms; a last norm.
    assert shape.body == 2 * (2 * 1024 + 2 * 512 + 3 * 2048 + 64) + 32
    assert shape.head == 258 * 32
    assert shape.flops(tokens=10, targets=0, squares=0) == 60 * shape.body


def test_the_plain_losses_are_there_for_every_model() -> None:
    model = tiny_model()
    assert token_losses(model, rows(2), ALONE.device, nullcontext).item() > 0
