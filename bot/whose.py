"""On whose behalf a job works: the sender of the delivery that began it, read from what GitHub signed."""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from typing import Any

import sqlalchemy as sa

from bot import tables as t
from bot.store import Store

_COMMAND = re.compile(r"^(.+)-\d+$")  # a command's work is named <delivery>-<index of the command>
_remembered: OrderedDict[str, dict[str, Any]] = OrderedDict()
_MOST = 1000


def whose(store: Store, job: str) -> dict[str, Any]:
    """actor, actor_id and heard (our clock) of a job; a job that heals has no delivery and so no actor."""
    known = _remembered.get(job)  # in one look: another thread may forget it meanwhile
    if known is not None:
        return known
    match = _COMMAND.match(job)
    found: dict[str, Any] = {}
    for delivery in (job, *([match[1]] if match else [])):
        query = sa.select(t.deliveries.c.body, t.deliveries.c.received).where(t.deliveries.c.id == delivery)
        with store.engine.connect() as connection:
            row = connection.execute(query).one_or_none()
        if row is not None:
            found = {**_sender(row.body), "heard": float(row.received)}
            break
    _remembered[job] = found
    if len(_remembered) > _MOST:
        _remembered.popitem(last=False)
    return found


def _sender(body: bytes) -> dict[str, Any]:
    try:
        payload = json.loads(body)
        sender = payload["sender"]
        return {"actor": str(sender["login"]), "actor_id": int(sender["id"])}
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
