"""Records as GitHub's JSON: reviews and review comments. See `views.py`."""

from __future__ import annotations

from sandbox.forge import views
from sandbox.forge.records import Json, Pull, Repo, Review, ReviewComment
from sandbox.forge.state import Forge


def review(forge: Forge, repo: Repo, pull: Pull, item: Review) -> Json:
    html = views.page(forge, f"/{repo.full_name}/pull/{pull.number}#pullrequestreview-{item.id}")
    url = f"{views.of_repo(forge, repo)}/pulls/{pull.number}"
    return {
        "id": item.id, "node_id": views.node("PullRequestReview", item.id),
        "user": views.simple_user(forge, item.login), "body": item.body, "state": item.state,
        "html_url": html, "pull_request_url": url, "submitted_at": item.submitted_at,
        "commit_id": item.commit, "author_association": forge.association(repo, item.login),
        "_links": {"html": {"href": html}, "pull_request": {"href": url}},
    }  # fmt: skip


def comment(forge: Forge, repo: Repo, pull: Pull, item: ReviewComment) -> Json:
    """`line` is where it stands in the newest head, null when it is outdated; `original_line` is fixed."""
    from sandbox.forge import reviews

    first, line = reviews.lines_now(forge, repo, pull, item)
    written = (
        reviews.diff_places(forge, repo, pull, item.commit).get(item.path, {}).get((item.side, item.line))
    )
    now = reviews.diff_places(forge, repo, pull, pull.head_sha).get(item.path, {})
    place = now.get((item.side, line)) if line is not None else None
    url = f"{views.of_repo(forge, repo)}/pulls/comments/{item.id}"
    pull_url = f"{views.of_repo(forge, repo)}/pulls/{pull.number}"
    html = views.page(forge, f"/{repo.full_name}/pull/{pull.number}#discussion_r{item.id}")
    body: Json = {
        "id": item.id, "node_id": views.node("PullRequestReviewComment", item.id), "url": url,
        "pull_request_review_id": item.review, "diff_hunk": written.shown if written else "",
        "path": item.path, "position": place.position if place else None,
        "original_position": written.position if written else 1,
        "commit_id": item.commit if line is None else pull.head_sha, "original_commit_id": item.commit,
        "user": views.simple_user(forge, item.login), "body": item.body, "created_at": item.created_at,
        "updated_at": item.updated_at, "html_url": html, "pull_request_url": pull_url,
        "author_association": forge.association(repo, item.login),
        "_links": {"self": {"href": url}, "html": {"href": html}, "pull_request": {"href": pull_url}},
        "start_line": first, "original_start_line": item.start_line,
        "start_side": item.side if item.start_line is not None else None, "line": line,
        "original_line": item.line, "side": item.side, "subject_type": "line",
        "reactions": views.reaction_rollup(forge, f"review-comment:{item.id}", repo, f"{url}/reactions"),
    }  # fmt: skip
    if item.reply_to is not None:
        body["in_reply_to_id"] = item.reply_to
    return body
