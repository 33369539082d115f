"""The request engine against a real HTTP server that misbehaves on purpose."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from lab.synthesis.endpoints import Endpoint, EndpointError, endpoint_from_environment
from lab.synthesis.engine import Answer, Engine, EngineSettings, RequestError, request_key

FAST = EngineSettings(attempts=4, backoff_seconds=0.01, backoff_limit_seconds=0.1, service_seconds=5)
Behave = Callable[[web.Request, int], Awaitable[web.StreamResponse]]


@dataclass
class Server:
    url: str
    seen: list[dict[str, Any]] = field(default_factory=list)
    in_flight: int = 0
    peak: int = 0

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint("teacher", self.url, "m", "r1", "secret-key")


def said(text: str) -> web.Response:
    return web.json_response({"choices": [{"message": {"content": text}}], "usage": {"completion_tokens": 3}})


@contextlib.asynccontextmanager
async def serving(behave: Behave) -> AsyncIterator[Server]:
    server = Server("")

    async def chat(request: web.Request) -> web.StreamResponse:
        server.in_flight += 1
        server.peak = max(server.peak, server.in_flight)
        try:
            server.seen.append({**await request.json(), "auth": request.headers.get("Authorization")})
            return await behave(request, len(server.seen))
        finally:
            server.in_flight -= 1

    app = web.Application()
    app.router.add_post("/v1/chat/completions", chat)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        yield server
    finally:
        await runner.cleanup()


def ask(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


async def good(request: web.Request, number: int) -> web.StreamResponse:
    return said(f"answer {number}")


def run(behave: Behave, body: Callable[[Server, Engine], Awaitable[None]], store: Path, **more: Any) -> None:
    async def inner() -> None:
        async with serving(behave) as server, Engine(store, **{"settings": FAST, **more}) as engine:
            await body(server, engine)

    asyncio.run(inner())


def test_an_answer_is_asked_for_once_and_kept_for_the_next_engine(tmp_path: Path) -> None:
    async def first(server: Server, engine: Engine) -> None:
        answer = await engine.chat(server.endpoint, ask("a"), {"seed": 1})
        assert (answer.text, answer.cached, answer.tokens) == ("answer 1", False, 3)
        assert server.seen[0]["auth"] == "Bearer secret-key"
        assert server.seen[0]["seed"] == 1

    async def second(server: Server, engine: Engine) -> None:
        answer = await engine.chat(server.endpoint, ask("a"), {"seed": 1})
        assert (answer.text, answer.cached) == ("answer 1", True)
        assert server.seen == []
        assert (engine.counters.sent, engine.counters.cached) == (0, 1)

    run(good, first, tmp_path / "s")
    run(good, second, tmp_path / "s")


def test_model_revision_message_and_seed_are_part_of_the_key_and_the_address_is_not() -> None:
    one = Endpoint("teacher", "http://a/v1", "m", "r1")
    keys = {
        request_key(one, ask("a"), {"seed": 1}),
        request_key(Endpoint("teacher", "http://a/v1", "m2", "r1"), ask("a"), {"seed": 1}),
        request_key(Endpoint("teacher", "http://a/v1", "m", "r2"), ask("a"), {"seed": 1}),
        request_key(one, ask("b"), {"seed": 1}),
        request_key(one, ask("a"), {"seed": 2}),
    }
    assert len(keys) == 5
    assert request_key(Endpoint("judge", "http://b/v1", "m", "r1", "k"), ask("a"), {"seed": 1}) in keys


def test_equal_questions_at_the_same_time_share_one_request(tmp_path: Path) -> None:
    async def slow(request: web.Request, number: int) -> web.StreamResponse:
        await asyncio.sleep(0.05)
        return said("x")

    async def body(server: Server, engine: Engine) -> None:
        answers = await asyncio.gather(*(engine.chat(server.endpoint, ask("a"), {}) for _ in range(10)))
        assert len(server.seen) == 1
        assert {answer.text for answer in answers} == {"x"}

    run(slow, body, tmp_path / "s")


def test_a_row_that_is_cancelled_does_not_take_along_the_row_that_asks_the_same(tmp_path: Path) -> None:
    async def body(server: Server, engine: Engine) -> None:
        first = asyncio.create_task(engine.chat(server.endpoint, ask("a"), {}))
        await asyncio.sleep(0)
        second = asyncio.create_task(engine.chat(server.endpoint, ask("a"), {}))
        await asyncio.sleep(0)
        first.cancel()
        assert (await second).text.startswith("answer")
        third = asyncio.create_task(engine.chat(server.endpoint, ask("b"), {}))
        fourth = asyncio.create_task(engine.chat(server.endpoint, ask("b"), {}))
        await asyncio.sleep(0)
        fourth.cancel()
        assert (await third).text.startswith("answer")
        assert fourth.cancelled()

    run(good, body, tmp_path / "s")


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_a_passing_fault_is_asked_again_and_counted(tmp_path: Path, status: int) -> None:
    async def twice(request: web.Request, number: int) -> web.StreamResponse:
        return web.Response(status=status, headers={"Retry-After": "0"}) if number <= 2 else said("at last")

    async def body(server: Server, engine: Engine) -> None:
        assert (await engine.chat(server.endpoint, ask("a"), {})).text == "at last"
        assert (engine.counters.sent, engine.counters.retried) == (3, 2)

    run(twice, body, tmp_path / "s")


@pytest.mark.parametrize(
    "body_text",
    ["", "{", "[]", "null", '{"choices": []}', '{"choices": [{"message": {"content": null}}]}', '"x"'],
)
def test_a_malformed_answer_is_asked_again_like_any_fault(tmp_path: Path, body_text: str) -> None:
    async def once(request: web.Request, number: int) -> web.StreamResponse:
        return web.Response(text=body_text) if number == 1 else said("fine")

    async def body(server: Server, engine: Engine) -> None:
        assert (await engine.chat(server.endpoint, ask("a"), {})).text == "fine"
        assert len(server.seen) == 2

    run(once, body, tmp_path / "s")


def test_a_dropped_connection_is_asked_again(tmp_path: Path) -> None:
    async def drop(request: web.Request, number: int) -> web.StreamResponse:
        if number == 1:
            assert request.transport is not None
            request.transport.close()
        return said("back")

    async def body(server: Server, engine: Engine) -> None:
        assert (await engine.chat(server.endpoint, ask("a"), {})).text == "back"

    run(drop, body, tmp_path / "s")


def test_a_row_that_never_works_loses_itself_and_no_other(tmp_path: Path) -> None:
    async def poison(request: web.Request, number: int) -> web.StreamResponse:
        text = (await request.json())["messages"][0]["content"]
        if text == "long":
            return web.Response(status=400, text="context too long")
        return web.Response(status=500) if text == "bad" else said(text)

    async def body(server: Server, engine: Engine) -> None:
        results = await asyncio.gather(
            *(engine.chat(server.endpoint, ask(text), {}) for text in ("a", "bad", "long", "b")),
            return_exceptions=True,
        )
        assert [getattr(result, "text", None) for result in results] == ["a", None, None, "b"]
        assert all(isinstance(result, RequestError) for result in results[1:3])
        assert "context too long" in str(results[2])
        assert sum(entry["messages"] == ask("long") for entry in server.seen) == 1
        assert sum(entry["messages"] == ask("bad") for entry in server.seen) == FAST.attempts

    run(poison, body, tmp_path / "s")


def test_a_failure_is_not_remembered(tmp_path: Path) -> None:
    async def later(request: web.Request, number: int) -> web.StreamResponse:
        return web.Response(status=500) if number <= FAST.attempts else said("now")

    async def body(server: Server, engine: Engine) -> None:
        with pytest.raises(RequestError):
            await engine.chat(server.endpoint, ask("a"), {})
        assert (await engine.chat(server.endpoint, ask("a"), {})).text == "now"

    run(later, body, tmp_path / "s")


def test_waiting_for_a_turn_is_not_counted_as_slowness(tmp_path: Path) -> None:
    async def slow(request: web.Request, number: int) -> web.StreamResponse:
        await asyncio.sleep(0.1)
        return said("x")

    async def body(server: Server, engine: Engine) -> None:
        # Eight requests, one at a time: the last waits 0.7 s, longer than one may be served.
        await asyncio.gather(*(engine.chat(server.endpoint, ask(str(n)), {}) for n in range(8)))
        assert (len(server.seen), server.peak, engine.counters.retried) == (8, 1, 0)

    settings = EngineSettings(attempts=1, service_seconds=0.5)
    run(slow, body, tmp_path / "s", in_flight=1, settings=settings)


def test_an_answer_that_takes_too_long_is_a_lost_row(tmp_path: Path) -> None:
    async def stuck(request: web.Request, number: int) -> web.StreamResponse:
        await asyncio.sleep(1)
        return said("x")

    async def body(server: Server, engine: Engine) -> None:
        with pytest.raises(RequestError, match="no answer within"):
            await engine.chat(server.endpoint, ask("a"), {})

    settings = EngineSettings(attempts=2, backoff_seconds=0.01, service_seconds=0.1)
    run(stuck, body, tmp_path / "s", settings=settings)


def test_no_more_requests_than_allowed_are_under_way(tmp_path: Path) -> None:
    async def slow(request: web.Request, number: int) -> web.StreamResponse:
        await asyncio.sleep(0.02)
        return said("x")

    async def body(server: Server, engine: Engine) -> None:
        await asyncio.gather(*(engine.chat(server.endpoint, ask(str(n)), {}) for n in range(40)))
        assert server.peak == 5
        assert engine.counters.peak_in_flight == 5

    run(slow, body, tmp_path / "s", in_flight=5)


def test_an_endpoint_that_is_down_gives_one_error_that_names_the_variable(tmp_path: Path) -> None:
    async def inner() -> None:
        down = Endpoint("judge", "http://127.0.0.1:1/v1", "m", "r")
        async with Engine(tmp_path / "s", in_flight=2, settings=FAST) as engine:
            results = await asyncio.gather(
                *(engine.chat(down, ask(str(n)), {}) for n in range(50)), return_exceptions=True
            )
            assert all(isinstance(result, EndpointError) for result in results)
            assert "http://127.0.0.1:1/v1" in str(results[0])
            assert "TREEWRIGHT_JUDGE_URL" in str(results[0])
            # After the first rows have given up, the others do not try the dead endpoint again.
            assert engine.counters.sent <= 2 * FAST.attempts

    asyncio.run(inner())


@pytest.mark.parametrize("status", [401, 403, 404, 302])
def test_an_endpoint_that_refuses_us_stops_the_run_at_once(tmp_path: Path, status: int) -> None:
    async def refuse(request: web.Request, number: int) -> web.StreamResponse:
        return web.Response(status=status, text="no such model", headers={"Location": "http://127.0.0.1:1/"})

    async def body(server: Server, engine: Engine) -> None:
        with pytest.raises(EndpointError, match="TREEWRIGHT_TEACHER_MODEL") as caught:
            await engine.chat(server.endpoint, ask("a"), {})
        assert "secret-key" not in str(caught.value)
        assert len(server.seen) == 1

    run(refuse, body, tmp_path / "s")


def test_likelihoods_of_the_first_token_are_added_up_by_word(tmp_path: Path) -> None:
    async def likely(request: web.Request, number: int) -> web.StreamResponse:
        top = [
            {"token": "Yes", "logprob": -1.0},
            {"token": " yes", "logprob": -2.0},
            {"token": "No", "logprob": -0.5},
        ]
        choice = {"message": {"content": "No"}, "logprobs": {"content": [{"top_logprobs": top}]}}
        return web.json_response({"choices": [choice]})

    async def body(server: Server, engine: Engine) -> None:
        for _ in range(2):  # once from the server, once from the store
            answer: Answer = await engine.chat(server.endpoint, ask("a"), {})
            assert answer.likelihoods == pytest.approx({"yes": 0.503215, "no": 0.606531}, abs=1e-5)

    run(likely, body, tmp_path / "s")


def test_a_killed_run_asks_only_what_was_never_answered(tmp_path: Path) -> None:
    """A real process is killed with SIGKILL in the middle; the next run sends the rest and nothing twice."""
    program = textwrap.dedent(
        """
        import asyncio, sys
        from pathlib import Path
        from lab.synthesis.endpoints import Endpoint
        from lab.synthesis.engine import Engine

        async def main():
            endpoint = Endpoint("teacher", sys.argv[1], "m", "r1")
            async with Engine(Path(sys.argv[2]), in_flight=2) as engine:
                asked = [
                    engine.chat(endpoint, [{"role": "user", "content": str(n)}], {}) for n in range(30)
                ]
                answers = await asyncio.gather(*asked)
                print(engine.counters.sent, engine.counters.cached, len(answers))

        asyncio.run(main())
        """
    )
    finished: list[str] = []
    enough = asyncio.Event()

    async def slow(request: web.Request, number: int) -> web.StreamResponse:
        await asyncio.sleep(0.03)
        finished.append((await request.json())["messages"][0]["content"])
        if len(finished) >= 10:
            enough.set()
        return said("x")

    async def inner() -> None:
        async with serving(slow) as server:
            command = [sys.executable, "-c", program, server.url, str(tmp_path / "s")]
            first = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
            await enough.wait()
            os.kill(first.pid, signal.SIGKILL)
            await first.wait()
            await asyncio.sleep(0.1)
            before = len(server.seen)
            second = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
            output, _ = await second.communicate()
            sent, cached, answers = (int(part) for part in output.split())
            assert answers == 30
            assert cached >= 6  # of the ten that were answered, at most those in flight were lost
            assert sent == 30 - cached == len(server.seen) - before

    asyncio.run(inner())


@pytest.mark.parametrize(
    ("env", "hint"),
    [
        ({}, "set TREEWRIGHT_TEACHER_URL"),
        ({"TREEWRIGHT_TEACHER_URL": "  "}, "treewright serve"),
        ({"TREEWRIGHT_TEACHER_URL": "http://x/v2"}, "ends in /v1"),
        ({"TREEWRIGHT_TEACHER_URL": "file:///v1"}, "not an http"),
    ],
)
def test_a_missing_or_odd_address_says_what_to_set(env: dict[str, str], hint: str) -> None:
    from lab.config import ModelName

    with pytest.raises(EndpointError, match=hint):
        endpoint_from_environment("teacher", ModelName("m", "r"), env)


def test_the_environment_names_address_model_and_key() -> None:
    from lab.config import ModelName

    env = {"TREEWRIGHT_JUDGE_URL": "http://x/v1/", "TREEWRIGHT_JUDGE_MODEL": "n", "TREEWRIGHT_JUDGE_KEY": "k"}
    found = endpoint_from_environment("judge", ModelName("m", "r"), env)
    assert (found.url, found.model, found.revision, found.key) == ("http://x/v1", "n", "r", "k")
    assert "'k'" not in repr(found)
    assert json.dumps(found.label) == '"n@r"'
