"""Making the App: the manifest goes through the forge's pages as a browser would take it, and what comes
back is stored for the owner only, once, and never shown.
"""

from __future__ import annotations

import contextlib
import html
import json
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from bot.grants import EVENTS, PERMISSIONS
from bot.settings import load
from bot.setup import FILES, VALID_SECONDS, Plan, SetupError, State, next_steps, prepare
from bot.setup_page import SetupServer
from sandbox.forge.serve import ForgeSettings, RunningForge, running


@pytest.fixture(scope="module")
def forge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningForge]:
    with running(ForgeSettings(tmp_path_factory.mktemp("forge"))) as made:
        made.forge.create_org("acme")
        made.forge.create_user("ada")
        yield made


@contextlib.contextmanager
def serving(plan: Plan, state: State | None = None) -> Iterator[SetupServer]:
    server = SetupServer(plan, state=state)
    server.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def plan(forge: RunningForge, folder: Path, name: str, owner: str = "acme") -> Plan:
    hook = "https://bot.example.org/webhook"
    return Plan.of(forge.url, name=name, webhook_url=hook, folder=folder, owner=owner)


def press(client: httpx.Client, page: httpx.Response, **choices: str) -> httpx.Response:
    """Press the one button of a page, as a browser does."""
    action = re.search(r'<form method="post" action="([^"]+)"', page.text)
    assert action is not None, page.text
    fields = dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', page.text))
    data = {name: html.unescape(value) for name, value in fields.items()} | choices
    return client.post(str(page.url.join(html.unescape(action[1]))), data=data)


def walk(server: SetupServer, owner: str = "acme") -> httpx.Response:
    """From our page over the forge's to the answer that comes back to ours, not yet followed."""
    with httpx.Client(trust_env=False) as client:
        asked = press(client, client.get(server.url))
        assert asked.status_code == 200, asked.text
        return press(client, asked, owner=owner)


def test_the_app_is_made_with_exactly_what_it_needs_and_the_bot_starts_with_what_was_stored(
    forge: RunningForge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "app"
    wanted = plan(forge, folder, "Treewright at Acme")
    prepare(folder)
    with serving(wanted) as server:
        back = walk(server)
        assert back.status_code == 302
        answer = httpx.get(back.headers["location"], trust_env=False)
        assert answer.status_code == 200
        assert server.outcome.done.wait(5)
        made = server.outcome.made
    assert made is not None
    app = next(one for one in forge.forge.apps if one.slug == "treewright-at-acme")
    assert app.permissions == PERMISSIONS
    assert tuple(app.events) == EVENTS
    assert (app.owner, app.webhook_url) == ("acme", "https://bot.example.org/webhook")

    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    assert {stat.S_IMODE((folder / name).stat().st_mode) for name in FILES} == {0o600}

    for name in ("APP_ID", "WEBHOOK_SECRET", "PRIVATE_KEY"):
        monkeypatch.delenv(f"TREEWRIGHT_BOT_{name}", raising=False)
    settings = load(file=folder / "app.env")
    assert (settings.app_id, settings.login) == (app.id, "treewright-at-acme[bot]")
    assert settings.webhook_secret.get_secret_value() == app.webhook_secret
    assert settings.api_url == forge.api

    said = next_steps(wanted, made, folder / "app.env") + answer.text + "".join(capfd.readouterr())
    client = json.loads((folder / "client-secret").read_text())
    for secret in (app.webhook_secret, client["client_secret"], "PRIVATE KEY"):
        assert secret not in said
    assert f"{forge.url}/apps/treewright-at-acme/installations/new" in said


def test_a_person_can_own_the_app(forge: RunningForge, tmp_path: Path) -> None:
    with serving(plan(forge, tmp_path, "Ada's helper", owner="")) as server:
        httpx.get(walk(server, owner="ada").headers["location"], trust_env=False)
        made = server.outcome.made
    assert made is not None
    assert (made.slug, made.owner) == ("ada-s-helper", "ada")


def test_an_answer_with_another_state_changes_nothing_and_the_right_one_still_works(
    forge: RunningForge, tmp_path: Path
) -> None:
    with serving(plan(forge, tmp_path, "Stateful")) as server:
        address = httpx.URL(walk(server).headers["location"])
        for state in ("", "x" * 43, address.params["state"] + "x", "ü"):
            wrong = httpx.get(address.copy_set_param("state", state), trust_env=False)
            assert wrong.status_code == 400
            assert "does not belong to this set-up" in wrong.text
        assert list(tmp_path.iterdir()) == []
        assert httpx.get(address, trust_env=False).status_code == 200
        again = httpx.get(address, trust_env=False)
        assert again.status_code == 400
        assert "finished already" in again.text


def test_a_state_ends_after_a_quarter_of_an_hour() -> None:
    now = [0.0]
    state = State(lambda: now[0])
    now[0] = VALID_SECONDS + 1
    with pytest.raises(SetupError, match="longer than 15 minutes"):
        state.take(state.value)


def test_a_code_is_exchanged_once_and_a_made_up_one_never(forge: RunningForge, tmp_path: Path) -> None:
    with serving(plan(forge, tmp_path, "Coded")) as server:
        address = httpx.URL(walk(server).headers["location"])
        first = httpx.post(f"{forge.api}/app-manifests/{address.params['code']}/conversions", trust_env=False)
        assert first.status_code == 201
        used = httpx.get(address, trust_env=False)
        assert used.status_code == 400
        assert "used or too old" in used.text
        assert server.outcome.made is None
        assert server.outcome.done.wait(5), "the command must not wait for ever"
    with serving(plan(forge, tmp_path, "Traversed")) as server:
        odd = {"state": server.state.value, "code": "../../app"}
        assert "carries no code" in httpx.get(f"{server.url}/made", params=odd, trust_env=False).text
    assert list(tmp_path.iterdir()) == []


def test_the_page_is_for_this_address_only(forge: RunningForge, tmp_path: Path) -> None:
    with serving(plan(forge, tmp_path, "Quiet")) as server:
        page = httpx.get(server.url, trust_env=False)
        assert f"form-action {forge.url}" in page.headers["content-security-policy"]
        assert "<script" not in page.text
        rebound = httpx.get(server.url, headers={"Host": "evil.example"}, trust_env=False)
        assert rebound.status_code == 400
        assert server.state.value not in rebound.text
        assert httpx.get(f"http://{server.host}/", trust_env=False).status_code == 404


def test_credentials_that_are_there_are_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "app.pem").write_text("the key of another App")
    with pytest.raises(SetupError, match=r"app\.pem is there already"):
        prepare(tmp_path)
    assert (tmp_path / "app.pem").read_text() == "the key of another App"


@pytest.mark.parametrize(
    ("host", "api"),
    [
        ("https://github.com", "https://api.github.com"),
        ("https://github.example.org", "https://github.example.org/api/v3"),
        ("https://github.example.org:8443/", "https://github.example.org:8443/api/v3"),
    ],
)
def test_the_api_of_a_server_is_known_from_its_address(host: str, api: str, tmp_path: Path) -> None:
    made = Plan.of(host, name="x", webhook_url="https://h.example.org/webhook", folder=tmp_path)
    assert made.api_url == api


@pytest.mark.parametrize(
    "host", ["github.example.org", "http://github.example.org", "https://h/path", "ftp://h"]
)
def test_an_address_that_would_leak_the_key_is_refused(host: str, tmp_path: Path) -> None:
    with pytest.raises(SetupError):
        Plan.of(host, name="x", webhook_url="https://h.example.org/webhook", folder=tmp_path)
