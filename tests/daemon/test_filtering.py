"""Filters over the store: what each field finds, lists that stand still, saved filters, tokens."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from lora_daemon import starter, views
from lora_daemon.revisions import put_revision
from lora_daemon.tokens import counter
from shared import wire
from shared.errors import Code, LoraError
from shared.filters import FilterError
from tests.daemon.house import House

# name → (caption, state, by, width, height, problem)
PICTURES: dict[str, tuple[str, wire.CaptionState, str, int, int, str]] = {
    "a/dragon.png": ("a photo of a castle", "unreviewed", "import", 512, 768, ""),
    "a/two.jpg": ("Red Dragon, green eyes,solo", "accepted", "ana", 1024, 512, ""),
    "b/dragon/three.png": ("dragon , Solo\nblue  eyes", "edited", "bob", 400, 400, ""),
    "b/four.png": ("dragonfly, 100% real, 50*, under_score", "flagged", "Anatol", 1920, 1080, ""),
    "b/five.png": (" \n", "unreviewed", "import", 512, 512, ""),
    "b/six.png": ("ÄPFEL, 龍の絵, miku (vocaloid)", "rejected", "ana", 768, 512, ""),
    "c.png": ("", "unreviewed", "import", 0, 0, "is cut off"),
}
NUMBERS = dict(zip(["dragon", "two", "three", "four", "five", "six", "c"], PICTURES, strict=True))


def fill(house: House, dataset: str = "d1", times: int = 1) -> None:
    with house.store.change("test") as change:
        change.execute(
            "INSERT INTO datasets VALUES (?, ?, ?, 0)", (dataset, f"set {dataset}", f"/{dataset}")
        )
        for number in range(times):
            for path, (text, state, by, width, height, problem) in PICTURES.items():
                name = f"{number}/{path}" if times > 1 else path
                item = f"{dataset}:{name}"
                change.execute(
                    "INSERT INTO items (id, dataset, name, content, width, height, size, mtime,"
                    " problem, text, state, rev, source, by, at)"
                    " VALUES (?, ?, ?, '', ?, ?, 9, 0, ?, '', '', 0, '', '', 0)",
                    (item, dataset, name, width, height, problem),
                )
                caption = wire.Caption(text=text, state=state, rev=1, source="file", by=by, at=1.0)
                put_revision(change, 0, item, caption)


@pytest.fixture
async def house(home: Path) -> AsyncIterator[House]:
    made = House(home)
    fill(made)
    yield made
    await made.close()


async def found(house: House, text: str, **more: Any) -> set[str]:
    """The pictures that a filter finds, by the last part of their names."""
    answer = await house.call(wire.ListItems(dataset="d1", filter=text, **more))
    assert answer.total == len(answer.items)
    names = [item.name for item in answer.items]
    assert names == sorted(names)
    return {key for key, name in NUMBERS.items() if name in names}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        # bare words: the caption or the file's name, not the folder's
        ("dragon", "dragon two three four"),
        ("DRAGON castle", "dragon"),
        ("vocaloid", "six"),
        # captions
        ("caption:dragon", "two three four"),
        ('caption:"green eyes"', "two"),
        ("caption:*castle", "dragon"),
        ("caption:castle*", ""),
        ("caption:a?photo*", "dragon"),
        ("caption:äpfel", "six"),
        ("caption:ä*vocaloid\\)", "six"),
        ("caption:龍の", "six"),
        ("caption:100%", "four"),
        ("caption:00%r", ""),
        ("caption:under_", "four"),
        ("caption:d_r", ""),
        ("caption:50\\*", "four"),
        ("caption:/^red.*eyes/", "two"),
        ("caption:/\\bdragon\\b/", "two three"),
        # tags: whole ones, however they are spaced
        ("tag:dragon", "three"),
        ("tag:solo", "two three"),
        ('tag:"blue eyes"', "three"),
        ('tag:"red dragon"', "two"),
        ("tag:*dragon", "two three"),
        ("tag:dragon*", "three four"),
        ("tag:*dragon*", "two three four"),
        ("tag:re*on", "two"),
        ("tag:re*eyes", ""),
        ("tag:ä*el", "six"),
        ("tag:?olo", "two three"),
        ("tag:dragon????", ""),
        ("tag:dragon???", "four"),
        ("tag:dragon?*", "four"),
        ("tag:*", "dragon two three four six"),
        ("tag:/^dragon/", "three four"),
        ("tag:/eyes,/", ""),
        ("tag:äpfel", "six"),
        ("tag:miku?\\(vocaloid\\)", "six"),
        # names and paths
        ("name:dragon", "dragon"),
        ("name:dragon.png", "dragon"),
        ("name:t*.png", "three"),
        ("name:*.jpg", "two"),
        ("name:c.png", "c"),
        ("name:b", ""),
        ("name:/^t/", "two three"),
        ("path:dragon/", "three"),
        ("path:a/*", "dragon two"),
        # states, people, issues
        ("state:edited", "three"),
        ("state:accepted OR state:flagged", "two four"),
        ("edited-by:ana", "two six"),
        ("edited-by:ana*", "two four six"),
        ("issue:no-caption", "five c"),
        ("issue:unusable", "c"),
        ("issue:any", "five c"),
        # numbers; what is not known is no number
        ("size:<512", "three"),
        ("size:512", "dragon two five six"),
        ("size:400..512", "dragon two three five six"),
        ("size:>0 ratio:1", "three five"),
        ("ratio:16:9", "four"),
        ("ratio:1.5..1.7", "six"),
        ("ratio:<1", "dragon"),
        # operators
        ("NOT size:>0", "c"),
        ("NOT (dragon OR issue:any)", "six"),
        ("(tag:solo OR tag:*castle*) NOT edited-by:bob", "dragon two"),
        ("state:edited OR NOT caption:/\\S/", "three five c"),
    ],
)
async def test_a_filter_finds(
    house: House, text: str, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await found(house, text) == set(wanted.split())
    monkeypatch.setattr(views, "MOST_SORTED", 0)  # as in a large dataset
    assert await found(house, text) == set(wanted.split())


async def test_states_and_a_filter_are_both_meant(house: House) -> None:
    assert await found(house, "dragon OR castle", states=["accepted", "edited"]) == {"two", "three"}


async def test_a_caption_that_changes_changes_its_tags(house: House) -> None:
    item = await house.call(wire.GetItem(dataset="d1", item="c.png"))
    assert await found(house, "tag:wyvern") == set()
    change = wire.ChangeCaption(
        dataset="d1", item=item.id, if_rev=item.caption.rev, text="one,\twyvern\r\n, two"
    )
    await house.call(change)
    assert await found(house, "tag:wyvern") == {"c"}
    assert await found(house, "tag:one") == {"c"}


async def test_a_mistake_reaches_the_client_with_its_place(house: House) -> None:
    with pytest.raises(FilterError) as caught:
        await found(house, "dragon tga:x")
    assert caught.value.failure().data == {"start": 7, "end": 10}
    assert caught.value.code is Code.BAD_REQUEST


async def test_pages_are_of_one_list_whatever_changes(house: House) -> None:
    fill(house, "d2", times=40)
    ask = wire.ListItems(dataset="d2", filter="state:unreviewed", limit=7)
    page = await house.call(ask)
    assert page.total == 3 * 40
    seen = list(page.items)
    for item in page.items:  # what is accepted leaves the filter, not the list
        await house.call(wire.ChangeCaption(dataset="d2", item=item.id, if_rev=1, state="accepted"))
    while len(seen) < page.total:
        page = await house.call(wire.msgspec.structs.replace(ask, offset=len(seen), view=page.view))
        seen += page.items
    assert len({item.id for item in seen}) == 120
    assert [item.name for item in seen] == sorted(item.name for item in seen)
    again = await house.call(wire.msgspec.structs.replace(ask, view=page.view, limit=1))
    assert again.items[0].caption.state == "accepted"  # as it is now
    assert (await house.call(ask)).total == 120 - 7


async def test_a_view_is_of_its_question_and_may_be_forgotten(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await house.call(wire.ListItems(dataset="d1", filter="dragon"))
    other = await house.call(wire.ListItems(dataset="d1", filter="tag:solo", view=one.view))
    assert other.view != one.view and other.total == 2
    monkeypatch.setattr(views, "KEPT", 1)
    await house.call(wire.ListItems(dataset="d1", filter="castle"))
    again = await house.call(wire.ListItems(dataset="d1", filter="dragon", view=one.view))
    assert again.view not in ("", one.view) and again.total == one.total


async def test_pictures_that_are_gone_leave_the_list(house: House) -> None:
    ask = wire.ListItems(dataset="d1", filter="path:b/", limit=2)
    page = await house.call(ask)
    assert page.total == 4
    with house.store.change("test") as change:
        change.execute("DELETE FROM items WHERE name = 'b/five.png'")
    page = await house.call(wire.msgspec.structs.replace(ask, view=page.view))
    assert page.total == 3
    assert [item.name for item in page.items] == ["b/dragon/three.png", "b/four.png"]


async def test_a_regular_expression_without_end_is_given_up(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "REGEX_WITHIN", 1.0)
    item = await house.call(wire.GetItem(dataset="d1", item="c.png"))
    await house.call(wire.ChangeCaption(dataset="d1", item=item.id, if_rev=1, text="a" * 60 + "b"))
    began = time.monotonic()
    with pytest.raises(LoraError, match="given up") as caught:
        await found(house, "caption:/^(a+)+$/")
    assert caught.value.code is Code.BAD_REQUEST
    assert time.monotonic() - began < 30
    monkeypatch.setattr(views, "REGEX_WITHIN", 60.0)  # on a busy machine it starts slowly
    assert await found(house, "caption:/^a+b$/") == {"c"}


# ── tokens ──────────────────────────────────────────────────────────────────────────────────────


def vocabulary() -> tuple[bytes, bytes]:
    folder = starter.base_dir() / "tokenizer"
    return (folder / "vocab.json").read_bytes(), (folder / "merges.txt").read_bytes()


TEXTS = [
    "", " ", "a green dragon", "It's  they'll\nsee 1234!? ...", "ÄPFEL äpfel 龍 😀", "x" * 300,
    "miku_(vocaloid), long hair", "é", "<|endoftext|> a", "I'm 'd", "ﬁ ½ ①",
]  # fmt: skip


def test_tokens_are_counted_as_the_text_encoder_gets_them() -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.CLIPTokenizer.from_pretrained(starter.base_dir() / "tokenizer")
    count = counter(*vocabulary())
    assert count(TEXTS) == [len(tokenizer(text).input_ids) - 2 for text in TEXTS]


async def test_tokens_find_long_captions_and_follow_an_edit(house: House) -> None:
    with pytest.raises(LoraError, match="no base yet"):
        await found(house, "tokens:>75")
    await house.domain._library.start()  # registers the starter
    assert await found(house, "tokens:0") == {"five", "c"}
    assert await found(house, "tokens:>75") == set()
    item = await house.call(wire.GetItem(dataset="d1", item="c.png"))
    await house.call(wire.ChangeCaption(dataset="d1", item=item.id, if_rev=1, text="dragon " * 80))
    assert await found(house, "tokens:>75") == {"c"}
    assert await found(house, "tokens:80 OR tokens:0") == {"c", "five"}


async def test_another_tokenizer_counts_anew(house: House, tmp_path: Path) -> None:
    await house.domain._library.start()
    assert await found(house, "tokens:3") == set()  # "a photo of a castle" has five
    folder = tmp_path / "other"
    (folder / "tokenizer").mkdir(parents=True)
    words = {"a</w>": 0, "<|endoftext|>": 1, **{chr(n): n for n in range(33, 127)}}
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps(words))
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    base = wire.BaseModel(
        name="zebra", path=str(folder), family="sd1", resolution=64, size=1, problem=""
    )
    with house.store.change("test") as change:
        change.execute("INSERT INTO bases VALUES (?, ?)", ("zebra", wire.encoder.encode(base)))
    counted = counter(
        *((folder / "tokenizer" / n).read_bytes() for n in ("vocab.json", "merges.txt"))
    )
    (number,) = counted(["a photo of a castle"])
    assert number > 5  # letter by letter
    assert "dragon" in await found(house, f"tokens:{number}")
    (folder / "tokenizer" / "vocab.json").write_text("never JSON")
    with pytest.raises(LoraError, match="tokenizer in"):
        await found(house, "tokens:3")


async def test_what_an_import_brings_is_counted_ahead(house: House) -> None:
    await house.domain._library.start()
    house.domain._tokens.start()
    house.domain._tokens.wake()
    await house.domain._tokens.complete("d1")
    rows = house.store.query("SELECT count(*) FROM items WHERE tokens IS NULL")
    assert rows[0][0] == 0


# ── saved filters ───────────────────────────────────────────────────────────────────────────────


async def test_a_saved_filter_is_everybodys(house: House) -> None:
    saved = await house.call(wire.SaveFilter(name="  to  do ", filter="NOT state:accepted"))
    assert (saved.name, saved.by) == ("to do", "tester")
    assert wire.FilterSaved(saved=saved) in [entry.event for entry in house.heard]
    assert house.domain.state().filters == [saved]
    newer = await house.call(wire.SaveFilter(name="to do", filter="dragon"), by="ana")
    assert house.domain.state().filters == [newer]
    with pytest.raises(LoraError, match="Did you mean to do") as caught:
        await house.call(wire.RemoveFilter(name="todo"))
    assert caught.value.code is Code.NOT_FOUND
    await house.call(wire.RemoveFilter(name="to do"))
    assert house.domain.state().filters == []
    assert wire.FilterRemoved(name="to do") in [entry.event for entry in house.heard]


@pytest.mark.parametrize(
    ("name", "text"),
    [("", "a"), (" ", "a"), ("x" * 81, "a"), ("a\x1bb", "a"), ("a", " "), ("a", "(")],
)
async def test_what_is_no_filter_or_no_name_is_not_saved(
    house: House, name: str, text: str
) -> None:
    with pytest.raises(LoraError) as caught:
        await house.call(wire.SaveFilter(name=name, filter=text))
    assert caught.value.code is Code.BAD_REQUEST
    assert house.domain.state().filters == []
