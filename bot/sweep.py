"""Deliveries that GitHub could not bring: found in the App's list of deliveries, and asked for again.

GitHub tries once and keeps what it tried for three days (seven on Enterprise Server), with an API to try
again ("Handling failed webhook deliveries"). A sweep reads the list from the newest back to where all was
fine, and asks for another attempt of each delivery of which no attempt succeeded and that we do not have.
An attempt has the delivery's id, so one that arrives twice all the same is kept once.
"""

from __future__ import annotations

from dataclasses import dataclass

from github import GithubException

from bot import audit
from bot.github import Json, transient
from bot.services import Services

_MARK = "swept deliveries up to"
_PAGES = 50
ATTEMPTS = 8
"""How often one delivery is asked for; then it is left to reconcile, which looks at the state itself."""


@dataclass(frozen=True)
class Attempt:
    """One try of GitHub's to bring a delivery; `guid` is the delivery's id, `id` the try's."""

    id: int
    guid: str
    ok: bool


def attempt(row: Json) -> Attempt:
    return Attempt(int(row["id"]), str(row["guid"]), 200 <= int(row["status_code"] or 0) < 300)


def failed(attempts: list[Attempt]) -> list[Attempt]:
    """Of each delivery of which no attempt succeeded the newest attempt, the oldest first."""
    arrived = {one.guid for one in attempts if one.ok}
    newest: dict[str, Attempt] = {}
    for one in sorted(attempts, key=lambda one: one.id):
        if one.guid not in arrived:
            newest[one.guid] = one
    return sorted(newest.values(), key=lambda one: one.id)


def sweep(services: Services) -> int:
    """Look once. Returns how many deliveries were asked for again. The remembered position moves up only past
    attempts whose deliveries arrived, so that a failed one is seen until it did.
    """
    store = services.store
    attempts = _since(services, store.mark(_MARK))
    asked = 0
    open_ends: list[int] = []
    for one in failed(attempts):
        known = store.redelivery(one.guid)
        if store.has_delivery(one.guid) or (known is not None and known["attempts"] >= ATTEMPTS):
            continue
        # Its first attempt bounds the position: later ones are above it.
        open_ends.append(min(other.id for other in attempts if other.guid == one.guid))
        store.note_redelivery(one.guid)
        try:
            services.app.redeliver(one.id)
        except GithubException as error:
            if transient(error):
                raise
            audit.trouble("GitHub does not deliver it again", guid=one.guid, status=error.status)
            continue  # the others may be delivered
        store.count("redelivered")
        asked += 1
        audit.note("asked for a delivery again", guid=one.guid)
    if attempts:
        store.set_mark(_MARK, min([*open_ends, max(one.id for one in attempts) + 1]) - 1)
    if healed := store.note_healed_deliveries():
        store.count("healed_deliveries", healed)
    return asked


def _since(services: Services, position: int) -> list[Attempt]:
    found: list[Attempt] = []
    cursor = ""
    for _ in range(_PAGES):
        rows, cursor = services.app.deliveries(cursor)
        found += [attempt(row) for row in rows]
        if not cursor or (rows and int(rows[-1]["id"]) <= position):
            break
    return [one for one in found if one.id > position]
