"""One delivery that cannot be handed on keeps no other one waiting."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bot_world import until

from bot.inbox import Dispatcher
from bot.store import Store

INSTALLED: dict[str, Any] = {"action": "created", "installation": {"id": 1}}
SAID: dict[str, Any] = {
    "action": "created",
    "installation": {"id": 1},
    "repository": {"id": 7, "full_name": "acme/taxonomy"},
    "issue": {"number": 1, "pull_request": {}},
    "comment": {"id": 5, "body": "/help", "created_at": "2026-11-21T10:00:00Z"},
}
MARA = {"login": "mara", "id": 3, "type": "User"}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(f"sqlite:///{tmp_path / 'bot.sqlite'}")
    yield opened
    opened.close()


def state(store: Store, name: str) -> str:
    return str(store.delivery(name)["state"])


@pytest.mark.parametrize(
    ("event", "body", "ends"),
    [
        ("installation", '{"action": "created", "installation": {"id": 1e999}}', "ignored"),
        # A command, while there are no durable jobs to give it to.
        ("issue_comment", json.dumps(SAID | {"comment": SAID["comment"] | {"user": MARA}}), "failed"),
    ],
)
def test_a_delivery_that_cannot_be_handed_on_keeps_no_other_waiting(
    store: Store, event: str, body: str, ends: str
) -> None:
    store.accept("odd", "sha256:1", event, body.encode())
    store.accept("fine", "sha256:2", "installation", json.dumps(INSTALLED).encode())
    told = threading.Event()
    dispatcher = Dispatcher(store, "treewright[bot]", 0.02, told)
    dispatcher.start()
    try:
        until(lambda: state(store, "fine") == "done", "the other delivery", 10)
        until(lambda: state(store, "odd") == ends, "the end of the odd one", 10)
    finally:
        dispatcher.stop()
    assert told.is_set()
