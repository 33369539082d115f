"""What people see: the comment and the checks, each found before it is made, edited in place, and spared when
equal.

The comment is a function of what is stored, so any job may publish it at any time and the last one is right.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bot import replies
from bot.services import Services
from bot.store import Pull
from lab.contracts import digest
from lab.report.checks import Check
from lab.report.comment import PullRequestView, State, pull_request_comment
from lab.taxonomy.findings import Finding

MARKER = "<!-- treewright:pull-request -->"
FINAL = ":final"
"""Ends the digest of a check that was concluded."""


def findings_of(review: Mapping[str, Any]) -> list[Finding]:
    return [Finding(**row) for row in (review["lint"] or {}).get("findings", [])]


def lint_ok(review: Mapping[str, Any]) -> bool:
    return bool(review["lint"]) and bool(review["lint"]["ok"])


def _state(pull: Pull, review: Mapping[str, Any], release: Mapping[str, Any] | None) -> State:
    if release is not None:
        states: dict[str, State] = {"published": "released", "failed": "release_failed"}
        return states.get(release["state"], "releasing")
    if pull.state != "open":
        return "merged" if pull.state == "merged" else "closed"
    if pull.held_by:
        return "held"
    if review["trouble"] and review["preview_state"] != "failed":
        return "trouble"
    if not review["lint"]:
        return "checking"
    if not review["lint"]["ok"]:
        return "fix"
    previews: dict[str, State] = {"done": "ready", "empty": "nothing_to_learn", "failed": "preview_failed"}
    return previews.get(review["preview_state"], "previewing")


def view_of(services: Services, pull: Pull, head: str | None = None) -> PullRequestView:
    """Everything that the comment and the checks of a head say."""
    sha = head or pull.head
    review = services.store.review(pull, sha)
    approval = services.store.approval(pull)
    release = services.store.release_of(pull)
    return PullRequestView(
        state=_state(pull, review, release),
        marker=MARKER,
        repository_url=f"{services.settings.web_url}/{pull.repo}",
        author=pull.author,
        head=sha,
        findings=findings_of(review),
        files=(review["lint"] or {}).get("files", 0),
        changes=review["diff"] or (),
        preview=review["preview"],
        trouble=release["trouble"] if release is not None else review["trouble"],
        held_by=pull.held_by,
        approved_by=approval["login"] if approval is not None and approval["merge_sha"] else "",
        merge_sha=approval["merge_sha"] if approval is not None else "",
        run_url=release["run_url"] if release is not None else "",
        release_url=release["url"] if release is not None else "",
        commands=replies.help_rows(),
    )


def comment(services: Services, pull: Pull) -> None:
    """Bring the pull request's one comment up to date; make it again when somebody deleted it."""
    repository = services.repository(pull)
    with services.comment_locks[pull.key]:
        now = services.pull(pull.repo_id, pull.number)
        body = pull_request_comment(view_of(services, now))
        body_digest = digest(body)
        if now.comment_id is not None and now.comment_digest == body_digest:
            return
        written = repository.edit_comment(now.comment_id, body) if now.comment_id is not None else None
        if written is None:
            found = repository.find_comment(now.number, MARKER)
            if found is not None:
                written = repository.edit_comment(int(found["id"]), body)
        if written is None:
            written = repository.create_comment(now.number, body)
        services.store.update_pull(now, comment_id=int(written["id"]), comment_digest=body_digest)
        _note_shown(services, now, str(written["updated_at"]))


def _note_shown(services: Services, pull: Pull, at: str) -> None:
    """Remember, by GitHub's clock, since when people could read the finished result of this head."""
    review = services.store.review(pull, pull.head)
    if review["preview_state"] not in {"done", "empty"}:
        return
    if not review["shown"] or review["shown_digest"] != review["preview_digest"]:
        services.store.update_review(pull, pull.head, shown=at, shown_digest=review["preview_digest"])


def reply(services: Services, pull: Pull, comment_id: int, body: str) -> None:
    """Answer a command's comment, once."""
    once(services, pull, f"reply:{comment_id}", replies.marker(comment_id), body)


def once(services: Services, pull: Pull, key: str, marker: str, body: str) -> None:
    """Write a comment that carries `marker`, unless we know or find that it is there."""
    whole = f"{pull.key}:{key}"
    done = services.store.written(whole)
    if done is not None and done["done"]:
        return
    repository = services.repository(pull)
    # An earlier try may have written it and lost the answer, so we always look first.
    found = repository.find_comment(pull.number, marker) or repository.create_comment(pull.number, body)
    services.store.wrote(whole, int(found["id"]))


def check(services: Services, pull: Pull, head: str, external_id: str, value: Check) -> None:
    """Write a check run of `head` under `external_id`: made once, then edited, annotations in batches of
    50.
    """
    repository = services.repository(pull)
    key = f"{pull.key}:check:{external_id}"
    known = services.store.written(key)
    identifier = known["remote"] if known is not None else None
    sent = 0
    if identifier is None or value.annotations:
        found = repository.find_check(head, value.name, external_id) if known is not None else None
        if found is not None:
            identifier = int(found["id"])
            sent = int(found["output"]["annotations_count"] or 0)
    whole = digest(_payload(value)) + (FINAL if value.conclusion is not None else "")
    if known is not None and identifier is not None and known["digest"] == whole:
        return
    batches = list(value.batches(sent))
    if identifier is None:
        services.store.wrote(key, done=False)
        first = _payload(value, batches.pop(0) if batches else [], final=not batches)
        made = repository.create_check(
            {"name": value.name, "head_sha": head, "external_id": external_id, **first}
        )
        identifier = int(made["id"])
        services.store.wrote(key, identifier)
        if not batches:
            services.store.wrote(key, identifier, whole)
            return
    for index, batch in enumerate(batches or [[]]):
        last = index >= len(batches) - 1
        repository.edit_check(identifier, _payload(value, batch, final=last))
    services.store.wrote(key, identifier, whole)


def _payload(
    value: Check, annotations: list[Mapping[str, Any]] | None = None, final: bool = True
) -> dict[str, Any]:
    output: dict[str, Any] = {"title": value.title[:255], "summary": value.summary or value.title}
    if annotations:
        output["annotations"] = [dict(row) for row in annotations]
    done = final and value.conclusion is not None
    payload: dict[str, Any] = {"output": output, "status": "completed" if done else "in_progress"}
    if done:
        payload["conclusion"] = value.conclusion
        payload["actions"] = [
            {"label": b.label[:20], "description": b.description[:40], "identifier": b.identifier[:20]}
            for b in value.buttons[:3]
        ]
    if value.details_url.startswith(("https://", "http://")):
        payload["details_url"] = value.details_url
    return payload
