"""Makes the GitHub App by GitHub's manifest flow: `treewright bot setup` serves one page on loopback, GitHub
asks the person, and sends them back with a code that is exchanged for the App's credentials.

Source: GitHub, "Registering a GitHub App from a manifest". The `state` is ours: random, for one use, for a
time; without it anybody could make this machine store the credentials of another App. Nothing that GitHub
hands out is ever printed: it goes into files for the owner only.
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from bot.grants import EVENTS, PERMISSIONS

VALID_SECONDS = 900.0
"""A quarter of an hour to press GitHub's button; GitHub's own code is good for an hour."""
SETTINGS_FILE, KEY_FILE, CLIENT_FILE = "app.env", "app.pem", "client-secret"
FILES = (SETTINGS_FILE, KEY_FILE, CLIENT_FILE)
_LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})


class SetupError(Exception):
    """The App cannot be made; the text says why and what to do."""


@dataclass(frozen=True)
class Plan:
    """What to make and where: `owner` is an organization, empty for the person's own account."""

    name: str
    webhook_url: str
    folder: Path
    owner: str = ""
    public: bool = False
    api_url: str = "https://api.github.com"
    web_url: str = "https://github.com"

    @classmethod
    def of(cls, host: str, **options: Any) -> Plan:
        """For github.com, or for a GitHub Enterprise Server by its address."""
        base = host.rstrip("/")
        parts = urlsplit(base)
        if parts.scheme not in {"https", "http"} or not parts.hostname or parts.path:
            raise SetupError(f"{host!r} is no server's address; one looks like https://github.example.org")
        if parts.scheme == "http" and parts.hostname not in _LOCAL:
            raise SetupError(f"{host!r} is not https: the App's key would travel in the open")
        if base in {"https://github.com", "https://www.github.com"}:
            return cls(**options)
        return cls(api_url=f"{base}/api/v3", web_url=base, **options)

    @property
    def new_app_page(self) -> str:
        """GitHub's page that takes a manifest."""
        where = f"/organizations/{quote(self.owner, safe='')}" if self.owner else ""
        return f"{self.web_url}{where}/settings/apps/new"


def manifest(plan: Plan, callback: str) -> dict[str, Any]:
    """The manifest as GitHub reads it (its "GitHub App Manifest parameters")."""
    return {
        "name": plan.name,
        "url": "https://github.com/treewright/treewright",
        "description": "Lints, previews and releases contributions to a taxonomy of knowledge and skills.",
        "hook_attributes": {"url": plan.webhook_url, "active": True},
        "redirect_url": callback,
        "public": plan.public,
        "default_permissions": dict(PERMISSIONS),
        "default_events": list(EVENTS),
    }


@dataclass
class State:
    """One use, for a time, compared in constant time."""

    clock: Callable[[], float] = time.monotonic
    value: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    used: bool = False
    born: float = -1.0

    def __post_init__(self) -> None:
        self.born = self.clock()

    def take(self, given: str) -> None:
        """Raises `SetupError` unless `given` is the state, in time, and for the first time. A wrong guess
        does not use it up: a stranger must not be able to end the set-up.
        """
        right = hmac.compare_digest(given.encode("utf-8", "replace"), self.value.encode())
        if not right:
            raise SetupError(
                "the answer does not belong to this set-up (its state is another); nothing was done"
            )
        if self.used:
            raise SetupError("this set-up was finished already; start another one for another App")
        if self.clock() - self.born > VALID_SECONDS:
            raise SetupError("the set-up took longer than 15 minutes; run `treewright bot setup` again")
        self.used = True


@dataclass(frozen=True)
class Made:
    """The App that GitHub made; holds no secret."""

    app_id: int
    slug: str
    page: str
    owner: str

    @property
    def install_page(self) -> str:
        return f"{self.page}/installations/new"


