"""The LAB flows, all of their cells, with a teacher and a judge that answer by rule over real HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import subprocess
import sys
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lab.config import RepositoryConfig, SynthesisSettings
from lab.contracts import problems
from lab.synthesis.engine import Engine
from lab.synthesis.flow import load_flow
from lab.synthesis.heldout import split
from lab.synthesis.items import Task
from lab.synthesis.leaf import LeafResult, make_task, synthesize
from lab.synthesis.preview import Preview, preview
from lab.synthesis.units import CREATIVE, PRECISE, persona, units
from lab.taxonomy.benchmarks import Items as Benchmark
from tests.lab.synthesis.helpers import Model, Rule, asked, model
from tests.lab.synthesis.scholar import pairs_of, part, scholar, verdict
from tests.lab.synthesis.test_flows import FAST, island, island_chunks, skill

FREEFORM = "compositional_skills/writing/plain_words"
GROUNDED = "compositional_skills/grounded/extraction/shopping_lists"
COUNTING = "foundational_skills/arithmetic/counting_change"


def island_task(rows: int = 12, **changes: Any) -> Task:
    task = make_task(island(), split(island(), 0.5, 42), island_chunks(), rows, commit="c")
    return Task(**{**vars(task), **changes})


def skill_task(path: str, rows: int = 6) -> Task:
    leaf = skill(path)
    return make_task(leaf, split(leaf, 0.5, 42), (), rows)


def run(task: Task, store: Path, rule: Rule = scholar, judge: Rule | None = None) -> tuple[LeafResult, Model]:
    async def inner() -> tuple[LeafResult, Model]:
        async with (
            model(rule) as teacher,
            model(judge or rule) as other,
            Engine(store, settings=FAST) as engine,
        ):
            endpoints = {**teacher.endpoints(), "judge": other.endpoints()["judge"]}
            result = await synthesize(task, engine, endpoints, flow=load_flow(task.kind, "lab"))
            teacher.asked += other.asked
            return result, teacher

    return asyncio.run(inner())


def generated(result: LeafResult, dataset: str) -> list[dict[str, Any]]:
    return [one for one in result.samples if one["dataset"] == dataset and one["lineage"]["flow"] != "seed"]


def test_knowledge_becomes_short_rows_long_rows_rows_among_distractors_and_auxiliary_tasks(
    tmp_path: Path,
) -> None:
    task = island_task()
    result, _ = run(task, tmp_path / "s")
    assert [one for sample in result.samples for one in problems("sample", sample)] == []
    short, long = generated(result, "knowledge_short"), generated(result, "knowledge_long")
    assert result.delivered == 12 == len(short)
    assert result.why is None
    closed = [one for one in long if one["context"] is None]
    among = [one for one in long if one["context"] and one["context"].startswith("Document:\n")]
    auxiliary = [one for one in long if one["context"] and not one["context"].startswith("Document:\n")]
    assert len(closed) == len(among) == 12
    assert auxiliary
    assert {one["question"] for one in closed} == {one["question"] for one in short}
    passages = {piece.text for piece in task.passages}
    for one in auxiliary:
        assert one["context"] in passages
        assert "document" in one["question"].lower()
    for one in short:
        checks = [grade["check"] for grade in one["grades"]]
        assert [name for name in checks if name.startswith("judge:")][:3] == [
            "judge:faithful",
            "judge:relevant",
            "judge:alone",
        ]
    assert len({one["id"] for one in result.samples}) == len(result.samples)


def test_a_row_among_distractors_has_its_own_chunk_in_some_and_strangers_in_all(tmp_path: Path) -> None:
    pieces = island_chunks()
    task = island_task(rows=12, passages=pieces[:2], strangers=tuple(pieces[2:]))
    own, others = {one.text for one in pieces[:2]}, {one.text for one in pieces[2:]}
    first, _ = run(task, tmp_path / "a")
    second, _ = run(task, tmp_path / "b")
    assert first.samples == second.samples
    golden = 0
    rows = [one for one in generated(first, "knowledge_long") if "Document:\n" in (one["context"] or "")]
    by_chunk = {piece.id: piece.text for piece in pieces}
    for one in rows:
        shown = [text.strip() for text in one["context"].split("Document:\n")[1:]]
        assert len(shown) == len(set(shown)) >= 3
        assert set(shown) & {text.strip() for text in others}
        assert set(shown) <= {text.strip() for text in own | others}
        golden += by_chunk[one["lineage"]["chunk"]].strip() in shown
    assert 0 < golden < len(rows)


@pytest.mark.parametrize(
    ("path", "dataset"), [(FREEFORM, "skill"), (GROUNDED, "skill"), (COUNTING, "foundational")]
)
def test_skills_are_asked_for_in_samples_of_one_request_and_judged_twice(
    tmp_path: Path, path: str, dataset: str
) -> None:
    result, found = run(skill_task(path), tmp_path / "s")
    rows = generated(result, dataset)
    assert rows
    assert {body["n"] for body in found.asked if "n" in body} <= {2, 3}
    assert any("n" in body for body in found.asked)
    for one in rows:
        assert problems("sample", one) == []
        checks = [grade["check"] for grade in one["grades"]]
        assert [name for name in checks if "judge" in name] == ["judge:instruction", "judge:pair"]
        assert (one["context"] is not None) == (path == GROUNDED)
        assert one["lineage"]["seed"] is not None


def test_a_server_without_several_samples_is_asked_for_the_others_one_by_one(tmp_path: Path) -> None:
    def single(body: dict[str, Any]) -> str | int | list[str]:
        said = scholar(body)
        return said[:1] if isinstance(said, list) else said

    task = skill_task(FREEFORM, rows=3)
    result, found = run(task, tmp_path / "s", single)
    drafts = [body for body in found.asked if part(body) == "instruction"]
    assert len(drafts) >= 6
    assert len({json.dumps(body, sort_keys=True) for body in drafts}) == len(drafts)
    assert result.delivered == 3


def test_the_judge_is_another_endpoint_than_the_teacher(tmp_path: Path) -> None:
    seen: dict[str, set[str]] = {"teacher": set(), "judge": set()}

    def teacher(body: dict[str, Any]) -> str | int | list[str]:
        seen["teacher"].add(part(body))
        return scholar(body)

    def judge(body: dict[str, Any]) -> str | int | list[str]:
        seen["judge"].add(part(body))
        return scholar(body)

    run(island_task(4), tmp_path / "s", teacher, judge)
    assert seen["judge"] == {"faithful", "relevant", "alone"}
    assert seen["teacher"] == {"summary", "facts", "extract", "pairs", "long"}


def test_a_pair_without_an_answer_is_lost_alone_after_one_more_try_with_the_error_told(
    tmp_path: Path,
) -> None:
    def forgets(body: dict[str, Any]) -> str | int | list[str]:
        if part(body) != "pairs":
            return scholar(body)
        told = body["messages"][-1]["content"]
        if told.startswith("That could not be read."):
            assert "missing-answer" in told
            return json.dumps({"pairs": []})
        document = told.split("Document:\n")[-1].split("\n\nWrite")[0]
        found: list[dict[str, str]] = [*pairs_of(document), {}, {}]
        first, second, rest = found[0], found[1], found[2:]
        broken = [first, {"question": second.get("question", "What else is there to know?")}, *rest[:1]]
        return json.dumps({"pairs": [one for one in broken if one]})

    result, _ = run(island_task(8), tmp_path / "s", forgets)
    assert result.kept
    lost = [one for one in result.rejected if one.reason == "missing-answer"]
    assert lost
    assert all(one.stage == "pairs" and one.text for one in lost)
    for row in result.kept:
        subject = row.question.removeprefix("What is there to know of ").rstrip("?")
        assert row.answer.startswith(subject)


def test_a_view_that_fails_costs_itself_and_not_the_chunk(tmp_path: Path) -> None:
    def bad_summary(body: dict[str, Any]) -> str | int | list[str]:
        if part(body) == "summary":
            return "Whales compose operas beneath volcanoes while penguins audit the treasury."
        return 400 if part(body) == "facts" else scholar(body)

    result, _ = run(island_task(8), tmp_path / "s", bad_summary)
    assert result.delivered == 8
    stages = Counter((one.stage, one.reason) for one in result.rejected)
    assert stages["summary_holds", "grounded"]
    assert stages["facts_text", "request-failed"]
    assert not any("Whales" in json.dumps(one) for one in result.samples)
    asked_by = {one["question"] for one in generated(result, "knowledge_long") if one["context"]}
    assert not any("detailed summary" in question for question in asked_by)


def test_an_unfaithful_long_answer_leaves_the_short_row_and_the_ledger_says_so(tmp_path: Path) -> None:
    def strict(body: dict[str, Any]) -> str | int | list[str]:
        if part(body) == "long":
            return "The whole island was sold to a circus. Nobody ever wrote that down anywhere."
        if part(body) == "faithful" and "circus" in body["messages"][-1]["content"]:
            return verdict("NO", "No circus is in the document.")
        return scholar(body)

    result, _ = run(island_task(6), tmp_path / "s", strict)
    assert result.delivered == 6
    assert not [one for one in generated(result, "knowledge_long") if one["context"] is None]
    lost = [one for one in result.rejected if one.stage == "long_is_faithful"]
    assert lost
    assert lost[0].score == 0.0
    assert "No circus is in the document." in lost[0].text


@pytest.mark.parametrize(
    ("judge", "said", "reason"),
    [
        ("faithful", "NO", "judged-unfaithful"),
        ("relevant", "1", "judged-irrelevant"),
        ("alone", "0", "judged-dependent"),
    ],
)
def test_each_judge_of_knowledge_can_reject_by_itself(
    tmp_path: Path, judge: str, said: str, reason: str
) -> None:
    def judging(body: dict[str, Any]) -> str | int | list[str]:
        return verdict(said, "It says so.") if part(body) == judge else scholar(body)

    result, _ = run(island_task(4), tmp_path / "s", judging)
    assert not result.kept
    reasons = Counter(one.reason for one in result.rejected)
    assert reasons[reason] >= 4
    told = next(one for one in result.rejected if one.reason == reason)
    assert "→" in told.text
    assert "It says so." in told.text
    assert result.why is not None
    assert reason in result.why


@pytest.mark.parametrize(("mark", "kept"), [("1", False), ("2", True), ("3", True)])
def test_a_pair_is_kept_from_two_points_on(tmp_path: Path, mark: str, kept: bool) -> None:
    def marking(body: dict[str, Any]) -> str | int | list[str]:
        return verdict(mark) if part(body) == "pair" else scholar(body)

    result, _ = run(skill_task(FREEFORM, rows=2), tmp_path / "s", marking)
    assert bool(result.kept) == kept


def test_a_verdict_that_cannot_be_read_is_asked_for_once_more_and_then_loses_its_row(
    tmp_path: Path,
) -> None:
    def mumbles(body: dict[str, Any]) -> str | int | list[str]:
        if part(body) != "alone":
            return scholar(body)
        again = body["messages"][-1]["content"].startswith("That could not be read.")
        stubborn = len(asked(body)) % 2 == 0
        return verdict("1") if again and not stubborn else "Hard to say, perhaps 0 or 1."

    result, _ = run(island_task(6), tmp_path / "s", mumbles)
    assert result.kept
    lost = [one for one in result.rejected if one.reason == "judge-unreadable"]
    assert lost
    assert all("Hard to say" in one.text and "→" in one.text for one in lost)


def test_a_leaf_with_too_few_rows_is_tried_again_where_it_stopped_until_they_are_there(
    tmp_path: Path,
) -> None:
    def picky(body: dict[str, Any]) -> str | int | list[str]:
        if part(body) == "pair":
            return verdict("3" if zlib.crc32(asked(body).encode()) % 3 == 0 else "1")
        return scholar(body)

    result, found = run(skill_task(FREEFORM, rows=6), tmp_path / "s", picky)
    assert result.rounds > 1
    assert result.delivered == 6
    assert result.why is None
    bodies = [json.dumps(body, sort_keys=True) for body in found.asked]
    assert len(bodies) == len(set(bodies))


def test_a_hopeless_leaf_stops_early_and_says_why(tmp_path: Path) -> None:
    def refuses(body: dict[str, Any]) -> str | int | list[str]:
        return verdict("0", "No task.") if part(body) == "judge_instruction" else scholar(body)

    result, _ = run(skill_task(FREEFORM, rows=40), tmp_path / "s", refuses)
    assert result.rounds == 1
    assert result.why is not None
    assert result.why.startswith("0 of 40 rows, stopped early: of 60 rows of round 1, 0 were kept")
    assert "poor-instruction" in result.why


def test_no_row_holds_words_of_a_benchmark_item_whatever_part_of_it_they_are_in(tmp_path: Path) -> None:
    phrase = "the granite jetty at low tide carries nine hundred lanterns for every returning herring boat"
    item = json.dumps({"id": "g-7", "question": f"Is it true that {phrase}?"})

    def leaks(body: dict[str, Any]) -> str | int | list[str]:
        return f"Well, {phrase}." if part(body) == "long" else scholar(body)

    task = island_task(6, benchmark=Benchmark(item.encode()))
    result, _ = run(task, tmp_path / "s", leaks)
    assert result.delivered == 6
    assert phrase not in json.dumps(result.samples)
    stopped = [one for one in result.rejected if one.reason == "benchmark"]
    assert stopped
    assert all(one.stage == "decontaminate" for one in stopped)


def test_rounds_never_ask_the_same_try_twice_and_together_cover_what_one_round_would() -> None:
    flow, task = load_flow("knowledge", "lab"), island_task(60)
    whole = _tries(units(flow, task, 0, 17))
    parts = [_tries(units(flow, task, *span)) for span in ((0, 5), (5, 5), (10, 7))]
    assert len(whole) == 17
    assert sum(len(one) for one in parts) == 17
    assert len(set().union(*parts)) == 17


def _tries(found: list[Any]) -> set[tuple[str, int]]:
    return {(unit.chunk, way["index"]) for unit in found for way in unit.values["ways"]}


def test_a_chunk_is_shown_one_seed_at_a_time_and_every_seed_in_turn() -> None:
    flow, task = load_flow("knowledge", "lab"), island_task(200)
    contexts = {way["shots"][0]["context"] for unit in units(flow, task) for way in unit.values["ways"]}
    assert contexts == {example.context for example in task.examples}


@pytest.mark.parametrize(
    ("leaf", "description", "expected"),
    [
        ("compositional_skills/writing/poems", "To write a haiku.", CREATIVE),
        ("compositional_skills/extraction/dates", "To find dates in a text.", PRECISE),
        ("foundational_skills/language/poems", "To write a poem with the right count.", PRECISE),
    ],
)
def test_what_is_written_to_be_read_is_answered_by_the_creative_persona(
    leaf: str, description: str, expected: dict[str, Any]
) -> None:
    task = Task(leaf, "freeform_skill", "sha256:" + "0" * 64, description, (), (), (), 1)
    assert persona(task) == expected


def test_a_preview_by_the_lab_flows_shows_few_rows_from_more_than_one_chunk(tmp_path: Path) -> None:
    config = RepositoryConfig(synthesis=SynthesisSettings(preset="lab"))

    async def inner() -> Preview:
        async with model(scholar) as found, Engine(tmp_path / "s", settings=FAST) as engine:
            leaves, documents = [island(), skill(GROUNDED)], {island().path: island_chunks()}
            endpoints = found.endpoints()
            benchmark = Benchmark(b"")
            return await preview(leaves, documents, config, engine, endpoints, benchmark=benchmark)

    knowledge, grounded = asyncio.run(inner()).leaves
    for leaf in (knowledge, grounded):
        assert 0 < len(leaf.samples) <= config.preview.samples
        assert len(leaf.samples) + len(leaf.rejected) == leaf.requested
    assert len({one.source for one in knowledge.samples}) == 2
    assert all(one.grade == 1.0 for one in knowledge.samples)


def test_a_server_that_knows_no_structured_output_is_asked_without_and_read_all_the_same(
    tmp_path: Path,
) -> None:
    def plain(body: dict[str, Any]) -> str | int | list[str]:
        if "response_format" in body:
            return 400
        said = scholar(body)
        if part(body) == "pairs" and isinstance(said, str):
            tagged = (
                f"<pair><question>{one['question']}</question><answer>{one['answer']}</answer></pair>"
                for one in json.loads(said)["pairs"]
            )
            return "\n".join(tagged)
        if part(body) in {"faithful", "relevant", "alone"} and isinstance(said, str):
            return f"Let me see. <verdict>{json.loads(said)['verdict']}</verdict>"
        return said

    result, found = run(island_task(6), tmp_path / "s", plain)
    assert result.delivered == 6
    assert sum("response_format" in body for body in found.asked) < 40


def test_a_task_that_went_to_another_process_still_knows_its_benchmark() -> None:
    item = json.dumps({"question": "Which of these seven harbours freezes first in a hard winter?"})
    task = island_task(benchmark=Benchmark(item.encode()))
    script = (
        "import pickle, sys\n"
        "from lab.synthesis.checks import Values, clear_of_benchmark\n"
        "task = pickle.load(sys.stdin.buffer)\n"
        "asked = 'Which of these seven harbours freezes first in a hard winter?'\n"
        "print(clear_of_benchmark(Values(asked, benchmark=task.benchmark)).passed)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        input=pickle.dumps(task),
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "7"},
    )
    assert done.stdout.decode().strip() == "False"
