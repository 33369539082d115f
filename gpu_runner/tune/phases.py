"""The presets: what each phase of a tuning run is, and where each number comes from.

`preset(name, overrides)` gives frozen values; `phases.json` of a run repeats them with their sources. A
number whose source is not known says "not stated" and what was taken instead. Sources: [paper] = arXiv
2403.01081 (LAB), its table 2 and section 3; [later] = arXiv 2412.13337 (same group); [ilab] = the defaults of
InstructLab's command line, `lab-multiphase`; [learning] = `docs/learning.md`, SmolLM2-135M and 20 invented
facts; [one run] = it worked in one run of that model on 2 cores (`docs/tuning.md`), the only one tried.

Three layouts: three phases as in [paper], two as InstructLab released it, and stacked, all data at once,
which [later] found no worse.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

from lab.synthesis.mixing import Budget

Schedule = Literal["constant", "cosine"]
OVERRIDES = (
    "epochs",
    "learning_rate",
    "effective_batch",
    "max_rows",
    "warmup_steps",
    "schedule",
    "max_tokens",
    "pack_tokens",
    "checkpoint_steps",
    "validation_share",
)
"""The first seven are set in every phase, the others for the run."""
_RUN = ("pack_tokens", "checkpoint_steps", "validation_share")
_SHARE = "validation_share"


LORA_RATE_TIMES = 5.0
"""Adapters start at zero and want a higher rate than the weights: 1e-3 beside 2e-4 taught the embedded model
the same facts, one run each; nothing else was tried."""


class PresetError(ValueError):
    """The preset or an override is not usable; the message names it and what is possible."""


@dataclass(frozen=True)
class Phase:
    """One phase. `effective_batch` counts rows per optimizer step over all ranks; `warmup_steps` is linear
    warm-up in optimizer steps, at most a tenth of the phase; `max_tokens` bounds one row; `sources` says
    where numbers are from.
    """

    name: str
    title: str
    budget: Budget
    epochs: int
    learning_rate: float
    effective_batch: int
    warmup_steps: int
    max_tokens: int
    schedule: Schedule
    sources: Mapping[str, str]


@dataclass(frozen=True)
class Preset:
    """A run. `pack_tokens` is the room of one forward pass on one rank; betas, decay and clipping are
    AdamW's. `validation_share` of the generated rows are never trained on and decide among the epochs of the
    last phase (`choice.py`); 0 releases what the last step left.
    """

    name: str
    phases: tuple[Phase, ...]
    pack_tokens: int
    activation_checkpointing: bool
    betas: tuple[float, float] = (0.9, 0.95)
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    checkpoint_steps: int = 50
    validation_share: float = 0.02
    sources: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        value = asdict(self)
        value["betas"] = list(self.betas)
        value["phases"] = [
            {
                **phase,
                "budget": {**phase["budget"], "datasets": list(phase["budget"]["datasets"])},
                "sources": dict(phase["sources"]),
            }
            for phase in value["phases"]
        ]
        return value


_OPTIMIZER_SOURCES = {
    "betas": "not stated in [paper]; InstructLab's trainer uses (0.9, 0.95)",
    "epsilon": "not stated in [paper]; InstructLab's trainer uses 1e-8",
    "weight_decay": "not stated in [paper]; InstructLab's trainer uses 0",
    "clip_norm": "not stated; 1.0 is ours",
    "checkpoint_steps": "ours: bounds what a lost machine costs",
    "pack_tokens": "not stated; ours",
    "activation_checkpointing": "not stated; ours: memory for time",
    "validation_share": "ours: at most 64 rows, `gpu_runner/tune/choice.py`",
}

_LEARNING = "[learning]: 0 to 90 % recall there, with three seeds"

EMBEDDED_CPU = Preset(
    name="embedded-cpu",
    phases=(
        Phase(
            name="phase_1",
            title="knowledge with short answers",
            budget=Budget(datasets=("knowledge_short",), max_rows=300, buffer_rows=40),
            epochs=1,
            learning_rate=1.25e-4,
            effective_batch=16,
            warmup_steps=4,
            max_tokens=512,
            schedule="constant",
            sources={
                "epochs": _LEARNING,
                "learning_rate": "between 1e-4 and 1.5e-4, one run each on the demo's rows: `docs/tuning.md`",
                "effective_batch": _LEARNING,
                "warmup_steps": "ours: a few steps for Adam's second moment",
                "max_tokens": "[one run]: long rows are slow on a CPU",
                "budget.max_rows": "ours: a few minutes on 2 cores for both phases",
                "budget.buffer_rows": _LEARNING,
                "schedule": "[paper]: no decay in the intermediate phases",
            },
        ),
        Phase(
            name="phase_2",
            title="knowledge with long answers and skills, with replay",
            budget=Budget(
                datasets=("knowledge_long", "foundational", "skill"),
                max_rows=60,
                replay_share=0.25,
                buffer_rows=40,
            ),
            epochs=1,
            learning_rate=5e-5,
            effective_batch=16,
            warmup_steps=4,
            max_tokens=512,
            schedule="constant",
            sources={
                "epochs": "ours: its rows are long, and one pass already keeps what phase 1 taught",
                "learning_rate": _LEARNING,
                "effective_batch": _LEARNING,
                "warmup_steps": "ours",
                "max_tokens": "[one run]: long rows are slow on a CPU",
                "budget.max_rows": "bench/learning: 60 rows teach a skill and cost the facts little",
                "budget.replay_share": _LEARNING,
                "budget.buffer_rows": "ours: phase 1's again",
                "schedule": "[later]: cosine decay can be dropped with little effect",
            },
        ),
    ),
    pack_tokens=1024,
    activation_checkpointing=False,
    validation_share=0.0,
    sources={
        **_OPTIMIZER_SOURCES,
        "validation_share": "ours: a demo's few rows are all learned",
        "pack_tokens": "[one run]: larger products are faster on a CPU; attention does not grow with a pack",
    },
)


def _paper_phases(learning_rate: float, warmup_steps: int, epochs: tuple[int, int, int]) -> tuple[Phase, ...]:
    """KT/1, KT/2 and ST of [paper], table 2; what differs between its two models is passed in."""
    stated = {
        "epochs": "[paper] table 2",
        "learning_rate": "[paper] table 2",
        "effective_batch": "[paper] table 2",
        "warmup_steps": "[paper] table 2",
        "max_tokens": "[paper] table 2",
        "budget.max_rows": "[paper] table 2 (samples); whether replayed rows are counted is not stated",
        "budget.replay_share": "not stated: [paper] replays earlier phases, not how much; 1.0 is ours",
        "schedule": "[paper]: linear warm-up, no cosine decay in the intermediate phases",
    }
    return (
        Phase(
            name="phase_1",
            title="KT/1: knowledge with short answers",
            budget=Budget(datasets=("knowledge_short",), max_rows=630_000),
            epochs=epochs[0],
            learning_rate=learning_rate,
            effective_batch=3840,
            warmup_steps=warmup_steps,
            max_tokens=2048,
            schedule="constant",
            sources=stated,
        ),
        Phase(
            name="phase_2",
            title="KT/2: knowledge with long answers and foundational skills, with replay of KT/1",
            budget=Budget(datasets=("knowledge_long", "foundational"), max_rows=230_000, replay_share=1.0),
            epochs=epochs[1],
            learning_rate=learning_rate,
            effective_batch=3840,
            warmup_steps=warmup_steps,
            max_tokens=2048,
            schedule="constant",
            sources={
                **stated,
                "max_tokens": "not stated clearly in [paper] (2048 or 4096); 2048 is ours",
                "budget.datasets": "[paper]: with foundational skills (public ones there, leaves here)",
            },
        ),
        Phase(
            name="phase_3",
            title="ST: compositional skills, with replay of KT/1 and KT/2",
            budget=Budget(datasets=("skill",), max_rows=550_000, replay_share=1.0),
            epochs=epochs[2],
            learning_rate=learning_rate,
            effective_batch=3840,
            warmup_steps=warmup_steps,
            max_tokens=4096,
            schedule="cosine",
            sources={
                **stated,
                "schedule": "not stated for the last phase; cosine is the default of InstructLab's trainer",
            },
        ),
    )


LAB_LABRADORITE_13B = Preset(
    name="lab-labradorite-13b",
    phases=_paper_phases(learning_rate=2e-5, warmup_steps=385, epochs=(5, 7, 7)),
    pack_tokens=8192,
    activation_checkpointing=True,
    sources=_OPTIMIZER_SOURCES,
)

LAB_MERLINITE_7B = Preset(
    name="lab-merlinite-7b",
    phases=_paper_phases(learning_rate=1e-6, warmup_steps=800, epochs=(4, 4, 7)),
    pack_tokens=8192,
    activation_checkpointing=True,
    sources=_OPTIMIZER_SOURCES,
)

# Two phases: what was released as `lab-multiphase`, not what the paper says.
INSTRUCTLAB_TWO_PHASE = Preset(
    name="instructlab-two-phase",
    phases=(
        Phase(
            name="phase_1",
            title="knowledge, short and long answers",
            budget=Budget(datasets=("knowledge_short", "knowledge_long")),
            epochs=7,
            learning_rate=2e-5,
            effective_batch=128,
            warmup_steps=25,
            max_tokens=4096,
            schedule="cosine",
            sources={
                "epochs": "[ilab]",
                "learning_rate": "[ilab]",
                "effective_batch": "[ilab]",
                "warmup_steps": "[ilab]",
                "max_tokens": "[ilab]",
                "budget.max_rows": "[ilab]: no limit",
                "schedule": "[ilab]: cosine is its trainer's default and cannot be set there",
            },
        ),
        Phase(
            name="phase_2",
            title="skills, with replay of the knowledge",
            budget=Budget(datasets=("skill",), replay_share=1.0),
            epochs=10,
            learning_rate=6e-6,
            effective_batch=3840,
            warmup_steps=25,
            max_tokens=4096,
            schedule="cosine",
            sources={
                "epochs": "[ilab]",
                "learning_rate": "[ilab]",
                "effective_batch": "[ilab]",
                "warmup_steps": "[ilab]",
                "max_tokens": "[ilab]",
                "budget.max_rows": "[ilab]: no limit",
                "budget.replay_share": "[ilab] mixes knowledge into the skills data; the share 1.0 is ours",
                "schedule": "[ilab]: cosine is its trainer's default and cannot be set there",
            },
        ),
    ),
    pack_tokens=8192,
    activation_checkpointing=True,
    sources=_OPTIMIZER_SOURCES,
)

STACKED = Preset(
    name="stacked",
    phases=(
        Phase(
            name="phase_1",
            title="knowledge and skills at once",
            budget=Budget(datasets=("knowledge_short", "knowledge_long", "skill"), buffer_rows=100_000),
            epochs=7,
            learning_rate=2e-5,
            effective_batch=3840,
            warmup_steps=0,
            max_tokens=4096,
            schedule="constant",
            sources={
                "epochs": "InstructLab's training_hub, its two-phase example",
                "learning_rate": "InstructLab's training_hub, its two-phase example",
                "effective_batch": "[later]: 3,840 to 7,680 rows did better than small batches",
                "warmup_steps": "[later]: can be dropped with little effect",
                "max_tokens": "[paper]: its last phase",
                "budget.max_rows": "[later]: all data at once",
                "budget.buffer_rows": "not stated; ours: all of a replay buffer of usual size",
                "schedule": "[later]: cosine decay can be dropped with little effect",
            },
        ),
    ),
    pack_tokens=8192,
    activation_checkpointing=True,
    sources=_OPTIMIZER_SOURCES,
)

# The embedded model's numbers in the other two layouts, so that phased against stacked can be measured here.
EMBEDDED_CPU_STACKED = replace(
    EMBEDDED_CPU,
    name="embedded-cpu-stacked",
    phases=(
        replace(
            EMBEDDED_CPU.phases[0],
            title="knowledge and skills at once",
            budget=Budget(
                datasets=("knowledge_short", "knowledge_long", "skill"), max_rows=360, buffer_rows=80
            ),
            sources={
                **EMBEDDED_CPU.phases[0].sources,
                "budget.max_rows": "ours: as many as embedded-cpu's phases together",
                "budget.buffer_rows": "ours: as many as embedded-cpu's phases together",
            },
        ),
    ),
)
_LONG, _SHORT = EMBEDDED_CPU.phases[1], EMBEDDED_CPU.phases[0]
EMBEDDED_CPU_THREE_PHASE = replace(
    EMBEDDED_CPU,
    name="embedded-cpu-three-phase",
    phases=(
        _SHORT,
        replace(
            _LONG,
            title="knowledge with long answers, with replay",
            budget=replace(_LONG.budget, datasets=("knowledge_long",), max_rows=50),
        ),
        replace(
            _LONG,
            name="phase_3",
            title="skills, with replay of both",
            budget=replace(_LONG.budget, datasets=("skill",), max_rows=50),
        ),
    ),
)

PRESETS: Mapping[str, Preset] = {
    preset.name: preset
    for preset in (
        EMBEDDED_CPU,
        EMBEDDED_CPU_STACKED,
        EMBEDDED_CPU_THREE_PHASE,
        INSTRUCTLAB_TWO_PHASE,
        LAB_LABRADORITE_13B,
        LAB_MERLINITE_7B,
        STACKED,
    )
}


def preset(name: str, overrides: Mapping[str, Any] | None = None, lora: bool = False) -> Preset:
    """The named preset with `overrides` set, in every phase or for the run; with `lora` the learning rate is
    that of adapters, unless it is overridden.

    Raises PresetError for a name, a key or a value that cannot be used.
    """
    if name not in PRESETS:
        raise PresetError(f"no preset {name!r}; there are: {', '.join(sorted(PRESETS))}")
    chosen = PRESETS[name]
    given = {key: value for key, value in (overrides or {}).items() if value is not None}
    unknown = sorted(given.keys() - set(OVERRIDES))
    if unknown:
        raise PresetError(f"tune.overrides.{unknown[0]} is not known; there are: {', '.join(OVERRIDES)}")
    for key, value in given.items():
        _check(key, value)
    run: dict[str, Any] = {key: int(given[key]) for key in _RUN if key in given and key != _SHARE}
    run |= {key: float(given[key]) for key in (_SHARE,) if key in given}
    said = dict.fromkeys(run, "tune.overrides")
    phases = tuple(_override(phase, given, lora) for phase in chosen.phases)
    return replace(chosen, phases=phases, **run, sources={**chosen.sources, **said})


def _check(key: str, value: Any) -> None:
    if key == "schedule":
        if value not in get_args(Schedule):
            raise PresetError(f"tune.overrides.schedule is {' or '.join(get_args(Schedule))}, not {value!r}")
        return
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if key == _SHARE:
        if not number or not 0 <= value <= 0.5:
            raise PresetError(f"tune.overrides.{key} is a share from 0 to 0.5, not {value!r}")
    else:
        least = 0 if key == "warmup_steps" else None
        fits = number and (value > 0 or value == least) and (key == "learning_rate" or value == int(value))
        if not fits:
            raise PresetError(f"tune.overrides.{key} must be a positive number, not {value!r}")


def _override(phase: Phase, given: Mapping[str, Any], lora: bool) -> Phase:
    whole = ("epochs", "effective_batch", "warmup_steps", "max_tokens")
    fields: dict[str, Any] = {key: int(given[key]) for key in whole if key in given}
    if "schedule" in given:
        fields["schedule"] = given["schedule"]
    if "learning_rate" in given:
        fields["learning_rate"] = float(given["learning_rate"])
    if "max_rows" in given:
        fields["budget"] = replace(phase.budget, max_rows=int(given["max_rows"]))
    said = {
        ("budget.max_rows" if key == "max_rows" else key): "tune.overrides"
        for key in given
        if key not in _RUN
    }
    if lora and "learning_rate" not in given:
        fields["learning_rate"] = phase.learning_rate * LORA_RATE_TIMES
        said["learning_rate"] = f"{LORA_RATE_TIMES:g} times the preset's, for adapters: [one run]"
    return replace(phase, **fields, sources={**phase.sources, **said})
