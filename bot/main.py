"""Puts the bot together and serves it: `treewright bot run`.

One process: uvicorn for the webhook, a thread that empties the inbox, DBOS's workers, and a timer that
reconciles. With Postgres as the database several such processes share the work; give each its own
`TREEWRIGHT_BOT_EXECUTOR_ID`.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

import sqlalchemy as sa
import uvicorn
from fastapi import APIRouter, FastAPI

from bot import audit, dashboard, doctor, jobs, metrics
from bot.audit_log import AuditLog
from bot.inbox import Dispatcher
from bot.intake import Intake
from bot.reconcile import Reconciler
from bot.services import Services
from bot.settings import Settings, SettingsError
from bot.web import application
from lab.taxonomy.tokenizer import TokenizerError, teacher_tokens


class Bot:
    """Everything behind the web, started and stopped in the order that loses nothing."""

    def __init__(self, services: Services, log: AuditLog) -> None:
        settings = services.settings
        due = threading.Event()
        self._services = services
        self._audit = log
        self._dispatcher = Dispatcher(services.store, settings.login, 5 * settings.polling_seconds, due)
        self._reconciler = Reconciler(services, settings.reconcile_seconds, due)

    def start(self) -> None:
        audit.keep_in(self._audit)
        jobs.open_jobs(self._services)
        self._dispatcher.start()
        self._reconciler.start()
        audit.note("the bot is up", app=self._services.settings.app_slug)

    def stop(self) -> None:
        # Who waits for a rate limit to end stops waiting; the job is taken up at the next start.
        self._services.app.stopping.set()
        self._reconciler.stop()
        self._dispatcher.stop()
        jobs.close_jobs()
        audit.keep_no_more(self._audit)
        self._services.store.close()
        audit.note("the bot is down")

    def wake(self) -> None:
        self._dispatcher.wake()

    def troubles(self) -> list[str]:
        """What keeps the bot from working; empty when it is ready."""
        found = [] if self._dispatcher.alive else ["the inbox is not being emptied"]
        try:
            with self._services.store.engine.connect() as connection:
                connection.execute(sa.text("SELECT 1"))
        except sa.exc.SQLAlchemyError as error:
            found.append(f"the database does not answer ({type(error).__name__})")
        return found


def build(settings: Settings) -> FastAPI:
    """The ASGI app of a bot; everything behind it starts with the server. Raises `SettingsError` when it
    could not work.
    """
    key = doctor.private_key(settings)
    if key.state == "failed":
        raise SettingsError(f"the bot cannot start:\n  the private key {key.found}. {key.help}")
    try:
        teacher_tokens(os.environ)
    except TokenizerError as error:
        raise SettingsError(f"the bot cannot start:\n  {error}") from None
    try:
        services = Services.open(settings)
    except (sa.exc.SQLAlchemyError, ImportError, OSError) as error:
        why = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
        place = "TREEWRIGHT_BOT_DATABASE" if settings.database else f"TREEWRIGHT_BOT_DATA ({settings.data})"
        raise SettingsError(f"the bot cannot start:\n  {place} cannot be opened: {why}") from None
    store, log = services.store, AuditLog(services.store.engine, services.store.write)

    def further(troubles: Callable[[], list[str]]) -> APIRouter | None:
        return dashboard.router(settings, store, log, troubles)

    return application(
        Intake(store),
        settings.secrets,
        lambda: Bot(services, log),
        lambda: metrics.page(store.engine, log.checkpoint()),
        further,
    )


def serve(settings: Settings, host: str, port: int) -> None:
    """Serve until a signal comes."""
    audit.configure()
    # The largest delivery is read in parts; a slow reader is cut off by uvicorn's own keep-alive limit.
    config = uvicorn.Config(build(settings), host=host, port=port, log_config=None, access_log=False)
    config.timeout_graceful_shutdown = 25
    server = uvicorn.Server(config)
    if threading.current_thread() is threading.main_thread():
        # uvicorn stops in order at these signals and then raises them again: an end that was asked for is no
        # failure, so this exits with 0, also when the signal comes before uvicorn listens.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: setattr(server, "should_exit", True))
    server.run()
