"""What the bot knows about its own work: what waits and for how long, what failed for good, what is claimed,
what was healed. Pure bookkeeping; `jobs.py` does the work.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import RowMapping

from bot import tables as t
from bot.database import Database

Row = dict[str, Any]
UNFINISHED = ("waiting", "running")
_MEASURED = 50
_A_DAY = 86_400.0
KEPT_DAYS = 30.0
"""How long a delivery's id is remembered: longer than GitHub can redeliver (3 days, 7 on GHES)."""


@dataclass(frozen=True)
class Place:
    """Where a pull request's work stands in its queue. `ahead`: jobs of others that were there before it and
    have not ended. `seconds`: the median of the newest jobs of this kind, None while none was measured.
    """

    running: bool
    kind: str
    ahead: int
    waited: float
    seconds: float | None


def plain(row: RowMapping | None) -> Row | None:
    return None if row is None else dict(row)


class JobBook(Database):
    # --- jobs
    # ---------------------------------------------------------------------------------------------------

    def queue_job(self, job: str, queue: str, kind: str, repo_id: int, number: int, head: str = "") -> None:
        """Note a job before it is handed to the job library; the same job twice is one."""
        row = {"id": job, "queue": queue, "kind": kind, "repo_id": repo_id, "number": number, "head": head}
        with self.write() as connection:
            statement = self.insert(t.work).values(**row, state="waiting", queued=time.time())
            connection.execute(statement.on_conflict_do_nothing())

    def begin_job(self, job: str) -> None:
        c = t.work.c
        with self.write() as connection:
            where = (c.id == job) & (c.state == "waiting")
            connection.execute(sa.update(t.work).where(where).values(state="running", started=time.time()))

    def end_job(self, job: str, state: str, detail: str = "") -> bool:
        """`state`: done, or failed for a dead letter. False when it had ended before."""
        c = t.work.c
        values = {"state": state, "ended": time.time(), "detail": detail[:2000]}
        with self.write() as connection:
            where = (c.id == job) & c.state.in_(UNFINISHED)
            return bool(connection.execute(sa.update(t.work).where(where).values(**values)).rowcount)

    def job_state(self, job: str) -> str:
        """waiting, running, done or failed; "" for a job that we do not know."""
        with self.engine.connect() as connection:
            query = sa.select(t.work.c.state).where(t.work.c.id == job)
            return str(connection.execute(query).scalar_one_or_none() or "")

    def unfinished(self, repo_id: int, number: int) -> list[Row]:
        """The jobs of one pull request that wait or run, the oldest first."""
        c = t.work.c
        query = sa.select(t.work).where(c.repo_id == repo_id, c.number == number, c.state.in_(UNFINISHED))
        with self.engine.connect() as connection:
            return [dict(row) for row in connection.execute(query.order_by(c.queued, c.id)).mappings()]

    def last_job(self, repo_id: int, number: int, queue: str) -> Row | None:
        """The newest job of a pull request in a queue."""
        c = t.work.c
        query = sa.select(t.work).where(c.repo_id == repo_id, c.number == number, c.queue == queue)
        with self.engine.connect() as connection:
            newest = query.order_by(c.queued.desc(), c.id.desc()).limit(1)
            return plain(connection.execute(newest).mappings().one_or_none())

    def all_unfinished(self) -> list[Row]:
        """Every job that waits or runs, the oldest first: the whole queue."""
        c = t.work.c
        query = sa.select(t.work).where(c.state.in_(UNFINISHED)).order_by(c.queued, c.id)
        with self.engine.connect() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def place(self, repo_id: int, number: int, queue: str = "work") -> Place | None:
        """Where this pull request's next job stands; None when nothing of it waits or runs in `queue`."""
        rows = [row for row in self.unfinished(repo_id, number) if row["queue"] == queue]
        if not rows:
            return None
        mine = next((row for row in rows if row["state"] == "running"), rows[0])
        c = t.work.c
        others = sa.or_(c.repo_id != repo_id, c.number != number)
        earlier = sa.or_(c.queued < mine["queued"], sa.and_(c.queued == mine["queued"], c.id < mine["id"]))
        query = sa.select(sa.func.count()).where(c.queue == queue, c.state.in_(UNFINISHED), others, earlier)
        with self.engine.connect() as connection:
            ahead = int(connection.execute(query).scalar_one())
        running = mine["state"] == "running"
        waited = max(0.0, (mine["started"] if running else time.time()) - mine["queued"])
        return Place(running, mine["kind"], 0 if running else ahead, waited, self.usual_seconds(mine["kind"]))

    def usual_seconds(self, kind: str) -> float | None:
        """The median run time of the newest jobs of a kind that did not fail."""
        c = t.work.c
        query = sa.select(c.ended - c.started).where(c.kind == kind, c.state == "done", c.started > 0)
        with self.engine.connect() as connection:
            times = connection.execute(query.order_by(c.ended.desc()).limit(_MEASURED)).scalars().all()
        return statistics.median(float(one) for one in times) if times else None

    def dead_letters(self, limit: int = 100) -> list[Row]:
        """Jobs that failed for good, the newest first. `detail` says why."""
        c = t.work.c
        query = sa.select(t.work).where(c.state == "failed").order_by(c.ended.desc()).limit(limit)
        with self.engine.connect() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    # --- claims, marks, counters
    # --------------------------------------------------------------------------------------

    def claim(self, key: str, holder: str) -> str:
        """Take `key` for `holder` unless somebody has it. Returns who holds it now."""
        with self.write() as connection:
            row = {"key": key[:300], "holder": holder, "at": time.time()}
            connection.execute(self.insert(t.claims).values(**row).on_conflict_do_nothing())
            query = sa.select(t.claims.c.holder).where(t.claims.c.key == key[:300])
            return str(connection.execute(query).scalar_one())

    def claimed(self, key: str) -> bool:
        with self.engine.connect() as connection:
            query = sa.select(t.claims.c.key).where(t.claims.c.key == key[:300])
            return connection.execute(query).one_or_none() is not None

    def mark(self, name: str) -> int:
        with self.engine.connect() as connection:
            query = sa.select(t.marks.c.value).where(t.marks.c.name == name)
            return int(connection.execute(query).scalar_one_or_none() or 0)

    def set_mark(self, name: str, value: int) -> None:
        with self.write() as connection:
            self.upsert(t.marks, {"name": name, "value": value}, connection)

    def count(self, name: str, by: int = 1) -> None:
        with self.write() as connection:
            statement = self.insert(t.counters).values(name=name, value=by)
            more = {"value": t.counters.c.value + by}
            connection.execute(statement.on_conflict_do_update(index_elements=["name"], set_=more))

    def counters(self) -> dict[str, int]:
        """Everything that is counted: `healed_pulls`, `healed_checks`, `healed_comments`, `healed_merges`,
        `healed_commands`, `healed_releases`, `healed_deliveries`, `redelivered`, `failed`, `rate_limited`,
        `duplicate_events`.
        """
        with self.engine.connect() as connection:
            return {row.name: row.value for row in connection.execute(sa.select(t.counters))}

    # --- redeliveries
    # ------------------------------------------------------------------------------------------------

    def redelivery(self, guid: str) -> Row | None:
        with self.engine.connect() as connection:
            query = sa.select(t.redeliveries).where(t.redeliveries.c.guid == guid)
            return plain(connection.execute(query).mappings().one_or_none())

    def note_redelivery(self, guid: str) -> None:
        with self.write() as connection:
            statement = self.insert(t.redeliveries).values(guid=guid, attempts=1, at=time.time())
            more = {"attempts": t.redeliveries.c.attempts + 1, "at": time.time()}
            connection.execute(statement.on_conflict_do_update(index_elements=["guid"], set_=more))

    def note_healed_deliveries(self) -> int:
        """Mark the redelivered deliveries that have come since; returns how many."""
        here = sa.select(t.deliveries.c.id)
        c = t.redeliveries.c
        with self.write() as connection:
            where = c.guid.in_(here) & ~c.healed
            return int(
                connection.execute(sa.update(t.redeliveries).where(where).values(healed=True)).rowcount
            )

    # --- replicas
    # ------------------------------------------------------------------------------------------------

    def alive(self, executor_id: str) -> None:
        with self.write() as connection:
            self.upsert(t.replicas, {"executor_id": executor_id, "seen": time.time()}, connection)

    def gone_replicas(self, seconds: float) -> list[str]:
        """Replicas that were not seen for so long."""
        c = t.replicas.c
        query = sa.select(c.executor_id).where(c.seen < time.time() - seconds)
        with self.engine.connect() as connection:
            return [str(one) for one in connection.execute(query).scalars()]

    def forget_replica(self, executor_id: str) -> None:
        with self.write() as connection:
            connection.execute(sa.delete(t.replicas).where(t.replicas.c.executor_id == executor_id))

    # --- housekeeping
    # --------------------------------------------------------------------------------------------

    def prune(self, now: float) -> int:
        """Forget what nobody will ask for again; returns how many deliveries went."""
        old = now - KEPT_DAYS * _A_DAY
        with self.write() as connection:
            settled = t.deliveries.c.state.in_(["done", "ignored", "failed"])
            gone = connection.execute(
                sa.delete(t.deliveries).where(t.deliveries.c.received < old, settled)
            ).rowcount
            connection.execute(sa.delete(t.redeliveries).where(t.redeliveries.c.at < old))
            connection.execute(
                sa.delete(t.work).where(t.work.c.ended < old, t.work.c.state == "done", t.work.c.ended > 0)
            )
        return int(gone)
