"""What the screens think with, without a terminal."""

from __future__ import annotations

import asyncio
import math
import random

import pytest
from msgspec.structs import replace
from rich.cells import cell_len

from lora_tui import pixels
from lora_tui.core import words
from lora_tui.core.cells import clean, columns, fit, middle
from lora_tui.core.form import Form, templates
from lora_tui.core.history import RunHistory, right_edge
from lora_tui.core.roll import PAGE, Roll
from lora_tui.core.series import Frame, Line, braille, extremes, parts, rounded, smooth, spread
from shared import wire
from shared.errors import LoraError
from tests.tui import standin

# ── charts ──────────────────────────────────────────────────────────────────────────────────────


def dots(rows: list[list[tuple[str, str]]]) -> set[tuple[int, int]]:
    """(column, row) of every dot, from the top left."""
    bits = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
    found = set()
    for y, row in enumerate(rows):
        for x, (char, _) in enumerate(row):
            for dx in range(2):
                for dy in range(4):
                    if char != " " and (ord(char) - 0x2800) & bits[dx][dy]:
                        found.add((x * 2 + dx, y * 4 + dy))
    return found


def test_every_columns_minimum_and_maximum_are_drawn() -> None:
    chance = random.Random(3)
    xs = list(range(10_000))
    ys = [chance.gauss(0, 1) for _ in xs]
    ys[4321], ys[7000] = 9.0, -9.0
    frame = Frame(0, 9_999, -9, 9)
    found = dots(braille([Line(xs, ys, "t")], frame, 50, 10))
    for column, bucket in enumerate(extremes(xs, ys, 0, 9_999, 100)):
        assert bucket is not None
        inside = [y for x, y in zip(xs, ys, strict=True) if min(int(x / 9_999 * 100), 99) == column]
        assert (bucket[1], bucket[2]) == (min(inside), max(inside))
        for y in bucket[1:3]:
            assert (column, round((9 - y) / 18 * 39)) in found


def test_sparse_points_are_joined_and_nan_is_left_out() -> None:
    found = dots(braille([Line([0, 10], [0, 1], "t")], Frame(0, 10, 0, 1), 10, 4))
    assert {column for column, _ in found} == set(range(20))
    rows = sorted({row for _, row in found})
    assert rows == list(range(16))
    assert extremes([1, 2], [math.nan, 5], 0, 4, 1) == [(5, 5, 5, 5)]


def test_smoothing_is_free_of_bias_and_of_gaps() -> None:
    assert smooth([1, 2, 3], [5, 5, 5], 10) == pytest.approx([5, 5, 5])
    dense = smooth(list(range(100)), [1.0] * 50 + [2.0] * 50, 10)[-1]
    sparse = smooth(list(range(0, 100, 3)), [1.0 if x < 50 else 2.0 for x in range(0, 100, 3)], 10)
    assert sparse[-1] == pytest.approx(dense, abs=0.02)
    assert smooth([1, 2], [math.nan, 3], 5) == pytest.approx([math.nan, 3], nan_ok=True)


def test_the_frame_holds_still() -> None:
    assert right_edge(17, 1000) == right_edge(30, 1000)
    assert right_edge(990, 1000) == 1000
    assert all(right_edge(step, 8330) >= step for step in range(0, 8331, 7))
    frame = rounded(spread([Line([0, 1], [0.101, 0.499], "t")], clip=0))
    assert frame.bottom <= 0.101 and frame.top >= 0.499
    assert spread([]) == Frame(0, 1, 0, 1)
    assert spread([Line([1], [2.0], "t")]).top > 2


def test_parts_of_a_bar_add_up_and_show_what_is_there() -> None:
    assert parts([1, 1, 2], 4, 8) == [2, 2, 4]
    assert sum(parts([1, 1, 1], 3, 10)) == 10
    assert parts([0.4, 9], 10, 20)[0] == 1
    assert parts([5], 0, 10) == [0] and parts([5], 5, 0) == [0]


