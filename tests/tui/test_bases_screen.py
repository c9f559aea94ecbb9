"""Bases: every key does what the table of actions says."""

from __future__ import annotations

import asyncio

from textual.widgets import Input

from lora_tui.screens.adding import AddBase, request_for
from lora_tui.screens.bases import Bases
from lora_tui.screens.dialogs import Choose, Confirm
from shared import wire
from tests.tui import standin
from tests.tui.driving import opened, text_of, until


def asked(daemon: standin.Daemon, kind: type) -> list[wire.Request[object]]:
    return [request for request in daemon.asked if isinstance(request, kind)]


async def test_a_base_is_added_by_its_path_and_a_guess_is_asked_about(
    daemon: standin.Daemon,
) -> None:
    async with opened(daemon, "g", "b") as (app, pilot, _):
        await until(pilot, lambda: isinstance(app.screen, Bases))
        await until(pilot, lambda: daemon.state.bases[0].name in text_of(app))
        await pilot.press("a")
        await until(pilot, lambda: isinstance(app.screen, AddBase))
        await pilot.press("enter")
        await until(pilot, lambda: "Type a path, a Hub id or an address first" in text_of(app))
        app.screen.query_one("#what", Input).value = "/nowhere/x.safetensors"
        await pilot.press("enter")
        await until(pilot, lambda: "There is no folder /nowhere" in text_of(app))
        app.screen.query_one("#what", Input).value = "/models/noob-vpred.safetensors"
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, Choose))
        assert "only guessed" in text_of(app) and not asked(daemon, wire.RemoveBase)
        await pilot.press("v")
        await until(pilot, lambda: "v, as you said" in text_of(app))
        told = asked(daemon, wire.AddBase)[-1]
        assert told == wire.AddBase(
            path="/models/noob-vpred.safetensors", name="noob-vpred", predicts="v_prediction"
        )
        text = text_of(app)
        assert "Stable Diffusion XL" in text and "zero terminal SNR" in text
        assert "EMA weights (686)" in text and "6.9 GB" in text


async def test_a_base_is_looked_at_anew_filtered_and_forgotten(daemon: standin.Daemon) -> None:
    async with opened(daemon, "g", "b") as (app, pilot, _):
        name = daemon.state.bases[0].name
        await until(pilot, lambda: name in text_of(app))
        await pilot.press("enter")
        await until(pilot, lambda: f"{name} is whole" in text_of(app))
        assert asked(daemon, wire.InspectBase) == [wire.InspectBase(base=name)]
        await pilot.press("slash", *"zzz", "enter")
        await until(pilot, lambda: "No base has 'zzz'" in text_of(app))
        await pilot.press("slash", "ctrl+u", "enter")
        await until(pilot, lambda: "resolution" in text_of(app))
        await pilot.press("D")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        assert "files stay" in text_of(app)
        await pilot.press("y")
        await until(pilot, lambda: not daemon.state.bases and "No bases yet" in text_of(app))


async def test_a_broken_base_says_what_is_wrong_also_when_narrow(daemon: standin.Daemon) -> None:
    async with opened(daemon, "g", "b", size=(80, 24)) as (app, pilot, _):
        await until(pilot, lambda: daemon.state.bases[0].name in text_of(app))
        from msgspec.structs import replace

        broken = replace(daemon.state.bases[0], problem="There is no folder /models/gone.")
        daemon.event(wire.BaseChanged(base=broken))
        await until(pilot, lambda: "/models/gone." in text_of(app) and "!" in text_of(app))


def test_what_is_typed_is_a_path_or_a_hub_id() -> None:
    assert request_for("/m/a.safetensors", "x") == wire.AddBase(path="/m/a.safetensors", name="x")
    hub = request_for("owner/name@v2", "").hub
    assert hub is not None and (hub.id, hub.revision) == ("owner/name", "v2")
    assert request_for("./owner/name", "").hub is None
    address = request_for("https://example.com/a.safetensors", "x")
    assert address.address is not None and address.name == "x"


async def test_what_is_fetched_can_be_cancelled_or_left_alone(daemon: standin.Daemon) -> None:
    url = "https://example.com/far.safetensors"
    async with opened(daemon, "g", "b", "a", size=(80, 24)) as (app, pilot, _):
        await until(pilot, lambda: isinstance(app.screen, AddBase))
        daemon.held = asyncio.Event()
        app.screen.query_one("#what", Input).value = "http://example.com/far.safetensors"
        await pilot.press("enter")
        await until(pilot, lambda: "is not encrypted" in text_of(app))
        app.screen.query_one("#what", Input).value = url
        await pilot.press("enter")
        await until(pilot, lambda: "Looking" in text_of(app) and "esc: cancel" in text_of(app))
        await pilot.press("escape")
        await until(pilot, lambda: "Cancelled. What was fetched stays" in text_of(app))
        daemon.held.set()
        await pilot.pause()
        assert not asked(daemon, wire.AddBase)
        daemon.held.clear()
        await pilot.press("enter")
        await until(pilot, lambda: "esc: cancel" in text_of(app))
        await pilot.press("ctrl+b")
        await until(pilot, lambda: isinstance(app.screen, Bases))
        daemon.held.set()
        await until(pilot, lambda: "far is added" in text_of(app))
        [request] = asked(daemon, wire.AddBase)
        assert request == wire.AddBase(address=wire.FromAddress(url=url))
        assert any(base.name == "far" for base in daemon.state.bases)
