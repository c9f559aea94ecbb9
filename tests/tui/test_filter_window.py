"""The window of the filter: mistakes below it, filters to take, saved ones, history."""

from __future__ import annotations

from textual.widgets import Input

from lora_tui.core.drafts import state_dir
from lora_tui.core.filter_history import KEPT, FilterHistory
from lora_tui.screens.datasets import Datasets
from lora_tui.screens.filtering import Filter
from lora_tui.screens.review import Review
from shared import wire
from tests.tui import standin
from tests.tui.driving import opened, text_of, until


async def test_a_mistake_stands_under_the_filter(daemon: standin.Daemon) -> None:
    async with opened(daemon) as (app, pilot, _):
        await until(pilot, lambda: "number 0" in text_of(app))
        await pilot.press("slash", *"龍 tga:x")
        await until(pilot, lambda: "Did you mean tag:?" in text_of(app))
        lines = text_of(app).splitlines()
        entry = next(i for i, line in enumerate(lines) if "tga:x" in line)
        assert "^^^" in lines[entry + 1]
        # The dragon is two cells wide and one character long.
        assert lines[entry + 1].index("^^^") == lines[entry].index("tga:x") + 1
        await pilot.press("enter")
        assert isinstance(app.screen, Filter)  # it does not go on with a mistake
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, Datasets))
        assert not any(isinstance(r, wire.ListItems) and r.filter for r in daemon.asked)


async def test_what_only_the_daemon_knows_is_said_there_too(daemon: standin.Daemon) -> None:
    async with opened(daemon) as (app, pilot, _):
        await until(pilot, lambda: "number 0" in text_of(app))
        await pilot.press("slash", *"tokens:>75", "enter")
        await until(pilot, lambda: "There is no base yet." in text_of(app))
        await pilot.press("ctrl+u", *"nothing like it", "enter")
        await until(pilot, lambda: "No picture passes this filter." in text_of(app))
        await pilot.press("ctrl+u", *"number", "enter")
        await until(pilot, lambda: isinstance(app.screen, Datasets))


async def test_filters_are_taken_from_the_list_and_from_before(daemon: standin.Daemon) -> None:
    async with opened(daemon) as (app, pilot, _):
        await until(pilot, lambda: "number 0" in text_of(app))
        await pilot.press("slash", "down")
        field = app.screen.query_one("#filter", Input)
        await until(pilot, lambda: field.value == "state:unreviewed")
        await pilot.press("enter")
        await until(pilot, lambda: "only state:unreviewed" in text_of(app))
        await pilot.press("slash", "ctrl+u", *"number 7", "enter")
        await until(pilot, lambda: "2 of 20 pictures · only number 7" in text_of(app))
        await pilot.press("slash", "home", "ctrl+k", "enter")
        await until(pilot, lambda: "only number 7" not in text_of(app))
        await pilot.press("slash")
        await until(pilot, lambda: "used before" in text_of(app))
        await pilot.press("f1")
        await until(pilot, lambda: "What a filter can ask" in text_of(app))
    assert FilterHistory(state_dir() / "filters").texts == ["number 7", "state:unreviewed"]


async def test_a_filter_is_saved_for_everybody_and_forgotten(daemon: standin.Daemon) -> None:
    async with opened(daemon) as (app, pilot, _):
        await until(pilot, lambda: "number 0" in text_of(app))
        await pilot.press("slash", *"number 1", "ctrl+s", *"ones", "enter")
        await until(pilot, lambda: [f.name for f in daemon.state.filters] == ["ones"])
        await until(pilot, lambda: "★ ones" in text_of(app))
        await pilot.press("escape", "g", "v")
        await until(pilot, lambda: isinstance(app.screen, Review))
        await until(pilot, lambda: "000.png" in text_of(app))
        await pilot.press("slash", "down")
        field = app.screen.query_one("#filter", Input)
        await until(pilot, lambda: field.value == "number 1")
        await pilot.press("ctrl+t")
        await until(pilot, lambda: not daemon.state.filters)
        await until(pilot, lambda: "★" not in text_of(app))


async def test_datasets_and_review_show_the_same(daemon: standin.Daemon) -> None:
    async with opened(daemon) as (app, pilot, _):
        await until(pilot, lambda: "number 0" in text_of(app))
        await pilot.press("slash", *"number 1", "enter")
        await until(pilot, lambda: "11 of 20" in text_of(app))
        await pilot.press("enter", "down", "down", "v")
        await until(pilot, lambda: "caption of 011.png" in text_of(app))
        assert "3 of 11" in text_of(app)
        await pilot.press("slash", "ctrl+u", "enter")  # the picture stays
        await until(pilot, lambda: "12 of 20" in text_of(app))
        await pilot.press("g", "d")
        await until(
            pilot, lambda: isinstance(app.screen, Datasets) and "only number" not in text_of(app)
        )


def test_the_history_keeps_the_newest_first_and_each_once(tmp_path) -> None:  # type: ignore[no-untyped-def]
    history = FilterHistory(tmp_path / "state" / "filters")
    for number in range(KEPT + 5):
        history.add(f"tag:{number}")
    history.add("tag:10")
    history.add(" ")
    history.add("two\nlines")
    again = FilterHistory(history.path)
    assert again.texts == history.texts
    assert again.texts[:3] == ["two lines", "tag:10", f"tag:{KEPT + 4}"]
    assert len(again.texts) == len(set(again.texts)) == KEPT
    (tmp_path / "bad").write_bytes(b"\xff\xfe")
    assert FilterHistory(tmp_path / "bad").texts == []
    FilterHistory(tmp_path / "bad" / "x").add("a")  # no directory can be there: only not kept
