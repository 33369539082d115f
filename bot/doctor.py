"""The bot's lines of `treewright doctor --role bot`: its settings, its App as GitHub has it, and its memory.

What the App is granted and told is compared with `grants.py` in both directions: what is missing, and what
is too much. `treewright/commands/doctor.py` joins these checks with the machine's own; the two rooms share
nothing but the shape of a result.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

import httpx
import sqlalchemy as sa
from github import Auth

from bot.grants import compare_events, compare_permissions
from bot.settings import Settings, SettingsError, load

State = Literal["ok", "warning", "failed"]
SKEW_WARNS, SKEW_FAILS = 10.0, 60.0
"""Seconds. GitHub refuses a token issued in its future; a minute off is what PyGithub and we allow for."""
_SECONDS = 10.0
_PREFIX = "TREEWRIGHT_BOT_"
_DATABASE_FIX = f"Start it, or mend {_PREFIX}DATABASE (postgresql+psycopg://USER:PASSWORD@HOST/NAME)."
_RECENT = 30


@dataclass(frozen=True)
class Result:
    """One line of the report; `help` says what to do, empty when nothing is."""

    name: str
    state: State
    found: str
    help: str = ""


class Context(Protocol):
    @property
    def environment(self) -> Mapping[str, str]: ...


Check = Callable[[Context], Result]


class _NotYetError(Exception):
    """This line cannot be looked at before another one is well; the text names that one."""


def doctor_checks() -> dict[str, list[Check]]:
    """The bot's checks by role; the answers of GitHub are asked for once for all of them."""
    probe = Probe()
    lines: list[tuple[str, Callable[[Settings], Result]]] = [
        ("private key", private_key),
        ("webhook secret", webhook_secret),
        ("clock", probe.clock),
        ("App", probe.app),
        ("permissions", probe.permissions),
        ("events", probe.events),
        ("webhook", probe.webhook),
        ("deliveries", probe.deliveries),
        ("installations", probe.installations),
        ("database", database),
        ("dashboard", dashboard),
    ]
    return {"bot": [probe.settings, *(probe.line(name, look) for name, look in lines)]}


