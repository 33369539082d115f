"""`/_sandbox`: what an administrator does by hand on a real forge. Every call needs the admin token as
Bearer.
"""

from __future__ import annotations

import hmac
import re
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response

from sandbox.forge import events, views
from sandbox.forge.api_checks import press
from sandbox.forge.auth import ApiError, credential, not_found
from sandbox.forge.git import Signature
from sandbox.forge.records import Json
from sandbox.forge.state import Faults, Forge
from sandbox.forge.webhooks import Dispatcher
from sandbox.forge.wire import Body, LockedRouter, fields, reply, text_field


def router(forge: Forge, hooks: Dispatcher, admin_token: str) -> APIRouter:
    api = LockedRouter(forge.lock, "/_sandbox")

    def admin(request: Request) -> None:
        given = credential(request.headers.get("authorization")) or ""
        if not hmac.compare_digest(given.encode(), admin_token.encode()):
            raise ApiError(401, "This needs the forge's admin token (printed at start, file admin.token).")

    @api.post("/users")
    def user(request: Request, body: Body) -> Response:
        admin(request)
        login = text_field(body, "login", "User")
        token = forge.create_user(login, text_field(body, "name", "User", ""))
        return reply(request, {"login": login, "token": token}, 201)

    @api.post("/orgs")
    def org(request: Request, body: Body) -> Response:
        admin(request)
        account = forge.create_org(text_field(body, "login", "Organization"), fields(body).get("name") or "")
        return reply(request, {"login": account.login, "id": account.id}, 201)

    @api.post("/teams")
    def team(request: Request, body: Body) -> Response:
        """{org, slug, members: {login: member|maintainer} or [login...], parent: slug,
        repositories: {name: role}}
        """
        admin(request)
        wanted = fields(body)
        members: Any = wanted.get("members") or {}
        if isinstance(members, list):
            members = dict.fromkeys(members, "member")
        parent = str(wanted.get("parent") or "")
        org, slug = text_field(body, "org", "Team"), text_field(body, "slug", "Team")
        made = forge.create_team(org, slug, members, parent)
        for full_name, role in (wanted.get("repositories") or {}).items():
            repo = forge.named(full_name)
            repo.teams[made.slug] = role
            forge.repos.put(repo)
        return reply(request, {"org": made.org, "slug": made.slug, "members": made.members}, 201)

    @api.post("/repos")
    def repo(request: Request, body: Body) -> Response:
        """{owner, name, from: folder, committer: {name, email, date}, message, private, collaborators:
        {login: role}, variables: {NAME: value}, secrets: {NAME: value}}
        """
        admin(request)
        wanted = fields(body)
        who = wanted.get("committer")
        committer = None
        if isinstance(who, dict):
            name, email = str(who.get("name", "")), str(who.get("email", ""))
            committer = Signature(name, email, str(who.get("date") or forge.now()))
        made = forge.create_repo(
            text_field(body, "owner", "Repository"), text_field(body, "name", "Repository"),
            Path(wanted["from"]) if wanted.get("from") else None, committer=committer,
            message=wanted.get("message") or "Initial commit", private=bool(wanted.get("private")),
            description=wanted.get("description") or "",
        )  # fmt: skip
        made.variables = {str(k): str(v) for k, v in (wanted.get("variables") or {}).items()}
        made.secrets = {str(k): str(v) for k, v in (wanted.get("secrets") or {}).items()}
        forge.repos.put(made)
        for login, role in (wanted.get("collaborators") or {}).items():
            forge.set_collaborator(made, login, role)
        sha = forge.git(made).resolve(made.default_branch)
        answer = {"id": made.id, "full_name": made.full_name, "sha": sha,
                  "clone_url": views.page(forge, f"/{made.full_name}.git")}  # fmt: skip
        return reply(request, answer, 201)

    @api.put("/repos/{owner}/{name}/collaborators/{login}")
    def collaborator(request: Request, owner: str, name: str, login: str, body: Body) -> Response:
        admin(request)
        forge.set_collaborator(
            forge.named(f"{owner}/{name}"), login, text_field(body, "permission", "Collaborator", "write")
        )
        return Response(status_code=204)

    @api.post("/repos/{owner}/{name}/move")
    def move(request: Request, owner: str, name: str, body: Body) -> Response:
        """{owner, name}: rename or transfer. The old name answers with a redirect."""
        admin(request)
        repo = forge.named(f"{owner}/{name}")
        forge.move_repo(
            repo, text_field(body, "owner", "Repository", owner), text_field(body, "name", "Repository", name)
        )
        return reply(request, {"id": repo.id, "full_name": repo.full_name})

    @api.post("/apps")
    def app(request: Request, body: Body) -> Response:
        """{slug, permissions, events, webhook_url, repositories: ["owner/name"], owner} -> id, key, secret,
        installation
        """
        admin(request)
        wanted = fields(body)
        made = forge.create_app(
            text_field(body, "slug", "Integration"), wanted.get("permissions") or {},
            wanted.get("events") or [],
            wanted.get("webhook_url"), owner=wanted.get("owner") or "",
            repositories=wanted.get("repositories") or [], webhook_secret=wanted.get("webhook_secret"),
        )  # fmt: skip
        answer: Json = {
            "id": made.app.id, "slug": made.app.slug, "client_id": f"Iv1.{made.app.id}",
            "private_key": made.private_key, "webhook_secret": made.app.webhook_secret,
            "installation_id": made.installation.id if made.installation else None,
        }  # fmt: skip
        return reply(request, answer, 201)

    @api.patch("/apps/{slug}")
    def change_app(request: Request, slug: str, body: Body) -> Response:
        """{webhook_url}, {repositories}: set the address, install on more repositories."""
        admin(request)
        found = next((known for known in forge.apps if known.slug == slug), None)
        if found is None:
            raise not_found()
        if "webhook_url" in fields(body):
            found.webhook_url = fields(body)["webhook_url"]
            forge.apps.put(found)
            events.ping(forge, found)
        if fields(body).get("repositories"):
            forge.install_app(found, fields(body)["repositories"])
        return reply(request, {"id": found.id, "webhook_url": found.webhook_url})

    @api.post("/checks/{key:int}/press")
    def press_button(request: Request, key: int, body: Body) -> Response:
        """{login, identifier}: a person presses a check's button; without identifier it is `Re-run`."""
        admin(request)
        run = forge.checks.get(key)
        repo = forge.repos.get(run.repo) if run else None
        if run is None or repo is None:
            raise not_found()
        press(forge, repo, run, text_field(body, "login", "User"), fields(body).get("identifier"))
        return Response(status_code=204)

    @api.post("/faults")
    def faults(request: Request, body: Body) -> Response:
        """{drop_deliveries, lose_deliveries, duplicate: n, fail_requests: [{method, path_prefix, status,
        times, headers, message, when: "before"|"after"}], chaos: {seed, drop, lose, duplicate, delay: share,
        seconds}}

        `after`: the work is done, then the answer is lost.
        """
        admin(request)
        wanted = fields(body)
        unknown = set(wanted) - set(Faults.__dataclass_fields__)
        if unknown:
            raise ApiError(422, f"Unknown fault {', '.join(sorted(unknown))}.")
        for fault in wanted.get("fail_requests") or []:
            if not re.fullmatch(r"[2-5]\d\d", str(fault.get("status", 502))):
                raise ApiError(422, f"status {fault.get('status')!r} is no HTTP status.")
        forge.faults = Faults(**wanted)
        return Response(status_code=204)

    @api.get("/faults")
    def left(request: Request) -> Response:
        admin(request)
        return reply(request, vars(forge.faults))

    drain = APIRouter()

    @drain.post("/_sandbox/drain")
    def wait(request: Request, seconds: float = 10.0) -> Response:
        """Waits until every delivery has had its attempt; without the lock, which the deliveries need."""
        admin(request)
        return Response(status_code=204 if hooks.drain(min(seconds, 60.0)) else 504)

    both = APIRouter()
    both.include_router(api)
    both.include_router(drain)
    return both
