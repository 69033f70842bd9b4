"""The event stream's memory: nothing lost, nothing twice, whoever publishes and whoever is slow."""

from __future__ import annotations

import asyncio
import json
import threading

import pytest

from idiolect.events import RING, EventStream, LaggedError, StateChange, frame
from tests.support.fake_daemon import event


def ids(entries) -> list[str]:
    return [entry.id for entry in entries]


def publish(hub: EventStream, first: int, last: int) -> None:
    for number in range(first, last):
        hub.publish(event(f"e{number}"))


def test_recent_is_the_newest_oldest_first_and_at_most_the_ring():
    hub = EventStream()
    publish(hub, 0, RING + 10)
    assert [each["id"] for each in hub.recent(2)] == [f"e{RING + 8}", f"e{RING + 9}"]
    assert len(hub.recent()) == RING
    assert hub.recent()[0]["id"] == "e10"
    assert hub.published == RING + 10


def test_a_frame_is_one_server_sent_event():
    change = StateChange("s1", 12.3456, {"listening": "paused\nevent: forged"})
    lines = frame("state", change.as_dict(), "s1").decode().split("\n")
    assert lines[:2] == ["id: s1", "event: state"]
    assert lines[3:] == ["", ""]
    assert json.loads(lines[2].removeprefix("data: ")) == {
        "id": "s1",
        "time": 12.346,
        "kind": "state",
        "listening": "paused\nevent: forged",
    }


@pytest.mark.parametrize(
    ("last_id", "expected"),
    [(None, []), ("e3", ["e4", "e5"]), ("e5", []), ("from before a restart", ["e2", "e3", "e4", "e5"])],
)
def test_a_subscriber_begins_after_the_id_it_names(last_id, expected):
    async def run():
        hub = EventStream(capacity=4)
        publish(hub, 0, 6)
        with hub.subscribe(last_id) as subscription:
            assert ids(await subscription.take(0.001)) == expected
            publish(hub, 6, 7)
            assert ids(await subscription.take(1)) == ["e6"]
        assert hub.subscribers == 0

    asyncio.run(run())


@pytest.mark.parametrize(
    ("last_id", "gap", "expected"),
    [
        ("a-3", "", ["a-4", "a-5"]),
        ("a-5", "", []),
        ("a-1", "lagged", ["a-2", "a-3", "a-4", "a-5"]),
        ("b-3", "restarted", ["a-2", "a-3", "a-4", "a-5"]),
        ("", "restarted", ["a-2", "a-3", "a-4", "a-5"]),
    ],
)
def test_who_comes_back_is_told_when_something_is_missing(last_id, gap, expected):
    async def run():
        hub = EventStream(capacity=4)
        for number in range(6):
            hub.publish(event(f"a-{number}"))
        with hub.subscribe(last_id) as subscription:
            assert (subscription.gap, ids(await subscription.take(0.001))) == (gap, expected)

    asyncio.run(run())


def test_who_came_before_the_first_event_can_come_back():
    async def run():
        hub = EventStream(capacity=4)
        begin = hub.subscribe().begin
        assert begin
        assert hub.subscribe(begin).gap == ""
        hub.publish(event("a-0"))
        again = hub.subscribe(begin)
        assert (again.gap, again.begin, ids(await again.take(1))) == ("", "", ["a-0"])
        for number in range(1, 9):
            hub.publish(event(f"a-{number}"))
        assert hub.subscribe(begin).gap == "lagged"
        assert hub.subscribe().begin == "a-8"
        assert EventStream().subscribe(begin).gap == "restarted"

    asyncio.run(run())


def test_forgetting_costs_nobody_who_had_read_everything():
    async def run():
        hub = EventStream()
        hub.publish(event("a-0"))
        hub.publish(event("a-1"))
        hub.clear()
        assert hub.subscribe("a-1").gap == ""
        assert hub.subscribe("a-0").gap == "lagged"

    asyncio.run(run())


def test_publishing_from_threads_wakes_every_subscriber_once_per_event():
    async def run():
        hub = EventStream()

        async def reader(subscription):
            seen = []
            while len(seen) < 200:
                seen += ids(await subscription.take(5))
            return seen

        subscriptions = [hub.subscribe() for _ in range(5)]
        threads = [threading.Thread(target=publish, args=(hub, n * 50, n * 50 + 50)) for n in range(4)]
        tasks = [asyncio.create_task(reader(subscription)) for subscription in subscriptions]
        for thread in threads:
            thread.start()
        results = await asyncio.gather(*tasks)
        for thread in threads:
            thread.join()
        assert sorted(results[0]) == sorted(f"e{number}" for number in range(200))
        assert all(result == results[0] for result in results)

    asyncio.run(run())


def test_a_slow_subscriber_is_told_and_the_others_do_not_notice():
    async def run():
        hub = EventStream(capacity=8)
        slow, quick = hub.subscribe(), hub.subscribe()
        publish(hub, 0, 5)
        assert ids(await quick.take(1)) == ["e0", "e1", "e2", "e3", "e4"]
        publish(hub, 5, 11)
        assert ids(await quick.take(1)) == ["e5", "e6", "e7", "e8", "e9", "e10"]
        with pytest.raises(LaggedError) as caught:
            await slow.take(1)
        assert caught.value.missed == 3

    asyncio.run(run())


def test_take_times_out_empty_and_ends_with_what_was_left():
    async def run():
        hub = EventStream()
        subscription = hub.subscribe()
        assert await subscription.take(0.01) == []
        publish(hub, 0, 1)
        hub.hang_up()
        assert ids(await subscription.take(1)) == ["e0"]
        assert await asyncio.wait_for(subscription.take(600), 60) is None

    asyncio.run(run())


def test_hanging_up_wakes_a_waiting_reader():
    async def run():
        hub = EventStream()
        task = asyncio.create_task(hub.subscribe().take(60))
        await asyncio.sleep(0.01)
        hub.hang_up()
        assert await asyncio.wait_for(task, 60) is None

    asyncio.run(run())


def test_publishing_outlives_the_event_loop():
    hub = EventStream()

    async def run():
        with hub.subscribe() as subscription:
            publish(hub, 0, 1)
            await subscription.take(1)

    asyncio.run(run())
    publish(hub, 1, 2)  # its loop is closed now: must neither raise nor be lost
    assert [each["id"] for each in hub.recent()] == ["e0", "e1"]
