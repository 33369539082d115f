"""Judge, retrieval, MT-Bench and a public benchmark in one run of the stage, up to the gate's verdict."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import benchmark_world as world
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
pytest.importorskip("torch")

from gpu_runner import gate
from gpu_runner.benchmark import benchmark, contributed, retrieval, staging
from gpu_runner.benchmark.judging import RUBRICS
from gpu_runner.benchmark.model import BenchmarkError
from gpu_runner.benchmark.parts import Part, Session, Sources
from gpu_runner.benchmark.results import Answers, Item
from gpu_runner.benchmark.scoring import Scored, words
from lab.config import BenchmarkSettings
from lab.contracts import problems, read_json, read_lines, write_lines
from treewright.commands.benchmark import _table

EXAMPLE = Path(__file__).parents[2] / "examples" / "mt_bench"
CONFIG: Mapping[str, Any] = {
    "benchmark": {
        "standard": ["winogrande"],
        "limit": 3,
        "judge": True,
        "retrieval": True,
        "mt_bench": {"enabled": True, "repeats": 2, "max_tokens": 3},
    },
    "gate": {"margins": {"mt_bench": 0.03, "winogrande": 0.02}, "parse_failure_limit": 1.0},
}
CHUNKS = [
    {"leaf": world.LEAF, "heading": "Colours", "text": f"Fact {index} is green, as everybody knows."}
    for index in range(4)
]


def knowing(text: str) -> str:
    """Marks its own cases as they are, everything else by the length of the answer; likes the first place."""
    for rubric in RUBRICS.values():
        for case in rubric.probes:
            if f"[Answer to grade]\n{case.answer}\n[end]" in text:
                return f"As it is.\nMark: {case.mark}"
    if "[Answer to grade]" in text:
        return f"Mark: {'right' if len(text) % 2 else 'wrong'}"
    return "[[A]]" if "assistant A" in text else f"[[{1 + len(text) % 10}]]"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("models")
    return world.tiny(root / "base", seed=0), world.tiny(root / "other", seed=1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    list(world.files("winogrande", root / "copy"))
    staging.stage(f"winogrande@{world.COMMIT}", root / "data", root / "copy")
    shutil.copytree(EXAMPLE, root / "data" / "mt_bench")
    return root / "data"


def test_everything_that_a_repository_may_ask_for_reaches_the_report_and_the_gate(
    tmp_path: Path, models: tuple[Path, Path], data: Path
) -> None:
    items = [world.held_out(index) for index in range(3)]
    work = world.work_folder(tmp_path / "work", models[1], items, config=CONFIG, chunks=CHUNKS)
    write_lines(work / "generate" / "samples.jsonl", [])
    asked: list[str] = []
    said: list[str] = []
    with world.endpoint_of(knowing, asked) as endpoint:
        env = {"TREEWRIGHT_JUDGE_URL": endpoint.url, "TREEWRIGHT_JUDGE_MODEL": "rule"}
        benchmark.run(work, models[0], tmp_path / "cache", env=env, data=data)
        questions = len(asked)
        shutil.rmtree(work / "benchmark")
        benchmark.run(work, models[0], tmp_path / "cache", said.append, env=env, data=data)
    assert len(asked) == questions  # every judgement was kept
    before = said[1 : said.index(said[0].replace("base", "candidate"))]
    assert len(before) == 6
    assert all(line.endswith("kept from an earlier run") for line in before)
    report = read_json(work / "benchmark" / "benchmark.json", "benchmark")
    assert problems("benchmark", report) == []
    assert [(entry["name"], entry["metric"], entry["items"]) for entry in report["sets"][:3]] == [
        ("general", "choice", 3),
        ("winogrande", "accuracy", 3),
        ("mt_bench", "mt_bench", 8),
    ]
    leaf = {entry["metric"]: entry["items"] for entry in report["sets"] if entry["kind"] == "leaf"}
    assert leaf == {
        "choice": 3,
        "short_answer": 3,
        "judged": 3,
        "choice_with_retrieval": 3,
        "short_answer_with_retrieval": 3,
    }
    assert report["judge"] == {"right": 2, "asked": 2}
    assert report["environment"]["standard"]["winogrande"]["revision"] == world.COMMIT
    found = report["mt_bench"]
    assert (found["questions"], found["repeats"], found["prompts"]) == (8, 2, "own")
    assert (found["base"]["judged"], found["base"]["unread"]) == (32, 0)
    assert found["pairwise"]["inconsistent"] + found["pairwise"]["tie"] == 16
    assert len(found["base"]["categories"]) == 8
    shown = list(read_lines(work / "benchmark" / "mt_bench.jsonl"))
    assert {row["model"] for row in shown} == {"base", "candidate", "both"}
    mean = next(entry for entry in report["sets"] if entry["name"] == "mt_bench")["base"]
    assert mean == pytest.approx(found["base"]["mean"] / 10, abs=1e-4)
    _, asked_for = gate.run(work)
    # Random weights may get all of three questions wrong, which is the one error that may be told here.
    assert [line for line in asked_for.errors if not line.startswith("Both models got every item")] == []
    verdict = gate.decide(list(read_lines(work / "benchmark" / "items.jsonl")), asked_for.policy)
    assert {(test.name, test.threshold) for test in verdict.tests if test.kind == "no_regression"} == {
        ("general", -0.1),
        ("winogrande", -0.02),
        ("mt_bench", -0.03),
    }
    gains = [test.metric for test in verdict.tests if test.kind == "gain"]
    assert gains == ["choice", "short_answer", "judged"]
    assert "with_retrieval" in "".join(entry.metric for entry in verdict.shown)
    assert _table(report).row_count == len(report["sets"])


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"judge": True}, "benchmark.judge: No endpoint for the judge: set TREEWRIGHT_JUDGE_URL"),
        ({"mt_bench": {"enabled": True}}, "benchmark.mt_bench needs staged questions"),
        ({"standard": ["gsm8k"]}, "treewright stage-benchmarks gsm8k --data DIR"),
    ],
)
def test_what_is_missing_is_told_before_a_model_is_loaded(
    tmp_path: Path, models: tuple[Path, Path], config: Mapping[str, Any], told: str
) -> None:
    work = world.work_folder(tmp_path / "work", models[1], [world.held_out(0)], config={"benchmark": config})
    with pytest.raises(BenchmarkError) as error:
        benchmark.run(work, models[0], tmp_path / "cache", env={})
    assert told in str(error.value)


def test_a_changed_item_or_judge_is_asked_again_and_nothing_else(
    tmp_path: Path, models: tuple[Path, Path]
) -> None:
    config = {"benchmark": {"judge": True}}
    said: list[str] = []
    with world.endpoint_of(knowing) as endpoint:
        env = {"TREEWRIGHT_JUDGE_URL": endpoint.url, "TREEWRIGHT_JUDGE_MODEL": "one"}
        for number, changed in enumerate([{}, {"TREEWRIGHT_JUDGE_MODEL": "two"}]):
            work = world.work_folder(tmp_path / str(number), models[1], [world.held_out(0)], config=config)
            benchmark.run(work, models[0], tmp_path / "cache", said.append, env={**env, **changed})
    assert said[said.index("base: 3 general and 1 held-out items", 1) + 1 :][:3] == [
        "  general questions: kept from an earlier run",
        "  held-out questions: kept from an earlier run",
        "  held-out questions, graded by the judge",
    ]


# ---- retrieval


def test_written_answers_are_kept_apart_by_all_that_makes_them(tmp_path: Path) -> None:
    sources = Sources(BenchmarkSettings(), (), {}, (), {}, {}, (), None)
    names = []

    def ask(session: Session, _: Path) -> Answers:
        names.append(session.digest)
        return Answers((), {}, "")

    settings = {"code": "a", "device": "cpu", "dtype": "float32"}
    for number, other in enumerate(({}, {}, {"code": "b"}, {"device": "cuda"}, {"dtype": "bfloat16"})):
        runs = benchmark._Runs(sources, None, {**settings, **other}, tmp_path, tmp_path, print)
        runs.measure(tmp_path, "model", tmp_path, [Part("one", "One", str(number), ask)])
    assert (names[0] == names[1], len(set(names))) == (True, 4)


def test_a_mark_that_could_not_be_read_is_asked_for_again_and_not_kept(tmp_path: Path) -> None:
    sources = Sources(BenchmarkSettings(), (), {}, (), {}, {}, (), None)
    settings = {"code": "a", "device": "cpu", "dtype": "float32"}
    runs = benchmark._Runs(sources, None, settings, tmp_path, tmp_path, print)
    marks = iter((Scored(0.0, "no answer", readable=False), Scored(1.0, "Mark: right")))
    item = Item("one", world.LEAF, world.LEAF, "Who?", "I.", "one")
    part = Part(
        "judged", "Judged", "x", lambda *_: Answers((item,), {"judged": {"one": next(marks)}}, ""), True
    )
    scores = [
        runs.measure(tmp_path, "model", tmp_path, [part])["judged"].scores["judged"]["one"].score
        for _ in range(3)
    ]
    assert scores == [0.0, 1.0, 1.0]


def test_the_passage_with_the_rare_words_of_the_question_comes_first() -> None:
    texts = [
        "The island has a lighthouse and a harbour. The lighthouse stands on the northern cape.",
        "Isolde Varrin built the lighthouse in 1804.",
        "The harbour was built later.",
        "Of the the of.",
    ]
    passages = [contributed.Passage("", text) for text in texts]
    assert retrieval.best("Who built the lighthouse?", passages, 1) == [passages[1]]
    assert retrieval.best("Quetzal?", passages) == []
    assert retrieval.prompt("Quetzal?", []) == "Quetzal?"
    assert retrieval.prompt("Who?", [passages[2]]).endswith("The harbour was built later.\n\nQuestion: Who?")


def test_bm25_is_the_published_formula() -> None:
    texts = ["ash ash birch", "ash cedar", "cedar"]
    (first, second) = retrieval.rank("ash", texts)
    usual, weight = 2.0, 0.470003629  # ln(1 + (3 - 2 + 0.5) / (2 + 0.5))
    by_hand = [
        weight * count * 2.2 / (count + 1.2 * (0.25 + 0.75 * length / usual))
        for count, length in ((2, 3), (1, 2))
    ]
    assert [first, second] == [pytest.approx((by_hand[0], 0)), pytest.approx((by_hand[1], 1))]


@settings(deadline=None)
@given(st.text(max_size=60), st.lists(st.text(max_size=60), max_size=5))
def test_only_texts_that_share_a_word_are_ranked(question: str, texts: list[str]) -> None:
    found = retrieval.rank(question, texts)
    sharing = [n for n, text in enumerate(texts) if set(words(question)) & set(words(text))]
    assert sorted(index for _, index in found) == sharing
    assert all(score > 0 for score, _ in found)
