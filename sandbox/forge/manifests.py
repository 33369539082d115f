"""The App manifest flow: a page that takes a manifest, a button for the person, a code, and its one
conversion.

Source: GitHub, "Registering a GitHub App from a manifest", and the operation `apps/create-from-manifest` of
its description. The forge has no sign-in, so the page asks whose App it shall be.
"""

from __future__ import annotations

import json
import re
import secrets
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import parse_qs, urlencode, urlsplit

from fastapi import APIRouter, Depends, Request, Response

from sandbox.forge import pages, views
from sandbox.forge.auth import LEVELS, ApiError, not_found
from sandbox.forge.records import Json
from sandbox.forge.state import Forge, NewApp
from sandbox.forge.wire import LockedRouter, reply

CODE_SECONDS = 3600.0  # GitHub: "complete these three steps within one hour"
_LARGEST = 64 * 1024
# The host goes into a header of the page, so it holds nothing that could end a directive there.
_ADDRESS = re.compile(r"https?://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:\d+)?(/|\?|\Z)")


@dataclass(frozen=True)
class Asked:
    """A manifest that waits for a person's yes."""

    name: str
    url: str
    redirect: str
    state: str
    owner: str
    permissions: dict[str, str]
    events: list[str]

    @property
    def slug(self) -> str:
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")


async def _form(request: Request) -> dict[str, str]:
    data = await request.body()
    if len(data) > _LARGEST:
        raise ApiError(413, "Payload Too Large")
    return {name: values[0] for name, values in parse_qs(data.decode("utf-8", "replace")).items()}


Form = Annotated[dict[str, str], Depends(_form)]


def read(text: str, state: str, owner: str) -> Asked | str:
    """The manifest, or what is wrong with it."""
    try:
        raw: Any = json.loads(text)
    except (ValueError, RecursionError):
        return "The manifest is not JSON."
    if not isinstance(raw, dict) or not isinstance(raw.get("name"), str) or not raw.get("url"):
        return "The manifest needs a name and a url."
    permissions, events = raw.get("default_permissions") or {}, raw.get("default_events") or []
    if not isinstance(permissions, dict) or any(level not in LEVELS for level in permissions.values()):
        return "default_permissions has a level that is none of read, write, admin."
    if not isinstance(events, list) or not all(isinstance(name, str) for name in events):
        return "default_events is no list of names."
    automatic = {"installation", "installation_repositories", "github_app_authorization"} & set(events)
    if automatic:
        return f"default_events: {', '.join(sorted(automatic))} cannot be chosen: every App gets it."
    hook = raw.get("hook_attributes") or {}
    redirect = str(raw.get("redirect_url") or "")
    for value in (redirect, str(hook.get("url") or "") if isinstance(hook, dict) else ""):
        if not _ADDRESS.match(value):
            return "redirect_url and hook_attributes.url must be http addresses."
    asked = Asked(raw["name"], str(hook["url"]), redirect, state, owner, permissions, events)
    return asked if asked.slug else "The name has no letter and no digit."


def router(forge: Forge) -> APIRouter:
    api = LockedRouter(forge.lock)
    waiting: dict[str, Asked] = {}
    codes: dict[str, tuple[NewApp, float]] = {}

    def ask(form: dict[str, str], request: Request, owner: str) -> Response:
        if owner and forge.account(owner) is None:
            return pages.problem(404, f"There is no organization {owner}.")
        asked = read(form.get("manifest", ""), request.query_params.get("state", ""), owner)
        if isinstance(asked, str):
            return pages.problem(422, asked)
        if any(app.slug == asked.slug for app in forge.apps):
            return pages.problem(422, f"The name {asked.name} is taken.")
        key = secrets.token_urlsafe(16)
        waiting[key] = asked
        people = [account.login for account in forge.accounts if account.kind == "User"]
        owners = [owner] if owner else people
        page = pages.page("manifest.html", title="Create GitHub App", asked=asked, key=key, owners=owners)
        target = urlsplit(asked.redirect)
        # A browser holds the redirect after the form against the same rule.
        policy = pages.SECURITY["Content-Security-Policy"]
        page.headers["Content-Security-Policy"] = policy.replace(
            "form-action 'none'", f"form-action 'self' {target.scheme}://{target.netloc}"
        )
        return page

    @api.post("/settings/apps/new")
    def personal(request: Request, form: Form) -> Response:
        return ask(form, request, "")

    @api.post("/organizations/{org}/settings/apps/new")
    def organization(request: Request, org: str, form: Form) -> Response:
        return ask(form, request, org)

    @api.post("/settings/apps/manifest/{key}")
    def create(key: str, form: Form) -> Response:
        asked = waiting.pop(key, None)
        if asked is None:
            return pages.problem(404, "This manifest was used already.")
        owner = forge.account(asked.owner or form.get("owner", ""))
        if owner is None:
            return pages.problem(422, "An App needs an owner.")
        made = forge.create_app(asked.slug, asked.permissions, asked.events, asked.url, owner=owner.login)
        code = secrets.token_hex(20)
        codes[code] = (made, forge.clock() + CODE_SECONDS)
        query = urlencode({"code": code} | ({"state": asked.state} if asked.state else {}))
        join = "&" if urlsplit(asked.redirect).query else "?"
        return Response(status_code=302, headers={"Location": f"{asked.redirect}{join}{query}"})

    @api.post("/api/v3/app-manifests/{code}/conversions")
    def convert(request: Request, code: str) -> Response:
        made, until = codes.pop(code, (None, 0.0))
        if made is None or forge.clock() > until:
            raise not_found()
        answer: Json = views.integration(forge, made.app) | {
            "client_secret": secrets.token_hex(20), "webhook_secret": made.app.webhook_secret,
            "pem": made.private_key,
        }  # fmt: skip
        return reply(request, answer, 201)

    return api
