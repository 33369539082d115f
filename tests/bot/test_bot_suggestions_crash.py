"""Killed before and after GitHub takes the review: the suggestions are there once, and the work goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
from bot_process import Keeper, Nursery, Wire
from bot_world import EXAMPLES, new_world, until

GOOD = EXAMPLES / "contributions/good"
QNA = "knowledge/geography/farne_mora/qna.yaml"


def test_killed_at_the_review_and_at_the_takeback_each_is_done_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BOT_PROCESS_LOG", str(tmp_path / "log"))
    wire = Wire()
    with new_world(tmp_path, wire.wrap) as world:
        nursery = Nursery(world)
        change = world.repository().fork(world.person("newcomer"))
        files = {str(path.relative_to(GOOD)): path.read_text() for path in GOOD.rglob("*") if path.is_file()}
        good = files[QNA]
        files[QNA] = good.replace("seed_examples:", "seed_examples: ")
        lines = files[QNA].split("\n")

        def remarks() -> list[dict[str, object]]:
            return list(change.author.api("GET", f"{change.path}/pulls/{change.number}/comments"))

        with Keeper(nursery, wire) as keeper:
            wire.arm(lambda name, index: ["before", "after"] if name.endswith("/reviews") else [])
            change.push(files)
            change.open()
            change.becomes("1 error to fix", 300)
            (mine,) = until(lambda: keeper.deaths == 2 and remarks(), "two deaths and one comment", 300)
            head = change.pull()["head"]["sha"]
            until(lambda: change.check(head)["conclusion"] == "failure", "the check's end", 300)
            assert mine["line"] == lines.index("seed_examples: ") + 1
            assert len(change.author.api("GET", f"{change.path}/pulls/{change.number}/reviews")) == 1
            # The rule is turned off, so nothing is wrong there any more: the comment is taken back, once,
            # by a bot that dies before and after it.
            wire.arm(lambda name, index: ["before", "after"] if name.startswith("DELETE") else [])
            mara = world.person("mara")
            place = f"{change.path}/contents/.github/treewright.yml"
            off = "dmVyc2lvbjogMQpsaW50OiB7cnVsZXM6IHt0cmFpbGluZy1zcGFjZTogb2ZmfX0K"
            sha = mara.api("GET", place)["sha"]
            mara.api("PUT", place, {"message": "Allow spaces", "content": off, "sha": sha})
            said = change.say(mara, "/lint")
            until(lambda: remarks() == [], "the comment to be taken back", 300)
            until(lambda: change.reactions(said) == ["+1"], "the end of the command", 300)
            assert keeper.deaths >= 4
        assert change.author.api("GET", f"{change.path}/pulls/{change.number}/reviews") == []
