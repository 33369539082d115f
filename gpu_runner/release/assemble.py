"""Assemble `work/release`: the model with its card, the data set with its card, the lock, the report and the
notes.

    treewright release --work WORK [--tag TAG]

Nothing leaves the machine here. Weights are hard links of `tune/model`, so a release of 15 GB costs no second
copy.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gpu_runner.release.facts import (
    STAGES,
    Collected,
    RefusedError,
    collect,
    leaf_score,
    release_facts,
    require_pass,
    scores,
)
from gpu_runner.release.lock import COPIES, LOCK, build, content, default_tag, problems_of, tag_problem
from gpu_runner.stage import Manifest, execute
from lab.contracts import read_json, write_bytes, write_json
from lab.report.cards import METRICS, ReleaseFacts, Score, dataset_card, model_card, release_notes

HUB_MODEL = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)


@dataclass(frozen=True)
class ReleaseSettings:
    """`tag` None takes the default; `repository` and `server` say where the pull requests are."""

    tag: str | None = None
    repository: str = ""
    server: str = "https://github.com"


def run(inputs: Path, outputs: Path, settings: ReleaseSettings | None = None) -> Manifest:
    """Assemble once; the same inputs and settings leave the folder alone.

    Raises RefusedError when the gate did not pass or the plan names no repositories.
    """
    settings = settings or ReleaseSettings()
    if settings.tag is not None and (problem := tag_problem(settings.tag)):
        raise RefusedError(problem)
    verdict = inputs / "gate" / "verdict.json"
    if verdict.is_file():  # else `execute` says which stage is missing
        require_pass(read_json(verdict))

    def body(partial: Path) -> None:
        for leftover in partial.iterdir():
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        write(inputs, partial, settings)

    folders = [inputs / stage for stage in STAGES]
    return execute("release", folders, outputs, asdict(settings), body, tools=("huggingface-hub",))


def write(work: Path, folder: Path, settings: ReleaseSettings) -> None:
    """Everything that is published, into `folder`; the lock last, when its digests can be taken."""
    collected = collect(work)
    require_pass(collected.verdict)
    names = collected.plan["release"]
    if not names["model"] or not names["dataset"]:
        raise RefusedError(
            "set release.model and release.dataset in .github/treewright.yml: there is no name to publish"
        )
    inner = content(collected, settings.repository)
    tag = settings.tag or default_tag(inner)
    facts = release_facts(collected, tag, settings.repository, settings.server)

    for output in collected.manifests["tune"].outputs:
        if output.path.startswith("model/") and output.path != "model/README.md":
            _link(work / "tune" / output.path, folder / output.path)
    _link(work / "generate" / "samples.jsonl", folder / "dataset" / "data" / "train.jsonl")
    _link(work / "generate" / "rejections.jsonl", folder / "dataset" / "data" / "rejections.jsonl")
    _link(work / "plan" / "heldout.jsonl", folder / "dataset" / "data" / "heldout.jsonl")
    shown = model_card(facts)
    if (folder / "model" / "curves.svg").is_file():
        shown = shown.rstrip("\n") + "\n\n## Training\n\n![Loss and learning rate](curves.svg)\n"
    write_bytes(folder / "model" / "README.md", [card(model_metadata(facts), shown)])
    write_bytes(folder / "dataset" / "README.md", [card(dataset_metadata(facts), dataset_card(facts))])
    write_bytes(folder / "notes.md", [release_notes(facts).encode()])
    write_json(folder / "report.json", report(collected, facts))
    lock = build(collected, settings.repository, tag, folder)
    for name in (LOCK, *COPIES):
        write_json(folder / name, lock)
    wrong = problems_of(folder)
    if wrong:
        raise RefusedError(f"what was assembled does not fit its own contract: {'; '.join(wrong[:5])}")


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)


def report(collected: Collected, facts: ReleaseFacts) -> dict[str, Any]:
    """`report.json`; the publishing job fills in revisions, addresses and the key."""
    found = scores(collected)
    order = {"pooled": 0, "leaf": 1, "general": 2}
    contributions = []
    for leaf in facts.changed:
        score = leaf_score(found, leaf.path)
        contributions += [
            {
                "pull_request": number,
                "leaf": leaf.path,
                "rows": leaf.rows,
                "base": score.base if score else None,
                "candidate": score.candidate if score else None,
            }
            for number in leaf.pull_requests
        ]
    return {
        "tag": facts.tag,
        "model": {"id": facts.model, "url": "", "revision": ""},
        "dataset": {"id": facts.dataset, "url": "", "revision": ""},
        "verdict": facts.verdict,
        "scores": [
            asdict(score) | {"name": f"{score.name}, {METRICS[score.metric]}"}
            for score in sorted(found, key=lambda score: (order[score.kind], score.name, score.metric))
        ],
        "examples": [asdict(example) for example in facts.examples],
        "contributions": contributions,
        "key": "",
    }


def card(metadata: str, text: str) -> bytes:
    return f"---\n{metadata.strip()}\n---\n\n{text}".encode()


def model_metadata(facts: ReleaseFacts) -> str:
    """The model card's YAML with its `model-index`, in the words of huggingface_hub itself."""
    from huggingface_hub import EvalResult, ModelCardData

    # A name by which only a server of ours knows the student is text; the Hub refuses it as a base model.
    known = HUB_MODEL.fullmatch(facts.student.id) is not None
    data = ModelCardData(
        license=facts.licence,
        library_name="transformers",
        pipeline_tag="text-generation",
        base_model=facts.student.id if known else None,
        base_model_relation="finetune" if known else None,
        datasets=[facts.dataset],
        tags=["lab", "instruction-tuning", "synthetic-data", "treewright"],
        model_name=facts.model.split("/")[-1],
        eval_results=[
            _eval_result(EvalResult, facts, score) for score in facts.scores if score.candidate is not None
        ]
        or None,
    )
    return str(data.to_yaml())


