"""What the bot remembers, as a few verbs over `tables.py`. Every verb is one transaction."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from bot import tables as t
from bot.events import PullFacts
from bot.jobbook import UNFINISHED, JobBook, Row, plain


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
class Arrival:
    """A delivery whose signature was right."""

    id: str
    body_digest: str
    event: str
    body: bytes
    received: float = field(default_factory=time.time)


@dataclass(frozen=True)
class Head:
    sha: str
    since: str
    until: str | None
    source: str = ""


class Store(JobBook):
    """Every verb is one transaction. Safe to use from many threads."""

    # --- the inbox
    # -----------------------------------------------------------------------------------------------

    def accept(self, delivery: str, body_digest: str, event: str, body: bytes) -> bool:
        """Keep a delivery. False when this id or this body was here before: then nothing is kept and
        nothing runs.
        """
        return self.accept_all([Arrival(delivery, body_digest, event, body)])[0]

    def accept_all(self, arrivals: Sequence[Arrival]) -> list[bool]:
        """As `accept` for each, in one transaction."""
        # What was inserted comes back: the number of rows is not told by every driver.
        statement = self.insert(t.deliveries).on_conflict_do_nothing().returning(t.deliveries.c.id)
        with self.write() as connection:
            return [
                connection.execute(statement, {**asdict(one), "state": "new"}).one_or_none() is not None
                for one in arrivals
            ]

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
        with self.write() as connection:
            where = t.deliveries.c.id == delivery
            connection.execute(sa.update(t.deliveries).where(where).values(state=state, detail=detail[:2000]))

    def hand_over(self, settled: Sequence[tuple[str, str, str]]) -> None:
        """The inbox is done with some deliveries: (delivery, state, detail) of each. What a job, perhaps in
        another replica, has said since stands.
        """
        with self.write() as connection:
            for delivery, state, detail in settled:
                where = (t.deliveries.c.id == delivery) & (t.deliveries.c.state == "new")
                values = {"state": state, "detail": detail[:2000]}
                connection.execute(sa.update(t.deliveries).where(where).values(**values))

    def has_delivery(self, identifier: str) -> bool:
        with self.engine.connect() as connection:
            query = sa.select(t.deliveries.c.id).where(t.deliveries.c.id == identifier)
            return connection.execute(query).one_or_none() is not None

    # --- pull requests and their heads
    # ----------------------------------------------------------------------------

    def learn(self, facts: PullFacts, source: str) -> Pull:
        """Take in what a signed delivery (or the API) says about a pull request, and enter its head in the
        ledger.
        """
        with self.write() as connection:
            self.alone(connection, f"pull:{facts.repo_id}:{facts.number}")
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
                self.upsert(t.pulls, values, connection)
        pull = self.pull(facts.repo_id, facts.number)
        if pull is None:
            raise LookupError(f"pull request {facts.repo}#{facts.number} was not kept")
        return pull

    @staticmethod
    def _enter_head(connection: Connection, facts: PullFacts, source: str) -> None:
        mine = (t.heads.c.repo_id == facts.repo_id) & (t.heads.c.number == facts.number)
        ordered = sa.select(t.heads).where(mine).order_by(t.heads.c.since, t.heads.c.id)
        rows = list(connection.execute(ordered).mappings())
        this = {(facts.head, facts.base_ref), (facts.head, "")}
        before = [row for row in rows if row["since"] <= facts.updated]
        if before and (before[-1]["sha"], before[-1]["base_ref"]) in this:
            return
        after = next((row for row in rows if row["since"] > facts.updated), None)
        if after is not None and (after["sha"], after["base_ref"]) in this:
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
                    base_ref=facts.base_ref,
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
        with self.write() as connection:
            where = (t.pulls.c.repo_id == pull.repo_id) & (t.pulls.c.number == pull.number)
            connection.execute(sa.update(t.pulls).where(where).values(**values))

    def move_repository(self, repo_id: int, repo: str, installation: int) -> bool:
        """A repository was renamed or transferred: its number stays. False when we knew."""
        c = t.pulls.c
        with self.write() as connection:
            where = (c.repo_id == repo_id) & sa.or_(c.repo != repo, c.installation != installation)
            moved = sa.update(t.pulls).where(where).values(repo=repo, installation=installation)
            return bool(connection.execute(moved).rowcount)

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
        with self.write() as connection:
            self.upsert(t.reviews, row, connection)

    def not_shown(self, pull: Pull) -> None:
        """The comment is about the head of `pull` from now on: what it showed of other heads is not there any
        more, also when one of them becomes the head again.
        """
        c = t.reviews.c
        others = (c.repo_id == pull.repo_id) & (c.number == pull.number) & (c.head != pull.head)
        with self.write() as connection:
            gone = sa.update(t.reviews).where(others, c.shown != "").values(shown="", shown_digest="")
            connection.execute(gone)

    def count_previews(self, repo_id: int, user_id: int, since: float, but: str = "") -> int:
        """Previews that a person asked for in a repository, over all of its pull requests."""
        c = t.preview_runs.c
        query = sa.select(sa.func.count()).where(
            c.repo_id == repo_id, c.user_id == user_id, c.started >= since, c.job != but
        )
        with self.engine.connect() as connection:
            return int(connection.execute(query).scalar_one())

    def previews_in_flight(self, repo_id: int, user_id: int, but: str = "") -> int:
        """Of those, how many wait or run."""
        c, w = t.preview_runs.c, t.work.c
        query = sa.select(sa.func.count()).where(
            c.repo_id == repo_id, c.user_id == user_id, c.job == w.id, w.state.in_(UNFINISHED), c.job != but
        )
        with self.engine.connect() as connection:
            return int(connection.execute(query).scalar_one())

    def note_preview(self, pull: Pull, job: str, login: str, user_id: int) -> None:
        """A preview is counted when it is granted; the same job again, after a crash, is the same preview."""
        row = {
            "job": job,
            "repo_id": pull.repo_id,
            "number": pull.number,
            "asked_by": login,
            "user_id": user_id,
            "started": time.time(),
        }
        with self.write() as connection:
            connection.execute(self.insert(t.preview_runs).values(**row).on_conflict_do_nothing())

    # --- approvals and releases
    # -----------------------------------------------------------------------------------

    def approve(self, pull: Pull, **values: object) -> None:
        with self.write() as connection:
            self.upsert(t.approvals, {"repo_id": pull.repo_id, "number": pull.number, **values}, connection)

    def withdraw_approval(self, pull: Pull, head: str) -> None:
        c = t.approvals.c
        mine = (c.repo_id == pull.repo_id) & (c.number == pull.number) & (c.head == head)
        with self.write() as connection:
            connection.execute(sa.delete(t.approvals).where(mine))

    def approval(self, pull: Pull) -> Row | None:
        """The newest approval of a pull request."""
        c = t.approvals.c
        query = sa.select(t.approvals).where(c.repo_id == pull.repo_id, c.number == pull.number)
        with self.engine.connect() as connection:
            return plain(connection.execute(query.order_by(c.at.desc()).limit(1)).mappings().one_or_none())

    def merges_without_release(self, repo_id: int) -> list[Pull]:
        """Pull requests that were approved here, are merged at that head, and have no release."""
        a, p, r = t.approvals.c, t.pulls.c, t.releases.c
        mine = (a.repo_id == p.repo_id) & (a.number == p.number) & (a.head == p.head)
        released = sa.exists().where(r.repo_id == p.repo_id, r.number == p.number)
        query = sa.select(t.pulls).where(p.repo_id == repo_id, p.state == "merged", mine, ~released)
        with self.engine.connect() as connection:
            rows = connection.execute(query).mappings()
            return [Pull(**{name: row[name] for name in Pull.__dataclass_fields__}) for row in rows]

    def put_release(self, key: str, **values: object) -> None:
        with self.write() as connection:
            self.upsert(t.releases, {"key": key, **values}, connection)

    def update_release(self, key: str, **values: object) -> None:
        with self.write() as connection:
            connection.execute(sa.update(t.releases).where(t.releases.c.key == key).values(**values))

    def release(self, key: str) -> Row | None:
        with self.engine.connect() as connection:
            query = sa.select(t.releases).where(t.releases.c.key == key)
            return plain(connection.execute(query).mappings().one_or_none())

    def release_of(self, pull: Pull) -> Row | None:
        """The newest release that this pull request went into."""
        c = t.releases.c
        query = sa.select(t.releases).where(c.repo_id == pull.repo_id, c.number == pull.number)
        with self.engine.connect() as connection:
            return plain(
                connection.execute(query.order_by(c.attempt.desc()).limit(1)).mappings().one_or_none()
            )

    def releases_to_look_at(self) -> list[Row]:
        """Releases that are under way, and those whose end was not told."""
        c = t.releases.c
        under_way = c.state.in_(["dispatching", "queued", "running"])
        query = sa.select(t.releases).where(sa.or_(under_way, c.told != c.state))
        with self.engine.connect() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    # --- the outbox
    # -----------------------------------------------------------------------------------------------

    def written(self, key: str) -> Row | None:
        with self.engine.connect() as connection:
            query = sa.select(t.writes).where(t.writes.c.key == key)
            return plain(connection.execute(query).mappings().one_or_none())

    def wrote(self, key: str, remote: int | None = None, digest: str = "", done: bool = True) -> None:
        row = {"key": key, "remote": remote, "digest": digest, "done": time.time() if done else 0.0}
        with self.write() as connection:
            self.upsert(t.writes, row, connection)
