"""The bot's settings: it refuses to start rather than start unsafe."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot.audit import redact
from bot.settings import SettingsError, load

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


def test_secrets_never_show_in_a_settings_value(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch)
    assert "f3c1a9d27b604e58" not in repr(load())


def test_the_log_has_a_last_net_for_tokens() -> None:
    line = redact('{"a": "Bearer abcdefghijklmnop", "b": "ghs_0123456789abcdef", "c": "fine"}')
    assert "abcdefghijklmnop" not in line
    assert "ghs_0123456789abcdef" not in line
    assert "fine" in line
