"""The health window: what is found, shown in Review, mended with a preview and taken back."""

from __future__ import annotations

from lora_tui.screens.bulk import BulkEdit
from lora_tui.screens.datasets import Datasets
from lora_tui.screens.health import HealthWindow
from lora_tui.screens.review import Review
from shared import wire
from tests.tui import standin
from tests.tui.driving import opened, text_of, until


async def test_a_finding_is_mended_taken_back_and_shown_in_review(
    daemon: standin.Daemon,
) -> None:
    async with opened(daemon, "g", "d", size=(80, 24)) as (app, pilot, _):
        await until(pilot, lambda: isinstance(app.screen, Datasets) and "000.png" in text_of(app))
        await pilot.press("h")
        await until(pilot, lambda: "trigger word missing" in text_of(app))
        text = text_of(app)
        assert "20 pictures, for training at 512 px with the trigger word sks" in text
        assert text.index("trigger word missing") < text.index("cannot be read")  # what is there
        assert "f: put “sks” before them" in text and "f mends" in text
        await pilot.press("f")
        await until(pilot, lambda: "20 captions will change" in text_of(app))
        assert daemon.items["i0"].caption.rev == 1
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, HealthWindow))
        assert daemon.items["i7"].caption.text == "sks, a drawing, number 7"
        await until(pilot, lambda: "u takes it back" in text_of(app))
        await until(pilot, lambda: "✓        –  trigger word missing" in text_of(app))
        changed = daemon.items["i3"]
        wanted = wire.msgspec.structs.replace(changed.caption, text="a drawing, number 3")
        daemon.put(wire.msgspec.structs.replace(changed, caption=wanted), "bob")
        await until(pilot, lambda: "!        1  trigger word missing" in text_of(app))  # live
        await pilot.press("home", "enter")
        await until(pilot, lambda: isinstance(app.screen, Review) and "1 of 1" in text_of(app))
        assert app.picture_filters == {"d1": "NOT caption:sks"}
        await until(pilot, lambda: "a drawing" in text_of(app) and "number 3" in text_of(app))


async def test_checking_settings_advice_and_what_nobody_can_mend(daemon: standin.Daemon) -> None:
    async with opened(daemon, "g", "v") as (app, pilot, _):
        await until(pilot, lambda: "000.png" in text_of(app))
        await pilot.press("h")
        await until(pilot, lambda: "caption files without picture" in text_of(app))
        await pilot.press("down")
        await until(pilot, lambda: "lost.txt" in text_of(app))
        line = next(line for line in text_of(app).splitlines() if "too small" in line)
        assert "f rejects" in line  # before anything is pressed
        await pilot.press("f")
        await until(pilot, lambda: "a person has to decide" in text_of(app))
        assert not isinstance(app.screen, BulkEdit)
        await pilot.press("enter")
        await until(pilot, lambda: "look into the folder" in text_of(app))
        await pilot.press("r", "ctrl+u", *"x", "enter")
        await until(pilot, lambda: "a number of pixels" in text_of(app))
        await pilot.press("r", "ctrl+u", *"1024", "enter")
        await until(pilot, lambda: "at 1024 px" in text_of(app))
        await pilot.press("t", "ctrl+u", *"drgn", "enter")
        await until(pilot, lambda: any(getattr(r, "trigger", "") == "drgn" for r in daemon.asked))
        await pilot.press("c")
        await until(pilot, lambda: "but for 1 picture: torn.png is torn" in text_of(app))
        measured = [r.measure for r in daemon.asked if isinstance(r, wire.CheckHealth)]
        assert measured == [False, False, True]
        await pilot.press("a")
        await until(pilot, lambda: "Nobody looks." in text_of(app))
        await pilot.press("escape", "u")
        await until(pilot, lambda: "othing" in text_of(app))  # of yours to take back
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, Review))
