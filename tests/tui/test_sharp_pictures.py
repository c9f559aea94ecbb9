"""Sharp pictures on the screen: after a rest, only the one that is looked at, over nothing else."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from rich.color import ColorSystem

from lora_tui.app import LoraApp
from lora_tui.graphics import kitty, sixel
from lora_tui.graphics.detect import Terminal
from lora_tui.widgets.picture import PictureView
from shared import settings
from tests.tui import standin
from tests.tui.driving import opened, text_of, until

PLACEHOLDER = "\U0010eeee"


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What goes to the terminal beside the cells."""
    from textual.drivers.headless_driver import HeadlessDriver

    written: list[str] = []
    monkeypatch.setattr(HeadlessDriver, "write", lambda self, data: written.append(data))
    return written


def shown(app: LoraApp) -> str:
    return app.screen.query_one(PictureView).shown_key


async def test_kitty_shows_cells_that_name_the_picture(
    daemon: standin.Daemon, sent: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lora_tui.widgets.picture.REST", 1000.0)
    async with opened(daemon, "g", "v", terminal=Terminal("kitty")) as (app, pilot, _):
        await until(pilot, lambda: "▀" in text_of(app))  # first in cells
        monkeypatch.setattr("lora_tui.widgets.picture.REST", 0.01)
        await pilot.press("n")
        await until(pilot, lambda: PLACEHOLDER in text_of(app))
        lines = text_of(app).splitlines()
        across, down = (
            max(line.count(PLACEHOLDER) for line in lines),
            sum(PLACEHOLDER in line for line in lines),
        )
        [first] = [text for text in sent if "a=T" in text]
        assert f"c={across},r={down},q=2" in first
        await pilot.press("n")
        await until(pilot, lambda: shown(app).startswith("i2:") and PLACEHOLDER in text_of(app))
        count = len(sent)
        await pilot.press("p")  # it is with the terminal already
        await until(pilot, lambda: shown(app).startswith("i1:"))
        assert PLACEHOLDER in text_of(app) and len(sent) == count
        await pilot.press("q")
    numbers = re.findall(r"a=T,U=1,f=100,i=(\d+)", "".join(sent))
    assert sorted(re.findall(r"a=d,d=I,i=(\d+)", "".join(sent))) == sorted(numbers) != []


async def test_with_256_colours_the_number_is_one_of_them(
    daemon: standin.Daemon, sent: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLORTERM")  # as over SSH from kitty
    async with opened(daemon, terminal=Terminal("kitty")) as (app, pilot, _):
        await until(pilot, lambda: PLACEHOLDER in text_of(app))
        number = int(re.findall(r"a=T,U=1,f=100,i=(\d+)", "".join(sent))[0])
        cells = [
            segment
            for strip in app.screen._compositor.render_strips()
            for segment in strip
            if PLACEHOLDER in segment.text
        ]
        assert f"\x1b[38;5;{number};" in cells[0].style.render("x", color_system=ColorSystem(2))  # type: ignore[union-attr]


async def test_who_goes_on_quickly_is_sent_no_sharp_picture_on_the_way(
    daemon: standin.Daemon, sent: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    encode = kitty.encode

    def counted(*args: Any) -> bytes:
        made.append("")
        return encode(*args)

    monkeypatch.setattr(kitty, "encode", counted)
    monkeypatch.setattr("lora_tui.widgets.picture.REST", 1000.0)
    async with opened(daemon, "g", "v", terminal=Terminal("kitty")) as (app, pilot, _):
        for place in range(4):
            await until(pilot, lambda place=place: shown(app).startswith(f"i{place}:"))  # type: ignore[misc]
            await pilot.press("n")
        assert not made
        monkeypatch.setattr("lora_tui.widgets.picture.REST", 0.01)
        await pilot.press("n")
        await until(pilot, lambda: PLACEHOLDER in text_of(app))
        assert shown(app).startswith("i5:") and len(made) == 1


async def test_sixel_lies_over_the_cells_and_over_no_window(
    daemon: standin.Daemon, sent: list[str]
) -> None:
    def over() -> list[str]:
        return [text for text in sent if "\x1bP" in text]

    async with opened(daemon, "g", "v", terminal=Terminal("sixel")) as (app, pilot, _):
        await until(pilot, over)
        place = re.match(r"\x1b7\x1b\[(\d+);(\d+)H\x1bP.*\x1b\\\x1b8", over()[-1], re.DOTALL)
        assert place is not None
        view = app.screen.query_one(PictureView)
        assert view.region.contains(int(place[2]) - 1, int(place[1]) - 1)
        await pilot.press("slash")
        sent.clear()
        view._sharpen()  # as after a rest
        assert not over()
        await pilot.press("escape")
        await until(pilot, over)


async def test_a_picture_that_is_passed_is_not_encoded_to_its_end(
    daemon: standin.Daemon, sent: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[bool] = []
    ends: list[bool] = []
    encode = sixel.encode

    def slow(blob: bytes, width: int, height: int, stale: Any) -> str | None:
        begun.append(True)
        while not stale() and len(begun) == 1:
            time.sleep(0.01)
        text = encode(blob, width, height, stale)
        ends.append(text is not None)
        return text

    monkeypatch.setattr(sixel, "encode", slow)
    async with opened(daemon, "g", "v", terminal=Terminal("sixel")) as (_app, pilot, _):
        await until(pilot, lambda: begun)
        await pilot.press("n")
        await until(pilot, lambda: True in ends)
        assert ends[0] is False


async def test_how_pictures_are_shown_is_chosen_and_kept(daemon: standin.Daemon) -> None:
    async with opened(daemon, "g", "v") as (app, pilot, _):
        await until(pilot, lambda: "▀" in text_of(app))
        await pilot.press("f8", "end", "up", "enter")
        await until(pilot, lambda: "Pictures are off" in text_of(app))
        assert settings.load().pictures == "off"
        await pilot.press("f8", "end", "up", "up", "enter")
        await until(pilot, lambda: "▀" in text_of(app))
        await pilot.press("f8", "end", "enter")
        await until(pilot, lambda: settings.load().slow_link)
        await until(pilot, lambda: "▀" in text_of(app))
        assert max(line.count("▀") for line in text_of(app).splitlines()) <= 48


async def test_a_slow_link_is_sent_no_picture_that_one_goes_on_from(
    daemon: standin.Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(daemon, "g", "v", slow=True) as (app, pilot, _):
        await until(pilot, lambda: shown(app))
        monkeypatch.setattr("lora_tui.widgets.picture._GONE_ON", 1000.0)
        await pilot.press("n", "n")
        await until(pilot, lambda: "caption of 002.png" in text_of(app))
        assert "▀" not in text_of(app) and not shown(app)
        monkeypatch.setattr("lora_tui.widgets.picture._GONE_ON", 0.01)
        await pilot.press("n")
        await until(pilot, lambda: "▀" in text_of(app))
