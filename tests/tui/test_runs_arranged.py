"""Runs: a sweep as a group, the queue under the keys, forks, and runs side by side."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from lora_tui.screens.arranging import After
from lora_tui.screens.compare_runs import CompareRuns
from lora_tui.screens.continuing import Fork
from lora_tui.screens.runs import Runs
from shared import recipe, run_queue, wire
from shared.errors import Code, LoraError
from shared.which import Candidate, Spread, Which
from tests.tui import standin
from tests.tui.driving import opened, text_of, until

GROUP = "creatures by network.rank"


class Queued:
    """A stand-in daemon's runs: r0002 trains; r0004 to r0006 are a sweep, r0006 and r0007 wait."""

    def __init__(self, daemon: standin.Daemon) -> None:
        self.daemon = daemon
        self.asked: list[Any] = []
        swept = [
            standin.run_of(
                number, state=state, step=400 if state == "finished" else 0, group=GROUP,
                settings=[f"network.rank={rank}"], place=number, name=f"creatures rank={rank}",
                started=None if state == "queued" else 1.7e9,
            )
            for number, state, rank in ((4, "finished", 4), (5, "finished", 8), (6, "queued", 16))
        ]  # fmt: skip
        waits = standin.run_of(7, state="queued", step=0, name="ink", started=None, place=7)
        daemon.state = replace(
            daemon.state,
            runs=[daemon.state.runs[1], *swept, waits],
            pictures=[
                replace(daemon.state.pictures[0], id=f"{run}-{step}", run=run, step=step)
                for run in ("r0004", "r0005") for step in (200, 400)
            ],
        )  # fmt: skip
        for kind in ("GetRun", "GetSeries", "GetWhich", "ArrangeRun", "ForkRun", "ExtendRun"):
            setattr(daemon, f"on_{kind}", getattr(self, kind))

    def run(self, id_: str) -> wire.Run:
        found = [run for run in self.daemon.state.runs if run.id == id_]
        if not found:
            raise LoraError(Code.NOT_FOUND, f"There is no run {id_}.")
        return found[0]

    def GetRun(self, request: wire.GetRun, by: str) -> Any:
        run = self.run(request.run)
        made = recipe.dump(recipe.parse("", run.settings))
        samples = [one for one in self.daemon.state.pictures if one.run == run.id]
        return wire.RunDetail(
            run=run, recipe=made, directory="", samples=samples, checkpoints=[], skipped=[],
            warnings=[],
        ), []  # fmt: skip

    def GetSeries(self, request: wire.GetSeries, by: str) -> Any:
        steps = self.run(request.run).step
        level = int(request.run[1:]) / 40
        return wire.Series(
            points=[wire.LivePoint(s, level, 1e-4, 0.5, 1.7e9 + s) for s in range(1, steps + 1)]
        ), []

    def GetWhich(self, request: wire.GetWhich, by: str) -> Any:
        figure = {"r0004": -0.03, "r0005": -0.05}.get(self.run(request.run).id)
        held = None if figure is None else Spread(mean=figure, low=-1, high=0, error=0.1)
        one = Candidate(name="step 400", step=400, files=["x"], measured=True, held=held)
        return wire.WhichCheckpoint(
            found=Which(
                run=request.run, base="starter", candidates=[one] if held else [], recommended="",
                chosen="", reason="", notes=[], held_out=3, trained=3, pairs=0, wanted=3,
                busy=False,
            )
        ), []  # fmt: skip

    def ArrangeRun(self, request: wire.ArrangeRun, by: str) -> Any:
        self.asked.append(request)
        queue = run_queue.waiting(self.daemon.state.runs)
        places = [run.place for run in queue]
        run = self.run(request.run)
        if request.before:
            queue.remove(run)
            queue.insert([one.id for one in queue].index(request.before), run)
        for one, place in zip(queue, places, strict=True):
            after = request.after if request.after is not None and one is run else one.after
            self.daemon.event(wire.RunChanged(run=replace(one, place=place, after=after)))
        return self.run(request.run), []

    def ForkRun(self, request: wire.ForkRun, by: str) -> Any:
        self.asked.append(request)
        if "network.rank=6" in request.settings:
            raise LoraError(Code.NOT_FOUND, "r0004 cannot go on: its base is lost.")
        made = standin.run_of(8, state="queued", step=0, started=None, parent=request.run)
        self.daemon.event(wire.RunChanged(run=made))
        return wire.Continued(run=made, told="Begins from the LoRA."), []

    def ExtendRun(self, request: wire.ExtendRun, by: str) -> Any:
        self.asked.append(request)
        raise LoraError(Code.NOT_FOUND, "r0004 cannot go on, as the base is gone.")


