"""What GitHub asks of its clients: rate limits are waited out, and what was read before is asked for by
its ETag.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
import requests
from bot_world import World, bot_settings, new_world

from bot.courtesy import Gate, StoppingError, seconds_to_wait
from bot.services import Services

NOW = 1_000_000.0


@pytest.mark.parametrize(
    ("status", "headers", "message", "times", "seconds"),
    [
        (429, {"Retry-After": "7"}, "", 0, 7.0),
        (403, {"retry-after": "30"}, "You have exceeded a secondary rate limit.", 0, 30.0),
        (
            403,
            {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1000100"},
            "API rate limit exceeded",
            0,
            101.0,
        ),
        (
            403,
            {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "999000"},
            "API rate limit exceeded",
            0,
            1.0,
        ),
        (403, {}, "You have exceeded a secondary rate limit.", 0, 60.0),
        (403, {}, "You have exceeded a secondary rate limit.", 2, 240.0),
        (403, {}, "You have exceeded a secondary rate limit.", 30, 3900.0),
        (429, {"Retry-After": "999999"}, "", 0, 3900.0),
        (403, {}, "Resource not accessible by integration", 0, None),
        (403, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1000100"}, "Not for you", 0, None),
        (404, {"Retry-After": "7"}, "", 0, None),
        (502, {}, "rate limit", 0, None),
    ],
)
def test_github_says_how_long_to_wait(
    status: int, headers: dict[str, str], message: str, times: int, seconds: float | None
) -> None:
    assert seconds_to_wait(status, headers, message, NOW, times) == seconds


def test_who_stops_does_not_wait_for_the_limit() -> None:
    stop = threading.Event()
    gate = Gate(stop)
    gate.close_for(3600)
    stop.set()
    with pytest.raises(StoppingError):
        gate.wait()
    assert not isinstance(StoppingError(), Exception)


def test_a_limit_is_waited_out_and_an_unchanged_answer_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[tuple[str, int]] = []
    send = requests.Session.send

    def noted(session: requests.Session, request: requests.PreparedRequest, **options: Any) -> Any:
        answer = send(session, request, **options)
        answers.append((str(request.path_url), answer.status_code))
        return answer

    monkeypatch.setattr(requests.Session, "send", noted)
    with new_world(tmp_path) as world:
        services = Services.open(bot_settings(world))
        name = world.repository().name
        installation = services.app.installations()[0]
        repository = services.app.repository(name, installation)
        assert repository.open_pulls() == []
        _limit(world, {"retry-after": "1"})
        begun = time.monotonic()
        assert repository.open_pulls() == []
        assert time.monotonic() - begun >= 1
        assert services.store.counters()["rate_limited"] == 1
        pulls = [status for path, status in answers if f"/repos/{name}/pulls" in path]
        assert pulls == [200, 403, 304]
        services.store.close()


def test_a_write_to_the_old_name_of_a_repository_is_done_under_the_new_one(tmp_path: Path) -> None:
    with new_world(tmp_path) as world:
        services = Services.open(bot_settings(world))
        name = world.repository().name
        repository = services.app.repository(name, services.app.installations()[0])
        world.admin("POST", f"/repos/{name}/move", {"name": "renamed"})
        made = repository.ask("POST", "/labels", {"name": "new", "color": "ededed", "description": ""})
        assert made["name"] == "new"
        assert repository.ask("GET", "/labels/new")["id"] == made["id"]
        services.store.close()


def _limit(world: World, headers: dict[str, str]) -> None:
    fault = {"method": "GET", "path_prefix": "/repos/", "status": 403, "times": 1, "headers": headers}
    message = "You have exceeded a secondary rate limit. Please wait a few minutes before you try again."
    world.admin("POST", "/faults", {"fail_requests": [{**fault, "message": message}]})
