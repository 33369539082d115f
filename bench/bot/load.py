"""Sends signed deliveries at a steady rate and says how long each waited for its answer.

    .venv/bin/python bench/bot/load.py URL --rate 100 --seconds 60 --first 0 < secret

An open loop: each delivery leaves at its time whether or not earlier ones were answered, and its wait counts
from that time, so a server that stalls cannot hide it. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import hmac
import json
import statistics
import sys
import time
from typing import Any

import aiohttp

BODY_BYTES = 24_000
"""About the size of GitHub's own example of an issue comment on a pull request, with its two repositories."""


def body(number: int) -> bytes:
    """An ordinary comment on a pull request, with no command in it."""
    person = {"login": "newcomer", "id": 5, "type": "User"}
    repository = {"id": 7, "full_name": "acme/taxonomy", "default_branch": "main", "owner": {"login": "acme"}}
    payload: dict[str, Any] = {
        "action": "created",
        "installation": {"id": 1},
        "repository": repository,
        "issue": {"number": 3, "pull_request": {"url": "https://example.org"}, "title": "A leaf"},
        "comment": {
            "id": 10_000 + number,
            "body": f"An ordinary remark, number {number}.",
            "created_at": "2026-01-01T00:00:00Z",
            "user": person,
        },
        "sender": person,
    }
    filler = BODY_BYTES - len(json.dumps(payload))
    payload["repository"]["urls"] = ["https://api.example.org/repos/acme/taxonomy/x"] * (filler // 47)
    return json.dumps(payload).encode()


async def main() -> None:
    given = _arguments()
    secret = sys.stdin.buffer.readline().strip()
    waits: list[float] = []
    unanswered: list[int] = []
    trouble: dict[str, int] = {}
    connector = aiohttp.TCPConnector(limit=200)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(10)) as session:

        async def deliver(number: int, due: float) -> None:
            data = body(number)
            headers = {
                "Content-Type": "application/json",
                "X-GitHub-Event": "issue_comment",
                "X-GitHub-Delivery": f"{given.name}-{number}",
                "X-Hub-Signature-256": "sha256=" + hmac.new(secret, data, hashlib.sha256).hexdigest(),
            }
            try:
                async with session.post(given.url, data=data, headers=headers) as answer:
                    await answer.read()
                    status = answer.status
            except (TimeoutError, aiohttp.ClientError) as error:
                trouble[type(error).__name__] = trouble.get(type(error).__name__, 0) + 1
                unanswered.append(number)
                return
            if status >= 300:
                trouble[str(status)] = trouble.get(str(status), 0) + 1
                unanswered.append(number)
                return
            waits.append(time.perf_counter() - due)

        begun = time.perf_counter() + 0.2
        tasks = []
        count = round(given.rate * given.seconds)
        for index in range(count):
            due = begun + index / given.rate
            pause = due - time.perf_counter()
            if pause > 0:
                await asyncio.sleep(pause)
            tasks.append(asyncio.create_task(deliver(given.first + index, due)))
        await asyncio.gather(*tasks)
    waits.sort()
    print(
        json.dumps(
            {
                "sent": count,
                "answered": len(waits),
                "unanswered": unanswered,
                "trouble": trouble,
                "p50": 1000 * statistics.median(waits) if waits else None,
                "p99": 1000 * waits[int(len(waits) * 0.99)] if waits else None,
                "worst": 1000 * waits[-1] if waits else None,
            }
        )
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--rate", type=float, default=100.0, help="deliveries a second")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--first", type=int, default=0, help="number of the first delivery")
    parser.add_argument("--name", default="bench", help="prefix of the delivery ids")
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main())
