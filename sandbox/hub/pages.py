"""The hub's web pages: all repositories, a repository's card, its files, its commits, and one file.

A card is written by strangers: it is rendered by markdown-it, then cleaned by nh3, and the
page allows no script at all. Everything else passes through Jinja's escaping.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, HTMLResponse, Response

from sandbox.hub.app import Hub, resource_of
from sandbox.hub.cards import CARD_LIMIT, card_data, front_matter
from sandbox.hub.store import Entry, Repository

HERE = Path(__file__).parent
TEXT_LIMIT = 200_000
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
SHOWN_METADATA = (
    "license",
    "language",
    "base_model",
    "base_model_relation",
    "library_name",
    "pipeline_tag",
    "datasets",
    "task_categories",
    "size_categories",
    "pretty_name",
)


def wants_page(request: Request) -> bool:
    return request.method == "GET" and "text/html" in request.headers.get("accept", "")


def failure(status: int, message: str) -> Response:
    return _page("failure", status, title=f"{status}", status=status, message=message)


def human_bytes(size: int) -> str:
    """1,234 B or 513.1 MiB: binary units, one decimal."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            return f"{value:,.0f} {unit}" if unit == "B" else f"{value:,.1f} {unit}"
        value /= 1024
    raise AssertionError


@cache
def _templates() -> Any:
    import jinja2

    loader = jinja2.FileSystemLoader(HERE / "templates")
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["bytes"] = human_bytes
    return environment


def _page(template: str, http_status: int = 200, **values: Any) -> Response:
    html = _templates().get_template(f"{template}.html.j2").render(values)
    return HTMLResponse(html, http_status, headers=HEADERS)


def render_card(content: str) -> str:
    """Safe HTML of a card's text, without its metadata."""
    import nh3
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    tags = nh3.ALLOWED_TAGS - {"img", "map", "area"} | {"details", "summary"}
    html: str = nh3.clean(parser.render(front_matter(content)[1]), tags=tags)
    return html


def results(card: dict[str, Any]) -> list[dict[str, str]]:
    """The rows of a card's `model-index`; a malformed one gives none."""
    rows = []
    try:
        for model in card.get("model-index") or []:
            for result in model["results"]:
                for metric in result["metrics"]:
                    value = metric["value"]
                    shown = f"{value:.3f}" if isinstance(value, float) else str(value)
                    name = str(metric.get("name") or metric["type"])
                    rows.append({"dataset": str(result["dataset"]["name"]), "metric": name, "value": shown})
    except (KeyError, TypeError):
        return []
    return rows


def register(app: FastAPI, hub: Hub) -> None:
    @app.get("/_static/style.css")
    def style() -> Response:
        return FileResponse(
            HERE / "style.css", media_type="text/css", headers={"Cache-Control": "max-age=60"}
        )

    @app.get("/")
    def home(request: Request) -> Response:
        caller = hub.caller(request)
        groups: dict[str, list[dict[str, Any]]] = {"Models": [], "Data sets": []}
        for kind, name, private, _created in hub.identity.repositories():
            resource = resource_of(kind, name)
            if private and not (caller and caller.may_read(resource)):
                continue
            repository = Repository(hub.folder(kind, name))
            last = repository.commits("main", 1)[0]
            row = {"name": name, "resource": resource, "title": last.title, "date": last.date}
            groups["Models" if kind == "model" else "Data sets"].append(
                row | {"tags": sorted(repository.refs("tags"), reverse=True)[:6]}
            )
        return _page("home", title="Sandbox hub", groups=list(groups.items()))

    for prefix, kind in (("/datasets", "dataset"), ("", "model")):
        _register(app, hub, prefix, kind)


def _register(app: FastAPI, hub: Hub, prefix: str, kind: str) -> None:
    base = f"{prefix}/{{ns}}/{{name}}"

    @app.get(base)
    def card(request: Request, ns: str, name: str) -> Response:
        return show(request, f"{ns}/{name}", "main", "card")

    @app.get(f"{base}/tree/{{revision:path}}")
    def files(request: Request, ns: str, name: str, revision: str) -> Response:
        return show(request, f"{ns}/{name}", revision, "files")

    @app.get(f"{base}/commits/{{revision:path}}")
    def commits(request: Request, ns: str, name: str, revision: str) -> Response:
        return show(request, f"{ns}/{name}", revision, "commits")

    @app.get(f"{base}/commit/{{revision:path}}")
    def commit(request: Request, ns: str, name: str, revision: str) -> Response:
        return show(request, f"{ns}/{name}", revision, "files")

    @app.get(f"{base}/blob/{{rest:path}}")
    def file(request: Request, ns: str, name: str, rest: str) -> Response:
        repository = hub.open(request, kind, f"{ns}/{name}")
        at, path = repository.split(rest)
        entry = repository.entry(at, path)
        return _page(
            "file",
            title=path,
            name=f"{ns}/{name}",
            resource=resource_of(kind, f"{ns}/{name}"),
            revision=rest[: len(rest) - len(path) - 1],
            path=path,
            size=entry.size,
            lfs=entry.lfs,
            text=_text(repository, entry),
        )

    def show(request: Request, full: str, revision: str, tab: str) -> Response:
        repository = hub.open(request, kind, full)
        at = repository.resolve(revision)
        entries = repository.entries(at)
        data = card_data(repository, entries)
        readme = next((entry for entry in entries if entry.path == "README.md"), None)
        content = _text(repository, readme, CARD_LIMIT) if readme else None
        return _page(
            "repository",
            title=full,
            kind="model" if kind == "model" else "data set",
            name=full,
            resource=resource_of(kind, full),
            clone=f"{hub.url(request)}/{resource_of(kind, full)}",
            revision=revision,
            commit=at,
            tab=tab,
            tags=sorted(repository.refs("tags").items(), reverse=True),
            labels=[str(tag) for tag in data.get("tags") or []][:20],
            metadata=[(key, _shown(data[key])) for key in SHOWN_METADATA if data.get(key)],
            results=results(data),
            card=render_card(content) if content else "",
            files=entries,
            total=human_bytes(sum(entry.size for entry in entries)),
            commits=repository.commits(at),
        )


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _text(repository: Repository, entry: Entry, limit: int = TEXT_LIMIT) -> str | None:
    if entry.lfs is not None or entry.size > limit:
        return None
    data = repository.blob(entry.blob)
    return None if b"\0" in data else data.decode(errors="replace")
