"""The loopback page of `treewright bot setup`: one form that posts the manifest to GitHub, and the address
that GitHub sends the person back to.

Its path holds a random word, so that other people of this machine do not find the page, and it answers to no
other host name, so that no web site can reach it by a name that points here.
"""

from __future__ import annotations

import html
import json
import secrets
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from bot.setup import Made, Plan, SetupError, State, exchange, manifest, store

_STYLE = """ :root{color-scheme:light dark} body{font:16px/1.6
system-ui,sans-serif;max-width:40rem;margin:12vh auto;padding:0 1.5rem;color:#1f2a24}
h1{font-size:1.5rem;font-weight:600}
button{font:inherit;font-weight:600;color:#fff;background:#2f6b47;border:0;border-radius:8px;padding:.7em
1.3em} dl{display:grid;grid-template-columns:max-content 1fr;gap:.2em 1.2em}dt{color:#68776e}dd{margin:0}
a{color:#2f6b47}
@media(prefers-color-scheme:dark){body{background:#151917;color:#e4ebe6}dt{color:#9aa8a0}a{color:#7fc79c}}
"""


@dataclass
class Outcome:
    """What the page came to; `done` is set once the browser has its last answer."""

    made: Made | None = None
    settings: str = ""
    trouble: str = ""
    done: threading.Event = field(default_factory=threading.Event)


class SetupServer(ThreadingHTTPServer):
    """Serves one set-up on 127.0.0.1. `start` opens it; wait on `outcome.done`."""

    daemon_threads = True

    def __init__(self, plan: Plan, port: int = 0, state: State | None = None) -> None:
        super().__init__(("127.0.0.1", port), _Page)
        self.plan = plan
        self.state = state or State()
        self.outcome = Outcome()
        self.word = secrets.token_urlsafe(16)
        self.nonce = secrets.token_urlsafe(16)
        self.turn = threading.Lock()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    @property
    def url(self) -> str:
        return f"http://{self.host}/{self.word}"

    def start(self) -> None:
        threading.Thread(target=self.serve_forever, name="setup", daemon=True).start()

    def finish(self, query: dict[str, list[str]]) -> str:
        """Take GitHub's answer in. Raises `SetupError`; returns the page's text."""
        with self.turn:
            self.state.take(query.get("state", [""])[0])
            made, found = exchange(self.plan, query.get("code", [""])[0])
            try:
                settings = store(self.plan, made, found)
            except OSError as error:
                raise SetupError(
                    f"the credentials could not be stored ({error.strerror}), and GitHub shows them once: "
                    f"delete the App at {made.page} and start again"
                ) from None
            self.outcome.made, self.outcome.settings = made, str(settings)
        install = html.escape(made.install_page)
        return (
            f"<h1>{html.escape(made.slug)} is made</h1>"
            "<p>Its credentials are on your machine, and nowhere else.</p>"
            f'<p><a href="{install}">Install it on your taxonomy</a>; your terminal says the rest.</p>'
        )

    def form(self) -> str:
        plan = self.plan
        told = json.dumps(manifest(plan, f"{self.url}/made"))
        rows = (
            ("Name", plan.name),
            ("Owner", plan.owner or "your own account"),
            ("On", plan.web_url),
            ("Webhook", plan.webhook_url),
            ("Credentials go to", str(plan.folder)),
        )
        listed = "".join(f"<dt>{html.escape(a)}</dt><dd>{html.escape(b)}</dd>" for a, b in rows)
        target = html.escape(f"{plan.new_app_page}?state={self.state.value}")
        return (
            f"<h1>Make the GitHub App</h1><dl>{listed}</dl>"
            f'<form method="post" action="{target}"><input type="hidden" name="manifest" '
            f'value="{html.escape(told)}"><p><button>Go on to GitHub</button></p></form>'
            "<p>GitHub shows the permissions and asks you once more. You need to be signed in there.</p>"
        )


class _Page(BaseHTTPRequestHandler):
    server: SetupServer

    def do_GET(self) -> None:
        server = self.server
        parts = urlsplit(self.path)
        if self.headers.get("Host", "") != server.host:
            self._say(400, "<h1>Wrong address</h1>")
        elif parts.path == f"/{server.word}":
            self._say(200, server.form())
        elif parts.path == f"/{server.word}/made":
            try:
                self._say(200, server.finish(parse_qs(parts.query)))
            except SetupError as error:
                self._say(400, f"<h1>That did not work</h1><p>{html.escape(str(error))}.</p>")
                server.outcome.trouble = str(error)
                if server.state.used and server.outcome.made is None:
                    server.outcome.done.set()
            else:
                server.outcome.done.set()
        else:
            self._say(404, "<h1>Nothing here</h1>")

    def _say(self, status: int, body: str) -> None:
        nonce = self.server.nonce
        page = (
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Treewright set-up</title>'
            f'<style nonce="{nonce}">{_STYLE}</style>{body}</html>'
        ).encode()
        self.send_response(status)
        policy = (
            f"default-src 'none'; style-src 'nonce-{nonce}'; base-uri 'none'; frame-ancestors 'none'; "
            f"form-action {self.server.plan.web_url}"
        )
        for name, value in (
            ("Content-Type", "text/html; charset=utf-8"),
            ("Content-Length", str(len(page))),
            ("Content-Security-Policy", policy),
            ("Referrer-Policy", "no-referrer"),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, *_: object) -> None:
        """The query holds the code: it is not for a log."""
