from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from bot_world import ROOT, World, bot, new_world
from hypothesis import settings

sys.path.insert(0, str(ROOT))
settings.register_profile("calm", deadline=None)
settings.load_profile("calm")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A forge with people, an App and a running bot, shared by the stories of one file.

    At the end, every request that the bot sent is checked against GitHub's own description of its API.
    """
    from tests.support.openapi import Checker

    problems: list[str] = []
    checker = Checker.load()
    send = requests.Session.send

    def checked(session: requests.Session, request: requests.PreparedRequest, **options: Any) -> Any:
        answer = send(session, request, **options)
        body = request.body.encode() if isinstance(request.body, str) else request.body
        problems.extend(
            checker.check(
                str(request.method),
                str(request.url),
                dict(request.headers),
                body if isinstance(body, bytes) else None,
                answer.status_code,
                dict(answer.headers),
                answer.content,
            )
        )
        return answer

    folder: Path = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch, new_world(folder) as made:
        patch.setattr(requests.Session, "send", checked)
        with bot(made):
            yield made
    assert problems == []
