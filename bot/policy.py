"""Who may do what, and which commit an approval means. Pure: facts in, a decision out; no request is made
here.

The direction of doubt is always no. `None` for a fact means that we could not find out, and that is a no as
well; an empty list of people or teams is nobody. Times are GitHub's own, with a resolution of a second, so
two things in the same second are in doubt.

What this cannot stop: a maintainer who approves without reading, and whoever can write to the default branch
by other ways.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from bot.commands import Who

ROLES = ("none", "read", "triage", "write", "maintain", "admin")
"""What a person may do in a repository, the least first (GitHub, repository roles)."""

Reason = Literal[
    "granted",
    "not_a_person",
    "not_permitted",
    "permission_unknown",
    "author_may_not_approve",
    "not_open",
    "on_hold",
    "lint_not_green",
    "not_previewed",
    "head_moved",
    "shown_too_late",
    "preview_changed",
    "base_changed",
    "sha_too_short",
    "sha_not_the_head",
]


@dataclass(frozen=True)
class Person:
    """Who asks. `role` None: GitHub did not tell."""

    login: str
    user_id: int
    kind: str
    role: str | None
    in_team: bool = False


@dataclass(frozen=True)
class Rules:
    """What the repository's configuration on its default branch says about approval."""

    permission: str = "write"
    users: Collection[str] = ()
    author_may_approve: bool = False


def maintains(person: Person, rules: Rules) -> bool:
    """Whether a person may approve and hold here."""
    if person.kind != "User":
        return False
    if person.in_team or person.login.lower() in {login.lower() for login in rules.users}:
        return True
    # `none` leaves only the lists; anything that is no real power over the repository is read as none.
    if person.role not in ROLES or rules.permission not in {"write", "maintain", "admin"}:
        return False
    return ROLES.index(person.role) >= ROLES.index(rules.permission)


def may(who: Who, person: Person, author_id: int, rules: Rules) -> bool:
    """Whether a person may use a command that is for `who`."""
    if person.kind != "User":
        return False
    if who == "anyone":
        return True
    if who == "author" and person.user_id == author_id:
        return True
    return maintains(person, rules)


@dataclass(frozen=True)
class Asked:
    """An `/approve` and all that is known about it."""

    person: Person
    author_id: int
    comment_at: str
    named_sha: str | None
    state: str
    held: bool
    head: str
    """The head that GitHub's API gives now."""
    ledger_head: str
    head_since: str
    """When that head became the head, by the signed deliveries."""
    lint_ok: bool
    preview_done: bool
    shown_at: str
    """When the comment first showed this head's result; empty when it never did."""


@dataclass(frozen=True)
class Bound:
    """What an approval was given for, or what is there now: two that differ are two different things."""

    head: str
    preview_digest: str
    base: str
    """Where the head branched off when it was previewed."""


def stale(approved: Bound, now: Bound, leaves: Collection[str], base_paths: Collection[str]) -> Reason | None:
    """Why an approval does not hold any more; None while it does. `leaves` are the folders that the pull
    request teaches, `base_paths` the files that its base branch changed since the head branched off: what
    would be merged is then not what was previewed.
    """
    if approved.head != now.head:
        return "head_moved"
    if approved.preview_digest != now.preview_digest:
        return "preview_changed"
    if approved.base != now.base or touches(leaves, base_paths):
        return "base_changed"
    return None


def touches(leaves: Collection[str], paths: Collection[str]) -> bool:
    """Whether one of the files is in one of the folders."""
    return any(path == leaf or path.startswith(f"{leaf}/") for leaf in leaves for path in paths)


@dataclass(frozen=True)
class Decision:
    granted: bool
    reason: Reason


def decide(asked: Asked, rules: Rules) -> Decision:
    """Whether this approval means this head. The first reason against it wins."""
    reason = _reason(asked, rules)
    return Decision(reason == "granted", reason)


def _reason(asked: Asked, rules: Rules) -> Reason:
    person = asked.person
    if person.kind != "User":
        return "not_a_person"
    if not maintains(person, rules):
        return "permission_unknown" if person.role is None else "not_permitted"
    if person.user_id == asked.author_id and not rules.author_may_approve:
        return "author_may_not_approve"
    if asked.state != "open":
        return "not_open"
    if asked.held:
        return "on_hold"
    if asked.named_sha is not None:
        if not re.fullmatch(r"[0-9a-f]{40}", asked.named_sha.lower()):
            return "sha_too_short"
        if asked.named_sha.lower() != asked.head:
            return "sha_not_the_head"
    # Without the sha, the comment must be newer than both the head and what we showed about it. GitHub's
    # times are whole seconds: one of the same second may be older.
    if asked.head != asked.ledger_head or (asked.named_sha is None and asked.comment_at <= asked.head_since):
        return "head_moved"
    if not asked.lint_ok:
        return "lint_not_green"
    if not asked.preview_done:
        return "not_previewed"
    if asked.named_sha is None and (not asked.shown_at or asked.comment_at <= asked.shown_at):
        return "shown_too_late"
    return "granted"
