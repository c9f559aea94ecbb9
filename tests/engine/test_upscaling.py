"""Pictures enlarged by a network: found by name, tile by tile without a seam, refused in words."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from lora_daemon import upscalers
from lora_daemon.engine import upscaling
from lora_daemon.engine.bases import Base
from lora_daemon.engine.generate import paint
from shared.errors import Code, LoraError
from shared.pictures import PictureSpec, SecondPass, parameters_text


def _doubling(path: Path, wide: int = 8, scale: int = 4) -> Path:
    """An ESRGAN (RRDBNet, its first names) whose weights make each pixel ``scale``² of its kind."""
    tensors: dict[str, Tensor] = {}

    def layer(name: str, high: int, low: int, passes: bool = False) -> None:
        tensors[f"{name}.weight"] = torch.zeros(high, low, 3, 3)
        tensors[f"{name}.bias"] = torch.zeros(high)
        if passes:
            for channel in range(3):
                tensors[f"{name}.weight"][channel, channel, 1, 1] = 1.0

    grown, blocks = 32, ("RDB1", "RDB2", "RDB3")
    layer("model.0", wide, 3, passes=True)
    for block in blocks:
        for number in range(1, 6):
            low = wide + (number - 1) * grown
            layer(f"model.1.sub.0.{block}.conv{number}.0", wide if number == 5 else grown, low)
    layer("model.1.sub.1", wide, wide)
    at = 3
    for _ in range({2: 1, 4: 2}[scale]):
        layer(f"model.{at}", wide, wide, passes=True)
        at += 3
    layer(f"model.{at - 1}", wide, wide, passes=True)
    layer(f"model.{at + 1}", 3, wide, passes=True)
    save_file(tensors, path)
    return path


def _second(upscaler: str) -> PictureSpec:
    second = SecondPass(scale=1.5, strength=0.5, upscaler=upscaler)
    return PictureSpec(prompt="a thing", width=64, height=64, steps=2, second=second)


def test_a_network_is_found_by_its_name_or_path(tmp_path: Path) -> None:
    folder = tmp_path / "upscalers"
    (folder / "sharp").mkdir(parents=True)
    file = _doubling(folder / "sharp" / "4x-Ultra.safetensors")
    for name in ("4x-Ultra", "4x-ultra.safetensors", str(file)):
        spec = upscalers.found(folder, _second(name))
        assert spec.second is not None and spec.second.upscaler == str(file)
    text = parameters_text(spec, model="base", model_hash="ab", lora_hashes={})
    assert "Hires upscaler: 4x-Ultra" in text and str(folder) not in text
    for plain in (_second("Latent"), PictureSpec()):
        assert upscalers.found(folder, plain) == plain
    with pytest.raises(
        LoraError, match=r"no upscaler 2x-Soft\. There are Latent, Lanczos, 4x-Ultra"
    ):
        upscalers.found(folder, _second("2x-Soft"))


def test_without_spandrel_it_is_said_what_to_install(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "spandrel", None)
    file = _doubling(tmp_path / "4x.safetensors")
    with pytest.raises(LoraError, match=r'pip install "lora-tui\[upscale\]"') as caught:
        paint(base, [_second(str(file))], lambda _: None)
    assert caught.value.code is Code.WRONG_STATE and "4x.safetensors" in caught.value.message


def test_a_pickle_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    file = tmp_path / "4x.safetensors"
    file.write_bytes(b"PK\x03\x04 a pickle")
    with pytest.raises(LoraError, match="is a pickle"):
        upscaling.Network(file, torch.device("cpu"))


def test_no_seam_shows_and_every_pixel_is_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("spandrel")
    network = upscaling.Network(_doubling(tmp_path / "4x.safetensors"), torch.device("cpu"))
    assert network.scale == 4
    pixels = torch.rand(1, 3, 50, 70, generator=torch.Generator().manual_seed(1))
    wanted = pixels.repeat_interleave(4, 2).repeat_interleave(4, 3)
    tiles: list[None] = []
    whole = network.enlarge(pixels, lambda: tiles.append(None))
    assert torch.allclose(whole, wanted, atol=1e-6) and len(tiles) == 1
    monkeypatch.setattr(upscaling, "TILE", 32)
    assert torch.allclose(network.enlarge(pixels, lambda: tiles.append(None)), wanted, atol=1e-6)
    assert len(tiles) == 1 + 2 * 3

    def stop() -> None:
        raise LoraError(Code.CANCELLED, "It was cancelled.")

    with pytest.raises(LoraError, match="cancelled"):
        network.enlarge(pixels, stop)


def test_a_second_pass_begins_from_what_the_network_makes(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("spandrel")
    file = _doubling(tmp_path / "4x.safetensors")
    seen: list[Any] = []
    resize = Image.Image.resize

    def resized(picture: Any, size: Any, *more: Any) -> Any:
        seen.append((picture.size, size))
        return resize(picture, size, *more)

    monkeypatch.setattr(Image.Image, "resize", resized)
    (picture,) = paint(base, [_second(str(file))], lambda _: None)
    assert picture.size == (96, 96) and seen[0] == ((256, 256), (96, 96))
    (lanczos,) = paint(base, [_second("Lanczos")], lambda _: None)
    assert lanczos.tobytes() != picture.tobytes()


def test_what_is_no_such_network_is_said(tmp_path: Path) -> None:
    pytest.importorskip("spandrel")
    save_file({"something.weight": torch.zeros(3, 3)}, tmp_path / "x.safetensors")
    with pytest.raises(LoraError, match="holds no network that enlarges pictures"):
        upscaling.Network(tmp_path / "x.safetensors", torch.device("cpu"))
