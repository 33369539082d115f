"""`/approve`: find out everything, decide (`policy.py`), check again, merge exactly that commit, start its
release.

An approval is bound to the pull request, the head and the digest of its preview. GitHub itself refuses the
merge when the head moved between our last look and the merge, for the request names the sha.
"""

from __future__ import annotations

from github import GithubException

from bot import audit, policy, publish, release, replies, review
from bot.events import CheckEvent, CommentEvent
from bot.github import transient
from bot.services import Services, default_config, open_trees
from bot.store import Pull
from lab.config import RepositoryConfig


def person(
    services: Services, pull: Pull, said: CommentEvent | CheckEvent, config: RepositoryConfig
) -> policy.Person:
    """Who speaks, by GitHub's API. Whatever goes wrong there leaves the role unknown, which is a no."""
    repository = services.repository(pull)
    role: str | None = None
    in_team = False
    if said.user_type == "User":
        try:
            role = repository.permission(said.login)
            in_team = any(repository.in_team(team, said.login) for team in config.approval.teams)
        except Exception:
            role, in_team = None, False
            audit.trouble("permission unknown", repo=pull.repo, login=said.login)
    return policy.Person(said.login, said.user_id, said.user_type, role, in_team)


def rules(config: RepositoryConfig) -> policy.Rules:
    approval = config.approval
    return policy.Rules(approval.permission, tuple(approval.users), approval.author_may_approve)


def approve(services: Services, pull: Pull, said: CommentEvent, named_sha: str | None) -> str | None:
    """Do it, or say why not: the text of the reply; None when it was done (the comment and the check show
    it).
    """
    pull = services.refresh(pull)
    earlier = services.store.approval(pull)
    if earlier is not None and earlier["comment_id"] == said.comment_id:
        return _merge(services, pull, earlier["head"], said)
    config = default_config(services, pull)
    asked = _gather(services, pull, said, named_sha, config)
    decision = policy.decide(asked, rules(config))
    audit.decided(
        "approval",
        granted=decision.granted,
        reason=decision.reason,
        repo=pull.repo,
        number=pull.number,
        login=said.login,
        user_id=said.user_id,
        head=asked.head,
        comment=said.comment_id,
    )
    if not decision.granted:
        return replies.approval_refused(decision.reason, asked.head)
    report, _ = review.read_head(open_trees(services, pull, asked.head))
    if not report.ok:
        return replies.approval_refused("lint_not_green", asked.head)
    services.store.approve(
        pull,
        head=asked.head,
        preview_digest=services.store.review(pull, asked.head)["preview_digest"],
        login=said.login,
        user_id=said.user_id,
        comment_id=said.comment_id,
        at=said.at,
    )
    return _merge(services, pull, asked.head, said)


def _gather(
    services: Services, pull: Pull, said: CommentEvent, named_sha: str | None, config: RepositoryConfig
) -> policy.Asked:
    facts = services.repository(pull).pull(pull.number)
    ledger = services.store.heads(pull.repo_id, pull.number)
    seen = services.store.review(pull, facts.head)
    return policy.Asked(
        person=person(services, pull, said, config),
        author_id=pull.author_id,
        comment_at=said.at,
        named_sha=named_sha,
        state=facts.state,
        held=bool(pull.held_by),
        head=facts.head,
        ledger_head=ledger[-1].sha if ledger else "",
        head_since=ledger[-1].since if ledger else "9999",
        lint_ok=publish.lint_ok(seen),
        preview_done=seen["preview_state"] in {"done", "empty"},
        shown_at=seen["shown"] if seen["shown_digest"] == seen["preview_digest"] else "",
    )


def _merge(services: Services, pull: Pull, head: str, said: CommentEvent) -> str | None:
    """Merge `head` and start the release; also the second half of a try that was interrupted."""
    repository = services.repository(pull)
    now = repository.pull(pull.number)
    if now.state == "merged":
        if now.head != head:
            return replies.approval_refused("not_open", now.head)
        merge_sha = repository.merge_commit(pull.number)
    else:
        try:
            merge_sha = repository.merge(pull.number, head, f"Merge pull request #{pull.number}")
        except GithubException as error:
            if error.status == 409:
                return replies.approval_refused("head_moved", now.head)
            if transient(error):
                raise
            return replies.merge_failed(str((error.data or {}).get("message", error.status)))
    _bind(services, pull, head, merge_sha)
    pull = services.refresh(pull)
    audit.decided("merged", repo=pull.repo, number=pull.number, head=head, merge=merge_sha, login=said.login)
    if services.store.review(pull, head)["diff"]:
        release.start(services, pull, merge_sha)
    publish.comment(services, pull)
    return None


def _bind(services: Services, pull: Pull, head: str, merge_sha: str) -> None:
    known = services.store.approval(pull)
    if known is not None:
        services.store.approve(pull, **{**dict(known), "head": head, "merge_sha": merge_sha})
