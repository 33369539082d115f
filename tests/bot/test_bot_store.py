"""The bot's memory on a real database: what comes twice is kept once, and the ledger tells heads by time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bot.events import PullFacts
from bot.store import Store

A, B, C = "a" * 40, "b" * 40, "c" * 40


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(f"sqlite:///{tmp_path / 'bot.sqlite'}")
    yield opened
    opened.close()


def facts(head: str, minute: int, state: str = "open", base: str = "main") -> PullFacts:
    at = f"2026-11-21T10:{minute:02}:00Z"
    return PullFacts(7, "acme/taxonomy", 1, 2, head, base, "main", "cleo", 3, state, at)  # type: ignore[arg-type]  # any value on purpose


def test_a_delivery_that_comes_twice_is_kept_once(store: Store) -> None:
    assert store.accept("one", "sha256:1", "push", b"{}")
    assert not store.accept("one", "sha256:2", "push", b"{}")
    assert not store.accept("another-id", "sha256:1", "push", b"{}")
    assert [row["id"] for row in store.waiting()] == ["one"]


def test_a_settled_delivery_does_not_wait_any_more(store: Store) -> None:
    store.accept("one", "sha256:1", "push", b"{}")
    store.settle("one", "queued", "review")
    assert store.waiting() == []


def test_the_ledger_keeps_every_head_with_its_interval(store: Store) -> None:
    for head, minute in ((A, 1), (B, 5), (B, 6), (A, 9)):
        store.learn(facts(head, minute), "d")
    assert [(h.sha, h.since[14:16], h.until and h.until[14:16]) for h in store.heads(7, 2)] == [
        (A, "01", "05"),
        (B, "05", "09"),
        (A, "09", None),
    ]


def test_a_delivery_that_comes_late_does_not_make_an_old_head_current(store: Store) -> None:
    store.learn(facts(A, 1), "d")
    store.learn(facts(C, 9), "d")
    pull = store.learn(facts(B, 5), "d")
    assert pull.head == C
    assert [(h.sha, h.until is None) for h in store.heads(7, 2)] == [(A, False), (B, False), (C, True)]


def test_a_head_that_goes_to_another_base_begins_anew(store: Store) -> None:
    for minute, base in ((1, "main"), (3, "main"), (5, "older"), (6, "older")):
        store.learn(facts(A, minute, base=base), "d")
    assert [(h.sha, h.since[14:16], h.until is None) for h in store.heads(7, 2)] == [
        (A, "01", False),
        (A, "05", True),
    ]


def test_an_earlier_delivery_of_the_same_head_moves_its_beginning(store: Store) -> None:
    store.learn(facts(B, 9), "api")
    store.learn(facts(B, 5), "d")
    assert [(h.sha, h.since[14:16]) for h in store.heads(7, 2)] == [(B, "05")]


def test_a_review_that_nobody_made_is_empty(store: Store) -> None:
    pull = store.learn(facts(A, 1), "d")
    assert store.review(pull, A)["lint"] is None
    store.update_review(pull, A, preview_state="done", preview_digest="sha256:x")
    assert store.review(pull, A)["preview_state"] == "done"
