"""Many clients: a slow one is bounded and told so, a lost one forgotten; all see who is there."""

from __future__ import annotations

import asyncio
import itertools
import math

import pytest

from lora_daemon import sessions
from shared import wire
from shared.client import Client, StateReplaced
from tests.daemon.process import follow
from tests.daemon.served import WITHIN, Raw, Served

BALLAST = 256 * 1024  # bytes of an event


def progress(step: int, *losses: float) -> wire.RunProgress:
    """A run at ``step``, with the points of its last steps."""
    first = step - len(losses) + 1
    return wire.RunProgress(
        run="r0001", phase="training", done=step, total=10_000, step=step, epoch=1, speed=10.0,
        eta=1.0, loss=0.1,
        points=[wire.LivePoint(first + i, loss, 1e-4, 1.0, 0.0) for i, loss in enumerate(losses)],
    )  # fmt: skip


async def stall(served: Served) -> Raw:
    """A client that said hello, has its snapshot, and from then on does not read."""
    raw = served.raw(rcvhwm=1, rcvbuf=4096)
    await raw.hello(client="sleeper")
    assert isinstance(await raw.hear(), wire.Snapshot)
    return raw


def queued(served: Served) -> int:
    return max(session.queued for session in served.server._sessions.values())


async def test_a_client_that_does_not_read_is_bounded_and_slows_nobody(served: Served) -> None:
    sleeper = await stall(served)
    reader = await served.client(subscribe=True)
    most = 0
    for number in range(400):  # 100 MiB in all
        served.add(f"base {number % 4}", size=BALLAST)
        most = max(most, queued(served))
        if number % 20 == 0:
            await follow(reader, served.store.head_seq)
    await follow(reader, served.store.head_seq)
    assert reader.state == served.state()
    assert BALLAST < most <= sessions.MAX_QUEUED + 2 * BALLAST
    assert queued(served) == 0, "what was dropped is still there"

    messages: list[wire.DaemonMessage] = []
    while not isinstance(message := await sleeper.hear(), wire.Resync):
        messages.append(message)
    events = [m.seq for m in messages if isinstance(m, wire.Journalled)]
    assert events == list(range(1, len(events) + 1)), "a gap before it was told"
    assert len(events) < 400
    snapshot = await sleeper.hear()
    assert isinstance(snapshot, wire.Snapshot)
    assert (snapshot.seq, snapshot.state) == (served.store.head_seq, served.state())

    served.add("after")
    while not isinstance(message := await sleeper.hear(), wire.Journalled):
        pass
    assert message.seq == snapshot.seq + 1


async def test_answers_lost_in_a_resync_are_asked_for_again(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "MAX_QUEUED", 4 * BALLAST)
    client = await served.client(subscribe=True)
    calls = [
        asyncio.create_task(client.call(wire.InspectLora(lora=f"big:{BALLAST}")))
        for _ in range(200)
    ]
    async with asyncio.timeout(30):
        answers = await asyncio.gather(*calls)
    assert {answer.size for answer in answers} == {BALLAST}
    served.add("after")
    await follow(client, 1)
    assert client.state == served.state()


async def test_live_values_are_conflated(served: Served) -> None:
    raw = served.raw()
    await raw.hello()
    while not isinstance(await raw.hear(), wire.LiveUpdate):
        pass  # the snapshot; then who is attached
    for step in range(1, 2001):
        served.server.publish(progress(step, 1.0))
    update = await raw.hear()
    assert isinstance(update, wire.LiveUpdate)
    (value,) = update.values
    assert isinstance(value, wire.RunProgress)
    assert value.step == 2000
    assert len(value.points) <= 512
    assert (value.points[0].step, value.points[-1].step) == (1, 2000)


async def test_live_values_come_four_times_a_second_at_most(served: Served) -> None:
    client = await served.client(subscribe=True)
    notices = client.notices()
    loop = asyncio.get_running_loop()
    times: list[float] = []
    step = 0
    async with asyncio.timeout(WITHIN):
        while len(times) < 4:
            step += 1
            served.server.publish(progress(step, 1.0))
            reading = asyncio.ensure_future(anext(notices))
            while not reading.done():
                served.server.publish(progress(step, 1.0))
                await asyncio.sleep(0.005)
            if isinstance(await reading, wire.LiveUpdate):
                times.append(loop.time())
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert min(gaps[1:]) > 0.2, gaps


