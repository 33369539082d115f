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
from bot.jobbook import Row
from bot.services import Services, default_settings, open_trees
from bot.store import Pull
from lab.config import RepositoryConfig
from lab.taxonomy.diff import diff
from lab.taxonomy.tree import GitTree


def person(
    services: Services, pull: Pull, said: CommentEvent | CheckEvent, config: RepositoryConfig
) -> policy.Person:
    """Who speaks, by GitHub's API. Whatever goes wrong there leaves the role unknown, which is a no."""
    repository = services.repository(pull)
    role: str | None = None
    in_team = False
    login = said.login
    if said.user_type == "User":
        try:
            # By the number: the login in an old delivery may belong to somebody else by now.
            login = repository.login_of(said.user_id)
            role = repository.permission(login, said.user_id)
            in_team = any(repository.in_team(team, login) for team in config.approval.teams)
        except Exception:
            # Nothing is known then, also not that the login in the list of users is still this person's.
            login, role, in_team = "", None, False
            audit.trouble("permission unknown", repo=pull.repo, login=said.login, user_id=said.user_id)
    return policy.Person(login, said.user_id, said.user_type, role, in_team)


def rules(config: RepositoryConfig) -> policy.Rules:
    approval = config.approval
    return policy.Rules(approval.permission, tuple(approval.users), approval.author_may_approve)


def approve(services: Services, pull: Pull, said: CommentEvent, named_sha: str | None) -> str | None:
    """Do it, or say why not: the text of the reply; None when it was done (the comment and the check show
    it). Every try decides again, also the one after a crash between the decision and the merge.
    """
    pull = services.refresh(pull)
    earlier = services.store.approval(pull)
    if earlier is not None and earlier["comment_id"] == said.comment_id and pull.state == "merged":
        return _finish_merge(services, pull, said.login)
    config, broken = default_settings(services, pull)
    if broken:
        # The defaults would stand in for what it says about approving, and they may let more people do it.
        return replies.settings_broken(broken[0])
    asked, seen = _gather(services, pull, said, named_sha, config)
    decision = policy.decide(asked, rules(config))
    reason = decision.reason
    if decision.granted:
        reason = _check_again(services, pull, seen, earlier if _is_of(earlier, said) else None)
    audit.decided(
        "approval",
        granted=reason == "granted",
        reason=reason,
        repo=pull.repo,
        number=pull.number,
        login=said.login,
        user_id=said.user_id,
        head=asked.head,
        comment=said.comment_id,
    )
    if reason != "granted":
        return replies.approval_refused(reason, asked.head)
    services.store.approve(
        pull,
        head=asked.head,
        preview_digest=seen["preview_digest"],
        login=said.login,
        user_id=said.user_id,
        comment_id=said.comment_id,
        at=said.at,
    )
    return _merge(services, pull, asked.head, said)


def _is_of(approval: Row | None, said: CommentEvent) -> bool:
    return approval is not None and approval["comment_id"] == said.comment_id


def _check_again(services: Services, pull: Pull, seen: Row, earlier: Row | None) -> policy.Reason:
    """The look just before the merge: that the validator is content, and that what would be merged is what
    was previewed. `seen` is the review that was decided about, `earlier` this comment's own approval when a
    first try was interrupted.
    """
    head = seen["head"]
    trees = open_trees(services, pull, head)
    report, changes = review.read_head(trees)
    if not report.ok:
        return "lint_not_green"
    now = policy.Bound(head, services.store.review(pull, head)["preview_digest"], trees.base_sha)
    approved = policy.Bound(head, seen["preview_digest"], seen["base"])
    if earlier is not None:
        approved = policy.Bound(earlier["head"], earlier["preview_digest"], seen["base"])
    leaves = {place for one in changes.leaves for place in (one.path, one.old_path) if place}
    moved = diff(trees.base, GitTree(trees.mirror.git_dir, trees.base_tip)).paths
    return policy.stale(approved, now, leaves, moved) or "granted"


def _gather(
    services: Services, pull: Pull, said: CommentEvent, named_sha: str | None, config: RepositoryConfig
) -> tuple[policy.Asked, Row]:
    """All that is known about the approval, and the review of the head that it would merge."""
    facts = services.repository(pull).pull(pull.number)
    ledger = services.store.heads(pull.repo_id, pull.number)
    seen = services.store.review(pull, facts.head)
    asked = policy.Asked(
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
    return asked, seen


def _merge(services: Services, pull: Pull, head: str, said: CommentEvent) -> str | None:
    """Merge exactly `head`, then start the release."""
    repository = services.repository(pull)
    try:
        repository.merge(pull.number, head, f"Merge pull request #{pull.number}")
    except GithubException as error:
        now = repository.pull(pull.number)
        if now.state == "merged" and now.head == head:
            pass  # an earlier try did it, and its answer was lost
        elif error.status != 409 and transient(error):
            raise
        else:
            # It is over: whoever merges this by hand later does so on their own word, and starts no release.
            services.store.withdraw_approval(pull, head)
            if error.status == 409:
                return replies.approval_refused("head_moved", now.head)
            return replies.merge_failed(str((error.data or {}).get("message", error.status)))
    return _finish_merge(services, services.refresh(pull), said.login)


def _finish_merge(services: Services, pull: Pull, login: str) -> str | None:
    """What follows a merge; each part looks whether it was done. Also called by reconcile, when a merge of
    ours was not followed up.
    """
    approval = services.store.approval(pull)
    if approval is None or pull.state != "merged" or approval["head"] != pull.head:
        return replies.approval_refused("not_open", pull.head)
    merge_sha = services.repository(pull).merge_commit(pull.number)
    if not approval["merge_sha"]:
        services.store.approve(pull, **{**approval, "merge_sha": merge_sha})
        audit.decided(
            "merged", repo=pull.repo, number=pull.number, head=pull.head, merge=merge_sha, login=login
        )
    if services.store.review(pull, pull.head)["diff"]:
        release.start(services, pull, merge_sha)
    publish.comment(services, pull)
    return None


def follow_up(services: Services, repo_id: int, number: int) -> None:
    """A merge of ours that nobody followed up: start its release now."""
    pull = services.refresh(services.pull(repo_id, number))
    approval = services.store.approval(pull)
    _finish_merge(services, pull, approval["login"] if approval is not None else "")
