"""Review: every key, and that no text is ever lost or put on the neighbour."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from msgspec.structs import replace
from textual.geometry import Region
from textual.screen import Screen
from textual.widget import Widget

from lora_tui.core.drafts import Drafts, state_dir
from lora_tui.screens.conflict import Conflict
from lora_tui.screens.recover import Recover
from lora_tui.screens.review import Review
from lora_tui.widgets.caption import Filmstrip
from shared import wire
from tests.tui import standin
from tests.tui.driving import opened, text_of, until


def states(daemon: standin.Daemon) -> list[str]:
    return [daemon.items[i].caption.state for i in daemon.order]


async def test_space_accepts_and_advances(daemon: standin.Daemon) -> None:
    async with opened(daemon, "g", "v") as (app, pilot, _):
        await until(pilot, lambda: "000.png" in text_of(app))
        await pilot.press("space", "space")
        await until(pilot, lambda: states(daemon)[:3] == ["accepted", "accepted", "unreviewed"])
        assert "caption of 002.png" in text_of(app)
        await until(pilot, lambda: "2/20 reviewed" in text_of(app))


async def test_what_comes_after_a_key_paints_only_what_is_new(
    daemon: standin.Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon's answer, and the event that tells of it: both say what is on screen already."""
    painted = list[None]()

    def counted(strip: Filmstrip, *regions: Region, **how: bool) -> Filmstrip:
        painted.append(None)
        Widget.refresh(strip, *regions, **how)
        return strip

    async with opened(daemon, "g", "v") as (app, pilot, _):
        await until(pilot, lambda: "000.png" in text_of(app))
        monkeypatch.setattr(Filmstrip, "refresh", counted)
        await pilot.press("space")
        await until(pilot, lambda: "1/20 reviewed" in text_of(app))
        assert states(daemon)[0] == "accepted"
        assert len(painted) == 2  # the state, then the place


