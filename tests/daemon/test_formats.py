"""Every way in and out: tables of captions, archives, parquet; and back with the same captions."""

from __future__ import annotations

import asyncio
import json
import os
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from shared import wire
from shared.client import Client
from shared.errors import Code, LoraError
from tests.daemon.process import pictures
from tests.daemon.test_datasets import items
from tests.daemon.waiting import until, written

ODD = 'a "dragon", 龍🐉\nwith\r\ntwo\tlines, \\(sic\\)'


async def taken(client: Client, path: Path, **options: Any) -> wire.Imported:
    return await client.call(wire.ImportDataset(path=str(path), **options))


async def captions(client: Client, dataset: wire.Dataset) -> dict[str, str]:
    return {name: item.caption.text for name, item in (await items(client, dataset.id)).items()}


def bare(folder: Path, count: int = 3) -> Path:
    """Pictures without caption files."""
    pictures(folder, count)
    for file in folder.glob("*.txt"):
        file.unlink()
    return folder


# ── tables of captions ──────────────────────────────────────────────────────────────────────────


async def test_an_imagefolder_gives_captions_its_side_cars_go_before_and_edits_stay_out_of_it(
    client: Client, tmp_path: Path
) -> None:
    folder = bare(tmp_path / "set")
    names = sorted(file.name for file in folder.iterdir())
    table = folder / "metadata.jsonl"
    table.write_text("".join(json.dumps({"file_name": n, "text": f"of {n}"}) + "\n" for n in names))
    (folder / names[1]).with_suffix(".txt").write_text("the side-car's")
    before = table.read_bytes()
    answer = await taken(client, folder)
    assert await captions(client, answer.dataset) == {
        names[0]: f"of {names[0]}", names[1]: "the side-car's", names[2]: f"of {names[2]}",
    }  # fmt: skip
    assert not answer.warnings and answer.dataset.empty == 0

    found = await items(client, answer.dataset.id)
    await client.call(
        wire.ChangeCaption(
            dataset=answer.dataset.id, item=found[names[0]].id, if_rev=1, text="mine"
        )
    )
    await written(client, (folder / names[0]).with_suffix(".txt"), "mine")
    table.write_text(before.decode().replace(f"of {names[2]}", "better"))
    again = await taken(client, folder)
    assert await captions(client, again.dataset) == {
        names[0]: "mine", names[1]: "the side-car's", names[2]: "better",
    }  # fmt: skip
    assert (again.added, again.updated) == (0, 1)


async def test_a_table_in_a_folder_within_and_a_csv_of_another_column(
    client: Client, tmp_path: Path
) -> None:
    folder = tmp_path / "set"
    inner = bare(folder / "train", 2)
    first, second = sorted(file.name for file in inner.iterdir())
    (inner / "metadata.csv").write_text(
        f'file_name,label,en_text\n{first},x,"one, two"\n{second},y,"say ""hi"""\n'
    )
    answer = await taken(client, folder, text_column="en_text")
    assert await captions(client, answer.dataset) == {
        f"train/{first}": "one, two", f"train/{second}": 'say "hi"',
    }  # fmt: skip
    unsure = await taken(client, folder, name="set")
    assert any("--text-column" in warning and "en_text" in warning for warning in unsure.warnings)
    assert "one, two" in (await captions(client, unsure.dataset)).values()  # nothing is lost


async def test_kohyas_metadata_is_found_by_path_name_or_stem(
    client: Client, tmp_path: Path
) -> None:
    folder = bare(tmp_path / "set", 4)
    a, b, c, d = sorted(file.name for file in folder.iterdir())
    table = {
        str(folder / a): {"caption": "by path"},
        b: {"caption": "a girl", "tags": "1girl, solo"},
        Path(c).stem: {"tags": "1boy"},
        f"/content/elsewhere/{d}": {"caption": "from another machine", "train_resolution": [8, 8]},
        "gone": {"caption": "of nothing"},
    }
    (tmp_path / "elsewhere.json").write_text(json.dumps(table))
    answer = await taken(client, folder, captions=str(tmp_path / "elsewhere.json"))
    assert list((await captions(client, answer.dataset)).values()) == [
        "by path", "a girl, 1girl, solo", "1boy", "from another machine",
    ]  # fmt: skip
    assert any("not here: gone" in warning for warning in answer.warnings)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("metadata.jsonl", "{", "line 1, is not JSON"),
        ("metadata.jsonl", "[]", "is not an object"),
        ("metadata.jsonl", '{"file_name": "nobody.png", "text": "x"}', "names no picture"),
        ("metadata.jsonl", '{"text": "x"}', "no column file_name"),
        ("metadata.csv", "file_name,a,b\nx,y,z\n", "no column text, caption or prompt"),
        ("meta_cap.json", "{", "is not JSON"),
        ("meta_cap.json", "[]", "no object"),
        ("metadata.jsonl", b"\xff\xfe", "is not UTF-8"),
    ],
)
async def test_a_table_that_cannot_be_used_is_said_and_the_pictures_taken(
    client: Client, tmp_path: Path, name: str, content: str | bytes, said: str
) -> None:
    folder = bare(tmp_path / "set")
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    answer = await taken(client, folder)
    assert answer.added == 3 and any(said in warning for warning in answer.warnings)
    (folder / name).rename(tmp_path / name)
    with pytest.raises(LoraError, match=said):  # one that was named must be right
        await taken(client, folder, captions=str(tmp_path / name))


