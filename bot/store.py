"""What the bot remembers, as a few verbs over `tables.py`. Every verb is one transaction."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, RowMapping

from bot import tables as t
from bot.events import PullFacts

Row = dict[str, Any]


@dataclass(frozen=True)
class Pull:
    """A pull request as we know it; `head` is the current one."""

    repo_id: int
    number: int
    repo: str
    installation: int
    head: str
    base_ref: str
    default_branch: str
    author: str
    author_id: int
    state: str
    held_by: str
    cancelled: float
    comment_id: int | None
    comment_digest: str

    @property
    def key(self) -> str:
        """The partition in which all work on this pull request runs one after the other."""
        return f"{self.repo_id}:{self.number}"


@dataclass(frozen=True)
class Head:
    sha: str
    since: str
    until: str | None
    source: str = ""


class Store:
    """Opens `url` and makes the tables that are missing. Safe to use from many threads."""

    def __init__(self, url: str) -> None:
        self.engine = sa.create_engine(url)
        if self.engine.dialect.name == "sqlite":
            sa.event.listen(self.engine, "connect", _sqlite)
        t.metadata.create_all(self.engine)

    def close(self) -> None:
        self.engine.dispose()

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        with self.engine.begin() as connection:
            yield connection

    def _insert(self, table: sa.Table) -> Any:
        return (postgresql if self.engine.dialect.name == "postgresql" else sqlite).insert(table)

    def _upsert(self, table: sa.Table, values: Mapping[str, Any], connection: Connection) -> None:
        keys = [column.name for column in table.primary_key]
        rest = {name: value for name, value in values.items() if name not in keys}
        statement = self._insert(table).values(**values)
        connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=rest))

    # --- the inbox
    # -----------------------------------------------------------------------------------------------

    def accept(self, delivery: str, body_digest: str, event: str, body: bytes) -> bool:
        """Keep a delivery. False when this id or this body was here before: then nothing is kept and
        nothing runs.
        """
        row = {
            "id": delivery,
            "body_digest": body_digest,
            "event": event,
            "body": body,
            "received": time.time(),
        }
        with self._write() as connection:
            statement = self._insert(t.deliveries).values(**row, state="new").on_conflict_do_nothing()
            return bool(connection.execute(statement).rowcount)

    def waiting(self, limit: int = 50) -> list[Row]:
        """Deliveries that no job has taken, the oldest first."""
        query = sa.select(t.deliveries).where(t.deliveries.c.state == "new")
        with self.engine.connect() as connection:
            ordered = query.order_by(t.deliveries.c.received).limit(limit)
            return [dict(row) for row in connection.execute(ordered).mappings()]

    def delivery(self, identifier: str) -> Row:
        with self.engine.connect() as connection:
            query = sa.select(t.deliveries).where(t.deliveries.c.id == identifier)
            return dict(connection.execute(query).mappings().one())

    def settle(self, delivery: str, state: str, detail: str = "") -> None:
        with self._write() as connection:
            where = t.deliveries.c.id == delivery
            connection.execute(sa.update(t.deliveries).where(where).values(state=state, detail=detail[:2000]))

    # --- pull requests and their heads
    # ----------------------------------------------------------------------------

    def learn(self, facts: PullFacts, source: str) -> Pull:
        """Take in what a signed delivery (or the API) says about a pull request, and enter its head in the
        ledger.
        """
        with self._write() as connection:
            known = connection.execute(
                sa.select(t.pulls).where(t.pulls.c.repo_id == facts.repo_id, t.pulls.c.number == facts.number)
            ).mappings()
            row = known.one_or_none()
            self._enter_head(connection, facts, source)
            if row is None or facts.updated >= row["updated"]:
                values = {
                    "repo_id": facts.repo_id,
                    "number": facts.number,
                    "repo": facts.repo,
                    "installation": facts.installation,
                    "head": facts.head,
                    "base_ref": facts.base_ref,
                    "default_branch": facts.default_branch,
                    "author": facts.author,
                    "author_id": facts.author_id,
                    "state": facts.state,
                    "updated": facts.updated,
                }
                self._upsert(t.pulls, values, connection)
        pull = self.pull(facts.repo_id, facts.number)
        if pull is None:
            raise LookupError(f"pull request {facts.repo}#{facts.number} was not kept")
        return pull

    @staticmethod
    def _enter_head(connection: Connection, facts: PullFacts, source: str) -> None:
        mine = (t.heads.c.repo_id == facts.repo_id) & (t.heads.c.number == facts.number)
        ordered = sa.select(t.heads).where(mine).order_by(t.heads.c.since, t.heads.c.id)
        rows = list(connection.execute(ordered).mappings())
        before = [row for row in rows if row["since"] <= facts.updated]
        if before and before[-1]["sha"] == facts.head:
            return
        after = next((row for row in rows if row["since"] > facts.updated), None)
        if after is not None and after["sha"] == facts.head:
            # An older delivery came late: this head began earlier than we knew.
            connection.execute(
                sa.update(t.heads).where(t.heads.c.id == after["id"]).values(since=facts.updated)
            )
        else:
            until = after["since"] if after is not None else None
            connection.execute(
                sa.insert(t.heads).values(
                    repo_id=facts.repo_id,
                    number=facts.number,
                    sha=facts.head,
                    since=facts.updated,
                    until=until,
                    source=source,
                )
            )
        if before:
            connection.execute(
                sa.update(t.heads).where(t.heads.c.id == before[-1]["id"]).values(until=facts.updated)
            )

    def heads(self, repo_id: int, number: int) -> list[Head]:
        """The ledger of a pull request, the oldest head first."""
        query = (
            sa.select(t.heads.c.sha, t.heads.c.since, t.heads.c.until, t.heads.c.source)
            .where(t.heads.c.repo_id == repo_id, t.heads.c.number == number)
            .order_by(t.heads.c.since, t.heads.c.id)
        )
        with self.engine.connect() as connection:
            return [Head(*row) for row in connection.execute(query)]

    def pull(self, repo_id: int, number: int) -> Pull | None:
        with self.engine.connect() as connection:
            query = sa.select(t.pulls).where(t.pulls.c.repo_id == repo_id, t.pulls.c.number == number)
            row = connection.execute(query).mappings().one_or_none()
        return None if row is None else Pull(**{name: row[name] for name in Pull.__dataclass_fields__})

    def update_pull(self, pull: Pull, **values: object) -> None:
        with self._write() as connection:
            where = (t.pulls.c.repo_id == pull.repo_id) & (t.pulls.c.number == pull.number)
            connection.execute(sa.update(t.pulls).where(where).values(**values))

    def pulls_with_head(self, repo_id: int, head: str) -> list[Pull]:
        c = t.pulls.c
        with self.engine.connect() as connection:
            query = sa.select(t.pulls).where(c.repo_id == repo_id, c.head == head)
            rows = connection.execute(query).mappings()
            return [Pull(**{name: row[name] for name in Pull.__dataclass_fields__}) for row in rows]

    def open_pulls(self) -> list[Pull]:
        with self.engine.connect() as connection:
            rows = connection.execute(sa.select(t.pulls).where(t.pulls.c.state == "open")).mappings()
            return [Pull(**{name: row[name] for name in Pull.__dataclass_fields__}) for row in rows]

    # --- reviews
    # --------------------------------------------------------------------------------------------------

    def review(self, pull: Pull, head: str) -> Row:
        """What is known about one head; the columns' defaults when nothing is."""
        c = t.reviews.c
        query = sa.select(t.reviews).where(c.repo_id == pull.repo_id, c.number == pull.number, c.head == head)
        with self.engine.connect() as connection:
            row = connection.execute(query).mappings().one_or_none()
        if row is not None:
            return dict(row)
        empty = {column.name: "" for column in t.reviews.columns}
        nothing = {"lint": None, "diff": None, "config": None, "preview": None, "preview_state": "none"}
        return {**empty, **nothing, "repo_id": pull.repo_id, "number": pull.number, "head": head}

    def update_review(self, pull: Pull, head: str, **values: object) -> None:
        row = {"repo_id": pull.repo_id, "number": pull.number, "head": head, **values}
        with self._write() as connection:
            self._upsert(t.reviews, row, connection)

    def count_previews(self, pull: Pull, login: str, since: float) -> int:
        c = t.preview_runs.c
        query = sa.select(sa.func.count()).where(
            c.repo_id == pull.repo_id, c.number == pull.number, c.asked_by == login, c.started >= since
        )
        with self.engine.connect() as connection:
            return int(connection.execute(query).scalar_one())

    def note_preview(self, pull: Pull, job: str, login: str) -> None:
        row = {
            "job": job,
            "repo_id": pull.repo_id,
            "number": pull.number,
            "asked_by": login,
            "started": time.time(),
        }
        with self._write() as connection:
            connection.execute(self._insert(t.preview_runs).values(**row).on_conflict_do_nothing())

    # --- approvals and releases
    # -----------------------------------------------------------------------------------

    def approve(self, pull: Pull, **values: object) -> None:
        with self._write() as connection:
            self._upsert(t.approvals, {"repo_id": pull.repo_id, "number": pull.number, **values}, connection)

    def approval(self, pull: Pull) -> Row | None:
        """The newest approval of a pull request."""
        c = t.approvals.c
        query = sa.select(t.approvals).where(c.repo_id == pull.repo_id, c.number == pull.number)
        with self.engine.connect() as connection:
            return _plain(connection.execute(query.order_by(c.at.desc()).limit(1)).mappings().one_or_none())

    def put_release(self, key: str, **values: object) -> None:
        with self._write() as connection:
            self._upsert(t.releases, {"key": key, **values}, connection)

    def update_release(self, key: str, **values: object) -> None:
        with self._write() as connection:
            connection.execute(sa.update(t.releases).where(t.releases.c.key == key).values(**values))

    def release(self, key: str) -> Row | None:
        with self.engine.connect() as connection:
            query = sa.select(t.releases).where(t.releases.c.key == key)
            return _plain(connection.execute(query).mappings().one_or_none())

    def release_of(self, pull: Pull) -> Row | None:
        """The newest release that this pull request went into."""
        c = t.releases.c
        query = sa.select(t.releases).where(c.repo_id == pull.repo_id, c.number == pull.number)
        with self.engine.connect() as connection:
            return _plain(
                connection.execute(query.order_by(c.attempt.desc()).limit(1)).mappings().one_or_none()
            )

    def releases_under_way(self) -> list[Row]:
        query = sa.select(t.releases).where(t.releases.c.state.in_(["dispatching", "queued", "running"]))
        with self.engine.connect() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    # --- the outbox
    # -----------------------------------------------------------------------------------------------

    def written(self, key: str) -> Row | None:
        with self.engine.connect() as connection:
            query = sa.select(t.writes).where(t.writes.c.key == key)
            return _plain(connection.execute(query).mappings().one_or_none())

    def wrote(self, key: str, remote: int | None = None, digest: str = "", done: bool = True) -> None:
        row = {"key": key, "remote": remote, "digest": digest, "done": time.time() if done else 0.0}
        with self._write() as connection:
            self._upsert(t.writes, row, connection)

    def count(self, name: str, by: int = 1) -> None:
        with self._write() as connection:
            statement = self._insert(t.counters).values(name=name, value=by)
            connection.execute(
                statement.on_conflict_do_update(
                    index_elements=["name"], set_={"value": t.counters.c.value + by}
                )
            )

    def counted(self) -> dict[str, int]:
        with self.engine.connect() as connection:
            return {row.name: row.value for row in connection.execute(sa.select(t.counters))}


def _plain(row: RowMapping | None) -> Row | None:
    return None if row is None else dict(row)


def _sqlite(connection: Any, _record: object) -> None:
    # WAL lets the web's threads read while a job writes; the busy timeout is what the job library uses too.
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=30000", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
