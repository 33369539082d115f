"""What the operators' page shows: a look at the bot's memory at one moment, newest or oldest first as people
need it. Reads only.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from bot import tables as t
from bot.audit_log import AuditLog
from bot.chain import Checkpoint, Record
from bot.jobbook import UNFINISHED
from bot.store import Store

Row = Mapping[str, Any]
_A_DAY = 86_400.0
_QUEUE, _DELIVERIES, _PULLS, _RELEASES, _DEAD, _AUDIT = 30, 25, 30, 15, 15, 15
_PUBLIC = ("id", "event", "state", "detail", "received")


@dataclass(frozen=True)
class Overview:
    """`at` is our clock. Rows are those of the tables, each with `repo` where a pull request is meant."""

    at: float
    troubles: tuple[str, ...]
    queue: tuple[Row, ...]
    queue_length: int
    queue_age: float
    deliveries: tuple[Row, ...]
    delivered: Mapping[str, int]  # outcome -> how many in the last day
    pulls: tuple[Row, ...]
    pulls_open: int
    releases: tuple[Row, ...]
    dead: tuple[Row, ...]
    dead_count: int
    counters: Mapping[str, int]
    audit: tuple[Record, ...]
    checkpoint: Checkpoint

    @property
    def healed(self) -> int:
        return sum(value for name, value in self.counters.items() if name.startswith("healed"))


def look(store: Store, log: AuditLog, troubles: tuple[str, ...], now: float | None = None) -> Overview:
    """One look; a few small queries."""
    at = time.time() if now is None else now
    w, d, p = t.work.c, t.deliveries.c, t.pulls.c
    unfinished, failed = w.state.in_(UNFINISHED), w.state == "failed"
    with store.engine.connect() as connection:
        names = _names(connection)
        queue = _rows(connection, sa.select(t.work).where(unfinished).order_by(w.queued, w.id).limit(_QUEUE))
        oldest = connection.execute(sa.select(sa.func.min(w.queued)).where(unfinished)).scalar_one_or_none()
        recent = sa.select(*(d[name] for name in _PUBLIC)).order_by(d.received.desc()).limit(_DELIVERIES)
        outcomes = sa.select(d.state, sa.func.count()).where(d.received > at - _A_DAY).group_by(d.state)
        dead = sa.select(t.work).where(failed).order_by(w.ended.desc()).limit(_DEAD)
        newest = sa.select(t.releases, t.pulls.c.repo).outerjoin(t.pulls, _same_pull(t.releases))
        r = t.releases.c
        order = sa.case((r.state.in_(["dispatching", "queued", "running"]), 0), else_=1)
        return Overview(
            at=at,
            troubles=troubles,
            queue=tuple({**row, **_of(names, row)} for row in queue),
            queue_length=_count(connection, t.work, unfinished),
            queue_age=at - float(oldest) if oldest is not None else 0.0,
            deliveries=_rows(connection, recent),
            delivered={str(state): int(number) for state, number in connection.execute(outcomes)},
            pulls=_pulls(connection),
            pulls_open=_count(connection, t.pulls, p.state == "open"),
            releases=_rows(connection, newest.order_by(order, r.run_id.desc()).limit(_RELEASES)),
            dead=tuple({**row, **_of(names, row)} for row in _rows(connection, dead)),
            dead_count=_count(connection, t.work, failed),
            counters={row.name: row.value for row in connection.execute(sa.select(t.counters))},
            audit=tuple(log.newest(_AUDIT)),
            checkpoint=log.checkpoint(),
        )


def _rows(connection: Connection, query: sa.Select[Any]) -> tuple[Row, ...]:
    return tuple(dict(row) for row in connection.execute(query).mappings())


def _count(connection: Connection, table: sa.Table, where: sa.ColumnElement[bool]) -> int:
    return int(connection.execute(sa.select(sa.func.count()).select_from(table).where(where)).scalar_one())


def _names(connection: Connection) -> dict[int, str]:
    """The newest name of each repository."""
    query = sa.select(t.pulls.c.repo_id, t.pulls.c.repo).order_by(t.pulls.c.updated)
    return {row.repo_id: row.repo for row in connection.execute(query)}


def _of(names: Mapping[int, str], row: Row) -> dict[str, str]:
    return {"repo": names.get(row["repo_id"], "")}


def _same_pull(table: sa.Table) -> sa.ColumnElement[bool]:
    return sa.and_(table.c.repo_id == t.pulls.c.repo_id, table.c.number == t.pulls.c.number)


def _pulls(connection: Connection) -> tuple[Row, ...]:
    """Pull requests, the open ones first, with what is known about their head and their newest release."""
    p, v, r = t.pulls.c, t.reviews.c, t.releases
    review = sa.and_(_same_pull(t.reviews), v.head == p.head)
    newest = sa.select(r.c.state).where(_same_pull(r)).order_by(r.c.attempt.desc()).limit(1).scalar_subquery()
    seen = (p.repo, p.number, p.author, p.head, p.state, p.held_by, p.updated)
    query = (
        sa.select(*seen, v.lint, v.preview_state, v.trouble, newest.label("release_state"))
        .outerjoin(t.reviews, review)
        .order_by(sa.case((p.state == "open", 0), else_=1), p.updated.desc())
        .limit(_PULLS)
    )
    return tuple({**row, "lint": _lint(row["lint"])} for row in _rows(connection, query))


def _lint(report: Any) -> str:
    if not isinstance(report, dict):
        return "none"
    return "green" if report.get("ok") else "red"
