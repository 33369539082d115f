"""The bot's own client against an independent peer: `emulate` 0.11.2 (npm, Apache-2.0) speaks GitHub's API
with state.

It has no Git over HTTP, no changed files, no reactions and no redelivery, so the reading of trees stays with
the forge's stories; here are App authentication, narrowed permissions, comments, checks, merge and signed
webhooks.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from bot_world import ROOT, World, serving, until
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from github import GithubException

from bot import publish
from bot.events import PullEvent, read
from bot.git import Mirrors
from bot.github import App
from bot.grants import EVENTS, PERMISSIONS
from bot.services import Services
from bot.settings import Settings
from bot.store import Pull, Store
from bot.web import application
from lab.report.checks import Check

PINNED = "0.11.2"
PLACE = ROOT / ".cache" / "emulate"
PROGRAM = PLACE / "node_modules" / "emulate" / "dist" / "index.js"
SECRET = "the-webhook-secret-of-the-peer"
PEOPLE = {"mara": "token-of-mara", "newcomer": "token-of-newcomer"}


def installed() -> str:
    """Why the peer cannot run here; empty when it can."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        return "node and npm are not on this machine"
    if not PROGRAM.is_file():
        PLACE.mkdir(parents=True, exist_ok=True)
        (PLACE / "package.json").write_text('{"private": true}')
        # `latest` of this name is an unrelated package: only the pinned one is meant.
        wanted = ["npm", "install", "--no-audit", "--no-fund", "--silent", "--ignore-scripts"]
        try:
            done = subprocess.run(
                [*wanted, f"emulate@{PINNED}"], cwd=PLACE, capture_output=True, text=True, timeout=120
            )
        except subprocess.TimeoutExpired:
            return "npm did not answer within two minutes"
        if done.returncode or not PROGRAM.is_file():
            return f"npm could not install emulate {PINNED}"
    return ""


@dataclass
class Peer:
    url: str
    settings: Settings
    services: Services
    pull: Pull

    def api(self, login: str, verb: str, path: str, body: Any = None) -> Any:
        answer = httpx.request(
            verb,
            f"{self.url}{path}",
            json=body,
            headers={"Authorization": f"Bearer {PEOPLE[login]}"},
            timeout=30,
            trust_env=False,
        )
        assert answer.status_code < 400, f"{verb} {path}: {answer.status_code} {answer.text[:300]}"
        return answer.json() if answer.content else None


