"""The whole loop, as `treewright demo --scale small` plays it.

Real Git, a real forge and hub, the bot and the model endpoint
as processes of their own, the real small model, and the release workflow run by `act`.

Played once for the module; the tests then ask what is left behind.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gpu_runner.embedded import cache_folder
from lab.contracts import file_digest, problems
from sandbox.play import Play
from sandbox.stage_hands import DATASET, MODEL, House, Options
from tests.support.openapi import Checker
from tests.support.wire import Wire

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(2400)]

MISTAKES = {
    ("compositional_skills/writing/thank_you_notes/qna.yaml", 1, "missing-field"),
    ("compositional_skills/writing/thank_you_notes/qna.yaml", 12, "duplicate-question"),
    ("compositional_skills/writing/weather_rhymes/qna.yaml", 9, "yaml-syntax"),
    ("knowledge/crafts/salt_glass/qna.yaml", 1, "missing-field"),
    ("knowledge/crafts/salt_glass/qna.yaml", 63, "document-pattern"),
}


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[House, dict[str, Any], Wire]]:
    """The story's facts, and the house still open. Every exchange with the forge's API is kept."""
    wire = Wire()
    folder = tmp_path_factory.mktemp("loop")
    options = Options(folder / "house", scale="small")
    # The converted small model is the other tests' too: it is made once for all.
    models = cache_folder() / "models"
    models.mkdir(parents=True, exist_ok=True)
    options.cache.mkdir()
    (options.cache / "models").symlink_to(models)
    # The stages are what the whole run waits for: they may use every core (see tests/conftest.py).
    with pytest.MonkeyPatch.context() as patch, House(options, wrap_forge=wire.tap) as house:
        patch.delenv("OMP_NUM_THREADS", raising=False)
        house.open(print)
        story = Play(house, print).play()
        yield house, story.facts, wire


@pytest.fixture
def house(played: tuple[House, dict[str, Any], Wire]) -> House:
    return played[0]


@pytest.fixture
def facts(played: tuple[House, dict[str, Any], Wire]) -> dict[str, Any]:
    return played[1]


def hub_get(house: House, path: str) -> Any:
    return httpx.get(f"{house.hub.url}{path}", trust_env=False, follow_redirects=True).raise_for_status()


def test_each_mistake_is_annotated_at_its_line(facts: dict[str, Any]) -> None:
    bad = facts["bad"]
    assert bad["check"]["conclusion"] == "failure"
    errors = [note for note in bad["annotations"] if note["annotation_level"] == "failure"]
    assert {(note["path"], note["start_line"], note["title"]) for note in errors} == MISTAKES


def test_the_comment_explains_each_mistake_in_plain_words(facts: dict[str, Any]) -> None:
    body = facts["bad"]["comment"]["body"]
    for path, line, rule in MISTAKES:
        assert path in body
        assert rule in body
        assert f"line {line}" in body or f":{line}" in body


def test_the_repair_turns_the_same_check_and_the_same_comment_green(facts: dict[str, Any]) -> None:
    bad, mended = facts["bad"], facts["mended"]
    assert mended["check"]["name"] == bad["check"]["name"]
    assert mended["check"]["conclusion"] == "success"
    assert mended["comment"]["id"] == bad["comment"]["id"]
    assert not any(rule in mended["comment"]["body"] for _, _, rule in MISTAKES)


def test_a_pull_request_without_commands_has_one_comment_of_the_bot(
    house: House, facts: dict[str, Any]
) -> None:
    assert len(Play(house, print).bot_comments(facts["bad"]["number"])) == 1


def test_the_preview_shows_what_the_base_model_answers_and_what_the_teacher_wrote(
    facts: dict[str, Any],
) -> None:
    assert facts["good"]["preview"]["conclusion"] in ("success", "neutral")
    body = facts["good"]["comment"]["body"]
    assert "Farne Mora" in body
    assert "base" in body.lower()
    assert "rejected" in body.lower()


def test_a_contributor_is_refused_politely_and_once(house: House, facts: dict[str, Any]) -> None:
    refusal = facts["approval"]["refusal"]["body"]
    assert "newcomer" in refusal
    comments = Play(house, print).bot_comments(facts["good"]["number"])
    assert sum(comment["body"] == refusal for comment in comments) == 1


def test_exactly_the_previewed_commit_is_merged(house: House, facts: dict[str, Any]) -> None:
    pull = facts["approval"]["pull"]
    assert pull["merged"]
    assert pull["head"]["sha"] == facts["good"]["head"]
    commit = house.api("ada", "GET", f"/repos/acme/taxonomy/commits/{pull['merge_commit_sha']}")
    assert facts["good"]["head"] in [parent["sha"] for parent in commit["parents"]]
    assert facts["run"]["display_title"].startswith("release ")


def test_the_model_is_on_the_hub_in_one_commit_with_a_tag(house: House, facts: dict[str, Any]) -> None:
    tag = facts["release"]["release"]["tag_name"]
    info = hub_get(house, f"/api/models/{MODEL}/revision/{tag}").json()
    names = {file["rfilename"] for file in info["siblings"]}
    assert {"README.md", "config.json", "tokenizer.json", "model.safetensors", "release.lock.json"} <= names
    assert info["sha"] == facts["release"]["report"]["model"]["revision"]
    commits = hub_get(house, f"/api/models/{MODEL}/commits/main").json()
    assert sum(commit["title"] != "initial commit" for commit in commits) == 1


def test_the_data_set_carries_the_lineage_of_every_sample(house: House, facts: dict[str, Any]) -> None:
    tag = facts["release"]["release"]["tag_name"]
    info = hub_get(house, f"/api/datasets/{DATASET}/revision/{tag}").json()
    paths = [file["rfilename"] for file in info["siblings"] if file["rfilename"].endswith(".jsonl")]
    samples = [
        json.loads(line)
        for path in paths
        if "heldout" not in path and "reject" not in path
        for line in hub_get(house, f"/datasets/{DATASET}/resolve/{tag}/{path}").text.splitlines()
    ]
    assert len(samples) > 50
    for sample in samples:
        assert problems("sample", sample) == []
    assert any(sample["lineage"]["leaf"] == "knowledge/geography/farne_mora" for sample in samples)


def test_the_held_out_questions_were_never_trained_on(house: House, facts: dict[str, Any]) -> None:
    tag = facts["release"]["release"]["tag_name"]
    info = hub_get(house, f"/api/datasets/{DATASET}/revision/{tag}").json()
    text = {
        file["rfilename"]: hub_get(house, f"/datasets/{DATASET}/resolve/{tag}/{file['rfilename']}").text
        for file in info["siblings"]
        if file["rfilename"].endswith(".jsonl")
    }
    heldout = [
        json.loads(line) for name, body in text.items() if "heldout" in name for line in body.splitlines()
    ]
    questions = {item["question"].strip().lower() for item in heldout if "farne_mora" in item["leaf"]}
    assert len(questions) >= 15
    trained = [
        json.loads(line) for name, body in text.items() if "heldout" not in name for line in body.splitlines()
    ]
    assert not questions & {row["question"].strip().lower() for row in trained if row.get("question")}


def test_the_student_has_really_learned_the_new_leaf(facts: dict[str, Any]) -> None:
    scores = {
        score["name"]: score for score in facts["release"]["report"]["scores"] if score["kind"] == "leaf"
    }
    learned = [score for score in scores.values() if score["leaf"] == "knowledge/geography/farne_mora"]
    assert learned
    for score in learned:
        assert score["candidate"] > score["base"], score
    assert facts["release"]["report"]["verdict"] == "pass"


def test_the_last_comment_shows_answers_before_and_after(facts: dict[str, Any]) -> None:
    body = facts["release"]["comment"]["body"]
    report = facts["release"]["report"]
    assert report["model"]["url"] in body
    assert report["dataset"]["url"] in body
    assert report["examples"]


def test_the_release_lock_pins_what_was_published(
    house: House, facts: dict[str, Any], tmp_path: Path
) -> None:
    release = facts["release"]["release"]
    asset = next(one for one in release["assets"] if one["name"] == "release.lock.json")
    lock = house.download("ada", asset["url"])
    assert problems("release_lock", lock) == []
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(hub_get(house, f"/{MODEL}/resolve/{release['tag_name']}/model.safetensors").content)
    assert file_digest(weights) in json.dumps(lock)


def test_deliveries_that_come_again_change_nothing(house: House, facts: dict[str, Any]) -> None:
    def state() -> Any:
        play = Play(house, print)
        comments = [play.bot_comments(facts[name]["number"]) for name in ("bad", "good")]
        runs = house.api("ada", "GET", "/repos/acme/taxonomy/actions/runs")["total_count"]
        releases = house.api("ada", "GET", "/repos/acme/taxonomy/releases")
        return [[comment["id"] for comment in several] for several in comments], runs, len(releases)

    before = state()
    house.redeliver_everything()
    assert state() == before


def test_every_call_of_the_bot_and_every_answer_is_as_github_describes_it(
    played: tuple[House, dict[str, Any], Wire],
) -> None:
    checker = Checker.load()
    wire = played[2]
    assert len(wire.exchanges) > 100
    found = [problem for exchange in wire.exchanges for problem in exchange.problems(checker)]
    assert found == []


def test_the_pages_show_what_happened(house: House, facts: dict[str, Any]) -> None:
    page = httpx.get(house.pull_page(facts["good"]["number"]), trust_env=False)
    assert page.status_code == 200
    assert "treewright / preview" in page.text
    card = httpx.get(f"{house.hub.url}/{MODEL}", trust_env=False)
    assert "Farne Mora" in card.text or "farne_mora" in card.text


def test_git_can_clone_the_released_data_set(house: House, facts: dict[str, Any], tmp_path: Path) -> None:
    tag = facts["release"]["release"]["tag_name"]
    url = f"{house.hub.url}/datasets/{DATASET}"
    subprocess.run(
        ["git", "clone", "--quiet", "--branch", tag, url, str(tmp_path / "clone")],
        check=True,
        env={
            "PATH": "/usr/bin:/bin",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_LFS_SKIP_SMUDGE": "1",
            "HOME": str(tmp_path),
        },
    )
    assert (tmp_path / "clone" / "README.md").read_text().startswith("---\n")
