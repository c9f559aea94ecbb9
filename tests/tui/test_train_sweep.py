"""Train: a field that holds several values, and when the runs begin."""

from __future__ import annotations

from typing import Any

from textual.widgets import Input, Select

from lora_tui.screens.runs import Runs
from lora_tui.screens.train import Train
from shared import wire
from shared.errors import Code, LoraError
from tests.tui import standin
from tests.tui.driving import opened, text_of, until


async def test_a_sweep_is_typed_summed_and_queued_in_one_go(daemon: standin.Daemon) -> None:
    sweeps: list[wire.StartSweep] = []

    def start(request: wire.StartSweep, by: str) -> Any:
        sweeps.append(request)
        if len(sweeps) == 1:
            raise LoraError(
                Code.INVALID_RECIPE, "This base takes no such rank.", data={"key": "network.rank"}
            )
        runs = [
            standin.run_of(
                rank, state="queued", started=None, group="g", settings=[f"network.rank={rank}"]
            )
            for rank in (4, 8)
        ]
        for run in runs:
            daemon.event(wire.RunChanged(run=run))
        return wire.RunGroup(group="g", runs=runs), []

    def which(request: wire.GetWhich, by: str) -> Any:
        raise LoraError(Code.NOT_FOUND, "Nothing is measured.")

    daemon.on_StartSweep = start  # type: ignore[attr-defined]
    daemon.on_GetWhich = which  # type: ignore[attr-defined]
    async with opened(daemon, "g", "t") as (app, pilot, _):
        await until(pilot, lambda: "200 steps" in text_of(app))
        screen = app.screen
        assert isinstance(screen, Train)
        field = screen.field("network.rank")
        field.entry.focus()
        await until(pilot, lambda: screen._at == "network.rank")
        await pilot.press("ctrl+t")
        await until(pilot, lambda: field.swept and field.entry.has_focus)
        assert isinstance(field.entry, Input)
        field.entry.value = "4, x"
        await until(pilot, lambda: "x: must be a whole number" in text_of(app))
        await pilot.press("ctrl+s")
        assert not sweeps
        field.entry.value = "4, 8"
        await until(pilot, lambda: "A sweep: 2 runs of 200 steps = 400 steps" in text_of(app))
        assert "of LoRA files" in text_of(app) and "×2 network rank" in text_of(app)
        screen.query_one("#begins", Select).value = "r0002"
        await pilot.press("ctrl+s")
        await until(pilot, lambda: "takes no such rank" in str(field.query_one(".wrong").visual))
        await pilot.press("ctrl+s")
        await until(pilot, lambda: isinstance(app.screen, Runs) and "×2" in text_of(app))
        assert sweeps[-1].sweep == ["network.rank=4,8"] and sweeps[-1].after == ["r0002"]
        runs = app.screen
        assert isinstance(runs, Runs) and runs._key == "group:g"
        await pilot.press("g", "t")
        await until(pilot, lambda: app.screen is screen)
        field.entry.focus()
        await until(pilot, lambda: field.entry.has_focus)
        await pilot.press("ctrl+t")
        await until(pilot, lambda: not field.swept and "= 200 steps" in text_of(app))


async def test_keys_in_one_burst_leave_the_form_where_a_list_has_the_focus(
    daemon: standin.Daemon,
) -> None:
    from textual import events

    async with opened(daemon, "g", "t") as (app, pilot, _):
        await until(pilot, lambda: isinstance(app.focused, Select))
        for key in "gb":
            app.post_message(events.Key(key, key))
        await until(pilot, lambda: app.current_mode == "bases")
