"""Checkpoints of a run: weights, optimizer, gradients of an unfinished step, random state, position.

Written by torch.distributed.checkpoint, so that the same code serves one process and sharded ranks. A
checkpoint appears under its name only when it is whole; the one before is removed after that.
"""

from __future__ import annotations

import shutil
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from gpu_runner.tune.guard import checkpoint_bytes, explained, require_space
from gpu_runner.tune.loop import Position
from gpu_runner.tune.ranks import Ranks
from lab.contracts import read_json, write_json

_POSITION = "position.json"

# One process alone is meant; torch warns of it at every save.
warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")


def save_checkpoint(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    position: Position,
    ranks: Ranks,
    pack_tokens: int | None = None,
) -> None:
    """Write `folder/<position>` and remove the others. Call it on every rank. `pack_tokens` says in which
    packs the micro-steps of an unfinished step were counted. One that is there already is left as it is: it
    holds the same, and making room for it again would leave none at all for a while. Raises DiskFullError."""
    packed = f"-{pack_tokens}" if position.micro else ""
    name = f"{position.phase:03d}-{position.step:08d}-{position.micro:06d}{packed}"
    if ranks.any(ranks.first and (folder / name / _POSITION).is_file()):
        return
    needed = checkpoint_bytes(model, ranks.size)
    require_space(folder, needed, "a checkpoint")
    with explained(folder, needed, "a checkpoint"):
        _save(folder / name, model, optimizer, position, ranks, pack_tokens)


def _save(
    finished: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    position: Position,
    ranks: Ranks,
    pack_tokens: int | None,
) -> None:
    unfinished = finished.with_suffix(".unfinished")
    if ranks.first:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
    ranks.barrier()
    save(_state(model, optimizer, position, ranks), checkpoint_id=unfinished, no_dist=ranks.size == 1)
    ranks.barrier()
    if ranks.first:
        write_json(unfinished / _POSITION, {**asdict(position), "pack_tokens": pack_tokens})
        unfinished.rename(finished)
        for other in finished.parent.iterdir():
            if other != finished:
                shutil.rmtree(other, ignore_errors=True)
    ranks.barrier()


def latest_checkpoint(folder: Path, pack_tokens: int | None = None) -> tuple[Path, Position] | None:
    """The furthest whole checkpoint. One within a step that was packed otherwise than by `pack_tokens` is
    taken as the start of that step, since its micro-steps are others."""
    whole = sorted(path for path in folder.glob("*") if (path / _POSITION).is_file() and not path.suffix)
    if not whole:
        return None
    value = read_json(whole[-1] / _POSITION)
    packed = value.pop("pack_tokens", None)
    position = Position(**value)
    if position.micro and packed != pack_tokens:
        position = Position(position.phase, position.step)
    return whole[-1], position


def load_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, position: Position, ranks: Ranks
) -> None:
    """Put the state at `path` into the model and the optimizer, in place."""
    if position.micro:
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)
    state = _state(model, optimizer, position, ranks)
    load(state, checkpoint_id=path, no_dist=ranks.size == 1)
    set_model_state_dict(model, state["model"], options=StateDictOptions(strict=False))
    if position.step:
        set_optimizer_state_dict(model, optimizer, state["optimizer"])
    for name, parameter in model.named_parameters():
        parameter.grad = state.get("gradients", {}).get(name)
    torch.set_rng_state(state[f"random_{ranks.rank}"])


def _state(
    model: nn.Module, optimizer: torch.optim.Optimizer, position: Position, ranks: Ranks
) -> dict[str, Any]:
    state: dict[str, Any] = {
        # Frozen weights (under adapters) are the student's own and need no copy.
        "model": get_model_state_dict(model, options=StateDictOptions(ignore_frozen_params=True)),
        f"random_{ranks.rank}": torch.get_rng_state(),
    }
    gradients = {
        name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None
    }
    # Before a phase's first step the optimizer is new, and asking torch for its state would count one step
    # with zero gradients, which a resumed run would then be ahead by.
    if position.step:
        # For the same reason it looks at the gradients; those of an unfinished step are held apart meanwhile.
        for parameter in model.parameters():
            parameter.grad = None
        state["optimizer"] = get_optimizer_state_dict(model, optimizer)
        for name, parameter in model.named_parameters():
            parameter.grad = gradients.get(name)
    if position.micro:
        state["gradients"] = gradients
    return state
