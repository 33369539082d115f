"""Public benchmarks: staged through a real hub, refused when they are not what was staged, and asked by the
harness of the embedded small model over small sets of our own writing in the very formats."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import benchmark_world as world
import pytest
from typer.testing import CliRunner

from gpu_runner.benchmark import staging
from gpu_runner.benchmark.model import BenchmarkError, LoadedModel, load
from gpu_runner.benchmark.staging import SOURCES, stage, staged_sets
from treewright.cli import app

pytest.importorskip("lm_eval")

from gpu_runner.benchmark import standard
from sandbox.hub.background import RunningHub, running


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every set of its own rows, MMLU with two of its subjects, so that the tests stay quick."""
    root = tmp_path_factory.mktemp("staging")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(staging, "subjects_of", _two_subjects)
        for name in SOURCES:
            list(world.files(name, root / name))
            stage(f"{name}@{world.COMMIT}", root / "data", root / name)
    return root / "data"


def _two_subjects(source: staging.Source) -> list[str]:
    return ["anatomy", "virology"] if source.name == "mmlu" else [""]


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    from gpu_runner.embedded import cache_folder
    from gpu_runner.student import resolve_student

    return load(resolve_student("embedded", cache_folder()))


def test_mmlu_has_the_harness_57_subjects_and_every_set_its_task_file() -> None:
    assert len(staging.subjects_of(SOURCES["mmlu"])) == 57
    for source in SOURCES.values():
        for subject in staging.subjects_of(source):
            assert (staging.task_folder() / source.task.format(subject=subject)).is_file()


def test_the_papers_shots_and_metrics_are_used() -> None:
    assert {name: (source.shots, source.metric) for name, source in SOURCES.items()} == {
        "mmlu": (5, "acc"),
        "arc_challenge": (25, "acc_norm"),
        "hellaswag": (10, "acc_norm"),
        "winogrande": (5, "acc"),
        "gsm8k": (5, "exact_match"),
    }


@pytest.mark.model
def test_the_harness_asks_every_set_with_its_own_prompts_and_the_papers_shots(
    staged: Path, model: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a benchmark reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(staging, "subjects_of", _two_subjects)
    asked = []
    monkeypatch.setattr(standard, "run_harness", _listening(standard.run_harness, asked))
    for one in staged_sets(list(SOURCES), staged):
        answers = standard.ask(model, one, 1, tmp_path)
        scores = answers.scores["accuracy"]
        assert len(scores) == (2 if one.source.name == "mmlu" else 1)
        assert set(scores) == {item.id for item in answers.items}
        assert all(score.score in (0.0, 1.0) and score.readable for score in scores.values())
        prompt = asked[-1]
        assert prompt.count(_ENDS[one.source.name]) == one.source.shots + 1, one.source.name
    assert "The following are multiple choice questions (with answers) about virology." in asked[0]
    assert {item.expected for item in answers.items} <= {str(number) for number in range(2, 32)}


_ENDS = {
    "mmlu": "\nAnswer:",
    "arc_challenge": "\nAnswer:",
    "hellaswag": "Making tea:",
    "winogrande": "Case ",
    "gsm8k": "\nAnswer:",
}


def _listening(ask: object, asked: list[str]) -> object:
    def run(*arguments: object) -> object:
        found = ask(*arguments)  # type: ignore[operator]  # any callable
        samples = found[max(found)]
        asked.append(str(samples[0]["arguments"][0][0]))
        return found

    return run


def test_the_same_model_and_data_give_the_same_prompts_and_scores(staged: Path, tmp_path: Path) -> None:
    model = load(world.tiny(tmp_path / "tiny", seed=0))
    (one,) = staged_sets(["winogrande"], staged)
    first = standard.ask(model, one, 4, tmp_path)
    assert standard.ask(model, one, 4, tmp_path) == first
    assert standard.ask(model, one, 3, tmp_path).prompts != first.prompts


# ---- staging


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningHub]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with running(tmp_path / "hub") as started:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", started.url)
        monkeypatch.setattr(
            "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
            started.url + "/{repo_id}/resolve/{revision}/{filename}",
        )
        yield started


def test_a_set_is_fetched_from_the_hub_at_a_commit_and_nothing_else_of_it(
    hub: RunningHub, tmp_path: Path
) -> None:
    from huggingface_hub import HfApi

    origin, data = tmp_path / "origin", tmp_path / "data"
    names = list(world.files("gsm8k", origin))
    (origin / "socratic").mkdir()
    (origin / "socratic" / "other.txt").write_text("not asked for")
    api = HfApi(endpoint=hub.url, token=hub.token("someone", orgs=["openai"]))
    api.create_repo("openai/gsm8k", repo_type="dataset")
    first = api.upload_folder(repo_id="openai/gsm8k", repo_type="dataset", folder_path=origin).oid
    api.upload_file(
        path_or_fileobj=b"changed", path_in_repo="README.md", repo_id="openai/gsm8k", repo_type="dataset"
    )
    taken = stage(f"gsm8k@{first}", data)
    assert (taken.revision, taken.source.repository) == (first, "openai/gsm8k")
    kept = [path.relative_to(data / "gsm8k").as_posix() for path in (data / "gsm8k").rglob("*.*")]
    assert sorted(kept) == sorted(names)
    newest = stage("gsm8k", data)
    assert newest.revision != first
    assert newest.files == taken.files