# ── out and in again ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("form", ["folder", "imagefolder", "csv", "kohya", "zip", "tar", "parquet"])
async def test_a_round_trip_gives_back_the_same_captions(
    client: Client, tmp_path: Path, form: wire.ExportFormat
) -> None:
    folder = tmp_path / "set"
    pictures(folder / "deep", 3)
    (dataset,) = [(await taken(client, folder)).dataset]
    found = list((await items(client, dataset.id)).values())
    await client.call(wire.ChangeCaption(dataset=dataset.id, item=found[0].id, if_rev=1, text=ODD))
    await client.call(
        wire.ChangeCaption(dataset=dataset.id, item=found[2].id, if_rev=1, state="rejected")
    )
    suffix = {"zip": ".zip", "tar": ".tar", "parquet": ".parquet"}.get(form, "")
    path = tmp_path / f"out{suffix}"
    exported = await client.call(
        wire.ExportDataset(dataset=dataset.id, path=str(path), format=None if suffix else form)
    )
    assert (exported.format, exported.pictures, exported.captions) == (form, 2, 2)
    assert sorted(os.listdir(tmp_path)) == [  # noqa: PTH208
        "home",
        path.name,
        "set",
    ]
    back = (await taken(client, path)).dataset
    expected = [ODD, found[1].caption.text]
    assert list((await captions(client, back)).values()) == expected
    contents = [item.content for item in (await items(client, back.id)).values()]
    assert contents == [item.content for item in found[:2]]  # these hold no metadata
    assert (await taken(client, path, name=back.name)).added == 0  # again: nothing twice

    with pytest.raises(LoraError, match="overwrites nothing") as caught:
        await client.call(wire.ExportDataset(dataset=dataset.id, path=str(path)))
    assert caught.value.code is Code.ALREADY_EXISTS


async def test_only_what_a_filter_finds_is_exported(client: Client, tmp_path: Path) -> None:
    pictures(tmp_path / "set", 3)
    dataset = (await taken(client, tmp_path / "set")).dataset
    one = next(iter((await items(client, dataset.id)).values()))
    ask = wire.ExportDataset(dataset="set", path=str(tmp_path / "out"), filter=f"name:{one.name}")
    assert (await client.call(ask)).pictures == 1
    with pytest.raises(LoraError, match="nothing to export"):
        await client.call(wire.ExportDataset(dataset="set", path="/x/y", filter="state:flagged"))


async def test_names_that_differ_in_case_or_accents_only_are_made_to_differ(
    client: Client, tmp_path: Path
) -> None:
    folder = pictures(tmp_path / "set", 1)
    picture = (folder / "000.png").read_bytes()
    for name in ("A", "a", "caf\u00e9", "cafe\u0301"):  # all of them in one folder here
        (folder / f"{name}.png").write_bytes(picture + name.encode())
        (folder / f"{name}.txt").write_text(f"of {name}")
    first = await taken(client, folder)
    assert "A and a differ in case only" in " ".join(first.warnings)
    before = await captions(client, first.dataset)
    assert len(before) == 5 and before["a.png"] == "of a" and before["A.png"] == "of A"
    done = await client.call(wire.ExportDataset(dataset="set", path=str(tmp_path / "out")))
    assert done.pictures == 5 and not done.warnings
    assert done.renamed == [("a.png", "a-2.png"), ("caf\u00e9.png", "caf\u00e9-2.png")]
    assert (tmp_path / "out" / "a-2.txt").read_text() == "of a"


async def test_an_export_that_the_disk_refuses_leaves_nothing(
    client: Client, tmp_path: Path
) -> None:
    pictures(tmp_path / "set", 3)
    await taken(client, tmp_path / "set")
    with pytest.raises(LoraError) as caught:
        await client.call(wire.ExportDataset(dataset="set", path="/proc/nowhere/out"))
    assert caught.value.code is Code.STORAGE


# ── archives and tables from elsewhere ──────────────────────────────────────────────────────────