def _eval_result(make: Any, facts: ReleaseFacts, score: Score) -> Any:
    args: dict[str, Any] = {"items": score.items, "base_value": score.base}
    if score.low is not None and score.high is not None:
        args |= {"gain_low": score.low, "gain_high": score.high, "confidence": facts.confidence}
    own = score.kind != "general"
    kind = "mean score" if score.metric in ("judged", "mt_bench") else "accuracy"
    return make(
        task_type="text-generation",
        task_name="Text generation",
        dataset_type=facts.dataset if own else "taxonomy-general",
        dataset_name=f"held-out items: {score.leaf or score.name}" if own else score.name,
        dataset_config=score.name if own else None,  # sets of one data set are told apart by it
        dataset_revision=facts.tag if own else None,
        dataset_args=args,
        metric_type=kind,
        metric_name=f"{kind}, {METRICS[score.metric]}",
        metric_value=score.candidate,
    )


SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def size_category(rows: int) -> str:
    """The Hub's own names for sizes."""
    return next((name for limit, name in SIZES if rows < limit), "1M<n<10M")


def dataset_metadata(facts: ReleaseFacts) -> str:
    from huggingface_hub import DatasetCardData

    splits: Mapping[str, str] = {"train": "train", "heldout": "test", "rejections": "train"}
    data = DatasetCardData(
        license=facts.licence,
        task_categories=["text-generation", "question-answering"],
        size_categories=[size_category(sum(facts.rows_by_dataset.values()))],
        annotations_creators=["machine-generated"],
        language_creators=["machine-generated"],
        tags=["synthetic", "lab", "treewright"],
        pretty_name=facts.dataset.split("/")[-1],
        configs=[
            {
                "config_name": name,
                "data_files": [{"split": split, "path": f"data/{name}.jsonl"}],
                **({"default": True} if name == "train" else {}),
            }
            for name, split in splits.items()
        ],
    )
    return str(data.to_yaml())
