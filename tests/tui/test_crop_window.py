"""Turning and cropping under the keys, with what training sees said and drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from msgspec.structs import replace

from lora_tui.core.crop_desk import CropDesk
from lora_tui.screens.framing import FrameWindow
from lora_tui.screens.review import Review
from shared import buckets, wire
from shared.framing import Framing
from tests.tui import standin
from tests.tui.driving import opened, text_of, until

RULES = buckets.Rules(resolution=512, least=256, most=1024, step=64)


class Framer:
    """The answers of a stand-in daemon about how pictures are seen."""

    def __init__(self, daemon: standin.Daemon) -> None:
        self.daemon = daemon
        self.asked: list[wire.FramePictures] = []
        self.recipes: list[str] = []
        for kind in ("FramePictures", "PreviewBucket"):
            setattr(daemon, f"on_{kind}", getattr(self, kind))

    def FramePictures(self, request: wire.FramePictures, by: str) -> Any:
        self.asked.append(request)
        places = [place for first, last in request.places for place in range(first, last + 1)]
        names = request.items or [self.daemon.order[place] for place in places]
        for name in names:
            item = self.daemon.items[name]
            size = (item.width, item.height)
            framing = item.framing.rotated(request.rotate, *size)
            if request.crop is not None or request.whole:
                framing = framing.cropped(request.crop, *size)
            self.daemon.items[name] = replace(item, framing=framing)
        framed = wire.Framed(what="rotation", changed=len(names))
        self.daemon.event(
            wire.CaptionsChanged(dataset="d1", changed=len(names), what=framed.what)
        )  # fmt: skip
        return framed, []

    def PreviewBucket(self, request: wire.PreviewBucket, by: str) -> Any:
        self.recipes.append(request.recipe)
        item = self.daemon.items[request.item]
        framing = request.framing or item.framing
        full = (item.width, item.height)
        size, box = framing.size(*full), framing.box(*full)
        bucket = buckets.bucket_of(size, RULES)
        left, top, right, bottom = buckets.seen(size, bucket)
        shown = (
            round(box[0] + left * size[0]), round(box[1] + top * size[1]),
            round(box[0] + right * size[0]), round(box[1] + bottom * size[1]),
        )  # fmt: skip
        preview = wire.BucketPreview(
            width=64, height=64, media_type="image/png", turned=framing.turned_size(*full),
            crop=box, bucket=bucket, shown=shown, lost=buckets.lost(size, bucket),
            enlarged=max(bucket[0] / size[0], bucket[1] / size[1]),
        )  # fmt: skip
        return preview, [standin.png()]


async def test_a_picture_is_turned_and_cropped_in_review(
    daemon: standin.Daemon, tmp_path: Path
) -> None:
    framer = Framer(daemon)
    daemon.items["i0"] = replace(daemon.items["i0"], width=960, height=640)
    async with opened(daemon, "g", "v", size=(80, 24)) as (app, pilot, _):
        await until(pilot, lambda: "caption of 000.png" in text_of(app))
        await pilot.press("right_square_bracket")
        await until(pilot, lambda: daemon.items["i0"].framing.turn == 90)
        await until(pilot, lambda: app.screen.item and app.screen.item.framing.turn == 90)  # type: ignore[attr-defined]
        await until(
            pilot,
            lambda: "960 × 640 px, turned 90°" in str(app.screen.query_one("#facts").render()),
        )
        await pilot.press("left_square_bracket")
        await until(pilot, lambda: daemon.items["i0"].framing.plain)
        await until(pilot, lambda: app.screen.item and app.screen.item.framing.plain)  # type: ignore[attr-defined]
        await pilot.press("x")
        await until(pilot, lambda: "960 × 640 → bucket 640 × 384, 10% cropped" in text_of(app))
        assert isinstance(app.screen, FrameWindow)
        assert "as in run r0003" in text_of(app) and framer.recipes == ['title = "x"']
        await pilot.press("tab", "tab", "left", "left", "up", "s", "right", "s")
        await until(pilot, lambda: "901 × 610" in text_of(app))
        assert "bottom right corner, 30 px a key" in text_of(app)
        await pilot.press("b")  # as the bucket has it
        await until(pilot, lambda: "cropped away" not in text_of(app))
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, Review))
        assert daemon.items["i0"].framing.plain
        await pilot.press("x")
        await until(pilot, lambda: "960 × 640" in text_of(app))
        await pilot.press("right_square_bracket", "minus", "enter")
        await until(pilot, lambda: isinstance(app.screen, Review))
        # a step of 30 on either side of the longer one, in the same shape, of the turned picture
        assert daemon.items["i0"].framing == Framing(turn=90, crop=(20, 30, 620, 930))
        assert framer.asked[-1].seen == Framing() and framer.asked[-1].rotate == 90


async def test_chosen_pictures_are_turned_together(daemon: standin.Daemon) -> None:
    framer = Framer(daemon)
    async with opened(daemon, "g", "d", "tab") as (app, pilot, _):
        await until(pilot, lambda: "000.png" in text_of(app))
        await pilot.press("space", "space", "right_square_bracket")
        await until(pilot, lambda: framer.asked)
        assert [daemon.items[f"i{n}"].framing.turn for n in range(3)] == [90, 90, 0]
        await until(pilot, lambda: "2 pictures turned" in text_of(app))


def test_a_crop_stays_within_its_picture_whatever_is_pressed() -> None:
    desk = CropDesk(Framing(), (320, 64))
    assert desk.step == 10
    desk.move(5, 5)
    assert desk.framing.plain  # all of it has nowhere to go
    for _ in range(100):
        desk.grow(-1)
    left, top, right, bottom = desk.box
    assert (right - left, bottom - top) == (40, 8)
    desk.move(100, 100)
    assert desk.box[2:] == (320, 64)
    desk.next_hand()
    desk.move(-100, -100)
    assert desk.box == (0, 0, 320, 64) and desk.framing.plain
    desk.move(3, 1)
    desk.turn(90)
    assert desk.framing.turn == 90 and desk.box == (0, 30, 54, 320)
    desk.fit((0, 40, 54, 94))
    assert desk.framing.crop == (0, 40, 54, 94)
    desk.whole()
    assert desk.framing == Framing(turn=90)