async def test_conflated_points_keep_the_extremes(served: Served) -> None:
    client = await served.client(subscribe=True)
    notices = client.notices()
    losses = [math.sin(step / 50) for step in range(5000)]
    losses[1234], losses[4321] = 9.0, -9.0
    for step, loss in enumerate(losses):
        served.server.publish(progress(step, loss))
    points: list[wire.LivePoint] = []
    async with asyncio.timeout(WITHIN):
        while not points or points[-1].step < 4999:
            notice = await anext(notices)
            if isinstance(notice, wire.LiveUpdate):
                for value in notice.values:
                    points += value.points if isinstance(value, wire.RunProgress) else []
    assert {9.0, -9.0} <= {point.loss for point in points}
    latest = client.live["run", "r0001"]
    assert isinstance(latest, wire.RunProgress) and latest.step == 4999


async def attached(client: Client) -> list[str]:
    value = client.live.get(("attached", ""))
    return [info.name for info in value.clients] if isinstance(value, wire.Attached) else []


async def until_attached(client: Client, *names: str) -> None:
    notices = client.notices()
    async with asyncio.timeout(WITHIN):
        while sorted(await attached(client)) != sorted(names):
            await anext(notices)


async def test_everybody_sees_who_is_attached(served: Served) -> None:
    client = await served.client(subscribe=True)
    await until_attached(client, "tester")
    raw = served.raw()
    await raw.hello(client="colleague", host="laptop", terminal="pts/7")
    await until_attached(client, "tester", "colleague")
    infos = served.server.clients()
    assert (infos[1].host, infos[1].terminal) == ("laptop", "pts/7")
    await raw.say(wire.Bye())
    await until_attached(client, "tester")


async def test_a_command_that_asks_and_leaves_is_not_among_them(served: Served) -> None:
    watcher = await served.client(subscribe=True)
    await (await served.client()).call(wire.GetState())
    assert len(served.server._sessions) == 2
    assert [info.session for info in served.server.clients()] == [watcher.welcome.session]  # type: ignore[union-attr]


async def test_a_silent_client_is_forgotten(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await served.client(subscribe=True)
    raw = served.raw()
    await raw.hello(client="silent")
    await until_attached(client, "tester", "silent")
    silent = next(s for s in served.server._sessions.values() if s.info.name == "silent")
    silent.heard -= wire.LIVENESS
    await until_attached(client, "tester")
    await raw.say(wire.Ping())
    while not isinstance(refused := await raw.hear(), wire.Refused):
        pass
    assert refused.say_hello


async def test_a_vanished_client_is_forgotten_when_it_is_written_to(served: Served) -> None:
    client = await served.client(subscribe=True)
    raw = served.raw()
    await raw.hello(client="vanishing")
    await until_attached(client, "tester", "vanishing")
    raw.close()
    async with asyncio.timeout(WITHIN):
        while len(served.server.clients()) > 1:
            served.server.publish(progress(1))
            await asyncio.sleep(0.01)
    await until_attached(client, "tester")


async def test_a_client_that_the_daemon_forgot_attaches_again(served: Served) -> None:
    client = await served.client(subscribe=True)
    served.add("one")
    await follow(client, 1)
    notices = client.notices()
    session = next(iter(served.server._sessions.values()))
    served.server._drop(session, "the test says so")
    served.add("while away")
    assert (await client.call(wire.InspectLora(lora="small"))).size == 0
    await follow(client, 2)
    assert client.state == served.state()
    replaced = 0
    async with asyncio.timeout(WITHIN):
        while not isinstance(notice := await anext(notices), wire.Journalled):
            replaced += isinstance(notice, StateReplaced)
    assert replaced == 1, "it was given a snapshot where a replay was possible"
