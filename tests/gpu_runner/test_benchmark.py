"""The benchmark stage over tiny random Llamas, and once over the embedded small model."""

from __future__ import annotations

import json
import os
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
from benchmark_world import GENERAL, LEAF, held_out, tiny, work_folder

from lab.contracts import problems, read_json, read_lines, schema, write_json

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
pytest.importorskip("torch")

from gpu_runner.benchmark import benchmark
from gpu_runner.benchmark.general import ChoiceItem, choose, general_items
from gpu_runner.benchmark.model import BenchmarkError, LoadedModel, answer_all, load
from gpu_runner.stage import execute


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny(tmp_path_factory.mktemp("base") / "tiny", seed=0)


@pytest.fixture(scope="module")
def loaded(base: Path) -> LoadedModel:
    return load(base)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a benchmark reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_base_and_candidate_are_measured_item_by_item(tmp_path: Path, base: Path) -> None:
    few = held_out(2)
    unchanged = held_out(3, leaf="knowledge/old/leaf")
    items = [held_out(0), held_out(1, context="A text.\n{{ 7 }}"), few, unchanged]
    work = work_folder(tmp_path / "work", tiny(tmp_path / "other", seed=1), items)
    benchmark.run(work, base, tmp_path / "cache")
    report = read_json(work / "benchmark" / "benchmark.json", "benchmark")
    rows = list(read_lines(work / "benchmark" / "items.jsonl"))
    counted = [(entry["name"], entry["kind"], entry["metric"], entry["items"]) for entry in report["sets"]]
    assert counted == [
        ("general", "general", "choice", 3),
        (LEAF, "leaf", "choice", 3),
        (LEAF, "leaf", "short_answer", 3),
        ("changed leaves", "pooled", "choice", 3),
        ("changed leaves", "pooled", "short_answer", 3),
    ]
    assert {row["cluster"] for row in rows if row["leaf"]} == {f"{LEAF}#0", f"{LEAF}#1"}
    assert all(
        row["base_text"] in item["choices"] for item in GENERAL for row in rows if row["id"] == item["id"]
    )
    assert any(row["base_text"] != row["candidate_text"] for row in rows)
    prompts = report["environment"]["prompts"]
    assert prompts["general"]["base"] == prompts["general"]["candidate"] != prompts["contributed"]["base"]
    assert report["environment"]["harness"] == "lm-eval 0.4.13"
    assert problems("benchmark", report) == []


def test_the_same_weights_give_the_same_scores_and_the_base_is_asked_once(tmp_path: Path, base: Path) -> None:
    work = work_folder(tmp_path / "work", base, [held_out(0), held_out(1)])
    cache, said = tmp_path / "cache", []
    first = benchmark.run(work, base, cache)
    rows = list(read_lines(work / "benchmark" / "items.jsonl"))
    assert all(row["base"] == row["candidate"] and row["base_text"] == row["candidate_text"] for row in rows)
    assert benchmark.run(work, base, cache).reused
    shutil.rmtree(work / "benchmark")
    again = benchmark.run(work, base, cache, progress=said.append)
    assert (again.reused, again.digest) == (False, first.digest)
    assert said[:3] == [
        "base: 3 general and 2 held-out items",
        "  general questions: kept from an earlier run",
        "  held-out questions: kept from an earlier run",
    ]
    assert said[3:] == [
        "candidate: 3 general and 2 held-out items",
        "  general questions",
        "  held-out questions",
    ]


def test_a_new_leaf_asks_the_base_only_what_is_new(tmp_path: Path, base: Path) -> None:
    cache, said = tmp_path / "cache", []
    benchmark.run(work_folder(tmp_path / "one", base, [held_out(0)]), base, cache)
    changed = work_folder(tmp_path / "two", base, [held_out(0), held_out(4)])
    benchmark.run(changed, base, cache, progress=said.append)
    assert said[1:3] == ["  general questions: kept from an earlier run", "  held-out questions"]


def test_a_damaged_cache_is_made_again(tmp_path: Path, base: Path) -> None:
    work = work_folder(tmp_path / "work", base, [held_out(0)])
    first = benchmark.run(work, base, tmp_path / "cache")
    for stored in (tmp_path / "cache" / "benchmarks").glob("*.json"):
        value = json.loads(stored.read_text())
        for scores in value["answers"]["scores"]["choice"].values():
            scores["score"] = 1 - scores["score"]
        stored.write_text(json.dumps(value))
    shutil.rmtree(work / "benchmark")
    assert benchmark.run(work, base, tmp_path / "cache").digest == first.digest


