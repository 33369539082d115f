"""The documentation against the code: every sentence in it is true today, as far as a test can tell."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from bot.replies import help_text
from bot.settings import Settings
from treewright.cli import app

COMMANDS = get_command(app).commands  # type: ignore[attr-defined] # typer makes a group
ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "examples" / "README.md"])


def test_the_maintainers_page_shows_the_commands_of_the_bot() -> None:
    table = help_text()[help_text().index("| comment") :].strip()
    assert table in (ROOT / "docs" / "maintainers.md").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_inside_the_repository_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_the_pages_exist(page: Path) -> None:
    for name in re.findall(r"(?:^|[`/])treewright ([a-z][a-z-]*)", page.read_text(), re.MULTILINE):
        if name not in ("is", "command"):
            assert name in COMMANDS, f"{page.name} names `treewright {name}`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_variables_of_the_bot_in_the_pages_exist(page: Path) -> None:
    known = {name.upper() for name in Settings.model_fields} | {"SETTINGS"}  # the command's own
    for name in re.findall(r"TREEWRIGHT_BOT_([A-Z_]+)", page.read_text()):
        assert name in known, f"{page.name} names TREEWRIGHT_BOT_{name}"


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_explains_itself(name: str) -> None:
    done = CliRunner().invoke(app, [name, "--help"])
    assert done.exit_code == 0
    assert COMMANDS[name].help
