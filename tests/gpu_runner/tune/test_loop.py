"""The loop is exact: the same gradients however a batch is split, and the same losses however often it is
stopped.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import nn
from transformers import AutoModelForCausalLM

from gpu_runner.tune.checkpoints import latest_checkpoint, load_checkpoint, save_checkpoint
from gpu_runner.tune.loop import (
    LossNotFiniteError,
    Position,
    StepReport,
    TrainingStoppedError,
    batches,
    learning_rate_at,
    make_optimizer,
    token_losses,
    train_phase,
    warmup_steps,
)
from gpu_runner.tune.phases import EMBEDDED_CPU, Phase, Preset
from gpu_runner.tune.ranks import Ranks
from gpu_runner.tune.targets import TokenRow

ALONE = Ranks(0, 1, torch.device("cpu"))
SHORT: Preset = replace(EMBEDDED_CPU, pack_tokens=96, checkpoint_steps=1000)
PHASE: Phase = replace(
    EMBEDDED_CPU.phases[0], epochs=2, effective_batch=8, learning_rate=1e-2, warmup_steps=0
)


def some_rows(count: int, seed: int = 0) -> list[TokenRow]:
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for index in range(count):
        length = int(torch.randint(8, 60, (1,), generator=generator))
        learned = int(torch.randint(1, length - 1, (1,), generator=generator))
        tokens = torch.randint(0, 250, (length,), generator=generator).tolist()
        rows.append(
            TokenRow(f"row-{index}", tuple(tokens), tuple(i >= length - learned for i in range(length)))
        )
    return rows


def load(student: Path) -> nn.Module:
    model: nn.Module = AutoModelForCausalLM.from_pretrained(student, dtype=torch.float32)
    return model


class GradientRecorder(torch.optim.SGD):
    """A real optimizer that keeps what it was given and changes nothing."""

    seen: list[torch.Tensor]

    def step(self, closure: Any = None) -> None:
        self.seen = [parameter.grad.clone() for group in self.param_groups for parameter in group["params"]]


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    rows: list[TokenRow],
    preset: Preset = SHORT,
    phase: Phase = PHASE,
    start: Position = Position(),  # noqa: B008 - frozen
    stop: Any = lambda: False,
    save: Any = lambda position: None,
) -> list[StepReport]:
    reports: list[StepReport] = []
    train_phase(
        model, optimizer, rows, phase, preset, 0, start, ALONE,
        save=save, on_step=reports.append, stop=stop, autocast=nullcontext,
    )  # fmt: skip
    return reports


def test_packed_and_accumulated_gradients_equal_one_padded_batch(tiny_student: Path) -> None:
    rows = some_rows(12)
    once = replace(PHASE, epochs=1, effective_batch=12)
    model = load(tiny_student)
    recorder = GradientRecorder(model.parameters(), lr=0.0)
    (report,) = train(model, recorder, rows, replace(SHORT, clip_norm=1e9), once)

    reference = load(tiny_student)
    longest = max(len(row.tokens) for row in rows)
    tokens = torch.tensor([[*row.tokens, *[0] * (longest - len(row.tokens))] for row in rows])
    mask = torch.tensor([[1] * len(row.tokens) + [0] * (longest - len(row.tokens)) for row in rows])
    labels = torch.tensor(
        [
            [t if wanted else -100 for t, wanted in zip(row.tokens, row.targets, strict=True)]
            + [-100] * (longest - len(row.tokens))
            for row in rows
        ]
    )
    logits = reference(input_ids=tokens, attention_mask=mask).logits[:, :-1]
    loss = F.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
    loss.backward()

    assert report.loss == pytest.approx(loss.item(), rel=1e-5)
    assert report.targets == sum(row.target_count for row in rows)
    for mine, parameter in zip(recorder.seen, reference.parameters(), strict=True):
        assert (mine - parameter.grad).norm() <= 1e-5 * parameter.grad.norm()


def test_rows_in_one_pack_do_not_see_each_other(tiny_student: Path) -> None:
    model = load(tiny_student).eval()
    rows = some_rows(3)
    with torch.no_grad():
        together = token_losses(model, rows, ALONE.device, nullcontext)
        apart = sum(token_losses(model, [row], ALONE.device, nullcontext) for row in rows)
    assert torch.allclose(together, apart, rtol=1e-6)


class StopAfter:
    """Asks to stop at the n-th time that the loop looks."""

    def __init__(self, times: int) -> None:
        self.left = times

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


def test_a_run_stopped_at_any_micro_step_gives_the_same_losses_bit_for_bit(
    tiny_student: Path, tmp_path: Path
) -> None:
    rows = some_rows(13)
    model = load(tiny_student)
    optimizer = make_optimizer(model, SHORT)
    whole = train(model, optimizer, rows)
    assert len(whole) == 4
    losses = [report.loss for report in whole]
    norms = [report.gradient_norm for report in whole]

    stopped_within_a_step = 0
    for times in range(30):
        folder = tmp_path / str(times)
        again = load(tiny_student)
        fresh = make_optimizer(again, SHORT)

        def save(position: Position, m: Any = again, o: Any = fresh, f: Path = folder) -> None:
            save_checkpoint(f, m, o, position, ALONE)

        reports: list[StepReport] = []
        try:
            train_phase(
                again, fresh, rows, PHASE, SHORT, 0, Position(), ALONE,
                save=save, on_step=reports.append, stop=StopAfter(times), autocast=nullcontext,
            )  # fmt: skip
            break  # it never came to look so often: every moment was tried
        except TrainingStoppedError:
            pass
        found = latest_checkpoint(folder)
        assert found is not None
        stopped_within_a_step += found[1].micro > 0
        resumed = load(tiny_student)
        optimizer = make_optimizer(resumed, SHORT)
        load_checkpoint(found[0], resumed, optimizer, found[1], ALONE)
        reports += train(resumed, optimizer, rows, start=found[1])
        assert [report.loss for report in reports] == losses
        assert [report.gradient_norm for report in reports] == norms
        for mine, theirs in zip(resumed.parameters(), model.parameters(), strict=True):
            assert torch.equal(mine, theirs)
    assert stopped_within_a_step >= 4


def test_a_new_checkpoint_replaces_the_old_one_and_an_unfinished_one_is_not_seen(
    tiny_student: Path, tmp_path: Path
) -> None:
    model = load(tiny_student)
    optimizer = make_optimizer(model, SHORT)
    save_checkpoint(tmp_path, model, optimizer, Position(0, 0), ALONE)
    save_checkpoint(tmp_path, model, optimizer, Position(1, 0), ALONE)
    (tmp_path / "001-00000009-000000.unfinished").mkdir()
    found = latest_checkpoint(tmp_path)
    assert found is not None
    assert found[1] == Position(1, 0)
    assert [path.name for path in tmp_path.glob("000-*")] == []


def test_a_checkpoint_that_is_there_is_never_taken_away_to_be_written_again(
    tiny_student: Path, tmp_path: Path
) -> None:
    """The end of an epoch may also be the step at which one is due: a kill between removing the one and
    renaming the other would cost the whole run."""
    model = load(tiny_student)
    optimizer = make_optimizer(model, SHORT)
    save_checkpoint(tmp_path, model, optimizer, Position(0, 2), ALONE)
    (there,) = tmp_path.iterdir()
    written = there.stat().st_ino
    save_checkpoint(tmp_path, model, optimizer, Position(0, 2), ALONE)
    assert [(path, path.stat().st_ino) for path in tmp_path.iterdir()] == [(there, written)]
    for packed in (64, 96):  # within a step another size of packs is another state
        save_checkpoint(tmp_path, model, optimizer, Position(0, 2, 1, 0.5), ALONE, packed)
        assert latest_checkpoint(tmp_path, packed) == (next(tmp_path.iterdir()), Position(0, 2, 1, 0.5))


def test_a_loss_that_is_not_a_number_stops_the_run_before_the_weights_change(tiny_student: Path) -> None:
    model = load(tiny_student)
    with torch.no_grad():
        model.get_submodule("model.norm").weight[0] = float("nan")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(LossNotFiniteError, match=r"phase_1, step 1 of 4: loss nan.*row-.*learning_rate"):
        train(model, make_optimizer(model, SHORT), some_rows(13))
    for name, value in model.state_dict().items():
        assert torch.equal(value.nan_to_num(), before[name].nan_to_num())


def test_every_epoch_shows_every_row_once_in_its_own_order() -> None:
    plan = batches(13, PHASE, 0, seed=1)
    epochs = [[row for epoch, batch in plan if epoch == wanted for row in batch] for wanted in (0, 1)]
    assert [len(batch) for _, batch in plan] == [8, 5, 8, 5]
    assert all(sorted(order) == list(range(13)) for order in epochs)
    assert epochs[0] != epochs[1]


def test_the_learning_rate_warms_up_and_follows_its_schedule() -> None:
    constant = replace(PHASE, learning_rate=1.0, warmup_steps=385)
    assert warmup_steps(constant, 100) == 10
    rates = [learning_rate_at(constant, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(1 / 11)
    assert rates[9] < 1.0 == rates[10] == rates[99]
    cosine = [learning_rate_at(replace(constant, schedule="cosine"), step, 100) for step in range(100)]
    assert cosine[10] == 1.0
    assert cosine[55] == pytest.approx(0.5)
    assert 0 < cosine[99] < 0.01


def test_training_lowers_the_loss(tiny_student: Path) -> None:
    model = load(tiny_student)
    reports = train(model, make_optimizer(model, SHORT), some_rows(13), phase=replace(PHASE, epochs=10))
    assert reports[-1].loss < reports[0].loss * 0.8
