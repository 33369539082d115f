"""REST: repositories, branches, refs, commits, contents, comparisons, forks, labels, statuses."""

from __future__ import annotations

import base64
import binascii
from urllib.parse import quote

from fastapi import APIRouter, Request, Response

from sandbox.forge import pulls, views, views_work
from sandbox.forge.api_apps import actor
from sandbox.forge.auth import ApiError, need_login, need_workflows, not_found, require
from sandbox.forge.git import ZERO, BareRepo, Entry, Signature, is_name
from sandbox.forge.records import Json, Repo, Status
from sandbox.forge.state import Forge
from sandbox.forge.wire import Body, LockedRouter, fields, invalid, paginate, reply, text_field

# GitHub docs, "Get repository content" and "Compare two commits".
LISTED, SHOWN, COMPARED = 1000, 1024 * 1024, 300  # files of a folder, bytes of a file, files of a comparison


def router(forge: Forge) -> APIRouter:
    api = LockedRouter(forge.lock, "/repos/{owner}/{name}")

    def readable(request: Request, owner: str, name: str, permission: str = "contents") -> Repo:
        return require(forge, actor(forge, request), forge.repo(owner, name), permission)

    def writable(request: Request, owner: str, name: str, permission: str = "contents") -> Repo:
        return require(forge, actor(forge, request), forge.repo(owner, name), permission, "write", "write")

    @api.get("")
    def repository(request: Request, owner: str, name: str) -> Response:
        repo = readable(request, owner, name, "metadata")
        who = actor(forge, request)
        role = forge.role(repo, who.login) if who.kind == "user" else None
        return reply(request, views.full_repository(forge, repo, role))

    @api.post("/forks")
    def fork(request: Request, owner: str, name: str, body: Body) -> Response:
        who = need_login(actor(forge, request))
        repo = require(forge, who, forge.repo(owner, name), "contents")
        if who.kind != "user":
            raise ApiError(403, "Resource not accessible by integration")
        wanted = fields(body).get("name")
        made = forge.fork_repo(repo, who.login, wanted if isinstance(wanted, str) else None)
        return reply(request, views.full_repository(forge, made, "admin"), 202)

    @api.get("/forks")
    def forks(request: Request, owner: str, name: str) -> Response:
        repo = readable(request, owner, name, "metadata")
        found = [other for other in forge.repos if other.fork_of == repo.id]
        return paginate(request, forge, found, lambda other: views.repository(forge, other))

    @api.get("/labels")
    def labels(request: Request, owner: str, name: str) -> Response:
        repo = readable(request, owner, name, "metadata")
        found = [label for label in forge.labels if label.repo == repo.id]
        return paginate(request, forge, found, lambda label: views.label(forge, repo, label))

    @api.post("/labels")
    def create_label(request: Request, owner: str, name: str, body: Body) -> Response:
        who = actor(forge, request)
        repo = require(forge, who, forge.repo(owner, name), ("issues", "pull_requests"), "write", "write")
        wanted = text_field(body, "name", "Label")
        if any(x.repo == repo.id and x.name.casefold() == wanted.casefold() for x in forge.labels):
            raise invalid("Label", "name", "already_exists")
        label = forge.label(repo, wanted)
        label.color = text_field(body, "color", "Label", "ededed").lstrip("#")
        label.description = text_field(body, "description", "Label", "")
        forge.labels.put(label)
        return reply(request, views.label(forge, repo, label), 201)

    @api.get("/labels/{label}")
    def get_label(request: Request, owner: str, name: str, label: str) -> Response:
        repo = readable(request, owner, name, "metadata")
        for known in forge.labels:
            if known.repo == repo.id and known.name.casefold() == label.casefold():
                return reply(request, views.label(forge, repo, known))
        raise not_found()

    # -- branches and refs

    @api.get("/branches")
    def branches(request: Request, owner: str, name: str) -> Response:
        repo = readable(request, owner, name)
        found = sorted(forge.git(repo).refs("refs/heads").items())

        def show(item: tuple[str, str]) -> Json:
            url = f"{views.of_repo(forge, repo)}/commits/{item[1]}"
            return {"name": item[0][11:], "commit": {"sha": item[1], "url": url}, "protected": False}

        return paginate(request, forge, found, show)

    @api.get("/branches/{branch:path}")
    def branch(request: Request, owner: str, name: str, branch: str) -> Response:
        repo = readable(request, owner, name)
        git = forge.git(repo)
        sha = git.resolve(f"refs/heads/{branch}") if is_name(branch) else None
        if sha is None:
            raise ApiError(404, "Branch not found")
        url = f"{views.of_repo(forge, repo)}/branches/{quote(branch)}"
        body: Json = {
            "name": branch, "commit": views.branch_of_commit(forge, repo, git.commit(sha)),
            "_links": {"self": url, "html": views.page(forge, f"/{repo.full_name}/tree/{branch}")},
            "protected": False, "protection": {"enabled": False}, "protection_url": f"{url}/protection",
        }  # fmt: skip
        return reply(request, body)

    def ref_body(repo: Repo, ref: str, sha: str) -> Json:
        kind = forge.git(repo).object_kind(sha)
        return {
            "ref": ref, "node_id": views.node("Ref", f"{repo.id}:{ref}"),
            "url": f"{views.of_repo(forge, repo)}/git/{quote(ref)}",
            "object": {"type": kind, "sha": sha, "url": f"{views.of_repo(forge, repo)}/git/{kind}s/{sha}"},
        }  # fmt: skip

    @api.get("/git/ref/{ref:path}")
    def one_ref(request: Request, owner: str, name: str, ref: str) -> Response:
        repo = readable(request, owner, name)
        full = f"refs/{ref.removeprefix('refs/')}"
        sha = forge.git(repo).refs(full).get(full) if is_name(ref) else None
        if sha is None:
            raise not_found()
        return reply(request, ref_body(repo, full, sha))

    @api.get("/git/matching-refs/{ref:path}")
    def matching_refs(request: Request, owner: str, name: str, ref: str) -> Response:
        repo = readable(request, owner, name)
        found = [i for i in sorted(forge.git(repo).refs().items()) if i[0].startswith(f"refs/{ref}")]
        return paginate(request, forge, found, lambda item: ref_body(repo, *item))

    @api.post("/git/refs")
    def create_ref(request: Request, owner: str, name: str, body: Body) -> Response:
        repo = writable(request, owner, name)
        ref, sha = text_field(body, "ref", "Reference"), text_field(body, "sha", "Reference")
        git = forge.git(repo)
        if not ref.startswith(("refs/heads/", "refs/tags/")) or not is_name(ref):
            raise invalid("Reference", "ref")
        if ref in git.refs(ref):
            raise ApiError(422, "Reference already exists")
        if len(sha) != 40 or git.resolve(sha) is None:
            raise ApiError(422, "Object does not exist")
        git.update_ref(ref, sha, ZERO)
        pulls.after_push(forge, repo, {ref: (ZERO, sha)}, actor(forge, request).login)
        return reply(request, ref_body(repo, ref, sha), 201)

    @api.patch("/git/refs/{ref:path}")
    def move_ref(request: Request, owner: str, name: str, ref: str, body: Body) -> Response:
        repo = writable(request, owner, name)
        full, git = f"refs/{ref}", forge.git(repo)
        old = git.refs(full).get(full) if is_name(ref) else None
        sha = text_field(body, "sha", "Reference")
        if old is None or full.startswith("refs/pull/"):
            raise ApiError(422, "Reference does not exist")
        if len(sha) != 40 or git.resolve(sha) is None:
            raise ApiError(422, "Object does not exist")
        if not fields(body).get("force") and not git.is_ancestor(old, sha):
            raise ApiError(422, "Update is not a fast forward")
        git.update_ref(full, sha, old)
        pulls.after_push(forge, repo, {full: (old, sha)}, actor(forge, request).login)
        return reply(request, ref_body(repo, full, sha))

    @api.delete("/git/refs/{ref:path}")
    def delete_ref(request: Request, owner: str, name: str, ref: str) -> Response:
        repo = writable(request, owner, name)
        full, git = f"refs/{ref}", forge.git(repo)
        old = git.refs(full).get(full) if is_name(ref) else None
        if old is None or full.startswith("refs/pull/"):
            raise ApiError(422, "Reference does not exist")
        git.delete_ref(full)
        pulls.after_push(forge, repo, {full: (old, ZERO)}, actor(forge, request).login)
        return Response(status_code=204)

    # -- commits

    def commit_of(repo: Repo, ref: str) -> str:
        sha = forge.git(repo).resolve(ref)
        if sha is None:
            raise ApiError(422, f"No commit found for SHA: {ref}")
        return sha

    @api.get("/commits")
    def commits(request: Request, owner: str, name: str) -> Response:
        repo = readable(request, owner, name)
        git = forge.git(repo)
        start = git.resolve(request.query_params.get("sha") or repo.default_branch)
        if start is None:
            raise ApiError(409, "Git Repository is empty.")
        path = request.query_params.get("path")
        found = git.commits(start, *(["--", f":(literal){path}"] if path else []), limit=1000)
        return paginate(request, forge, found, lambda c: views.branch_of_commit(forge, repo, c))

    @api.get("/commits/{ref:path}/status")
    def combined(request: Request, owner: str, name: str, ref: str) -> Response:
        repo = readable(request, owner, name, "statuses")
        sha = commit_of(repo, ref)
        newest: dict[str, Status] = {
            s.context: s for s in forge.statuses if s.repo == repo.id and s.sha == sha
        }
        states = {status.state for status in newest.values()}
        state = (
            "failure" if states & {"failure", "error"} else "success" if states == {"success"} else "pending"
        )
        url = f"{views.of_repo(forge, repo)}/commits/{sha}"
        body = {
            "state": state, "sha": sha,
            "statuses": [views_work.status(forge, repo, s) for s in newest.values()],
            "total_count": len(newest), "repository": views.repository(forge, repo), "commit_url": url,
            "url": f"{url}/status",
        }  # fmt: skip
        return reply(request, body)

    @api.get("/commits/{ref:path}/statuses")
    def statuses(request: Request, owner: str, name: str, ref: str) -> Response:
        repo = readable(request, owner, name, "statuses")
        sha = commit_of(repo, ref)
        found = [s for s in reversed(list(forge.statuses)) if s.repo == repo.id and s.sha == sha]
        return paginate(request, forge, found, lambda s: views_work.status(forge, repo, s))

    @api.post("/statuses/{sha}")
    def create_status(request: Request, owner: str, name: str, sha: str, body: Body) -> Response:
        repo = writable(request, owner, name, "statuses")
        state = text_field(body, "state", "Status")
        if state not in ("error", "failure", "pending", "success"):
            raise invalid("Status", "state")
        item = Status(
            forge.next_id(), repo.id, commit_of(repo, sha), state,
            text_field(body, "context", "Status", "default"), fields(body).get("description"),
            fields(body).get("target_url"), actor(forge, request).login, forge.now(),
        )  # fmt: skip
        return reply(request, views_work.status(forge, repo, forge.statuses.put(item)), 201)

    @api.get("/commits/{ref:path}/pulls")
    def pulls_of_commit(request: Request, owner: str, name: str, ref: str) -> Response:
        repo = readable(request, owner, name, "pull_requests")
        sha = commit_of(repo, ref)
        found = [p for p in forge.pulls if p.repo == repo.id and sha in (p.head_sha, p.merge_commit_sha)]
        return paginate(request, forge, found, lambda p: views.pull_simple(forge, repo, p))

    @api.get("/compare/{span:path}")
    def compare(request: Request, owner: str, name: str, span: str) -> Response:
        repo = readable(request, owner, name)
        git = forge.git(repo)
        left, dots, right = span.partition("...")
        base, head = git.resolve(left), git.resolve(right)
        merge_base = git.merge_base(base, head) if dots and base and head else None
        if base is None or head is None or merge_base is None:
            raise not_found()
        ahead, behind = git.count(f"{base}..{head}"), git.count(f"{head}..{base}")
        state = "diverged" if ahead and behind else "ahead" if ahead else "behind" if behind else "identical"
        html = views.page(forge, f"/{repo.full_name}/compare/{quote(span)}")
        listed, changes = git.commits(f"{base}..{head}", reverse=True), git.changes(merge_base, head)
        body: Json = {
            "url": f"{views.of_repo(forge, repo)}/compare/{quote(span)}", "html_url": html,
            "permalink_url": views.page(forge, f"/{repo.full_name}/compare/{base}...{head}"),
            "diff_url": f"{html}.diff", "patch_url": f"{html}.patch", "status": state, "ahead_by": ahead,
            "base_commit": views.branch_of_commit(forge, repo, git.commit(base)), "behind_by": behind,
            "merge_base_commit": views.branch_of_commit(forge, repo, git.commit(merge_base)),
            "total_commits": ahead, "commits": [views.branch_of_commit(forge, repo, c) for c in listed],
            "files": [views.diff_entry(forge, repo, c, head) for c in changes[:COMPARED]],
        }  # fmt: skip
        return reply(request, body)

    @api.get("/commits/{ref:path}")
    def commit(request: Request, owner: str, name: str, ref: str) -> Response:
        repo = readable(request, owner, name)
        git = forge.git(repo)
        found = git.commit(commit_of(repo, ref))
        if "application/vnd.github.sha" in request.headers.get("accept", ""):
            return Response(found.sha, media_type="application/vnd.github.sha")
        return reply(request, views.branch_of_commit(forge, repo, found, detail=True))

    # -- contents

    @api.get("/contents/{path:path}")
    def contents(request: Request, owner: str, name: str, path: str) -> Response:
        repo = readable(request, owner, name)
        git = forge.git(repo)
        ref = request.query_params.get("ref") or repo.default_branch
        sha = git.resolve(ref)
        if sha is None:
            raise ApiError(404, f"No commit found for the ref {ref}")
        entry = git.entry(sha, path) if path.strip("/") else None
        if path.strip("/") and entry is None:
            raise not_found()
        if entry is None or entry.kind == "tree":
            shown = [_content(forge, repo, item, ref) for item in git.entries(sha, path)[:LISTED]]
            return reply(request, shown)
        if "raw" in request.headers.get("accept", ""):
            return Response(git.blob(entry.sha), media_type="application/vnd.github.raw")
        body = _content(forge, repo, entry, ref)
        if entry.size > SHOWN:
            body |= {"encoding": "none", "content": ""}
        elif entry.kind == "blob":
            body |= {"encoding": "base64", "content": base64.encodebytes(git.blob(entry.sha)).decode()}
        return reply(request, body)

    @api.put("/contents/{path:path}")
    def put_contents(request: Request, owner: str, name: str, path: str, body: Body) -> Response:
        repo = writable(request, owner, name)
        need_workflows(actor(forge, request), [path])
        git = forge.git(repo)
        branch = text_field(body, "branch", "Content", repo.default_branch)
        tip = git.resolve(f"refs/heads/{branch}") if is_name(branch) else None
        if tip is None:
            raise ApiError(404, f"Branch {branch} not found")
        old = git.entry(tip, path)
        if old is not None and old.sha != fields(body).get("sha"):
            raise ApiError(409 if fields(body).get("sha") else 422, f"{path} does not match {old.sha}")
        if any(part in ("", ".", "..", ".git") for part in path.split("/")):
            raise invalid("Content", "path")
        try:
            data = base64.b64decode(text_field(body, "content", "Content"))
        except binascii.Error as error:
            raise ApiError(422, "content is not valid Base64") from error
        who = actor(forge, request).login
        sha = _commit_file(git, tip, path, data, text_field(body, "message", "Content"), who, forge.now())
        git.update_ref(f"refs/heads/{branch}", sha, tip)
        pulls.after_push(forge, repo, {f"refs/heads/{branch}": (tip, sha)}, who)
        entry = git.entry(sha, path)
        commit = git.commit(sha)
        shown = views.branch_of_commit(forge, repo, commit)
        answer = {
            "content": _content(forge, repo, entry, branch) if entry else None,
            "commit": shown["commit"] | {"sha": sha, "node_id": shown["node_id"],
                                         "html_url": shown["html_url"],
                                         "parents": shown["parents"]},
        }  # fmt: skip
        return reply(request, answer, 200 if old else 201)

    return api


