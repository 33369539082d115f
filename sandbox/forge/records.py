"""What the forge remembers: one dataclass for each kind of thing, all of them plain JSON values.

`Table` keeps the records of one kind in memory and writes each change through to one SQLite file, so that
a forge that is started again on the same folder goes on where it was.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

Json = dict[str, Any]


@dataclass
class Account:
    id: int
    login: str
    kind: str = "User"  # User, Organization or Bot
    name: str = ""
    created_at: str = ""
    app: int | None = None


@dataclass
class Team:
    id: int
    org: str
    slug: str
    members: dict[str, str] = field(default_factory=dict)  # login -> member | maintainer
    parent: str = ""  # slug of the team that this one is part of


@dataclass
class Token:
    """A token is known by the SHA-256 of its text; the text is told once and never stored."""

    id: str
    kind: str  # user, installation or workflow
    login: str
    app: int | None = None
    installation: int | None = None
    repositories: list[int] | None = None  # None: all that the installation or the person has
    permissions: dict[str, str] = field(default_factory=dict)
    expires: float | None = None
    run: int | None = None


@dataclass
class Repo:
    id: int
    owner: str
    name: str
    description: str = ""
    private: bool = False
    default_branch: str = "main"
    fork_of: int | None = None
    collaborators: dict[str, str] = field(default_factory=dict)  # login -> read | write | maintain | admin
    teams: dict[str, str] = field(default_factory=dict)  # slug of the owner's team -> role
    variables: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)
    former: list[str] = field(default_factory=list)  # names from before it was renamed or transferred
    last_number: int = 0
    last_run: int = 0
    created_at: str = ""
    pushed_at: str = ""

    @property
    def full_name(self) -> str:
        return f"{self.owner}/{self.name}"


@dataclass
class Label:
    id: int
    repo: int
    name: str
    color: str = "ededed"
    description: str = ""


@dataclass
class Pull:
    id: int
    repo: int
    number: int
    title: str
    body: str
    login: str
    base_ref: str
    base_sha: str
    head_repo: int
    head_ref: str
    head_sha: str
    state: str = "open"
    draft: bool = False
    labels: list[str] = field(default_factory=list)
    created_at: str = ""
    updated_at: str = ""
    closed_at: str | None = None
    merged_at: str | None = None
    merged_by: str | None = None
    merge_commit_sha: str | None = None


@dataclass
class Comment:
    id: int
    repo: int
    number: int
    login: str
    body: str
    created_at: str
    updated_at: str
    app: int | None = None


@dataclass
class Review:
    id: int
    repo: int
    number: int
    login: str
    body: str
    state: str  # COMMENTED, APPROVED or CHANGES_REQUESTED
    commit: str
    submitted_at: str
    app: int | None = None


@dataclass
class ReviewComment:
    """Where it stands is kept as it was written: `line` of `path` in `commit`."""

    id: int
    repo: int
    number: int
    review: int
    login: str
    body: str
    path: str
    commit: str
    line: int
    side: str  # LEFT or RIGHT
    start_line: int | None
    created_at: str
    updated_at: str
    reply_to: int | None = None
    app: int | None = None


@dataclass
class Reaction:
    id: int
    repo: int
    subject: str  # "comment:ID" or "issue:NUMBER"
    login: str
    content: str
    created_at: str


@dataclass
class CheckSuite:
    id: int
    repo: int
    app: int
    head_sha: str
    created_at: str
    updated_at: str


@dataclass
class CheckRun:
    id: int
    repo: int
    app: int
    suite: int
    name: str
    head_sha: str
    status: str = "queued"
    conclusion: str | None = None
    external_id: str = ""
    details_url: str | None = None
    started_at: str | None = None
    completed_at: str | None = None
    title: str | None = None
    summary: str | None = None
    text: str | None = None
    annotations: list[Json] = field(default_factory=list)
    actions: list[Json] = field(default_factory=list)


@dataclass
class Status:
    id: int
    repo: int
    sha: str
    state: str
    context: str
    description: str | None
    target_url: str | None
    login: str
    created_at: str


@dataclass
class Release:
    id: int
    repo: int
    tag: str
    target: str
    name: str
    body: str
    login: str
    draft: bool = False
    prerelease: bool = False
    created_at: str = ""
    published_at: str | None = None


@dataclass
class Asset:
    id: int
    repo: int
    release: int
    name: str
    label: str
    content_type: str
    size: int
    digest: str
    login: str
    created_at: str
    downloads: int = 0
    state: str = "uploaded"  # or starter: the upload began and did not end


@dataclass
class App:
    """The forge keeps the public half of the key only, as GitHub does."""

    id: int
    slug: str
    name: str
    owner: str
    public_key: str
    hook: int
    webhook_url: str | None
    webhook_secret: str
    permissions: dict[str, str]
    events: list[str]
    created_at: str


@dataclass
class Installation:
    id: int
    app: int
    account: str
    repositories: list[int] | None  # None: every repository of the account
    permissions: dict[str, str]
    events: list[str]
    created_at: str


@dataclass
class Delivery:
    id: int
    app: int
    guid: str
    event: str
    action: str | None
    installation: int | None
    repository: int | None
    headers: dict[str, str]
    payload: Json
    delivered_at: str = ""
    redelivery: bool = False
    duration: float = 0.0
    status: str = "queued"
    status_code: int = 0
    response_headers: dict[str, str] = field(default_factory=dict)
    response_body: str = ""


@dataclass
class Run:
    id: int
    repo: int
    number: int
    workflow: str  # path of the file in the repository
    name: str
    title: str
    event: str
    ref: str  # refs/heads/main
    sha: str
    login: str
    inputs: dict[str, str] = field(default_factory=dict)
    status: str = "queued"
    conclusion: str | None = None
    created_at: str = ""
    started_at: str | None = None
    updated_at: str = ""
    jobs: list[Json] = field(default_factory=list)
    note: str = ""  # why a run that never started a job failed
    group: str = ""  # of `concurrency` at the top of the workflow

    @property
    def branch(self) -> str:
        return self.ref.removeprefix("refs/heads/").removeprefix("refs/tags/")


class Record(Protocol):
    id: Any


T = TypeVar("T", bound=Record)


class Store:
    """One SQLite file of JSON records, and the counter of ids."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)  # it holds webhook secrets; SQLite gives its other files the same mode
        self.connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self.connection.execute("PRAGMA journal_mode=WAL")
        # The forge must survive its own end, not a power cut: the operating system may write when it likes.
        self.connection.execute("PRAGMA synchronous=OFF")
        self.connection.execute(
            "CREATE TABLE IF NOT EXISTS record "
            "(kind TEXT NOT NULL, id TEXT NOT NULL, body TEXT NOT NULL, PRIMARY KEY (kind, id))"
        )
        self.last = int(self.read("meta", "last_id") or 1000)

    def next_id(self) -> int:
        self.last += 1
        self.write("meta", "last_id", str(self.last))
        return self.last

    def read(self, kind: str, key: str) -> str | None:
        row = self.connection.execute("SELECT body FROM record WHERE kind=? AND id=?", (kind, key)).fetchone()
        return None if row is None else str(row[0])

    def write(self, kind: str, key: str, body: str) -> None:
        self.connection.execute("INSERT OR REPLACE INTO record VALUES (?, ?, ?)", (kind, key, body))

    def remove(self, kind: str, key: str) -> None:
        self.connection.execute("DELETE FROM record WHERE kind=? AND id=?", (kind, key))

    def rows(self, kind: str) -> list[str]:
        return [
            str(row[0]) for row in self.connection.execute("SELECT body FROM record WHERE kind=?", (kind,))
        ]

    def close(self) -> None:
        self.connection.close()


class Table(Generic[T]):
    """The records of one kind, by id. `put` after every change: what is not put is not remembered."""

    def __init__(self, store: Store, make: Callable[..., T]) -> None:
        self.store = store
        self.kind = make.__name__
        self.records: dict[Any, T] = {}
        for body in store.rows(self.kind):
            record = make(**json.loads(body))
            self.records[record.id] = record
        self.records = dict(sorted(self.records.items()))

    def put(self, record: T) -> T:
        self.records[record.id] = record
        self.store.write(self.kind, str(record.id), json.dumps(asdict(record)))  # type: ignore[call-overload] # every record is a dataclass
        return record

    def get(self, key: object) -> T | None:
        return self.records.get(key)

    def remove(self, key: object) -> None:
        if self.records.pop(key, None) is not None:
            self.store.remove(self.kind, str(key))

    def __iter__(self) -> Iterator[T]:
        return iter(list(self.records.values()))
