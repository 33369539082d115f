"""Bad weather between GitHub and the bot, by a seed: deliveries are dropped, delayed, doubled and come in
another order; requests are answered with 403, 429, 502 and 503, before or after the work was done, or not
at all. When it is over and the bot has looked around, everything is as after the run without a fault.
"""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from bot_stories import effects, opened, publish_at_once, whole_story
from bot_world import World, bot, new_world, until

DELIVERIES = {"drop": 0.25, "duplicate": 0.25, "delay": 0.4, "seconds": 0.6}
SHARE = 0.12
LIMITED = json.dumps({"message": "You have exceeded a secondary rate limit."}).encode()
PRIMARY = json.dumps({"message": "API rate limit exceeded for installation ID 1."}).encode()
BROKEN = json.dumps({"message": "Server Error"}).encode()


@dataclass
class Weather:
    """An ASGI layer before the forge that spoils some of the bot's requests while it is `bad`."""

    bad: bool = False
    dice: random.Random = field(default_factory=random.Random)
    lock: threading.Lock = field(default_factory=threading.Lock)
    seen: Counter[str] = field(default_factory=Counter)

    def wrap(self, app: Any) -> Any:
        async def layer(scope: Any, receive: Any, send: Any) -> None:
            agent = dict(scope.get("headers") or []).get(b"user-agent", b"")
            fault = ""
            if self.bad and scope["type"] == "http" and (agent == b"treewright" or agent.startswith(b"git/")):
                with self.lock:
                    fault = self._throw(agent.startswith(b"git/"))
                    self.seen[fault] += bool(fault)
            if fault in {"", "late", "lost"}:
                await asyncio.sleep(0.3 if fault == "late" else 0)
                await app(scope, receive, send if fault != "lost" else _nobody_hears)
            if fault == "lost":
                await _answer(send, 502, BROKEN, {})
            elif fault == "broken":
                await _answer(send, 503, BROKEN, {})
            elif fault == "secondary":
                await _answer(send, 403, LIMITED, {"retry-after": "1"})
            elif fault == "too many":
                await _answer(send, 429, LIMITED, {"retry-after": "1"})
            elif fault == "primary":
                reset = {"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(int(time.time()))}
                await _answer(send, 403, PRIMARY, reset)
            # "hung up": no answer at all

        return layer

    def _throw(self, git: bool) -> str:
        if self.dice.random() >= SHARE:
            return ""
        if git:
            return self.dice.choice(["late", "broken"])
        return self.dice.choice(
            ["late", "lost", "lost", "broken", "secondary", "too many", "primary", "hung up"]
        )


async def _nobody_hears(message: Any) -> None: ...


async def _answer(send: Any, status: int, body: bytes, headers: dict[str, str]) -> None:
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    raw += [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture(scope="module")
def weather() -> Weather:
    return Weather()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, weather: Weather) -> Iterator[World]:
    with new_world(tmp_path_factory.mktemp("faults"), weather.wrap) as made:
        publish_at_once(made)
        settings = {"reconcile_seconds": 1, "dispatch_seconds": 0.5, "retry_seconds": 0.05, "attempts": 12}
        with bot(made, **settings):
            yield made


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_after_the_storm_everything_is_as_without_it(world: World, weather: Weather, seed: int) -> None:
    weather.dice.seed(seed)
    weather.seen.clear()
    weather.bad = True
    world.admin("POST", "/faults", {"chaos": {"seed": seed, **DELIVERIES}})
    try:
        story = whole_story(world)
    finally:
        weather.bad = False
        world.admin("POST", "/faults", {})
    assert weather.seen.total() > 0, "the weather was fine"
    assert effects(story) == story.expected


def test_what_was_lost_without_a_trace_is_found_by_looking(world: World) -> None:
    world.admin("POST", "/faults", {"chaos": {"seed": 4, "lose": 1.0}})
    try:
        story = opened(world)
        story.change.becomes("Ready for a maintainer", 200)
        said = story.change.say(world.person("mara"), "/status")
        until(lambda: story.change.replies(said), "the reply", 200)
        assert story.change.answered(said) == "+1"
    finally:
        world.admin("POST", "/faults", {})
    assert len(story.change.replies(said)) == 1
