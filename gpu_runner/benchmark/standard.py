"""MMLU, ARC-Challenge, HellaSwag, Winogrande and GSM8K, asked by lm-evaluation-harness over staged data.

    answers = ask(model, staged, limit=0, folder=scratch)

The harness's own task files are used as they are: prompts, few-shot sampler and normalisation are what makes
a number comparable with a published one. Only where the data come from and the number of shots is set, in a
task file that includes the harness's. Plain text, no chat template, as on the leaderboard whose settings the
LAB paper took. Scores are kept item by item: MMLU is the mean over questions (the harness's own mean).
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpu_runner.benchmark.general import harness, run_harness, scored_choice
from gpu_runner.benchmark.model import BenchmarkError, LoadedModel
from gpu_runner.benchmark.results import ACCURACY, Answers, Item
from gpu_runner.benchmark.scoring import Scored
from gpu_runner.benchmark.staging import Source, Staged, task_folder
from lab.contracts import digest

SEED = 1234
"""Of the few-shot sampler (the harness's own default) and of the items drawn under a limit."""

_STRICT, _FLEXIBLE = "strict-match", "flexible-extract"
_UNREAD = "[invalid]"


def ask(model: LoadedModel, staged: Staged, limit: int, folder: Path) -> Answers:
    """What the model answers to every item of one staged set, `limit` of each of its tasks if not 0."""
    source = staged.source
    tasks = {subject: _task(staged, subject, folder) for subject in staged.subjects()}
    chosen = {_name(source, subject): _drawn(staged, subject, limit) for subject in tasks} if limit else None
    samples = run_harness(harness(model), [str(path) for path in tasks.values()], False, chosen)
    items, scores, prompts = [], {}, []
    for task, rows in sorted(samples.items()):
        for number, sample in sorted(_by_item(rows).items()):
            key = f"{task}/{number}"
            item, scored = _read(source, key, sample)
            items.append(item)
            scores[key] = scored
            first = sample[min(sample)]
            prompts.append([key, first["doc_hash"], first["prompt_hash"], first["target_hash"]])
    if not items:
        raise BenchmarkError(f"{source.name}: the harness asked nothing")
    return Answers(tuple(items), {ACCURACY: scores}, digest(prompts))


def _name(source: Source, subject: str) -> str:
    return f"mmlu_{subject}" if subject else source.name


def _task(staged: Staged, subject: str, folder: Path) -> Path:
    """A task file that is the harness's own but for its data and shots (JSON is YAML)."""
    source, files = staged.source, staged.data_files(subject)
    kinds = {Path(path).suffix for paths in files.values() for path in paths}
    if len(kinds) != 1:
        raise BenchmarkError(f"{source.name}: Parquet and JSON Lines are mixed in {staged.folder}")
    config = {
        "include": str(task_folder() / source.task.format(subject=subject)),
        "dataset_path": "parquet" if kinds == {".parquet"} else "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": files, "cache_dir": str(folder / "datasets")},
        "num_fewshot": source.shots,
    }
    path = folder / f"{_name(source, subject)}.yaml"
    path.write_text(json.dumps(config), "utf-8")
    return path


def _drawn(staged: Staged, subject: str, limit: int) -> list[int]:
    """The same items for every model: the first of a shuffle, since files are ordered by topic."""
    asked = "test" if "test" in staged.source.splits else "validation"
    rows = sum(f.rows for f in staged.files if (f.subject, f.split) == (subject, asked))
    numbers = list(range(rows))
    random.Random(SEED).shuffle(numbers)  # noqa: S311 (a draw, not a secret)
    return sorted(numbers[:limit])


def _by_item(rows: list[dict[str, Any]]) -> dict[int, dict[str, dict[str, Any]]]:
    """Item number -> filter -> sample; GSM8K is read by two filters."""
    found: dict[int, dict[str, dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(int(row["doc_id"]), {})[row["filter"]] = row
    return found


def _read(source: Source, key: str, sample: Mapping[str, Mapping[str, Any]]) -> tuple[Item, Scored]:
    if source.name == "gsm8k":
        strict, flexible = sample[_STRICT], sample[_FLEXIBLE]
        document = strict["doc"]
        right = float(strict[source.metric])
        # A solution without the wanted ending is wrong, as in the paper's strict score; one without any
        # number at all is nothing that could be scored.
        scored = Scored(right, str(strict["resps"][0][0]), str(flexible["filtered_resps"][0]) != _UNREAD)
        expected = str(document["answer"]).rsplit("####", 1)[-1].strip()
        return Item(key, source.name, None, document["question"], expected, key), scored
    (only,) = sample.values()
    document = only["doc"]
    question, choices, right_one = _TEXTS[source.name](document)
    scored = scored_choice(only["filtered_resps"], choices, source.metric, float(only[source.metric]))
    return Item(key, source.name, None, question, choices[right_one], key), scored


def _arc(document: Mapping[str, Any]) -> tuple[str, list[str], int]:
    choices = document["choices"]
    return document["question"], list(choices["text"]), list(choices["label"]).index(document["answerKey"])


def _winogrande(document: Mapping[str, Any]) -> tuple[str, list[str], int]:
    return document["sentence"], [document["option1"], document["option2"]], int(document["answer"]) - 1


_TEXTS = {
    "mmlu": lambda d: (d["question"], list(d["choices"]), int(d["answer"])),
    "arc_challenge": _arc,
    "hellaswag": lambda d: (d["query"], list(d["choices"]), int(d["gold"])),
    "winogrande": _winogrande,
}
"""What a person is shown of an item: question, choices, and which is right. The model sees the harness's."""


def describe(staged: Staged, limit: int, version: str) -> dict[str, Any]:
    """How a set was asked, for `benchmark.json`."""
    return {
        "repository": staged.source.repository,
        "revision": staged.revision,
        "shots": staged.source.shots,
        "metric": staged.source.metric,
        "limit": limit,
        "seed": SEED,
        "harness": version,
        "data": digest(staged.identity),
    }