async def test_going_on_lays_nothing_out_anew_and_names_are_no_markup(
    daemon: standin.Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    laid = list[None]()

    def counted(screen: Review) -> None:
        laid.append(None)
        Screen._refresh_layout(screen)

    third = daemon.items["i2"]
    daemon.items["i2"] = replace(third, name="[red]002.png")
    async with opened(daemon, "g", "v") as (app, pilot, _):
        await until(pilot, lambda: "000.png" in text_of(app))
        await pilot.press("space")
        await until(pilot, lambda: "caption of 001.png" in text_of(app))
        await until(pilot, lambda: "1/20 reviewed" in text_of(app))
        monkeypatch.setattr(Review, "_refresh_layout", counted)
        await pilot.press("space")
        await until(pilot, lambda: "caption of [red]002.png" in text_of(app))
        await until(pilot, lambda: "2/20 reviewed" in text_of(app))
        assert "3 of 20 · 18 left" in text_of(app) and not laid


async def test_reject_flag_next_previous_and_ends(daemon: standin.Daemon) -> None:
    async with opened(daemon, "g", "v") as (app, pilot, _):
        await until(pilot, lambda: "000.png" in text_of(app))
        await pilot.press("d", "f")
        await until(pilot, lambda: states(daemon)[:2] == ["rejected", "flagged"])
        await pilot.press("n", "n", "p")
        assert "caption of 003.png" in text_of(app)
        await pilot.press("end")
        await until(pilot, lambda: "caption of 019.png" in text_of(app))
        await pilot.press("home")
        await until(pilot, lambda: "caption of 000.png" in text_of(app))
        await pilot.press("N")
        await until(pilot, lambda: "caption of 002.png" in text_of(app))


async def test_leaving_the_field_saves(daemon: standin.Daemon) -> None:
    async with opened(daemon, "g", "v") as (app, pilot, _):
        await until(pilot, lambda: "000.png" in text_of(app))
        await pilot.press("e", *" x,g?q", "escape")
        await until(pilot, lambda: states(daemon)[0] == "edited")
        assert daemon.items["i0"].caption.text == "a drawing, number 0 x,g?q"
        await pilot.press("space")  # an edited caption is a person's already: only on
        await until(pilot, lambda: "caption of 001.png" in text_of(app))
        assert states(daemon)[0] == "edited"
        await pilot.press("e", "!", "ctrl+s")
        await until(pilot, lambda: daemon.items["i1"].caption.text.endswith("1!"))
        assert "caption of 002.png" in text_of(app)


async def test_lines_and_spaces_at_the_end_of_a_caption_are_not_saved(
    daemon: standin.Daemon,
) -> None:
    as_in_its_file = daemon.items["i1"].caption.text + "\n"
    daemon.items["i1"] = replace(
        daemon.items["i1"], caption=replace(daemon.items["i1"].caption, text=as_in_its_file)
    )
    async with opened(daemon, "g", "v") as (app, pilot, _):
        await until(pilot, lambda: "000.png" in text_of(app))
        before = daemon.items["i0"].caption.text
        await pilot.press("e", "comma", "enter", "a", "space", "enter", "escape")
        await until(pilot, lambda: daemon.items["i0"].caption.state == "edited")
        assert daemon.items["i0"].caption.text == f"{before},\na"
        await pilot.press("n", "e", "escape", "n", "e", "space", "enter", "escape")
        await pilot.pause()
        assert daemon.items["i1"].caption.text == as_in_its_file
        assert daemon.items["i2"].caption.state == "unreviewed"


async def test_leaving_without_a_change_writes_nothing(daemon: standin.Daemon) -> None:
    async with opened(daemon, "g", "v") as (app, pilot, _):
        await until(pilot, lambda: "000.png" in text_of(app))
        await pilot.press("e", "x", "backspace", "escape", "n")
        await until(pilot, lambda: "001.png" in text_of(app))
        assert not any(isinstance(r, wire.ChangeCaption) for r in daemon.asked)
        assert not list((state_dir() / "drafts").glob("*.json"))


async def test_undo_and_redo_go_to_the_picture(daemon: standin.Daemon) -> None:
    async with opened(daemon, "g", "v") as (app, pilot, _):
        await until(pilot, lambda: "000.png" in text_of(app))
        await pilot.press("e", "!", "escape", "n", "n", "u")
        await until(pilot, lambda: daemon.items["i0"].caption.text == "a drawing, number 0")
        await until(pilot, lambda: "caption of 000.png" in text_of(app))
        await pilot.press("U")
        await until(pilot, lambda: daemon.items["i0"].caption.text.endswith("!"))


async def test_fast_keys_never_write_to_the_neighbour(daemon: standin.Daemon) -> None:
    daemon.held = asyncio.Event()  # the daemon is slow: everything is under way at once
    async with opened(daemon, "g", "v") as (app, pilot, _):
        await until(pilot, lambda: "000.png" in text_of(app))
        keys: list[str] = []
        for number in range(10):
            keys += ["e", *f"#{number}", "escape", "n"]
        await pilot.press(*keys)
        daemon.held.set()
        await until(pilot, lambda: states(daemon)[9] == "edited")
        for number in range(10):
            want = f"a drawing, number {number}#{number}"
            assert daemon.items[f"i{number}"].caption.text == want
        assert daemon.items["i10"].caption.rev == 1


async def test_changes_of_one_caption_follow_each_other(daemon: standin.Daemon) -> None:
    daemon.held = asyncio.Event()
    async with opened(daemon, "g", "v") as (app, pilot, _):
        await until(pilot, lambda: "000.png" in text_of(app))
        await pilot.press("space", "p", "f", "p", "d", "p", "e", "!", "escape")
        daemon.held.set()
        await until(pilot, lambda: daemon.items["i0"].caption.rev == 5)
        assert daemon.items["i0"].caption.text == "a drawing, number 0!"
        assert not isinstance(app.screen, Conflict)


async def test_a_filter_shows_one_state(daemon: standin.Daemon) -> None:
    daemon.fill(
        [
            replace(standin.item(n), caption=standin.caption(f"c{n}", "flagged"))
            if n % 2
            else standin.item(n)
            for n in range(20)
        ]
    )
    async with opened(daemon, "g", "v") as (app, pilot, _):
        await until(pilot, lambda: "000.png" in text_of(app))
        await pilot.press("slash", *"state:flagged", "enter")
        await until(pilot, lambda: "1 of 10" in text_of(app))
        assert "only state:flagged" in text_of(app) and "001.png" in text_of(app)
        await pilot.press("space", "space")  # what leaves the filter keeps its place
        await until(pilot, lambda: "caption of 005.png" in text_of(app))


async def _conflict(daemon: standin.Daemon, app: object, pilot: object) -> None:
    """Bob changes the caption while we edit it."""
    await until(pilot, lambda: "000.png" in text_of(app))  # type: ignore[arg-type]
    await pilot.press("e", *" mine")  # type: ignore[attr-defined]
    old = daemon.items["i0"]
    daemon.put(replace(old, caption=replace(old.caption, text="theirs", state="edited")), "bob")
    await until(pilot, lambda: "bob has just changed" in text_of(app).replace("\n", " "))  # type: ignore[arg-type]
    await pilot.press("escape")  # type: ignore[attr-defined]
    await until(pilot, lambda: isinstance(app.screen, Conflict))  # type: ignore[arg-type,attr-defined]
    assert "number 0 mine" in text_of(app) and "theirs" in text_of(app)  # type: ignore[arg-type]


async def test_conflict_keep_mine(daemon: standin.Daemon) -> None:
    async with opened(daemon, "g", "v") as (app, pilot, _):
        await _conflict(daemon, app, pilot)
        await pilot.press("m")
        await until(pilot, lambda: daemon.items["i0"].caption.text == "a drawing, number 0 mine")


async def test_conflict_take_theirs(daemon: standin.Daemon) -> None:
    async with opened(daemon, "g", "v") as (app, pilot, _):
        await _conflict(daemon, app, pilot)
        await pilot.press("t")
        await until(pilot, lambda: isinstance(app.screen, Review) and "theirs" in text_of(app))
        assert daemon.items["i0"].caption.text == "theirs"
        assert not list((state_dir() / "drafts").glob("*.json"))


async def test_conflict_edit_both(daemon: standin.Daemon) -> None:
    async with opened(daemon, "g", "v") as (app, pilot, _):
        await _conflict(daemon, app, pilot)
        await pilot.press("e")
        await until(pilot, lambda: "editing 000.png" in text_of(app))
        await pilot.press("escape")
        await until(
            pilot,
            lambda: daemon.items["i0"].caption.text == "a drawing, number 0 mine\ntheirs",
        )


async def test_conflict_later_keeps_the_draft(daemon: standin.Daemon) -> None:
    async with opened(daemon, "g", "v") as (app, pilot, _):
        await _conflict(daemon, app, pilot)
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, Review))
        assert daemon.items["i0"].caption.text == "theirs"
        await pilot.press("r")
        await until(pilot, lambda: isinstance(app.screen, Recover))
        assert "number 0 mine" in text_of(app)


