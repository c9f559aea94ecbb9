"""Snapshot and events: a client can prove that it missed nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from lora_daemon import store
from shared import wire
from shared.client import Client, Connected, StateReplaced
from shared.state import apply
from tests.daemon.process import WITHIN, DaemonProcess, follow, imported, pictures
from tests.daemon.served import Raw, Served


async def attach(served: Served, resume: wire.Resume | None) -> tuple[Raw, wire.DaemonMessage]:
    """A subscribed raw client, and the first message after its welcome."""
    raw = served.raw()
    assert isinstance(await raw.hello(resume=resume), wire.Welcome)
    return raw, await raw.hear()


async def test_a_snapshot_and_every_later_event_make_the_state(served: Served) -> None:
    served.add("before")
    raw, snapshot = await attach(served, None)
    assert isinstance(snapshot, wire.Snapshot) and snapshot.seq == 1
    for number in range(50):
        served.add(f"base {number % 20}", size=number)
    state, seq = snapshot.state, snapshot.seq
    while seq < served.store.head_seq:
        message = await raw.hear()
        if isinstance(message, wire.Journalled):
            assert message.seq == seq + 1
            state, seq = apply(state, message.event), message.seq
    assert state == served.state()


async def test_a_client_that_attaches_amid_changes_sees_each_once(served: Served) -> None:
    going = True

    async def change() -> None:
        number = 0
        while going:
            served.add(f"base {number % 5}", size=number)
            number += 1
            await asyncio.sleep(0)

    writer = asyncio.create_task(change())
    clients = [await served.client(subscribe=True) for _ in range(5)]
    going = False
    await writer
    for client in clients:
        await follow(client, served.store.head_seq)
        assert client.state == served.state()


async def test_a_state_larger_than_a_message_arrives(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.state.PART", 3)
    for number in range(10):
        served.add(f"base {number}", size=wire.MAX_HEADER // 5)
    client = await served.client(subscribe=True)
    assert (client.state, client.seq) == (served.state(), 10)
    served.add("after")
    await follow(client, 11)
    assert client.state == served.state()


async def test_a_client_notices_a_gap_and_starts_anew(served: Served) -> None:
    client = await served.client(subscribe=True)
    announce, served.store.announce = served.store.announce, lambda _: None
    served.add("lost on the way")
    served.store.announce = announce
    served.add("after")
    await follow(client, 2)
    assert client.state == served.state()


async def test_who_comes_back_gets_exactly_what_was_missed(served: Served) -> None:
    for number in range(10):
        served.add(f"base {number}")
    resume = wire.Resume(incarnation=served.store.incarnation, seq=4)
    raw, first = await attach(served, resume)
    seen = [first] + [await raw.hear() for _ in range(5)]
    assert [m.seq for m in seen if isinstance(m, wire.Journalled)] == [5, 6, 7, 8, 9, 10]


async def test_a_pruned_journal_means_a_fresh_snapshot(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "JOURNAL_KEPT", 3)
    for number in range(10):
        served.add(f"base {number}")
    served.store.prune()
    incarnation = served.store.incarnation
    _, reached = await attach(served, wire.Resume(incarnation=incarnation, seq=7))
    assert isinstance(reached, wire.Journalled) and reached.seq == 8
    _, beyond = await attach(served, wire.Resume(incarnation=incarnation, seq=6))
    assert isinstance(beyond, wire.Snapshot) and beyond.seq == 10


@pytest.mark.parametrize("seq", [0, 2, 99])
async def test_another_journal_means_a_fresh_snapshot(seq: int, served: Served) -> None:
    served.add("one")
    served.add("two")
    _, message = await attach(served, wire.Resume(incarnation="restored", seq=seq))
    assert isinstance(message, wire.Snapshot) and message.seq == 2


async def test_a_client_from_the_future_gets_a_snapshot(served: Served) -> None:
    served.add("one")
    resume = wire.Resume(incarnation=served.store.incarnation, seq=5)
    _, message = await attach(served, resume)
    assert isinstance(message, wire.Snapshot) and message.seq == 1


async def test_a_killed_daemon_loses_nothing_and_its_client_misses_nothing(
    client: Client, daemon: DaemonProcess, tmp_path: Path
) -> None:
    items = await imported(client, pictures(tmp_path / "set"))
    notices = client.notices()
    for number, item in enumerate(items):
        request = wire.ChangeCaption(
            dataset=item.dataset, item=item.id, if_rev=1, text=f"changed {number}"
        )
        await client.call(request)
        await daemon.kill()
        async with await Client.connect(home=daemon.home) as other:  # starts the next daemon
            back = await other.call(wire.GetItem(dataset=item.dataset, item=item.id))
            assert (back.caption.text, back.caption.rev) == (f"changed {number}", 2)
            accept = wire.ChangeCaption(
                dataset=item.dataset, item=item.id, if_rev=2, state="accepted"
            )
            await other.call(accept)
            head = (await other.call(wire.GetStatus())).head_seq
            await follow(client, head)
            truth = await other.call(wire.GetState())
        assert client.state == truth

    seqs: list[int] = []
    state = wire.State()
    replaced = connected = 0
    async with asyncio.timeout(WITHIN):
        while not seqs or seqs[-1] < client.seq:
            match await anext(notices):
                case StateReplaced(state=state):
                    replaced += 1
                case Connected():
                    connected += 1
                case wire.Journalled() as entry:
                    seqs.append(entry.seq)
                    state = apply(state, entry.event)
    assert connected == len(items)
    assert replaced == 1, "the client was given a snapshot where a replay was possible"
    assert seqs == list(range(seqs[0], client.seq + 1))
    assert state == client.state


async def test_a_retry_after_the_daemons_death_has_no_second_effect(
    client: Client, daemon: DaemonProcess, tmp_path: Path
) -> None:
    item = (await imported(client, pictures(tmp_path / "set", 1)))[0]
    request = wire.ChangeCaption(dataset=item.dataset, item=item.id, if_rev=1, text="once")
    first = await client.call(request, key="the same")
    await daemon.kill()
    again = await client.call(request, key="the same")
    assert again == first and again.caption.rev == 2
    present = await client.call(wire.GetItem(dataset=item.dataset, item=item.id))
    assert present.caption == first.caption