@pytest.mark.parametrize("network", [True, False])
def test_a_data_set_that_is_not_there_says_how_to_go_on_without_a_network(
    hub: RunningHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: bool
) -> None:
    if not network:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    result = CliRunner().invoke(app, ["stage-benchmarks", "gsm8k", "--data", str(tmp_path / "data")])
    assert result.exit_code == 2
    told = " ".join(result.output.split())
    assert "openai/gsm8k cannot be fetched" in told
    assert "use `--from FOLDER`" in told


def test_the_command_lists_what_is_staged_and_checks_it(staged: Path, tmp_path: Path) -> None:
    list(world.files("winogrande", tmp_path / "copy"))
    arguments = ["stage-benchmarks", f"winogrande@{world.COMMIT}", "--data", str(tmp_path / "data")]
    result = CliRunner().invoke(app, [*arguments, "--from", str(tmp_path / "copy")])
    assert (result.exit_code, result.stdout) == (0, f"winogrande@{world.COMMIT}: 2 files, 60 rows\n")
    (tmp_path / "data" / "winogrande" / "winogrande_xl" / "train-00000-of-00001.parquet").write_bytes(b"")
    result = CliRunner().invoke(app, ["stage-benchmarks", "--data", str(tmp_path / "data")])
    assert result.exit_code == 2
    assert "has other content than when it was staged" in " ".join(result.output.split())


def test_json_lines_serve_as_well_as_parquet(tmp_path: Path) -> None:
    list(world.files("gsm8k", tmp_path / "copy", suffix=".jsonl"))
    taken = stage(f"gsm8k@{world.COMMIT}", tmp_path / "data", tmp_path / "copy")
    assert [file.path for file in taken.files] == ["gsm8k/main/train.jsonl", "gsm8k/main/test.jsonl"]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("squad", "is no benchmark that can be staged; known: mmlu, arc_challenge"),
        ("gsm8k@main", "a commit of 40 hexadecimal digits"),
        ("gsm8k", "a copy does not tell its revision"),
        (f"arc_challenge@{world.COMMIT}", "holds no ARC-Challenge/train-*.parquet and 2 more"),
    ],
)
def test_what_cannot_be_staged_is_refused_with_the_reason(tmp_path: Path, name: str, told: str) -> None:
    list(world.files("gsm8k", tmp_path / "copy", suffix=".jsonl"))
    with pytest.raises(BenchmarkError) as error:
        stage(name, tmp_path / "data", tmp_path / "copy")
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [('{"question": "a"}\n', "lacks the column answer"), ("", "has no rows"), ("[", "no JSON")],
)
def test_a_file_that_the_harness_cannot_read_is_refused(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "copy" / "main").mkdir(parents=True)
    for split in ("train", "test"):
        (tmp_path / "copy" / "main" / f"{split}.jsonl").write_text(text)
    with pytest.raises(BenchmarkError) as error:
        stage(f"gsm8k@{world.COMMIT}", tmp_path / "data", tmp_path / "copy")
    assert told in str(error.value) or "lacks the column" in str(error.value)
    assert not (tmp_path / "data" / "staged.json").exists()


def test_a_run_without_its_data_says_which_command_stages_them(staged: Path, tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="treewright stage-benchmarks mmlu gsm8k --data DIR"):
        staged_sets(["mmlu", "gsm8k"], None)
    with pytest.raises(BenchmarkError, match="does not hold gsm8k: run `treewright stage-benchmarks gsm8k"):
        staged_sets(["gsm8k"], tmp_path)
    with pytest.raises(BenchmarkError, match="and the repository pins ffff"):
        staged_sets([f"gsm8k@{'f' * 40}"], staged)


def test_a_staged_listing_that_leads_out_of_its_folder_is_refused(tmp_path: Path, staged: Path) -> None:
    listing = json.loads((staged / "staged.json").read_text())
    listing["sets"]["gsm8k"]["files"][0]["path"] = "../../etc/passwd"
    (tmp_path / "staged.json").write_text(json.dumps(listing))
    with pytest.raises(ValueError, match="staged_benchmarks"):
        staged_sets(["gsm8k"], tmp_path)