def test_weights_that_are_no_numbers_score_nothing_and_are_counted(tmp_path: Path, base: Path) -> None:
    import torch

    broken = load(base)
    with torch.no_grad():
        broken.weights.get_input_embeddings().weight.fill_(float("nan"))
    scores, _ = choose(broken, general_items(GENERAL), "general", chat=False, folder=tmp_path)
    assert [(score.score, score.readable) for score in scores.values()] == [(0.0, False)] * 3


def test_a_choice_is_the_highest_likelihood_for_its_length(tmp_path: Path, loaded: LoadedModel) -> None:
    import torch

    item = ChoiceItem("one", "Question: Which?\nAnswer:", ("a long answer of words", "no", "maybe so"), 0)
    by_hand = []
    for choice in item.choices:
        prompt = loaded.tokenizer(item.prompt, add_special_tokens=False)["input_ids"]
        whole = loaded.tokenizer(f"{item.prompt} {choice}", add_special_tokens=False)["input_ids"]
        with torch.inference_mode():
            logits = loaded.weights(torch.tensor([whole])).logits[0].log_softmax(-1)
        total = sum(float(logits[at - 1, whole[at]]) for at in range(len(prompt), len(whole)))
        by_hand.append(total / len(choice))
    scores, _ = choose(loaded, [item], "hand", chat=False, folder=tmp_path)
    assert scores["one"].text == item.choices[by_hand.index(max(by_hand))]


def test_an_answer_does_not_depend_on_what_it_is_batched_with(loaded: LoadedModel) -> None:
    prompts = ["Short?", "A much longer question, so that the short ones are padded.", "{{ 1 }}"] * 7
    together = answer_all(loaded, prompts)
    assert together == [answer_all(loaded, [prompt])[0] for prompt in prompts[:3]] * 7


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"id": "n-1"}, "occurs twice"),
        ({"key": 3}, "a key outside its choices"),
        ({"choices": ["a", " ", "c"]}, "an empty choice"),
    ],
)
def test_a_general_item_that_cannot_be_paired_or_scored_is_refused(
    change: dict[str, Any], words: str
) -> None:
    with pytest.raises(BenchmarkError, match=words):
        general_items([GENERAL[0], {**GENERAL[2], **change}])


def test_a_model_without_a_chat_template_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="no chat template"):
        load(tiny(tmp_path / "plain", seed=0, template=None))


def test_a_candidate_is_only_compared_with_the_model_it_was_tuned_from(tmp_path: Path, base: Path) -> None:
    other = tiny(tmp_path / "other", seed=1)
    work = work_folder(tmp_path / "work", other, [held_out(0)])
    shutil.rmtree(work / "tune")

    def tuned(folder: Path) -> None:
        shutil.copytree(other, folder / "model")

    execute("tune", {"student": base}, work / "tune", {}, tuned)
    with pytest.raises(BenchmarkError, match="is not the model that"):
        benchmark.run(work, other, tmp_path / "cache")


def test_a_work_folder_without_a_tuned_model_says_what_to_run(tmp_path: Path, base: Path) -> None:
    write_json(tmp_path / "plan" / "plan.json", schema("plan")["examples"][0])
    with pytest.raises(BenchmarkError, match="run `treewright tune"):
        benchmark.run(tmp_path, base, tmp_path / "cache")


@pytest.mark.model
def test_the_embedded_model_answers_plain_questions_better_than_chance(tmp_path: Path) -> None:
    from gpu_runner.embedded import cache_folder
    from gpu_runner.student import resolve_student

    examples = Path(__file__).parents[2] / "examples" / "taxonomy" / ".treewright" / "general.jsonl"
    items = general_items(list(read_lines(examples))[::5])
    model = load(resolve_student("embedded", cache_folder()))
    scores, _ = choose(model, items, "general", chat=False, folder=tmp_path)
    assert sum(score.score for score in scores.values()) >= len(items) / 2
    answer = answer_all(model, ["What is the capital of France? Answer in one sentence."])[0]
    assert "Paris" in answer
