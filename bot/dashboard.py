"""The operators' page at `/dashboard`: queue, deliveries, pull requests, releases, dead letters, what was
healed.

It exists only when TREEWRIGHT_BOT_DASHBOARD_TOKEN is set. The token opens it, as a bearer or through a form
that trades it for a cookie of twelve hours; the cookie is signed with a key made of the token, so a new
token ends every session. No script, no inline style; everything shown may come from strangers and is
escaped.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import parse_qs

import sqlalchemy as sa
from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.concurrency import run_in_threadpool

from bot import audit
from bot.audit_log import AuditLog
from bot.overview import look
from bot.settings import Settings
from bot.store import Store

SESSION_SECONDS = 12 * 3600
COOKIE = "treewright_session"
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_LARGEST_FORM = 4096
_DELIVERY = re.compile(r"[A-Za-z0-9-]{1,64}")

_pages = Environment(
    loader=PackageLoader("bot", "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def _ago(seconds: float) -> str:
    whole = max(0, int(seconds))
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if whole >= size:
            return f"{whole // size} {unit}"
    return f"{whole} s"


def _when(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _link(address: object) -> str:
    """An address for `href`, or nothing when it is none that a browser should follow."""
    return str(address) if str(address).startswith(("https://", "http://")) else ""


_pages.filters.update(ago=_ago, when=_when, link=_link, short=lambda sha: str(sha)[:10])


class Sessions:
    """Tokens and cookies, compared in constant time."""

    def __init__(self, token: str, clock: Callable[[], float] = time.time) -> None:
        self._token = token.encode()
        self._key = hmac.new(self._token, b"treewright dashboard session", hashlib.sha256).digest()
        self._clock = clock

    def is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "replace"), self._token)

    def cookie(self) -> str:
        until = str(int(self._clock()) + SESSION_SECONDS)
        return f"{until}.{self._sign(until)}"

    def is_cookie(self, given: str) -> bool:
        until, _, mac = given.partition(".")
        right = hmac.compare_digest(mac.encode("utf-8", "replace"), self._sign(until).encode())
        return right and until.isascii() and until.isdigit() and int(until) > self._clock()

    def lets_in(self, request: Request) -> bool:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self.is_token(given.strip())
        return self.is_cookie(request.cookies.get(COOKIE, ""))

    def _sign(self, text: str) -> str:
        return hmac.new(self._key, text.encode("utf-8", "replace"), hashlib.sha256).hexdigest()


async def _form(request: Request) -> dict[str, str]:
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > _LARGEST_FORM:
            return {}
    return {name: values[0] for name, values in parse_qs(bytes(data).decode("utf-8", "replace")).items()}


Form = Annotated[dict[str, str], Depends(_form)]


def router(
    settings: Settings, store: Store, log: AuditLog, troubles: Callable[[], list[str]]
) -> APIRouter | None:
    """The page's routes; None when no token is set, so that there is nothing to find."""
    if settings.dashboard_token is None:
        return None
    sessions = Sessions(settings.dashboard_token.get_secret_value())
    web = APIRouter(prefix="/dashboard")

    def page(name: str, status: int = 200, **values: Any) -> Response:
        text = _pages.get_template(name).render(app=settings.app_slug, web_url=settings.web_url, **values)
        return HTMLResponse(text, status, _HEADERS)

    @web.get("/style.css")
    def style() -> Response:
        text = _pages.get_template("style.css").render()
        return Response(text, headers={**_HEADERS, "Cache-Control": "max-age=300"}, media_type="text/css")

    @web.get("")
    async def overview(request: Request) -> Response:
        if not sessions.lets_in(request):
            return page("login.html", 401, wrong=False)
        view = await run_in_threadpool(lambda: look(store, log, tuple(troubles())))
        return page("dashboard.html", view=view)

    @web.post("")
    def enter(request: Request, form: Form) -> Response:
        if not sessions.is_token(form.get("token", "")):
            audit.trouble("a wrong token for the dashboard")
            return page("login.html", 401, wrong=True)
        audit.note("somebody opened the dashboard")
        answer = Response(status_code=303, headers={**_HEADERS, "Location": "/dashboard"})
        answer.set_cookie(
            COOKIE,
            sessions.cookie(),
            max_age=SESSION_SECONDS,
            path="/dashboard",
            httponly=True,
            samesite="strict",
            secure=request.url.hostname not in _LOOPBACK,
        )
        return answer

    @web.post("/leave")
    def leave() -> Response:
        answer = Response(status_code=303, headers={**_HEADERS, "Location": "/dashboard"})
        answer.delete_cookie(COOKIE, path="/dashboard")
        return answer

    @web.get("/deliveries/{key}.json")
    def delivery(request: Request, key: str) -> Response:
        """A delivery as it came, for `treewright bot replay`."""
        if not sessions.lets_in(request):
            return page("login.html", 401, wrong=False)
        if not _DELIVERY.fullmatch(key):
            return Response(status_code=404, headers=_HEADERS)
        try:
            row = store.delivery(key)
        except sa.exc.NoResultFound:
            return Response(status_code=404, headers=_HEADERS)
        kept = {"id": row["id"], "event": row["event"], "received": row["received"]}
        try:
            kept["payload"] = json.loads(row["body"])
        except (ValueError, RecursionError):
            return Response(status_code=415, headers=_HEADERS)
        name = f'attachment; filename="{key}.json"'
        return Response(
            json.dumps(kept, indent=1),
            headers={**_HEADERS, "Content-Disposition": name},
            media_type="application/json",
        )

    return web
