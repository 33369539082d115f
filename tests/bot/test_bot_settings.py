"""The bot's settings: it refuses to start rather than start unsafe."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from typer.testing import CliRunner

from bot.audit import redact
from bot.settings import SettingsError, load
from treewright.cli import app

GOOD = {
    "TREEWRIGHT_BOT_APP_ID": "1",
    "TREEWRIGHT_BOT_APP_SLUG": "treewright",
    "TREEWRIGHT_BOT_PRIVATE_KEY": "-----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY-----",
    "TREEWRIGHT_BOT_WEBHOOK_SECRET": "f3c1a9d27b604e58",
}


def put(monkeypatch: pytest.MonkeyPatch, **changes: str | None) -> None:
    for name in GOOD:
        monkeypatch.delenv(name, raising=False)
    for name, value in {**GOOD, **{f"TREEWRIGHT_BOT_{k}": v for k, v in changes.items()}}.items():
        if value is not None:
            monkeypatch.setenv(name, value)


def test_a_complete_environment_makes_a_bot(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    put(monkeypatch, DATA=str(tmp_path), WEBHOOK_SECRET_PREVIOUS="0d4f6a1e8c2b7395")
    settings = load()
    assert settings.login == "treewright[bot]"
    assert settings.secrets == (b"f3c1a9d27b604e58", b"0d4f6a1e8c2b7395")
    assert settings.database_url == f"sqlite:///{tmp_path / 'bot.sqlite'}"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"WEBHOOK_SECRET": None}, "TREEWRIGHT_BOT_WEBHOOK_SECRET"),
        ({"WEBHOOK_SECRET": "development"}, "16 random characters"),
        ({"WEBHOOK_SECRET": ""}, "16 random characters"),
        ({"PRIVATE_KEY": None}, "PRIVATE_KEY_FILE"),
        ({"PRIVATE_KEY": "hello"}, "not a PEM"),
        ({"APP_ID": None}, "TREEWRIGHT_BOT_APP_ID"),
        ({"PRIVATE_KEY": None, "PRIVATE_KEY_FILE": "/nowhere.pem"}, "PRIVATE_KEY_FILE"),
    ],
)
def test_what_is_missing_or_weak_is_named(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, str | None], said: str
) -> None:
    put(monkeypatch, **change)
    with pytest.raises(SettingsError, match=said) as raised:
        load()
    assert "f3c1a9d27b604e58" not in str(raised.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "the private key cannot be read as a PEM private key"),
        ({"DATABASE": "nonsense", "PRIVATE_KEY": "good"}, "TREEWRIGHT_BOT_DATABASE cannot be opened: "),
        (
            {"DATABASE": "postgresql+psycopg://u:hidden@127.0.0.1:1/x", "PRIVATE_KEY": "good"},
            "TREEWRIGHT_BOT_DATABASE cannot be opened: connection failed",
        ),
        ({"DATA": "/dev/null/x", "PRIVATE_KEY": "good"}, "TREEWRIGHT_BOT_DATA (/dev/null/x) cannot"),
        ({"PRIVATE_KEY": None, "PRIVATE_KEY_FILE": "binary"}, "PRIVATE_KEY_FILE: not a PEM file"),
    ],
)
def test_the_command_says_in_a_line_why_the_bot_cannot_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, change: dict[str, str | None], said: str
) -> None:
    (tmp_path / "binary").write_bytes(b"\xe9\x00\xff")
    values = {"good": _key(), "binary": str(tmp_path / "binary")}
    wanted = {name: values.get(value or "", value) for name, value in change.items()}
    put(monkeypatch, **{"DATA": str(tmp_path / "data"), **wanted})
    for name in {"DATABASE", "DATA", "PRIVATE_KEY_FILE"} - set(wanted) - {"DATA"}:
        monkeypatch.delenv(f"TREEWRIGHT_BOT_{name}", raising=False)
    done = CliRunner().invoke(app, ["bot", "run", "--port", "0"])
    assert (done.exit_code, said in done.output) == (2, True), done.output
    assert "hidden" not in done.output


def _key() -> str:
    made = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return made.private_bytes(*form).decode()


def test_secrets_never_show_in_a_settings_value(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch)
    assert "f3c1a9d27b604e58" not in repr(load())


def test_the_log_has_a_last_net_for_tokens() -> None:
    line = redact('{"a": "Bearer abcdefghijklmnop", "b": "ghs_0123456789abcdef", "c": "fine"}')
    assert "abcdefghijklmnop" not in line
    assert "ghs_0123456789abcdef" not in line
    assert "fine" in line
