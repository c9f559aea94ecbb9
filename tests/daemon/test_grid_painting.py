"""Grids: painted once, cut short and gone on with, laid out on one sheet."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace
from PIL import Image

from lora_tui.commands import quick
from shared import wire
from shared.errors import Code, LoraError
from shared.pictures import LoraUse, PictureSpec
from tests.daemon.house import House, opened, with_fake_worker


@pytest.fixture
async def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    with_fake_worker(monkeypatch, tmp_path, "begun")
    async with opened(tmp_path, base=True) as house:
        yield house


def ask(tmp_path: Path, *axes: str, steps: int = 5) -> wire.PaintGrid:
    path = tmp_path / "ink.safetensors"
    if not path.exists():
        path.write_bytes(b"of no interest to a worker that paints nothing")
    spec = PictureSpec(
        base="base", prompt="a red house", steps=steps, loras=[LoraUse(lora=str(path))]
    )
    return wire.PaintGrid(spec=spec, axes=list(axes))


def begun(tmp_path: Path) -> int:
    log = tmp_path / "begun"
    return len(log.read_text().splitlines()) if log.exists() else 0


async def test_a_grid_is_painted_once_and_a_value_more_paints_only_what_is_new(
    house: House, tmp_path: Path
) -> None:
    made = await house.call(ask(tmp_path, "seed=1,2", "weight:ink=0,1"))
    assert (made.pictures, made.painted, begun(tmp_path)) == (4, 4, 4)
    again = await house.call(ask(tmp_path, "seed=1,2", "weight:ink=0,1"))
    assert (again.painted, again.picture) == (0, made.picture)  # the picture that there is
    assert [(job.done, job.total) for job in house.domain._jobs.all()] == [(4, 4), (4, 4)]
    more = await house.call(ask(tmp_path, "seed=1,2,3", "weight:ink=0,1"))
    assert (more.pictures, more.painted, begun(tmp_path)) == (6, 2, 6)
    assert more.folder == made.folder and more.picture.path != made.picture.path
    assert [p.path for p in house.domain.state().pictures] == [
        made.picture.path, more.picture.path
    ]  # fmt: skip


async def test_another_file_under_the_loras_name_is_painted_anew(
    house: House, tmp_path: Path
) -> None:
    await house.call(ask(tmp_path, "seed=1,2"))
    (tmp_path / "ink.safetensors").write_bytes(b"trained again, and longer")
    assert (await house.call(ask(tmp_path, "seed=1,2"))).painted == 2


async def test_the_sheet_has_a_place_for_every_picture_and_a_list_of_them(
    house: House, tmp_path: Path
) -> None:
    made = await house.call(ask(tmp_path, "seed=1,2", "cfg=3,5,7", "prompt=red,blue"))
    sheet = Path(made.picture.path)
    with Image.open(sheet) as opened:
        assert opened.size == (made.picture.width, made.picture.height)
        assert "cfg 3, cfg 5, cfg 7" in opened.text["parameters"]  # type: ignore[attr-defined]
        grey = sum(count for count, colour in opened.getcolors(100_000) if colour == (128,) * 3)
    assert grey >= 12 * 64  # twelve pictures of 8 × 8 px, and what the letters have of it
    listed = json.loads(sheet.with_suffix(".json").read_text())
    assert len(listed) == 12
    assert {one["file"] for one in listed} <= {path.name for path in sheet.parent.iterdir()}
    assert listed[-1]["labels"] == ["seed 2", "cfg 7", "blue"]
    assert listed[-1]["spec"]["prompt"] == "a blue house"


async def test_a_grid_given_up_goes_on_where_it_was(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_WORKER", "hold")  # more than 6 steps: waits to be cancelled, once
    asked = ask(tmp_path, "steps=5,20,6")
    painting = asyncio.create_task(house.call(asked))
    await house.until(lambda: begun(tmp_path) == 2)
    with pytest.raises(LoraError, match="is being painted already") as refused:
        await house.call(asked)
    assert refused.value.code is Code.BUSY
    painting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await painting
    job = next(job for job in reversed(house.domain.status().jobs) if job.kind == "grid")
    assert (job.state, job.message.partition(" are kept")[0]) == ("cancelled", "1 of 3 pictures")
    made = await house.call(asked)
    assert (made.pictures, made.painted) == (3, 2)


async def test_quick_follows_a_grid_that_another_paints_and_goes_on_with_it(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_WORKER", "hold")  # more than 6 steps: waits to be cancelled, once
    monkeypatch.setattr(quick, "LOOK_AGAIN", 0.01)
    asked = replace(ask(tmp_path, "steps=5,20,6"), name="quick r0001")
    painting = asyncio.create_task(house.call(asked))
    await house.until(lambda: begun(tmp_path) == 2)
    seen: list[tuple[int, int]] = []

    async def call(request: wire.Request[Any], **_: object) -> Any:
        return house.domain.status() if request == wire.GetStatus() else await house.call(request)

    here: Any = SimpleNamespace(report=lambda done, total, _: seen.append((done, total)))
    client: Any = SimpleNamespace(call=call)
    again = asyncio.create_task(quick.after_another(here, client, asked, "grid quick-r0001"))
    await house.until(lambda: bool(seen))
    assert seen[0] == (1, 3) and not again.done()
    painting.cancel()
    made = await again
    assert (made.pictures, made.painted) == (3, 2)


async def test_an_axis_that_cannot_be_is_refused_before_anything_is_painted(
    house: House, tmp_path: Path
) -> None:
    for axis, code in (("weight:pencil=1", Code.BAD_REQUEST), ("base=nowhere", Code.NOT_FOUND)):
        with pytest.raises(LoraError) as refused:
            await house.call(ask(tmp_path, "seed=1", axis))
        assert refused.value.code is code
    assert not begun(tmp_path)
    assert not (house.workspace.outputs / "grids").exists()