async def test_an_accept_that_came_second_asks_too(daemon: standin.Daemon) -> None:
    async with opened(daemon, "g", "v") as (app, pilot, _):
        await until(pilot, lambda: "000.png" in text_of(app))
        old = daemon.items["i0"]  # changed, but the event has not reached us
        daemon.items["i0"] = replace(
            old, caption=replace(old.caption, text="theirs", rev=2, by="bob")
        )
        await pilot.press("space")
        await until(pilot, lambda: isinstance(app.screen, Conflict))
        await pilot.press("t")
        assert daemon.items["i0"].caption.state == "unreviewed"


async def test_without_a_link_a_text_waits_and_goes_when_it_is_back(daemon: standin.Daemon) -> None:
    async with opened(daemon, "g", "v") as (app, pilot, client):
        await until(pilot, lambda: "000.png" in text_of(app))
        client.lose()
        await until(pilot, lambda: "does not answer" in text_of(app))
        await pilot.press("e", "!", "escape", "space")
        await pilot.pause()
        assert daemon.items["i0"].caption.rev == 1
        assert len(Drafts(state_dir() / "drafts", client.endpoint).own()) == 1
        client.find_again()
        await until(pilot, lambda: daemon.items["i0"].caption.text.endswith("!"))
        await until(pilot, lambda: not list((state_dir() / "drafts").glob("*.json")))
        assert "does not answer" not in text_of(app)