class Probe:
    """Settings and GitHub's answers, read once."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._settings: Settings | None = None
        self._answers: dict[str, httpx.Response | str] = {}

    def settings(self, context: Context) -> Result:
        environment = dict(context.environment)
        file = environment.get(f"{_PREFIX}SETTINGS")
        known = set(Settings.model_fields)
        given = {
            name: value
            for key, value in environment.items()
            if key.startswith(_PREFIX) and (name := key.removeprefix(_PREFIX).lower()) in known
        }
        try:
            self._settings = load(Path(file) if file else None, **given)
        except SettingsError as error:
            fix = (
                "`treewright bot setup` makes an App and its settings; docs/operators.md lists the variables."
            )
            return Result("bot settings", "failed", str(error).removeprefix("the bot cannot start:\n  "), fix)
        return Result("bot settings", "ok", f"App {self._settings.app_id} ({self._settings.app_slug})")

    def line(self, name: str, look: Callable[[Settings], Result]) -> Check:
        """A check that needs the settings, and may need GitHub."""

        def check(_: Context) -> Result:
            if self._settings is None:
                return Result(name, "warning", "not looked at", "Mend the bot's settings first.")
            try:
                return look(self._settings)
            except _NotYetError as error:
                return Result(name, "warning", "not looked at", str(error))

        check.__name__ = name.replace(" ", "_")
        return check

    # --- GitHub

    def _ask(self, settings: Settings, path: str) -> httpx.Response:
        if path not in self._answers:
            try:
                token = Auth.AppAuth(settings.app_id, settings.key).create_jwt(expiration=300)
                self._answers[path] = httpx.get(
                    f"{settings.api_url}{path}",
                    headers={"Authorization": f"Bearer {token}", "Accept": "application/vnd.github+json"},
                    timeout=_SECONDS,
                )
            except httpx.HTTPError as error:
                self._answers[path] = f"{settings.api_url} cannot be reached ({type(error).__name__})"
            except ValueError:
                self._answers[path] = "the private key cannot be read"
        answer = self._answers[path]
        if isinstance(answer, str):
            raise _NotYetError(f"{answer}: mend that first.")
        return answer

    def _json(self, settings: Settings, path: str) -> Any:
        answer = self._ask(settings, path)
        if answer.status_code != 200:
            raise _NotYetError(f"GitHub answered {answer.status_code} to {path}; see the line “App”.")
        return answer.json()

    def clock(self, settings: Settings) -> Result:
        """GitHub's Date header against this machine's clock; the header has whole seconds."""
        date = self._ask(settings, "/app").headers.get("date", "")
        try:
            skew = self._now() - parsedate_to_datetime(date).timestamp()
        except (TypeError, ValueError):
            return Result("clock", "warning", "GitHub's answer has no date", "")
        found = f"{abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} GitHub's"
        fix = "Let the machine's clock follow a time server (timedatectl set-ntp true)."
        if abs(skew) > SKEW_FAILS:
            return Result("clock", "failed", found, f"GitHub refuses our tokens. {fix}")
        return (
            Result("clock", "warning", found, fix) if abs(skew) > SKEW_WARNS else Result("clock", "ok", found)
        )

    def app(self, settings: Settings) -> Result:
        try:
            answer = self._ask(settings, "/app")
        except _NotYetError as error:
            fix = f"Mend the network, or {_PREFIX}API_URL (GitHub Enterprise Server: https://HOST/api/v3)."
            return Result("App", "failed", str(error), fix)
        if answer.status_code != 200:
            fix = f"{_PREFIX}APP_ID and the private key must be of the same App; or the clock is wrong."
            return Result("App", "failed", f"GitHub answered {answer.status_code} to the App's key", fix)
        slug = str(answer.json().get("slug"))
        if slug != settings.app_slug:
            fix = f"Set {_PREFIX}APP_SLUG={slug}: otherwise the bot does not know its own comments."
            return Result("App", "failed", f"its name is {slug}, not {settings.app_slug}", fix)
        return Result("App", "ok", str(answer.json().get("html_url", slug)))

    def permissions(self, settings: Settings) -> Result:
        app = self._json(settings, "/app")
        different = compare_permissions(dict(app.get("permissions") or {}))
        where = "on the App's page, Permissions & events"
        if different.missing:
            found = f"missing: {', '.join(different.missing)}" + _too(different.excess)
            return Result("permissions", "failed", found, f"Grant them {where}; owners are asked to accept.")
        if different.excess:
            found = f"too much: {', '.join(different.excess)}"
            return Result(
                "permissions", "warning", found, f"Take them away {where}: the bot never uses them."
            )
        return Result("permissions", "ok", "exactly what the bot needs")

    def events(self, settings: Settings) -> Result:
        different = compare_events(self._json(settings, "/app").get("events") or [])
        where = "on the App's page, Permissions & events"
        if different.missing:
            found = f"missing: {', '.join(different.missing)}" + _too(different.excess)
            return Result("events", "failed", found, f"Subscribe to them {where}.")
        if different.excess:
            found = f"too much: {', '.join(different.excess)}"
            return Result("events", "warning", found, f"Unsubscribe {where}: each is a delivery for nothing.")
        return Result("events", "ok", "exactly what the bot needs")

    def webhook(self, settings: Settings) -> Result:
        config = self._json(settings, "/app/hook/config")
        url = str(config.get("url") or "")
        fix = "Set it on the App's page, Webhook: https://YOUR-HOST/webhook"
        if not url:
            return Result("webhook", "failed", "the App has no webhook address", fix)
        if urlsplit(url).path.rstrip("/") != "/webhook":
            return Result("webhook", "failed", f"{url} is not the bot's address", fix)
        if not config.get("secret"):
            secret = f"Set the one of {_PREFIX}WEBHOOK_SECRET on the App's page."
            return Result("webhook", "failed", "deliveries are not signed", secret)
        if config.get("content_type") != "json":
            return Result("webhook", "failed", "content type is not JSON", "Set application/json there.")
        if str(config.get("insecure_ssl", "0")) != "0":
            return Result("webhook", "warning", "TLS is not verified", "Turn SSL verification on there.")
        return Result("webhook", "ok", url)

    def deliveries(self, settings: Settings) -> Result:
        """What GitHub itself met at the webhook's address, which is the only place that matters."""
        rows = self._json(settings, f"/app/hook/deliveries?per_page={_RECENT}")
        if not rows:
            fix = "Install the App or open a pull request; GitHub then delivers, and this line knows."
            return Result("deliveries", "warning", "GitHub has delivered nothing yet", fix)
        bad = [row for row in rows if not 200 <= int(row.get("status_code") or 0) < 300]
        newest = rows[0]
        if newest in bad:
            status = f"{newest.get('status_code')} ({newest.get('status')})"
            fix = {
                401: f"{_PREFIX}WEBHOOK_SECRET is not the App's webhook secret.",
                404: "The proxy must pass /webhook on to the bot.",
            }.get(int(newest.get("status_code") or 0), "Is the bot running, and its address reachable?")
            return Result("deliveries", "failed", f"the newest one failed: {status}"[:200], fix)
        if bad:
            found = f"{len(bad)} of the newest {len(rows)} failed"
            return Result("deliveries", "warning", found, "The bot asks for them again while it runs.")
        return Result("deliveries", "ok", f"the newest {len(rows)} arrived")

    def installations(self, settings: Settings) -> Result:
        rows = self._json(settings, "/app/installations?per_page=100")
        if not rows:
            page = f"{settings.web_url}/apps/{settings.app_slug}/installations/new"
            return Result("installations", "failed", "the App is installed nowhere", f"Install it: {page}")
        troubles = []
        for row in rows:
            account = str((row.get("account") or {}).get("login", row.get("id")))
            different = compare_permissions(dict(row.get("permissions") or {}))
            if row.get("suspended_at"):
                troubles.append(f"{account}: suspended")
            elif different.missing:
                troubles.append(f"{account}: {', '.join(different.missing)} not accepted")
        names = ", ".join(str((row.get("account") or {}).get("login", "?")) for row in rows[:5])
        if troubles:
            fix = (
                "An owner of that account accepts the new permissions under Settings, Installed GitHub Apps."
            )
            return Result("installations", "failed", "; ".join(troubles)[:300], fix)
        return Result("installations", "ok", f"{len(rows)}: {names}"[:200])