async def test_what_an_archive_must_not_do(client: Client, tmp_path: Path) -> None:
    pictures(tmp_path / "set", 1)
    picture = next((tmp_path / "set").glob("*.png")).read_bytes()
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr("../../outside.png", picture)
        archive.writestr("/outside.png", picture)
        archive.writestr("__MACOSX/._good.png", b"x")
        archive.writestr("run.sh", "rm -rf /")
        archive.writestr("in/good.png", picture)
        archive.writestr("in/good.txt", "a good one")
    answer = await taken(client, tmp_path / "bad.zip")
    assert await captions(client, answer.dataset) == {"in/good.png": "a good one"}
    walked = [(len(folders), sorted(files)) for _, folders, files in os.walk(answer.dataset.path)]
    assert walked == [(1, [".lora-tui-origin"]), (0, ["good.png", "good.txt"])]
    with tarfile.open(tmp_path / "links.tgz", "w:gz") as archive:
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(LoraError, match="no pictures"):
        await taken(client, tmp_path / "links.tgz")


async def test_an_edited_caption_survives_unpacking_again_and_the_name_is_taken_once(
    client: Client, tmp_path: Path
) -> None:
    pictures(tmp_path / "set", 2)
    await taken(client, tmp_path / "set")
    await client.call(wire.ExportDataset(dataset="set", path=str(tmp_path / "one.zip")))
    dataset = (await taken(client, tmp_path / "one.zip")).dataset
    item = next(iter((await items(client, dataset.id)).values()))
    await client.call(wire.ChangeCaption(dataset=dataset.id, item=item.id, if_rev=1, text="mine"))
    await written(client, (Path(dataset.path) / item.name).with_suffix(".txt"), "mine")
    await taken(client, tmp_path / "one.zip")
    assert (await items(client, dataset.id))[item.name].caption.text == "mine"
    (tmp_path / "two").mkdir()
    (tmp_path / "one.zip").rename(tmp_path / "two" / "one.zip")
    with pytest.raises(LoraError, match="another name"):
        await taken(client, tmp_path / "two" / "one.zip")


async def test_a_copy_is_asked_for(client: Client, tmp_path: Path) -> None:
    pictures(tmp_path / "set", 2)
    dataset = (await taken(client, tmp_path / "set", copy=True, name="mine")).dataset
    assert Path(dataset.path).is_relative_to(Path(dataset.path).parents[1])
    assert dataset.items == 2 and not dataset.path.startswith(str(tmp_path / "set"))


@pytest.mark.parametrize("name", ["cut.zip", "cut.tar", "cut.parquet", "cut.arrow"])
async def test_a_damaged_file_is_said_to_be(client: Client, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"PAR1 or PK\x03\x04 and then nothing")
    with pytest.raises(LoraError, match=r"damaged|no table|cut short") as caught:
        await taken(client, tmp_path / name)
    assert caught.value.code is Code.INVALID_FILE


async def test_a_parquet_with_unusual_columns_says_which_there_are(
    client: Client, tmp_path: Path
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pictures(tmp_path / "set", 2)
    data = [file.read_bytes() for file in sorted((tmp_path / "set").glob("*.png"))]
    columns = {"photo": data, "en": ["one", "two"], "zh": ["一", "二"]}
    pq.write_table(pa.table(columns), tmp_path / "odd.parquet")
    with pytest.raises(LoraError, match=r"It has en, zh.*--text-column"):
        await taken(client, tmp_path / "odd.parquet")
    answer = await taken(client, tmp_path / "odd.parquet", text_column="zh")
    assert list((await captions(client, answer.dataset)).values()) == ["一", "二"]
    with pytest.raises(LoraError, match=r"photo, en, zh.*--image-column"):
        await taken(client, tmp_path / "odd.parquet", image_column="picture", text_column="zh")
    folder = tmp_path / "data"
    folder.mkdir()
    (tmp_path / "odd.parquet").rename(folder / "train-00000.parquet")
    many = await taken(client, folder, name="folder of tables", text_column="en")
    assert many.added == 2


async def test_a_cancelled_unpacking_goes_on_later(client: Client, tmp_path: Path) -> None:
    pictures(tmp_path / "set", 60)
    with tarfile.open(tmp_path / "big.tar", "w") as archive:
        archive.add(tmp_path / "set", "set")
    begun = asyncio.Event()

    def progress(done: int, total: int, message: str) -> None:
        if "unpacking" in message:
            begun.set()

    work = asyncio.create_task(
        client.call(wire.ImportDataset(path=str(tmp_path / "big.tar")), on_progress=progress)
    )
    await begun.wait()
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)

    await until(client, lambda status: all(job.state != "running" for job in status.jobs))
    assert (await taken(client, tmp_path / "big.tar")).dataset.items == 60