def test_a_rewound_run_repeats_its_steps() -> None:
    def points(*steps: int, time: float) -> list[wire.LivePoint]:
        return [wire.LivePoint(step, 0.1, 1e-4, 0.5, time + step) for step in steps]

    history = RunHistory("r")
    history.take(points(*range(100), time=0))
    history.take(points(60, 61, time=1000))
    assert [p.step for p in history.points] == [*range(60), 60, 61]
    history.replace(points(*range(50), time=0))
    assert [p.step for p in history.points] == [*range(50), *range(50, 62)]
    history.take(points(*range(62, 9000), time=2000))
    assert len(history.points) <= 6000 and history.points[-1].step == 8999
    assert history.speed_line()[0].ys


# ── words and cells ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "text",
    ["plain", "龍の絵がとても長い名前", "🎩🐉🎩🐉🎩🐉", "e\u0301a\u0301", "", "a\nb\tc\x1b[31m"],
)
@pytest.mark.parametrize("width", [0, 1, 2, 5, 9, 30])
def test_columns_stay_straight(text: str, width: int) -> None:
    assert cell_len(fit(text, width)) == width
    assert cell_len(fit(text, width, "right")) == width
    assert cell_len(middle(text, max(width, 3))) <= max(width, 3)
    assert "\x1b" not in clean(text) and "\n" not in clean(text)


def test_columns_share_what_is_left() -> None:
    assert columns([5, 0, 0], 30) == [5, 11, 10]
    assert columns([5, 6], 30) == [5, 6]


def test_numbers_read_well() -> None:
    assert words.count(8330) == "8 330"
    assert words.duration(121) == "2:01" and words.duration(3850) == "1:04:10"
    assert words.duration(None) == "–" and words.duration(4 * 86400) == "4 d 0 h"
    assert words.speed(0.25) == "4.0 s/it" and words.speed(41.2) == "41 it/s"
    assert words.number(1e-4) == "1e-4" and words.number(0.11234) == "0.1123"
    assert words.size(123_456) == "123 kB" and words.size(11e6) == "11.0 MB"


# ── the form ────────────────────────────────────────────────────────────────────────────────────


def test_every_option_survives_the_form() -> None:
    for _, _, recipe in templates():
        assert Form(recipe).recipe() == recipe


def test_what_a_captioner_wrote_is_its_own_until_somebody_has_looked() -> None:
    caption = replace(standin.caption("a cat"), source="captioner", by="ana")
    assert words.author(caption, "ana") == "a captioner"
    assert words.author(replace(caption, state="accepted"), "ana") == "you"
    assert words.author(replace(caption, source="person"), "bob") == "ana"


def test_the_form_says_what_is_wrong_in_words() -> None:
    form = Form()
    form.texts |= {
        "network.rank": "many", "training.epochs": "0", "dataset.resolution": "65",
        "optimizer.learning_rate": "nan", "sample.sampler": "Eule", "output.name": "a/b",
    }  # fmt: skip
    problems = form.problems()
    assert set(problems) == {
        "network.rank", "training.epochs", "dataset.resolution", "optimizer.learning_rate",
        "sample.sampler", "output.name",
    }  # fmt: skip
    assert all("$" not in text and "`" not in text for text in problems.values())
    assert form.steps(40) is None
    assert Form().steps(40) == 400


def test_a_value_is_not_wrong_for_what_the_others_would_be_by_themselves() -> None:
    form = Form()
    form.texts |= {"dataset.random_crop": "yes", "dataset.versions": "4"}
    assert form.problem("dataset.versions") == "" and not form.problems()
    assert form.recipe().dataset.versions == 4
    form.texts["dataset.random_crop"] = "no"
    assert "read only with dataset.random_crop" in form.problems()["dataset.versions"]
    form.texts["dataset.versions"] = "1"
    assert "at least 2" in form.problem("dataset.versions")


# ── the roll ────────────────────────────────────────────────────────────────────────────────────


