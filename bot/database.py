"""The bot's database: one engine, write transactions that do not trip over each other, locks that hold across
replicas, and tables that grow new columns by themselves.

SQLite serves one process, Postgres several. What has to be done by one replica at a time is guarded by
`locked`: an advisory lock of Postgres, which ends with its connection, so a killed process leaves none
behind.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from bot import tables as t
from bot.turns import Turns

_BUSY_MILLISECONDS = 30_000


class Database:
    """Opens `url` and brings its tables up to date. Safe to use from many threads."""

    def __init__(self, url: str) -> None:
        self.engine = sa.create_engine(url, pool_pre_ping=True, pool_size=16, max_overflow=48)
        self.shared = self.engine.dialect.name == "postgresql"
        # On SQLite the threads of this process write in turn; Postgres sorts its writers itself.
        self._turns: AbstractContextManager[None] = nullcontext() if self.shared else Turns()
        self._locks: dict[str, tuple[threading.Lock, int]] = {}
        self._guard = threading.Lock()
        if self.shared:
            # A lock is a connection of its own, held as long as the lock; the pool is for short work.
            self._lock_engine = sa.create_engine(
                url, poolclass=sa.pool.NullPool, isolation_level="AUTOCOMMIT"
            )
            sa.event.listen(self._lock_engine, "connect", _keep_alive)
        else:
            sa.event.listen(self.engine, "connect", _sqlite)
            sa.event.listen(self.engine, "begin", _begin)
        with self.locked("schema"):
            self._bring_up_to_date()

    def close(self) -> None:
        self.engine.dispose()
        if self.shared:
            self._lock_engine.dispose()

    def _bring_up_to_date(self) -> None:
        """Make what is missing. Columns are only ever added, each with a default, so an older bot can still
        read what a newer one wrote.
        """
        with self.write() as connection:
            before = sa.inspect(connection)
            known = {
                name: {str(column["name"]) for column in before.get_columns(name)}
                for name in before.get_table_names()
            }
            t.metadata.create_all(connection)
            for table in t.metadata.sorted_tables:
                if table.name not in known:
                    continue
                for column in table.columns:
                    if column.name not in known[table.name]:
                        made = sa.schema.CreateColumn(column).compile(dialect=self.engine.dialect)
                        connection.exec_driver_sql(f"ALTER TABLE {table.name} ADD COLUMN {made}")

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction that may write. On SQLite it takes the write lock at once: a transaction that read
        first and writes later would fail instead of waiting.
        """
        with self._turns, self.engine.connect() as plain:
            connection = plain.execution_options(writes=True)
            with connection.begin():
                yield connection

    def alone(self, connection: Connection, key: str) -> None:
        """Let this transaction wait for others on `key`, until it ends. On SQLite it is alone anyway."""
        if self.shared:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_number(key))))

    def insert(self, table: sa.Table) -> Any:
        """An INSERT that knows `on_conflict_...`."""
        return (postgresql if self.shared else sqlite).insert(table)

    def upsert(self, table: sa.Table, values: Mapping[str, Any], connection: Connection) -> None:
        keys = [column.name for column in table.primary_key]
        rest = {name: value for name, value in values.items() if name not in keys}
        statement = self.insert(table).values(**values)
        connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=rest))

    @contextmanager
    def locked(self, key: str) -> Iterator[None]:
        """Wait for, and hold, the lock `key` among all threads and replicas. Not re-entrant."""
        with self._thread_lock(key) as lock, lock:
            if not self.shared:
                yield
                return
            with self._lock_engine.connect() as connection:
                connection.execute(sa.select(sa.func.pg_advisory_lock(_number(key))))
                yield

    @contextmanager
    def leading(self, key: str) -> Iterator[bool]:
        """Whether this replica holds `key` alone, without waiting: False when another one is at it."""
        with self._thread_lock(key) as lock:
            if not lock.acquire(blocking=False):
                yield False
                return
            try:
                if not self.shared:
                    yield True
                    return
                with self._lock_engine.connect() as connection:
                    asked = sa.select(sa.func.pg_try_advisory_lock(_number(key)))
                    yield bool(connection.execute(asked).scalar_one())
            finally:
                lock.release()

    @contextmanager
    def _thread_lock(self, key: str) -> Iterator[threading.Lock]:
        """This process's lock of a key; forgotten when nobody wants it."""
        with self._guard:
            lock, users = self._locks.get(key) or (threading.Lock(), 0)
            self._locks[key] = (lock, users + 1)
        try:
            yield lock
        finally:
            with self._guard:
                users = self._locks[key][1]
                if users == 1:
                    del self._locks[key]
                else:
                    self._locks[key] = (lock, users - 1)


class Locks:
    """`locks[key]` as a context manager."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def __getitem__(self, key: str) -> Any:
        return self._database.locked(key)


def _number(key: str) -> Any:
    return sa.func.hashtextextended(f"treewright:{key}", 0)


def _keep_alive(connection: Any, _record: object) -> None:
    # A killed process closes its connection. A machine that vanishes does not: Postgres has to ask, or its
    # locks would be held for hours.
    with connection.cursor() as cursor:
        for name, value in (("idle", 30), ("interval", 10), ("count", 3)):
            cursor.execute(f"SET tcp_keepalives_{name} = {value}")


def _sqlite(connection: Any, _record: object) -> None:
    # Our own BEGIN below instead of the driver's, which starts a transaction only at the first write.
    connection.isolation_level = None
    cursor = connection.cursor()
    # WAL lets the web's threads read while a job writes. FULL, because a delivery that was answered with 202
    # will never be sent again: it must survive a power cut and not only a kill.
    pragmas = ("journal_mode=WAL", "synchronous=FULL", f"busy_timeout={_BUSY_MILLISECONDS}")
    for pragma in (*pragmas, "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get("writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
