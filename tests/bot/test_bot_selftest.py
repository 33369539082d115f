"""`treewright selftest` from its first line to its last, and a broken part that it names."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from bot_world import Model

from treewright.selftest import ROLES, Line, SelfTest


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    """An operator's own endpoints: here those of this test's model."""
    model = Model()
    plain = {name: value for name, value in os.environ.items() if not name.startswith("TREEWRIGHT_")}
    yield {**plain, **{f"TREEWRIGHT_{role}_URL": model.url for role in ROLES}}
    model.shutdown()


def test_every_part_is_played_and_said(environment: dict[str, str]) -> None:
    said: list[Line] = []
    test = SelfTest(said.append, environment)
    assert test.run(), test.lines[-1]
    assert said == test.lines
    assert [line.name for line in said][-4:] == [
        "a stranger may not approve",
        "a maintainer's approval merges that commit",
        "the release is dispatched once",
        "the bot stops and its audit log is whole",
    ]


def test_a_part_that_is_broken_is_named_and_ends_the_test(environment: dict[str, str]) -> None:
    """The bot of this environment cannot start: its settings are wrong."""
    broken = {**environment, "TREEWRIGHT_TEACHER_TOKENIZER": "/nowhere/tokenizer.json"}
    test = SelfTest(environment=broken)
    assert not test.run()
    assert (test.lines[-1].name, test.lines[-1].ok) == ("bot", False)
    assert "ended by itself" in test.lines[-1].found
