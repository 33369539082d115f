"""The operators' page and the metrics: closed unless it was opened on purpose, and safe whatever strangers
wrote.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from bot import metrics
from bot.audit_log import AuditLog
from bot.dashboard import COOKIE, SESSION_SECONDS, Sessions, router
from bot.events import PullFacts
from bot.settings import Settings
from bot.signature import sign
from bot.store import Store
from bot.web import application

TOKEN, SECRET = "a-long-token-of-the-operator", b"the-new-secret-of-the-hook"
EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
BODY = json.dumps({"zen": EVIL}).encode()


class Nothing:
    def start(self) -> None: ...
    def stop(self) -> None: ...
    def wake(self) -> None: ...
    def troubles(self) -> list[str]:
        return [f"the inbox is not being emptied {EVIL}"]


def settings(folder: Path, token: str | None = TOKEN) -> Settings:
    return Settings(
        app_id=1,
        app_slug="treewright",
        private_key="-----BEGIN PRIVATE KEY-----",
        webhook_secret=SECRET.decode(),
        dashboard_token=token,
        web_url="https://github.com",
        data=folder,
    )


def filled(store: Store) -> AuditLog:
    """A busy bot whose people have odd names."""
    for number in range(1, 4):
        facts = PullFacts(
            7, f"acme/{EVIL}", 1, number, f"{number}" * 40, "main", "main", EVIL, 9, "open",
            f"2026-01-0{number}T00:00:00Z",
        )  # fmt: skip
        pull = store.learn(facts, "d")
        store.update_review(pull, pull.head, lint={"ok": number > 1}, preview_state="done", trouble=EVIL)
        store.queue_job(f"job-{number}", "work", "review", 7, number, pull.head)
    store.begin_job("job-1")
    store.end_job("job-2", "failed", f"GithubException: {EVIL}")
    release = {"repo_id": 7, "number": 3, "sha": "a", "base": "b", "state": "failed"}
    store.put_release(
        "k" * 32, **release, url="javascript:alert(3)", run_url="javascript:alert(4)", trouble=EVIL
    )
    store.count("healed_pulls", 2)
    log = AuditLog(store.engine)
    log.append("approval", {"login": EVIL, "granted": False, "reason": "not_permitted", "repo": EVIL})
    log.append("write", {"verb": "POST", "where": "/check-runs", "repo": "acme/x"})
    return log


@pytest.fixture
def house(tmp_path: Path) -> Iterator[tuple[TestClient, Store]]:
    store = Store(f"sqlite:///{tmp_path / 'bot.sqlite'}")
    log = filled(store)
    app = application(
        store,
        [SECRET],
        Nothing,
        lambda: metrics.page(store.engine, log.checkpoint()),
        lambda troubles: router(settings(tmp_path), store, log, troubles),
    )
    with TestClient(app, base_url="http://127.0.0.1", follow_redirects=False) as client:
        yield client, store
    store.close()


def deliver(client: TestClient, name: str = "d-1") -> None:
    headers = {"X-Hub-Signature-256": sign(SECRET, BODY), "X-GitHub-Delivery": name, "X-GitHub-Event": "ping"}
    assert client.post("/webhook", content=BODY, headers=headers).status_code == 202


class Reader(HTMLParser):
    """What a browser would make of the page: its elements and their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))


def test_without_a_token_there_is_no_page_at_all(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'bot.sqlite'}")
    log = AuditLog(store.engine)
    off = settings(tmp_path, token=None)
    app = application(store, [SECRET], Nothing, None, lambda troubles: router(off, store, log, troubles))
    with TestClient(app) as client:
        for path in ("/dashboard", "/dashboard/style.css", "/dashboard/deliveries/d-1.json", "/metrics"):
            assert client.get(path).status_code == 404
        assert client.post("/dashboard", data={"token": ""}).status_code == 404
    store.close()


def test_a_token_that_can_be_guessed_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="16 random characters"):
        settings(tmp_path, token="short")


def test_nothing_is_shown_before_the_token_is(house: tuple[TestClient, Store]) -> None:
    client, _ = house
    deliver(client)
    wrong = [
        {},
        {"Authorization": "Bearer "},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": "Bearer \xfc".encode("latin-1")},
        {"Cookie": f"{COOKIE}=9999999999.{'0' * 64}"},
        {"Cookie": f"{COOKIE}={TOKEN}"},
    ]
    for headers in wrong:
        for path in ("/dashboard", "/dashboard/deliveries/d-1.json"):
            answer = client.get(path, headers=headers)
            assert answer.status_code == 401, (path, headers)
            assert "acme" not in answer.text
    assert client.post("/dashboard", data={"token": "wrong"}).status_code == 401
    assert client.post("/dashboard", content=b"token=" + b"x" * 5000).status_code == 401


