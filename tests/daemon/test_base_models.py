"""Bases in the daemon: one file or a folder, looked over, told what they predict, forgotten."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lora_daemon import bases, starter
from lora_daemon.families import SD1, SD2, SDXL
from shared import wire
from shared.errors import Code, LoraError
from shared.state import apply
from tests.daemon.house import House, hollow_base
from tests.engine.full_size import write_hollow


async def test_one_file_is_a_base_called_as_the_file(house: House, tmp_path: Path) -> None:
    path = write_hollow(tmp_path / "noob.safetensors", SDXL, {"v_pred": (), "ztsnr": ()})
    base = await house.call(wire.AddBase(path=str(path)))
    assert (base.name, base.family, base.layout, base.resolution) == ("noob", "sdxl", "file", 1024)
    assert (base.objective, base.guessed, base.zero_snr) == ("v_prediction", "", True)
    assert base.carried == {"marks of what it predicts": 2} and base.precision == ["F16"]
    assert base in house.domain.state().bases
    assert await house.call(wire.InspectBase(base="noob")) == base
    assert (await house.call(wire.InspectBase(base=str(path)))).family == "sdxl"


async def test_of_a_folder_of_models_one_is_asked_for(house: House, tmp_path: Path) -> None:
    write_hollow(tmp_path / "sd15.safetensors", SD1)
    with pytest.raises(LoraError, match=r"folder with models in it.*such as sd15\.safetensors"):
        await house.call(wire.AddBase(path=str(tmp_path)))


async def test_a_guess_is_overruled_and_that_is_remembered(house: House, tmp_path: Path) -> None:
    path = write_hollow(tmp_path / "sd2.safetensors", SD2)
    guess = await house.call(wire.AddBase(path=str(path)))
    assert guess.objective == "epsilon" and guess.guessed
    told = await house.call(wire.AddBase(path=str(path), predicts="v_prediction"))
    assert (told.objective, told.guessed, told.resolution) == ("v_prediction", "", 768)
    assert await house.call(wire.InspectBase(base="sd2")) == told
    await house.domain._library.start()
    assert told in house.domain.state().bases


async def test_a_base_is_forgotten_and_its_file_stays(house: House, tmp_path: Path) -> None:
    path = write_hollow(tmp_path / "sd15.safetensors", SD1)
    await house.call(wire.AddBase(path=str(path)))
    before = house.domain.state()
    await house.call(wire.RemoveBase(base="sd15"))
    after = house.domain.state().bases
    assert path.exists() and "sd15" not in [base.name for base in after]
    assert apply(before, wire.BaseRemoved(base="sd15")).bases == after
    assert any(getattr(one, "event", None) == wire.BaseRemoved(base="sd15") for one in house.heard)
    with pytest.raises(LoraError) as refused:
        await house.call(wire.RemoveBase(base="sd15"))
    assert refused.value.code is Code.NOT_FOUND
    with pytest.raises(LoraError, match="comes with lora-tui"):
        await house.call(wire.RemoveBase(base="starter"))


async def test_a_damaged_starter_is_refused_with_its_file_named(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A changed weight would load and train all the same."""
    for name in ("base", "SHA256SUMS"):
        copied = tmp_path / "starter" / name
        source = starter.base_dir().parent / name
        if source.is_dir():
            shutil.copytree(source, copied)
        else:
            shutil.copy(source, copied)
    monkeypatch.setattr(bases, "_PACKAGE", tmp_path)
    monkeypatch.setattr(starter, "ROOT", tmp_path / "starter")
    folder = tmp_path / "starter" / "base"
    await house.call(wire.AddBase(path=str(folder), name="mine"))
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    seen = await house.call(wire.InspectBase(base="mine"))
    assert str(weights) in seen.problem and "Install lora-tui again" in seen.problem
    with pytest.raises(LoraError, match="damaged"):
        await house.call(wire.AddBase(path=str(folder), name="again"))


async def test_a_file_that_has_changed_since_is_looked_at_anew(
    house: House, tmp_path: Path
) -> None:
    path = write_hollow(tmp_path / "b.safetensors", SD1)
    await house.call(wire.AddBase(path=str(path)))
    path.write_bytes(b"<html>not found</html>")
    seen = await house.call(wire.InspectBase(base="b"))
    assert "web page" in seen.problem and seen in house.domain.state().bases
    with pytest.raises(LoraError, match="web page"):
        await house.domain._library.base("b")


async def test_an_older_row_says_less_and_is_still_read(house: House, tmp_path: Path) -> None:
    """As versions before single files wrote it."""
    path = str(hollow_base(tmp_path / "mine"))
    row = {
        "name": "mine",
        "path": path,
        "family": "sd1",
        "resolution": 64,
        "size": 1,
        "problem": "",
    }
    with house.store.change("tester") as change:
        change.execute("INSERT INTO bases VALUES (?, ?)", ("mine", wire.encoder.encode(row)))
    (base,) = [one for one in house.domain.state().bases if one.name == "mine"]
    assert (base.layout, base.objective, base.told) == ("folder", "epsilon", False)
