"""docs/operators.md says what the code does: permissions, events, settings, metrics and commands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from bot_world import ROOT
from typer.main import get_command

from bot import metrics
from bot.audit_log import AuditLog
from bot.grants import GRANTS, SUBSCRIPTIONS
from bot.settings import Settings
from bot.store import Store
from treewright.cli import app

PAGE = (ROOT / "docs" / "operators.md").read_text("utf-8")


def test_permissions_and_events_are_the_tables_own() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (read|write|admin) \| (\w+) \| (.+) \|$", PAGE, re.MULTILINE)
    assert rows == [(one.name, one.level, one.scope, one.why) for one in GRANTS]
    events = [f"| `{one.name}` | {one.why} |" for one in SUBSCRIPTIONS if one.chosen]
    assert [line for line in PAGE.splitlines() if line in events] == events


def test_every_setting_is_explained_and_every_explained_one_exists() -> None:
    table = PAGE.partition("### Settings")[2].partition("###")[0]
    named = set(re.findall(r"`([A-Z_]+)`", " ".join(re.findall(r"^\| (`.*?`) \|", table, re.MULTILINE))))
    assert named == {name.upper() for name in Settings.model_fields}


def test_every_metric_that_is_named_exists(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'bot.sqlite'}")
    text = metrics.page(store.engine, AuditLog(store.engine).checkpoint()).decode()
    store.close()
    for name in set(re.findall(r"`(treewright_\w+)", PAGE)):
        assert f"# TYPE {name} " in text or f"\n{name}{{" in text, name


@pytest.mark.parametrize("line", sorted(set(re.findall(r"treewright ((?:bot|audit) \w+[^\n`#>]*)", PAGE))))
def test_every_command_line_is_one_that_the_program_takes(line: str) -> None:
    words = [word for word in re.sub(r"[\[\]()]", " ", line).split() if word != "..."]
    group = get_command(app).commands[words[0]]  # type: ignore[attr-defined]  # typer makes a group
    options = {name for parameter in group.commands[words[1]].params for name in parameter.opts}
    for word in words[2:]:
        if word.startswith("--"):
            assert word in options, line
