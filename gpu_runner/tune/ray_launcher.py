"""The same training process on many nodes: Ray Train starts it where `torchrun` would on one.

    treewright tune --work W --student DIR --launcher ray --ranks 16

Ray Train (extra `scale`) places one worker a GPU, or a CPU where the cluster has no GPU, forms the process
group and runs `gpu_runner.tune.worker.work` in each. The work folder must be on a file system that all nodes
share: checkpoints and metrics lie there, and a run that was killed goes on from there. `RAY_ADDRESS` names
the cluster; without it Ray starts one on this machine.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpu_runner.stage import SCRATCH


class LauncherError(RuntimeError):
    """Ray is not there, or a worker failed; the message says which and what to do."""


def launch(partial: Path, ranks: int, say: Callable[[str], None]) -> None:
    """Run the training on `ranks` workers. Raises LauncherError."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        from ray.train import RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer
    except ImportError as error:
        raise LauncherError("the Ray launcher needs Ray Train: pip install 'treewright[scale]'") from error

    started = not ray.is_initialized()
    if started:
        ray.init(include_dashboard=False, log_to_driver=True)
    try:
        gpus = ray.cluster_resources().get("GPU", 0) >= ranks  # type: ignore[no-untyped-call]  # the library has no types here
        nodes = len(ray.nodes())  # type: ignore[no-untyped-call]  # the library has no types here
        say(f"Ray: {ranks} workers, {nodes} nodes, {'GPUs' if gpus else 'CPUs'}")
        trainer = TorchTrainer(
            _worker,
            train_loop_config={"partial": str(partial.resolve())},
            scaling_config=ScalingConfig(num_workers=ranks, use_gpu=gpus),
            torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
            run_config=RunConfig(storage_path=str((partial / SCRATCH / "ray").resolve()), name="tune"),
        )
        try:
            trainer.fit()
        except Exception as error:  # Ray wraps whatever a worker raised
            raise LauncherError(
                f"a worker failed: {_last_line(error)}. The same command goes on from the last checkpoint."
            ) from error
    finally:
        if started:
            ray.shutdown()


def _worker(config: dict[str, Any]) -> None:
    from gpu_runner.tune.worker import work

    work(Path(config["partial"]), lambda line: print(line, flush=True))


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
