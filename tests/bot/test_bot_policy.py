"""Who may approve which commit: the pure policy, and that every doubt is a no."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.policy import Asked, Bound, Person, Reason, Rules, decide, maintains, may, stale

HEAD = "a" * 40
OTHER = "b" * 40
MAINTAINER = Person("mara", 1, "User", "write")
ASKED = Asked(
    person=MAINTAINER,
    author_id=2,
    comment_at="2026-11-21T10:00:10Z",
    named_sha=None,
    state="open",
    held=False,
    head=HEAD,
    ledger_head=HEAD,
    head_since="2026-11-21T10:00:00Z",
    lint_ok=True,
    preview_done=True,
    shown_at="2026-11-21T10:00:05Z",
)


def test_a_maintainer_who_read_the_preview_is_granted() -> None:
    assert decide(ASKED, Rules()).granted


CASES: list[tuple[dict[str, object], Reason]] = [
    ({"person": Person("bot", 9, "Bot", "admin")}, "not_a_person"),
    ({"person": Person("cleo", 3, "User", "read")}, "not_permitted"),
    ({"person": Person("cleo", 3, "User", None)}, "permission_unknown"),
    ({"author_id": 1}, "author_may_not_approve"),
    ({"state": "merged"}, "not_open"),
    ({"held": True}, "on_hold"),
    ({"lint_ok": False}, "lint_not_green"),
    ({"preview_done": False}, "not_previewed"),
    ({"ledger_head": OTHER}, "head_moved"),
    ({"head_since": "2026-11-21T10:00:11Z"}, "head_moved"),
    ({"head_since": "2026-11-21T10:00:10Z"}, "head_moved"),
    ({"shown_at": "2026-11-21T10:00:11Z"}, "shown_too_late"),
    ({"shown_at": "2026-11-21T10:00:10Z"}, "shown_too_late"),  # the same second
    ({"shown_at": ""}, "shown_too_late"),
    ({"named_sha": HEAD[:10]}, "sha_too_short"),
    ({"named_sha": OTHER}, "sha_not_the_head"),
]


@pytest.mark.parametrize(("change", "reason"), CASES)
def test_each_doubt_refuses_for_its_own_reason(change: dict[str, object], reason: Reason) -> None:
    decision = decide(replace(ASKED, **change), Rules())  # type: ignore[arg-type]  # any value on purpose
    assert (decision.granted, decision.reason) == (False, reason)


def test_the_whole_sha_says_which_commit_was_read_whenever_it_was_shown() -> None:
    late = replace(ASKED, named_sha=HEAD, head_since="2026-11-21T10:00:11Z", shown_at="")
    assert decide(late, Rules()).granted


def test_empty_lists_and_no_permission_are_nobody() -> None:
    assert not maintains(replace(MAINTAINER, role="admin"), Rules(permission="none"))


def test_a_permission_that_everybody_has_is_never_enough() -> None:
    assert not maintains(replace(MAINTAINER, role="read"), Rules(permission="read"))


def test_the_configured_people_and_teams_may_approve_without_write_access() -> None:
    cleo = Person("Cleo", 3, "User", "read")
    assert maintains(cleo, Rules(users=("cleo",)))
    assert maintains(replace(cleo, in_team=True), Rules())


def test_an_author_may_preview_but_not_hold() -> None:
    cleo = Person("cleo", 3, "User", "read")
    assert may("author", cleo, 3, Rules())
    assert not may("maintainer", cleo, 3, Rules())
    assert not may("author", cleo, 4, Rules())


@given(
    st.sampled_from([None, "none", "read", "triage", "write", "maintain", "admin", "custom"]),
    st.sampled_from(["none", "read", "triage", "write", "maintain", "admin", ""]),
)
def test_less_than_the_configured_permission_never_passes(role: str | None, needed: str) -> None:
    order = ["none", "read", "triage", "write", "maintain", "admin"]
    granted = maintains(replace(MAINTAINER, role=role), Rules(permission=needed))
    if granted:
        assert role is not None
        assert order.index(role) >= max(order.index(needed), order.index("write"))


BOUND = Bound(HEAD, "sha256:1", "b" * 40)
LEAVES = {"knowledge/animals/birds"}


@pytest.mark.parametrize(
    ("now", "base_paths", "reason"),
    [
        (BOUND, (), None),
        (BOUND, ("knowledge/animals/birdsong/qna.yaml", "README.md"), None),
        (replace(BOUND, head=OTHER), (), "head_moved"),
        (replace(BOUND, preview_digest="sha256:2"), (), "preview_changed"),
        (replace(BOUND, base="c" * 40), (), "base_changed"),
        (BOUND, ("knowledge/animals/birds/qna.yaml",), "base_changed"),
        (BOUND, ("knowledge/animals/birds",), "base_changed"),
    ],
)
def test_an_approval_holds_for_what_was_read_and_for_nothing_else(
    now: Bound, base_paths: tuple[str, ...], reason: Reason | None
) -> None:
    assert stale(BOUND, now, LEAVES, base_paths) == reason
