"""Structured log lines: one JSON object a line on stderr, and never a secret.

What people may have to answer for (who asked what, of which head, what was decided and why) has `"audit":
true`.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import UTC, datetime

_log = logging.getLogger("treewright.bot")
# Tokens that GitHub and the Hub hand out, keys, and bearer headers; a last net, for we never log them by
# intent.
_SECRETS = re.compile(
    r"gh[pousr]_[A-Za-z0-9]{10,}|github_pat_\w{10,}|hf_\w{10,}|eyJ[\w-]{10,}\.[\w-]+\.[\w-]+"
    r"|(?i:bearer|token|basic)\s+[\w.=+/-]{12,}|-----BEGIN[^-]+-----.*?-----END[^-]+-----",
    re.DOTALL,
)


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
    _log.info(what, extra={"fields": {"audit": True, **fields}})
