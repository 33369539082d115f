"""The webhook over a real server: what is refused, what is kept, and that nothing unsigned is ever parsed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from bot.signature import sign
from bot.store import Store
from bot.web import LARGEST_DELIVERY, application

NEW, OLD = b"the-new-secret-of-the-hook", b"the-old-secret-of-the-hook"
BODY = json.dumps({"zen": "Keep it logically awesome."}).encode()


class Quiet:
    """Stands behind the web and remembers that it was woken."""

    def __init__(self) -> None:
        self.woken = 0

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def wake(self) -> None:
        self.woken += 1

    def troubles(self) -> list[str]:
        return []


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[TestClient, Store, Quiet]]:
    store = Store(f"sqlite:///{tmp_path / 'bot.sqlite'}")
    quiet = Quiet()
    with TestClient(application(store, [NEW, OLD], lambda: quiet)) as client:
        yield client, store, quiet
    store.close()


def headers(body: bytes, secret: bytes = NEW, delivery: str = "d-1", event: str = "ping") -> dict[str, str]:
    return {
        "X-Hub-Signature-256": sign(secret, body),
        "X-GitHub-Delivery": delivery,
        "X-GitHub-Event": event,
    }


def test_a_signed_delivery_is_kept_and_answered_at_once(web: tuple[TestClient, Store, Quiet]) -> None:
    client, store, quiet = web
    assert client.post("/webhook", content=BODY, headers=headers(BODY)).status_code == 202
    assert [row["id"] for row in store.waiting()] == ["d-1"]
    assert quiet.woken == 1


def test_the_old_secret_works_while_it_is_rotated(web: tuple[TestClient, Store, Quiet]) -> None:
    client, _, _ = web
    assert client.post("/webhook", content=BODY, headers=headers(BODY, OLD)).status_code == 202


def test_a_wrong_signature_leaves_no_trace(web: tuple[TestClient, Store, Quiet]) -> None:
    client, store, quiet = web
    for wrong in (headers(BODY, b"a-guessed-secret-of-mine"), headers(b"other"), {}):
        assert client.post("/webhook", content=BODY, headers=wrong).status_code == 401
    assert store.waiting() == []
    assert quiet.woken == 0


def test_the_same_delivery_under_another_id_is_seen_before(web: tuple[TestClient, Store, Quiet]) -> None:
    client, store, quiet = web
    for delivery in ("d-1", "d-1", "d-2"):
        answer = client.post("/webhook", content=BODY, headers=headers(BODY, delivery=delivery))
        assert answer.status_code == 202
    assert len(store.waiting()) == 1
    assert quiet.woken == 1


def test_a_delivery_without_its_headers_is_refused(web: tuple[TestClient, Store, Quiet]) -> None:
    client, _, _ = web
    for odd in (headers(BODY, delivery="../x"), headers(BODY, event="a b")):
        assert client.post("/webhook", content=BODY, headers=odd).status_code == 400


def test_a_delivery_over_the_limit_is_refused_before_it_is_read(
    web: tuple[TestClient, Store, Quiet],
) -> None:
    client, _, _ = web
    body = b"x" * (LARGEST_DELIVERY + 1)
    assert client.post("/webhook", content=body, headers=headers(body)).status_code == 413


def test_what_is_not_json_is_kept_for_the_inbox_to_judge(web: tuple[TestClient, Store, Quiet]) -> None:
    client, store, _ = web
    body = b"\xff not json"
    assert client.post("/webhook", content=body, headers=headers(body)).status_code == 202
    assert store.waiting()[0]["body"] == body


def test_the_probes_tell_alive_from_ready(web: tuple[TestClient, Store, Quiet]) -> None:
    client, _, _ = web
    assert client.get("/healthz").status_code == 200
    assert client.get("/readyz").status_code == 200
    assert client.get("/docs").status_code == 404
