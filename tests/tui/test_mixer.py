"""The Mixer: every key turns the mix of the daemon, and what is painted is seen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace
from textual.geometry import Offset
from textual.widgets import Input, Select

from lora_tui.app import LoraApp
from lora_tui.core.mix_desk import MixDesk
from lora_tui.screens.dialogs import Confirm, Page
from lora_tui.screens.gridding import Axes
from lora_tui.screens.merging import WAYS
from lora_tui.screens.mix_settings import MixSettings
from lora_tui.screens.mix_showing import summary
from lora_tui.screens.mixer import Mixer
from lora_tui.widgets.mix_rows import LOW, bar
from lora_tui.widgets.picture import PictureView
from shared import mixes, wire
from shared.errors import Code, LoraError
from shared.lora_keys import wrong
from shared.mixes import MixLora, MixSpec
from shared.pictures import SecondPass
from tests.tui import standin
from tests.tui.driving import opened, text_of, until

TWO = MixSpec(loras=[MixLora(lora="creatures", weight=0.8), MixLora(lora="/x/ink.safetensors")])


@pytest.fixture
def mixed(daemon: standin.Daemon) -> standin.Daemon:
    """Two LoRAs are in the mix."""
    daemon.put_mix(replace(daemon.live_mix(), spec=TWO), "bob")
    return daemon


def weights(daemon: standin.Daemon) -> list[float]:
    return [lora.weight for lora in daemon.live_mix().spec.loras]


def spec(daemon: standin.Daemon) -> MixSpec:
    return daemon.live_mix().spec


def shows(app: LoraApp, text: str) -> Callable[[], bool]:
    return lambda: text in text_of(app)


def test_what_was_tried_tells_more_than_weights() -> None:
    """Two tries with the same weights are not called alike."""
    plain = MixLora(lora="a", weight=0.8)
    rows = [plain, MixLora(lora="b", blocks=[1.0] * 17), MixLora(lora="c", begin=0.5, guidance=2.5)]
    assert summary(MixSpec(loras=rows)) == ".8 1B 1ZG"
    assert summary(MixSpec(loras=[plain])) == ".8" and summary(MixSpec()) == "plain"


async def test_keys_turn_weights_finely_and_coarsely(mixed: standin.Daemon) -> None:
    async with opened(mixed, "g", "m") as (app, pilot, _):
        await until(pilot, shows(app, "━"))
        await pilot.press("right", "right", "left", "l")
        await until(pilot, lambda: weights(mixed) == [0.9, 1.0])
        await pilot.press("down", "shift+left", "H", "L")
        await until(pilot, lambda: weights(mixed) == [0.9, 0.75])
        await pilot.press("enter", "ctrl+u", *"-1.5", "enter")
        await until(pilot, lambda: weights(mixed) == [0.9, -1.5])
        assert "◀" in text_of(app)
        await pilot.press("enter", "ctrl+u", *"much", "enter")
        await until(pilot, shows(app, "A weight is a number between -10 and 10"))
        await pilot.press("t", *"0.5", "enter")
        await until(pilot, lambda: spec(mixed).loras[1].text_weight == 0.5)
        await pilot.press("b", *"OUTD", "enter")
        await until(pilot, lambda: sum(spec(mixed).loras[1].blocks) == 5)
        await pilot.press("z", *"5-15", "enter")
        await until(pilot, lambda: spec(mixed).loras[1].span(20) == (5, 15))
        await pilot.press("z", "ctrl+u", *"15-5", "enter")
        await until(pilot, shows(app, "15-5 is no part of 20"))
        await pilot.press("i", *"top~0.2", "enter")
        await until(pilot, lambda: mixes.part_of_picture(spec(mixed).loras[1]) == "top~0.2")
        await pilot.press("i", "ctrl+u", *"up", "enter")
        await until(pilot, shows(app, "up is no region"))
        await pilot.press("i", "ctrl+u", "enter")
        await until(pilot, lambda: spec(mixed).loras[1].region is None)
        await pilot.press("u", *"2.5", "enter")
        await until(pilot, lambda: spec(mixed).loras[1].guidance == 2.5)
        await until(pilot, shows(app, "BZ G"))
        await pilot.press("u", "ctrl+u", *"-1", "enter")
        await until(pilot, shows(app, "Guidance is a number between 0 and 100"))
        await pilot.press("u", "ctrl+u", "enter")
        await until(pilot, lambda: spec(mixed).loras[1].guidance == 0)
        await pilot.press("m", "up", "s")
        await until(pilot, lambda: spec(mixed).loras[1].muted and spec(mixed).loras[0].solo)
        await pilot.press("d")
        await until(pilot, lambda: len(weights(mixed)) == 1)
        other = mixes.with_lora(spec(mixed), MixLora(lora="/x/theirs.safetensors", weight=0.2))
        mixed.put_mix(replace(mixed.live_mix(), spec=other), "bob")
        await until(pilot, shows(app, "by bob"))
        await pilot.press("up", "right")
        await until(pilot, lambda: weights(mixed) == [-1.45, 0.2])  # theirs stays


async def test_a_small_terminal_names_the_keys_that_matter_and_what_to_do(
    mixed: standin.Daemon,
) -> None:
    async with opened(mixed, "g", "m", size=(80, 24)) as (app, pilot, _):
        await until(pilot, shows(app, "←–→ weight"))
        assert "c conflict" in text_of(app).splitlines()[-1]
        failure = wrong(
            Path("/loras/of/somebody/ink.pt"),
            "is a pickle, which can run any program when opened, so lora-tui does not open it. "
            "Convert it to .safetensors with the tool it came from",
        ).failure()
        mixed.look(stage="failed", failure=failure)
        await until(pilot, shows(app, "try again"))  # the advice is not cut


async def test_the_mouse_clicks_and_drags_a_bar(mixed: standin.Daemon) -> None:
    async with opened(mixed, "g", "m") as (app, pilot, _):
        await until(pilot, shows(app, "━"))
        rows = app.screen.query_one("MixRows")
        first, room = rows._spans(rows.size.width)[1]  # type: ignore[attr-defined]
        second_row = 2
        await pilot.click(rows, offset=(first, second_row))
        await until(pilot, lambda: weights(mixed)[1] == LOW)
        await pilot.mouse_down(rows, offset=(first + 2, second_row))
        await pilot.hover(rows, offset=(first + room - 1, second_row))
        await pilot.mouse_up(rows, offset=Offset(first + room - 1, second_row))
        await until(pilot, lambda: weights(mixed)[1] > 1.4)
        await pilot.hover(rows, offset=(first, second_row))  # let go: nothing follows it
        await pilot.pause()
        assert weights(mixed)[0] == 0.8 and weights(mixed)[1] > 1.4


async def test_loras_are_added_with_what_their_run_showed(daemon: standin.Daemon) -> None:
    daemon.state = replace(
        daemon.state, pictures=[replace(daemon.state.pictures[0], run="r0001", prompt="a blorp")],
        loras=[replace(one, advised=standin.ADVISED) for one in daemon.state.loras],
    )  # fmt: skip
    async with opened(daemon, "g", "m", "a") as (app, pilot, _):
        await until(pilot, shows(app, "Add a LoRA"))
        await pilot.press("enter")
        await until(pilot, lambda: weights(daemon) == [0.6])  # the one that is recommended
        assert spec(daemon).prompt == "a blorp"
        await until(pilot, shows(app, "✓"))
        await pilot.press("a", *"/loras/other.safetensors", "enter")  # no more in the library
        await until(pilot, lambda: weights(daemon) == [0.6, 0.8])
        daemon.event(wire.LoraRemoved(lora="creatures"))
        await until(pilot, shows(app, "✗"))


async def test_words_settings_and_seeds(mixed: standin.Daemon) -> None:
    async with opened(mixed, "g", "m", "e") as (app, pilot, _):
        await pilot.press(*"a cat", "tab", *"blurry", "enter")
        await until(
            pilot, lambda: (spec(mixed).prompt, spec(mixed).negative) == ("a cat", "blurry")
        )
        await pilot.press("full_stop", "full_stop", "comma")
        await until(pilot, lambda: spec(mixed).seed == 1026)
        await pilot.press("n")
        await until(pilot, lambda: spec(mixed).seed not in (1025, 1026, 1027))
        await pilot.press("p")
        await until(pilot, lambda: isinstance(app.screen, MixSettings))
        app.screen.query_one("#width", Input).value = "100"
        await pilot.press("ctrl+s")
        await until(pilot, shows(app, "multiples of 8"))
        app.screen.query_one("#width", Input).value = "128"
        app.screen.query_one("#steps", Input).value = "0"
        await pilot.press("ctrl+s")
        assert isinstance(app.screen, MixSettings)
        app.screen.query_one("#steps", Input).value = "8"
        app.screen.query_one("#preview", Input).value = "lcm:20"
        await pilot.press("ctrl+s")
        await until(pilot, shows(app, "is no LoRA for previews"))
        app.screen.query_one("#preview", Input).value = "sd_lightning_2step"
        await pilot.press("ctrl+s")
        await until(pilot, lambda: (spec(mixed).steps, spec(mixed).width) == (8, 128))
        assert spec(mixed).second is None and spec(mixed).decoder == "auto"
        preview = spec(mixed).preview
        assert preview and (preview.steps, preview.sampler) == (2, "Euler SGM Uniform")


async def test_a_second_pass_by_a_network_that_the_daemon_has(mixed: standin.Daemon) -> None:
    async with opened(mixed, "g", "m", "p") as (app, pilot, _):
        await until(pilot, lambda: isinstance(app.screen, MixSettings))
        window = app.screen
        names = window.query_one("#upscaler", Select)
        await until(pilot, lambda: len(names._options) == 3)
        assert [name for _, name in names._options] == ["Latent", "Lanczos", "4x-Sharp"]
        window.query_one("#second", Input).value = "2"
        window.query_one("#redraw", Input).value = "7"
        names.value = "4x-Sharp"
        window.query_one("#decoder", Select).value = "cheap"
        await pilot.press("ctrl+s")
        await until(pilot, shows(app, "second.strength"))
        window.query_one("#redraw", Input).value = "0.4"
        await pilot.press("ctrl+s")
        wanted = SecondPass(scale=2, strength=0.4, upscaler="4x-Sharp")
        await until(pilot, lambda: spec(mixed).second == wanted)
        assert spec(mixed).decoder == "cheap"
        await until(pilot, shows(app, "then 2 ×"))
        await pilot.press("p")
        await until(pilot, lambda: isinstance(app.screen, MixSettings))
        again = app.screen.query_one("#upscaler", Select)
        assert again.value == "4x-Sharp"
        app.screen.query_one("#second", Input).value = ""
        await pilot.press("ctrl+s")
        await until(pilot, lambda: spec(mixed).second is None)


async def test_the_mix_is_painted_along_axes_and_the_sheet_is_shown(mixed: standin.Daemon) -> None:
    async with opened(mixed, "g", "m", "G") as (app, pilot, _):
        await until(pilot, lambda: isinstance(app.screen, Axes))
        assert [app.screen.query_one(f"#{name}", Input).value for name in "xyz"] == [
            "weight:creatures=0-1 (+0.25)", "weight:ink=0-1 (+0.25)", "",
        ]  # fmt: skip
        await until(pilot, shows(app, "25 pictures"))
        await pilot.press("tab", "ctrl+u", *"seed=1,", "enter")
        await until(pilot, shows(app, "'' is neither a number nor a range"))
        assert isinstance(app.screen, Axes)
        await pilot.press("2", "enter")
        await until(pilot, shows(app, "10 pictures on /home/ana/outputs/grids/cat/grid-1.png"))
        await pilot.press("G")
        await until(pilot, lambda: isinstance(app.screen, Axes))
        await until(pilot, lambda: bool(app.screen.query_one(PictureView).shown_key))


async def test_what_another_typed_meanwhile_is_said(mixed: standin.Daemon) -> None:
    async with opened(mixed, "g", "m", "e") as (app, pilot, _):
        await pilot.press(*"mine")
        mixed.put_mix(replace(mixed.live_mix(), spec=replace(TWO, prompt="theirs")), "bob")
        await until(pilot, lambda: app.state.mixes[0].spec.prompt == "theirs")
        await pilot.pause()
        await pilot.press("escape")
        await until(pilot, shows(app, "bob had changed the prompt to: theirs"))
        await until(pilot, lambda: spec(mixed).prompt == "mine")
        await pilot.press("e")
        mixed.put_mix(replace(mixed.live_mix(), spec=replace(TWO, prompt="again")), "bob")
        await until(pilot, lambda: app.state.mixes[0].spec.prompt == "again")
        await pilot.press("escape")  # nothing was typed: theirs stays
        await until(pilot, lambda: app.screen.query_one("#prompt", Input).value == "again")
        assert spec(mixed).prompt == "again"


async def test_leaving_takes_what_is_typed(mixed: standin.Daemon) -> None:
    async with opened(mixed, "g", "m", "e") as (_app, pilot, _):
        await pilot.press(*"typed", "ctrl+q")
        await until(pilot, lambda: spec(mixed).prompt == "typed")


async def test_without_pictures_none_is_asked_for(mixed: standin.Daemon) -> None:
    async with opened(mixed, "g", "m", pictures=False) as (app, pilot, _):
        await until(pilot, shows(app, "k paints it"))
        await pilot.press("right")
        await until(pilot, lambda: weights(mixed)[0] == 0.85)
        assert not any(isinstance(one, wire.WatchMix) for one in mixed.asked)


async def test_the_picture_follows_with_what_is_to_be_said(mixed: standin.Daemon) -> None:
    async with opened(mixed, "g", "m") as (app, pilot, _):
        view = app.screen.query_one("#picture", PictureView)
        mixed.look(stage="preview", step=0, steps=0)
        await until(pilot, shows(app, "waiting for the engine…"))
        mixed.look(before="loading sd15")
        await until(pilot, shows(app, "loading sd15…"))
        mixed.look(stage="preview", step=2, steps=6, before="")
        await until(pilot, shows(app, "preview 2/6"))
        mixed.look(stage="full", step=3, steps=20, picture="m1", picture_rev=1)
        await until(pilot, lambda: view.shown_key == "m1")
        await until(pilot, shows(app, "sharpening 3/20"))
        mixed.look(stage="done", picture="m2", sharp=True, seconds=0.94)
        await until(pilot, lambda: view.shown_key == "m2")
        await until(pilot, shows(app, "0.9 s"))
        await until(pilot, shows(app, "ink was trained on sd15: no kin."))
        mixed.look(notes=["ink: this base has no place for 3 modules."])
        await until(pilot, shows(app, "no place for 3 modules"))
        gone = LoraError(Code.NOT_FOUND, "The base is gone.").failure()
        mixed.look(stage="failed", failure=gone)
        await until(pilot, shows(app, "The base is gone. r: try again"))
        await pilot.press("r")
        await until(pilot, lambda: any(isinstance(one, wire.WatchMix) and one.again
                                       for one in mixed.asked))  # fmt: skip
        await pilot.press("g", "l")
        await pilot.pause()
        watched = sum(isinstance(one, wire.WatchMix) for one in mixed.asked)
        mixed.look(stage="done")
        await pilot.pause(0.1)
        assert sum(isinstance(one, wire.WatchMix) for one in mixed.asked) == watched


async def test_a_digit_brings_back_what_was_tried(mixed: standin.Daemon) -> None:
    for number, weight in enumerate((0.1, 0.2, 0.3)):
        tried = mixes.with_lora(TWO, replace(TWO.loras[0], weight=weight))
        one = wire.Tried(id=f"m{number}", spec=tried, width=64, height=64, notes=[], at=1.8e9)
        mixed.event(wire.MixTried(tried=one))
    async with opened(mixed, "g", "m") as (app, pilot, _):
        await until(pilot, shows(app, "3 .1 1"))
        assert "1 .3 1" in text_of(app)
        await pilot.press("3")
        await until(pilot, lambda: weights(mixed)[0] == 0.1)
        await pilot.press("9")  # there is none
        await pilot.click("Try:first-child")
        await until(pilot, lambda: weights(mixed)[0] == 0.3)


async def test_sides_saved_mixes_copy_and_keep(mixed: standin.Daemon) -> None:
    async with opened(mixed, "g", "m") as (app, pilot, _):
        await until(pilot, shows(app, "━"))
        await pilot.press("x")
        await until(pilot, shows(app, "mix · B"))
        await pilot.press("right", "x")
        await until(pilot, lambda: weights(mixed)[0] == 0.8 and mixed.live_mix().side == "A")
        await pilot.press("x")
        await until(pilot, lambda: weights(mixed)[0] == 0.85)
        await pilot.press("w", *"mine", "enter")
        await until(pilot, lambda: any(mix.name == "mine" for mix in app.state.mixes))
        await pilot.press("shift+right", "w", *"mine", "enter")
        await until(pilot, lambda: isinstance(app.screen, Confirm))  # it would be lost
        await pilot.press("n", "o", "enter")
        await until(pilot, lambda: weights(mixed)[0] == 0.85)
        await pilot.press("y")
        await until(pilot, lambda: isinstance(app.screen, Page))
        assert "<lora:creatures:0.85> <lora:ink:1>" in text_of(app)
        assert app.clipboard == "<lora:creatures:0.85> <lora:ink:1>"
        await pilot.press("escape", "k")
        await until(pilot, lambda: any(isinstance(one, wire.Generate) for one in mixed.asked))
        await pilot.press("D", "enter")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        await pilot.press("y")
        await until(pilot, lambda: len(app.state.mixes) == 1)


async def test_a_key_says_where_they_fight(mixed: standin.Daemon) -> None:
    async with opened(mixed, "g", "m") as (app, pilot, _):
        await until(pilot, shows(app, "━"))
        await pilot.press("c")
        await until(pilot, shows(app, "They pull the same keys in up.1"))
        assert "OUT04  −.70 −.70" in text_of(app) and "take" not in text_of(app)
        asked = next(one for one in mixed.asked if isinstance(one, wire.CompareLoras))
        assert [(use.lora, use.weight) for use in asked.loras] == [
            ("creatures", 0.8), ("/x/ink.safetensors", 1.0)
        ]  # fmt: skip
        await pilot.press("p")
        await until(pilot, shows(app, "creatures keeps 40% of its effect."))
        await pilot.press("l")
        await until(pilot, shows(app, "Losses are foretold from 8 pictures each"))
        await pilot.press("1")  # nothing was worked out yet: nothing happens
        await pilot.press("r")
        await until(pilot, shows(app, "creatures 40% → 75% (predicted 80%)"))
        assert " take   p try on the base" in text_of(app)
        probes = [one for one in mixed.asked if isinstance(one, wire.ProbeLoras)]
        assert [(one.losses, one.remedies) for one in probes] == [
            (0, False), (8, False), (8, True)
        ]  # fmt: skip
        await pilot.press("1")
        await until(pilot, lambda: spec(mixed).loras[1].begin == 0.5)
        await until(pilot, shows(app, "mix · B"))
        assert "Z" in text_of(app)
        await pilot.press("x")
        await until(pilot, lambda: spec(mixed) == TWO)
        await pilot.press("C")
        await until(pilot, shows(app, "creatures 40% → 75%"))
        await pilot.press("escape", "m", "c")  # one is muted: nobody is left to fight with
        await until(pilot, shows(app, "It takes two LoRAs"))


async def test_it_fits_a_small_terminal_without_colours(
    mixed: standin.Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    loras = [MixLora(lora=f"/x/lora-{n:02}.safetensors", weight=n / 20) for n in range(32)]
    mixed.put_mix(replace(mixed.live_mix(), spec=MixSpec(loras=loras, prompt="龍 " * 40)), "bob")
    mixed.look(stage="done", picture="m2", sharp=True)
    async with opened(mixed, "g", "m", size=(80, 24)) as (app, pilot, _):
        await until(pilot, shows(app, "lora-00"))
        await pilot.press("end", "right")
        await until(pilot, lambda: weights(mixed)[31] == 1.6)
        assert "lora-31" in text_of(app) and "▶" in text_of(app)
        assert isinstance(app.screen, Mixer)


# ── the desk ────────────────────────────────────────────────────────────────────────────────────


async def test_turns_made_while_one_is_under_way_go_together() -> None:
    import asyncio

    gate = asyncio.Event()
    sent: list[wire.ChangeMix] = []
    refused: list[LoraError] = []
    daemon = wire.Mix(name="", spec=TWO, rev=1, by="", at=0.0)

    async def send(request: wire.ChangeMix) -> wire.Mix:
        nonlocal daemon
        sent.append(request)
        await gate.wait()
        try:
            merged = mixes.merged(request.before, request.after, daemon.spec)
        except mixes.Clash as clash:
            data = {"current": daemon}
            raise LoraError(Code.CONFLICT, f"bob has changed {clash.what}", data=data) from None
        daemon = replace(daemon, spec=merged, rev=daemon.rev + 1)
        return daemon

    desk = MixDesk(send, lambda: None, refused.append)
    desk.take(daemon)

    def weight(value: float) -> MixSpec:
        return mixes.with_lora(desk.spec, replace(desk.spec.loras[0], weight=value))

    for value in (0.1, 0.2, 0.3):
        desk.want(weight(value))
        await asyncio.sleep(0)
    theirs = mixes.with_lora(TWO, replace(TWO.loras[1], weight=0.9))
    daemon = replace(daemon, spec=theirs, rev=2)  # bob, while ours is under way
    desk.take(daemon)
    gate.set()
    await desk.done()
    assert [one.after.loras[0].weight for one in sent] == [0.1, 0.3]
    assert [one.weight for one in desk.spec.loras] == [0.3, 0.9] and desk.spec == daemon.spec
    assert not refused
    daemon = replace(daemon, spec=mixes.with_lora(daemon.spec, MixLora(lora="creatures")), rev=9)
    desk.want(weight(0.5))  # bob turned the same one; we have not heard
    await desk.done()
    assert refused and desk.spec == daemon.spec and desk.spec.loras[0].weight == 1.0


def test_a_bar_says_a_weight_without_colour() -> None:
    def drawn(weight: float) -> str:
        return "".join(text for text, _ in bar(weight, "primary", 20))

    assert drawn(0.0) == "─────┼─────────┼────"
    assert drawn(1.0) == "─────━━━━━━━━━━┼────"
    assert drawn(0.55).count("━") == 5 and "╸" in drawn(0.55)
    assert drawn(-0.2).startswith("───━━┼")
    assert drawn(-3).startswith("◀━━━━") and drawn(9.0).endswith("━▶")
    assert {len(drawn(weight / 100)) for weight in range(-200, 300)} == {20}


async def test_one_file_is_made_of_the_mix(mixed: standin.Daemon) -> None:
    async with opened(mixed, "g", "m") as (app, pilot, _):
        await until(pilot, shows(app, "━"))
        await pilot.press("M")
        await until(pilot, shows(app, "ZipLoRA"))
        for _, title, what in WAYS:
            assert f"{title}: {what}" in text_of(app)  # none of them is cut
        await pilot.press("down", "enter")
        await until(pilot, shows(app, "Name of the file"))
        await pilot.press("ctrl+u", *"both", "enter")
        await until(pilot, shows(app, "both is in the Library"))
        asked = next(one for one in mixed.asked if isinstance(one, wire.MergeLoras))
        assert (asked.method, asked.name, asked.base) == ("ziplora", "both", TWO.base)
        assert [use.weight for use in asked.loras] == [0.8, 1.0]
