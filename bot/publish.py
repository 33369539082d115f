"""What people see: the comment and the checks, each found before it is made, edited in place, and spared when
equal.

The comment is a function of what is stored, so any job may publish it at any time and the last one is right.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from github import GithubException

from bot import labels, replies
from bot.github import Repository
from bot.services import Services
from bot.store import Pull
from lab.contracts import digest
from lab.report.checks import Check
from lab.report.comment import PullRequestView, State, Turn, pull_request_comment
from lab.taxonomy.findings import Finding

MARKER = "<!-- treewright:pull-request -->"
FINAL = ":final"
"""Ends the digest of a check that was concluded."""


def findings_of(review: Mapping[str, Any]) -> list[Finding]:
    return [Finding(**row) for row in (review["lint"] or {}).get("findings", [])]


def lint_ok(review: Mapping[str, Any]) -> bool:
    return bool(review["lint"]) and bool(review["lint"]["ok"])


def _state(
    pull: Pull, review: Mapping[str, Any], release: Mapping[str, Any] | None, turn: Turn | None
) -> State:
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
        return "waiting" if turn is not None and not turn.running else "checking"
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
    place = services.store.place(pull.repo_id, pull.number)
    turn = None if place is None else Turn(place.running, place.ahead, place.seconds)
    told = review["config"]
    return PullRequestView(
        state=_state(pull, review, release, turn),
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
        turn=turn,
        cost=(review["lint"] or {}).get("cost"),
        config=told["changes"] if told else None,
        config_readable=told["readable"] if told else True,
        commands=replies.help_rows(),
    )


def comment(services: Services, pull: Pull) -> None:
    """Bring the pull request's one comment up to date. It is looked at even when we have nothing new to say:
    one that somebody deleted or edited is put right again. Of two of ours the oldest is the one.
    """
    with services.comment_locks[pull.key]:
        now = services.pull(pull.repo_id, pull.number)
        view = view_of(services, now)
        _write(services, now, pull_request_comment(view))
        labels.follow(services, now, view.state)


def _write(services: Services, pull: Pull, body: str) -> None:
    repository = services.repository(pull)
    body_digest = digest(body)
    standing = _standing(repository, pull)
    if standing is not None and pull.comment_digest == body_digest and standing["body"] == body:
        return
    # Before the edit: whoever reads from now on does not read of another head any more.
    services.store.not_shown(pull)
    written = repository.edit_comment(int(standing["id"]), body) if standing is not None else None
    if written is None:
        written = _first(repository, pull, repository.create_comment(pull.number, body), body)
    services.store.update_pull(pull, comment_id=int(written["id"]), comment_digest=body_digest)
    _note_shown(services, pull, str(written["updated_at"]))


def _standing(repository: Repository, pull: Pull) -> dict[str, Any] | None:
    """Our comment as it is on the pull request now."""
    if pull.comment_id is not None:
        try:
            return dict(repository.ask("GET", f"/issues/comments/{pull.comment_id}"))
        except GithubException as error:
            if error.status != 404:
                raise
    return repository.find_comment(pull.number, MARKER)


def _first(repository: Repository, pull: Pull, made: dict[str, Any], body: str) -> dict[str, Any]:
    """The comment that stays, when another replica wrote one in the same moment: the older one."""
    first = repository.find_comment(pull.number, MARKER)
    if first is None or first["id"] == made["id"]:
        return made
    kept = repository.edit_comment(int(first["id"]), body)
    if kept is None:
        return made
    repository.ask("DELETE", f"/issues/comments/{made['id']}")
    return kept


def _note_shown(services: Services, pull: Pull, at: str) -> None:
    """Remember, by GitHub's clock, since when people can read the finished result of this head."""
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


def concluded(services: Services, pull: Pull, external_id: str) -> bool:
    """Whether the check run of this id has its conclusion; a job that is done again leaves it so."""
    known = services.store.written(f"{pull.key}:check:{external_id}")
    return known is not None and str(known["digest"]).endswith(FINAL)


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