def test_the_form_trades_the_token_for_a_cookie_that_opens_the_page(house: tuple[TestClient, Store]) -> None:
    client, _ = house
    answer = client.post("/dashboard", data={"token": TOKEN})
    assert (answer.status_code, answer.headers["location"]) == (303, "/dashboard")
    cookie = answer.headers["set-cookie"]
    assert TOKEN not in cookie
    assert all(word in cookie for word in ("HttpOnly", "SameSite=strict", "Path=/dashboard"))
    assert client.get("/dashboard").status_code == 200
    client.post("/dashboard/leave")
    assert client.get("/dashboard").status_code == 401


def test_behind_tls_the_cookie_never_travels_without_it(house: tuple[TestClient, Store]) -> None:
    client, _ = house
    answer = client.post("/dashboard", data={"token": TOKEN}, headers={"Host": "bot.example.org"})
    assert "Secure" in answer.headers["set-cookie"]


def test_a_session_ends_by_itself_and_with_its_token() -> None:
    now = [1000.0]
    sessions = Sessions(TOKEN, lambda: now[0])
    cookie = sessions.cookie()
    assert sessions.is_cookie(cookie)
    assert not Sessions("another-token-of-16", lambda: now[0]).is_cookie(cookie)
    until, _, mac = cookie.partition(".")
    assert not sessions.is_cookie(f"{int(until) + 1}.{mac}")
    now[0] += SESSION_SECONDS
    assert not sessions.is_cookie(cookie)


def test_the_page_shows_the_state_and_nothing_of_strangers_becomes_markup(
    house: tuple[TestClient, Store],
) -> None:
    client, _ = house
    deliver(client)
    answer = client.get("/dashboard", headers={"Authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    elements = Reader(answer.text).elements
    assert {tag for tag, _ in elements} & {"script", "img", "iframe", "object", "style", "svg"} == set()
    for _, attributes in elements:
        assert not any(name.startswith("on") or name == "style" for name in attributes)
        assert (attributes.get("href") or "/dashboard").startswith(("/dashboard", "https://github.com/"))
    text = answer.text
    for expected in (
        "Not ready:",
        "review",
        "running",
        "ping",
        "not_permitted",
        "healed pulls",
        "1111111111",
    ):
        assert expected in text
    assert text.count("failed") >= 2
    assert re.search(r"Checkpoint <code>2:sha256:[0-9a-f]{64}</code>", text)


def test_a_kept_delivery_can_be_taken_away_for_replay(house: tuple[TestClient, Store]) -> None:
    client, _ = house
    deliver(client)
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    answer = client.get("/dashboard/deliveries/d-1.json", headers=bearer)
    assert answer.json()["payload"] == json.loads(BODY)
    assert answer.headers["content-disposition"].startswith("attachment")
    for missing in ("d-2", "..%2f..", "x" * 80):
        assert client.get(f"/dashboard/deliveries/{missing}.json", headers=bearer).status_code == 404


def test_an_empty_bot_has_a_page_too(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'bot.sqlite'}")
    log = AuditLog(store.engine)
    app = application(
        store, [SECRET], Nothing, None, lambda troubles: router(settings(tmp_path), store, log, troubles)
    )
    with TestClient(app) as client:
        answer = client.get("/dashboard", headers={"Authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == 200
    assert "GitHub has delivered nothing yet" in answer.text
    store.close()


def test_metrics_are_prometheus_own_format_and_name_nobody(house: tuple[TestClient, Store]) -> None:
    client, store = house
    before = time.time()
    deliver(client)
    client.post("/webhook", content=BODY, headers={"X-Hub-Signature-256": "sha256=0"})
    answer = client.get("/metrics")
    assert "acme" not in answer.text
    assert EVIL not in answer.text
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}

    def value(name: str, **labels: str) -> float:
        for family in families.values():
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    return sample.value
        raise AssertionError(f"{name} {labels} is not there")

    assert value("treewright_deliveries_total", event="ping", outcome="new") == 1
    assert value("treewright_acks_total", outcome="bad signature") >= 1
    assert value("treewright_ack_seconds_count") >= 2
    assert value("treewright_jobs", kind="review", state="failed") == 1
    assert value("treewright_queue_length") == 2
    assert 0 <= value("treewright_queue_age_seconds") <= time.time() - before + 60
    assert value("treewright_inbox_length") == 1
    assert value("treewright_counted_total", what="healed_pulls") == 2
    assert value("treewright_releases", state="failed") == 1
    assert value("treewright_pull_requests", state="open") == 3
    assert value("treewright_audit_records") == 2
    assert all(re.match(r"(treewright|python|process)_", name) for name in families)
    assert store.waiting()
