"""Review with tags in hand, suggestions, candidates, two pictures, company: every key."""

from __future__ import annotations

from msgspec.structs import replace

from lora_tui.screens.bulk import BulkEdit
from lora_tui.screens.parts import Parts
from lora_tui.screens.review import Review
from lora_tui.screens.side_by_side import SideBySide
from shared import wire
from tests.tui import standin
from tests.tui.driving import opened, text_of, until


def tagged(*texts: str) -> standin.Daemon:
    made = standin.Daemon([standin.item(n, text=text) for n, text in enumerate(texts)])
    made.tags = [
        wire.TagCount(tag="red_hair", count=41), wire.TagCount(tag="dark red eyes", count=3),
    ]  # fmt: skip
    return made


async def test_tags_in_hand() -> None:
    daemon = tagged("dragon, solo,  wings", "dragon", "a drawing of a dragon on a wide field")
    async with opened(daemon, "g", "v") as (app, pilot, _):
        review = app.screen
        assert isinstance(review, Review)
        await until(pilot, lambda: " dragon   solo   wings " in text_of(app))
        await pilot.press("t", "H", "home", "x")  # wings before solo; dragon off
        assert review.chips.text == "wings,  solo"
        await pilot.press("end", "e", *"o_2", "enter", "a", *"x y,z,", "escape", "escape")
        await until(pilot, lambda: daemon.items["i0"].caption.rev == 2)
        assert daemon.items["i0"].caption.text == "wings,  soloo_2, x y, z"
        assert daemon.items["i0"].caption.state == "edited"
        await pilot.press("t", "d", "backspace", "a", "escape", "ctrl+s")
        await until(pilot, lambda: daemon.items["i0"].caption.text == "wings,  soloo_2")
        # one word alone reads as those around it: tags and sentences are equally many
        await until(pilot, lambda: "caption of 001.png" in text_of(app))
        assert not review.chips.display
        await pilot.press("T")
        await until(pilot, lambda: review.chips.display)
        await pilot.press("t", "escape")
        assert daemon.items["i1"].caption.rev == 1  # looked at, not touched
        await pilot.press("T", "n", "T")
        await until(pilot, lambda: "a drawing of a dragon" in text_of(app))
        await pilot.press("p", "p", "t", "A")
        await until(pilot, lambda: isinstance(app.screen, BulkEdit) and "+ " in text_of(app))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, Review))
        assert daemon.items["i1"].caption.text == "dragon, soloo_2"


async def test_suggestions_wait_until_they_are_taken() -> None:
    daemon = tagged("dragon, solo", "dragon")
    async with opened(daemon, "g", "v") as (app, pilot, _):
        review = app.screen
        assert isinstance(review, Review)
        await until(pilot, lambda: "solo" in text_of(app))

        async def suggested() -> None:
            await until(pilot, lambda: review.suggestions.shown)
            assert "red_hair" in text_of(app) and "41" in text_of(app)

        await pilot.press("t", "a", *"red")
        await suggested()
        await pilot.press("enter", "escape")  # never enter
        await until(pilot, lambda: daemon.items["i0"].caption.text == "dragon, solo, red")
        await pilot.press("e", *", dr", "backspace", *"red")
        await until(pilot, lambda: not review.suggestions.shown)
        await pilot.press(*["backspace"] * 4, *"re")
        await suggested()
        await pilot.press("escape")  # first the suggestions go, then the field
        assert not review.suggestions.shown and review.field.editing
        await pilot.press("d")
        await suggested()
        await pilot.press("right", "!", "escape")
        await until(pilot, lambda: daemon.items["i0"].caption.rev == 3)
        assert daemon.items["i0"].caption.text == "dragon, solo, red, red_hair!"
        await pilot.press("t", "a", *"red")
        await suggested()
        await pilot.press("shift+tab", "tab", "comma")
        assert review.chips.text.endswith("red_hair!, dark red eyes")
        await pilot.press("escape", "escape")


async def test_candidates_whole_and_in_parts() -> None:
    daemon = tagged("a red dragon, solo", "dragon, wings")
    offers = [
        wire.Candidate(text=text, model=model, source="captioner", by="ada", at=1.7e9)
        for text, model in (("a blue dragon, two heads", "blip"), ("龍, solo", "you/wd-14"))
    ]
    daemon.candidates["i0"] = offers
    async with opened(daemon, "g", "v") as (app, pilot, _):
        await until(pilot, lambda: "2 wd-14" in text_of(app))
        assert "1 blip      a blue dragon, two heads" in text_of(app)
        await pilot.press("3", "2")
        await until(pilot, lambda: daemon.items["i0"].caption.text == "龍, solo")
        await pilot.press("u")
        await until(pilot, lambda: daemon.items["i0"].caption.text == "a red dragon, solo")
        await until(pilot, lambda: "2 wd-14" in text_of(app))
        await pilot.press("equals_sign")
        assert isinstance(app.screen, Parts)
        await pilot.press("2", "1", "space", "enter")
        await until(pilot, lambda: daemon.items["i0"].caption.text == "a blue dragon, solo")
        await pilot.press("b", "m", "b", "n", "b")
        await until(pilot, lambda: isinstance(app.screen, SideBySide))
        assert "000.png · marked" in text_of(app) and "a blue dragon, solo" in text_of(app)
        await pilot.press("escape", "equals_sign")
        assert isinstance(app.screen, Review)  # there is no candidate


async def test_others_are_seen_and_told_where_we_are() -> None:
    daemon = tagged(*(f"dragon, number {n}" for n in range(30)))
    daemon.fill(
        [
            replace(entry, caption=replace(entry.caption, state="accepted"))
            if n not in (3, 25) else entry
            for n, entry in enumerate(daemon.items.values())
        ]
    )  # fmt: skip
    async with opened(daemon, "g", "v") as (app, pilot, client):
        await until(pilot, lambda: "caption of 000.png" in text_of(app))
        bob = standin.Client(daemon, "bob")
        for name, said in (("000.png", "bob is on this picture, too"), ("004.png", "bob at 004")):
            at = wire.Looking(dataset="d1", item=f"i{int(name[:3])}", name=name)
            daemon.live(wire.Attached(clients=[client.info, replace(bob.info, looking=at)]))
            await until(pilot, lambda said=said: said in text_of(app))
        await pilot.press("N")
        await until(pilot, lambda: "caption of 003.png" in text_of(app))
        await pilot.press("N")
        await until(pilot, lambda: "caption of 025.png" in text_of(app))
        await pilot.press("N")
        await until(pilot, lambda: "caption of 003.png" in text_of(app))
        await pilot.press("I", *["backspace"] * 20, *"caption:7", "enter")
        await until(pilot, lambda: "caption of 007.png" in text_of(app))
        wanted = wire.Look(at=wire.Looking(dataset="d1", item="i7", name="007.png"))
        await until(pilot, lambda: wanted in daemon.asked)
        await pilot.press("g", "d")
        await until(pilot, lambda: daemon.asked[-1] == wire.Look() or wire.Look() in daemon.asked)
