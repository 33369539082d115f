"""The student in memory: loaded, placed, and asked which of the fast ways it can be trained.

    student = load_student(folder, preset, ranks, options)
    loss = student.losses(student.model, rows, device, autocast)   # sum over the rows' target tokens

Any causal model that transformers loads will do. How its loss is computed is found out by asking it, not
by its name: rows packed and apart must give the same loss as one row alone in the model's own forward pass.
The fastest way that agrees is taken: attention row by row and the head in chunks (on one rank: sharded
weights are gathered around the whole model only); the model's own attention; its own head; at last one row
at a time. So no way is ever taken that changes the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM

from gpu_runner.tune import attention
from gpu_runner.tune.loop import flatten
from gpu_runner.tune.ranks import Ranks, decoder_layers
from gpu_runner.tune.targets import TokenRow

if TYPE_CHECKING:
    from collections.abc import Iterator

Autocast = Callable[[], AbstractContextManager[Any]]
CHUNK = 512
"""Targets whose logits are in memory at once: 512 rows of a vocabulary of 128,000 are 0.26 GB in fp32."""

_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}


class StudentModelError(RuntimeError):
    """The model cannot be trained as asked; the message says why and what to change."""


@dataclass(frozen=True)
class Way:
    """How the loss is computed. `attention`: a name that transformers knows. `own_head`: the body first, then
    the head over chunks of targets. `packs`: several rows in one forward pass."""

    attention: str
    own_head: bool
    packs: bool = True

    def __str__(self) -> str:
        how = "row by row" if self.attention == attention.ROWS else self.attention
        head = "in chunks" if self.own_head else "the model's own"
        return f"attention {how}, head {head}" + ("" if self.packs else ", one row at a time")


@dataclass(frozen=True)
class ModelOptions:
    """`kernels`: "auto" takes Liger's where installed and on a GPU, "liger" insists, "torch" does without.
    `compile`: torch.compile of every layer. `lora_rank`: 0 trains every weight."""

    kernels: str = "auto"
    compile: bool = False
    lora_rank: int = 0
    activation_checkpointing: bool = False


@dataclass(frozen=True)
class StudentModel:
    model: nn.Module
    losses: Callable[[nn.Module, Sequence[TokenRow], torch.device, Autocast], Tensor]
    way: Way
    kernels: str


def load_student(
    folder: Path, ranks: Ranks, precision: torch.dtype, options: ModelOptions = ModelOptions()
) -> StudentModel:
    """fp32 weights from safetensors, never pickles or code of the folder, on this rank's device."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, trust_remote_code=False, use_safetensors=True
    )
    return prepare(model, ranks, precision, options)


def prepare(model: Any, ranks: Ranks, precision: torch.dtype, options: ModelOptions) -> StudentModel:
    """A loaded model made ready for training: adapters, kernels, sharding, and its way."""
    kernels = _kernels(model, options, ranks)
    if options.lora_rank:
        from gpu_runner.tune.lora import add_adapters

        add_adapters(model, options.lora_rank)
    if options.activation_checkpointing:
        model.gradient_checkpointing_enable()
        if options.lora_rank:
            model.enable_input_require_grads()  # else nothing before the first adapter asks for gradients
    placed: Any = ranks.place(model)
    way = choose_way(placed, ranks, ranks.autocast(precision), precision)
    if options.compile:
        for layer in decoder_layers(placed):
            layer.compile(dynamic=True)
    return StudentModel(placed, bind(way), way, kernels)


def _kernels(model: Any, options: ModelOptions, ranks: Ranks) -> str:
    if options.kernels not in ("auto", "liger", "torch"):
        raise StudentModelError(f"kernels are auto, liger or torch, not {options.kernels!r}")
    if options.kernels == "torch" or (options.kernels == "auto" and ranks.device.type != "cuda"):
        return "torch"
    if ranks.device.type != "cuda":
        raise StudentModelError("Liger's kernels run on GPUs only; take --kernels auto or torch")
    from importlib import metadata

    try:
        from liger_kernel.transformers import _apply_liger_kernel_to_instance
    except ImportError as error:
        if options.kernels == "auto":
            return "torch"
        raise StudentModelError("liger-kernel is not installed: pip install 'treewright[gpu]'") from error
    # The loss is ours (targets only, summed), so only norms, rotations and gates are replaced.
    _apply_liger_kernel_to_instance(model=model, fused_linear_cross_entropy=False, cross_entropy=False)
    return f"liger {metadata.version('liger-kernel')}"


