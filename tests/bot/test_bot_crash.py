"""Killed at every write to GitHub and at every durable step: each effect is there exactly once.

Nothing is listed here: the writes and the steps are those that the bot comes to. A write is a moment to die
at twice, before the forge has seen it, and after the forge did it and before the bot hears of it. The story
goes from a new pull request by lint, preview, a question, approval, merge, dispatch and result to the last
comment. Everything is real (forge, Git, webhooks, database, the bot's process) but the model and the
release workflow, which publishes at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from bot_process import Keeper, Nursery, Wire
from bot_stories import approve, effects, opened, publish_at_once, whole_story
from bot_world import World, new_world

BOTH = ["before", "after"]


@pytest.fixture(scope="module")
def wire() -> Wire:
    return Wire()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, wire: Wire) -> Iterator[World]:
    with new_world(tmp_path_factory.mktemp("crash"), wire.wrap) as made:
        publish_at_once(made)
        yield made


@pytest.fixture(scope="module")
def nursery(world: World) -> Iterator[Nursery]:
    made = Nursery(world)
    yield made
    made.close()


def test_killed_at_every_write_of_one_story(world: World, nursery: Nursery, wire: Wire) -> None:
    with Keeper(nursery, wire) as keeper:
        wire.arm(lambda name, index: BOTH)
        story = whole_story(world)
        deaths = keeper.deaths
    # 20 writes, each of which is done again after each death; what is looked up instead of repeated is fewer.
    assert deaths >= 36
    assert deaths == len(wire.died)
    assert effects(story) == story.expected


def test_killed_at_every_durable_step_of_approval_merge_and_dispatch(
    world: World, nursery: Nursery, wire: Wire, tmp_path: Path
) -> None:
    wire.arm()
    with Keeper(nursery, wire):
        story = opened(world)
        story.change.becomes("Ready for a maintainer")
    diary = tmp_path / "diary"
    with Keeper(nursery, wire, diary=diary, deadly=True) as keeper:
        approve(world, story)
        deaths = keeper.deaths
    steps = diary.read_text().splitlines()
    assert {"acknowledge: recorded", "command 0: recorded", "finish: recorded"} <= set(steps)
    assert deaths == len(steps) > 20
    assert effects(story) == story.expected


@pytest.mark.parametrize("when", BOTH)
@pytest.mark.parametrize("write", ["/merge", "/dispatches"])
def test_killed_once_at_a_write_after_the_approval(
    world: World, nursery: Nursery, wire: Wire, write: str, when: str
) -> None:
    wire.arm()
    with Keeper(nursery, wire) as keeper:
        story = opened(world)
        story.change.becomes("Ready for a maintainer")
        wire.arm(
            lambda name, _: [when] if write in name and "reactions" not in name and not wire.died else []
        )
        approve(world, story)
        assert keeper.deaths == 1
    assert effects(story) == story.expected
