"""Structured log lines: one JSON object a line on stderr, and never a secret.

What people may have to answer for (who asked what, of which head, what was decided and why, and every write
to GitHub) has `"audit": true` and is kept in the audit log as well (`audit_log.py`).
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bot.audit_log import AuditLog

_log = logging.getLogger("treewright.bot")
# Tokens that GitHub and the Hub hand out, keys, and bearer headers; a last net, for we never log them by
# intent.
_SECRETS = re.compile(
    r"gh[pousr]_[A-Za-z0-9]{10,}|github_pat_\w{10,}|hf_\w{10,}|eyJ[\w-]{10,}\.[\w-]+\.[\w-]+"
    r"|(?i:bearer|token|basic)\s+[\w.=+/-]{12,}|-----BEGIN[^-]+-----.*?-----END[^-]+-----",
    re.DOTALL,
)

_CHECKPOINT_EVERY = 100
_kept: list[AuditLog] = []
_acting: ContextVar[dict[str, Any] | None] = ContextVar("acting", default=None)


@contextmanager
def acting(**fields: object) -> Iterator[None]:
    """Whatever is decided or written in this block is on behalf of `fields`: actor, actor_id, job, step."""
    token = _acting.set({**on_behalf(), **{name: value for name, value in fields.items() if value}})
    try:
        yield
    finally:
        _acting.reset(token)


def on_behalf() -> dict[str, Any]:
    return dict(_acting.get() or {})


def keep_in(log: AuditLog) -> None:
    """From now on decisions and writes of this process are kept in `log`."""
    _kept.append(log)
    checkpoint()


def keep_no_more(log: AuditLog) -> None:
    checkpoint()
    _kept.remove(log)


def checkpoint() -> None:
    """Log where the audit log ends, so that a cut or a rewrite of it can be shown later."""
    if _kept:
        note("audit checkpoint", checkpoint=str(_kept[-1].checkpoint()))


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        row: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        row.update(getattr(record, "fields", {}))
        if record.exc_info:
            row["exception"] = self.formatException(record.exc_info)[-4000:]
        return redact(json.dumps(row, ensure_ascii=False, default=str))


def redact(line: str) -> str:
    return _SECRETS.sub("[redacted]", line)


def configure(level: str = "INFO") -> None:
    """Send every logger of this process to stderr as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for noisy in ("httpx", "httpcore", "urllib3", "github", "asyncio"):
        logging.getLogger(noisy).setLevel("WARNING")


def note(message: str, **fields: object) -> None:
    _log.info(message, extra={"fields": fields})


def trouble(message: str, **fields: object) -> None:
    _log.warning(message, extra={"fields": fields}, exc_info=sys.exc_info()[0] is not None)


def decided(what: str, **fields: object) -> None:
    """A decision about somebody's request: who, which head, granted or not, and the reason's code."""
    _keep(what, {**on_behalf(), **fields})


def writing(verb: str, where: str, **fields: object) -> None:
    """A write to GitHub that is about to be sent. Raises when the log cannot take it: then it isn't sent."""
    _keep("write", {**on_behalf(), "verb": verb, "where": where, **fields})


def _keep(what: str, fields: dict[str, object]) -> None:
    if _kept:
        clean = json.loads(redact(json.dumps(fields, default=str)))
        record = _kept[-1].append(what, clean)
        fields = {**fields, "audit_record": record.seq}
        if record.seq % _CHECKPOINT_EVERY == 0:
            checkpoint()
    _log.info(what, extra={"fields": {"audit": True, **fields}})
