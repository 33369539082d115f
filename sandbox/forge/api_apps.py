"""REST: Apps, installations, tokens, deliveries, people, rate limit."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Request, Response

from sandbox.forge import views, views_work
from sandbox.forge.auth import (
    LEVELS,
    Actor,
    ApiError,
    actor_of,
    allows,
    need_app,
    need_login,
    not_found,
    require,
)
from sandbox.forge.records import Delivery, Installation, Json
from sandbox.forge.state import INSTALLATION_TOKEN_SECONDS, ROLES, Forge
from sandbox.forge.webhooks import Dispatcher
from sandbox.forge.wire import Body, LockedRouter, fields, invalid, number_of, paginate, reply

DELIVERIES_SECONDS = 3 * 86400  # GitHub docs, "Viewing webhook deliveries"


def actor(forge: Forge, request: Request) -> Actor:
    return actor_of(forge, request.headers.get("authorization"))


def router(forge: Forge, hooks: Dispatcher) -> APIRouter:
    api = LockedRouter(forge.lock)

    def mine(request: Request, key: int) -> Installation:
        app = need_app(forge, actor(forge, request))
        known = forge.installations.get(key)
        if known is None or known.app != app.id:
            raise not_found()
        return known

    @api.get("/app")
    def get_app(request: Request) -> Response:
        return reply(request, views.integration(forge, need_app(forge, actor(forge, request))))

    @api.get("/app/installations")
    def installations(request: Request) -> Response:
        app = need_app(forge, actor(forge, request))
        found = [known for known in forge.installations if known.app == app.id]
        return paginate(request, forge, found, lambda known: views_work.installation(forge, known))

    @api.get("/app/installations/{key:int}")
    def installation(request: Request, key: int) -> Response:
        return reply(request, views_work.installation(forge, mine(request, key)))

    @api.post("/app/installations/{key:int}/access_tokens")
    def access_token(request: Request, key: int, body: Body) -> Response:
        known = mine(request, key)
        permissions = _narrowed(known, fields(body).get("permissions"))
        repositories = _chosen(forge, known, fields(body))
        app = need_app(forge, actor(forge, request))
        token = forge.issue_token(
            "installation", forge.bot_login(app), prefix="ghs_", app=app.id, installation=known.id,
            repositories=repositories, permissions=permissions, seconds=INSTALLATION_TOKEN_SECONDS,
        )  # fmt: skip
        expires = datetime.fromtimestamp(forge.clock() + INSTALLATION_TOKEN_SECONDS, UTC)
        answer: Json = {
            "token": token, "expires_at": expires.strftime("%Y-%m-%dT%H:%M:%SZ"), "permissions": permissions,
            "repository_selection": "selected" if known.repositories is not None or repositories else "all",
        }  # fmt: skip
        if repositories is not None:
            chosen = [repo for repo in forge.repos if repo.id in repositories]
            answer["repositories"] = [views.repository(forge, repo) for repo in chosen]
        return reply(request, answer, 201)

    @api.get("/installation/repositories")
    def installation_repositories(request: Request) -> Response:
        who = actor(forge, request)
        if not who.is_integration:
            raise ApiError(403, "You must authenticate with an installation access token")
        found = [repo for repo in forge.repos if repo.id in (who.repositories or ())]
        return paginate(request, forge, found, lambda repo: views.repository(forge, repo), "repositories")

    @api.get("/repos/{owner}/{name}/installation")
    def repo_installation(request: Request, owner: str, name: str) -> Response:
        app = need_app(forge, actor(forge, request))
        repo = forge.repo(owner, name)
        known = forge.installation_of(app.id, repo) if repo else None
        if known is None:
            raise not_found()
        return reply(request, views_work.installation(forge, known))

    @api.get("/users/{login}/installation")
    @api.get("/orgs/{login}/installation")
    def account_installation(request: Request, login: str) -> Response:
        app = need_app(forge, actor(forge, request))
        for known in forge.installations:
            if known.app == app.id and known.account.casefold() == login.casefold():
                return reply(request, views_work.installation(forge, known))
        raise not_found()

    # -- deliveries

    def kept(item: Delivery) -> bool:
        """Whether it was tried, and not so long ago that GitHub has forgotten it."""
        oldest = datetime.fromtimestamp(forge.clock() - DELIVERIES_SECONDS, UTC)
        return item.status != "queued" and datetime.fromisoformat(item.delivered_at) >= oldest

    @api.get("/app/hook/config")
    def hook_config(request: Request) -> Response:
        app = need_app(forge, actor(forge, request))
        config: Json = {"content_type": "json", "insecure_ssl": "0", "url": app.webhook_url or ""}
        # GitHub shows that there is a secret, never which.
        return reply(request, config | ({"secret": "********"} if app.webhook_secret else {}))

    @api.get("/app/hook/deliveries")
    def deliveries(request: Request) -> Response:
        app = need_app(forge, actor(forge, request))
        # A cursor is for GitHub to read, so that nobody counts on its being a number.
        cursor = request.query_params.get("cursor", f"v1_{2**53}").removeprefix("v1_")
        if not cursor.isdigit():
            raise ApiError(422, "The cursor is not one of this list.")
        found = [d for d in forge.deliveries if d.app == app.id and d.id <= int(cursor) and kept(d)]
        found.sort(key=lambda d: -d.id)
        size = number_of(request, "per_page", 30, 100)
        headers = {}
        if len(found) > size:
            url = f"{forge.base_url}/api/v3/app/hook/deliveries?per_page={size}&cursor=v1_{found[size].id}"
            headers["Link"] = f'<{url}>; rel="next"'
        return reply(request, [views_work.delivery(d) for d in found[:size]], headers=headers)

    def mine_delivery(app: int, key: int) -> Delivery:
        found = forge.deliveries.get(key)
        if found is None or found.app != app or not kept(found):
            raise not_found()
        return found

    @api.get("/app/hook/deliveries/{key:int}")
    def delivery(request: Request, key: int) -> Response:
        app = need_app(forge, actor(forge, request))
        return reply(request, views_work.delivery(mine_delivery(app.id, key), detail=True))

    @api.post("/app/hook/deliveries/{key:int}/attempts")
    def redeliver(request: Request, key: int) -> Response:
        app = need_app(forge, actor(forge, request))
        hooks.redeliver(mine_delivery(app.id, key))
        return reply(request, {}, 202)

    # -- people

    @api.get("/user")
    def user(request: Request) -> Response:
        who = need_login(actor(forge, request))
        account = forge.account(who.login)
        if who.kind != "user" or account is None:
            raise ApiError(403, "Resource not accessible by integration")
        extra = {
            "private_gists": 0, "total_private_repos": 0, "owned_private_repos": 0, "disk_usage": 0,
            "collaborators": 0, "two_factor_authentication": True,
        }  # fmt: skip
        return reply(request, views.full_user(forge, account) | extra)

    @api.get("/user/{key:int}")
    def numbered_user(request: Request, key: int) -> Response:
        actor(forge, request)
        account = forge.accounts.get(key)
        if account is None:
            raise not_found()
        return reply(request, views.full_user(forge, account))

    @api.get("/users/{login}")
    def some_user(request: Request, login: str) -> Response:
        actor(forge, request)
        account = forge.account(login)
        if account is None:
            raise not_found()
        return reply(request, views.full_user(forge, account))

    @api.get("/repos/{owner}/{name}/collaborators/{login}/permission")
    def permission(request: Request, owner: str, name: str, login: str) -> Response:
        repo = require(forge, need_login(actor(forge, request)), forge.repo(owner, name))
        account = forge.account(login)
        if account is None:
            raise not_found()
        role = forge.role(repo, account.login)
        user = (views.simple_user(forge, account) or {}) | {
            "role_name": role, "permissions": views.repository(forge, repo, role)["permissions"],
        }  # fmt: skip
        legacy = {"maintain": "write", "triage": "read"}.get(role, role)
        return reply(request, {"permission": legacy, "role_name": role, "user": user})

    @api.get("/repos/{owner}/{name}/collaborators/{login}")
    def is_collaborator(request: Request, owner: str, name: str, login: str) -> Response:
        repo = require(forge, need_login(actor(forge, request)), forge.repo(owner, name))
        if any(who.casefold() == login.casefold() for who in repo.collaborators):
            return Response(status_code=204)
        raise not_found()

    @api.get("/orgs/{org}/teams/{slug}/memberships/{login}")
    def membership(request: Request, org: str, slug: str, login: str) -> Response:
        who = need_login(actor(forge, request))
        installed = forge.installations.get(who.installation)
        here = installed is not None and installed.account.casefold() == org.casefold()
        if who.is_integration and not (here and allows(who, "members", "read")):
            raise ApiError(403, "Resource not accessible by integration")
        team = forge.team(org, slug)
        role = forge.team_role(team, login) if team else None
        if role is None:
            raise not_found()
        url = views.api(forge, f"/orgs/{org}/teams/{slug}/memberships/{login}")
        return reply(request, {"url": url, "role": role, "state": "active"})

    @api.get("/rate_limit")
    def rate_limit(request: Request) -> Response:
        limit, used, reset = request.scope["state"]["rate"]
        rate = {
            "limit": limit,
            "used": used,
            "remaining": max(0, limit - used),
            "reset": reset,
            "resource": "core",
        }
        return reply(request, {"resources": {"core": rate, "search": rate}, "rate": rate})

    return api


def _narrowed(known: Installation, wanted: Any) -> dict[str, str]:
    """The permissions asked for, a part of the installation's; all of them when none is named."""
    if wanted in (None, {}):
        return dict(known.permissions)
    if not isinstance(wanted, dict):
        raise invalid("Installation", "permissions")
    for name, level in wanted.items():
        if level not in LEVELS or LEVELS.index(known.permissions.get(name, "none")) < LEVELS.index(level):
            raise ApiError(422, "The permissions requested are not granted to this installation.")
    return {"metadata": "read", **wanted}


def _chosen(forge: Forge, known: Installation, body: Json) -> list[int] | None:
    names, keys = body.get("repositories"), body.get("repository_ids")
    if names is None and keys is None:
        return None
    chosen = []
    for repo in forge.repos:
        asked = repo.owner == known.account and (repo.name in (names or ()) or repo.id in (keys or ()))
        if asked and (known.repositories is None or repo.id in known.repositories):
            chosen.append(repo.id)
    if len(chosen) < len(set(names or ())) + len(set(keys or ())):
        raise ApiError(
            422,
            "At least one repository does not exist or is not accessible to the parent installation.",
        )
    return chosen


__all__ = ["ROLES", "actor", "router"]
