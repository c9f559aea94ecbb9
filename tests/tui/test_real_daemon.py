"""The main stories on a real daemon, over a real socket, with real processes."""

from __future__ import annotations

import asyncio
import os
import pty
import select
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace
from textual.pilot import Pilot
from textual.widgets import Input

from lora_tui.app import LoraApp
from lora_tui.core.drafts import state_dir
from lora_tui.screens.importing import Import
from lora_tui.screens.library import Library
from lora_tui.screens.recover import Recover
from lora_tui.screens.runs import Runs
from lora_tui.screens.train import Train
from shared import wire
from shared.client import Client
from tests.daemon.process import DaemonProcess, imported, pictures
from tests.engine.tiny_base import build
from tests.tui.driving import text_of, until


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    workspace = tmp_path / "home"
    monkeypatch.setenv("LORA_TUI_HOME", str(workspace))
    monkeypatch.delenv("LORA_TUI_ENDPOINT", raising=False)
    return workspace


@pytest.fixture
def real(home: Path) -> Iterator[DaemonProcess]:
    process = DaemonProcess(home)
    yield process
    process.end()


@asynccontextmanager
async def attached(home: Path, name: str, *keys: str) -> AsyncIterator[tuple[LoraApp, Pilot[int]]]:
    async def connect() -> Client:
        return await Client.connect(home=home, name=name, subscribe=True)

    app = LoraApp(connect, where="here")
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        await until(pilot, lambda: app.connection is not None and app.me == name, seconds=60)
        await pilot.press(*keys)
        yield app, pilot


async def test_a_folder_is_imported_and_reviewed_by_two(
    real: DaemonProcess, tmp_path: Path
) -> None:
    folder = pictures(tmp_path / "my 龍 pictures", 4)
    async with (
        attached(real.home, "ada", "i") as (app, ada),
        attached(real.home, "bob") as (other, bob),
    ):
        await until(ada, lambda: isinstance(app.screen, Import))
        app.screen.query_one("#path", Input).value = str(folder)
        await ada.press("enter")
        await until(ada, lambda: "4 pictures" in text_of(app))
        await until(ada, lambda: "with bob@" in text_of(app))
        await until(bob, lambda: "my 龍 pictures" in text_of(other))
        await ada.press("v")
        await bob.press("v")
        await until(ada, lambda: "picture 0" in text_of(app))
        await until(bob, lambda: "picture 0" in text_of(other))
        await ada.press("e", *" of a red dragon", "escape")
        began = time.monotonic()
        await until(bob, lambda: "picture 0 of a red dragon" in text_of(other))
        assert time.monotonic() - began < 1 or os.getloadavg()[0] > 4
        assert "by ada" in text_of(other)
        await bob.press("d", "u")
        await until(ada, lambda: "rev 4" in text_of(app))
        await ada.press("n", "space")
        await until(ada, lambda: "2/4 reviewed" in text_of(app))
    for _ in range(100):  # written through in the background
        if "red dragon" in (folder / "000.txt").read_text():
            break
        await asyncio.sleep(0.05)
    assert (folder / "000.txt").read_text() == "picture 0 of a red dragon"


async def test_a_text_survives_the_death_of_the_daemon(real: DaemonProcess, tmp_path: Path) -> None:
    async with await Client.connect(home=real.home, subscribe=True) as client:
        await imported(client, pictures(tmp_path / "set", 3))
        async with attached(real.home, "ada", "g", "v") as (app, pilot):
            await until(pilot, lambda: "picture 0" in text_of(app))
            await pilot.press("e", *" and more")
            await real.kill()
            await until(pilot, lambda: "does not answer" in text_of(app))
            await pilot.press("escape")  # the client starts a daemon anew and sends it
            dataset = client.state.datasets[0].id
            async with asyncio.timeout(60):
                while True:
                    items = (await client.call(wire.ListItems(dataset=dataset))).items
                    if items[0].caption.text == "picture 0 and more":
                        break
                    await pilot.pause(0.1)
            assert [item.caption.rev for item in items] == [2, 1, 1]
            await until(pilot, lambda: "does not answer" not in text_of(app))
            await until(pilot, lambda: not list((state_dir() / "drafts").glob("*.json")))


