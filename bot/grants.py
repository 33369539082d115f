"""What the App is granted and told: the one table from which the set-up's manifest, the tokens that the bot
asks for, `treewright doctor` and docs/operators.md all derive.

A permission that isn't here is too much. Names and levels are GitHub's own ("Permissions required for GitHub
Apps" and "Webhook events and payloads" in its REST documentation).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

Level = Literal["read", "write", "admin"]
LEVELS = ("none", "read", "write", "admin")


@dataclass(frozen=True)
class Grant:
    """One permission and what it is for; `scope` is where GitHub's page lists it."""

    name: str
    level: Level
    scope: Literal["repository", "organization"]
    why: str


@dataclass(frozen=True)
class Subscription:
    """One event of the App's webhook. Unless `chosen`, GitHub sends it to every App by itself, and a manifest
    must not name it.
    """

    name: str
    why: str
    chosen: bool = True


GRANTS = (
    Grant("actions", "write", "repository", "start the release workflow and follow its runs"),
    Grant("checks", "write", "repository", "the checks for lint, preview and release"),
    Grant("contents", "write", "repository", "read the tree, merge exactly the approved commit"),
    Grant("issues", "write", "repository", "the comment, replies, reactions and labels"),
    Grant("members", "read", "organization", "who is in a team that may approve"),
    Grant("metadata", "read", "repository", "GitHub gives it with any other permission"),
    Grant("pull_requests", "write", "repository", "read pull requests and merge them"),
)
SUBSCRIPTIONS = (
    Subscription("check_run", "a check's buttons and its re-run"),
    Subscription("issue_comment", "commands in comments"),
    Subscription("pull_request", "opened, pushed, closed"),
    Subscription("repository", "renamed and transferred repositories"),
    Subscription("workflow_run", "how a release goes on"),
    Subscription("installation", "where the App was installed", chosen=False),
    Subscription("installation_repositories", "which repositories it sees", chosen=False),
)
PERMISSIONS: Mapping[str, str] = {grant.name: grant.level for grant in GRANTS}
EVENTS = tuple(one.name for one in SUBSCRIPTIONS if one.chosen)


@dataclass(frozen=True)
class Difference:
    """How what is granted differs from what is needed, as text for people; empty when it is right."""

    missing: tuple[str, ...] = ()
    excess: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.missing or self.excess)


def compare_permissions(granted: Mapping[str, str]) -> Difference:
    """`granted` as GitHub shows it, name -> level."""
    missing, excess = [], []
    for grant in GRANTS:
        has = _rank(granted.get(grant.name, "none"))
        if has < _rank(grant.level):
            missing.append(f"{grant.name}: {grant.level}")
        elif has > _rank(grant.level):
            excess.append(f"{grant.name}: {granted[grant.name]} ({grant.level} is enough)")
    excess += [f"{name}: {level}" for name, level in sorted(granted.items()) if name not in PERMISSIONS]
    return Difference(tuple(missing), tuple(excess))


def compare_events(heard: Iterable[str]) -> Difference:
    """`heard`: the events that the App is subscribed to."""
    known = set(heard)
    always = {one.name for one in SUBSCRIPTIONS if not one.chosen}
    missing = tuple(name for name in EVENTS if name not in known)
    return Difference(missing, tuple(sorted(known - set(EVENTS) - always)))


def _rank(level: str) -> int:
    return LEVELS.index(level) if level in LEVELS else len(LEVELS)
