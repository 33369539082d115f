"""The doctor against a forge: what the App lacks, what it has too much of, and what to do, line by line."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from bot_world import ROOT
from typer.testing import CliRunner

from bot.doctor import Probe, Result, doctor_checks
from bot.grants import EVENTS, PERMISSIONS, compare_events, compare_permissions
from sandbox.forge.serve import ForgeSettings, RunningForge, running
from sandbox.forge.state import NewApp
from treewright.cli import app as command


@dataclass(frozen=True)
class Machine:
    environment: dict[str, str]


@pytest.fixture(scope="module")
def forge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningForge]:
    with running(ForgeSettings(tmp_path_factory.mktemp("forge"))) as made:
        made.forge.create_org("acme")
        made.forge.create_repo("acme", "taxonomy", ROOT / "examples" / "documents")
        yield made


def new_app(forge: RunningForge, slug: str, **changes: Any) -> NewApp:
    wanted = {"permissions": dict(PERMISSIONS), "events": list(EVENTS), **changes}
    hook = wanted.pop("webhook_url", "http://127.0.0.1:9/webhook")
    installed = wanted.pop("repositories", ["acme/taxonomy"])
    return forge.forge.create_app(
        slug, wanted["permissions"], wanted["events"], hook, owner="acme", repositories=installed
    )


def machine(forge: RunningForge, app: NewApp, folder: Path, **changes: str) -> Machine:
    key = folder / "app.pem"
    key.touch(mode=0o600)
    key.write_text(app.private_key)
    values = {
        "APP_ID": str(app.app.id),
        "APP_SLUG": app.app.slug,
        "PRIVATE_KEY_FILE": str(key),
        "WEBHOOK_SECRET": app.app.webhook_secret,
        "API_URL": forge.api,
        "WEB_URL": forge.url,
        "DATA": str(folder),
        **changes,
    }
    return Machine({f"TREEWRIGHT_BOT_{name}": value for name, value in values.items()})


def report(machine: Machine) -> dict[str, Result]:
    return {result.name: result for check in doctor_checks()["bot"] if (result := check(machine))}


def test_an_app_as_the_manifest_makes_it_is_well(forge: RunningForge, tmp_path: Path) -> None:
    app = new_app(forge, "well")
    forge.hooks.drain()
    for delivery in forge.forge.deliveries:
        if delivery.app == app.app.id:
            delivery.status, delivery.status_code = "OK", 202
    found = report(machine(forge, app, tmp_path))
    assert {name: result.state for name, result in found.items() if result.state != "ok"} == {}
    assert "clock" in found
    assert app.app.webhook_secret not in str(found)


def test_what_is_missing_and_what_is_too_much_are_both_named(forge: RunningForge, tmp_path: Path) -> None:
    wrong = {**PERMISSIONS, "checks": "read", "secrets": "write", "metadata": "read"}
    del wrong["members"]
    app = new_app(forge, "askew", permissions=wrong, events=["pull_request", "push", "issue_comment"])
    found = report(machine(forge, app, tmp_path))
    assert found["permissions"].state == "failed"
    assert found["permissions"].found == "missing: checks: write, members: read; too much: secrets: write"
    assert found["events"].found == "missing: check_run, repository, workflow_run; too much: push"
    assert found["installations"].found == "acme: checks: write, members: read not accepted"


def test_too_much_alone_is_a_warning_that_says_where_to_take_it_away(
    forge: RunningForge, tmp_path: Path
) -> None:
    app = new_app(forge, "rich", permissions={**PERMISSIONS, "administration": "read", "contents": "admin"})
    line = report(machine(forge, app, tmp_path))["permissions"]
    assert line.state == "warning"
    assert line.found == "too much: contents: admin (write is enough), administration: read"
    assert "Take them away" in line.help


def test_a_delivery_that_github_could_not_make_is_seen(forge: RunningForge, tmp_path: Path) -> None:
    app = new_app(forge, "deaf")
    forge.hooks.drain()
    line = report(machine(forge, app, tmp_path))["deliveries"]
    assert (line.state, "502" in line.found) == ("failed", True)


def test_a_secret_of_another_app_shows_as_refused_deliveries(forge: RunningForge, tmp_path: Path) -> None:
    app = new_app(forge, "mixed")
    forge.hooks.drain()
    newest = max((d for d in forge.forge.deliveries if d.app == app.app.id), key=lambda d: d.id)
    newest.status_code = 401
    line = report(machine(forge, app, tmp_path))["deliveries"]
    assert line.help == "TREEWRIGHT_BOT_WEBHOOK_SECRET is not the App's webhook secret."


@pytest.mark.parametrize(
    ("changes", "line", "state", "said"),
    [
        ({"webhook_url": ""}, "webhook", "failed", "no webhook address"),
        ({"webhook_url": "http://127.0.0.1:9/"}, "webhook", "failed", "not the bot's address"),
        ({"repositories": []}, "installations", "failed", "installed nowhere"),
    ],
)
def test_an_app_that_is_set_up_by_half(
    forge: RunningForge, tmp_path: Path, changes: dict[str, Any], line: str, state: str, said: str
) -> None:
    app = new_app(forge, f"half-{len(said)}", **changes)
    result = report(machine(forge, app, tmp_path))[line]
    assert (result.state, said in result.found) == (state, True), result
    assert result.help


def test_a_key_of_another_app_and_a_wrong_name_are_told_apart(forge: RunningForge, tmp_path: Path) -> None:
    one, two = new_app(forge, "one"), new_app(forge, "two")
    crossed = report(machine(forge, one, tmp_path, APP_ID=str(two.app.id)))
    assert "answered 401" in crossed["App"].found
    assert crossed["permissions"].state == "warning"
    named = report(machine(forge, one, tmp_path, APP_SLUG="another"))
    assert "APP_SLUG=one" in named["App"].help


@pytest.mark.parametrize(("off", "state"), [(3600, "failed"), (-3600, "failed"), (30, "warning")])
def test_a_clock_that_is_off_is_measured_against_githubs(
    forge: RunningForge, tmp_path: Path, off: int, state: str
) -> None:
    app = new_app(forge, f"clock{off}")
    probe = Probe(now=lambda: time.time() + off)
    place = machine(forge, app, tmp_path)
    probe.settings(place)
    line = probe.line("clock", probe.clock)(place)
    assert line.state == state
    assert ("ahead of" if off > 0 else "behind") in line.found


def test_no_network_and_no_settings_are_lines_and_not_failures_of_the_report(
    forge: RunningForge, tmp_path: Path
) -> None:
    app = new_app(forge, "offline")
    found = report(machine(forge, app, tmp_path, API_URL="http://127.0.0.1:9"))
    assert found["App"].state == "failed"
    assert found["permissions"].state == "warning"
    empty = report(Machine({}))
    assert empty["bot settings"].state == "failed"
    assert {result.found for name, result in empty.items() if name != "bot settings"} == {"not looked at"}


def test_a_key_that_others_can_read_is_a_warning(forge: RunningForge, tmp_path: Path) -> None:
    app = new_app(forge, "open")
    place = machine(forge, app, tmp_path)
    (tmp_path / "app.pem").chmod(0o644)
    line = report(place)["private key"]
    assert (line.state, line.help) == ("warning", f"chmod 600 {tmp_path / 'app.pem'}")


def test_looking_at_a_database_that_is_not_there_does_not_make_it(
    forge: RunningForge, tmp_path: Path
) -> None:
    app = new_app(forge, "fresh")
    assert "makes" in report(machine(forge, app, tmp_path))["database"].found
    assert not (tmp_path / "bot.sqlite").exists()
    other = machine(forge, app, tmp_path, DATABASE="postgresql+psycopg://u:hidden-word@127.0.0.1:9/x")
    line = report(other)["database"]
    assert line.state == "failed"
    assert "hidden-word" not in str(line)


def test_the_command_joins_both_rooms_and_reads_the_settings_file(
    forge: RunningForge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = new_app(forge, "joined")
    place = machine(forge, app, tmp_path)
    file = tmp_path / "app.env"
    file.write_text("".join(f"{name}={value}\n" for name, value in place.environment.items()))
    monkeypatch.setenv("TREEWRIGHT_BOT_SETTINGS", str(file))
    done = CliRunner().invoke(command, ["doctor", "--role", "bot", "--format", "json"])
    checks = {row["name"]: row for row in json.loads(done.output)["checks"]}
    assert checks["permissions"]["state"] == "ok"
    assert {"git", "teacher endpoint", "bot settings", "installations"} <= set(checks)


def test_the_comparison_knows_githubs_own_extras() -> None:
    assert not compare_permissions(PERMISSIONS)
    assert not compare_events([*EVENTS, "installation", "installation_repositories"])
    assert compare_permissions({**PERMISSIONS, "checks": "unheard of"}).excess == (
        "checks: unheard of (write is enough)",
    )
    assert Probe().line("x", lambda _: Result("x", "ok", ""))(Machine({})).state == "warning"
