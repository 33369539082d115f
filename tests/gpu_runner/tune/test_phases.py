"""Every number of a preset has a source, and an override is obeyed or refused, never ignored."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import pytest

from gpu_runner.tune.phases import PRESETS, Phase, PresetError, preset

_NUMBERS = [field.name for field in fields(Phase) if field.name not in ("name", "title", "budget", "sources")]


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_number_of_a_preset_has_a_source(name: str) -> None:
    chosen = PRESETS[name]
    for phase in chosen.phases:
        assert set(_NUMBERS) <= phase.sources.keys()
        assert "budget.max_rows" in phase.sources
        assert not phase.budget.replay_share or "budget.replay_share" in phase.sources
    assert {
        "betas",
        "epsilon",
        "weight_decay",
        "clip_norm",
        "checkpoint_steps",
        "pack_tokens",
        "validation_share",
    } <= chosen.sources.keys()
    assert json.loads(json.dumps(chosen.to_json())) == chosen.to_json()


def test_the_paper_s_numbers_are_the_paper_s() -> None:
    merlinite, labradorite = PRESETS["lab-merlinite-7b"], PRESETS["lab-labradorite-13b"]
    assert [phase.epochs for phase in merlinite.phases] == [4, 4, 7]
    assert [phase.epochs for phase in labradorite.phases] == [5, 7, 7]
    assert {phase.learning_rate for phase in merlinite.phases} == {1e-6}
    assert {phase.learning_rate for phase in labradorite.phases} == {2e-5}
    assert {phase.warmup_steps for phase in merlinite.phases} == {800}
    assert {phase.warmup_steps for phase in labradorite.phases} == {385}
    assert {phase.effective_batch for p in (merlinite, labradorite) for phase in p.phases} == {3840}
    assert [phase.budget.max_rows for phase in merlinite.phases] == [630_000, 230_000, 550_000]


def test_overrides_apply_to_every_phase_and_name_themselves_as_source() -> None:
    chosen = preset(
        "embedded-cpu", {"epochs": 1, "learning_rate": 1e-5, "effective_batch": 4, "max_rows": 10}
    )
    for phase in chosen.phases:
        assert (phase.epochs, phase.learning_rate, phase.effective_batch, phase.budget.max_rows) == (
            1,
            1e-5,
            4,
            10,
        )
        assert {phase.sources[key] for key in ("epochs", "learning_rate", "budget.max_rows")} == {
            "tune.overrides"
        }


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"epoch": 3}, "tune.overrides.epoch is not known"),
        ({"epochs": 0}, "tune.overrides.epochs must be a positive number, not 0"),
        ({"epochs": 1.5}, "not 1.5"),
        ({"learning_rate": "fast"}, "not 'fast'"),
        ({"max_rows": True}, "not True"),
        ({"validation_share": 0.9}, "is a share from 0 to 0.5, not 0.9"),
    ],
)
def test_an_override_that_cannot_be_used_is_refused(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(PresetError, match=message.replace(".", r"\.")):
        preset("embedded-cpu", overrides)


def test_an_unknown_preset_names_the_known_ones() -> None:
    with pytest.raises(PresetError, match=r"embedded-cpu, .*lab-labradorite-13b, lab-merlinite-7b"):
        preset("large")
