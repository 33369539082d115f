"""The gate: outcomes over scripted scores, broken runs, contamination, and the command on real folders."""

from __future__ import annotations

import json
import runpy
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from gpu_runner.benchmark.staging import SOURCES
from gpu_runner.contamination import contaminated
from gpu_runner.gate import decide, policy_of
from gpu_runner.statistics import DRAWS
from lab.config import GatePolicy
from lab.contracts import ContractError, digest, problems, schema, write_json, write_lines
from treewright.cli import app

TRUTH = runpy.run_path(str(Path(__file__).parents[2] / "bench" / "gate" / "truth.py"))
LEAF = "knowledge/geography/farne_mora"
POLICY = GatePolicy(general_margin=0.05, leaf_gain=0.0, confidence=0.95, parse_failure_limit=0.1)
ZERO = "sha256:" + "0" * 64


def rows(
    name: str, base: list[int], candidate: list[int], leaf: str | None = None, metric: str = "choice"
) -> list[dict[str, Any]]:
    return [
        {
            "id": digest([name, index]),
            "set": name,
            "leaf": leaf,
            "metric": metric,
            "cluster": f"{name}#{index // 3}" if leaf else str(index),
            "question": f"What is fact number {index} of Farne Mora?" if leaf else f"{name} {index}?",
            "base": before,
            "candidate": after,
        }
        for index, (before, after) in enumerate(zip(base, candidate, strict=True))
    ]


