"""Which checkpoint: the window of a run, and pictures chosen without their names."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from lora_tui.screens.blind import Blind
from lora_tui.screens.runs import Runs
from lora_tui.screens.which import WhichCheckpoint, curve
from shared import wire
from shared.errors import Code, LoraError
from shared.which import Candidate, Spread, Which
from tests.tui import standin
from tests.tui.driving import opened, text_of, until


def spread(mean: float) -> Spread:
    return Spread(mean=mean, low=mean - 0.01, high=mean + 0.01, error=0.005)


HELD = {100: -0.02, 200: -0.049, 300: -0.05, 400: -0.03}
FOUND = Which(
    run="r0002", base="starter",
    candidates=[
        Candidate(
            name=f"step {step}", step=step, files=[f"/r/{step}.safetensors"], measured=True,
            held=spread(held), train=spread(-step / 4000), behind=spread(held + 0.05),
            tied=step in (200, 300), drift=0.1, leak=0.5, nearness=0.4,
        )
        for step, held in HELD.items()
    ],
    recommended="step 200", chosen="", reason="Step 200 is the earliest.", notes=["A note."],
    held_out=6, trained=18, pairs=0, wanted=3, busy=False,
)  # fmt: skip


class Judged:
    """The answers of a stand-in daemon about one run."""

    def __init__(self, daemon: standin.Daemon) -> None:
        self.daemon = daemon
        self.found = replace(FOUND, candidates=[], reason="", recommended="")
        self.chosen: list[str] = []
        for kind in ("GetWhich", "MeasureRun", "GetPair", "ChoosePicture", "UndoChoice"):
            setattr(daemon, f"on_{kind}", getattr(self, kind))

    def GetWhich(self, request: wire.GetWhich, by: str) -> Any:
        assert request.run == "r0002"
        return wire.WhichCheckpoint(found=self.found), []

    def MeasureRun(self, request: wire.MeasureRun, by: str) -> Any:
        self.found = FOUND
        self.daemon.event(wire.CheckpointJudged(run="r0002"))
        return wire.WhichCheckpoint(found=FOUND), []

    def GetPair(self, request: wire.GetPair, by: str) -> Any:
        pair = wire.Pair(
            pair=f"p{len(self.chosen)}", prompt="a dragon", chosen=len(self.chosen), wanted=2
        )
        return pair, [standin.png(), standin.png(10, 10, 200)]

    def ChoosePicture(self, request: wire.ChoosePicture, by: str) -> Any:
        if request.pair != f"p{len(self.chosen)}":
            raise LoraError(Code.CONFLICT, "Somebody else has chosen.")
        self.chosen.append(request.better)
        if len(self.chosen) == 2:
            reason = "ada took step 300 in 2 of 2 pairs."
            self.found = replace(FOUND, chosen="step 300", reason=reason, pairs=2)
        self.daemon.event(wire.CheckpointJudged(run="r0002"))
        return wire.WhichCheckpoint(found=self.found), []

    def UndoChoice(self, request: wire.UndoChoice, by: str) -> Any:
        if not self.chosen:
            raise LoraError(Code.NOT_FOUND, "Nothing was chosen: nothing to undo.")
        self.chosen.pop()
        return wire.WhichCheckpoint(found=self.found), []


@pytest.mark.parametrize("size", [(120, 40), (80, 24)])
async def test_a_run_is_measured_and_what_to_take_is_marked(
    daemon: standin.Daemon, size: tuple[int, int]
) -> None:
    Judged(daemon)
    async with opened(daemon, "g", "r", size=size) as (app, pilot, _):
        await until(pilot, lambda: isinstance(app.screen, Runs) and app.screen.run_shown)
        await pilot.press("w")
        await until(pilot, lambda: text_of(app).count("Nothing is measured yet. m measures.") == 2)
        await pilot.press("m")
        await until(pilot, lambda: "Step 200 is the earliest." in text_of(app))
        lines = text_of(app).splitlines()
        assert sum("★" in line for line in lines) == 1
        assert any("★" in line and "step 200" in line and "-4.9%" in line for line in lines)
        assert any("≈" in line and "step 300" in line for line in lines)
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, Runs))


async def test_how_far_the_measuring_is_stands_below(daemon: standin.Daemon) -> None:
    Judged(daemon)
    async with opened(daemon, "g", "r") as (app, pilot, _):
        await until(pilot, lambda: isinstance(app.screen, Runs) and app.screen.run_shown)
        await pilot.press("w")
        await until(pilot, lambda: isinstance(app.screen, WhichCheckpoint))
        job = wire.Job(
            id="j1", kind="measure", title="checkpoints of r0002 measured", state="running",
            done=0, total=40, message="",
        )  # fmt: skip
        for message, said in (
            ("", "measuring 0 of 40 ─"),
            ("losses", "measuring 0 of 40 · losses"),
        ):
            daemon.live(wire.JobChanged(job=replace(job, message=message)))
            await until(pilot, lambda said=said: said in text_of(app))


async def test_the_choice_is_blind_kept_and_taken_back(daemon: standin.Daemon) -> None:
    judged = Judged(daemon)
    judged.found = FOUND
    async with opened(daemon, "g", "r") as (app, pilot, _):
        await until(pilot, lambda: isinstance(app.screen, Runs) and app.screen.run_shown)
        await pilot.press("w")
        await until(pilot, lambda: "★" in text_of(app))
        await pilot.press("v")
        await until(pilot, lambda: isinstance(app.screen, Blind) and "a dragon" in text_of(app))
        assert "step 200" not in text_of(app) and "step 300" not in text_of(app)
        await until(pilot, lambda: "0 chosen" in text_of(app))
        await pilot.press("left")
        await until(pilot, lambda: "1 chosen" in text_of(app))
        await pilot.press("u")
        await until(pilot, lambda: "0 chosen" in text_of(app))
        assert judged.chosen == []
        await pilot.press("2")
        await until(pilot, lambda: "1 chosen" in text_of(app))
        await pilot.press("space")
        await until(pilot, lambda: "The choice counts" in text_of(app))
        assert judged.chosen == ["right", "neither"]
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, WhichCheckpoint))
        await until(pilot, lambda: "ada took step 300" in text_of(app))
        assert any("★" in line and "step 300" in line for line in text_of(app).splitlines())


def test_the_curve_begins_at_the_bare_base_and_leaves_averages_out() -> None:
    average = replace(FOUND.candidates[-1], name="average of …", files=["/a", "/b"], step=400)
    lines = curve(replace(FOUND, candidates=[*FOUND.candidates, average]))
    assert {line.name for line in lines} == {"kept back", "95 %", "trained on"}
    for line in lines:
        assert list(line.xs) == [0, 100, 200, 300, 400] and line.ys[0] == 0.0
    assert curve(replace(FOUND, candidates=[])) == []