def roll_of(daemon: standin.Daemon, filter: str = "") -> Roll:
    async def ask(request: wire.ListItems) -> wire.Items:
        daemon.asked.append(request)
        answer: wire.Items = daemon.on_ListItems(request, "ada")[0]
        return answer

    return Roll(ask, "d1", filter)


def test_the_roll_loads_pages_only_when_needed() -> None:
    daemon = standin.Daemon([standin.item(n) for n in range(1000)])
    roll = roll_of(daemon)

    async def drive() -> None:
        await roll.load(0, 0)
        assert roll.total == 1000 and len(daemon.asked) == 1
        assert roll.at(PAGE) is None and roll.missing(PAGE, PAGE)
        await roll.load(900, 999)
        assert len(daemon.asked) == 2
        found = roll.at(999)
        assert found is not None and found.id == "i999"

    asyncio.run(drive())


def test_a_filtered_roll_neither_skips_nor_repeats() -> None:
    daemon = standin.Daemon([standin.item(n) for n in range(650)])
    roll = roll_of(daemon, "state:unreviewed")

    async def drive() -> None:
        seen = []
        place = 0
        while True:
            await roll.load(place, place)
            item = roll.at(place)
            if item is None:
                break
            seen.append(item.id)
            changed = replace(item, caption=replace(item.caption, state="accepted"))
            roll.keep(daemon.put(changed))  # it leaves the daemon's filter at once
            place += 1
        assert seen == [f"i{n}" for n in range(650)]

    asyncio.run(drive())


def test_a_filtered_roll_jumps_and_begins_anew_when_its_list_is_another() -> None:
    daemon = standin.Daemon([standin.item(n) for n in range(650)])
    roll = roll_of(daemon, "number")

    async def drive() -> None:
        await roll.load(0, 0)
        await roll.load(649, 649)
        assert roll.total == 650 and len(daemon.asked) == 2  # not the pages between
        daemon.fill([standin.item(n) for n in range(100, 650)])
        daemon.views.clear()  # a daemon that has been started anew
        await roll.load(300, 300)
        first, middle = roll.at(0), roll.at(300)
        assert roll.total == 550 and first is None
        assert middle is not None and middle.id == "i400"

    asyncio.run(drive())


def test_a_picture_is_found_by_its_name_in_a_few_pages() -> None:
    daemon = standin.Daemon(
        [replace(standin.item(n), name=f"{n:05}.png") for n in range(0, 20_000, 2)]
    )
    roll = roll_of(daemon)

    async def drive() -> None:
        assert await roll.locate("13000.png") == 6500
        assert await roll.locate("13001.png") is None
        assert len(daemon.asked) < 12

    asyncio.run(drive())
    assert asyncio.run(roll_of(standin.Daemon([])).locate("a")) is None


# ── pictures ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("depth", ["full", "256", "16", "none"])
def test_a_picture_fills_its_cells_in_any_number_of_colours(depth: pixels.Depth) -> None:
    picture = pixels.render(standin.png(side=64), 40, 12, depth)
    assert len(picture) == 12
    assert {sum(len(part.text) for part in row) for row in picture} == {24}
    styles = [part.style for row in picture for part in row if part.style]
    coloured = any(style.color or style.bgcolor for style in styles)
    assert coloured is (depth != "none")


def test_a_picture_keeps_its_shape() -> None:
    assert pixels.fitted(512, 512, 80, 20) == (40, 20)
    assert pixels.fitted(1000, 10, 80, 20) == (80, 1)
    assert pixels.fitted(0, 10, 80, 20) == (0, 0)
    assert [pixels.wanted_side(*size) for size in ((30, 15), (60, 40), (300, 90))] == [64, 128, 512]


@pytest.mark.parametrize("blob", [b"", b"not a picture", standin.png()[:60]])
def test_a_broken_picture_is_said(blob: bytes) -> None:
    with pytest.raises(LoraError, match="could not be read"):
        pixels.render(blob, 10, 10, "full")
