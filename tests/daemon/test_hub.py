"""Models from the Hub, through its own library, from a Hub on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lora_daemon.download import fetch
from lora_daemon.families import SD1
from lora_daemon.hub import chosen
from shared import wire
from shared.errors import Code, LoraError
from shared.hub_ids import from_hub
from shared.wire import FromHub
from tests.daemon.fake_hub import COMMIT, Hub
from tests.daemon.house import House, hollow_base
from tests.daemon.process import pictures


@pytest.fixture(autouse=True)
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of its own, and nothing told by the environment."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    for name in ("HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    folder = hollow_base(tmp_path / "source")
    files = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
    files |= {"model_index.json": b"{}", "README.md": b"#", "unet/model.ckpt": b"\x80\x02"}
    with Hub({"me/folder": files, "me/empty": {"a.ckpt": b""}}, token="secret").served() as served:
        yield served


async def _add(house: House, hub: Hub, name: str = "me/folder", **more: object) -> wire.BaseModel:
    options: dict[str, object] = {"token": "secret", "mirror": hub.address, **more}
    return await house.call(wire.AddBase(hub=FromHub(id=name, **options)))  # type: ignore[arg-type]


async def test_a_hub_id_becomes_a_base_and_only_what_it_needs_is_fetched(
    house: House, hub: Hub
) -> None:
    base = await _add(house, hub)
    assert (base.name, base.family, base.hub) == ("folder", "sd1", f"me/folder@{COMMIT}")
    assert "/snapshots/" in base.path
    assert not any("README" in asked or "ckpt" in asked for asked in hub.asked)
    (job,) = [job for job in house.domain.status().jobs if job.kind == "download"]
    assert (job.state, job.title) == ("done", "me/folder") and job.done == job.total > 0
    assert not any("secret" in repr(event) for event in house.heard)


async def test_what_was_fetched_is_there_without_a_network(house: House, hub: Hub) -> None:
    first = await _add(house, hub)
    hub.asked.clear()
    again = await _add(house, hub, offline=True, mirror="")
    assert again.path == first.path and again.hub == first.hub and not hub.asked


async def test_it_is_told_how_far_a_large_file_is() -> None:
    heard: list[int] = []
    with Hub({"me/large": {"a.safetensors": bytes(25_000_000)}}).served() as hub:
        wanted = FromHub(id="me/large", mirror=hub.address)
        await fetch("lora_daemon.hub", wanted, lambda done, _total, _file: heard.append(done))
    assert heard == sorted(heard) and heard[-1] == 25_000_000
    assert any(0 < done < 25_000_000 for done in heard)


@pytest.mark.parametrize(
    ("name", "options", "code", "what"),
    [
        ("me/none", {}, Code.NOT_FOUND, "no model me/none"),
        ("me/folder", {"token": ""}, Code.NOT_FOUND, "HF_TOKEN"),
        ("me/folder", {"revision": "v9"}, Code.NOT_FOUND, "no revision 'v9'"),
        ("me/folder", {"offline": True}, Code.NOT_FOUND, "not in this machine's cache"),
        ("me/empty", {}, Code.INVALID_FILE, "pickles"),
        ("me/folder", {"mirror": "http://127.0.0.1:9"}, Code.UNREACHABLE, "--mirror"),
        ("me", {}, Code.NOT_FOUND, "me"),
    ],
)
async def test_what_goes_wrong_is_said_with_what_to_do(
    house: House, hub: Hub, name: str, options: dict[str, object], code: Code, what: str
) -> None:
    with pytest.raises(LoraError) as refused:
        await _add(house, hub, name, **options)
    assert refused.value.code is code and what in refused.value.message
    (job,) = [job for job in house.domain.status().jobs if job.kind == "download"]
    assert job.state == "failed"


def test_half_precision_is_taken_where_there_is_one() -> None:
    names = [
        "model_index.json", "scheduler/scheduler_config.json", "tokenizer/vocab.json",
        "unet/config.json", "unet/diffusion_pytorch_model.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors", "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "vae/config.json", "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/config.json", "text_encoder/model-00001-of-00002.safetensors",
        "text_encoder/model-00002-of-00002.safetensors",
        "text_encoder/model.safetensors.index.json", "text_encoder/pytorch_model.bin",
        "v1-5-pruned.safetensors", "safety_checker/model.safetensors", "safety_checker/config.json",
    ]  # fmt: skip
    assert sorted(chosen(names, FromHub(id="a/b"))) == sorted(
        name
        for name in names
        if not name.endswith((".bin", "pruned.safetensors", "non_ema.safetensors"))
        and name != "unet/diffusion_pytorch_model.safetensors"
        and "safety" not in name
    )


def test_of_several_files_one_must_be_named() -> None:
    names = ["a.safetensors", "b.safetensors", "c.ckpt"]
    with pytest.raises(LoraError, match=r"--file: a\.safetensors, b\.safetensors"):
        chosen(names, FromHub(id="a/b"))
    assert chosen(names, FromHub(id="a/b", file="b.safetensors")) == ["b.safetensors"]
    assert chosen(names[1:], FromHub(id="a/b")) == ["b.safetensors"]
    with pytest.raises(LoraError, match="has no file x"):
        chosen(names, FromHub(id="a/b", file="x"))


def test_the_families_parts_are_all_fetched() -> None:
    names = [f"{part}/config.json" for part in SD1.parts] + ["model_index.json"]
    assert set(chosen(names, FromHub(id="a/b"))) == set(names)


def _parquet(folder: Path) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pictures(folder / "source", 3)
    files = sorted((folder / "source").glob("*.png"))
    images = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
    texts = [f"a drawing of {file.stem}" for file in files]
    pq.write_table(pa.table({"image": images, "text": texts}), folder / "train.parquet")
    return (folder / "train.parquet").read_bytes()


async def test_a_dataset_of_the_hub_becomes_a_dataset_here_and_is_fetched_once(
    house: House, tmp_path: Path
) -> None:
    files = {"data/train-00000-of-00001.parquet": _parquet(tmp_path), "README.md": b"#"}
    several = {"a.zip": b"", "b.zip": b""}
    with Hub({"me/pics": files, "me/zips": several, "me/text": {"a.csv": b""}}).served() as hub:

        async def taken(name: str, **more: object) -> wire.Imported:
            options: dict[str, object] = {"mirror": hub.address, "kind": "dataset", **more}
            wanted = FromHub(id=name, **options)  # type: ignore[arg-type]
            return await house.call(wire.ImportDataset(hub=wanted))

        first = await taken("me/pics")
        assert (first.dataset.name, first.added, first.dataset.empty) == ("pics", 3, 0)
        assert not any("README" in asked for asked in hub.asked)
        again = await taken("me/pics", offline=True)
        assert (again.dataset.id, again.added, again.updated) == (first.dataset.id, 0, 0)
        for name, said in (
            ("me/zips", "Say which"),
            ("me/text", "no pictures"),
            ("me/x", "no da"),
        ):
            with pytest.raises(LoraError, match=said):
                await taken(name)
        with pytest.raises(LoraError, match="in their path"):
            await taken("me/pics", file="test")


@pytest.mark.parametrize(
    ("typed", "name", "revision"),
    [
        ("hf:me/pics", "me/pics", ""),
        ("me/pics@v2", "me/pics", "v2"),
        ("https://huggingface.co/datasets/me/pics", "me/pics", ""),
        ("hf:nobody", None, ""),
        ("/a/b", None, ""),
    ],
)
def test_what_people_type_for_the_hub(typed: str, name: str | None, revision: str) -> None:
    found = from_hub(typed, "dataset")
    assert (found and (found.id, found.revision)) == (name and (name, revision))
