"""The client: it says what is wrong, and mends what can be mended by itself."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from pathlib import Path

import pytest

from lora_daemon import lifecycle
from shared import client as clients
from shared import launch, paths, settings, wire
from shared.client import Client, Connected, Disconnected, StateReplaced
from shared.errors import Code, Exit, LoraError
from shared.notices import MAX_WAITING, Notices
from tests.daemon.process import WITHIN, DaemonProcess, imported, pictures
from tests.daemon.served import Served


def nothing_at(path: Path) -> bool:
    return not path.exists()


async def until(client: Client, kind: type[Connected] | type[Disconnected]) -> Disconnected:
    """Wait for a notice of this kind that comes from now on."""
    notices = client.notices()
    async with asyncio.timeout(WITHIN):
        while not isinstance(notice := await anext(notices), kind):
            pass
    return notice if isinstance(notice, Disconnected) else Disconnected("")


async def test_no_daemon_and_none_to_be_started_is_said_at_once(home: Path) -> None:
    with pytest.raises(LoraError, match="lora-tui daemon start") as caught:
        await Client.connect(home=home, start=False)
    assert caught.value.code is Code.UNREACHABLE
    assert caught.value.exit is Exit.UNREACHABLE
    assert str(home) in caught.value.message
    assert nothing_at(home)


async def test_a_tunnel_that_is_down_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(LoraError, match="ssh -L") as caught:
        await Client.connect(f"ipc://{tmp_path}/forwarded.sock")
    assert caught.value.code is Code.UNREACHABLE


async def test_an_endpoint_nobody_answers_at_is_given_up(tmp_path: Path) -> None:
    server = await asyncio.start_unix_server(lambda *_: None, tmp_path / "mute.sock")
    with pytest.raises(LoraError, match="does not answer") as caught:
        await Client.connect(f"ipc://{tmp_path}/mute.sock", timeout=0.3)
    assert caught.value.code is Code.UNREACHABLE
    server.close()


async def test_the_environment_names_the_endpoint_unless_a_workspace_is_named(
    served: Served, daemon: DaemonProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORA_TUI_ENDPOINT", served.endpoint)
    async with await Client.connect() as client:
        assert (await client.call(wire.InspectLora(lora="small"))).size == 0
    async with await Client.connect(home=daemon.home) as client:
        assert (await client.call(wire.GetStatus())).pid == daemon.pid


async def test_without_the_engine_it_says_how_to_get_it(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(LoraError, match=r"pip install .lora-tui\[engine\]") as caught:
        await Client.connect(home=home)
    assert caught.value.code is Code.UNREACHABLE
    assert nothing_at(home)


async def test_a_killed_daemon_is_noticed_at_once_and_started_again(
    client: Client, daemon: DaemonProcess
) -> None:
    first = daemon.pid
    lost = asyncio.create_task(until(client, Disconnected))
    back = asyncio.create_task(until(client, Connected))
    await asyncio.sleep(0)
    async with asyncio.timeout(wire.LIVENESS / 2):
        os.kill(first, signal.SIGKILL)
        await lost
        await back
    assert (await client.call(wire.GetStatus())).pid == daemon.pid != first


async def test_a_call_in_flight_survives_the_daemons_death(
    client: Client, daemon: DaemonProcess, tmp_path: Path
) -> None:
    items = await imported(client, pictures(tmp_path / "set", 8))
    calls = [
        client.call(wire.ChangeCaption(dataset=i.dataset, item=i.id, if_rev=1, text="new"))
        for i in items
    ]
    going = asyncio.gather(*calls)
    await asyncio.sleep(0)  # they are sent
    os.kill(daemon.pid, signal.SIGKILL)
    answers = await going
    assert {(answer.caption.text, answer.caption.rev) for answer in answers} == {("new", 2)}


async def test_a_daemon_that_was_stopped_is_not_started_again(
    client: Client, daemon: DaemonProcess
) -> None:
    lost = asyncio.create_task(until(client, Disconnected))
    await asyncio.sleep(0)
    await daemon.kill(signal.SIGTERM)
    assert (await lost).left
    with pytest.raises(LoraError, match="was stopped") as caught:
        await client.call(wire.GetStatus())
    assert caught.value.code is Code.UNREACHABLE
    assert not daemon.workspace.status.exists()

    back = asyncio.create_task(until(client, Connected))
    await asyncio.sleep(0)
    await asyncio.to_thread(daemon.start)
    await back
    assert (await client.call(wire.GetStatus())).pid == daemon.pid


async def test_a_daemon_that_leaves_welcomes_nobody_any_more(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told to go, a client is back sooner than the socket is gone: it must not start a new one."""
    gone = asyncio.Event()
    monkeypatch.setattr(served.server._calls, "close", gone.wait)
    client = await served.client()
    lost = asyncio.create_task(until(client, Disconnected))
    await asyncio.sleep(0)
    leaving = asyncio.create_task(served.server.close("The daemon was stopped."))
    assert (await lost).left
    with pytest.raises(LoraError, match=r"cannot be reached|No daemon"):
        await served.client()
    with pytest.raises(LoraError, match="was stopped"):
        await client.call(wire.GetState(), timeout=WITHIN)
    assert not client.connected
    gone.set()
    await leaving


