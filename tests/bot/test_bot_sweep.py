"""Deliveries that did not arrive are asked for again until they did, and not once more; dead letters are
kept.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from bot_world import EXAMPLES, World, bot, bot_settings, new_world, until
from hypothesis import given
from hypothesis import strategies as st

from bot.services import Services
from bot.store import Store
from bot.sweep import Attempt, failed, sweep

BAD = EXAMPLES / "contributions/bad"


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.booleans()), max_size=20))
def test_only_what_never_arrived_is_asked_for_and_only_its_newest_attempt(
    rows: list[tuple[str, bool]],
) -> None:
    attempts = [Attempt(index, guid, ok) for index, (guid, ok) in enumerate(rows)]
    found = failed(attempts)
    assert {one.guid for one in found} == {g for g, _ in rows} - {g for g, ok in rows if ok}
    for one in found:
        assert one.id == max(other.id for other in attempts if other.guid == one.guid)
    assert found == sorted(found, key=lambda one: one.id)


def attempts_by_delivery(world: World) -> Counter[str]:
    return Counter(one.guid for one in world.forge.forge.deliveries if one.event != "ping")


def test_dropped_deliveries_are_brought_by_the_sweep_and_not_twice(tmp_path: Path) -> None:
    with new_world(tmp_path) as world:
        change = world.repository().fork(world.person("newcomer"))
        with bot(world) as url:
            world.forge.hooks.drain()
            before = set(attempts_by_delivery(world))
            world.admin("POST", "/faults", {"drop_deliveries": 2})
            head = change.push(BAD)
            change.open()
            said = change.say(world.person("mara"), "/help")
            world.forge.hooks.drain()
            assert change.checks(head, "treewright / lint") == []
            assert change.replies(said) == []

            services = Services.open(bot_settings(world))
            refusal = {"method": "POST", "path_prefix": "/app/hook/deliveries", "status": 422, "times": 1}
            world.admin("POST", "/faults", {"fail_requests": [refusal]})
            assert sweep(services) == 1, "the other one, too, is asked for"
            world.forge.hooks.drain()
            assert sweep(services) == 1
            assert change.check(head)["conclusion"] == "failure"
            change.reply(said)
            until(change.sticky, "the comment")
            world.forge.hooks.drain()
            for _ in range(3):
                assert sweep(services) == 0
            assert services.store.counters()["redelivered"] == 2
            assert services.store.counters()["healed_deliveries"] == 2
            fresh = {g: n for g, n in attempts_by_delivery(world).items() if g not in before}
            assert sorted(fresh.values(), reverse=True)[:3] == [2, 2, 1]
            assert len(change.checks(head, "treewright / lint")) == 1
            assert len(change.replies(said)) == 1
            assert url
            services.store.close()


def test_a_job_that_failed_for_good_is_kept_counted_and_can_be_tried_again(tmp_path: Path) -> None:
    with new_world(tmp_path) as world:
        change = world.repository().fork(world.person("newcomer"))
        with bot(world):
            refusal = {"method": "POST", "path_prefix": f"/repos/{change.repository.name}/check-runs"}
            world.admin("POST", "/faults", {"fail_requests": [{**refusal, "status": 422, "times": 1}]})
            head = change.push(BAD)
            change.open()
            until(lambda: "/retry" in change.sticky(), "the comment that says how to go on")
            assert "status 422" in change.sticky()
            store = Store(bot_settings(world).database_url)
            dead = until(store.dead_letters, "the dead letter")
            assert [(row["kind"], row["head"]) for row in dead] == [("review", head)]
            assert "422" in dead[0]["detail"]
            assert store.counters()["failed"] == 1

            said = change.say(change.author, "/retry")
            assert change.answered(said) == "+1"
            assert change.check(head)["conclusion"] == "failure"
            assert len(store.dead_letters()) == 1
            store.close()


def test_the_place_in_the_queue_counts_who_was_there_before(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'bot.sqlite'}")
    assert store.place(7, 3) is None
    for number in (1, 2, 3):
        store.queue_job(f"j{number}", "work", "review", 7, number)
    store.begin_job("j1")
    here = store.place(7, 3)
    assert here is not None
    assert (here.running, here.kind, here.ahead, here.seconds) == (False, "review", 2, None)
    store.end_job("j1", "done")
    assert not store.end_job("j1", "failed")
    here = store.place(7, 3)
    assert here is not None
    assert here.ahead == 1
    assert here.seconds is not None
    store.close()
