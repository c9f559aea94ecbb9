"""Pictures shown before they are done: decoders that are quick, near to the VAE, of little cost."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from lora_daemon.engine import approximate, bases, previews
from lora_daemon.engine.approximate import Decoder, Decoders
from lora_daemon.engine.bases import Base
from lora_daemon.engine.generate import paint
from lora_daemon.engine.objectives import expected, wanted
from lora_daemon.engine.previews import Previewer
from lora_daemon.pipe import Previews
from lora_daemon.starter import base_dir
from shared.errors import LoraError
from shared.pictures import PictureSpec
from shared.wire import Objective


@pytest.fixture(scope="module")
def starter() -> Base:
    return bases.load(base_dir(), torch.device("cpu"))


def psnr(one: Tensor, other: Tensor) -> float:
    return float(10 * torch.log10(4 / F.mse_loss(one, other)))


def test_the_linear_decoder_is_near_to_the_vae_that_it_was_fitted_to(
    starter: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = approximate.decoders(starter, tmp_path, tmp_path / "none")
    assert quick.best is quick.linear and not quick.notes
    other = (
        approximate.collage(128).roll((40, 25, 1), (3, 2, 1)).flip(3)
    )  # not what it was fitted to
    latents = starter.encode_pixels(other)[0]
    colours = F.avg_pool2d(starter.decode_latents(latents), 4)
    plain = colours.mean((2, 3), keepdim=True).expand_as(colours)
    made = quick.linear.decode(latents)
    assert made.shape == (1, 3, 32, 32)
    assert psnr(made, colours) > psnr(plain, colours) + 6
    monkeypatch.setattr(Base, "encode_pixels", None)  # the VAE is not asked again
    again = approximate.decoders(starter, tmp_path, tmp_path / "none")
    assert torch.equal(again.linear.decode(latents), made)
    (kept,) = tmp_path.iterdir()
    monkeypatch.undo()
    kept.write_bytes(b"\x10")
    assert (
        approximate.decoders(starter, tmp_path, tmp_path / "none").linear.psnr == quick.linear.psnr
    )


# ── networks of TAESD's kind ────────────────────────────────────────────────────────────────────


def network(seed: int, channels: int = 4) -> AutoencoderTiny:
    """One at random, small, for 8 pixels a place."""
    torch.manual_seed(seed)
    wide = (8, 8, 8, 8)
    return AutoencoderTiny(
        encoder_block_out_channels=wide, decoder_block_out_channels=wide, latent_channels=channels
    ).eval()  # fmt: skip


def put(folder: Path, tiny: AutoencoderTiny, form: str, name: str) -> Path:
    """The network as a file that somebody may have."""
    tiny.save_config(folder)  # such a small one is not the usual one
    tensors = {}
    for key, value in tiny.state_dict().items():
        half, _, number, rest = key.split(".", 3)
        if form == "diffusers":
            tensors[key] = value
        elif form == "both":
            tensors[f"taesd_{half}.{int(number) + (half == 'decoder')}.{rest}"] = value
        elif half == "decoder":
            tensors[f"{int(number) + 1}.{rest}"] = value.half()
    path = folder / name
    save_file(tensors, path)
    return path


@pytest.mark.parametrize("form", ["diffusers", "both", "decoder"])
def test_a_network_of_taesds_kind_is_read_as_it_is_published(
    base: Base, tmp_path: Path, form: str
) -> None:
    tiny = network(1, base.latent_channels)
    path = put(tmp_path, tiny, form, "x.safetensors")
    latents = torch.randn(1, base.latent_channels, 5, 4)
    decode = approximate.tiny(path, eight(base))
    assert decode is not None
    near = 5e-3 if form == "decoder" else 1e-6  # in half precision
    assert torch.allclose(decode(latents), tiny.decode(latents).sample.clamp(-1, 1), atol=near)
    put(tmp_path, network(1, base.latent_channels + 1), form, "x.safetensors")
    assert approximate.tiny(path, eight(base)) is None  # of other latents
    broken = network(1, base.latent_channels)
    next(broken.decoder.parameters()).data.fill_(float("nan"))
    put(tmp_path, broken, form, "x.safetensors")
    with pytest.raises(LoraError, match=r"x\.safetensors is broken"):
        approximate.tiny(path, eight(base))


def eight(base: Base, decode: Callable[[Tensor], Tensor] | None = None) -> Base:
    """A base whose VAE makes 8 pixels of a place, by ``decode`` if there is one."""

    class Eight(Base):
        pixels_per_latent = 8
        vae_hash = "of no interest"

        def encode_pixels(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
            draw = torch.Generator().manual_seed(5)
            mixed = torch.randn(self.latent_channels, 3, generator=draw)
            latents = torch.einsum("cr,nrhw->nchw", mixed, F.avg_pool2d(pixels, 8))
            return latents, latents

        def decode_latents(self, latents: Tensor) -> Tensor:
            assert decode is not None
            return decode(latents)

    return Eight(**{name: getattr(base, name) for name in Base.__dataclass_fields__})


def test_the_decoder_nearest_to_the_vae_is_taken_and_others_are_named_once(
    base: Base, tmp_path: Path
) -> None:
    """The VAE is a network of that kind itself, so that one file is the very one for it."""
    right, wrong = network(1, base.latent_channels), network(2, base.latent_channels)
    own = eight(base, lambda latents: right.decode(latents).sample.clamp(-1, 1))
    folder, cache = tmp_path / "vae_approx", tmp_path / "cache"
    folder.mkdir()
    put(folder, wrong, "both", "taesdxl_decoder.safetensors")
    previewer = Previewer(own)
    order = Previews(cache=str(cache), folder=str(folder), way="")
    assert previewer.quick(order).best.name == "linear"
    (said,) = previewer.told()
    assert "taesdxl_decoder.safetensors is for another VAE than this base's" in said
    put(folder, right, "both", "taesd_decoder.safetensors")
    found = previewer.quick(order)  # a file that is put there is there
    assert (found.best.name, found.best.psnr > 60) == ("taesd_decoder.safetensors", True)
    assert found is previewer.quick(order) and not previewer.told()
    (folder / "torn.safetensors").write_bytes(b"\x10")
    save_file({"encoder.conv_in.weight": torch.zeros(3)}, folder / "vae.safetensors")
    assert previewer.quick(order).best.name == "taesd_decoder.safetensors"
    (said,) = previewer.told()
    assert "torn.safetensors" in said


# ── what a picture is on the way to ─────────────────────────────────────────────────────────────


@pytest.mark.parametrize("objective", get_args(Objective))
def test_a_right_prediction_points_to_the_clean_latents(base: Base, objective: Objective) -> None:
    clean, noise = torch.randn(2, 1, base.latent_channels, 4, 4)
    own, timestep = replace(base, objective=objective), torch.tensor(400.4)
    signal, spread = base.signal[400], base.spread[400]
    if objective == "flow":
        signal = 1 - spread
    predicted = wanted(objective, clean, noise, signal, spread)
    found = expected(own, signal * clean + spread * noise, predicted, timestep)
    assert torch.allclose(found, clean, atol=1e-4)


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


def test_showing_the_way_takes_a_small_share_of_the_time(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, used, told, asked = Clock(), list[str](), list[str](), list[str]()
    monkeypatch.setattr(previews, "time", clock)

    def decoder(name: str, seconds: float) -> Decoder:
        def decode(latents: Tensor) -> Tensor:
            clock.now += seconds
            used.append(name)
            return torch.zeros(1, 3, 1024, 8)

        return Decoder(name, decode, 20.0, seconds / 64)

    def expected() -> Tensor:
        asked.append("")
        return torch.zeros(2, 4, 8, 8)

    def shown(best: float, step: float, steps: int, linear: float = 0.001) -> float:
        """The share of a picture's time that went into showing it."""
        for seen in (used, told, asked):
            seen.clear()
        quick = Decoders(decoder("linear", linear), decoder("best", best), [])
        way = previews.Way(lambda _: quick, tmp_path / "way", told.append, lambda: None)
        began = clock.now
        for _ in range(steps):
            clock.now += step
            way(expected)
        return (clock.now - began) / (steps * step) - 1

    shown(best=0.001, step=0.1, steps=8)
    assert not used  # it is done before anybody waits
    assert shown(best=0.001, step=0.1, steps=100) < 0.01 and 8 <= len(used) <= 10
    assert [Path(one).name for one in told][:2] == ["way-1.png", "way-2.png"]
    with Image.open(told[0]) as picture:
        assert picture.size == (4, 512)
    shown(best=2.0, step=20.0, steps=20)
    assert set(used) == {"linear"} and len(used) == 20  # each step, rather than now and then
    shown(best=0.5, step=20.0, steps=20)
    assert set(used) == {"best"} and len(used) == 20
    assert shown(best=1.0, step=0.5, steps=400, linear=0.5) < previews.SHARE + 0.005
    assert 8 <= len(used) <= 12 and len(asked) <= 2 * len(used) + 1  # the device is left alone


