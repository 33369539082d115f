"""The release lock: what a release was made of, and the digest of every file that is published.

`digest` covers `content` only (inputs, settings, weights, verdict); the tag is made from it, and the cards
name the tag, so their digests stand beside it in `files`. `problems_of(folder)` is the one check that the
publishing job trusts: it runs where the build did not, on a folder that came through an artifact.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gpu_runner.release.facts import STAGES, Collected, licence
from lab.contracts import digest, file_digest, problems, read_lines

LOCK = "release.lock.json"
COPIES = (f"model/{LOCK}", f"dataset/{LOCK}")
MANIFEST = "manifest.json"
# Bounds for a folder that came over a wire. A card's is the Hub's; notes' is GitHub's for a release's body.
LIMITS = {LOCK: 16 * 1024**2, "report.json": 4 * 1024**2, "notes.md": 124_000}
CARD_LIMIT = 400_000
LINE_LIMIT = 1024**2
FILES_LIMIT = 5_000
HEADER_LIMIT = 100 * 1024**2  # of a safetensors file, as in its own reader
MODEL_SUFFIXES = (".safetensors", ".json", ".txt", ".jinja", ".model", ".md", ".svg")
DATASET_CARD = "dataset/README.md"
ROWS = {
    "dataset/data/train.jsonl": "sample",
    "dataset/data/heldout.jsonl": "heldout",
    "dataset/data/rejections.jsonl": "rejection",
}


def content(collected: Collected, repository: str) -> dict[str, Any]:
    """Everything that the release depends on, as JSON values."""
    plan, config, manifests = collected.plan, collected.config, collected.manifests
    outputs = {
        f"{stage}/{output.path}": output
        for stage, manifest in manifests.items()
        for output in manifest.outputs
    }

    def rows(path: str, count: int) -> dict[str, Any]:
        return {"digest": outputs[path].digest, "rows": count}

    training = [
        {"path": path, "digest": output.digest, "bytes": output.bytes}
        for path, output in sorted(outputs.items())
        if path.startswith("tune/training/")
    ]
    settings = {stage: dict(manifests[stage].settings) for stage in STAGES}
    return {
        "taxonomy": {"repository": repository, **plan["taxonomy"]},
        "pull_requests": list(plan["pull_requests"]),
        "leaves": [
            {key: leaf[key] for key in ("path", "kind", "changed", "digest", "pull_requests")}
            | {"rows": collected.rows.get(leaf["path"], 0)}
            for leaf in plan["leaves"]
        ],
        "samples": rows("generate/samples.jsonl", sum(collected.datasets.values())),
        "rejections": rows("generate/rejections.jsonl", sum(collected.reasons.values())),
        "heldout": rows("plan/heldout.jsonl", int(plan["heldout"])),
        "flows": [{"name": name, "digest": flow} for name, flow in collected.flows],
        "models": dict(config["models"]),
        "seeds": dict(_seeds("config", config)) | dict(_seeds("", settings)),
        "mixing": {
            "generate": config.get("generate", {}),
            "tune": config.get("tune", {}),
            "training": training,
        },
        "gate": dict(config.get("gate", {})),
        "verdict": {"outcome": collected.verdict["outcome"], "digest": outputs["gate/verdict.json"].digest},
        "stages": [
            {
                "stage": stage,
                "key": manifests[stage].key,
                "digest": manifests[stage].digest,
                "settings": settings[stage],
                "tools": dict(manifests[stage].tools),
            }
            for stage in STAGES
        ],
        "weights": [
            {"path": path.removeprefix("tune/model/"), "digest": output.digest, "bytes": output.bytes}
            for path, output in sorted(outputs.items())
            if path.startswith("tune/model/")
        ],
    }


def _seeds(prefix: str, value: object) -> Iterator[tuple[str, int]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            name = f"{prefix}.{key}" if prefix else str(key)
            if "seed" in str(key) and isinstance(inner, int) and not isinstance(inner, bool):
                yield name, inner
            else:
                yield from _seeds(name, inner)


def default_tag(value: Mapping[str, Any]) -> str:
    """`v<YYYY.MM.DD>-<key8>`: the taxonomy's commit date and the lock's digest, the same for the same
    release.
    """
    date = str(value["taxonomy"]["date"])[:10].replace("-", ".")
    return f"v{date}-{digest(value).removeprefix('sha256:')[:8]}"


def build(collected: Collected, repository: str, tag: str | None, folder: Path) -> dict[str, Any]:
    """The whole lock of an assembled folder, whose other files are all there."""
    inner = content(collected, repository)
    return {
        "version": 1,
        "tag": tag or default_tag(inner),
        "digest": digest(inner),
        "model": collected.plan["release"]["model"],
        "dataset": collected.plan["release"]["dataset"],
        "licence": licence(collected.config),
        "content": inner,
        "files": [
            {"path": name, "digest": file_digest(folder / name), "bytes": (folder / name).stat().st_size}
            for name in sorted(_regular(folder))
            if name != LOCK and name not in COPIES and name != MANIFEST
        ],
    }


def _regular(folder: Path) -> Iterator[str]:
    """Every file below; a link or anything that is not a plain file is an error."""
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise ValueError(f"{name} is not a regular file")
        if path.is_file():
            yield name


def problems_of(folder: Path) -> list[str]:
    """Each reason not to publish this folder; empty when all is as the lock says and fits its schema."""
    try:
        present = sorted(_regular(folder))
    except ValueError as error:
        return [str(error)]
    if len(present) > FILES_LIMIT:
        return [f"{len(present)} files are more than {FILES_LIMIT}"]
    for name, limit in LIMITS.items():
        if name not in present:
            return [f"{name} is missing: run `treewright release --work ...` first"]
        if (folder / name).stat().st_size > limit:
            return [f"{name} is larger than {limit} bytes"]
    lock = _json(folder / LOCK)
    found = problems("release_lock", lock)
    if found:
        return [f"{LOCK}: {problem}" for problem in found]
    if digest(lock["content"]) != lock["digest"]:
        return [f"{LOCK}: its digest is not that of its content"]
    return _files(folder, present, lock) or _shapes(folder, lock)


def _files(folder: Path, present: list[str], lock: Mapping[str, Any]) -> list[str]:
    listed = {row["path"]: row for row in lock["files"]}
    others = {LOCK, *COPIES, MANIFEST}
    wrong = [f"{name} is not in the lock" for name in present if name not in listed and name not in others]
    wrong += [f"{name} is missing" for name in [*listed, *COPIES] if name not in present]
    if wrong:
        return wrong
    for copy in COPIES:
        if (folder / copy).stat().st_size > LIMITS[LOCK] or file_digest(folder / copy) != file_digest(
            folder / LOCK
        ):
            wrong.append(f"{copy} differs from {LOCK}")
    for name, row in listed.items():
        path = folder / name
        if path.stat().st_size != row["bytes"] or file_digest(path) != row["digest"]:
            wrong.append(f"{name} has other content than the lock says")
    weights = {f"model/{row['path']}": row["digest"] for row in lock["content"]["weights"]}
    for name, row in listed.items():
        if name.startswith("model/") and name != "model/README.md" and weights.get(name) != row["digest"]:
            wrong.append(f"{name} is not what was tuned and measured")
    return wrong


def _shapes(folder: Path, lock: Mapping[str, Any]) -> list[str]:
    report = _json(folder / "report.json")
    wrong = [f"report.json: {problem}" for problem in problems("report", report)]
    if not wrong:
        same = (report["tag"], report["model"]["id"], report["dataset"]["id"], report["verdict"])
        if same != (lock["tag"], lock["model"], lock["dataset"], lock["content"]["verdict"]["outcome"]):
            wrong.append("report.json speaks of another release than the lock")
    for row in lock["files"]:
        name = row["path"]
        if name.startswith("model/") and not name.endswith(MODEL_SUFFIXES):
            wrong.append(f"{name}: only {', '.join(MODEL_SUFFIXES)} belong into a model repository")
        if name.startswith("dataset/") and name not in (DATASET_CARD, *ROWS):
            wrong.append(f"{name} does not belong into the data set repository; a script there may be run")
        if name.endswith("README.md") and row["bytes"] > CARD_LIMIT:
            wrong.append(f"{name} is larger than {CARD_LIMIT} bytes")
        if name.endswith(".safetensors"):
            wrong += _safetensors(folder / name, name)
    if not any(row["path"].endswith(".safetensors") for row in lock["files"]):
        wrong.append("model/ holds no safetensors file")
    for name, schema in ROWS.items():
        wrong += _rows(folder / name, name, schema)
    return wrong


def _rows(path: Path, name: str, schema: str) -> list[str]:
    if not path.is_file():
        return [f"{name} is missing"]
    with path.open("rb") as stream:
        while line := stream.readline(LINE_LIMIT + 1):
            if len(line) > LINE_LIMIT:
                return [f"{name} has a line of more than {LINE_LIMIT} bytes"]
    try:
        for _row in read_lines(path, schema):
            pass
    except (ValueError, RecursionError) as error:
        return [f"{name}: {error}"]
    return []


def _safetensors(path: Path, name: str) -> list[str]:
    """The header's promise (https://huggingface.co/docs/safetensors): lengths that add up, nothing else."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length > HEADER_LIMIT or 8 + length > size:
            return [f"{name} is not a safetensors file: its header does not fit"]
        try:
            header = json.loads(stream.read(length))
            ends = [int(tensor["data_offsets"][1]) for key, tensor in header.items() if key != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
            return [f"{name} is not a safetensors file: its header cannot be read"]
    if max(ends, default=0) != size - 8 - length:
        return [f"{name} is not a safetensors file: its tensors do not fill it"]
    return []


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        return {"not JSON": str(error)[:200]}


def tag_problem(tag: str) -> str | None:
    if (
        re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", tag)
        and ".." not in tag
        and not tag.endswith((".", ".lock"))
    ):
        return None
    return f"{tag[:100]!r} is not a tag: letters, digits, dot, dash and underscore, 100 at most"
