"""Answers and where they are kept: one SQLite file, append-only, keyed by the digest of the request.

A run may be killed at any moment. Answers that arrive in one turn of the event loop are written in one
transaction at the end of that turn (WAL, so a killed process loses nothing that was committed): what can be
lost is what arrived in the very turn of the kill, and it is simply asked for again.

Memory does not grow with the number of answers: the index is SQLite's, on disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

_CREATE = (
    "CREATE TABLE IF NOT EXISTS answer"
    " (key TEXT PRIMARY KEY, text TEXT NOT NULL, tokens INTEGER NOT NULL, prompt_tokens INTEGER NOT NULL,"
    " detail TEXT NOT NULL)"
)
_INSERT = "INSERT OR IGNORE INTO answer VALUES (?, ?, ?, ?, ?)"
_ONE = "SELECT text, tokens, prompt_tokens, detail FROM answer WHERE key = ?"
_MANY = "SELECT key, text, tokens, prompt_tokens, detail FROM answer WHERE key IN"
_BLOCK = 256
"""Keys in one query of `get_many`: well under SQLite's default limit of 32,766 variables."""
_CHECKPOINT_PAGES = 4000
"""Pages of 4 KiB in the write-ahead log before SQLite copies them over, which waits for the disk."""


@dataclass(frozen=True)
class Answer:
    """What a model said. `likelihoods` maps the most likely first tokens (stripped, lower case) to
    probabilities when `logprobs` asked for them; `more` holds the other samples when `n` asked for several;
    `finish` is the server's reason to stop ("length": cut off). Tokens are as the server counts them.
    """

    text: str
    key: str
    cached: bool
    tokens: int
    likelihoods: Mapping[str, float] = field(default_factory=dict)
    more: tuple[str, ...] = ()
    prompt_tokens: int = 0
    finish: str = ""

    @property
    def texts(self) -> tuple[str, ...]:
        """Every sample of the request, `text` first."""
        return (self.text, *self.more)


Row = tuple[str, str, int, int, str]
"""An answer as it is stored and sent between processes: key, text, tokens, prompt tokens, and the rest as
JSON, '' for none, which most have: reading JSON would be a fifth of what a second run does.
"""


def to_row(answer: Answer) -> Row:
    detail: dict[str, Any] = {}
    if answer.likelihoods:
        detail["likelihoods"] = dict(answer.likelihoods)
    if answer.more:
        detail["more"] = list(answer.more)
    if answer.finish not in {"", "stop"}:
        detail["finish"] = answer.finish
    rest = json.dumps(detail) if detail else ""
    return answer.key, answer.text, answer.tokens, answer.prompt_tokens, rest


def from_row(row: Row) -> Answer:
    key, text, tokens, prompt_tokens, raw = row
    if not raw:
        return Answer(text, key, True, tokens, {}, (), prompt_tokens)
    detail = json.loads(raw)
    return Answer(
        text,
        key,
        True,
        tokens,
        detail.get("likelihoods", {}),
        tuple(detail.get("more", ())),
        prompt_tokens,
        detail.get("finish", ""),
    )


class StoreError(RuntimeError):
    """Answers cannot be kept or read; going on would pay for answers that are lost or were had before."""


class Store(Protocol):
    """Where an engine keeps answers. `put` may return before the answer is safe; `close` waits for it."""

    async def get(self, key: str) -> Answer | None: ...
    async def get_many(self, keys: Sequence[str]) -> dict[str, Answer]: ...
    def put(self, answer: Answer) -> None: ...
    async def close(self) -> None: ...


class AnswerFile:
    """The file itself, for whoever is its only writer: rows in, rows out, no event loop."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._readable():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, isolation_level=None, timeout=30, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}")
            self._db.execute(_CREATE)

    @contextlib.contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise StoreError(
                f"the answers kept in {self._path} cannot be read: {error}. Make room if the disk is full; "
                "if the file is damaged, move it and its -wal and -shm away: what it held is asked for again."
            ) from error

    def one(self, key: str) -> Row | None:
        with self._readable():
            row = self._db.execute(_ONE, (key,)).fetchone()
        return (key, *row) if row else None

    def many(self, keys: Sequence[str]) -> list[Row]:
        found: list[Row] = []
        for start in range(0, len(keys), _BLOCK):
            block = keys[start : start + _BLOCK]
            marks = ",".join("?" * len(block))
            query = f"{_MANY} ({marks})"
            with self._readable():
                found += self._db.execute(query, block).fetchall()
        return found

    def add(self, rows: Sequence[Row]) -> None:
        """All of them or none, durable against a killed process once it returns."""
        if len(rows) == 1:
            self._db.execute(_INSERT, rows[0])
            return
        self._db.execute("BEGIN")
        try:
            self._db.executemany(_INSERT, rows)
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:  # a full disk has ended it already
                self._db.execute("ROLLBACK")
            raise

    def count(self) -> int:
        return int(self._db.execute("SELECT count(*) FROM answer").fetchone()[0])

    def close(self) -> None:
        self._db.close()


class AnswerStore:
    """An `AnswerFile` in an event loop: answers of one turn go to disk together, at its end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = AnswerFile(path)
        self._fresh: dict[str, Answer] = {}
        self._trouble: sqlite3.Error | None = None

    async def get(self, key: str) -> Answer | None:
        row = self._file.one(key)
        if row is not None:
            return from_row(row)
        return replace(self._fresh[key], cached=True) if key in self._fresh else None

    async def get_many(self, keys: Sequence[str]) -> dict[str, Answer]:
        found = {row[0]: from_row(row) for row in self._file.many(keys)}
        if self._fresh:
            found |= {key: replace(self._fresh[key], cached=True) for key in keys if key in self._fresh}
        return found

    def put(self, answer: Answer) -> None:
        """Raises `StoreError` once writing has failed (a full disk): at the first answer after it."""
        if self._trouble is not None:
            raise StoreError(
                f"answers cannot be written to {self._path}: {self._trouble}. Make room and run again; "
                "nothing that was stored is asked again."
            ) from self._trouble
        if not self._fresh:
            asyncio.get_running_loop().call_soon(self._flush)
        self._fresh[answer.key] = answer

    def _flush(self) -> None:
        if not self._fresh:
            return
        try:
            self._file.add([to_row(answer) for answer in self._fresh.values()])
        except sqlite3.Error as error:
            self._trouble = error
        self._fresh.clear()

    async def close(self) -> None:
        self._flush()
        self._file.close()
