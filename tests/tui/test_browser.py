"""The browser: a grid that fetches what is seen, several pictures chosen, an order, one undo."""

from __future__ import annotations

from msgspec.structs import replace

from lora_tui.app import LoraApp
from lora_tui.screens.bulk import BulkEdit
from lora_tui.screens.datasets import Datasets
from lora_tui.widgets.grid import Grid
from shared import wire
from tests.tui import standin
from tests.tui.driving import opened, text_of, until


def states(daemon: standin.Daemon) -> list[str]:
    return [daemon.items[i].caption.state for i in daemon.order]


def grid(app: LoraApp) -> Grid:
    return app.screen.query_one(Grid)


async def test_a_grid_of_100_000_fetches_what_is_seen_and_what_comes_next() -> None:
    class Lazy(dict[str, wire.Item]):
        def __missing__(self, key: str) -> wire.Item:
            return standin.item(int(key[1:]))

    daemon = standin.Daemon([])
    daemon.order = [f"i{n}" for n in range(100_000)]
    daemon.items = Lazy()
    daemon.state = replace(
        daemon.state, datasets=[replace(daemon.state.datasets[0], items=100_000)]
    )

    def fetched() -> list[int]:
        asked = [r for r in daemon.asked if isinstance(r, wire.GetThumbnail)]
        return sorted({int(request.item[1:]) for request in asked})

    async with opened(daemon, "enter", "w") as (app, pilot, _):
        await until(pilot, lambda: text_of(app).count("png") >= 18)
        shown = grid(app)
        seen = len(shown._seen())
        await until(pilot, lambda: fetched()[-1] == 2 * seen - 1)  # a screen ahead, no more
        assert "▀" in text_of(app)
        await pilot.press("down", "right")
        assert shown.cursor == shown.across + 1
        await pilot.press("end")
        await until(pilot, lambda: "99999.png" in text_of(app))
        await until(pilot, lambda: fetched()[-1] == 99_999)
        assert len(fetched()) < 6 * seen
        pages = {r.offset for r in daemon.asked if isinstance(r, wire.ListItems)}
        assert pages <= {0, 99_800}
        await pilot.press("home")
        await until(pilot, lambda: shown.cursor == 0 and "000.png" in text_of(app))


async def test_chosen_pictures_change_as_one(daemon: standin.Daemon) -> None:
    async with opened(daemon, "enter", "w") as (app, pilot, _):
        await until(pilot, lambda: "000.png" in text_of(app))
        await pilot.press("space", "right", "right", "space", "right", "S")
        await until(pilot, lambda: "4 chosen" in text_of(app))  # 0, and 3 to 5
        screen = app.screen
        assert isinstance(screen, Datasets)
        spans = screen.picked.spans
        await pilot.press("a")
        await until(pilot, lambda: "accepted" in states(daemon))
        chosen = [place for first, last in spans for place in range(first, last + 1)]
        assert [n for n, state in enumerate(states(daemon)) if state == "accepted"] == chosen
        assert len([r for r in daemon.asked if isinstance(r, wire.ApplyEdit)]) == 1
        await pilot.press("escape", "A", "E")
        await until(pilot, lambda: isinstance(app.screen, BulkEdit))
        assert "Edit 20 captions of creatures" in text_of(app)
        await pilot.press("escape", "w", "escape", "end", "f")
        await until(pilot, lambda: states(daemon)[-1] == "flagged")  # without a choice, this one
        assert states(daemon).count("flagged") == 1


async def test_keys_for_pictures_do_nothing_while_the_list_of_datasets_has_them(
    daemon: standin.Daemon,
) -> None:
    async with opened(daemon) as (app, pilot, _):
        await until(pilot, lambda: "000.png" in text_of(app))
        await pilot.press("d", "space", "a")
        await until(pilot, lambda: "Go to the pictures first" in text_of(app))
        assert set(states(daemon)) == {"unreviewed"}


async def test_another_order_keeps_the_picture_and_reaches_review(daemon: standin.Daemon) -> None:
    daemon.fill(
        [
            replace(standin.item(n), caption=standin.caption(f"c{n}", "flagged"))
            if n in (2, 7)
            else standin.item(n)
            for n in range(20)
        ]
    )
    async with opened(daemon, "enter") as (app, pilot, _):
        await until(pilot, lambda: "000.png" in text_of(app))
        await pilot.press("down", "down", "s", "down", "down", "down", "down", "down", "enter")
        await until(pilot, lambda: "by state" in text_of(app))
        screen = app.screen
        assert isinstance(screen, Datasets)
        await until(pilot, lambda: screen.items.cursor == 18)  # the first of the two at the end
        assert screen.item is not None and screen.item.name == "002.png"
        await pilot.press("v")
        await until(pilot, lambda: "caption of 002.png" in text_of(app))
        await pilot.press("n")
        await until(pilot, lambda: "caption of 007.png" in text_of(app))
        await pilot.press("w")  # from one picture to the grid, on the same
        await until(pilot, lambda: app.screen is screen and screen.in_grid)
        await until(pilot, lambda: screen.item is not None and screen.item.name == "007.png")
        await until(pilot, lambda: "····" in text_of(app) and "⚑⚑" in text_of(app))  # the strip