async def test_calls_fail_when_the_daemon_stays_away(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "PATIENCE", 0.1)
    client = await served.client()
    await client.call(wire.InspectLora(lora="small"))
    served.server._sessions.clear()  # so that nobody is told
    await served.server.close("")
    with pytest.raises(LoraError, match="No daemon can be reached") as caught:
        await client.call(wire.InspectLora(lora="small"), timeout=WITHIN)
    assert caught.value.code is Code.UNREACHABLE


async def test_a_stopped_process_is_taken_up_again_where_it_was(
    client: Client, daemon: DaemonProcess
) -> None:
    """A daemon that did not answer for a while (a suspended machine) has lost nothing."""
    os.kill(daemon.pid, signal.SIGSTOP)
    call = asyncio.create_task(client.call(wire.GetStatus()))
    await asyncio.sleep(0)
    os.kill(daemon.pid, signal.SIGCONT)
    assert (await call).pid == daemon.pid


async def test_more_calls_than_the_daemon_takes_at_once_wait_their_turn(served: Served) -> None:
    client = await served.client()
    calls = [client.call(wire.InspectLora(lora="small")) for _ in range(3000)]
    async with asyncio.timeout(30):
        answers = await asyncio.gather(*calls)
    assert len(answers) == 3000


async def test_a_daemon_that_is_about_to_leave_is_waited_for(
    daemon: DaemonProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = lifecycle.take(daemon.workspace)  # as one that listens no longer
    waited = launch._holder_moves

    async def moves(workspace: Path) -> None:
        await waited(workspace)
        os.close(lock)

    monkeypatch.setattr(launch, "_holder_moves", moves)
    async with await Client.connect(home=daemon.home) as client:
        assert (await client.call(wire.GetStatus())).pid == daemon.pid != os.getpid()


async def test_a_closed_client_answers_nothing(served: Served) -> None:
    client = await served.client()
    await client.close()
    with pytest.raises(LoraError, match="closed"):
        await client.call(wire.GetState())


async def test_closing_fails_what_is_open(served: Served) -> None:
    client = await served.client()
    call = asyncio.create_task(client.call(wire.InspectLora(lora="wait")))
    async with asyncio.timeout(WITHIN):
        await served.entered.wait()
    await client.close()
    with pytest.raises(LoraError, match="closed"):
        await call


async def test_notices_begin_with_the_present_and_end_with_the_client(served: Served) -> None:
    served.add("one")
    client = await served.client(subscribe=True)
    notices = client.notices()
    await client.close()
    seen = [notice async for notice in notices]
    assert seen[0] == StateReplaced(served.state(), 1)


async def test_an_abandoned_reader_costs_nothing(served: Served) -> None:
    client = await served.client(subscribe=True)
    for _ in range(10):
        client.notices()
    kept = client.notices()
    gc.collect()
    assert list(client._readers) == [kept]


async def test_a_reader_that_falls_behind_starts_anew() -> None:
    notices = Notices()
    present = StateReplaced(wire.State(), 7)
    for _ in range(MAX_WAITING + 3):
        notices.put(Disconnected("x"), present)
    notices.close()
    seen = [notice async for notice in notices]
    assert seen == [present, Disconnected("x"), Disconnected("x")]


def test_who_one_is(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.client_name() == "tester"
    monkeypatch.delenv("LORA_TUI_NAME")
    monkeypatch.setenv("USER", "ana")
    monkeypatch.setenv("SSH_CONNECTION", "192.0.2.7 5 192.0.2.1 22")
    assert settings.client_name() == "ana@192.0.2.7"
    paths.private(paths.config_dir())
    settings.path().write_text('name = "Ana"\n')
    assert settings.client_name() == "Ana"
    settings.path().write_text("name = 7\n")
    with pytest.raises(LoraError, match=r"settings\.toml"):
        settings.client_name()
    settings.path().unlink()
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 12_345_678)  # of nobody
    assert settings.client_name() == "uid12345678@192.0.2.7"
