"""REST: reviews of pull requests and their comments on lines of the diff."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from sandbox.forge import reviews, views_reviews
from sandbox.forge.api_apps import actor
from sandbox.forge.api_pulls import COMMENT_CHARACTERS
from sandbox.forge.auth import Actor, ApiError, need_login, not_found, require
from sandbox.forge.records import Pull, Repo, Review, ReviewComment
from sandbox.forge.reviews import Draft, OutsideError
from sandbox.forge.state import ROLES, Forge
from sandbox.forge.wire import Body, LockedRouter, fields, invalid, paginate, reply, text_field


def router(forge: Forge) -> APIRouter:
    api = LockedRouter(forge.lock, "/repos/{owner}/{name}/pulls")

    def enter(request: Request, owner: str, name: str, level: str = "read") -> tuple[Repo, Actor]:
        who = actor(forge, request)
        return require(forge, who, forge.repo(owner, name), "pull_requests", level), who

    def numbered(repo: Repo, number: int) -> Pull:
        pull = forge.pull(repo, number)
        if pull is None:
            raise not_found()
        return pull

    def known_review(repo: Repo, number: int, key: int) -> Review:
        found = forge.reviews.get(key)
        if found is None or (found.repo, found.number) != (repo.id, number):
            raise not_found()
        return found

    def known_comment(repo: Repo, key: int) -> ReviewComment:
        found = forge.review_comments.get(key)
        if found is None or found.repo != repo.id:
            raise not_found()
        return found

    def may_edit(repo: Repo, who: Actor, author: str) -> None:
        need_login(who)
        if who.kind == "user" and who.login != author and ROLES.index(forge.role(repo, who.login)) < 3:
            raise ApiError(403, "You are neither the author nor a maintainer.")

    def show(repo: Repo, item: ReviewComment) -> Any:
        return views_reviews.comment(forge, repo, numbered(repo, item.number), item)

    # -- reviews

    @api.get("/{number:int}/reviews")
    def list_reviews(request: Request, owner: str, name: str, number: int) -> Response:
        repo, _ = enter(request, owner, name)
        pull = numbered(repo, number)
        found = [r for r in forge.reviews if (r.repo, r.number) == (repo.id, number)]
        return paginate(request, forge, found, lambda r: views_reviews.review(forge, repo, pull, r))

    @api.post("/{number:int}/reviews")
    def submit(request: Request, owner: str, name: str, number: int, body: Body) -> Response:
        repo, who = enter(request, owner, name, "write")
        need_login(who)
        pull, wanted = numbered(repo, number), fields(body)
        listed = wanted.get("comments") or []
        if not isinstance(listed, list):
            raise invalid("PullRequestReview", "comments")
        try:
            made = reviews.submit(
                forge, repo, pull, who.login, _app(who), event=str(wanted.get("event") or "PENDING"),
                body=str(wanted.get("body") or ""), commit=str(wanted.get("commit_id") or pull.head_sha),
                drafts=[_draft(item) for item in listed],
            )  # fmt: skip
        except OutsideError as error:
            raise ApiError(422, "Unprocessable Entity", [str(error)]) from error
        return reply(request, views_reviews.review(forge, repo, pull, made))

    @api.get("/{number:int}/reviews/{key:int}")
    def get_review(request: Request, owner: str, name: str, number: int, key: int) -> Response:
        repo, _ = enter(request, owner, name)
        found = known_review(repo, number, key)
        return reply(request, views_reviews.review(forge, repo, numbered(repo, number), found))

    @api.put("/{number:int}/reviews/{key:int}")
    def edit_review(request: Request, owner: str, name: str, number: int, key: int, body: Body) -> Response:
        repo, who = enter(request, owner, name, "write")
        found = known_review(repo, number, key)
        may_edit(repo, who, found.login)
        found.body = text_field(body, "body", "PullRequestReview")
        forge.reviews.put(found)
        return reply(request, views_reviews.review(forge, repo, numbered(repo, number), found))

    @api.get("/{number:int}/reviews/{key:int}/comments")
    def comments_of(request: Request, owner: str, name: str, number: int, key: int) -> Response:
        repo, _ = enter(request, owner, name)
        review = known_review(repo, number, key)
        found = [c for c in forge.review_comments if c.review == review.id]
        return paginate(request, forge, found, lambda c: show(repo, c))

    # -- comments

    @api.get("/comments")
    def all_comments(request: Request, owner: str, name: str) -> Response:
        repo, _ = enter(request, owner, name)
        since = request.query_params.get("since", "")
        found = [c for c in forge.review_comments if c.repo == repo.id and c.updated_at >= since]
        return paginate(request, forge, found, lambda c: show(repo, c))

    @api.get("/{number:int}/comments")
    def comments(request: Request, owner: str, name: str, number: int) -> Response:
        repo, _ = enter(request, owner, name)
        numbered(repo, number)
        since = request.query_params.get("since", "")
        mine = [c for c in forge.review_comments if (c.repo, c.number) == (repo.id, number)]
        found = [c for c in mine if c.updated_at >= since]
        return paginate(request, forge, found, lambda c: show(repo, c))

    @api.post("/{number:int}/comments")
    def create(request: Request, owner: str, name: str, number: int, body: Body) -> Response:
        repo, who = enter(request, owner, name, "write")
        need_login(who)
        pull, wanted = numbered(repo, number), fields(body)
        reply_to = wanted.get("in_reply_to")
        if isinstance(reply_to, int):
            return answer(request, repo, pull, who, reply_to, body)
        draft, commit = _draft(wanted), text_field(body, "commit_id", "PullRequestReviewComment")
        try:
            review = reviews.submit(
                forge, repo, pull, who.login, _app(who), event="COMMENT", body="", commit=commit,
                drafts=[draft],
            )  # fmt: skip
        except OutsideError as error:
            where = "pull_request_review_thread.line"
            raise invalid("PullRequestReviewComment", where, "custom", f"{where}: {error}") from error
        made = next(c for c in forge.review_comments if c.review == review.id)
        return reply(request, show(repo, made), 201)

    @api.post("/{number:int}/comments/{key:int}/replies")
    def answer_route(request: Request, owner: str, name: str, number: int, key: int, body: Body) -> Response:
        repo, who = enter(request, owner, name, "write")
        return answer(request, repo, numbered(repo, number), need_login(who), key, body)

    def answer(request: Request, repo: Repo, pull: Pull, who: Actor, key: int, body: Any) -> Response:
        to = known_comment(repo, key)
        if to.number != pull.number:
            raise not_found()
        review = forge.reviews.put(
            Review(
                forge.next_id(), repo.id, pull.number, who.login, "", "COMMENTED", to.commit, forge.now(),
                _app(who),
            )
        )  # fmt: skip
        draft = Draft(to.path, _words(body), to.line, to.side, to.start_line)
        made = reviews.add(forge, repo, pull, review, draft, to.reply_to or to.id)
        return reply(request, show(repo, made), 201)

    @api.get("/comments/{key:int}")
    def get_comment(request: Request, owner: str, name: str, key: int) -> Response:
        repo, _ = enter(request, owner, name)
        return reply(request, show(repo, known_comment(repo, key)))

    @api.patch("/comments/{key:int}")
    def edit_comment(request: Request, owner: str, name: str, key: int, body: Body) -> Response:
        repo, who = enter(request, owner, name, "write")
        found = known_comment(repo, key)
        may_edit(repo, who, found.login)
        was, found.body, found.updated_at = found.body, _words(body), forge.now()
        forge.review_comments.put(found)
        reviews.tell_comment(forge, repo, numbered(repo, found.number), found, "edited", who.login, was)
        return reply(request, show(repo, found))

    @api.delete("/comments/{key:int}")
    def delete_comment(request: Request, owner: str, name: str, key: int) -> Response:
        repo, who = enter(request, owner, name, "write")
        found = known_comment(repo, key)
        may_edit(repo, who, found.login)
        reviews.remove(forge, repo, numbered(repo, found.number), found, who.login)
        return Response(status_code=204)

    return api


def _app(who: Actor) -> int | None:
    return who.app if who.kind == "installation" else None


def _words(body: Any) -> str:
    text = text_field(body, "body", "PullRequestReviewComment")
    if not text.strip():
        raise invalid("PullRequestReviewComment", "body", "missing_field")
    if len(text) > COMMENT_CHARACTERS:
        message = f"body is too long (maximum is {COMMENT_CHARACTERS} characters)"
        raise invalid("PullRequestReviewComment", "body", "custom", message)
    return text


def _draft(item: Any) -> Draft:
    """`position` is what GitHub phases out, so it is not taken."""
    wanted = fields(item)
    line, start, side = wanted.get("line"), wanted.get("start_line"), wanted.get("side") or "RIGHT"
    if not isinstance(line, int) or not (start is None or isinstance(start, int)):
        raise invalid("PullRequestReviewComment", "line", "missing_field")
    if side not in ("LEFT", "RIGHT") or (wanted.get("start_side") or side) != side:
        raise invalid("PullRequestReviewComment", "side")
    return Draft(text_field(item, "path", "PullRequestReviewComment"), _words(item), line, side, start)