def general(lost: int = 0, items: int = 120) -> list[dict[str, Any]]:
    base = [1] * (items // 2) + [0] * (items - items // 2)
    return rows("general", base, [0] * lost + base[lost:])


def learned(right: int, items: int = 24, metric: str = "choice") -> list[dict[str, Any]]:
    return rows(LEAF, [0] * items, [1] * right + [0] * (items - right), LEAF, metric)


def test_a_model_that_learned_and_forgot_nothing_passes() -> None:
    verdict = decide([*general(), *learned(20)], POLICY)
    assert verdict.outcome == "pass"
    assert {test.result for test in verdict.tests} == {"proven"}
    assert verdict.reason.startswith("changed leaves, picking the answer: 0.0% before, 83.3% after")
    assert problems("verdict", verdict.to_json()) == []


def test_a_model_that_lost_more_than_the_margin_fails_however_much_it_learned() -> None:
    verdict = decide([*general(lost=30), *learned(24)], POLICY)
    assert verdict.outcome == "fail"
    assert "The loss is larger than the margin of 5.0%" in verdict.reason


def test_a_small_loss_that_may_be_beyond_the_margin_is_inconclusive() -> None:
    verdict = decide([*general(lost=4), *learned(24)], POLICY)
    assert verdict.outcome == "inconclusive"
    assert "is not ruled out; more items are needed" in verdict.reason


def test_four_of_four_new_answers_are_too_few_to_pass() -> None:
    verdict = decide([*general(), *learned(4, items=4)], POLICY)
    assert verdict.outcome == "inconclusive"
    assert "more held-out items are needed" in verdict.reason


def test_a_model_that_unlearned_the_leaf_fails() -> None:
    worse = rows(LEAF, [1] * 24, [0] * 20 + [1] * 4, LEAF)
    assert decide([*general(), *worse], POLICY).outcome == "fail"


def test_a_wanted_gain_that_is_clearly_missed_fails() -> None:
    policy = GatePolicy(general_margin=0.05, leaf_gain=0.5, confidence=0.95, parse_failure_limit=0.1)
    verdict = decide([*general(), *learned(2)], policy)
    assert verdict.outcome == "fail"
    assert "There is no gain above 50.0%" in verdict.reason


def test_a_gain_in_writing_alone_is_a_gain() -> None:
    choice = rows(LEAF, [1] * 24, [1] * 24, LEAF)
    verdict = decide([*general(), *choice, *learned(20, metric="short_answer")], POLICY)
    assert verdict.outcome == "pass"
    assert [test.result for test in verdict.tests] == ["proven", "open", "proven"]


def test_without_general_items_nothing_is_shown_about_old_abilities() -> None:
    verdict = decide(learned(24), POLICY)
    assert verdict.outcome == "inconclusive"
    assert "`benchmark.general`" in verdict.reason


def test_without_held_out_items_nothing_is_shown_about_learning() -> None:
    assert decide(general(), POLICY).outcome == "inconclusive"


def test_every_general_benchmark_has_its_own_margin() -> None:
    found = [*rows("mmlu", [1] * 300, [0] * 15 + [1] * 285, metric="accuracy"), *learned(20)]
    strict = GatePolicy(general_margin=0.2, margins={"mmlu": 0.01})
    assert decide(found, GatePolicy(general_margin=0.2)).outcome == "pass"
    verdict = decide(found, strict)
    assert (verdict.outcome, verdict.tests[0].threshold) == ("fail", -0.01)
    assert "mmlu, accuracy: 100.0% before, 95.0% after" in verdict.reason


def test_mt_bench_is_gated_in_tenths_and_judged_marks_can_show_a_gain() -> None:
    broad = rows("mt_bench", [0.6, 0.7, 0.65, 0.5] * 20, [0.6, 0.69, 0.66, 0.5] * 20, metric="mt_bench")
    marks = rows(LEAF, [0.0, 0.5] * 12, [1.0, 0.5, 0.5, 1.0] * 6, LEAF, "judged")
    verdict = decide([*broad, *marks], GatePolicy(margins={"mt_bench": 0.03}))
    assert verdict.outcome == "pass"
    assert [(test.metric, test.result) for test in verdict.tests] == [
        ("mt_bench", "proven"),
        ("judged", "proven"),
    ]
    assert problems("verdict", verdict.to_json()) == []


def test_answers_with_passages_are_shown_and_decide_nothing() -> None:
    found = [*general(), *learned(1), *learned(24, metric="short_answer_with_retrieval")]
    verdict = decide(found, POLICY)
    assert verdict.outcome == "inconclusive"
    assert "short_answer_with_retrieval" in {entry.metric for entry in verdict.shown if entry.leaf}
    assert "short_answer_with_retrieval" not in {test.metric for test in verdict.tests}


def test_items_that_were_seen_decide_nothing_and_the_clean_scores_stand_beside_the_full_ones() -> None:
    found = [*general(), *learned(20)]
    seen = {row["id"] for row in found if row["leaf"] and row["candidate"]}
    verdict = decide(found, POLICY, seen=seen)
    assert verdict.outcome == "inconclusive"
    assert verdict.tests[1].items == 4
    (leaf,) = [entry for entry in verdict.shown if entry.kind == "leaf"]
    assert (leaf.items, leaf.seen, leaf.clean_candidate) == (24, 20, 0.0)


def test_in_no_effect_a_gain_is_proven_in_at_most_five_of_a_hundred_releases() -> None:
    generator = np.random.default_rng(2)
    wrong, runs = 0, 100
    for _ in range(runs):
        scores = [generator.integers(0, 2, size=24).tolist() for _ in range(4)]
        found = [*general(), *rows(LEAF, *scores[:2], LEAF), *rows(LEAF, *scores[2:], LEAF, "short_answer")]
        tests = decide(found, GatePolicy(general_margin=0.1)).tests
        wrong += any(test.kind == "gain" and test.result == "proven" for test in tests)
    assert TRUTH["Rate"](wrong, runs).at_least <= 0.05


def test_the_draws_resolve_the_highest_confidence_that_may_be_asked_for() -> None:
    """Beyond it the lowest draw would stand for a bound that was never drawn."""
    highest = schema("gate_policy")["properties"]["confidence"]["maximum"]
    tests = 1 + len(SOURCES) + 1 + 3  # the repository's own questions, public sets, MT-Bench; three gains
    assert (1 - highest) / tests * (DRAWS + 1) >= 1


def test_more_general_benchmarks_never_make_a_pass_cheaper() -> None:
    one = decide([*general(), *learned(20)], POLICY)
    others = [row for n in range(4) for row in rows(f"set-{n}", [1] * 60, [1] * 57 + [0] * 3)]
    many = decide([*general(), *others, *learned(20)], POLICY)
    assert many.tests[0].low <= one.tests[0].low
    assert many.outcome != "pass"


scores = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=30)