async def test_two_options_of_a_sweep_are_whole_in_80_columns(daemon: standin.Daemon) -> None:
    Queued(daemon)
    runs = [
        replace(run, settings=[*run.settings, "optimizer.learning_rate=1e-3"]) if run.group else run
        for run in daemon.state.runs
    ]
    daemon.state = replace(daemon.state, runs=runs)
    async with opened(daemon, "g", "r", size=(80, 24)) as (app, pilot, _):
        await until(pilot, lambda: "×3" in text_of(app))
        await at(pilot, app, f"group:{GROUP}")
        await pilot.press("enter")
        await until(pilot, lambda: "r0004 rank=4 learning_rate=1e-3" in text_of(app))


async def at(pilot: Any, app: Any, key: str) -> None:
    """The cursor of the list on a run, or on the head of a sweep."""
    screen = app.screen
    assert isinstance(screen, Runs)
    place = next(n for n, entry in enumerate(screen._entries) if entry.key == key)
    screen.rows.cursor = place
    await until(pilot, lambda: screen._key == key)


async def test_a_sweep_is_held_side_by_side_and_a_deleted_run_leaves(
    daemon: standin.Daemon,
) -> None:
    Queued(daemon)
    async with opened(daemon, "g", "r", size=(80, 24)) as (app, pilot, _):
        await until(pilot, lambda: "×3" in text_of(app) and "├ rank=4" in text_of(app))
        await at(pilot, app, f"group:{GROUP}")
        await until(pilot, lambda: "2/3 done" in text_of(app))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, CompareRuns) and "★" in text_of(app))
        lines = text_of(app).splitlines()
        assert any("★" in line and "rank=8" in line and "-5.0%" in line for line in lines)
        assert any("c " in line and "rank=16" in line and "queued" in line for line in lines)
        assert "r0006: no loss yet." in text_of(app)
        await pilot.press("3")
        await until(pilot, lambda: "network.rank" in text_of(app))
        await pilot.press("4", "left_square_bracket")
        await until(pilot, lambda: "step 200, 1 of 2" in text_of(app))
        assert "no sample of step" in text_of(app)  # r0006 has made none
        daemon.event(wire.RunRemoved(run="r0005"))
        await until(pilot, lambda: "r0005 was deleted" in text_of(app))
        assert "rank=8" not in text_of(app)


async def test_the_queue_moves_and_waits_under_the_keys(daemon: standin.Daemon) -> None:
    queued = Queued(daemon)
    async with opened(daemon, "g", "r") as (app, pilot, _):
        await until(pilot, lambda: "queued 2" in text_of(app))
        await at(pilot, app, "r0007")
        await pilot.press("K", "K")  # the second has nowhere to go
        await until(pilot, lambda: queued.run("r0007").place < queued.run("r0006").place)
        assert queued.asked == [wire.ArrangeRun(run="r0007", before="r0006")]
        await pilot.press("A")
        await until(pilot, lambda: isinstance(app.screen, After))
        await pilot.press("space", "enter")
        await until(pilot, lambda: "after r0002" in text_of(app))
        await at(pilot, app, "r0004")
        await pilot.press("K")
        await until(pilot, lambda: "only runs that wait have a place" in text_of(app))
        await pilot.press("f")
        await until(pilot, lambda: isinstance(app.screen, Fork))
        await pilot.press(*"network.rank=x")
        await until(pilot, lambda: "must be a whole number" in text_of(app))
        await pilot.press("ctrl+s")
        assert isinstance(app.screen, Fork)
        await pilot.press("backspace", "6", "ctrl+s")
        await until(pilot, lambda: "its base is lost" in text_of(app))
        assert isinstance(app.screen, Fork)  # with what was typed
        await pilot.press("backspace", "7", "ctrl+s")
        await until(pilot, lambda: "r0008: Begins from the LoRA." in text_of(app))
        assert queued.asked[-1] == wire.ForkRun(run="r0004", settings=["network.rank=7"])
        await at(pilot, app, "r0004")
        await pilot.press("e", "enter")
        await until(pilot, lambda: "the base is gone" in text_of(app))
        assert queued.asked[-1] == wire.ExtendRun(run="r0004", steps=40)
        await pilot.press("space", "space", "c")  # r0004 and r0005
        await until(pilot, lambda: isinstance(app.screen, CompareRuns))
        await until(pilot, lambda: "rank=8" in text_of(app) and "rank=16" not in text_of(app))