def _content(forge: Forge, repo: Repo, entry: Entry, ref: str) -> Json:
    where = quote(entry.path)
    kind = {"tree": "dir", "commit": "submodule"}.get(
        entry.kind, "symlink" if entry.mode == "120000" else "file"
    )
    url = f"{views.of_repo(forge, repo)}/contents/{where}?ref={quote(ref)}"
    git_url = f"{views.of_repo(forge, repo)}/git/{'trees' if kind == 'dir' else 'blobs'}/{entry.sha}"
    html = views.page(forge, f"/{repo.full_name}/{'tree' if kind == 'dir' else 'blob'}/{quote(ref)}/{where}")
    raw = views.page(forge, f"/{repo.full_name}/raw/{quote(ref)}/{where}") if kind == "file" else None
    return {
        "type": kind, "size": entry.size, "name": entry.path.rpartition("/")[2], "path": entry.path,
        "sha": entry.sha, "url": url, "git_url": git_url, "html_url": html, "download_url": raw,
        "_links": {"git": git_url, "html": html, "self": url},
    }  # fmt: skip


def _commit_file(git: BareRepo, tip: str, path: str, data: bytes, message: str, login: str, now: str) -> str:
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as scratch:
        env = {"GIT_INDEX_FILE": str(Path(scratch) / "index")}
        git.run("read-tree", tip, env=env)
        blob = git.run("hash-object", "-w", "--stdin", data=data).decode().strip()
        git.run("update-index", "--add", "--cacheinfo", f"100644,{blob},{path}", env=env)
        tree = git.run("write-tree", env=env).decode().strip()
    who = Signature(login, f"{login}@users.noreply.localhost", now)
    return git.commit_tree(tree, (tip,), message, who, who)
