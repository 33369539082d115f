"""What an operator watches, in Prometheus' text format at `/metrics`.

Two kinds: what this process saw (histograms, requests, GitHub's budget), and what the database says at the
moment of the question (inbox, jobs, releases, counters), which is the same from every replica: a query takes
`max`, not `sum`, over replicas. No label holds a repository's or a person's name, for the page may be read by
more people than the repository.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator

import sqlalchemy as sa
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from sqlalchemy.engine import Connection, Engine

from bot import tables as t
from bot.chain import Checkpoint

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800)
_FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)

_process = CollectorRegistry()
ACK_SECONDS = Histogram(
    "treewright_ack_seconds",
    "From the first byte of a delivery to our answer.",
    registry=_process,
    buckets=_FAST,
)
ACKS = Counter("treewright_acks", "Answers to deliveries by outcome.", ["outcome"], registry=_process)
FIRST_STATUS = Histogram(
    "treewright_first_status_seconds",
    "From a delivery to the first check that its job showed.",
    registry=_process,
    buckets=_SECONDS,
)
REQUESTS = Counter(
    "treewright_github_requests", "Requests to GitHub.", ["method", "status"], registry=_process
)
REQUEST_SECONDS = Histogram(
    "treewright_github_request_seconds", "GitHub's answers, pauses included.", registry=_process
)
BUDGET = Gauge(
    "treewright_github_budget_left",
    "Requests that GitHub still allows this hour, by installation.",
    ["installation"],
    registry=_process,
)
MODEL_TOKENS = Counter(
    "treewright_model_tokens", "What previews sent to models and got back.", ["direction"], registry=_process
)
for _direction in ("prompt", "completion"):
    MODEL_TOKENS.labels(_direction)
for _outcome in ("accepted", "seen before", "bad signature", "too large", "malformed"):
    ACKS.labels(_outcome)

_MOST_REMEMBERED = 10_000
_seen: OrderedDict[str, None] = OrderedDict()
_lock = threading.Lock()


def first(job: str) -> bool:
    """Whether this is the first time that anybody asks for `job`; a second check is no first status."""
    with _lock:
        if not job or job in _seen:
            return False
        _seen[job] = None
        if len(_seen) > _MOST_REMEMBERED:
            _seen.popitem(last=False)
        return True


def asked(prompt: int, completion: int) -> None:
    """A preview's engine says what it used; answers from its store cost nothing and are not in it."""
    MODEL_TOKENS.labels("prompt").inc(prompt)
    MODEL_TOKENS.labels("completion").inc(completion)


class _Database:
    """Reads the bot's tables when Prometheus asks."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        with self._engine.connect() as connection:
            yield from _inbox(connection)
            yield from _rows(connection)
            yield from _jobs(connection)


def _inbox(connection: Connection) -> Iterable[Metric]:
    c = t.deliveries.c
    deliveries = CounterMetricFamily(
        "treewright_deliveries", "Deliveries kept, by event and outcome.", labels=["event", "outcome"]
    )
    unread, oldest = 0, 0.0
    rows = sa.select(c.event, c.state, sa.func.count(), sa.func.min(c.received)).group_by(c.event, c.state)
    for event, state, number, first_received in connection.execute(rows):
        deliveries.add_metric([event, state], number)
        if state == "new":
            unread += number
            oldest = max(oldest, time.time() - first_received)
    yield deliveries
    yield GaugeMetricFamily("treewright_inbox_length", "Deliveries that no job has taken yet.", value=unread)
    yield GaugeMetricFamily("treewright_inbox_age_seconds", "Age of the oldest of them.", value=oldest)


def _rows(connection: Connection) -> Iterable[Metric]:
    for name, text, column in (
        ("treewright_pull_requests", "Pull requests by state.", t.pulls.c.state),
        ("treewright_releases", "Releases by state.", t.releases.c.state),
        ("treewright_previews", "Heads by the state of their preview.", t.reviews.c.preview_state),
    ):
        gauge = GaugeMetricFamily(name, text, labels=["state"])
        for state, number in connection.execute(sa.select(column, sa.func.count()).group_by(column)):
            gauge.add_metric([state], number)
        yield gauge
    counted = CounterMetricFamily(
        "treewright_counted",
        "What the bot counts: healed_* is what no delivery told us and a look at GitHub repaired.",
        labels=["what"],
    )
    for row in connection.execute(sa.select(t.counters).order_by(t.counters.c.name)):
        counted.add_metric([row.name], row.value)
    yield counted


def _jobs(connection: Connection) -> Iterable[Metric]:
    """Durable jobs, and how many of those that ended had waited for how long."""
    c = t.work.c
    jobs = GaugeMetricFamily("treewright_jobs", "Durable jobs by kind and state.", labels=["kind", "state"])
    waiting, oldest = 0, 0.0
    rows = sa.select(c.kind, c.state, sa.func.count(), sa.func.min(c.queued)).group_by(c.kind, c.state)
    for kind, state, number, first_queued in connection.execute(rows):
        jobs.add_metric([kind, state], number)
        if state in {"waiting", "running"}:
            waiting += number
            oldest = max(oldest, time.time() - first_queued)
    yield jobs
    yield GaugeMetricFamily("treewright_queue_length", "Jobs that wait or run.", value=waiting)
    yield GaugeMetricFamily("treewright_queue_age_seconds", "Age of the oldest of them.", value=oldest)


def page(engine: Engine, end: Checkpoint | None = None) -> bytes:
    """The whole page."""
    registry = CollectorRegistry()
    registry.register(_Database(engine))
    if end is not None:
        records = Gauge("treewright_audit_records", "Records in the audit log.", registry=registry)
        records.set(end.count)
    return generate_latest(_process) + generate_latest(registry)
