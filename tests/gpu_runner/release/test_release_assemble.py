"""What `treewright release` puts together, and when it refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import DatasetCard, ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results
from release_world import HEAD, LEAF, build_work

from gpu_runner.release.assemble import ReleaseSettings, model_metadata, run
from gpu_runner.release.facts import RefusedError, collect, release_facts
from gpu_runner.release.lock import LOCK, problems_of
from gpu_runner.stage import StageError, execute
from lab.contracts import file_digest, problems, read_json, write_json

HOSTILE = " <script>alert(1)</script> @everyone | ```\n# Title\n"


def test_a_release_holds_everything_and_its_lock_pins_it(assembled: Path) -> None:
    release = assembled / "release"
    assert problems_of(release) == []
    lock = read_json(release / LOCK, "release_lock")
    assert lock["tag"] == f"v2026.11.21-{lock['digest'][7:15]}"
    assert sorted(row["path"] for row in lock["files"]) == [
        "dataset/README.md",
        "dataset/data/heldout.jsonl",
        "dataset/data/rejections.jsonl",
        "dataset/data/train.jsonl",
        "model/README.md",
        "model/config.json",
        "model/model.safetensors",
        "notes.md",
        "report.json",
    ]
    content = lock["content"]
    assert content["taxonomy"] == {
        "repository": "acme/taxonomy",
        "head": HEAD,
        "base": None,
        "date": "2026-11-21T10:00:00Z",
    }
    assert content["samples"]["rows"] == 5
    assert content["seeds"]["config.generate.seed"] == 42
    assert content["seeds"]["tune.seed"] == 7
    assert [stage["stage"] for stage in content["stages"]] == [
        "plan",
        "generate",
        "tune",
        "benchmark",
        "gate",
    ]
    assert [row["path"] for row in content["mixing"]["training"]] == ["tune/training/phase_1.jsonl"]
    assert (release / "model" / "model.safetensors").stat().st_nlink == 2


def test_the_report_is_what_the_bot_reads(assembled: Path) -> None:
    report = read_json(assembled / "release" / "report.json", "report")
    assert report["contributions"] == [
        {"pull_request": 2, "leaf": LEAF, "rows": 5, "base": 0.0, "candidate": 1.0}
    ]
    assert [score["name"] for score in report["scores"]] == [
        "changed leaves, choice of four",
        f"{LEAF}, choice of four",
        f"{LEAF}, short answer",
        "general, choice of four",
    ]
    assert (report["scores"][1]["low"], report["scores"][1]["high"]) == (0.4, 1.0)
    assert len(report["examples"]) == 2
    assert report["model"] == {"id": "acme/acme-lm", "url": "", "revision": ""}


def test_the_cards_are_what_the_hub_understands(assembled: Path) -> None:
    release = assembled / "release"
    card = ModelCard.load(release / "model" / "README.md")
    data = card.data.to_dict()
    assert (data["base_model"], data["base_model_relation"]) == ("acme/base", "finetune")
    assert data["datasets"] == ["acme/acme-data"]
    _name, results = model_index_to_eval_results(data["model-index"])
    assert sorted((result.dataset_name, result.metric_value) for result in results) == [
        ("general", 0.5),
        ("held-out items: changed leaves", 1.0),
        (f"held-out items: {LEAF}", 1.0),
        (f"held-out items: {LEAF}", 1.0),
    ]
    configs = DatasetCard.load(release / "dataset" / "README.md").data.to_dict()["configs"]
    assert [config["config_name"] for config in configs] == ["train", "heldout", "rejections"]
    assert "2403.01081" in card.text


def test_the_data_set_loads_by_its_card(assembled: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    folder = str(assembled / "release" / "dataset")
    rows = datasets.load_dataset(folder, "train", split="train", cache_dir=str(tmp_path))
    assert rows[0]["lineage"]["pull_requests"] == [2]
    held_out = datasets.load_dataset(folder, "heldout", split="test", cache_dir=str(tmp_path))
    assert len(held_out) == 2


def test_the_same_inputs_leave_the_release_alone_and_make_the_same_tag(
    assembled: Path, tmp_path: Path
) -> None:
    settings = ReleaseSettings(repository="acme/taxonomy")
    before = (assembled / "release" / LOCK).read_bytes()
    assert run(assembled, assembled / "release", settings).reused
    again = tmp_path / "again"
    run(assembled, again / "release", settings)
    assert (again / "release" / LOCK).read_bytes() == before
    tagged = tmp_path / "tagged" / "release"
    run(assembled, tagged, ReleaseSettings(tag="v1", repository="acme/taxonomy"))
    assert read_json(tagged / LOCK)["tag"] == "v1"


@pytest.mark.parametrize("outcome", ["fail", "inconclusive", "error", "passed", ""])
def test_anything_but_a_pass_makes_no_release(tmp_path: Path, outcome: str) -> None:
    work = build_work(tmp_path / "work", outcome)
    with pytest.raises(RefusedError, match="Two of two"):
        run(work, work / "release")
    assert not (work / "release").exists()


def test_a_verdict_on_another_benchmark_is_refused(tmp_path: Path) -> None:
    work = build_work(tmp_path / "work")

    def better(folder: Path) -> None:
        old = work / "benchmark"
        for name in ("benchmark.json", "items.jsonl"):
            shutil.copy(old / name, folder / name)
        value = read_json(old / "benchmark.json")
        value["sets"][0]["candidate"] = 0.5
        write_json(folder / "benchmark.json", value)

    inputs = [work / "plan", work / "generate", work / "tune"]
    execute("benchmark", inputs, work / "benchmark", {"seed": 8}, better)
    with pytest.raises(StageError, match="gate was run on another benchmark"):
        run(work, work / "release")


def test_a_missing_stage_is_named(tmp_path: Path) -> None:
    work = build_work(tmp_path / "work")
    shutil.rmtree(work / "tune")
    with pytest.raises(StageError, match="treewright tune"):
        run(work, work / "release")


def test_a_tag_that_git_would_not_take_is_refused(assembled: Path, tmp_path: Path) -> None:
    for tag in ("../x", "a b", "-x", "v1.lock", "a..b", ""):
        with pytest.raises(RefusedError, match="not a tag"):
            run(assembled, tmp_path / "release", ReleaseSettings(tag=tag))


def test_hostile_text_stays_text_in_every_card_and_note(tmp_path: Path) -> None:
    from markdown_it import MarkdownIt

    work = build_work(tmp_path / "work", hostile=HOSTILE)
    run(work, work / "release", ReleaseSettings(repository="acme/taxonomy"))
    for name in ("model/README.md", "dataset/README.md", "notes.md"):
        content = (work / "release" / name).read_text()
        if name.endswith("README.md"):
            _, matter, content = content.split("---\n", 2)
            assert isinstance(yaml.safe_load(matter), dict)
        html = MarkdownIt("commonmark", {"html": True}).enable("table").render(content)
        assert "<script" not in html
        assert "<h1>Title</h1>" not in html
        if name != "notes.md":
            assert "alert(1)" in html


def _edit(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        path = folder / name
        content = change(path.read_bytes())
        path.unlink()
        path.write_bytes(content)

    return do


def _relock(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        lock = json.loads((folder / LOCK).read_text())
        change(lock)
        for name in (LOCK, f"model/{LOCK}", f"dataset/{LOCK}"):
            write_json(folder / name, lock)

    return do


def _link(folder: Path) -> None:
    (folder / "notes.md").unlink()
    (folder / "notes.md").symlink_to("/etc/passwd")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (_edit("model/model.safetensors", lambda data: data[:-1] + b"x"), "other content"),
        (_edit("dataset/data/train.jsonl", lambda data: data + b"{}\n"), "other content"),
        (_edit("notes.md", lambda data: b"x" * 200_000), "larger than"),
        (_edit(f"model/{LOCK}", lambda data: b"{}"), "differs from"),
        (_edit(LOCK, lambda data: b"[" * 100_000), "release.lock.json"),
        (lambda folder: (folder / "model" / "extra.bin").write_bytes(b"x"), "not in the lock"),
        (lambda folder: (folder / "model" / "config.json").unlink(), "missing"),
        (lambda folder: (folder / "report.json").unlink(), "missing"),
        (_link, "not a regular file"),
        (_relock(lambda lock: lock["content"]["taxonomy"].update(head="0" * 40)), "its digest is not"),
        (_relock(lambda lock: lock["content"]["verdict"].update(outcome="fail")), "verdict"),
        (_relock(lambda lock: lock.update(tag="../x")), "tag"),
        (_relock(lambda lock: lock.update(tag="v2")), "another release"),
    ],
)
def test_a_release_that_is_not_as_its_lock_says_is_not_published(
    assembled: Path, tmp_path: Path, damage: Callable[[Path], None], told: str
) -> None:
    folder = tmp_path / "release"
    shutil.copytree(assembled / "release", folder)
    damage(folder)
    assert told in "; ".join(problems_of(folder))


def test_weights_must_be_safetensors_and_must_be_the_tuned_ones(assembled: Path, tmp_path: Path) -> None:
    folder = tmp_path / "release"
    shutil.copytree(assembled / "release", folder)
    (folder / "model" / "model.safetensors").write_bytes(b"\x80\x04pickle" * 100)

    def relist(lock: dict[str, Any]) -> None:
        for row in lock["files"]:
            path = folder / row["path"]
            row.update(digest=file_digest(path), bytes=path.stat().st_size)

    _relock(relist)(folder)
    assert problems_of(folder) == ["model/model.safetensors is not what was tuned and measured"]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("dataset/acme-data.py", b"import os", "acme-data.py does not belong into the data set repository"),
        ("dataset/data/rejections.jsonl", b"[" * 100_000 + b"\n", "dataset/data/rejections.jsonl: "),
    ],
)
def test_a_lock_that_lists_what_nobody_should_load_does_not_make_it_fit(
    assembled: Path, tmp_path: Path, name: str, content: bytes, told: str
) -> None:
    folder = tmp_path / "release"
    shutil.copytree(assembled / "release", folder)
    (folder / name).unlink(missing_ok=True)
    (folder / name).write_bytes(content)
    row = {"path": name, "digest": file_digest(folder / name), "bytes": len(content)}
    _relock(lambda lock: lock.update(files=[r for r in lock["files"] if r["path"] != name] + [row]))(folder)
    (problem,) = problems_of(folder)
    assert told in problem


@pytest.mark.parametrize(("name", "known"), [("acme/base", True), ("gpt2", True), ("base:8b", False)])
def test_a_student_that_the_hub_cannot_know_is_not_named_as_a_base_model(
    tmp_path: Path, name: str, known: bool
) -> None:
    facts = release_facts(collect(build_work(tmp_path / "work")), "v1", "acme/taxonomy", "https://x")
    metadata = yaml.safe_load(model_metadata(replace(facts, student=replace(facts.student, id=name))))
    assert metadata.get("base_model") == (name if known else None)
    assert ("base_model_relation" in metadata) is known


def test_the_schemas_refuse_a_release_without_a_pass() -> None:
    assert problems("report", {"tag": "v1"})
    assert problems("release_lock", {"version": 2})
