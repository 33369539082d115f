from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from bot_world import World, bot, new_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A forge with people, an App and a running bot, shared by the stories of one file."""
    folder: Path = tmp_path_factory.mktemp("world")
    with new_world(folder) as made, bot(made):
        yield made
