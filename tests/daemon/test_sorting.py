"""Pictures in an order, chosen by their places in it, and the strip of their states."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lora_daemon import views
from shared import wire
from shared.errors import Code, LoraError
from tests.daemon.house import House

# name: (width, height, tokens, state, changed)
PICTURES: dict[str, tuple[int, int, int, wire.CaptionState, float]] = {
    "a/z.png": (100, 100, 7, "accepted", 3.0),
    "b/a.png": (300, 100, 9, "unreviewed", 1.0),
    "b/c.png": (50, 200, 9, "flagged", 4.0),
    "c.png": (0, 0, 1, "unreviewed", 2.0),
}
ORDERS: dict[wire.SortBy, str] = {
    "path": "a/z b/a b/c c",
    "name": "b/a b/c c a/z",
    "size": "b/c a/z b/a c",  # the last has none, in either direction
    "ratio": "b/c a/z b/a c",
    "tokens": "c a/z b/a b/c",
    "state": "b/a c a/z b/c",
    "changed": "b/a c a/z b/c",
}
DOWN: dict[wire.SortBy, str] = {  # alike ones in order of their paths all the same
    "path": "c b/c b/a a/z",
    "name": "a/z b/c c b/a",
    "size": "a/z b/a b/c c",
    "ratio": "b/a a/z b/c c",
    "tokens": "b/a b/c a/z c",
    "state": "b/c a/z b/a c",
    "changed": "b/c a/z c b/a",
}


@pytest.fixture
async def house(home: Path) -> AsyncIterator[House]:
    made = House(home)
    with made.store.change("test") as change:
        change.execute("INSERT INTO datasets VALUES ('d1', 'set', '/d1', 0)")
        for name, (width, height, tokens, state, at) in PICTURES.items():
            change.execute(
                "INSERT INTO items (id, dataset, name, content, width, height, size, mtime,"
                " problem, text, state, rev, source, by, at)"
                " VALUES (?, 'd1', ?, '', ?, ?, 9, 0, '', 'a', ?, 1, 'file', 'import', ?)",
                (name, name, width, height, state, at),
            )
            change.execute("UPDATE items SET tokens = ? WHERE id = ?", (tokens, name))
            change.execute(
                "INSERT INTO revisions VALUES (?, 1, 'a', ?, 'file', 'import', ?, 0)",
                (name, state, at),
            )

    async def complete(dataset: str) -> None: ...

    made.domain._views._tokens.complete = complete  # type: ignore[method-assign]
    yield made
    await made.close()


async def listed(house: House, sort: wire.Sort, **more: str) -> tuple[str, wire.Items]:
    answer = await house.call(wire.ListItems(dataset="set", sort=sort, **more))  # type: ignore[arg-type]
    return " ".join(item.name.removesuffix(".png") for item in answer.items), answer


@pytest.mark.parametrize("by", wire.SORTS)
async def test_pictures_in_an_order(house: House, by: wire.SortBy) -> None:
    assert (await listed(house, wire.Sort(by=by)))[0] == ORDERS[by]
    assert (await listed(house, wire.Sort(by=by, descending=True)))[0] == DOWN[by]


async def test_an_order_stands_still_and_says_where_a_picture_is(house: House) -> None:
    sort = wire.Sort(by="state")
    names, first = await listed(house, sort, filter="NOT state:flagged", at="a/z.png")
    assert (names, first.place) == ("b/a c a/z", 2)
    await house.call(wire.ChangeCaption(dataset="d1", item="b/a.png", if_rev=1, state="flagged"))
    names, again = await listed(
        house, sort, filter="NOT state:flagged", view=first.view, at="b/c.png"
    )
    assert (names, again.view, again.place) == ("b/a c a/z", first.view, -1)


async def test_what_is_chosen_by_places_changes_as_one_and_goes_back_as_one(house: House) -> None:
    _, answer = await listed(house, wire.Sort(by="tokens", descending=True))
    ask = wire.PreviewEdit(
        dataset="d1", state="rejected", view=answer.view, places=[(0, 1), (3, 3)]
    )
    preview = await house.call(ask)
    assert (preview.changed, preview.unchanged) == (3, 0)
    await house.call(wire.ApplyEdit(preview=preview.preview))
    strip = await house.call(wire.CountStates(dataset="d1", sort=wire.Sort(by="path"), parts=2))
    flagged, rejected = (wire.CAPTION_STATES.index(s) for s in ("accepted", "rejected"))
    assert [part[flagged] for part in strip.parts] == [1, 0]
    assert [part[rejected] for part in strip.parts] == [1, 2]
    undone = await house.call(wire.UndoCaption(dataset="d1"))
    assert undone.changed == 3
    assert {i.name: i.caption.state for i in (await listed(house, wire.Sort()))[1].items} == {
        name: state for name, (_, _, _, state, _) in PICTURES.items()
    }


async def test_places_in_a_list_that_is_forgotten_change_nothing(house: House) -> None:
    _, answer = await listed(house, wire.Sort(by="name"))
    for last in (4, -1):
        ask = wire.PreviewEdit(dataset="d1", state="rejected", view=answer.view, places=[(0, last)])
        with pytest.raises(LoraError) as caught:
            await house.call(ask)
        assert caught.value.code is Code.BAD_REQUEST
    for number in range(views.KEPT):
        await listed(house, wire.Sort(by="size"), filter=f"tokens:<{number + 100}")
    ask = wire.PreviewEdit(dataset="d1", state="rejected", view=answer.view, places=[(0, 0)])
    with pytest.raises(LoraError, match="Choose them again") as caught:
        await house.call(ask)
    assert caught.value.code is Code.NOT_FOUND


async def test_a_strip_has_as_many_parts_as_there_are_pictures_at_most(house: House) -> None:
    strip = await house.call(wire.CountStates(dataset="d1", parts=500))
    assert [sum(part) for part in strip.parts] == [1, 1, 1, 1]
    empty = await house.call(wire.CountStates(dataset="d1", filter="nothing", parts=500))
    assert empty.parts == []
    with pytest.raises(LoraError):
        await house.call(wire.CountStates(dataset="d1", parts=0))
