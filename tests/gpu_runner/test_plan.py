"""The plan of a release, from real Git repositories."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from gpu_runner.plan import PlanError, PlanSettings, mirrors_from_environment, run, tasks_of
from lab.contracts import problems, read_json, read_lines
from tests.gpu_runner.synthesis_world import EXAMPLES, ISLAND, World, build, commit_all


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return build(tmp_path_factory.mktemp("world"))


def planned(world: World, work: Path, base: str | None = None) -> Path:
    run(world.tree, work, PlanSettings(world.head, base, (2,)), world.cache, world.env)
    return work / "plan"


def test_a_plan_marks_the_changed_leaf_and_names_its_pull_request(world: World, tmp_path: Path) -> None:
    plan = read_json(planned(world, tmp_path, world.base) / "plan.json", "plan")
    changed = [leaf for leaf in plan["leaves"] if leaf["changed"]]
    assert [(leaf["path"], leaf["change"], leaf["pull_requests"]) for leaf in changed] == [
        (ISLAND, "added", [2])
    ]
    assert changed[0]["rows"] == plan["config"]["generate"]["rows_changed"]
    assert {leaf["rows"] for leaf in plan["leaves"] if not leaf["changed"]} == {
        plan["config"]["generate"]["rows_unchanged"]
    }
    assert plan["taxonomy"]["head"] == world.head
    assert plan["release"]["tag"] == f"v2026.01.15-{world.head[:7]}"
    assert plan["config"]["release"]["model"] == "acme/acme-lm"
    for name, count in (("general", plan["general"]), ("replay_prompts", plan["replay_prompts"])):
        source = EXAMPLES / "taxonomy" / ".treewright" / f"{name}.jsonl"
        assert count == len(source.read_text("utf-8").splitlines()) > 0


def test_without_a_base_every_leaf_is_changed(world: World, tmp_path: Path) -> None:
    plan = read_json(planned(world, tmp_path) / "plan.json", "plan")
    assert all(leaf["changed"] for leaf in plan["leaves"])
    assert len(plan["leaves"]) == 7


def test_held_out_items_are_apart_from_what_the_teacher_sees(world: World, tmp_path: Path) -> None:
    folder = planned(world, tmp_path, world.base)
    items = list(read_lines(folder / "heldout.jsonl", "heldout"))
    plan = read_json(folder / "plan.json")
    shown = {
        (leaf["path"], one["question"])
        for leaf in plan["leaves"]
        for one in leaf["few_shot"]
        if one["context"] is None or leaf["kind"] == "knowledge"
    }
    assert len(items) == plan["heldout"] > 21
    assert not {(item["leaf"], item["question"]) for item in items} & shown
    assert sum(item["leaf"] == ISLAND for item in items) == 21


def test_the_plan_reads_back_as_tasks_with_chunks_and_their_sources(world: World, tmp_path: Path) -> None:
    tasks = {task.leaf: task for task in tasks_of(planned(world, tmp_path, world.base))}
    island = tasks[ISLAND]
    assert len(island.examples) == len(island.heldout) == 21
    assert "Oskerwater" in " ".join(piece.text for piece in island.passages)
    assert island.commit == world.head
    assert all(task.passages == () for task in tasks.values() if task.kind != "knowledge")


def test_an_equal_plan_is_not_made_twice_and_gives_the_same_bytes_elsewhere(
    world: World, tmp_path: Path
) -> None:
    settings = PlanSettings(world.head, world.base, (2,))
    first = run(world.tree, tmp_path / "a", settings, world.cache, world.env)
    again = run(world.tree, tmp_path / "a", settings, world.cache, world.env)
    other = run(world.tree, tmp_path / "b", settings, world.cache, world.env)
    assert (first.reused, again.reused, other.reused) == (False, True, False)
    assert first.outputs == other.outputs


def test_a_tree_that_does_not_lint_is_refused_with_every_error(tmp_path: Path) -> None:
    import shutil

    world = build(tmp_path)
    shutil.copytree(EXAMPLES / "contributions" / "bad", world.tree, dirs_exist_ok=True)
    head = commit_all(world.tree, "Mistakes")
    with pytest.raises(PlanError) as caught:
        run(world.tree, tmp_path / "work", PlanSettings(head, world.base), world.cache, world.env)
    files = {finding.file for finding in caught.value.findings}
    assert "knowledge/crafts/salt_glass/qna.yaml" in files
    assert "compositional_skills/writing/weather_rhymes/qna.yaml" in files
    assert all(f"{one.file}:{one.line}:{one.column}" in str(caught.value) for one in caught.value.findings)
    assert not (tmp_path / "work" / "plan").exists()


def test_a_context_that_is_in_no_document_is_refused_where_the_repository_calls_it_an_error(
    tmp_path: Path,
) -> None:
    world = build(tmp_path)
    leaf = world.tree / ISLAND / "qna.yaml"
    leaf.write_text(
        leaf.read_text("utf-8").replace("rises 412 metres above the sea.", "rises 99 metres.", 1), "utf-8"
    )
    settings = world.tree / ".github" / "treewright.yml"
    strict = "\nlint:\n  rules:\n    context-not-excerpt: error\n"
    settings.write_text(settings.read_text("utf-8") + strict, "utf-8")
    head = commit_all(world.tree, "A context of our own making")
    with pytest.raises(PlanError, match="documents") as refused:
        run(world.tree, tmp_path / "work", PlanSettings(head), world.cache, world.env)
    assert [(one.file, one.rule) for one in refused.value.findings] == [
        (f"{ISLAND}/qna.yaml", "context-not-excerpt")
    ]


def test_a_revision_that_is_not_there_and_documents_out_of_reach_say_so(world: World, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="no revision `nothing`"):
        run(world.tree, tmp_path, PlanSettings("nothing"), world.cache, world.env)
    gone = {"TREEWRIGHT_GIT_MIRRORS": '{"https://github.com/acme/documents": "/nowhere/at/all"}'}
    with pytest.raises(PlanError, match="its documents could not be fetched"):
        run(world.tree, tmp_path, PlanSettings(world.head), tmp_path / "other-cache", gone)


def test_mirrors_must_map_addresses_to_addresses() -> None:
    assert mirrors_from_environment({}) == {}
    for wrong in ("{", "[]", '{"a": 1}'):
        with pytest.raises(PlanError, match="TREEWRIGHT_GIT_MIRRORS"):
            mirrors_from_environment({"TREEWRIGHT_GIT_MIRRORS": wrong})


@pytest.mark.parametrize("line", ["{broken", '{"prompt": NaN}', '{"prompt": "\\ud800"}'])
def test_a_side_file_with_a_broken_line_names_the_line(tmp_path: Path, line: str) -> None:
    world = build(tmp_path)
    path = world.tree / ".treewright" / "general.jsonl"
    path.write_text(path.read_text("utf-8") + f"{line}\n", "utf-8")
    head = commit_all(world.tree, "Break the benchmark")
    with pytest.raises(PlanError, match=r"\.treewright/general\.jsonl:\d+:1: not JSON"):
        run(world.tree, tmp_path / "work", PlanSettings(head, world.base), world.cache, world.env)


def test_the_command_reports_and_uses_its_exit_codes(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from treewright.cli import app

    monkeypatch.setenv("TREEWRIGHT_CACHE", str(world.cache))
    monkeypatch.setenv("TREEWRIGHT_GIT_MIRRORS", world.env["TREEWRIGHT_GIT_MIRRORS"])
    arguments = ["plan", str(world.tree), "--work", str(tmp_path), "--head", world.head, "--base", world.base]
    done = CliRunner().invoke(app, [*arguments, "--pull-requests", "#2, 3"])
    assert done.exit_code == 0, done.output
    assert f"added {ISLAND}" in done.output
    assert read_json(tmp_path / "plan" / "plan.json")["pull_requests"] == [2, 3]
    assert problems("plan", read_json(tmp_path / "plan" / "plan.json")) == []
    (tmp_path / "file").write_text("no folder", "utf-8")
    for command in (["plan", str(world.tree)], ["generate"]):
        refused = CliRunner().invoke(app, [*command, "--work", str(tmp_path / "file")])
        assert refused.exit_code == 2
        assert f"treewright {command[0]}: " in refused.output
    for wrong in ("two", "0", "2,-3"):
        assert CliRunner().invoke(app, [*arguments, "--pull-requests", wrong]).exit_code == 2
    assert (
        CliRunner().invoke(app, ["plan", str(world.tree), "--work", str(tmp_path), "--head", "no"]).exit_code
        == 2
    )


def test_other_words_of_the_prompts_make_a_leaf_changed_and_a_name_does_not(tmp_path: Path) -> None:
    world = build(tmp_path / "world")
    qna = world.tree / ISLAND / "qna.yaml"
    said = qna.read_text("utf-8")
    for old, new, rows in (
        ("domain: ", "domain: Old ", "rows_changed"),
        ("created_by: ", "created_by: x-", "rows_unchanged"),
    ):
        qna.write_text(said.replace(old, new, 1), "utf-8")
        head = commit_all(world.tree, f"Other {old}")
        work = tmp_path / rows
        run(world.tree, work, PlanSettings(head, world.head), world.cache, world.env)
        plan = read_json(work / "plan" / "plan.json", "plan")
        (leaf,) = [one for one in plan["leaves"] if one["path"] == ISLAND]
        assert leaf["rows"] == plan["config"]["generate"][rows], old
        qna.write_text(said, "utf-8")
        commit_all(world.tree, "As it was")


def test_the_teachers_tokenizer_cuts_the_passages_and_makes_another_plan(
    world: World, tmp_path: Path
) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    from lab.taxonomy.tokenizer import VARIABLE, teacher_tokens

    letters = {letter: index for index, letter in enumerate(pre_tokenizers.ByteLevel.alphabet())}
    teacher = Tokenizer(models.BPE(letters, []))  # a token for each byte: a passage has 250 of them
    teacher.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    place = str(tmp_path / "tokenizer.json")
    teacher.save(place)
    by_words = planned(world, tmp_path, world.base)
    words = (by_words / "chunks.jsonl").read_bytes()
    settings = PlanSettings(world.head, world.base, (2,))
    env = {**world.env, VARIABLE: place}
    again = run(world.tree, tmp_path, settings, world.cache, env)
    assert not again.reused
    rows = list(read_lines(by_words / "chunks.jsonl"))
    count = teacher_tokens(env).count
    assert max(count(row["text"]) for row in rows) <= 250
    assert (by_words / "chunks.jsonl").read_bytes() != words
    assert run(world.tree, tmp_path, settings, world.cache, env).reused
    with pytest.raises(PlanError, match="tokenizer"):
        run(world.tree, tmp_path, settings, world.cache, {**world.env, VARIABLE: "/nowhere/tokenizer.json"})
