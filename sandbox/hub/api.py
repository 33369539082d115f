"""The Hub's JSON API: who am I, repositories, commits, references, trees, and the files themselves."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import tempfile
import time
from datetime import UTC, datetime
from typing import IO, Any
from urllib.parse import quote

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, JSONResponse, Response

from sandbox.hub.app import Hub, check_type, error, resource_of, valid_name
from sandbox.hub.cards import card_data, card_problem
from sandbox.hub.identity import EXCHANGE, ID_TOKEN, ROLES, Caller, Denied, Publisher
from sandbox.hub.store import (
    OID,
    REGULAR_LIMIT,
    Add,
    Delete,
    Entry,
    Repository,
    StoreError,
    check_path,
    matches,
)

# base64 of the largest regular file, with room for its JSON; and the whole body of a commit.
COMMIT_LINE_LIMIT = 2 * REGULAR_LIMIT
COMMIT_LIMIT = 1024**3
SHA = re.compile(r"[0-9a-f]{7}|[0-9a-f]{40}")


def register(app: FastAPI, hub: Hub) -> None:
    _register_identity(app, hub)
    _register_writes(app, hub)
    _register_reads(app, hub)


def _register_identity(app: FastAPI, hub: Hub) -> None:
    def admin(request: Request) -> None:
        caller = hub.caller(request)
        if caller is None or caller.role != "admin":
            raise Denied(401 if caller is None else 403, "only the admin token of this hub may do that")

    @app.post("/_sandbox/tokens")
    async def add_token(request: Request) -> Response:
        admin(request)
        body = await _json(request)
        name, role, orgs = body.get("name"), body.get("role"), body.get("orgs", [])
        if not isinstance(name, str) or not name or role not in ROLES or not isinstance(orgs, list):
            return error(422, f"send name, role (one of {', '.join(ROLES)}) and, if any, orgs (a list)")
        token = hub.identity.add_token(name, str(role), [str(org) for org in orgs])
        return JSONResponse({"token": token, "name": name, "role": role}, status_code=201)

    @app.post("/_sandbox/publishers")
    async def add_publisher(request: Request) -> Response:
        admin(request)
        body = await _json(request)
        wanted = ("resource", "repository", "workflow", "environment")
        if not all(isinstance(body.get(field), str) and body[field] for field in wanted):
            return error(422, f"send {', '.join(wanted)} (each a text) and, if it matters, ref")
        resource, repository, workflow, environment = (str(body[field]) for field in wanted)
        ref = str(body.get("ref", ""))
        publisher = Publisher(resource, repository, workflow, environment, ref)
        hub.identity.add_publisher(publisher)
        return JSONResponse(vars(publisher), status_code=201)

    @app.get("/_sandbox/publishers")
    def list_publishers(request: Request) -> Response:
        admin(request)
        return JSONResponse([vars(publisher) for publisher in hub.identity.publishers()])

    @app.get("/api/whoami-v2")
    def whoami(request: Request) -> Response:
        caller = hub.caller(request)
        if caller is None:
            raise Denied(401, "Invalid username or password.")
        token = {"displayName": caller.name, "role": caller.role if caller.role != "admin" else "write"}
        orgs = [{"type": "org", "name": org} for org in caller.orgs]
        auth = {"type": "access_token", "accessToken": token}
        return JSONResponse(
            {"type": "user", "id": caller.name, "name": caller.name, "orgs": orgs, "auth": auth}
        )

    @app.post("/oauth/token")
    async def exchange(request: Request) -> Response:
        body = await _json(request)
        if body.get("grant_type") != EXCHANGE or body.get("subject_token_type") != ID_TOKEN:
            return _oauth_error(
                400, "unsupported_grant_type", f"only {EXCHANGE} of an id_token is offered here"
            )
        subject, resource = str(body.get("subject_token", "")), str(body.get("resource", ""))
        try:
            audiences = hub.audiences(request)
            answer = await run_in_threadpool(hub.identity.exchange, subject, resource, audiences)
        except Denied as refusal:
            return _oauth_error(refusal.status, "invalid_grant", str(refusal))
        return JSONResponse(answer, headers={"Cache-Control": "no-store"})


def _oauth_error(status: int, code: str, reason: str) -> Response:
    answer = error(status, f"{code}: {reason}")
    body = json.dumps({"error": code, "error_description": reason}).encode()
    return Response(body, status, {"X-Error-Message": answer.headers["X-Error-Message"]}, "application/json")


def _register_writes(app: FastAPI, hub: Hub) -> None:
    @app.post("/api/repos/create")
    async def create(request: Request) -> Response:
        caller = hub.caller(request)
        if caller is None:
            raise Denied(401, "Invalid username or password.")
        body = await _json(request)
        kind = check_type(str(body.get("type") or "model"))
        name = f"{body.get('organization') or caller.name}/{body.get('name')}"
        if not valid_name(name):
            return error(400, f"{name[:100]!r} is not a repository name")
        resource = resource_of(kind, name)
        if caller.resource is not None or not caller.may_write(resource):
            raise Denied(403, f"{caller.name} may not create {resource}")
        url = f"{hub.url(request)}/{resource}"
        if hub.identity.is_private(kind, name) is not None:
            body = {"error": "You already created this repo", "url": url}
            return JSONResponse(body, status_code=409)
        private = body.get("visibility") == "private" or bool(body.get("private"))
        await run_in_threadpool(Repository.create, hub.folder(kind, name), caller.name)
        hub.identity.add_repository(kind, name, private)
        return JSONResponse({"url": url, "name": name, "id": name})

    @app.post("/api/validate-yaml")
    async def validate(request: Request) -> Response:
        body = await _json(request)
        problem = card_problem(str(body.get("content", "")))
        errors = [{"message": problem}] if problem else []
        return JSONResponse({"errors": errors, "warnings": []}, status_code=400 if errors else 200)

    @app.post("/api/{kind}s/{ns}/{name}/preupload/{revision:path}")
    async def preupload(request: Request, kind: str, ns: str, name: str, revision: str) -> Response:
        repository = hub.open(request, kind, f"{ns}/{name}", write=True)
        body = await _json(request)
        return JSONResponse({"files": await run_in_threadpool(_modes, repository, revision, body)})

    @app.post("/api/{kind}s/{ns}/{name}/commit/{revision:path}")
    async def commit(request: Request, kind: str, ns: str, name: str, revision: str) -> Response:
        repository = hub.open(request, kind, f"{ns}/{name}", write=True)
        caller = hub.caller(request)
        if request.query_params.get("create_pr"):
            return error(400, "this hub has no pull requests: commit to a branch")
        with tempfile.TemporaryFile() as spool:
            received = 0
            async for block in request.stream():
                received += len(block)
                if received > COMMIT_LIMIT:
                    return error(413, f"a commit of more than {COMMIT_LIMIT} bytes: use LFS for large files")
                spool.write(block)
            spool.seek(0)
            made = await run_in_threadpool(_commit, repository, revision, spool, _author(caller))
        url = f"{hub.url(request)}/{resource_of(kind, f'{ns}/{name}')}/commit/{made}"
        return JSONResponse({"success": True, "commitUrl": url, "commitOid": made, "pullRequestUrl": None})

    @app.post("/api/{kind}s/{ns}/{name}/tag/{revision:path}")
    async def tag(request: Request, kind: str, ns: str, name: str, revision: str) -> Response:
        repository = hub.open(request, kind, f"{ns}/{name}", write=True)
        body = await _json(request)
        message = str(body["message"]) if body.get("message") else None
        author = _author(hub.caller(request))
        repository.tag(str(body.get("tag", "")), repository.resolve(revision), message, author)
        return JSONResponse({})

    @app.delete("/api/{kind}s/{ns}/{name}/tag/{tag_name:path}")
    def untag(request: Request, kind: str, ns: str, name: str, tag_name: str) -> Response:
        hub.open(request, kind, f"{ns}/{name}", write=True).delete_ref("tags", tag_name)
        return JSONResponse({})

    @app.post("/api/{kind}s/{ns}/{name}/branch/{branch:path}")
    async def add_branch(request: Request, kind: str, ns: str, name: str, branch: str) -> Response:
        repository = hub.open(request, kind, f"{ns}/{name}", write=True)
        body = await _json(request, optional=True)
        repository.branch(branch, repository.resolve(str(body.get("startingPoint") or "main")))
        return JSONResponse({})

    @app.delete("/api/{kind}s/{ns}/{name}/branch/{branch:path}")
    def drop_branch(request: Request, kind: str, ns: str, name: str, branch: str) -> Response:
        if branch == "main":
            return error(403, "the main branch stays")
        hub.open(request, kind, f"{ns}/{name}", write=True).delete_ref("heads", branch)
        return JSONResponse({})


def _register_reads(app: FastAPI, hub: Hub) -> None:
    @app.get("/api/{kind}s")
    def listing(request: Request, kind: str, author: str | None = None) -> Response:
        check_type(kind)
        caller = hub.caller(request)
        rows = []
        for found, name, private, _created in hub.identity.repositories():
            visible = not private or (caller is not None and caller.may_read(resource_of(kind, name)))
            if found == kind and visible and author in (None, name.split("/")[0]):
                rows.append(_info(hub, kind, name, Repository(hub.folder(kind, name)), "main"))
        return JSONResponse(rows)

    @app.get("/api/{kind}s/{ns}/{name}")
    def info(request: Request, kind: str, ns: str, name: str) -> Response:
        return revision_info(request, kind, ns, name, "main")

    @app.get("/api/{kind}s/{ns}/{name}/revision/{revision:path}")
    def revision_info(request: Request, kind: str, ns: str, name: str, revision: str) -> Response:
        repository = hub.open(request, kind, f"{ns}/{name}")
        blobs = request.query_params.get("blobs", "").lower() in ("1", "true")
        return JSONResponse(_info(hub, kind, f"{ns}/{name}", repository, revision, blobs))

    @app.get("/api/{kind}s/{ns}/{name}/refs")
    def refs(request: Request, kind: str, ns: str, name: str) -> Response:
        repository = hub.open(request, kind, f"{ns}/{name}")
        found = {
            field: [
                {"name": ref, "ref": f"refs/{folder}/{ref}", "targetCommit": oid}
                for ref, oid in repository.refs(folder).items()
            ]
            for field, folder in (("branches", "heads"), ("tags", "tags"))
        }
        return JSONResponse({**found, "converts": [], "pullRequests": []})

    @app.get("/api/{kind}s/{ns}/{name}/xet-{way}-token/{revision:path}")
    def xet(request: Request, kind: str, ns: str, name: str, way: str, revision: str) -> Response:
        hub.open(request, kind, f"{ns}/{name}")
        return error(404, "this hub stores large files as LFS: set HF_HUB_DISABLE_XET=1 for the client")

    @app.get("/api/{kind}s/{ns}/{name}/commits/{revision:path}")
    def commits(request: Request, kind: str, ns: str, name: str, revision: str) -> Response:
        rows = hub.open(request, kind, f"{ns}/{name}").commits(revision)
        shape = [
            {
                "id": row.oid,
                "title": row.title,
                "message": row.body,
                "authors": [{"user": row.author}],
                "date": _time(row.date),
            }
            for row in rows
        ]
        return JSONResponse(shape, headers={"X-Total-Count": str(len(shape))})

    @app.get("/api/{kind}s/{ns}/{name}/tree/{rest:path}")
    def tree(request: Request, kind: str, ns: str, name: str, rest: str) -> Response:
        repository = hub.open(request, kind, f"{ns}/{name}")
        commit, folder = repository.split(rest.rstrip("/"))
        recursive = request.query_params.get("recursive", "").lower() in ("1", "true")
        rows = tree_rows(repository.entries(commit), folder, recursive)
        if folder and not rows:
            raise StoreError(404, f"{folder[:200]} does not exist", "EntryNotFound")
        return JSONResponse(rows)

    @app.post("/api/{kind}s/{ns}/{name}/paths-info/{revision:path}")
    async def paths_info(request: Request, kind: str, ns: str, name: str, revision: str) -> Response:
        repository = hub.open(request, kind, f"{ns}/{name}")
        if request.headers.get("content-type", "").startswith("application/json"):
            paths = (await _json(request)).get("paths")
            if not isinstance(paths, list):
                raise StoreError(400, "paths must be a list")
            wanted = {str(path) for path in paths}
        else:
            wanted = {str(value) for key, value in (await request.form()).multi_items() if key == "paths"}
        entries = await run_in_threadpool(lambda: repository.entries(repository.resolve(revision)))
        folders = {path for path in wanted if any(entry.path.startswith(f"{path}/") for entry in entries)}
        rows = [_row(entry) for entry in entries if entry.path in wanted]
        return JSONResponse(
            rows + [{"type": "directory", "path": path, "oid": "0" * 40} for path in sorted(folders)]
        )

    @app.api_route("/{ns}/{name}/resolve/{rest:path}", methods=["GET", "HEAD"])
    def resolve_model(request: Request, ns: str, name: str, rest: str) -> Response:
        return _resolve(hub, request, "model", f"{ns}/{name}", rest)

    @app.api_route("/datasets/{ns}/{name}/resolve/{rest:path}", methods=["GET", "HEAD"])
    def resolve_dataset(request: Request, ns: str, name: str, rest: str) -> Response:
        return _resolve(hub, request, "dataset", f"{ns}/{name}", rest)


def _author(caller: Caller | None) -> str:
    return caller.name if caller else "hub"


async def _json(request: Request, optional: bool = False) -> dict[str, Any]:
    raw = b""
    async for block in request.stream():
        raw += block
        if len(raw) > 8 * 1024 * 1024:
            raise StoreError(413, "the body is larger than this call can need")
    if optional and not raw:
        return {}
    try:
        value = json.loads(raw)
    except ValueError as problem:
        raise StoreError(400, f"the body is not JSON: {problem}") from problem
    if not isinstance(value, dict):
        raise StoreError(400, "the body must be a JSON object")
    return value


def rows_of(body: dict[str, Any], name: str, fields: dict[str, type]) -> list[dict[str, Any]]:
    """A list of objects of a body, each with these fields; 400 when it is something else."""
    rows = body.get(name)
    fit = isinstance(rows, list) and all(
        isinstance(row, dict) and all(isinstance(row.get(field), kind) for field, kind in fields.items())
        for row in rows
    )
    if not fit:
        raise StoreError(400, f"{name} must be a list of objects with {' and '.join(fields)}")
    return list(rows or [])


def _modes(repository: Repository, revision: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    commit = repository.resolve(revision)
    current = {entry.path: entry for entry in repository.entries(commit)}
    patterns = repository.attribute_patterns(commit)
    rows = []
    for file in rows_of(body, "files", {"path": str, "size": int}):
        path, size = check_path(file["path"]), file["size"]
        try:
            sample = base64.b64decode(str(file.get("sample", "")))
        except ValueError as problem:  # not base64, or not even ASCII
            raise StoreError(400, f"the sample of {path} is not base64") from problem
        large = size > REGULAR_LIMIT or matches(path, patterns) or b"\0" in sample
        row = {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
        known = current.get(path)
        if known is not None:
            row["oid"] = known.lfs.oid if known.lfs else known.blob
        rows.append(row)
    return rows


def _commit(repository: Repository, revision: str, spool: IO[bytes], author: str) -> str:
    """Read the operations line by line and make the commit; nothing happens when a line is wrong."""
    header: dict[str, Any] | None = None
    operations: list[Add | Delete] = []
    while line := spool.readline(COMMIT_LINE_LIMIT + 1):
        if len(line) > COMMIT_LINE_LIMIT:
            raise StoreError(413, "a line of the commit is too long: files over 10 MB belong in LFS")
        if not line.strip():
            continue
        try:
            item = json.loads(line)
            key, value = item["key"], item["value"]
            if key == "header":
                header = dict(value)
            else:
                operations.append(_operation(repository, key, value))
        except (ValueError, KeyError, TypeError) as problem:
            raise StoreError(400, f"a line of the commit is not understood: {problem!r}") from problem
    if header is None or not header.get("summary"):
        raise StoreError(400, "a commit needs a header with a summary")
    parent = header.get("parentCommit")
    if parent is not None and not SHA.fullmatch(str(parent)):
        raise StoreError(400, "parentCommit is not a commit: 40 hexadecimal digits, or the first 7 of them")
    summary, description = str(header["summary"]), str(header.get("description") or "")
    return repository.commit(revision, operations, summary, description, author, parent)


def _operation(repository: Repository, key: str, value: dict[str, Any]) -> Add | Delete:
    path = str(value["path"])
    if key == "file":
        content = str(value["content"]).encode()
        if value.get("encoding", "base64") == "base64":
            content = base64.b64decode(content, validate=True)
        if len(content) > REGULAR_LIMIT:
            raise StoreError(400, f"{path} is larger than 10 MiB: files of that size belong in LFS")
        problem = card_problem(content.decode(errors="replace")) if path == "README.md" else None
        if problem:
            raise StoreError(400, f"Invalid metadata in README.md: {problem}")
        return Add(path, content)
    if key == "lfsFile":
        oid = str(value["oid"])
        if value.get("algo") != "sha256" or not OID.fullmatch(oid):
            raise ValueError("lfsFile needs algo sha256 and its oid")
        stored = repository.lfs.size(oid)
        if stored is None:
            raise StoreError(400, f"the LFS object of {path} was never uploaded", "LfsObjectNotFound")
        if value.get("size", stored) != stored:
            raise StoreError(400, f"the LFS object of {path} has {stored} bytes, not {value['size']}")
        return Add(path, None, oid, stored)
    if key in ("deletedFile", "deletedFolder"):
        return Delete(path, folder=key == "deletedFolder")
    raise ValueError(f"unknown operation {key!r}")


def _row(entry: Entry) -> dict[str, Any]:
    row: dict[str, Any] = {"type": "file", "oid": entry.blob, "size": entry.size, "path": entry.path}
    if entry.lfs:
        row["lfs"] = {"oid": entry.lfs.oid, "size": entry.lfs.size, "pointerSize": entry.lfs.pointer_size}
    return row


def tree_rows(entries: list[Entry], folder: str, recursive: bool) -> list[dict[str, Any]]:
    """Files below `folder` with every folder on the way; without `recursive`, only the first level."""
    prefix = f"{folder}/" if folder else ""
    folders: dict[str, None] = {}
    files = []
    for entry in entries:
        if not entry.path.startswith(prefix):
            continue
        parts = entry.path[len(prefix) :].split("/")
        for depth in range(1, len(parts)):
            if recursive or depth == 1:
                folders[prefix + "/".join(parts[:depth])] = None
        if recursive or len(parts) == 1:
            files.append(_row(entry))
    # A folder's own object id has no use to a client; the digest of its path keeps it stable and distinct.
    rows = [
        {
            "type": "directory",
            "oid": hashlib.sha1(path.encode(), usedforsecurity=False).hexdigest(),
            "size": 0,
        }
        | {"path": path}
        for path in folders
    ]
    return rows + files


def _sibling(entry: Entry) -> dict[str, Any]:
    row: dict[str, Any] = {"rfilename": entry.path, "blobId": entry.blob, "size": entry.size}
    if entry.lfs:
        row["lfs"] = {"sha256": entry.lfs.oid, "size": entry.lfs.size, "pointerSize": entry.lfs.pointer_size}
    return row


def _info(
    hub: Hub, kind: str, name: str, repository: Repository, revision: str, blobs: bool = False
) -> dict[str, Any]:
    commit = repository.resolve(revision)
    entries = repository.entries(commit)
    created = next((row[3] for row in hub.identity.repositories() if row[:2] == (kind, name)), time.time())
    card = card_data(repository, entries)
    siblings: list[dict[str, Any]] = [{"rfilename": entry.path} for entry in entries]
    if blobs:
        siblings = [_sibling(entry) for entry in entries]
    answer: dict[str, Any] = {
        "_id": hashlib.sha1(f"{kind}/{name}".encode(), usedforsecurity=False).hexdigest()[:24],
        "id": name,
        "author": name.split("/")[0],
        "sha": commit,
        "lastModified": _time(repository.commits(commit, 1)[0].date),
        "createdAt": datetime.fromtimestamp(created, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z"),
        "private": bool(hub.identity.is_private(kind, name)),
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [str(tag) for tag in card.get("tags") or []],
        "cardData": card,
        "siblings": siblings,
    }
    if kind == "model":
        answer["modelId"] = name
        for field in ("library_name", "pipeline_tag"):
            if card.get(field):
                answer[field] = card[field]
        if "model-index" in card:
            answer["model-index"] = card["model-index"]
    return answer


def _time(iso: str) -> str:
    return datetime.fromisoformat(iso).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def _resolve(hub: Hub, request: Request, kind: str, name: str, rest: str) -> Response:
    """A file's bytes. LFS is served from here too, so that no second host name is needed."""
    repository = hub.open(request, kind, name)
    commit, path = repository.split(rest)
    headers = {
        "X-Repo-Commit": commit,
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "sandbox; default-src 'none'",
    }
    try:
        entry = repository.entry(commit, path)
    except StoreError as missing:
        answer = error(missing.status, str(missing), missing.code)
        answer.headers["X-Repo-Commit"] = commit
        return answer
    filename = quote(path.rsplit("/", 1)[-1], safe="")
    headers["Content-Disposition"] = f"inline; filename*=UTF-8''{filename}"
    if entry.lfs is None:
        headers["ETag"] = f'"{entry.blob}"'
        return Response(repository.blob(entry.blob), headers=headers, media_type="text/plain; charset=utf-8")
    headers |= {"ETag": f'"{entry.lfs.oid}"', "X-Linked-ETag": f'"{entry.lfs.oid}"'}
    headers["X-Linked-Size"] = str(entry.lfs.size)
    stored = repository.lfs.path(entry.lfs.oid)
    return FileResponse(stored, headers=headers, media_type="application/octet-stream")