def test_a_picture_is_the_same_whether_it_was_shown_on_its_way_or_not(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs = [PictureSpec(prompt="a thing", steps=4, sampler="Euler a")]
    plain = paint(base, specs, lambda _: None)[0]
    seen = list[Tensor]()
    looked = paint(base, specs, lambda _: None, look=lambda to: seen.append(to()))[0]
    assert looked.tobytes() == plain.tobytes() and len(seen) == 3
    assert all(one.shape == seen[0].shape and bool(torch.isfinite(one).all()) for one in seen)


def test_a_preview_waits_for_the_vae_only_where_nobody_notices(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(previews, "time", clock)
    cost = itertools.repeat(0.1)

    class Slow(Previewer):
        def quick(self, _: Any) -> Any:
            return Decoders(cheap, cheap, [], whole=2.0 / 64)

    cheap = Decoder("linear", lambda latents: torch.zeros(1, 3, 2, 2), 20.0, 0.0)
    own = Slow(base)

    def whole(latents: Tensor) -> Tensor:
        clock.now += next(cost)
        return torch.zeros(1, 3, 8, 8)

    monkeypatch.setattr(Base, "decode_latents", lambda _, latents: whole(latents))
    latents = torch.zeros(1, 4, 8, 8)

    def taken(decoder: Any, steps: float) -> int:
        """Pixels of a side of what a preview comes out as, whose steps take so many seconds."""
        order = Previews(cache="", folder="", way="", itself=decoder != "full", decoder=decoder)
        decode = own.decoding(order)
        clock.now += steps
        return decode(latents).shape[-1]

    assert taken("cheap", 0.3) == 2  # always
    assert taken("auto", 5) == 2  # the VAE has told when it was asked for the fit
    assert taken("auto", 0.3) == 8  # not known here, and everything is quick
    assert taken("auto", 0.1) == 8  # a tenth of a second is nothing
    cost = itertools.repeat(3.0)
    assert taken("auto", 30) == 8
    assert taken("auto", 30) == 8  # a tenth of what the steps took
    assert taken("auto", 5) == 2
    assert taken("full", 5) == 8 == own.decoding(None)(latents).shape[-1]


def test_the_way_is_the_vaes_where_that_is_quick(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(previews, "EVERY", 0.0)
    monkeypatch.setattr(previews, "SHARE", 1e9)

    def size(previewer: Previewer, decoder: Any) -> int:
        told = list[str]()
        order = Previews(cache=str(tmp_path), folder="", way=str(tmp_path / "w"), decoder=decoder)
        previewer.way(order, told.append)(lambda: torch.zeros(1, base.latent_channels, 8, 8))
        with Image.open(told[0]) as picture:
            return picture.width

    previewer = Previewer(base)
    assert size(previewer, "auto") == 16  # not known yet
    previewer.whole(torch.zeros(1, base.latent_channels, 8, 8))
    assert (size(previewer, "auto"), size(previewer, "cheap")) == (8 * base.pixels_per_latent, 16)
    monkeypatch.setattr(previews, "SLOW", 1e-9)
    assert size(previewer, "auto") == 16
