"""Chinese, Japanese, accents, flags, families of emoji: straight columns, a cursor between."""

from __future__ import annotations

import itertools

import pytest
from rich.cells import cell_len

from lora_tui.app import LoraApp
from lora_tui.core.cells import boundaries, clean, dotted, fit
from lora_tui.screens.review import Review
from shared import wire
from tests.tui import standin
from tests.tui.driving import opened, text_of, until

FAMILY, FLAG, ACCENT, SKIN, HEART = "👨\u200d👩\u200d👧", "🇩🇪", "e\u0301", "👍🏽", "❤\ufe0f\u200d🔥"


@pytest.mark.parametrize("one", [FAMILY, FLAG, ACCENT, SKIN, HEART, "漢", "ば", "か\u3099", "a"])
def test_what_is_seen_as_one_is_one_step_of_the_cursor(one: str) -> None:
    text = f"x{one}{one}y"
    assert boundaries(text) == (0, 1, 1 + len(one), 1 + 2 * len(one), 2 + 2 * len(one))
    assert clean(text) == dotted(text) == text
    for width in range(1, 9):
        assert cell_len(fit(text, width)) == width
        assert cell_len(fit(text, width, "right")) == width


def test_a_joiner_between_letters_is_seen() -> None:
    assert dotted("a\u200db") == "a·b" == clean("a\u200db")
    assert dotted("👨\u200d") == "👨·"
    assert dotted("\u200d👨\ta\x1b") == "·👨\ta·"


def straight(app: LoraApp) -> bool:
    """Whether every line on screen is as wide as the screen, however it is cut into pieces."""
    width = app.size.width
    for strip in app.screen._compositor.render_strips():
        pieces = [segment.text for segment in strip]
        if not cell_len("".join(pieces)) == sum(map(cell_len, pieces)) == width:
            return False
    return True


async def test_the_cursor_stands_between_characters_and_takes_them_whole() -> None:
    text = f"漢字 {FAMILY} {FLAG}{FLAG} caf{ACCENT}, {SKIN}{HEART} 龍"
    offered = wire.Candidate(text=text, model=FAMILY, source="captioner", by="龍", at=1.7e9)
    daemon = standin.Daemon([standin.item(0, text=text), standin.item(1, text=f"{text}, b, c")])
    many = standin.item(2, text=", ".join(f"x{n:02}長い" for n in range(60)))
    daemon.fill([*daemon.items.values(), many])
    daemon.candidates = {"i0": [offered], "i1": [offered]}
    async with opened(daemon, "g", "v", size=(80, 24)) as (app, pilot, _):
        review = app.screen
        assert isinstance(review, Review)
        await until(pilot, lambda: "000.png" in text_of(app))
        await pilot.press("e")
        field = review.field
        columns = [field.cursor_location[1]]
        while columns[-1]:
            await pilot.press("left")
            assert straight(app)
            columns.append(field.cursor_location[1])
        assert tuple(columns[::-1]) == boundaries(text)
        x = []
        for _ in boundaries(text):  # each step is as wide as what it steps over
            x.append(field.cursor_screen_offset.x)
            await pilot.press("right")
        assert [b - a for a, b in itertools.pairwise(x)] == [
            cell_len(text[a:b]) for a, b in zip(columns[::-1], columns[-2::-1], strict=False)
        ]
        await pilot.press("backspace", "backspace", "backspace", "backspace", *"龍é", "escape")
        changed = f"漢字 {FAMILY} {FLAG}{FLAG} caf{ACCENT}, 龍é"
        await until(pilot, lambda: daemon.items["i0"].caption.text == changed)
        await pilot.press("n")
        await until(pilot, lambda: "001.png" in text_of(app) and f"1 {FAMILY}" in text_of(app))
        assert straight(app)
        await pilot.press("t", "H", "a", *"ば,", "escape")
        assert straight(app)
        assert review.chips.text.endswith(", c, b, ば")
        await pilot.press("escape", "n")
        await until(pilot, lambda: "x00長い" in text_of(app))
        assert straight(app) and "…│" in text_of(app).replace(" ", "")  # there is more
        await pilot.press("t")
        await until(pilot, lambda: "x59長い" in text_of(app))
        assert straight(app) and "x00長い" not in text_of(app)