def _too(excess: tuple[str, ...]) -> str:
    return f"; too much: {', '.join(excess)}" if excess else ""


def private_key(settings: Settings) -> Result:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    fix = "Make a new private key on the App's page and delete the old one there."
    try:
        load_pem_private_key(settings.key.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return Result("private key", "failed", "cannot be read as a PEM private key", fix)
    file = settings.private_key_file
    if file is not None:
        mode = stat.S_IMODE(file.stat().st_mode)
        if mode & 0o077:
            return Result("private key", "warning", f"{file} has mode {mode:03o}", f"chmod 600 {file}")
    return Result("private key", "ok", str(file) if file is not None else "from the environment")


def webhook_secret(settings: Settings) -> Result:
    if settings.webhook_secret_previous is not None:
        fix = f"Unset {_PREFIX}WEBHOOK_SECRET_PREVIOUS once GitHub signs with the new one."
        return Result("webhook secret", "warning", "two are live: one is being rotated", fix)
    return Result("webhook secret", "ok", "set")


def database(settings: Settings) -> Result:
    try:
        url = sa.engine.make_url(settings.database_url)
    except sa.exc.ArgumentError:
        return Result("database", "failed", "its address is no SQLAlchemy URL", _DATABASE_FIX)
    shown = url.render_as_string(hide_password=True)
    if url.drivername.startswith("sqlite"):
        folder = Path(url.database or ".").parent
        if not Path(url.database or "").is_file():  # looking would make it, as the wrong user perhaps
            return Result("database", "ok", f"the bot makes {url.database} at its start")
        if not os.access(folder, os.W_OK):
            return Result("database", "failed", f"{folder} cannot be written", "Give it to the bot's user.")
    asks = "SELECT sqlite_version()" if url.drivername.startswith("sqlite") else "SELECT version()"
    try:
        with sa.create_engine(url, poolclass=sa.pool.NullPool).connect() as connection:
            version = connection.execute(sa.text(asks)).scalar_one()
    except (sa.exc.SQLAlchemyError, ImportError) as error:
        return Result("database", "failed", f"{shown}: {type(error).__name__}", _DATABASE_FIX)
    return Result("database", "ok", f"{shown} ({str(version).split(' on ')[0]})")


def dashboard(settings: Settings) -> Result:
    if settings.dashboard_token is None:
        return Result(
            "dashboard", "ok", "off", f"Set {_PREFIX}DASHBOARD_TOKEN (openssl rand -hex 32) for it."
        )
    return Result("dashboard", "ok", "on, at /dashboard")
