"""REST: pull requests, issues (which here are always pull requests), comments, reactions, labels."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from sandbox.forge import events, pulls, views
from sandbox.forge.api_apps import actor
from sandbox.forge.auth import Actor, ApiError, need_login, need_workflows, not_found, require
from sandbox.forge.records import Comment, Json, Pull, Reaction, Repo
from sandbox.forge.state import ROLES, Forge
from sandbox.forge.wire import Body, LockedRouter, fields, invalid, paginate, reply, text_field

COMMENT_CHARACTERS = 65536  # GitHub's limit of a comment's body
FILES = 3000  # GitHub lists no more files of a pull request
TALK = ("issues", "pull_requests")  # either permission lets an App speak on a pull request


def router(forge: Forge) -> APIRouter:
    api = LockedRouter(forge.lock, "/repos/{owner}/{name}")

    def enter(
        request: Request, owner: str, name: str, permission: Any, level: str = "read", role: str = "read"
    ) -> tuple[Repo, Actor]:
        who = actor(forge, request)
        return require(forge, who, forge.repo(owner, name), permission, level, role), who

    def numbered(repo: Repo, number: int) -> Pull:
        pull = forge.pull(repo, number)
        if pull is None:
            raise not_found()
        return pull

    def may_edit(repo: Repo, who: Actor, author: str) -> None:
        """People edit their own words, maintainers everybody's; an App needs its permission only."""
        if who.kind == "user" and who.login != author and ROLES.index(forge.role(repo, who.login)) < 3:
            raise ApiError(403, "You are neither the author nor a maintainer.")

    # -- pull requests

    @api.get("/pulls")
    def list_pulls(request: Request, owner: str, name: str) -> Response:
        repo, _ = enter(request, owner, name, "pull_requests")
        query = request.query_params
        state, base, head = query.get("state", "open"), query.get("base"), query.get("head")
        found = [p for p in forge.pulls if p.repo == repo.id and state in ("all", p.state)]
        if base:
            found = [p for p in found if p.base_ref == base]
        if head:
            user, _, ref = head.rpartition(":")
            found = [
                p for p in found if (p.head_ref == ref and _head_owner(forge, p) in (user, "")) or not ref
            ]
        updated = query.get("sort") == "updated"
        found.sort(key=lambda p: (p.updated_at, p.number) if updated else ("", p.number))
        if query.get("direction", "desc") != "asc":
            found.reverse()
        return paginate(request, forge, found, lambda p: views.pull_simple(forge, repo, p))

    @api.post("/pulls")
    def open_pull(request: Request, owner: str, name: str, body: Body) -> Response:
        repo, who = enter(request, owner, name, "pull_requests", "write")
        head, base = text_field(body, "head", "PullRequest"), text_field(body, "base", "PullRequest")
        title = text_field(body, "title", "PullRequest")
        made = pulls.open_pull(
            forge, repo, who.login, title, fields(body).get("body") or "", head, base,
            bool(fields(body).get("draft")),
        )  # fmt: skip
        return reply(request, views.pull_request(forge, repo, made, fresh=True), 201)

    @api.get("/pulls/{number:int}")
    def get_pull(request: Request, owner: str, name: str, number: int) -> Response:
        repo, _ = enter(request, owner, name, "pull_requests")
        return reply(request, views.pull_request(forge, repo, numbered(repo, number)))

    @api.patch("/pulls/{number:int}")
    def update_pull(request: Request, owner: str, name: str, number: int, body: Body) -> Response:
        repo, who = enter(request, owner, name, "pull_requests", "write")
        pull = numbered(repo, number)
        may_edit(repo, who, pull.login)
        pulls.update_pull(forge, repo, pull, who.login, fields(body))
        return reply(request, views.pull_request(forge, repo, pull))

    @api.get("/pulls/{number:int}/files")
    def files(request: Request, owner: str, name: str, number: int) -> Response:
        repo, _ = enter(request, owner, name, "pull_requests")
        pull = numbered(repo, number)
        found = pulls.files(forge, repo, pull)[:FILES]
        return paginate(request, forge, found, lambda c: views.diff_entry(forge, repo, c, pull.head_sha))

    @api.get("/pulls/{number:int}/commits")
    def commits(request: Request, owner: str, name: str, number: int) -> Response:
        repo, _ = enter(request, owner, name, "pull_requests")
        found = pulls.commits(forge, repo, numbered(repo, number))
        return paginate(request, forge, found, lambda c: views.branch_of_commit(forge, repo, c))

    @api.get("/pulls/{number:int}/merge")
    def is_merged(request: Request, owner: str, name: str, number: int) -> Response:
        repo, _ = enter(request, owner, name, "pull_requests")
        if numbered(repo, number).merged_at is None:
            raise not_found()
        return Response(status_code=204)

    @api.put("/pulls/{number:int}/merge")
    def merge(request: Request, owner: str, name: str, number: int, body: Body) -> Response:
        repo, who = enter(request, owner, name, "contents", "write", "write")
        wanted, pull = fields(body), numbered(repo, number)
        if wanted.get("merge_method") not in (None, "merge", "squash", "rebase"):
            raise invalid("PullRequest", "merge_method")
        if pull.state == "open":
            need_workflows(who, [c.path for c in pulls.files(forge, repo, pull)])
        try:
            sha = pulls.merge_pull(
                forge, repo, pull, who.login, wanted.get("sha"),
                wanted.get("merge_method") or "merge", wanted.get("commit_title"),
                wanted.get("commit_message"),
            )  # fmt: skip
        except pulls.HeadMovedError as error:
            raise ApiError(409, str(error)) from error
        except pulls.UnmergeableError as error:
            raise ApiError(405, str(error)) from error
        return reply(request, {"sha": sha, "merged": True, "message": "Pull Request successfully merged"})

    # -- issues

    @api.get("/issues/{number:int}")
    def get_issue(request: Request, owner: str, name: str, number: int) -> Response:
        repo, _ = enter(request, owner, name, TALK)
        return reply(request, views.issue(forge, repo, numbered(repo, number)))

    @api.patch("/issues/{number:int}")
    def update_issue(request: Request, owner: str, name: str, number: int, body: Body) -> Response:
        repo, who = enter(request, owner, name, TALK, "write")
        pull = numbered(repo, number)
        may_edit(repo, who, pull.login)
        pulls.update_pull(forge, repo, pull, who.login, fields(body))
        # Of those who may not label, GitHub drops the labels without a word.
        may_label = who.kind != "user" or ROLES.index(forge.role(repo, who.login)) >= ROLES.index("triage")
        if isinstance(fields(body).get("labels"), list) and may_label:
            pulls.set_labels(forge, repo, pull, _names(body), who.login)
        return reply(request, views.issue(forge, repo, pull))

    @api.get("/issues/{number:int}/labels")
    def issue_labels(request: Request, owner: str, name: str, number: int) -> Response:
        repo, _ = enter(request, owner, name, TALK)
        return _labels(request, forge, repo, numbered(repo, number))

    @api.post("/issues/{number:int}/labels")
    def add_labels(request: Request, owner: str, name: str, number: int, body: Body) -> Response:
        repo, who = enter(request, owner, name, TALK, "write", "triage")
        pull = numbered(repo, number)
        pulls.set_labels(forge, repo, pull, [*pull.labels, *_names(body)], who.login)
        return _labels(request, forge, repo, pull)

    @api.put("/issues/{number:int}/labels")
    def set_labels(request: Request, owner: str, name: str, number: int, body: Body) -> Response:
        repo, who = enter(request, owner, name, TALK, "write", "triage")
        pull = numbered(repo, number)
        pulls.set_labels(forge, repo, pull, _names(body), who.login)
        return _labels(request, forge, repo, pull)

    @api.delete("/issues/{number:int}/labels/{label}")
    def remove_label(request: Request, owner: str, name: str, number: int, label: str) -> Response:
        repo, who = enter(request, owner, name, TALK, "write", "triage")
        pull = numbered(repo, number)
        kept = [known for known in pull.labels if known.casefold() != label.casefold()]
        if len(kept) == len(pull.labels):
            raise ApiError(404, "Label does not exist")
        pulls.set_labels(forge, repo, pull, kept, who.login)
        return _labels(request, forge, repo, pull)

    # -- comments

    def talk(repo: Repo, comment: Comment, action: str, sender: str, extra: Json | None = None) -> None:
        pull = numbered(repo, comment.number)
        body = {"issue": views.issue(forge, repo, pull), "comment": views.comment(forge, repo, comment)}
        events.emit(forge, repo, "issue_comment", action, body | (extra or {}), sender)

    def known_comment(repo: Repo, key: int) -> Comment:
        found = forge.comments.get(key)
        if found is None or found.repo != repo.id:
            raise not_found()
        return found

    def checked(body: Any) -> str:
        text = text_field(body, "body", "IssueComment")
        if not text.strip():
            raise invalid("IssueComment", "body", "missing_field")
        if len(text) > COMMENT_CHARACTERS:
            message = f"body is too long (maximum is {COMMENT_CHARACTERS} characters)"
            raise invalid("IssueComment", "body", "custom", message)
        return text

    @api.get("/issues/{number:int}/comments")
    def comments(request: Request, owner: str, name: str, number: int) -> Response:
        repo, _ = enter(request, owner, name, TALK)
        numbered(repo, number)
        since = request.query_params.get("since", "")
        found = [
            c for c in forge.comments if c.repo == repo.id and c.number == number and c.updated_at >= since
        ]
        return paginate(request, forge, found, lambda c: views.comment(forge, repo, c))

    @api.get("/issues/comments")
    def all_comments(request: Request, owner: str, name: str) -> Response:
        repo, _ = enter(request, owner, name, TALK)
        since = request.query_params.get("since", "")
        found = [c for c in forge.comments if c.repo == repo.id and c.updated_at >= since]
        return paginate(request, forge, found, lambda c: views.comment(forge, repo, c))

    @api.post("/issues/{number:int}/comments")
    def create_comment(request: Request, owner: str, name: str, number: int, body: Body) -> Response:
        repo, who = enter(request, owner, name, TALK, "write")
        pull, now = numbered(repo, number), forge.now()
        made = Comment(
            forge.next_id(), repo.id, pull.number, who.login, checked(body), now, now,
            who.app if who.kind == "installation" else None,
        )  # fmt: skip
        forge.comments.put(made)
        pull.updated_at = now
        forge.pulls.put(pull)
        talk(repo, made, "created", who.login)
        return reply(request, views.comment(forge, repo, made), 201)

    @api.get("/issues/comments/{key:int}")
    def get_comment(request: Request, owner: str, name: str, key: int) -> Response:
        repo, _ = enter(request, owner, name, TALK)
        return reply(request, views.comment(forge, repo, known_comment(repo, key)))

    @api.patch("/issues/comments/{key:int}")
    def edit_comment(request: Request, owner: str, name: str, key: int, body: Body) -> Response:
        repo, who = enter(request, owner, name, TALK, "write")
        found = known_comment(repo, key)
        may_edit(repo, who, found.login)
        old, found.body, found.updated_at = found.body, checked(body), forge.now()
        forge.comments.put(found)
        talk(repo, found, "edited", who.login, {"changes": {"body": {"from": old}}})
        return reply(request, views.comment(forge, repo, found))

    @api.delete("/issues/comments/{key:int}")
    def delete_comment(request: Request, owner: str, name: str, key: int) -> Response:
        repo, who = enter(request, owner, name, TALK, "write")
        found = known_comment(repo, key)
        may_edit(repo, who, found.login)
        forge.comments.remove(found.id)
        talk(repo, found, "deleted", who.login)
        return Response(status_code=204)

    # -- reactions

    def reactions(request: Request, repo: Repo, subject: str) -> Response:
        wanted = request.query_params.get("content")
        found = [r for r in forge.reactions if r.repo == repo.id and r.subject == subject]
        found = [r for r in found if wanted in (None, r.content)]
        return paginate(request, forge, found, lambda r: views.reaction(forge, r))

    def react(request: Request, repo: Repo, who: Actor, subject: str, body: Any) -> Response:
        content = text_field(body, "content", "Reaction")
        if content not in views.REACTIONS:
            raise invalid("Reaction", "content")
        for known in forge.reactions:
            if (known.repo, known.subject, known.login, known.content) == (
                repo.id,
                subject,
                who.login,
                content,
            ):
                return reply(request, views.reaction(forge, known), 200)
        made = Reaction(forge.next_id(), repo.id, subject, who.login, content, forge.now())
        return reply(request, views.reaction(forge, forge.reactions.put(made)), 201)

    def unreact(repo: Repo, who: Actor, subject: str, reaction: int) -> Response:
        known = forge.reactions.get(reaction)
        if known is None or known.subject != subject or known.repo != repo.id or known.login != who.login:
            raise not_found()
        forge.reactions.remove(known.id)
        return Response(status_code=204)

    @api.get("/issues/comments/{key:int}/reactions")
    def comment_reactions(request: Request, owner: str, name: str, key: int) -> Response:
        repo, _ = enter(request, owner, name, TALK)
        return reactions(request, repo, f"comment:{known_comment(repo, key).id}")

    @api.post("/issues/comments/{key:int}/reactions")
    def react_comment(request: Request, owner: str, name: str, key: int, body: Body) -> Response:
        repo, who = enter(request, owner, name, TALK, "write")
        return react(request, repo, need_login(who), f"comment:{known_comment(repo, key).id}", body)

    @api.delete("/issues/comments/{key:int}/reactions/{reaction:int}")
    def unreact_comment(request: Request, owner: str, name: str, key: int, reaction: int) -> Response:
        repo, who = enter(request, owner, name, TALK, "write")
        return unreact(repo, who, f"comment:{known_comment(repo, key).id}", reaction)

    @api.get("/issues/{number:int}/reactions")
    def issue_reactions(request: Request, owner: str, name: str, number: int) -> Response:
        repo, _ = enter(request, owner, name, TALK)
        return reactions(request, repo, f"issue:{numbered(repo, number).number}")

    @api.post("/issues/{number:int}/reactions")
    def react_issue(request: Request, owner: str, name: str, number: int, body: Body) -> Response:
        repo, who = enter(request, owner, name, TALK, "write")
        return react(request, repo, need_login(who), f"issue:{numbered(repo, number).number}", body)

    return api


def _head_owner(forge: Forge, pull: Pull) -> str:
    head = forge.repos.get(pull.head_repo)
    return head.owner if head is not None else ""


def _names(body: Any) -> list[str]:
    """GitHub takes `{"labels": [...]}` and a bare list, of names or of objects with a name; PyGithub sends
    the latter.
    """
    listed = body if isinstance(body, list) else fields(body).get("labels", [])
    if not isinstance(listed, list):
        raise invalid("Label", "labels")
    names = [item.get("name") if isinstance(item, dict) else item for item in listed]
    if not all(isinstance(name, str) and 0 < len(name) <= 50 for name in names):
        raise invalid("Label", "name")
    return [str(name) for name in names]


def _labels(request: Request, forge: Forge, repo: Repo, pull: Pull) -> Response:
    return reply(request, [views.label(forge, repo, forge.label(repo, name)) for name in pull.labels])
