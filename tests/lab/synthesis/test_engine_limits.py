"""How the engine treats servers that are overloaded, that are several, and that know less than others."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.config import ModelName
from lab.synthesis.answers import Answer, AnswerFile, AnswerStore, StoreError, from_row, to_row
from lab.synthesis.endpoints import Endpoint, EndpointError, endpoint_from_environment
from lab.synthesis.engine import Engine, EngineSettings, Request, RequestError
from lab.synthesis.gates import Gate, pick, preference
from lab.synthesis.telemetry import Counters, Telemetry, write
from lab.synthesis.wire import AgainError, read_answer
from tests.lab.synthesis.test_engine import Behave, Server, ask, good, run, said, serving

FAST = EngineSettings(attempts=3, backoff_seconds=0.01, backoff_limit_seconds=0.05, service_seconds=5)


def two(
    behave: Behave, other: Behave, body: Callable[..., Awaitable[None]], store: Path, **more: Any
) -> None:
    async def inner() -> None:
        async with (
            serving(behave) as first,
            serving(other) as second,
            Engine(store, **{"settings": FAST, **more}) as engine,
        ):
            both = Endpoint("teacher", first.url, "m", "r1", None, (second.url,))
            await body(first, second, both, engine)

    asyncio.run(inner())


def test_a_server_that_says_too_many_gets_fewer_at_a_time_and_loses_no_row(tmp_path: Path) -> None:
    serving_now = 0

    async def three_at_most(request: web.Request, number: int) -> web.StreamResponse:
        nonlocal serving_now
        if serving_now >= 3:
            return web.Response(status=429)
        serving_now += 1
        await asyncio.sleep(0.02)
        serving_now -= 1
        return said("x")

    async def body(server: Server, engine: Engine) -> None:
        # Far more refusals than attempts: being refused is waiting, not failing.
        answers = await asyncio.gather(*(engine.chat(server.endpoint, ask(str(n)), {}) for n in range(40)))
        assert len(answers) == 40
        assert engine.counters.overloaded >= 5
        assert engine.counters.failed == 0
        # The bound was cut at once: most requests were not refused.
        assert engine.counters.overloaded < 40

    run(three_at_most, body, tmp_path / "s", in_flight=16, settings=FAST)


def test_retry_after_holds_everybody_back_and_not_only_the_row_that_heard_it(tmp_path: Path) -> None:
    closed = {"until": 0.0, "early": 0.0}
    heard = asyncio.Event()

    async def busy(request: web.Request, number: int) -> web.StreamResponse:
        now = asyncio.get_running_loop().time()
        if number == 1:
            closed["until"] = now + 0.3
            heard.set()
            return web.Response(status=503, headers={"Retry-After": "0.3"})
        closed["early"] += now < closed["until"] - 0.01
        return said("x")

    async def body(server: Server, engine: Engine) -> None:
        first = asyncio.create_task(engine.chat(server.endpoint, ask("a"), {}))
        await heard.wait()
        await asyncio.sleep(0.1)  # the answer has to reach the engine
        await asyncio.gather(first, *(engine.chat(server.endpoint, ask(str(n)), {}) for n in range(6)))
        assert closed["early"] == 0

    run(busy, body, tmp_path / "s", in_flight=8, settings=FAST)


def test_a_server_that_is_overloaded_for_ever_ends_the_run_and_not_the_rows_one_by_one(
    tmp_path: Path,
) -> None:
    async def never(request: web.Request, number: int) -> web.StreamResponse:
        return web.Response(status=503, text="no room")

    async def body(server: Server, engine: Engine) -> None:
        with pytest.raises(EndpointError, match=r"nothing but HTTP 503: no room for 0 s"):
            await engine.chat(server.endpoint, ask("a"), {})

    settings = EngineSettings(backoff_seconds=0.01, backoff_limit_seconds=0.02, patience_seconds=0.2)
    run(never, body, tmp_path / "s", settings=settings)


def test_the_bound_is_halved_once_a_round_and_grows_by_one_a_round() -> None:
    async def inner() -> None:
        gate = Gate(16)
        for _ in range(16):
            gate.overloaded(sent=0.0, after=None)  # all sent before the first cut
        assert gate.limit == 8.0
        for _ in range(8):
            gate.succeeded()
        assert 8.9 < gate.limit <= 9.0
        for _ in range(1000):
            gate.succeeded()
        assert gate.limit == 16.0

    asyncio.run(inner())


def test_a_row_that_is_given_up_while_it_waits_leaves_its_turn_to_the_next() -> None:
    async def inner() -> None:
        gate = Gate(1)
        await gate.enter()
        waiting = [asyncio.create_task(gate.enter()) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        gate.leave()
        await waiting[1]
        waiting[2].cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        gate.leave()
        assert gate.active == 0
        await asyncio.wait_for(gate.enter(), 1)

    asyncio.run(inner())


def test_rows_of_one_document_go_to_one_address(tmp_path: Path) -> None:
    async def body(first: Server, second: Server, both: Endpoint, engine: Engine) -> None:
        asked = [
            engine.chat(both, ask(f"{document} {n}"), {}, affinity=f"document {document}")
            for document in range(12)
            for n in range(5)
        ]
        await asyncio.gather(*asked)
        places: dict[str, set[str]] = {}
        for server in (first, second):
            for entry in server.seen:
                places.setdefault(entry["messages"][0]["content"].split()[0], set()).add(server.url)
        assert {len(found) for found in places.values()} == {1}
        assert len(first.seen) + len(second.seen) == 60
        assert first.seen
        assert second.seen

    two(good, good, body, tmp_path / "s", in_flight=64)


def test_an_address_with_a_long_queue_passes_work_on(tmp_path: Path) -> None:
    async def slow(request: web.Request, number: int) -> web.StreamResponse:
        await asyncio.sleep(0.02)
        return said("x")

    async def body(first: Server, second: Server, both: Endpoint, engine: Engine) -> None:
        # One large document alone: the other address must not be idle while 40 rows wait.
        await asyncio.gather(*(engine.chat(both, ask(str(n)), {}, affinity="one") for n in range(40)))
        assert min(len(first.seen), len(second.seen)) >= 10

    two(slow, slow, body, tmp_path / "s", in_flight=2)


def test_an_address_that_dies_hands_its_rows_to_the_others(tmp_path: Path) -> None:
    async def inner() -> None:
        async with serving(good) as server, Engine(tmp_path / "s", 4, FAST) as engine:
            both = Endpoint("teacher", "http://127.0.0.1:1/v1", "m", "r1", None, (server.url,))
            answers = await asyncio.gather(
                *(engine.chat(both, ask(str(n)), {}, affinity=str(n)) for n in range(20))
            )
            assert len(answers) == len(server.seen) == 20
            dead = Endpoint("teacher", "http://127.0.0.1:1/v1", "m", "r1", None, ("http://127.0.0.1:2/v1",))
            with pytest.raises(EndpointError, match=r"127\.0\.0\.1:1/v1[\s\S]*127\.0\.0\.1:2/v1"):
                await engine.chat(dead, ask("x"), {})

    asyncio.run(inner())


@settings(deadline=None)
@given(st.lists(st.text(min_size=1), min_size=2, max_size=6, unique=True), st.text())
def test_losing_an_address_moves_only_its_own_documents(addresses: list[str], document: str) -> None:
    order = preference(document, tuple(addresses))
    assert sorted(order) == sorted(addresses)
    for lost in addresses:
        left = tuple(address for address in addresses if address != lost)
        assert preference(document, left) == tuple(address for address in order if address != lost)
    gates = {address: Gate(1) for address in addresses}
    assert pick(order, gates) == order[0]


def test_samples_come_in_one_request_and_are_kept_together(tmp_path: Path) -> None:
    async def several(request: web.Request, number: int) -> web.StreamResponse:
        count = (await request.json())["n"]
        return web.json_response(
            {"choices": [{"message": {"content": f"sample {index}"}} for index in range(count)]}
        )

    async def body(server: Server, engine: Engine) -> None:
        for _ in range(2):
            answer = await engine.chat(server.endpoint, ask("a"), {"n": 4})
            assert answer.texts == ("sample 0", "sample 1", "sample 2", "sample 3")
        assert len(server.seen) == 1

    run(several, body, tmp_path / "s", settings=FAST)


@pytest.mark.parametrize("refuses", [True, False], ids=["refuses", "ignores"])
def test_a_server_without_samples_is_asked_for_each_at_its_own_seed(tmp_path: Path, refuses: bool) -> None:
    async def single(request: web.Request, number: int) -> web.StreamResponse:
        body = await request.json()
        if refuses and "n" in body:
            return web.Response(status=400, text="unknown field n")
        return said(f"seed {body['seed']}")

    async def body(server: Server, engine: Engine) -> None:
        first = await engine.chat(server.endpoint, ask("a"), {"n": 3, "seed": 7})
        assert len(set(first.texts)) == 3
        before = len(server.seen)
        second = await engine.chat(server.endpoint, ask("b"), {"n": 3, "seed": 7})
        assert len(second.texts) == 3
        assert len(server.seen) - before == 3  # what the server cannot do is asked for once
        assert await engine.chat(server.endpoint, ask("b"), {"n": 3, "seed": 7}) == Answer(
            second.text, second.key, True, second.tokens, {}, second.more
        )

    run(single, body, tmp_path / "s", settings=FAST)


def test_samples_of_which_one_failed_are_not_kept_as_if_they_were_all(tmp_path: Path) -> None:
    sick = True

    async def single(request: web.Request, number: int) -> web.StreamResponse:
        seed = (await request.json())["seed"]
        return web.Response(status=500) if sick and seed > 200_000 else said(f"seed {seed}")

    async def body(server: Server, engine: Engine) -> None:
        nonlocal sick
        with pytest.raises(RequestError, match="HTTP 500"):
            await engine.chat(server.endpoint, ask("a"), {"n": 3, "seed": 7})
        sick = False
        answer = await engine.chat(server.endpoint, ask("a"), {"n": 3, "seed": 7})
        assert answer.texts == ("seed 7", "seed 100010", "seed 200013")

    run(single, body, tmp_path / "s", settings=FAST)


def schema(name: str) -> dict[str, Any]:
    return {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": name, "schema": {"type": "object"}},
        }
    }


def test_a_schema_that_the_server_refuses_is_left_out_from_then_on(tmp_path: Path) -> None:
    async def picky(request: web.Request, number: int) -> web.StreamResponse:
        form = (await request.json()).get("response_format")
        if form and form["json_schema"]["name"] == "bad":
            return web.Response(status=400, text="unsupported keyword")
        return said("with" if form else "without")

    async def body(server: Server, engine: Engine) -> None:
        assert (await engine.chat(server.endpoint, ask("a"), schema("bad"))).text == "without"
        assert (await engine.chat(server.endpoint, ask("b"), schema("bad"))).text == "without"
        assert (await engine.chat(server.endpoint, ask("c"), schema("good"))).text == "with"
        assert len(server.seen) == 4

    run(picky, body, tmp_path / "s", settings=FAST)


def test_a_request_that_is_wrong_in_itself_is_told_as_it_was_refused_first(tmp_path: Path) -> None:
    async def long(request: web.Request, number: int) -> web.StreamResponse:
        return web.Response(status=400, text=f"context too long ({number})")

    async def body(server: Server, engine: Engine) -> None:
        with pytest.raises(RequestError, match=r"too long \(1\)"):
            await engine.chat(server.endpoint, ask("a"), schema("s"))
        assert len(server.seen) == 2

    run(long, body, tmp_path / "s", settings=FAST)


def test_a_stream_answers_everything_in_bounded_space_and_then_from_the_store(tmp_path: Path) -> None:
    taken = given_back = widest = 0

    async def poison(request: web.Request, number: int) -> web.StreamResponse:
        text = (await request.json())["messages"][0]["content"]
        await asyncio.sleep(0.001)
        return web.Response(status=400) if text == "13" else said(text)

    async def body(server: Server, engine: Engine) -> None:
        nonlocal taken, given_back, widest

        def requests() -> Any:
            nonlocal taken, widest
            for number in range(1500):
                taken += 1
                widest = max(widest, taken - given_back)
                yield Request(server.endpoint, ask(str(number)), {})

        outcomes = {}
        async for number, outcome in engine.stream(requests()):
            given_back += 1
            outcomes[number] = outcome
        assert len(outcomes) == 1500
        assert isinstance(outcomes.pop(13), RequestError)
        assert all(isinstance(found, Answer) and found.text == str(at) for at, found in outcomes.items())
        assert server.peak <= 8
        assert widest < 700
        before = len(server.seen)
        again = [found async for _, found in engine.stream(requests())]
        assert len(again) == 1500
        assert len(server.seen) - before == 1  # the one that failed

    run(poison, body, tmp_path / "s", in_flight=8, settings=FAST)


def test_a_request_that_comes_twice_in_a_stream_is_asked_once(tmp_path: Path) -> None:
    async def body(server: Server, engine: Engine) -> None:
        twenty = (Request(server.endpoint, ask("the same"), {}) for _ in range(20))
        texts = [answer.text async for _, answer in engine.stream(twenty) if isinstance(answer, Answer)]
        assert texts == ["answer 1"] * 20

    run(good, body, tmp_path / "s", in_flight=1, settings=FAST)


def test_leaving_a_stream_early_leaves_nothing_under_way(tmp_path: Path) -> None:
    async def body(server: Server, engine: Engine) -> None:
        stream = engine.stream(Request(server.endpoint, ask(str(n)), {}) for n in range(100))
        async for _ in stream:
            break
        await stream.aclose()  # type: ignore[attr-defined]  # a generator in fact
        assert engine.counters.in_flight == 0
        assert len(asyncio.all_tasks()) < 20

    run(good, body, tmp_path / "s", in_flight=4, settings=FAST)


def test_a_store_that_cannot_be_written_ends_the_run_and_says_where(tmp_path: Path) -> None:
    async def body(server: Server, engine: Engine) -> None:
        store = engine._store
        assert isinstance(store, AnswerStore)
        store._file._db.execute("PRAGMA query_only=ON")  # as on a full disk: reading goes on
        await engine.chat(server.endpoint, ask("a"), {})
        await asyncio.sleep(0)
        with pytest.raises(StoreError, match=r"cannot be written to .*Make room"):
            await engine.chat(server.endpoint, ask("b"), {})

    run(good, body, tmp_path / "s", settings=FAST)


def test_a_full_disk_is_called_so_and_costs_no_row_that_was_stored(tmp_path: Path) -> None:
    store = AnswerFile(tmp_path / "s")
    store.add([to_row(Answer("kept", f"k{n}", False, 0)) for n in range(2)])
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count={pages + 1}")
    with pytest.raises(sqlite3.OperationalError, match="database or disk is full"):
        store.add([to_row(Answer("x" * 10_000, f"n{n}", False, 0)) for n in range(2)])
    assert store.count() == 2
    store._db.execute("PRAGMA max_page_count=1000")
    store.add([to_row(Answer("x" * 10_000, f"n{n}", False, 0)) for n in range(2)])
    assert store.count() == 4


def test_a_damaged_store_is_told_with_its_file_and_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "s").write_bytes(b"no database" * 1000)
    with pytest.raises(StoreError, match=r"/s cannot be read: file is not a database\. .* move it"):
        Engine(tmp_path / "s")

    async def body(server: Server, engine: Engine) -> None:
        await engine.chat(server.endpoint, ask("a"), {})
        store = engine._store
        assert isinstance(store, AnswerStore)
        store._file._db.execute("DROP TABLE answer")
        with pytest.raises(StoreError, match="cannot be read"):
            await engine.chat(server.endpoint, ask("b"), {})

    run(good, body, tmp_path / "t", settings=FAST)


answers = st.builds(
    Answer,
    st.text(),
    st.text(min_size=1),
    st.just(True),
    st.integers(0, 1 << 40),
    st.dictionaries(st.text(), st.floats(0, 1)),
    st.lists(st.text(), max_size=3).map(tuple),
    st.integers(0, 1 << 40),
    st.sampled_from(["", "length"]),
)


@settings(deadline=None)
@given(answers)
def test_an_answer_survives_being_stored(answer: Answer) -> None:
    assert from_row(to_row(answer)) == answer


NAMES = ("choices", "message", "content", "usage", "completion_tokens", "logprobs", "finish_reason")
values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(NAMES), inner),
)


@settings(deadline=None)
@given(st.binary() | values.map(lambda value: json.dumps(value).encode()))
def test_no_answer_of_a_server_does_more_than_fail_its_attempt(raw: bytes) -> None:
    try:
        answer = read_answer(raw, "k")
    except AgainError:
        return
    for text in answer.texts:
        text.encode()


def test_half_a_character_in_an_answer_can_be_kept(tmp_path: Path) -> None:
    raw = rb'{"choices": [{"message": {"content": "a \ud83d b \ud83d\ude00"}}]}'
    answer = read_answer(raw, "k")
    assert answer.text == "a ? b 😀"


def test_several_addresses_of_a_role_are_separated_by_commas() -> None:
    env = {"TREEWRIGHT_TEACHER_URL": "http://a:1/v1, http://b:1/v1/,http://a:1/v1"}
    found = endpoint_from_environment("teacher", ModelName("m", "r"), env)
    assert found.addresses == ("http://a:1/v1", "http://b:1/v1")
    with pytest.raises(EndpointError, match="http://b:1"):
        endpoint_from_environment(
            "teacher", ModelName("m", "r"), {"TREEWRIGHT_TEACHER_URL": "http://a:1/v1,http://b:1"}
        )


def test_what_was_counted_is_written_for_people_and_for_prometheus(tmp_path: Path) -> None:
    async def sometimes(request: web.Request, number: int) -> web.StreamResponse:
        return web.Response(status=500) if number == 1 else said("x")

    async def body(server: Server, engine: Engine) -> None:
        for number in range(3):
            await engine.chat(server.endpoint, ask(str(number)), {})
        other = Telemetry()
        other.merge(engine.telemetry.to_json())
        engine.telemetry.merge(other.to_json())
        totals = Counters()
        totals.add(vars(engine.counters))
        write(tmp_path / "t", totals, engine.telemetry.to_json())
        found = json.loads((tmp_path / "t" / "telemetry.json").read_text("utf-8"))
        assert found["counters"]["sent"] == 4
        assert found["counters"]["retried"] == 1
        (one,) = found["series"]
        assert one["server.address"] == server.url
        assert one["gen_ai.client.operation.duration"]["count"] == 6
        assert one["gen_ai.client.token.usage"]["output"]["sum"] == 18
        assert one["error.type"] == {"500": 2}
        text = (tmp_path / "t" / "telemetry.prom").read_text("utf-8")
        assert "treewright_requests_sent_total 4" in text
        assert 'gen_ai_client_token_usage_bucket{gen_ai_operation_name="chat"' in text
        assert text.count('le="+Inf"') == 3

    run(sometimes, body, tmp_path / "s", settings=FAST)
