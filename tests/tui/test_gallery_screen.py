"""The Gallery: what the keys do, on a daemon that stands in for a real one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from textual.widgets import Input

from lora_tui.screens.comparing import Compared
from lora_tui.screens.dialogs import AskText, Confirm, Page
from lora_tui.screens.gallery import Gallery
from lora_tui.screens.mixer import Mixer
from shared import wire
from shared.gallery import Shown
from shared.made_with import Made
from shared.pictures import LoraUse, SecondPass
from tests.tui import standin
from tests.tui.driving import opened, text_of, until

TREE = Shown(
    id="i1", path="/comfy/tree.png", origin="imported", width=832, height=1216, created=1.8e9,
    made=Made(
        tool="ComfyUI", prompt="a green tree", seed=42, steps=25, sampler="DPM++ 2M Karras",
        width=832, height=1216, model="lost-xl", second=SecondPass(),
        loras=[LoraUse(lora="creatures", weight=0.7), LoraUse(lora="ink", weight=0.5)],
    ),
)  # fmt: skip


def asked(daemon: standin.Daemon, kind: type) -> list[Any]:
    return [one for one in daemon.asked if isinstance(one, kind)]


async def test_pictures_are_rated_filtered_compared_and_put_to_use_again(
    daemon: standin.Daemon,
) -> None:
    daemon.other = [TREE]
    daemon.put_mix(daemon.live_mix(), "ana")
    async with opened(daemon, "g", "p") as (app, pilot, _):
        await until(pilot, lambda: "3 pictures" in text_of(app))
        gallery = app.screen
        assert isinstance(gallery, Gallery)
        await until(pilot, lambda: "a green tree" in text_of(app) and "<lora:ink" in text_of(app))
        assert gallery.here == TREE and "DPM++ 2M Karras" in text_of(app)
        assert "1–5 rate  " in text_of(app).splitlines()[-1]
        await pilot.press("4")
        await until(pilot, lambda: "★★★★☆" in text_of(app))
        assert asked(daemon, wire.RatePicture) == [wire.RatePicture(picture="i1", rating=4)]
        # Compared with another.
        await pilot.press("b")
        await until(pilot, lambda: "Mark another picture" in text_of(app))
        await pilot.press("space", "right", "b")
        await until(pilot, lambda: isinstance(app.screen, Compared))
        await until(pilot, lambda: "tree.png" in text_of(app) and "a photo of a" in text_of(app))
        await pilot.press("escape")
        # Filtered; a mistake is said and changes nothing.
        await pilot.press("slash")
        await until(pilot, lambda: isinstance(app.screen, AskText))
        app.screen.query_one(Input).value = "colour:red"
        await pilot.press("enter")
        await until(pilot, lambda: "A picture has no colour:" in text_of(app))
        await pilot.press("slash")
        await until(pilot, lambda: isinstance(app.screen, AskText))
        app.screen.query_one(Input).value = "rating:4"
        await pilot.press("enter")
        await until(pilot, lambda: "1 picture · only rating:4" in text_of(app))
        await pilot.press("y")
        await until(pilot, lambda: isinstance(app.screen, Page) and "Steps: 25" in text_of(app))
        await pilot.press("escape", "n")
        await until(pilot, lambda: asked(daemon, wire.Generate))
        spec = asked(daemon, wire.Generate)[0].spec
        assert (spec.prompt, spec.steps, spec.loras) == (
            "a green tree", 25, [LoraUse(lora="creatures", weight=0.7)]
        )  # fmt: skip
        assert spec.seed != 42 and spec.second == SecondPass()
        # Into the Mixer, with what cannot be had said.
        said: list[str] = []
        gallery.notify = lambda text, **_: said.append(text)  # type: ignore[method-assign,assignment]
        await pilot.press("m")
        await until(pilot, lambda: isinstance(app.screen, Mixer))
        (change,) = asked(daemon, wire.ChangeMix)
        assert (change.after.prompt, change.after.seed) == ("a green tree", 42)
        assert [one.lora for one in change.after.loras] == ["creatures"]
        assert change.after.second == SecondPass()
        for words in ("lost-xl", "no LoRA ink"):
            assert words in " ".join(said)


async def test_pictures_come_in_and_go_out(daemon: standin.Daemon, tmp_path: Path) -> None:
    daemon.other = [TREE]
    async with opened(daemon, "g", "p", size=(80, 24)) as (app, pilot, _):
        await until(pilot, lambda: "3 pictures" in text_of(app))
        await pilot.press("i")
        await until(pilot, lambda: isinstance(app.screen, AskText))
        app.screen.query_one(Input).value = "/webui/outputs"
        await pilot.press("enter")
        await until(pilot, lambda: "1 picture imported" in text_of(app))
        assert asked(daemon, wire.ImportPictures) == [wire.ImportPictures(paths=["/webui/outputs"])]
        await pilot.press("E")
        await until(pilot, lambda: isinstance(app.screen, AskText))
        app.screen.query_one(Input).value = str(tmp_path / "out")
        await pilot.press("enter")
        await until(pilot, (tmp_path / "out" / "tree.png").exists)
        assert wire.GetGalleryPicture(picture="i1", file=True, bare=True) in daemon.asked
        await pilot.press("D")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        assert "Forget" in text_of(app) and "stays where it is" in text_of(app)
        await pilot.press("y")
        await until(pilot, lambda: "2 pictures" in text_of(app))
        await pilot.press("s", "s")
        await until(pilot, lambda: "best rated first" in text_of(app))
