"""What a webhook says, read leniently: only the fields that we need, and never a failure on the ones we do
not know.

GitHub adds fields without notice and its own examples miss its own schemas (51 of 329 when we checked), so a
delivery is never refused for its shape; a field that we need and do not find makes the delivery `None`: not
for us.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class PullFacts:
    """A pull request as GitHub describes it; `updated` is GitHub's clock."""

    repo_id: int
    repo: str
    installation: int
    number: int
    head: str
    base_ref: str
    default_branch: str
    author: str
    author_id: int
    state: Literal["open", "closed", "merged"]
    updated: str


@dataclass(frozen=True)
class PullEvent:
    action: str
    pull: PullFacts


@dataclass(frozen=True)
class CommentEvent:
    """A new comment on a pull request. `at` is GitHub's clock."""

    repo_id: int
    repo: str
    installation: int
    number: int
    comment_id: int
    body: str
    at: str
    login: str
    user_id: int
    user_type: str


@dataclass(frozen=True)
class CheckEvent:
    """Somebody pressed re-run or one of our buttons; `app_id` says whose check it is."""

    action: str
    identifier: str
    check_id: int
    repo_id: int
    repo: str
    installation: int
    app_id: int
    head: str
    login: str
    user_id: int
    user_type: str


@dataclass(frozen=True)
class RunEvent:
    """A workflow run moved. `title` carries the release's key."""

    action: str
    repo_id: int
    repo: str
    installation: int
    run_id: int
    title: str
    status: str
    conclusion: str
    url: str
    event: str
    attempt: int = 1


@dataclass(frozen=True)
class InstallationEvent:
    action: str
    installation: int


@dataclass(frozen=True)
class RepositoryEvent:
    """A repository got another name or another owner; its number stays."""

    action: str
    repo_id: int
    repo: str
    installation: int


Event = PullEvent | CommentEvent | CheckEvent | RunEvent | InstallationEvent | RepositoryEvent


def identity(event: Event) -> str | None:
    """What an event is about, whatever delivery brought it: the third key against doing things twice. None
    for events that only make us look.

    A button of one check run counts once for each person: every new result is a new check run.
    """
    match event:
        case PullEvent(action=action, pull=pull):
            return f"pull:{pull.repo_id}:{pull.number}:{action}:{pull.head}:{pull.base_ref}:{pull.updated}"
        case CommentEvent():
            return f"comment:{event.repo_id}:{event.comment_id}:created"
        case CheckEvent():
            return f"check:{event.check_id}:{event.action}:{event.identifier}:{event.user_id}"
        case RunEvent():
            moved = f"{event.action}:{event.status}:{event.conclusion}"
            return f"run:{event.repo_id}:{event.run_id}:{event.attempt}:{moved}"
        case _:
            return None


def pull_facts(pull: Mapping[str, Any], repo: Mapping[str, Any], installation: int) -> PullFacts:
    """A pull request from GitHub's JSON, of a webhook or of the API."""
    merged = bool(pull.get("merged") or pull.get("merged_at"))
    return PullFacts(
        repo_id=int(repo["id"]),
        repo=str(repo["full_name"]),
        installation=installation,
        number=int(pull["number"]),
        head=str(pull["head"]["sha"]),
        base_ref=str(pull["base"]["ref"]),
        default_branch=str(repo["default_branch"]),
        author=str(pull["user"]["login"]),
        author_id=int(pull["user"]["id"]),
        state="merged" if merged else "open" if pull["state"] == "open" else "closed",
        updated=str(pull["updated_at"]),
    )


def read(event: str, body: Mapping[str, Any]) -> Event | None:
    """The event in a delivery, or None when it is nothing for us."""
    try:
        return _read(event, body)
    except (KeyError, TypeError, ValueError):
        return None


def _read(event: str, body: Mapping[str, Any]) -> Event | None:
    action = str(body.get("action", ""))
    installation = int(body["installation"]["id"])
    if event in {"installation", "installation_repositories"}:
        return InstallationEvent(action, installation)
    repo = body["repository"]
    where: dict[str, Any] = {
        "repo_id": int(repo["id"]),
        "repo": str(repo["full_name"]),
        "installation": installation,
    }
    if event == "repository":
        return RepositoryEvent(action, **where)
    if event == "pull_request":
        return PullEvent(action, pull_facts(body["pull_request"], repo, installation))
    if event == "issue_comment":
        if action != "created" or "pull_request" not in body["issue"]:
            return None
        comment = body["comment"]
        return CommentEvent(
            **where,
            number=int(body["issue"]["number"]),
            comment_id=int(comment["id"]),
            body=str(comment["body"] or ""),
            at=str(comment["created_at"]),
            login=str(comment["user"]["login"]),
            user_id=int(comment["user"]["id"]),
            user_type=str(comment["user"].get("type", "User")),
        )
    if event == "check_run" and action in {"rerequested", "requested_action"}:
        check = body["check_run"]
        return CheckEvent(
            **where,
            action=action,
            identifier=str((body.get("requested_action") or {}).get("identifier", "rerun")),
            check_id=int(check["id"]),
            app_id=int(check["app"]["id"]),
            head=str(check["head_sha"]),
            login=str(body["sender"]["login"]),
            user_id=int(body["sender"]["id"]),
            user_type=str(body["sender"].get("type", "User")),
        )
    if event == "workflow_run":
        run = body["workflow_run"]
        return RunEvent(
            **where,
            action=action,
            run_id=int(run["id"]),
            title=str(run.get("display_title") or run.get("name") or ""),
            status=str(run["status"]),
            conclusion=str(run.get("conclusion") or ""),
            url=str(run["html_url"]),
            event=str(run.get("event", "")),
            attempt=int(run.get("run_attempt") or 1),
        )
    return None
