"""The bot's tables, in the same database as its durable jobs (SQLite by default, Postgres by URL).

Everything here can be rebuilt from GitHub except the inbox and the ledger of heads: those are what we heard,
and when. Times of GitHub's are its own ISO strings (they sort); times of ours are seconds since the epoch.
"""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData()

deliveries = sa.Table(
    "inbox",
    metadata,
    # Two keys: the delivery id is a header that no signature covers, the digest of the body is covered. The
    # third, what the event is about, is a row of `claims`.
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("body_digest", sa.String(80), nullable=False, unique=True),
    sa.Column("event", sa.String(64), nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Column("received", sa.Float, nullable=False),
    sa.Column("state", sa.String(16), nullable=False, index=True),  # new queued done ignored failed
    sa.Column("detail", sa.Text, nullable=False, server_default=""),
)

pulls = sa.Table(
    "pulls",
    metadata,
    sa.Column("repo_id", sa.BigInteger, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("repo", sa.String(200), nullable=False),
    sa.Column("installation", sa.BigInteger, nullable=False),
    sa.Column("head", sa.String(64), nullable=False),
    sa.Column("base_ref", sa.String(255), nullable=False),
    sa.Column("default_branch", sa.String(255), nullable=False),
    sa.Column("author", sa.String(100), nullable=False),
    sa.Column("author_id", sa.BigInteger, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),  # open closed merged
    sa.Column("updated", sa.String(32), nullable=False),
    sa.Column("held_by", sa.String(100), nullable=False, server_default=""),
    sa.Column("cancelled", sa.Float, nullable=False, server_default="0"),
    sa.Column("comment_id", sa.BigInteger, nullable=True),
    sa.Column("comment_digest", sa.String(80), nullable=False, server_default=""),
)

# Every head of a pull request, with the interval in which it was the head for that base: (since, until],
# until NULL for now.
heads = sa.Table(
    "heads",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("repo_id", sa.BigInteger, nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("sha", sa.String(64), nullable=False),
    # Another base makes another thing of the same commit. Empty in rows from before this was kept.
    sa.Column("base_ref", sa.String(255), nullable=False, server_default=""),
    sa.Column("since", sa.String(32), nullable=False),
    sa.Column("until", sa.String(32), nullable=True),
    sa.Column("source", sa.String(80), nullable=False),  # a delivery's id, or "api" when we had to ask
    sa.Index("heads_by_pull", "repo_id", "number"),
)

# What we know about one head: lint, difference, preview, and since when its result is shown to people.
reviews = sa.Table(
    "reviews",
    metadata,
    sa.Column("repo_id", sa.BigInteger, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("head", sa.String(64), primary_key=True),
    sa.Column("base", sa.String(64), nullable=False, server_default=""),
    sa.Column("lint", sa.JSON, nullable=True),
    sa.Column("diff", sa.JSON, nullable=True),
    sa.Column("config", sa.JSON, nullable=True),
    sa.Column("preview_state", sa.String(16), nullable=False, server_default="none"),
    sa.Column("preview_job", sa.String(160), nullable=False, server_default=""),  # what made it
    sa.Column("preview", sa.JSON, nullable=True),
    sa.Column("preview_digest", sa.String(80), nullable=False, server_default=""),
    sa.Column("trouble", sa.Text, nullable=False, server_default=""),
    sa.Column("shown_digest", sa.String(80), nullable=False, server_default=""),
    sa.Column("shown", sa.String(32), nullable=False, server_default=""),
)

preview_runs = sa.Table(
    "preview_runs",
    metadata,
    sa.Column("job", sa.String(160), primary_key=True),
    sa.Column("repo_id", sa.BigInteger, nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("asked_by", sa.String(100), nullable=False),
    sa.Column("user_id", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("started", sa.Float, nullable=False),
)

approvals = sa.Table(
    "approvals",
    metadata,
    sa.Column("repo_id", sa.BigInteger, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("head", sa.String(64), primary_key=True),
    sa.Column("preview_digest", sa.String(80), nullable=False),
    sa.Column("login", sa.String(100), nullable=False),
    sa.Column("user_id", sa.BigInteger, nullable=False),
    sa.Column("comment_id", sa.BigInteger, nullable=False),
    sa.Column("at", sa.String(32), nullable=False),
    sa.Column("merge_sha", sa.String(64), nullable=False, server_default=""),
)

releases = sa.Table(
    "releases",
    metadata,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("repo_id", sa.BigInteger, nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("sha", sa.String(64), nullable=False),
    sa.Column("base", sa.String(64), nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False, server_default="1"),
    sa.Column("state", sa.String(16), nullable=False),  # dispatching queued running failed published
    # The comment that asked for the newest attempt, so that asking is not done twice after a crash.
    # Runs of this key up to this one belong to earlier attempts; GitHub's numbers of runs only grow.
    sa.Column("after_run", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("retried_by", sa.BigInteger, nullable=False, server_default="0"),
    # When the request to start a run was first sent; 0 before. Its answer may have been lost.
    sa.Column("asked", sa.Float, nullable=False, server_default="0"),
    sa.Column("run_id", sa.BigInteger, nullable=True),
    sa.Column("run_url", sa.Text, nullable=False, server_default=""),
    sa.Column("url", sa.Text, nullable=False, server_default=""),
    sa.Column("report", sa.JSON, nullable=True),
    sa.Column("trouble", sa.Text, nullable=False, server_default=""),
    # The state that people were last shown, whole: check, comment and, in the end, the result.
    sa.Column("told", sa.String(16), nullable=False, server_default=""),
    sa.Index("releases_by_pull", "repo_id", "number"),
)

# The outbox: what we wrote to GitHub under which key, so that no write is repeated and equal ones are spared.
writes = sa.Table(
    "writes",
    metadata,
    sa.Column("key", sa.String(200), primary_key=True),
    sa.Column("remote", sa.BigInteger, nullable=True),
    sa.Column("digest", sa.String(80), nullable=False, server_default=""),
    sa.Column("done", sa.Float, nullable=False, server_default="0"),
)

counters = sa.Table(
    "counters",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("value", sa.BigInteger, nullable=False),
)

# Work as people see it: what waits, what runs, how long it took, and what failed for good (a dead letter).
# The job library has its own tables; this one is read by position, the estimate, the dashboard and reconcile.
work = sa.Table(
    "work",
    metadata,
    sa.Column("id", sa.String(160), primary_key=True),
    sa.Column("queue", sa.String(32), nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("repo_id", sa.BigInteger, nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("head", sa.String(64), nullable=False, server_default=""),
    sa.Column("state", sa.String(16), nullable=False, index=True),  # waiting running done failed
    sa.Column("queued", sa.Float, nullable=False),
    sa.Column("started", sa.Float, nullable=False, server_default="0"),
    sa.Column("ended", sa.Float, nullable=False, server_default="0"),
    sa.Column("detail", sa.Text, nullable=False, server_default=""),
    sa.Index("work_by_pull", "repo_id", "number"),
)

# Who may do a thing that must be done once: the first holder of a key keeps it.
claims = sa.Table(
    "claims",
    metadata,
    sa.Column("key", sa.String(300), primary_key=True),
    sa.Column("holder", sa.String(160), nullable=False),
    sa.Column("at", sa.Float, nullable=False),
)

# How far a repeated task has come, by its name.
marks = sa.Table(
    "marks",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("value", sa.BigInteger, nullable=False),
)

# Deliveries that we asked GitHub to send again, by their id.
redeliveries = sa.Table(
    "redeliveries",
    metadata,
    sa.Column("guid", sa.String(64), primary_key=True),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("healed", sa.Boolean, nullable=False, server_default=sa.false()),
)

# Processes that share this database, and when each was last alive.
replicas = sa.Table(
    "replicas",
    metadata,
    sa.Column("executor_id", sa.String(100), primary_key=True),
    sa.Column("seen", sa.Float, nullable=False),
)