async def test_a_draft_survives_the_death_of_the_client(daemon: standin.Daemon) -> None:
    async with opened(daemon, "g", "v") as (app, pilot, _):
        await until(pilot, lambda: "000.png" in text_of(app))
        await pilot.press("e", *" typed")
        await until(pilot, lambda: bool(list((state_dir() / "drafts").glob("*.json"))))
        [path] = (state_dir() / "drafts").glob("*.json")
        kept = path.read_bytes()
    # the client died there and then: its file is what is left, under a pid that is no more
    import msgspec

    from lora_tui.core.drafts import Draft

    draft = msgspec.json.decode(kept, type=Draft)
    path.write_bytes(msgspec.json.encode(replace(draft, pid=2**22 + 1)))
    async with opened(daemon, "g", "v") as (app, pilot, _):
        await until(pilot, lambda: isinstance(app.screen, Recover))
        assert "number 0 typed" in text_of(app)
        await pilot.press("s")
        await until(pilot, lambda: daemon.items["i0"].caption.text == "a drawing, number 0 typed")
        assert not path.exists()


async def test_leaving_the_app_saves_the_field(daemon: standin.Daemon) -> None:
    async with opened(daemon, "g", "v") as (app, pilot, _):
        await until(pilot, lambda: "000.png" in text_of(app))
        await pilot.press("e", "!", "ctrl+q")
        await until(pilot, lambda: daemon.items["i0"].caption.text.endswith("!"))


async def test_what_others_do_is_seen(daemon: standin.Daemon) -> None:
    async with opened(daemon, "g", "v") as (app, pilot, _):
        await until(pilot, lambda: "000.png" in text_of(app))
        old = daemon.items["i0"]
        daemon.put(replace(old, caption=replace(old.caption, text="龍の絵 by bob")), "bob")
        await until(pilot, lambda: "龍の絵 by bob" in text_of(app))


def test_a_draft_file_that_makes_no_sense_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{")
    assert Drafts(tmp_path, "d").left_behind() == []
    assert (tmp_path / "x.json").exists()


async def test_keys_in_one_burst_are_done_in_their_order(daemon: standin.Daemon) -> None:
    from textual import events

    async with opened(daemon, "g", "v") as (app, pilot, _):
        await until(pilot, lambda: "000.png" in text_of(app))
        for key in ["e", *"dfx", "escape", "space", "d", "n", "e", *"nd", "ctrl+s", "f"]:
            app.post_message(events.Key(key, key if len(key) == 1 else None))
        await until(pilot, lambda: daemon.items["i4"].caption.state == "flagged")
        assert daemon.items["i0"].caption.text == "a drawing, number 0dfx"
        assert states(daemon)[:6] == [
            "edited", "rejected", "unreviewed", "edited", "flagged", "unreviewed",
        ]  # fmt: skip
        assert daemon.items["i3"].caption.text == "a drawing, number 3nd"


async def test_a_caption_can_neither_move_the_cursor_nor_stop_the_screen() -> None:
    bad = "a\x1b[31mred\x07 \x00 tab\there\r\nnext \u202egnp"
    daemon = standin.Daemon([standin.item(0, text=bad), standin.item(1, text="word " * 200_000)])
    async with opened(daemon, "g", "v") as (app, pilot, _):
        await until(pilot, lambda: "000.png" in text_of(app))
        for key in ("e", "escape"):
            assert not {"\x1b", "\x07", "\x00", "\u202e"} & set(text_of(app))
            await pilot.press(key)
        assert daemon.items["i0"].caption.rev == 1  # looked at, not touched
        await pilot.press("n")
        await until(pilot, lambda: "caption of 001.png" in text_of(app))
        await pilot.press("e", "d")
        await until(pilot, lambda: daemon.items["i1"].caption.state == "rejected")
