"""The window that edits many captions: what it shows is what it does, and nothing else."""

from __future__ import annotations

from msgspec.structs import replace
from textual import events
from textual.widgets import Input

from lora_tui.core.differences import in_one_line, pieces
from lora_tui.screens.bulk import CHOICES, BulkEdit
from lora_tui.screens.dialogs import Page
from lora_tui.screens.review import Review
from shared import wire
from shared.edits import AddTag
from tests.tui import standin
from tests.tui.driving import opened, text_of, until


def down(label: str) -> list[str]:
    """The keys from the first edit of the list to this one."""
    return ["down"] * [choice.label for choice in CHOICES].index(label)


async def test_an_edit_is_shown_before_and_made_on_enter(daemon: standin.Daemon) -> None:
    async with opened(daemon, "g", "v", size=(80, 24)) as (app, pilot, _):
        await until(pilot, lambda: "000.png" in text_of(app))
        await pilot.press("E")
        await until(pilot, lambda: "Edit 20 captions of creatures" in text_of(app))
        await pilot.press("enter", *"solo")
        await until(pilot, lambda: "20 captions will change" in text_of(app))
        await until(pilot, lambda: "{+, solo+}" in text_of(app))
        assert "- a drawing, number 0" in text_of(app)  # both in full, below the list
        assert "+ a drawing, number 0, solo" in text_of(app)
        assert daemon.items["i0"].caption.rev == 1  # nothing is done yet
        await pilot.press("tab", "down")
        await until(pilot, lambda: "+ a drawing, number 1, solo" in text_of(app))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, Review))
        assert daemon.items["i19"].caption.text == "a drawing, number 19, solo"
        await until(pilot, lambda: " a drawing   number 0 " in text_of(app))  # as tags by now
        assert " solo " in text_of(app)
        await until(pilot, lambda: "an edit: 20 captions changed" in text_of(app))


async def test_two_texts_typed_in_one_burst(daemon: standin.Daemon) -> None:
    async with opened(daemon, "g", "v") as (app, pilot, _):
        await until(pilot, lambda: "000.png" in text_of(app))
        keys = ["E", *down("replace"), "enter", *"drawing", "enter", *"sketch", "enter"]
        for key in keys:
            app.post_message(events.Key(key, key if len(key) == 1 else None))

        def fields() -> list[str]:
            return [field.value for field in app.screen.query(Input)]

        await until(pilot, lambda: fields() == ["drawing", "sketch"])
        assert isinstance(app.screen, BulkEdit)  # nothing is made before it was shown
        assert all(item.caption.rev == 1 for item in daemon.items.values())
        await until(pilot, lambda: "+ a sketch, number 0" in text_of(app))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, Review))
        assert daemon.items["i3"].caption.text == "a sketch, number 3"


async def test_what_was_shown_for_other_words_is_not_made(daemon: standin.Daemon) -> None:
    async with opened(daemon, "g", "v") as (app, pilot, _):
        await until(pilot, lambda: "000.png" in text_of(app))
        await pilot.press("E", "enter", *"sol")
        await until(pilot, lambda: "{+, sol+}" in text_of(app))
        for key in ("o", "enter"):
            app.post_message(events.Key(key, key if len(key) == 1 else None))
        await until(pilot, lambda: "{+, solo+}" in text_of(app))
        assert daemon.items["i0"].caption.rev == 1


async def test_the_answer_to_words_before_is_not_taken_for_that_to_the_last(
    daemon: standin.Daemon,
) -> None:
    async with opened(daemon, "g", "v") as (app, pilot, _):
        await until(pilot, lambda: "000.png" in text_of(app))
        await pilot.press("E", "enter", *"sol")
        await until(pilot, lambda: "{+, sol+}" in text_of(app))
        window = app.screen
        assert isinstance(window, BulkEdit)
        asked = window._asked()
        window._look(after=1e6)
        window._begin(replace(asked, edits=[AddTag("so")]))  # a timer that had rung when stopped
        await until(pilot, lambda: "{+, so+}" in text_of(app))
        window._begin(asked)
        await until(pilot, lambda: "{+, sol+}" in text_of(app))