def prepare(folder: Path) -> None:
    """Make the folder for the owner only; find out now what would be lost later: GitHub shows a key once."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.chmod(0o700)
        for name in FILES:
            if (folder / name).exists():
                raise SetupError(
                    f"{folder / name} is there already: name another folder, or move the old App away"
                )
        probe = folder / ".writable"
        probe.touch(mode=0o600)
        probe.unlink()
    except OSError as error:
        raise SetupError(f"{folder}: {error.strerror}; name a folder of yours with --into") from None


def exchange(plan: Plan, code: str) -> tuple[Made, dict[str, str]]:
    """Trade GitHub's code for the App, and its secrets by the name of the file that they go to."""
    if not code or len(code) > 200 or not code.isascii() or not code.isalnum():
        raise SetupError("GitHub's answer carries no code; start again")
    try:
        answer = httpx.post(
            f"{plan.api_url}/app-manifests/{code}/conversions",
            headers={"Accept": "application/vnd.github+json"},
            timeout=30,
        )
    except httpx.HTTPError as error:
        raise SetupError(f"{plan.api_url} could not be reached ({type(error).__name__})") from None
    if answer.status_code != 201:
        raise SetupError(f"GitHub answered {answer.status_code}: the code is used or too old. Start again")
    try:
        app: dict[str, Any] = answer.json()
        made = Made(int(app["id"]), str(app["slug"]), str(app["html_url"]), str(app["owner"]["login"]))
        found = {name: str(app[name]) for name in ("pem", "webhook_secret", "client_id", "client_secret")}
    except (ValueError, KeyError, TypeError):
        raise SetupError("GitHub's answer is not an App; nothing was stored") from None
    return made, found


def store(plan: Plan, made: Made, found: dict[str, str]) -> Path:
    """Write the credentials, each file whole or not at all, the settings last. Returns the settings' file."""
    folder = plan.folder.resolve()
    values = {
        "TREEWRIGHT_BOT_APP_ID": str(made.app_id),
        "TREEWRIGHT_BOT_APP_SLUG": made.slug,
        "TREEWRIGHT_BOT_PRIVATE_KEY_FILE": str(folder / KEY_FILE),
        "TREEWRIGHT_BOT_WEBHOOK_SECRET": found["webhook_secret"],
        "TREEWRIGHT_BOT_API_URL": plan.api_url,
        "TREEWRIGHT_BOT_WEB_URL": plan.web_url,
    }
    for name, value in values.items():
        if not value or not value.isprintable() or any(mark in value for mark in "\"'\\$` "):
            raise SetupError(f"{name} from GitHub holds characters that no settings file can carry")
    client = json.dumps({name: found[name] for name in ("client_id", "client_secret")}) + "\n"
    _write(folder / KEY_FILE, found["pem"])
    _write(folder / CLIENT_FILE, client)
    _write(folder / SETTINGS_FILE, "".join(f"{name}={value}\n" for name, value in values.items()))
    return folder / SETTINGS_FILE


def _write(path: Path, text: str) -> None:
    """A file of mode 0600 from its first byte on; an existing one is never replaced."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)  # unlike a rename, this fails when somebody was faster
    finally:
        temporary.unlink()


def next_steps(plan: Plan, made: Made, settings: Path) -> str:
    """What the person does now; for the terminal."""
    return "\n".join(
        (
            f"The App {made.slug} (id {made.app_id}) of {made.owner} is made. Its credentials are in",
            f"  {settings.parent}  (files {', '.join(FILES)}, readable by you only)",
            "",
            "Next:",
            f"  1. Install it on the taxonomy:  {made.install_page}",
            "  2. Say where models answer:     TREEWRIGHT_TEACHER_URL, ..._JUDGE_URL, ..._STUDENT_URL",
            f"  3. Check it:                    treewright doctor --role bot --settings {settings}",
            f"  4. Start it:                    treewright bot run --settings {settings}",
            f"GitHub delivers to {plan.webhook_url}: a TLS proxy there must pass /webhook on to the bot.",
        )
    )
