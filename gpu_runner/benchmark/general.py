"""Multiple choice through lm-evaluation-harness, as a library and without a network.

    scores, prompts = choose(model, items, name="general", chat=False, folder=scratch)

The harness builds the prompts, scores each choice's *text* by its likelihood and normalises by its length
(its `acc_norm`); a small model cannot follow letters. The data set is a local JSON Lines file, the task an
inline configuration whose fields are plain columns: no template is ever rendered from an item, so an item
cannot be one. Any other task of the harness takes the same road: `run_task` accepts every task configuration
whose data is local.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from gpu_runner.benchmark.model import BenchmarkError, LoadedModel, go_offline
from gpu_runner.benchmark.scoring import Scored
from lab.contracts import digest, write_lines


@dataclass(frozen=True)
class ChoiceItem:
    """One question with its choices; `key` is the index of the right one."""

    id: str
    prompt: str
    choices: tuple[str, ...]
    key: int


def general_items(rows: Sequence[Mapping[str, Any]]) -> list[ChoiceItem]:
    """The items of `general.jsonl`, in the harness's own form for plain questions."""
    items = [
        ChoiceItem(row["id"], f"Question: {row['question']}\nAnswer:", tuple(row["choices"]), row["key"])
        for row in rows
    ]
    names = [item.id for item in items]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BenchmarkError(
            f"general.jsonl: the id {twice[0]!r} occurs twice; ids pair the two models' answers"
        )
    for item in items:
        if not 0 <= item.key < len(item.choices) or any(not choice.strip() for choice in item.choices):
            raise BenchmarkError(
                f"general.jsonl: item {item.id!r} has an empty choice or a key outside its choices"
            )
    return items


def choose(
    model: LoadedModel, items: Sequence[ChoiceItem], name: str, chat: bool, folder: Path
) -> tuple[dict[str, Scored], str]:
    """What the model takes for the right choice of each item, by item id, and the digest of all prompts.

    `chat` asks through the model's chat template, as it was tuned; general items are asked as plain text.
    """
    if not items:
        return {}, digest([])
    data = folder / f"{name}.jsonl"
    rows = ({"id": i.id, "prompt": i.prompt, "choices": list(i.choices), "key": i.key} for i in items)
    write_lines(data, rows)
    task = {
        "task": f"treewright_{name}",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(folder / "datasets")},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": _prompt,
        "doc_to_choice": _choices,
        "doc_to_target": _key,
        "target_delimiter": " ",
        "num_fewshot": 0,
        "metric_list": [{"metric": "acc_norm", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1},
    }
    samples = run_task(model, task, chat)
    scores = {
        sample["doc"]["id"]: scored_choice(
            sample["filtered_resps"], list(sample["doc"]["choices"]), "acc_norm", float(sample["acc_norm"])
        )
        for sample in samples
    }
    missing = {item.id for item in items} - scores.keys()
    if missing:
        raise BenchmarkError(
            f"{name}: the harness left out {len(missing)} items, {sorted(missing)[0]!r} first"
        )
    prompts = sorted((s["doc"]["id"], s["prompt_hash"], s["target_hash"]) for s in samples)
    return scores, digest([list(row) for row in prompts])


def run_task(model: LoadedModel, task: Mapping[str, Any], chat: bool) -> list[dict[str, Any]]:
    """The harness's record of every item of one inline task (documents, likelihoods, prompt hashes)."""
    return run_harness(harness(model), [dict(task)], chat)[task["task"]]


def harness(model: LoadedModel) -> Any:
    """The loaded model as the harness's own kind of model."""
    _quiet()
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=model.weights, tokenizer=model.tokenizer, batch_size=model.batch, backend="causal")


def run_harness(
    model: Any, tasks: Sequence[Any], chat: bool, samples: Mapping[str, Sequence[int]] | None = None
) -> dict[str, list[dict[str, Any]]]:
    """The harness's records by task; `samples` limits a task to the items of these numbers."""
    _quiet()
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    with redirect_stderr(StringIO()):  # its progress bars have no switch, and fill a job's log with fragments
        result = simple_evaluate(
            model=model,
            tasks=list(tasks),
            task_manager=TaskManager(include_defaults=False),
            apply_chat_template=chat,
            log_samples=True,
            samples={name: list(numbers) for name, numbers in samples.items()} if samples else None,
            bootstrap_iters=0,  # the harness's error bars are unpaired; ours come from the items
        )
    found: dict[str, list[dict[str, Any]]] = result["samples"]
    return found


def _quiet() -> None:
    go_offline()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)


def _prompt(document: Mapping[str, Any]) -> str:
    return str(document["prompt"])


def _choices(document: Mapping[str, Any]) -> list[str]:
    return list(document["choices"])


def _key(document: Mapping[str, Any]) -> int:
    return int(document["key"])


def scored_choice(likelihoods: Sequence[Any], choices: Sequence[str], metric: str, right: float) -> Scored:
    """One item by the harness's numbers: `acc_norm` divides each likelihood by its choice's length."""
    values = [
        float(answer[0]) / (len(choice) if metric == "acc_norm" else 1)
        for answer, choice in zip(likelihoods, choices, strict=True)
    ]
    best = max(range(len(choices)), key=values.__getitem__)
    level = {choice for choice, value in zip(choices, values, strict=True) if value == values[best]}
    # An argmax takes the first choice of a model that gives NaN, or the same likelihood to everything.
    if not all(map(math.isfinite, values)) or len(level) > 1:
        return Scored(0.0, "", readable=False)
    return Scored(right, choices[best])
