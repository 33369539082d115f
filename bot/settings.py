"""The bot's settings, from the environment (`TREEWRIGHT_BOT_*`) and the file that `--settings` names.

There is no default secret and no default key: without them the bot refuses to start. The webhook secret may
have a predecessor, so that it can be rotated without losing a delivery.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

_KNOWN_SECRETS = {"development", "secret", "changeme", "password", "webhook-secret", "test"}
_SHORTEST_SECRET = 16


class SettingsError(ValueError):
    """The environment does not make a bot; the text says which variable and what to put there."""


class Memory(BaseSettings):
    """Where the bot's memory is: all that reading it needs; the audit log is read without the App's key."""

    model_config = SettingsConfigDict(env_prefix="TREEWRIGHT_BOT_", frozen=True, extra="ignore")

    data: Path = Path("treewright-data")
    database: str = Field(default="", description="SQLAlchemy URL; SQLite in the data folder when empty")

    @property
    def database_url(self) -> str:
        return self.database or f"sqlite:///{(self.data / 'bot.sqlite').resolve()}"


class Settings(Memory):
    """Every variable of the bot. `docs/operators.md` explains them in the same order."""

    app_id: int
    app_slug: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", description="the App's name in its address")
    private_key: SecretStr | None = None
    private_key_file: Path | None = None
    webhook_secret: SecretStr
    webhook_secret_previous: SecretStr | None = None
    dashboard_token: SecretStr | None = Field(
        default=None, description="opens the operators' page; without it there is none"
    )
    api_url: str = Field(default="https://api.github.com", pattern=r"^https?://[^\s]+[^/\s]$")
    web_url: str = Field(default="https://github.com", pattern=r"^https?://[^\s]+[^/\s]$")
    executor_id: str = Field(default="treewright-1", description="stable name of this process among replicas")
    workers: int = Field(default=4, ge=1, le=64, description="jobs at once in this process")
    # GitHub asks for a second between writes (REST API best practices); PyGithub's own default for reads.
    seconds_between_requests: float = Field(default=0.25, ge=0)
    seconds_between_writes: float = Field(default=1.0, ge=0)
    polling_seconds: float = Field(default=0.5, gt=0, description="how often the job queue is looked at")
    reconcile_seconds: float = Field(default=300.0, ge=0, description="0 turns the timer off")
    dispatch_seconds: float = Field(
        default=20.0, ge=0, description="how long a run may take to appear before its dispatch counts as lost"
    )
    retry_seconds: float = Field(default=2.0, ge=0, description="first wait before a failed step runs again")
    # 9 tries from 2 seconds on, doubled: an outage of eight minutes is sat out.
    attempts: int = Field(default=9, ge=1, le=20, description="tries of one step before it is given up")

    @field_validator("webhook_secret", "webhook_secret_previous", "dashboard_token")
    @classmethod
    def _no_guessable_secret(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            plain = value.get_secret_value()
            if len(plain) < _SHORTEST_SECRET or plain.lower() in _KNOWN_SECRETS:
                raise ValueError(f"needs at least {_SHORTEST_SECRET} random characters")
        return value

    @model_validator(mode="after")
    def _one_key(self) -> Settings:
        if (self.private_key is None) == (self.private_key_file is None):
            raise ValueError("set exactly one of PRIVATE_KEY and PRIVATE_KEY_FILE")
        return self

    @property
    def key(self) -> str:
        """The App's private key in PEM."""
        if self.private_key is not None:
            return self.private_key.get_secret_value()
        return self.private_key_file.read_text("utf-8") if self.private_key_file else ""

    @property
    def secrets(self) -> tuple[bytes, ...]:
        """The live webhook secrets, the newest first."""
        both = (self.webhook_secret, self.webhook_secret_previous)
        return tuple(secret.get_secret_value().encode() for secret in both if secret is not None)

    @property
    def login(self) -> str:
        """The login under which GitHub shows what the App writes."""
        return f"{self.app_slug}[bot]"


def load(file: Path | None = None, **overrides: Any) -> Settings:
    """The settings of this environment; `file` (NAME=value lines, as `treewright bot setup` writes them)
    says what the environment does not. Raises `SettingsError`, which names each variable but never its
    value.
    """
    if file is not None and not file.is_file():
        raise SettingsError(f"{file}: no such file; `treewright bot setup` makes one")
    try:
        settings = Settings(**{"_env_file": file, **overrides})
        if "PRIVATE KEY" not in settings.key:
            raise SettingsError(
                "TREEWRIGHT_BOT_PRIVATE_KEY: not a PEM private key; download one from the App's page"
            )
    except ValidationError as error:
        lines = []
        for problem in error.errors(include_input=False, include_url=False):
            name = "_".join(str(part) for part in problem["loc"]).upper()
            lines.append(f"TREEWRIGHT_BOT_{name}: {problem['msg']}" if name else problem["msg"])
        raise SettingsError("the bot cannot start:\n  " + "\n  ".join(lines)) from None
    except OSError as error:
        raise SettingsError(f"TREEWRIGHT_BOT_PRIVATE_KEY_FILE: {error.strerror}: {error.filename}") from None
    except UnicodeDecodeError:
        raise SettingsError(
            "TREEWRIGHT_BOT_PRIVATE_KEY_FILE: not a PEM file; download one from the App's page"
        ) from None
    return settings


def memory(file: Path | None = None) -> Memory:
    """Where the bot's memory is, from the environment and `file`. Raises `SettingsError`."""
    if file is not None and not file.is_file():
        raise SettingsError(f"{file}: no such file")
    found: dict[str, Any] = {"_env_file": file}
    return Memory(**found)