def choose_way(model: Any, ranks: Ranks, autocast: Autocast, precision: torch.dtype) -> Way:
    """The fastest way whose loss over two packed rows is that of the rows one by one in the model's own
    forward pass. Call it on every rank. Raises StudentModelError when not even that can be computed."""
    attention.register()
    own = str(model.config._attn_implementation or "sdpa")
    if own == attention.ROWS:
        own = "sdpa"
    rows = _probe_rows(int(model.get_input_embeddings().weight.shape[0]))
    with torch.no_grad(), quiet(model):
        model.set_attn_implementation(own)
        plain = bind(Way(own, own_head=False, packs=False))
        wanted = plain(model, rows, ranks.device, autocast).item()
        ways = [Way(name, own_head) for name in (attention.ROWS, own) for own_head in (True, False)]
        if ranks.size > 1:  # the parts of a sharded model may not be called one by one
            ways = [way for way in ways if not way.own_head]
        for way in ways:
            try:
                model.set_attn_implementation(way.attention)
                got = bind(way)(model, rows, ranks.device, autocast).item()
            except (NotImplementedError, TypeError, ValueError, AttributeError, RuntimeError):
                continue
            if abs(got - wanted) <= _TOLERANCE[precision] * abs(wanted):
                return way
        model.set_attn_implementation(own)
    return Way(own, own_head=False, packs=False)


def bind(way: Way) -> Callable[[nn.Module, Sequence[TokenRow], torch.device, Autocast], Tensor]:
    """`losses(model, rows, device, autocast)` for this model and way."""
    compute = _by_chunks if way.own_head else _by_model

    def losses(
        model: nn.Module, rows: Sequence[TokenRow], device: torch.device, autocast: Autocast
    ) -> Tensor:
        by_rows = way.attention == attention.ROWS
        groups = [rows] if way.packs else [[row] for row in rows]
        parts = [compute(model, *_tensors(group, device), by_rows, autocast) for group in groups]
        return parts[0] if len(parts) == 1 else torch.stack(parts).sum()

    return losses


def _tensors(rows: Sequence[TokenRow], device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    tokens, positions, where, labels = flatten(rows)
    bounds = [0]
    for row in rows:
        bounds.append(bounds[-1] + len(row.tokens))
    return (
        torch.tensor([tokens], device=device),
        torch.tensor([positions], device=device),
        torch.tensor(where, device=device),
        torch.tensor(labels, device=device),
        torch.tensor(bounds, dtype=torch.int32, device=device),
    )


def _inputs(tokens: Tensor, positions: Tensor, bounds: Tensor, by_rows: bool) -> dict[str, Any]:
    # Never an attention mask: an all-ones one silently lets packed rows see each other.
    given: dict[str, Any] = {"input_ids": tokens, "position_ids": positions, "use_cache": False}
    if by_rows:
        longest = int((bounds[1:] - bounds[:-1]).max())
        given |= {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds}
        given |= {"max_length_q": longest, "max_length_k": longest}
    return given


def _by_chunks(
    model: Any,
    tokens: Tensor,
    positions: Tensor,
    where: Tensor,
    labels: Tensor,
    bounds: Tensor,
    by_rows: bool,
    autocast: Autocast,
) -> Tensor:
    config, head = model.config.get_text_config(), model.get_output_embeddings()
    divide, times = getattr(config, "logits_scaling", None), getattr(config, "logit_scale", None)
    cap = getattr(config, "final_logit_softcapping", None)

    def chunk(hidden: Tensor, wanted: Tensor) -> Tensor:
        logits = head(hidden)
        logits = logits / divide if divide else logits
        logits = logits * times if times else logits
        logits = torch.tanh(logits / cap) * cap if cap else logits
        return F.cross_entropy(logits.float(), wanted, reduction="sum")

    with autocast():
        hidden = model.base_model(**_inputs(tokens, positions, bounds, by_rows)).last_hidden_state[0][where]
        if len(labels) <= CHUNK:
            return chunk(hidden, labels)
        # A chunk's logits are computed once more in the backward pass instead of being kept.
        parts = [
            checkpoint(chunk, part, wanted, use_reentrant=False)
            for part, wanted in zip(torch.split(hidden, CHUNK), torch.split(labels, CHUNK), strict=True)
        ]
        return torch.stack(parts).sum()


def _by_model(
    model: Any,
    tokens: Tensor,
    positions: Tensor,
    where: Tensor,
    labels: Tensor,
    bounds: Tensor,
    by_rows: bool,
    autocast: Autocast,
) -> Tensor:
    given = _inputs(tokens, positions, bounds, by_rows)
    with autocast():
        try:
            logits = model(**given, logits_to_keep=where).logits[0]
        except TypeError:  # an architecture without that argument
            logits = model(**given).logits[0]
        if logits.shape[0] != labels.shape[0]:
            logits = logits[where]
    return F.cross_entropy(logits.float(), labels, reduction="sum")


def _probe_rows(vocabulary: int) -> list[TokenRow]:
    """Two rows of unlike length, no token of one in the other, every token but the first a target."""
    numbers = [3 + (7 * index) % max(1, min(vocabulary, 997) - 3) for index in range(23)]
    return [
        TokenRow("probe", tuple(part), (False, *[True] * (len(part) - 1)))
        for part in (numbers[:14], numbers[14:])
    ]


@contextmanager
def quiet(model: nn.Module) -> Iterator[None]:
    """Without dropout, and as it was before afterwards."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
        if hasattr(model, "reshard"):  # FSDP keeps the root gathered after a pass that had no backward
            again: Any = model
            again.reshard()
