"""The audit log: every decision and every write to GitHub, as a chain of records (`chain.py`) in the
database.

    treewright audit verify [--checkpoint N:sha256:...] [--from FILE]
    treewright audit export > audit.jsonl

A write to GitHub is entered before it is sent, so that nothing is written that isn't here, also after a crash
in between; a refusal by GitHub is a record of its own. Several threads and several processes may append: a
number can be taken once only, and who comes late seals again behind the new end.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from bot import chain
from bot.chain import Checkpoint, Problem, Record
from lab.contracts import canonical

_metadata = sa.MetaData()
_records = sa.Table(
    "audit_log",
    _metadata,
    # The number is the key: of two who append the same one, the second fails and tries again.
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("at", sa.String(40), nullable=False),
    sa.Column("what", sa.String(200), nullable=False),
    sa.Column("fields", sa.Text, nullable=False),  # JSON as it was sealed, byte for byte
    sa.Column("previous", sa.String(80), nullable=False),
    sa.Column("digest", sa.String(80), nullable=False),
)
_TRIES = 200
_PAGE = 1000


class AuditLog:
    """The log in a database; its table is made when it is missing. Safe to use from many threads."""

    def __init__(
        self, engine: Engine, write: Callable[[], AbstractContextManager[Connection]] | None = None
    ) -> None:
        self._engine = engine
        self._write = write or engine.begin
        self._lock = threading.Lock()
        _metadata.create_all(engine)

    @classmethod
    def reading(cls, url: str) -> AuditLog:
        """The log of a bot that may be running; makes nothing. Raises `LookupError` when there is none."""
        try:
            place = sa.engine.make_url(url)
        except sa.exc.ArgumentError:
            raise LookupError("the database's address is no SQLAlchemy URL") from None
        if place.drivername.startswith("sqlite") and not Path(place.database or "").is_file():
            raise LookupError(f"{place.database}: no such file")
        try:
            engine = sa.create_engine(url)
            if not sa.inspect(engine).has_table(_records.name):
                raise LookupError(f"{place.render_as_string()}: holds no audit log")
        except (sa.exc.SQLAlchemyError, ImportError) as error:
            raise LookupError(f"{place.render_as_string()}: {type(error).__name__}") from None
        return cls(engine)

    def append(self, what: str, fields: Mapping[str, Any]) -> Record:
        """Seal a record behind the newest one. `fields` must hold no secret."""
        text = json.dumps(fields, default=str, ensure_ascii=False)
        plain = json.loads(text.encode("utf-8", "replace"))  # half of a surrogate pair has no bytes
        with self._lock:
            for attempt in range(_TRIES):
                at = datetime.now(UTC).isoformat(timespec="milliseconds")
                record = chain.seal(self.checkpoint(), at, what[:200], plain)
                try:
                    with self._write() as connection:
                        connection.execute(sa.insert(_records).values(**_row(record)))
                    return record
                except sa.exc.IntegrityError:  # another process was first
                    time.sleep(random.uniform(0, 0.002 * min(attempt + 1, 20)))  # noqa: S311 - spreads waits; no secret
        raise RuntimeError("the audit log could not be written: too many processes append to it")

    def checkpoint(self) -> Checkpoint:
        """How many records there are, and the newest one's digest."""
        newest = sa.select(_records.c.seq, _records.c.digest).order_by(_records.c.seq.desc()).limit(1)
        with self._engine.connect() as connection:
            row = connection.execute(newest).one_or_none()
        return chain.EMPTY if row is None else Checkpoint(row.seq, row.digest)

    def records(self) -> Iterator[Record | Problem]:
        """All of it in order, a page at a time; a row that is no record is a problem."""
        last = None
        while True:
            page = sa.select(_records).order_by(_records.c.seq).limit(_PAGE)
            if last is not None:
                page = page.where(_records.c.seq > last)
            with self._engine.connect() as connection:
                rows = [dict(row) for row in connection.execute(page).mappings()]
            for row in rows:
                yield _read(row, int(row["seq"]))
            if len(rows) < _PAGE:
                return
            last = rows[-1]["seq"]

    def newest(self, limit: int = 20) -> list[Record]:
        """For the operators' page, the newest first."""
        query = sa.select(_records).order_by(_records.c.seq.desc()).limit(limit)
        with self._engine.connect() as connection:
            rows = [dict(row) for row in connection.execute(query).mappings()]
        found = (_read(row, int(row["seq"])) for row in rows)
        return [one for one in found if isinstance(one, Record)]


def _row(record: Record) -> dict[str, Any]:
    return {**record.to_json(), "fields": canonical(dict(record.fields)).decode()}


def _read(row: dict[str, Any], seq: int) -> Record | Problem:
    try:
        row["fields"] = json.loads(row["fields"])
    except (ValueError, RecursionError):
        return Problem(seq, "unreadable", "its fields are not JSON")
    return chain.read(row, seq)


def export(records: Iterable[Record | Problem]) -> Iterator[str]:
    """One JSON object a line. Raises `ValueError` at a row that cannot be read."""
    for record in records:
        if isinstance(record, Problem):
            raise ValueError(f"record {record.seq}: {record.text}; run `treewright audit verify`")
        yield canonical(record.to_json()).decode()


def exported(path: Path) -> Iterator[Record | Problem]:
    """The records of an exported file, in the file's order."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                yield Problem(number, "unreadable", f"line {number} is not JSON")
                continue
            yield chain.read(row, number)
