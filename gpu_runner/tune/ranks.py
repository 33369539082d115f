"""One process or many: what the training loop needs to know of the others, and nothing more.

Under `torchrun` (WORLD_SIZE > 1) the weights, gradients and optimizer state are sharded with FSDP2 over all
ranks: NCCL on GPUs, gloo on CPUs. Alone, every method is the identity.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def die_with_parent() -> None:
    """Ask Linux to kill this process when the one that started it dies. Without that, `kill -9` of the stage
    would leave its ranks training on, beside the run that goes on from their checkpoint."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG, see prctl(2)


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    """The layers that repeat, whatever the architecture calls them: the longest list of modules."""
    lists = [list(module) for module in model.modules() if isinstance(module, nn.ModuleList)]
    return max(lists, key=len, default=[])


@dataclass(frozen=True)
class Ranks:
    rank: int
    size: int
    device: torch.device

    @property
    def first(self) -> bool:
        return self.rank == 0

    @property
    def gradient_scale(self) -> float:
        """FSDP2 takes the mean of the ranks' gradients where the loop means their sum."""
        return float(self.size)

    def sum(self, value: Tensor) -> Tensor:
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def any(self, value: bool) -> bool:
        if self.size == 1:
            return value
        flag = torch.tensor(int(value), device=self.device)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        return bool(flag.item())

    def barrier(self) -> None:
        if self.size > 1:
            dist.barrier()

    def whole(self, value: Tensor) -> Tensor:
        """A sharded tensor gathered; any other as it is."""
        full: Tensor = value.full_tensor() if hasattr(value, "full_tensor") else value
        return full

    def place(self, model: nn.Module) -> nn.Module:
        """Move the model to this rank's device and shard it layer by layer when there are others."""
        model.to(self.device)
        if self.size == 1:
            return model
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        mesh = init_device_mesh(self.device.type, (self.size,))
        # On GPUs the arithmetic is bf16 over fp32 shards; on CPUs autocast does the same without this.
        policy = (
            MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
            if self.device.type == "cuda"
            else MixedPrecisionPolicy()
        )
        for layer in decoder_layers(model):
            fully_shard(layer, mesh=mesh, mp_policy=policy)
        fully_shard(model, mesh=mesh, mp_policy=policy)
        return model

    def autocast(self, dtype: torch.dtype) -> Callable[[], AbstractContextManager[Any]]:
        if dtype == torch.float32:
            return nullcontext
        return lambda: torch.autocast(self.device.type, dtype=dtype)


@contextmanager
def ranks_from_environment() -> Iterator[Ranks]:
    """The ranks that `torchrun` set up, or one alone; the process group ends with the block. One that a
    launcher formed before (Ray Train) is taken as it is and left."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    gpu = torch.cuda.is_available()
    local = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local) if gpu else torch.device("cpu")
    if gpu and not dist.is_initialized():
        torch.cuda.set_device(device)
    if dist.is_initialized():
        if gpu:
            device = torch.device("cuda", torch.cuda.current_device())
        yield Ranks(dist.get_rank(), dist.get_world_size(), device)
        return
    if size == 1:
        yield Ranks(0, 1, device)
        return
    dist.init_process_group("nccl" if gpu else "gloo")
    try:
        yield Ranks(dist.get_rank(), size, device)
    finally:
        dist.destroy_process_group()