@settings(max_examples=30, deadline=None)
@given(scores, scores)
def test_every_verdict_fits_its_schema_and_a_pass_has_every_proof(
    broad: list[tuple[int, int]], narrow: list[tuple[int, int]]
) -> None:
    found = [
        *rows("general", [b for b, _ in broad], [c for _, c in broad]),
        *rows(LEAF, [b for b, _ in narrow], [c for _, c in narrow], LEAF),
    ]
    verdict = decide(found, POLICY)
    assert problems("verdict", verdict.to_json()) == []
    if verdict.outcome == "pass":
        assert all(test.low > test.threshold for test in verdict.tests)
    if verdict.outcome == "fail":
        assert any(test.high < test.threshold for test in verdict.tests)


# ---- training rows that hold the questions


def sample(user: str, assistant: str = "An answer.", **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
    return {"id": "s1", "messages": messages, "question": user, "answer": assistant, "context": None, **more}


LONG = "Which builder of the old lighthouse on the northern cape had also drawn the first map of the island?"


@pytest.mark.parametrize(
    ("question", "row", "how"),
    [
        ("What is the capital?", sample("what is  the CAPITAL"), "the same question"),
        ("What is the capital?", sample("A text about it.\n\nWhat is the capital?"), "the same question"),
        (LONG, sample("Tell me.", f"You asked: {LONG.lower()}"), "13 words in a row"),
        (LONG, sample("Tell me.", context=LONG), "13 words in a row"),
    ],
)
def test_a_question_in_the_training_rows_is_found(question: str, row: Mapping[str, Any], how: str) -> None:
    assert [(hit.item, hit.how) for hit in contaminated([("q", question)], [row])] == [("q", how)]


def test_every_item_about_a_context_that_was_seen_is_found() -> None:
    row = sample(f"Read this and answer. {LONG} Who?")
    assert [hit.item for hit in contaminated([("q", LONG), ("r", LONG), ("s", "Who?")], [row])] == ["q", "r"]


def test_another_wording_and_the_answer_itself_are_no_contamination() -> None:
    rows_ = [sample("Name the capital of the island.", "What is the capital? It is Pellagrove.")]
    assert contaminated([("q", "What is the capital?"), ("r", LONG)], rows_) == []
    nine_words = "भारत की राजधानी नई दिल्ली है और बहुत पुरानी"
    assert contaminated([("q", f"{nine_words}?")], [sample(f"{nine_words}, हाँ?")]) == []


@settings(deadline=None)
@given(st.lists(st.text(max_size=40), max_size=5), st.text(max_size=80))
def test_hostile_text_never_breaks_the_search(items: list[str], text: str) -> None:
    contaminated([(str(n), item) for n, item in enumerate(items)], [sample(text, text, context=text)])


# ---- the command, over a work folder


def work_folder(
    root: Path,
    found: list[dict[str, Any]],
    samples: list[dict[str, Any]] | None = None,
    failures: int = 0,
    prompts: tuple[str, str] = (ZERO, ZERO),
    gate: Mapping[str, Any] | None = None,
) -> Path:
    leaf = {
        "path": LEAF,
        "slug": LEAF.replace("/", "--"),
        "kind": "knowledge",
        "changed": True,
        "change": "added",
        "digest": ZERO,
        "created_by": "someone",
        "task_description": "",
        "domain": "Geography",
        "few_shot": [],
        "heldout": 24,
        "chunks": 0,
        "documents": [],
        "rows": 1,
        "pull_requests": [2],
    }
    config = {"gate": asdict(POLICY) if gate is None else gate}
    plan = {**schema("plan")["examples"][0], "leaves": [leaf], "config": config}
    write_json(root / "plan" / "plan.json", plan)
    held_out = [
        {
            "id": digest([LEAF, index]),
            "leaf": LEAF,
            "question": f"What is fact number {index} of Farne Mora?",
            "answer": "A fact.",
            "choices": ["A fact.", "b", "c", "d"],
            "key": 0,
            "context": None,
            "seed": index // 3,
        }
        for index in range(24)
    ]
    write_lines(root / "plan" / "heldout.jsonl", held_out)
    broad = [
        {
            "id": digest(["general", n]),
            "question": f"General {n}?",
            "choices": list("abcd"),
            "key": 0,
            "topic": "t",
        }
        for n in range(120)
    ]
    write_lines(root / "plan" / "general.jsonl", broad)
    write_lines(root / "generate" / "samples.jsonl", samples or [sample("Something else?")])
    write_lines(root / "benchmark" / "items.jsonl", found)
    sets = []
    for name, kind, metric in (
        ("general", "general", "choice"),
        (LEAF, "leaf", "choice"),
        (LEAF, "leaf", "short_answer"),
    ):
        chosen = [row for row in found if (row["set"], row["metric"]) == (name, metric)]
        if chosen:
            shares = {who: sum(row[who] for row in chosen) / len(chosen) for who in ("base", "candidate")}
            counted = {"base": 0, "candidate": failures if kind == "leaf" else 0}
            sets.append(
                {
                    "name": name,
                    "kind": kind,
                    "leaf": LEAF if kind == "leaf" else None,
                    "metric": metric,
                    "items": len(chosen),
                    **shares,
                    "parse_failures": counted,
                }
            )
    environment = {
        **schema("benchmark")["examples"][0]["environment"],
        "prompts": {"general": {"base": prompts[0], "candidate": prompts[1]}},
    }
    write_json(root / "benchmark" / "benchmark.json", {"sets": sets, "environment": environment})
    return root


def both(right: int = 20) -> list[dict[str, Any]]:
    return [*learned(right), *learned(right, metric="short_answer")]


def ask(work: Path) -> tuple[int, dict[str, Any], str]:
    result = CliRunner().invoke(app, ["gate", "--work", str(work)])
    verdict = json.loads((work / "gate" / "verdict.json").read_text()) if (work / "gate").exists() else {}
    return result.exit_code, verdict, result.output


def test_the_command_exits_0_for_a_pass_and_writes_the_jobs_summary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    code, verdict, output = ask(work_folder(tmp_path / "work", [*general(), *both()]))
    assert (code, verdict["outcome"]) == (0, "pass")
    assert "The release passes." in output
    assert summary.read_text().startswith("## Gate: pass\n\nThe release passes.\n\n| test | items |")
    assert {entry["kind"] for entry in verdict["sets"]} == {"general", "leaf", "pooled"}


def test_the_command_exits_1_for_an_inconclusive_run(tmp_path: Path) -> None:
    code, verdict, _ = ask(work_folder(tmp_path, [*general(), *both(1)]))
    assert (code, verdict["outcome"]) == (1, "inconclusive")


def test_nothing_runs_again_until_something_changes(tmp_path: Path) -> None:
    work = work_folder(tmp_path, [*general(), *both()])
    ask(work)
    written = (work / "gate" / "manifest.json").stat().st_mtime_ns
    assert ask(work)[0] == 0
    assert (work / "gate" / "manifest.json").stat().st_mtime_ns == written


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: {"found": [*general(), *both()[1:]]}, "1 items of the plan were not measured"),
        (lambda: {"found": [*general(), *both(), both()[0]]}, "An item was counted twice"),
        (lambda: {"found": [*general(), *both()], "failures": 9}, "could not be scored; the limit is 10%"),
        (
            lambda: {"found": [*rows("general", [0] * 120, [0] * 120), *both()]},
            "Both models got every item of general wrong",
        ),
        (
            lambda: {"found": [*general(), *both()], "prompts": (ZERO, "sha256:" + "1" * 64)},
            "different prompts",
        ),
        (
            lambda: {
                "found": [*general(), *both()],
                "samples": [sample("What is fact number 3 of Farne Mora?")],
            },
            "1 of 24 held-out questions are in the training rows",
        ),
        (
            lambda: {"found": [*general(), *both()], "samples": [sample("general 7")]},
            "1 of 120 questions of general are in the training rows",
        ),
    ],
)
def test_a_broken_run_is_an_error_and_not_a_score(tmp_path: Path, make: Any, error: str) -> None:
    code, verdict, output = ask(work_folder(tmp_path, **make()))
    assert (code, verdict["outcome"], verdict["tests"]) == (1, "error", [])
    assert error in verdict["reason"]
    assert "no score is drawn from it" in output