async def test_a_text_survives_the_death_of_the_client(real: DaemonProcess, tmp_path: Path) -> None:
    async with await Client.connect(home=real.home, subscribe=True) as client:
        items = await imported(client, pictures(tmp_path / "set", 2))
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ |= {"COLUMNS": "120", "LINES": "40", "LORA_TUI_NAME": "ada"}
        os.execv(sys.executable, [sys.executable, "-m", "lora_tui"])
    drafts = state_dir() / "drafts"
    try:
        await asyncio.to_thread(shown, terminal, b"picture 0")
        os.write(terminal, b"gv")
        await asyncio.to_thread(shown, terminal, b"reviewed", b"words")
        os.write(terminal, b"e typed by hand")
        async with asyncio.timeout(30):
            while not any(b"typed by hand" in path.read_bytes() for path in drafts.glob("*.json")):
                await asyncio.to_thread(shown, terminal, within=0.05)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)  # noqa: ASYNC222  # it is dead
        os.close(terminal)
    async with attached(real.home, "ada", "g", "v") as (app, pilot):
        await until(pilot, lambda: isinstance(app.screen, Recover))
        assert "typed by hand" in text_of(app)
        await pilot.press("s")
        await until(pilot, lambda: "✎ edited" in text_of(app))
        item = await app.ask(wire.GetItem(dataset=items[0].dataset, item=items[0].id))
        assert item.caption.text == "picture 0 typed by hand"
        assert not list(drafts.glob("*.json"))


def shown(terminal: int, *texts: bytes, within: float = 30.0) -> None:
    """Read a terminal until all ``texts`` have come, or until the time is over if there are none.
    Only what changes on the screen is sent, so they must not have stood there before."""
    seen, end = b"", time.monotonic() + within
    while time.monotonic() < end:
        if select.select([terminal], [], [], 0.02)[0]:
            seen += os.read(terminal, 65536)
        if texts and all(text in seen for text in texts):
            return
    assert not texts, f"{texts} were not all shown"


async def test_a_lora_is_trained_and_tried(real: DaemonProcess, tmp_path: Path) -> None:
    base = await asyncio.to_thread(build, tmp_path / "base")
    async with await Client.connect(home=real.home, subscribe=True) as client:
        await client.call(wire.AddBase(path=str(base), name="tiny"))
        await imported(client, pictures(tmp_path / "set", 4))
        async with attached(real.home, "ada", "t") as (app, pilot):
            await until(pilot, lambda: isinstance(app.screen, Train))
            screen = app.screen
            assert isinstance(screen, Train)
            screen.field("base.name").fill("tiny")
            screen.field("training.batch_size").query_one(Input).value = "1"
            screen.field("training.epochs").query_one(Input).value = "3"
            screen.field("sample.prompts").query_one(Input).value = "picture 1"
            screen.field("sample.every_epochs").query_one(Input).value = "3"
            await until(pilot, lambda: "12 steps" in text_of(app))
            await pilot.press("ctrl+s")
            await until(pilot, lambda: isinstance(app.screen, Runs))
            await until(pilot, lambda: "✓ r0001" in text_of(app), seconds=120)
            await until(pilot, lambda: "step 12/12" in text_of(app))
            await until(pilot, lambda: "sample 2 of 2" in text_of(app))
            await pilot.press("g", "l")
            await until(pilot, lambda: "unet" in text_of(app))
            library = app.screen
            assert isinstance(library, Library)
            library.query_one("#steps", Input).value = "2"
            await pilot.press("enter")
            await until(
                pilot,
                lambda: library.view("without").shown_key and library.view("with").shown_key,
                seconds=60,
            )
            assert len(app.state.pictures) == 4
            live = client.state.mixes[0].spec
            tiny = replace(live, base="tiny", steps=2)
            await client.call(wire.ChangeMix(before=live, after=tiny))
            await pilot.press("g", "m", "a", "enter")
            await until(pilot, lambda: "full picture" in text_of(app), seconds=60)
            await pilot.press("right")
            await until(
                pilot,
                lambda: app.state.tried and app.state.tried[-1].spec.loras[0].weight == 0.85,
                seconds=60,
            )