async def test_only_what_is_gone_through_and_a_state_too(daemon: standin.Daemon) -> None:
    async with opened(daemon, "g", "v") as (app, pilot, _):
        await until(pilot, lambda: "000.png" in text_of(app))
        await pilot.press("slash", *"number 1", "enter")
        await until(pilot, lambda: "1 of 11" in text_of(app))
        await pilot.press("E")
        await until(pilot, lambda: "only number 1" in text_of(app))
        await pilot.press(*down("set flagged"), "enter")
        await until(pilot, lambda: "unreviewed → flagged" in text_of(app))
        await pilot.press("enter")
        await until(pilot, lambda: daemon.items["i1"].caption.state == "flagged")
        asked = [r for r in daemon.asked if isinstance(r, wire.PreviewEdit)][-1]
        assert (asked.filter, asked.edits) == ("number 1", []) and asked.view in daemon.views
        await until(pilot, lambda: "1 of 11" in text_of(app))  # the list stands
        assert daemon.items["i0"].caption.state == "unreviewed"


async def test_mistakes_are_said_and_leaving_changes_nothing(daemon: standin.Daemon) -> None:
    async with opened(daemon, "g", "v") as (app, pilot, _):
        await until(pilot, lambda: "000.png" in text_of(app))
        await pilot.press("E")
        await until(pilot, lambda: isinstance(app.screen, BulkEdit))
        await pilot.press(*down("replace /regex/"), "enter", "(", "enter", "enter")
        await until(pilot, lambda: "makes no sense" in text_of(app))
        await pilot.press("shift+tab", "ctrl+u", *"nothing")
        await until(pilot, lambda: "Nothing changes." in text_of(app))
        await pilot.press("enter", "enter")
        assert isinstance(app.screen, BulkEdit)
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, Review))
        assert not any(isinstance(r, wire.ApplyEdit) for r in daemon.asked)


async def test_what_others_change_meanwhile_is_shown_anew(daemon: standin.Daemon) -> None:
    async with opened(daemon, "g", "v") as (app, pilot, _):
        await until(pilot, lambda: "000.png" in text_of(app))
        await pilot.press("E")
        await until(pilot, lambda: isinstance(app.screen, BulkEdit))
        await pilot.press("enter", *"solo")
        await until(pilot, lambda: "+ a drawing, number 0, solo" in text_of(app))
        old = daemon.items["i0"]
        daemon.put(replace(old, caption=replace(old.caption, text="bob's")), "bob")
        await until(pilot, lambda: "+ bob's, solo" in text_of(app))


async def test_what_was_left_alone_is_shown_with_both_texts(daemon: standin.Daemon) -> None:
    async with opened(daemon, "g", "v") as (app, pilot, _):
        await until(pilot, lambda: "000.png" in text_of(app))
        await pilot.press("E")
        await until(pilot, lambda: isinstance(app.screen, BulkEdit))
        await pilot.press("enter", *"solo")
        await until(pilot, lambda: "20 captions will change" in text_of(app))
        old = daemon.items["i4"]  # the event has not reached us
        daemon.items["i4"] = replace(
            old, caption=replace(old.caption, text="bob's", rev=2, by="bob")
        )
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, Page))
        assert "bob's" in text_of(app) and "a drawing, number 4, solo" in text_of(app)


async def test_an_edit_of_many_does_not_touch_the_field(daemon: standin.Daemon) -> None:
    """Somebody edits all captions while one is typed: both texts are shown, none is lost."""
    async with opened(daemon, "g", "v") as (app, pilot, _):
        await until(pilot, lambda: "000.png" in text_of(app))
        await pilot.press("e", *" mine")
        other = standin.Client(daemon, "bob")
        preview = await other.call(wire.PreviewEdit(dataset="d1", state="flagged"))
        await other.call(wire.ApplyEdit(preview=preview.preview))
        await pilot.pause()
        assert "editing 000.png" in text_of(app)
        await pilot.press("escape")
        await until(pilot, lambda: "two people changed this caption" in text_of(app))
        assert "number 0 mine" in text_of(app)


def test_differences_are_the_words_that_changed() -> None:
    assert pieces("a red dragon", "a blue dragon") == [
        ("same", "a "), ("gone", "red"), ("new", "blue"), ("same", " dragon"),
    ]  # fmt: skip
    for old, new in (("", "a"), ("a", ""), ("a, b", "a, b, c"), ("龍の絵", "龍,の絵"), ("x", "x")):
        found = pieces(old, new)
        assert "".join(text for kind, text in found if kind != "new") == old
        assert "".join(text for kind, text in found if kind != "gone") == new
    assert in_one_line("a long beginning, red", "a long beginning, blue") == (
        "…beginning, [-red-]{+blue+}"
    )
    assert in_one_line("a\nb", "a\x1b") == "a[-⏎b-]{+·+}"
    long = " ".join(f"a{n}" for n in range(5000)), " ".join(f"b{n}" for n in range(5000))
    assert pieces(*long)[0] == ("gone", long[0])  # at once, in one piece