def test_scores_that_do_not_follow_from_the_items_are_refused(tmp_path: Path) -> None:
    work = work_folder(tmp_path, [*general(), *both(2)])
    report = json.loads((work / "benchmark" / "benchmark.json").read_text())
    report["sets"][1]["candidate"] = 1.0
    write_json(work / "benchmark" / "benchmark.json", report)
    assert "benchmark.json and items.jsonl disagree" in ask(work)[1]["reason"]


def test_a_policy_with_an_unknown_key_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    work = work_folder(tmp_path, [*general(), *both()], gate={"general_margins": 0.5})
    code, verdict, _ = ask(work)
    assert (code, verdict) == (2, {})
    with pytest.raises(ContractError, match="general_margins"):
        policy_of({"config": {"gate": {"general_margins": 0.5}}})


def test_a_margin_for_a_benchmark_that_is_not_asked_is_refused(tmp_path: Path) -> None:
    gate = {**asdict(POLICY), "margins": {"mmlu": 0.01}}
    code, verdict, output = ask(work_folder(tmp_path, [*general(), *both()], gate=gate))
    assert (code, verdict) == (2, {})
    assert "names mmlu, which `benchmark` does not ask" in " ".join(output.split())


def test_up_to_the_limit_seen_questions_are_left_out(tmp_path: Path) -> None:
    gate = {**asdict(POLICY), "contamination_limit": 0.05}
    rows_ = [sample("What is fact number 3 of Farne Mora?"), sample("general 7")]
    code, verdict, _ = ask(work_folder(tmp_path, [*general(), *both()], samples=rows_, gate=gate))
    assert (code, verdict["outcome"]) == (0, "pass")
    assert [test["items"] for test in verdict["tests"]] == [119, 23, 23]
    assert {entry["seen"] for entry in verdict["sets"]} == {1}