def seed(folder: Path, hook: str) -> tuple[Path, str]:
    """The peer's start: an App installed at acme, a repository, two people."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    value = {
        "tokens": {token: {"login": login, "scopes": ["repo", "user"]} for login, token in PEOPLE.items()},
        "github": {
            "users": [{"login": login} for login in PEOPLE],
            "orgs": [{"login": "acme", "members": [{"login": "mara", "role": "admin"}]}],
            "repos": [{"owner": "acme", "name": "taxonomy", "private": False, "auto_init": True}],
            "apps": [
                {
                    "app_id": 4711,
                    "slug": "treewright",
                    "name": "treewright",
                    "private_key": pem,
                    "permissions": dict(PERMISSIONS),
                    "events": list(EVENTS),
                    "webhook_url": hook,
                    "webhook_secret": SECRET,
                    "installations": [
                        {"installation_id": 99, "account": "acme", "repository_selection": "all"}
                    ],
                }
            ],
        },
    }
    file = folder / "seed.yaml"
    file.write_text(yaml.safe_dump(value))
    return file, pem


class Quiet:
    def start(self) -> None: ...
    def stop(self) -> None: ...
    def wake(self) -> None: ...
    def troubles(self) -> list[str]:
        return []


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    if reason := installed():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("emulate")
    store = Store(f"sqlite:///{folder / 'bot.sqlite'}")
    with serving(application(store, [SECRET.encode()], Quiet)) as web:
        file, pem = seed(folder, f"{web}/webhook")
        port = World.port()
        url = f"http://127.0.0.1:{port}"
        command = ["node", str(PROGRAM), "start", "-s", "github", "-p", str(port), "--seed", str(file)]
        process = subprocess.Popen(
            [*command, "--base-url", url], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder
        )
        try:
            until(lambda: _answers(url), "the peer's start", 60)
            settings = Settings(
                app_id=4711,
                app_slug="treewright",
                private_key=pem,
                webhook_secret=SECRET,
                api_url=url,
                web_url=url,
                data=folder,
                seconds_between_requests=0,
                seconds_between_writes=0,
            )
            services = Services(settings, store, App(settings), Mirrors(folder / "git", url))
            made = Peer(url, settings, services, None)  # type: ignore[arg-type]  # any value on purpose
            yield replace(made, pull=_opened(made, store))
        finally:
            process.terminate()
            process.wait(30)
    store.close()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/", trust_env=False).status_code < 500
    except httpx.TransportError:
        return False


def _opened(peer: Peer, store: Store) -> Pull:
    """A pull request by a person, which the bot hears of by a signed delivery."""
    repo = "/repos/acme/taxonomy"
    main = peer.api("mara", "GET", f"{repo}/git/ref/heads/main")["object"]["sha"]
    peer.api("mara", "POST", f"{repo}/git/refs", {"ref": "refs/heads/leaf", "sha": main})
    content = base64.b64encode(b"version: 3\n").decode()
    body = {"message": "Add a leaf", "content": content, "branch": "leaf"}
    peer.api("mara", "PUT", f"{repo}/contents/knowledge/x/qna.yaml", body)
    peer.api("mara", "POST", f"{repo}/pulls", {"title": "A leaf", "head": "leaf", "base": "main"})

    def heard() -> Pull | None:
        for row in store.waiting():
            event = read(row["event"], json.loads(row["body"]))
            if isinstance(event, PullEvent) and event.action == "opened":
                return store.learn(event.pull, row["id"])
        return None

    pull = until(heard, "the signed delivery of the pull request")
    assert pull is not None
    return pull


def test_the_app_proves_itself_and_finds_where_it_is_installed(peer: Peer) -> None:
    assert peer.services.app.installations() == [99]
    assert peer.pull.installation == 99
    stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    wrong = peer.settings.model_copy(
        update={"private_key": type(peer.settings.webhook_secret)(stranger.decode())}
    )
    with pytest.raises(GithubException) as refused:
        App(wrong).installations()
    assert refused.value.status == 401


def test_a_narrowed_token_may_read_and_not_write(peer: Peer) -> None:
    token = peer.services.app.token(99, "acme/taxonomy", {"contents": "read"})
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=peer.url, headers=headers, trust_env=False) as client:
        assert client.get("/repos/acme/taxonomy/contents/README.md").status_code == 200
        written = client.post("/repos/acme/taxonomy/issues/1/comments", json={"body": "x"})
    assert written.status_code == 403


def test_the_pull_request_is_read_as_github_shows_it(peer: Peer) -> None:
    facts = peer.services.repository(peer.pull).pull(peer.pull.number)
    assert (facts.head, facts.state, facts.base_ref) == (peer.pull.head, "open", "main")
    assert [one.number for one in peer.services.repository(peer.pull).open_pulls()] == [peer.pull.number]


def test_a_maintainers_permission_is_known_by_number_and_name(peer: Peer) -> None:
    mara = peer.api("mara", "GET", "/user")
    repository = peer.services.repository(peer.pull)
    assert repository.permission("mara", mara["id"]) in {"admin", "maintain", "write"}
    assert repository.permission("mara", mara["id"] + 1) == "none", "the login has changed hands"


def test_one_comment_is_written_edited_in_place_and_made_again_when_deleted(peer: Peer) -> None:
    services, pull = peer.services, peer.pull
    path = f"/repos/acme/taxonomy/issues/{pull.number}/comments"
    publish.comment(services, pull)
    first = peer.api("mara", "GET", path)
    assert len(first) == 1
    services.store.update_review(pull, pull.head, lint={"ok": False, "files": 1, "findings": []})
    publish.comment(services, services.pull(pull.repo_id, pull.number))
    second = peer.api("mara", "GET", path)
    assert [row["id"] for row in second] == [first[0]["id"]]
    assert second[0]["body"] != first[0]["body"]
    services.store.update_pull(pull, comment_id=None, comment_digest="")
    publish.comment(services, services.pull(pull.repo_id, pull.number))
    assert len(peer.api("mara", "GET", path)) == 1, "found by its marker"


def test_a_check_is_made_once_and_concluded(peer: Peer) -> None:
    services, pull = peer.services, peer.pull
    begin = Check("treewright / lint", "Checking", "The validator reads.", None)
    end = replace(begin, conclusion="success", title="In order")
    for value in (begin, end, end):
        publish.check(services, pull, pull.head, "lint:peer", value)
    rows = peer.api("mara", "GET", f"/repos/acme/taxonomy/commits/{pull.head}/check-runs")["check_runs"]
    mine = [row for row in rows if row["external_id"] == "lint:peer"]
    assert [(row["name"], row["conclusion"]) for row in mine] == [("treewright / lint", "success")]


def test_a_merge_takes_the_approved_commit_or_none(peer: Peer) -> None:
    repository = peer.services.repository(peer.pull)
    with pytest.raises(GithubException) as refused:
        repository.merge(peer.pull.number, "0" * 40, "Merge")
    assert refused.value.status in {409, 422}, "GitHub says 409, the peer 422; neither merges"
    merged = repository.merge(peer.pull.number, peer.pull.head, "Merge")
    assert repository.pull(peer.pull.number).state == "merged"
    assert peer.pull.head in repository.parents(merged)
