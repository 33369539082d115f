"""Any causal model is trained in the fastest way that does not change its loss; adapters are merged at the
end.
"""

from __future__ import annotations

import copy
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GraniteConfig, MistralConfig

from gpu_runner.tune import attention, student_model
from gpu_runner.tune.lora import add_adapters, merge
from gpu_runner.tune.ranks import Ranks, decoder_layers
from gpu_runner.tune.student_model import ModelOptions, Way, bind, prepare
from gpu_runner.tune.targets import TokenRow

ALONE = Ranks(0, 1, torch.device("cpu"))
ROW_BY_ROW = Way(attention.ROWS, own_head=True)
_SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
_LLAMA = {**_SIZES, "num_key_value_heads": 2, "vocab_size": 260}


def some_rows(*lengths: int) -> list[TokenRow]:
    generator = torch.Generator().manual_seed(1)
    return [
        TokenRow(
            f"row-{index}",
            tuple(torch.randint(0, 250, (length,), generator=generator).tolist()),
            tuple(place >= length // 3 for place in range(length)),
        )
        for index, length in enumerate(lengths)
    ]


def make(config: Any) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize(
    ("config", "way"),
    [
        (GraniteConfig(**_LLAMA, logits_scaling=3.0, attention_multiplier=0.2), ROW_BY_ROW),
        (MistralConfig(**_LLAMA, sliding_window=8), ROW_BY_ROW),
        (GPT2Config(vocab_size=260, n_embd=32, n_layer=2, n_head=4), None),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_the_chosen_way_gives_the_loss_and_gradients_of_the_model_s_own_forward(
    config: Any, way: Way | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(student_model, "CHUNK", 5)  # several chunks even here
    rows = some_rows(20, 33, 12)
    plain, fast = make(config).eval(), make(config)
    alone = bind(Way("sdpa", own_head=False, packs=False))
    wanted = alone(plain, rows, ALONE.device, nullcontext)
    wanted.backward()
    student = prepare(fast, ALONE, torch.float32, ModelOptions())
    student.model.eval()
    if way is not None:
        assert student.way == way
    assert student.way.packs
    loss = student.losses(student.model, rows, ALONE.device, nullcontext)
    loss.backward()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    for mine, theirs in zip(fast.parameters(), plain.parameters(), strict=True):
        assert (mine.grad - theirs.grad).norm() <= 1e-5 * theirs.grad.norm().clamp(min=1e-3)
    assert len(decoder_layers(fast)) == 2


class Forgetful(torch.nn.Module):
    """Positions are not looked at, so packed rows run into each other: a model that must not be packed."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(260, 16)
        self.memory = torch.nn.GRU(16, 16, batch_first=True)
        self.head = torch.nn.Linear(16, 260)
        self.config = GPT2Config()

    def get_input_embeddings(self) -> Any:
        return self.embedding

    def set_attn_implementation(self, name: str) -> None:
        if name == attention.ROWS:
            raise ValueError(name)

    def forward(self, input_ids: torch.Tensor, position_ids: Any, use_cache: bool) -> Any:
        from transformers.modeling_outputs import CausalLMOutput

        return CausalLMOutput(logits=self.head(self.memory(self.embedding(input_ids))[0]))


def test_a_model_that_lets_packed_rows_see_each_other_is_trained_one_row_at_a_time() -> None:
    student = prepare(Forgetful(), ALONE, torch.float32, ModelOptions())
    assert not student.way.packs
    rows = some_rows(9, 14)
    together = student.losses(student.model, rows, ALONE.device, nullcontext)
    apart = sum(student.losses(student.model, [row], ALONE.device, nullcontext) for row in rows)
    assert torch.allclose(together, apart, rtol=1e-6)


def test_adapters_alone_are_trained_and_leave_an_ordinary_model(tiny_student: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_student, dtype=torch.float32)
    fresh = copy.deepcopy(model)
    add_adapters(model, rank=4)
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    with torch.no_grad():
        for value in trained.values():
            value.add_(0.05 * torch.randn_like(value))
    rows = some_rows(15)
    student = prepare(model, ALONE, torch.float32, ModelOptions())
    wanted = student.losses(model, rows, ALONE.device, nullcontext).item()
    merged = merge(copy.deepcopy(fresh), 4, {name: value.detach() for name, value in trained.items()})
    assert {name for name, _ in merged.named_parameters()} == {name for name, _ in fresh.named_parameters()}
    plain = prepare(merged, ALONE, torch.float32, ModelOptions())
    assert plain.losses(merged, rows, ALONE.device, nullcontext).item() == pytest.approx(wanted, rel=1e-4)
    untouched = prepare(fresh, ALONE, torch.float32, ModelOptions())
    assert untouched.losses(fresh, rows, ALONE.device, nullcontext).item() != pytest.approx(wanted, rel=1e-4)


def test_recomputed_activations_change_no_gradient(tiny_student: Path) -> None:
    rows, norms = some_rows(20, 30), []
    for again in (False, True):
        model = AutoModelForCausalLM.from_pretrained(tiny_student, dtype=torch.float32)
        student = prepare(model, ALONE, torch.float32, ModelOptions(activation_checkpointing=again))
        student.model.train()
        student.losses(student.model, rows, ALONE.device, nullcontext).backward()
        norms.append([value.grad.norm().item() for value in model.parameters()])
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)


def test_compiled_layers_give_the_same_loss(tiny_student: Path) -> None:
    rows = some_rows(20, 30)
    model = AutoModelForCausalLM.from_pretrained(tiny_student, dtype=torch.float32)
    student = prepare(model, ALONE, torch.float32, ModelOptions())
    wanted = student.losses(model, rows, ALONE.device, nullcontext).item()
    for layer in decoder_layers(model):  # as prepare() does, but with a backend that needs no compiler
        layer.compile(dynamic=True, backend="aot_eager")
    got = student.losses(model, rows, ALONE.device, nullcontext)
    got.backward()
    assert got.item() == pytest.approx(wanted, rel=1e-5)


def test_kernels_that_cannot_be_had_are_refused(tiny_student: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_student, dtype=torch.float32)
    with pytest.raises(student_model.StudentModelError, match="run on GPUs only"):
        prepare(model, ALONE, torch.float32, ModelOptions(kernels="liger"))