def test_a_set_that_was_seen_whole_is_never_just_left_out(tmp_path: Path) -> None:
    gate = {**asdict(POLICY), "contamination_limit": 1.0}
    samples = [sample(row["question"]) for row in general()]
    code, verdict, _ = ask(work_folder(tmp_path, [*general(), *both()], samples=samples, gate=gate))
    assert (code, verdict["outcome"]) == (1, "error")
    assert "120 of 120 questions of general are in the training rows" in verdict["reason"]


def test_a_judge_that_cannot_tell_right_from_wrong_breaks_the_run(tmp_path: Path) -> None:
    work = work_folder(tmp_path, [*general(), *both()])
    report = json.loads((work / "benchmark" / "benchmark.json").read_text())
    write_json(work / "benchmark" / "benchmark.json", {**report, "judge": {"right": 1, "asked": 2}})
    _, verdict, _ = ask(work)
    assert verdict["outcome"] == "error"
    assert "The judge marked 1 of 2 answers wrongly" in verdict["reason"]


def test_a_public_benchmark_that_was_asked_for_and_not_measured_breaks_the_run(tmp_path: Path) -> None:
    work = work_folder(tmp_path, [*general(), *both()])
    plan = json.loads((work / "plan" / "plan.json").read_text())
    plan["config"]["benchmark"] = {"standard": ["mmlu"], "mt_bench": {"enabled": True}}
    write_json(work / "plan" / "plan.json", plan)
    _, verdict, _ = ask(work)
    assert [line.split()[0] for line in verdict["errors"]] == ["mmlu", "mt_bench"]


def test_a_missing_stage_is_named(tmp_path: Path) -> None:
    write_json(
        tmp_path / "plan" / "plan.json", {**schema("plan")["examples"][0], "config": {"gate": asdict(POLICY)}}
    )
    code, _, output = ask(tmp_path)
    assert code == 2
    assert "treewright generate" in output.replace("\n", " ")


@pytest.mark.parametrize("command", [["gate"], ["benchmark", "--student", "embedded"]])
def test_brackets_of_a_message_are_text_and_not_markup(tmp_path: Path, command: list[str]) -> None:
    folder = tmp_path / "[red] [" / "]"
    result = CliRunner().invoke(app, [*command, "--work", str(folder)])
    assert result.exit_code == 2
    assert f"{command[0]}: " in result.output
    assert str(folder) in result.output
