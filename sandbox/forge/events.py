"""What happens in the forge, as webhook deliveries in the shape of GitHub's.

`emit` makes one delivery for each App that is installed on the repository and listens to the event, and
hands it to `forge.listeners`; the dispatcher of `webhooks.py` sends it. Checked against the real payload
examples in the tests.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from sandbox.forge.records import App, Delivery, Installation, Json, Repo

if TYPE_CHECKING:
    from sandbox.forge.state import Forge


def emit(
    forge: Forge,
    repo: Repo,
    event: str,
    action: str | None,
    payload: Json,
    sender: str,
    only_app: int | None = None,
) -> None:
    from sandbox.forge import views

    body: Json = {} if action is None else {"action": action}
    body |= payload
    body["repository"] = views.repository(forge, repo)
    organization = views.organization(forge, repo.owner)
    if organization is not None:
        body["organization"] = organization
    if event == "push":  # an older shape of the repository, which GitHub keeps for this event
        owner = body["repository"]["owner"]
        owner |= {"name": owner["login"], "email": None}
        body["repository"] |= {"stargazers": 0, "master_branch": repo.default_branch}
    body["sender"] = views.simple_user(forge, sender) or views.simple_user(forge, repo.owner)
    for app in forge.apps:
        known = forge.installation_of(app.id, repo)
        if known is None or event not in known.events or (only_app is not None and app.id != only_app):
            continue
        mine = body | {"installation": {"id": known.id, "node_id": views.node("Installation", known.id)}}
        send(forge, app, event, action, mine, known, repo)


def ping(forge: Forge, app: App) -> None:
    from sandbox.forge import views

    url = f"{forge.base_url}/api/v3/app/hook"
    hook: Json = {
        "url": url, "ping_url": f"{url}/pings", "deliveries_url": f"{url}/deliveries",
        "type": "App", "id": app.hook, "name": "web", "active": True, "events": app.events, "app_id": app.id,
        "config": {"content_type": "json", "insecure_ssl": "0", "url": app.webhook_url, "secret": "********"},
        "created_at": app.created_at, "updated_at": app.created_at,
    }  # fmt: skip
    body = {"zen": "Keep it logically awesome.", "hook_id": app.hook, "hook": hook}
    send(forge, app, "ping", None, body | {"sender": views.simple_user(forge, app.owner)})


def installation(forge: Forge, known: Installation, action: str, sender: str) -> None:
    from sandbox.forge import views, views_work

    app = forge.apps.get(known.app)
    if app is None:
        return
    repos = [forge.repos.get(key) for key in known.repositories or []]
    body: Json = {
        "action": action, "installation": views_work.installation(forge, known), "requester": None,
        "repositories": [
            {"id": repo.id, "node_id": views.node("Repository", repo.id), "name": repo.name,
             "full_name": repo.full_name, "private": repo.private} for repo in repos if repo is not None
        ],
        "sender": views.simple_user(forge, sender),
    }  # fmt: skip
    send(forge, app, "installation", action, body, known)


def send(
    forge: Forge,
    app: App,
    event: str,
    action: str | None,
    payload: Json,
    known: Installation | None = None,
    repo: Repo | None = None,
) -> None:
    if not app.webhook_url:
        return
    if forge.faults.lose_deliveries > 0:
        forge.faults.lose_deliveries -= 1
        return
    guid = str(uuid.uuid4())
    headers = {
        "Accept": "*/*", "Content-Type": "application/json", "User-Agent": "GitHub-Hookshot/sandbox",
        "X-GitHub-Delivery": guid, "X-GitHub-Event": event, "X-GitHub-Hook-ID": str(app.hook),
        "X-GitHub-Hook-Installation-Target-ID": str(app.id),
        "X-GitHub-Hook-Installation-Target-Type": "integration",
    }  # fmt: skip
    delivery = Delivery(
        forge.next_id(), app.id, guid, event, action, known.id if known else None, repo.id if repo else None,
        headers, payload,
    )  # fmt: skip
    forge.deliveries.put(delivery)
    for listener in forge.listeners:
        listener(delivery)
