"""A chain of records: each holds the digest of the one before it, so that none can be changed, taken out or
moved without a trace.

What a chain cannot show by itself is that its end was cut off, or that all of it was written anew by somebody
who has the database. Against both there are checkpoints: how many records there were and the newest one's
digest, kept where the database's owner cannot reach (the bot logs one at every start, stop and 100 records).
The idea is that of hash-linked time-stamping (Haber and Stornetta, "How to Time-Stamp a Digital Document",
1991).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from lab.contracts import digest

Kind = Literal["edited", "removed", "moved", "unreadable", "cut off", "replaced"]
START = "sha256:" + "0" * 64
"""What the first record names as the digest of the one before it."""
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Record:
    """`seq` counts from 1; `at` is our clock in UTC (ISO 8601); `fields` is JSON."""

    seq: int
    at: str
    what: str
    fields: Mapping[str, Any]
    previous: str
    digest: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Checkpoint:
    """The state of a chain: `N:sha256:...`, and `0:` with the start's digest for an empty one."""

    count: int
    digest: str

    def __str__(self) -> str:
        return f"{self.count}:{self.digest}"

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        count, _, found = text.strip().partition(":")
        if not count.isascii() or not count.isdigit() or not _DIGEST.fullmatch(found):
            raise ValueError(f"{text!r} is no checkpoint; one looks like 12:sha256:<64 hexadecimal digits>")
        return cls(int(count), found)


EMPTY = Checkpoint(0, START)


@dataclass(frozen=True)
class Problem:
    """`seq`: the number that the record has, or should have."""

    seq: int
    kind: Kind
    text: str


def seal(after: Checkpoint, at: str, what: str, fields: Mapping[str, Any]) -> Record:
    """The record that follows `after`."""
    seq = after.count + 1
    return Record(seq, at, what, fields, after.digest, _digest(seq, at, what, fields, after.digest))


def _digest(seq: int, at: str, what: str, fields: Mapping[str, Any], previous: str) -> str:
    return digest({"seq": seq, "at": at, "what": what, "fields": dict(fields), "previous": previous})


def read(row: object, seq: int) -> Record | Problem:
    """A record from JSON of unknown origin; `seq` is where it stands."""
    if not isinstance(row, dict) or set(row) != set(Record.__dataclass_fields__):
        return Problem(seq, "unreadable", "not a record of this log")
    text = all(isinstance(row[name], str) for name in ("at", "what", "previous", "digest"))
    if not text or type(row["seq"]) is not int or not isinstance(row["fields"], dict):
        return Problem(seq, "unreadable", "not a record of this log")
    return Record(**row)


class _Walk:
    """Where a walk along the log stands: the highest record so far, and the numbers that it has not met."""

    def __init__(self) -> None:
        self.here = EMPTY
        self.problems: list[Problem] = []
        self._missing: list[tuple[int, int]] = []  # closed ranges, ascending

    def step(self, record: Record) -> None:
        sound = _sound(record)
        if not sound:
            self._say(record.seq, "edited", "its contents do not match its digest")
        if record.seq <= self.here.count:
            self._late(record)
            return
        if record.seq > self.here.count + 1:
            self._missing.append((self.here.count + 1, record.seq - 1))
        elif record.previous != self.here.digest and sound:
            text = "was changed and sealed again: the record after it names another digest"
            if self.here.count:
                self._say(self.here.count, "edited", text)
            else:
                self._say(record.seq, "edited", "is the first record and names one before it")
        self.here = Checkpoint(record.seq, record.digest)

    def end(self) -> list[Problem]:
        for first, last in self._missing:
            which = f"record {first} is" if first == last else f"records {first} to {last} are"
            self._say(first, "removed", f"{which} not there")
        return sorted(self.problems, key=lambda one: one.seq)

    def _late(self, record: Record) -> None:
        for index, (first, last) in enumerate(self._missing):
            if first <= record.seq <= last:
                rest = ((first, record.seq - 1), (record.seq + 1, last))
                self._missing[index : index + 1] = [one for one in rest if one[0] <= one[1]]
                self._say(record.seq, "moved", f"stands after record {self.here.count}")
                return
        self._say(record.seq, "moved", "is there more than once")

    def _say(self, seq: int, kind: Kind, text: str) -> None:
        self.problems.append(Problem(seq, kind, text))


def verify(
    records: Iterable[Record | Problem], against: Checkpoint | None = None
) -> tuple[Checkpoint, list[Problem]]:
    """Walk a log in its order. Returns where it ends, and everything that is wrong with it by number."""
    walk = _Walk()
    anchored = against is None or against == EMPTY
    for record in records:
        if isinstance(record, Problem):
            walk.problems.append(record)
            continue
        walk.step(record)
        if against is not None and record.seq == against.count:
            anchored = True
            if record.digest != against.digest:
                text = "the checkpoint saw another record here: the log was written anew"
                walk.problems.append(Problem(record.seq, "replaced", text))
    if against is not None and not anchored:
        text = f"the checkpoint saw {against.count} records; this one is not there any more"
        walk.problems.append(Problem(against.count, "cut off", text))
    return walk.here, walk.end()


def _sound(record: Record) -> bool:
    try:
        right = _digest(record.seq, record.at, record.what, record.fields, record.previous)
    except (ValueError, TypeError, RecursionError):
        return False
    return right == record.digest
