"""Latents to pictures without the base's VAE, quickly and nearly: for what is still being made.

A linear decoder, fitted to the VAE on the device, is there for every base; a network of TAESD's
kind (https://github.com/madebyollin/taesd) is taken from a file where it comes nearer to that VAE.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from lora_daemon.engine.bases import Base
from shared.errors import Code, LoraError
from shared.filenames import to_text
from shared.files import publish
from shared.safetensors_file import read_header

Decode = Callable[[Tensor], Tensor]  # scaled latents (n, channels, h, w) to pixels in -1 … 1

SIDE = 32  # of the latents that decoders are fitted and measured with
SHAPES = 40  # on the picture behind them
FINE = 2  # pixels of the linear decoder along each side of a place of the latents
_RIDGE = 0.01
_ROUNDS = 3  # of each decoder, the first of which warms up


@dataclass(frozen=True)
class Decoder:
    """A quick decoder. ``psnr``: how near it comes to the VAE, in dB at ``FINE`` pixels a place.
    ``seconds``: that it takes for a place of the latents, on this device."""

    name: str
    decode: Decode
    psnr: float
    seconds: float


@dataclass(frozen=True)
class Decoders:
    """What there is for a base. ``best``: the nearest to its VAE. ``notes``: of files that are of
    no use, in sentences. ``whole``: seconds of the VAE for a place of the latents when it was
    asked, maybe on another device."""

    linear: Decoder
    best: Decoder
    notes: list[str]
    whole: float = 0.0


@torch.no_grad()
def decoders(base: Base, cache: Path, folder: Path) -> Decoders:
    """The quick decoders of a base. ``cache``: where the VAE's part of a fit is kept by its hash.
    ``folder``: where networks of TAESD's kind are put."""
    latents, colours, whole = _sample(base, cache)
    linear = _measured("linear", _fitted(latents, colours), latents, colours)
    found, notes, unfit = [linear], list[str](), list[Decoder]()
    for path in files(folder):
        try:
            decode = tiny(path, base)
        except LoraError as error:
            notes.append(error.message)
            continue
        if decode is not None:
            one = _measured(to_text(path.name), decode, latents, colours)
            (found if one.psnr > linear.psnr else unfit).append(one)
    if unfit and len(found) == 1:
        notes += [
            f"{one.name} is for another VAE than this base's: previews go without it, as the "
            f"linear decoder comes nearer ({linear.psnr:.1f} dB, not {one.psnr:.1f})."
            for one in unfit
        ]
    return Decoders(linear, max(found, key=lambda one: one.psnr), notes, whole)


def files(folder: Path) -> list[Path]:
    """Those that may hold such a network."""
    return sorted(folder.glob("**/*.safetensors"))


def _measured(name: str, decode: Decode, latents: Tensor, colours: Tensor) -> Decoder:
    """The decoder with what it is found to be on the sample."""
    took = []
    for _ in range(_ROUNDS):
        began = time.perf_counter()
        pixels = decode(latents).float().cpu()
        took.append(time.perf_counter() - began)
    error = F.mse_loss(_shrunk(pixels, colours.shape[-1]), colours.cpu()).clamp(min=1e-10)
    psnr = float(10 * torch.log10(4 / error))
    return Decoder(name, decode, psnr, min(took) / (latents.shape[2] * latents.shape[3]))


# ── linear ──────────────────────────────────────────────────────────────────────────────────────


def _fitted(latents: Tensor, colours: Tensor) -> Decode:
    """Each place of the latents and its eight neighbours to ``FINE``² colours, by least squares."""
    rows = _neighbours(latents).transpose(1, 2).flatten(0, 1).double().cpu()
    wanted = F.pixel_unshuffle(colours, FINE).flatten(2).transpose(1, 2).flatten(0, 1).double()
    square = rows.T @ rows + _RIDGE * len(rows) * torch.eye(rows.shape[1], dtype=rows.dtype)
    weight = torch.linalg.solve(square, rows.T @ wanted.cpu()).T.float().to(latents.device)

    def decode(seen: Tensor) -> Tensor:
        places = (weight @ _neighbours(seen)).unflatten(2, seen.shape[2:])
        return F.pixel_shuffle(places, FINE).clamp(-1, 1)

    return decode


def _neighbours(latents: Tensor) -> Tensor:
    """(n, 9 · channels + 1, places): what the linear decoder is given; the last is always 1."""
    around = F.unfold(F.pad(latents.float(), (1, 1, 1, 1), mode="replicate"), 3)
    return torch.cat([around, torch.ones_like(around[:, :1])], 1)


def _sample(base: Base, cache: Path) -> tuple[Tensor, Tensor, float]:
    """Latents (1, channels, SIDE, SIDE) of a made-up picture, the colours that the VAE makes of
    them, (1, 3, FINE · SIDE, FINE · SIDE), and how long that took it for each place. It is asked
    once and never again."""
    path = cache / f"{base.vae_hash[:32]}.safetensors"
    shape = (1, base.latent_channels, SIDE, SIDE)
    try:
        kept = load_file(path)
        latents, colours = kept["latents"], kept["colours"]
        if (latents.shape, colours.shape) == (shape, (1, 3, FINE * SIDE, FINE * SIDE)):
            return latents.to(base.device), colours.to(base.device), float(kept["seconds"])
    except (OSError, SafetensorError, KeyError, RuntimeError):
        pass
    latents = base.encode_pixels(collage(SIDE * base.pixels_per_latent))[0]
    if base.device.type == "cuda":  # the first time it loads its kernels
        base.decode_latents(latents).cpu()
    began = time.perf_counter()
    colours = _shrunk(base.decode_latents(latents).float().cpu(), FINE * SIDE).to(base.device)
    seconds = (time.perf_counter() - began) / SIDE**2
    kept = {"latents": latents, "colours": colours, "seconds": torch.tensor(seconds)}
    content = save({name: one.float().cpu().contiguous() for name, one in kept.items()})
    with contextlib.suppress(OSError, LoraError):  # not kept: it is asked again the next time
        cache.mkdir(parents=True, exist_ok=True)
        publish(path, content)
    return latents, colours, seconds


def collage(side: int) -> Tensor:
    """A picture with something of every colour: shaded shapes on a smooth ground, float32
    (1, 3, side, side) in -1 … 1, always the same."""
    own = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=own)

    picture = F.interpolate(draw(1, 3, 4, 4), (side, side), mode="bicubic")[0]
    down, right = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    for number in range(SHAPES):
        colour, (x, y) = draw(3), draw(2) * side
        wide, high = (draw(2) * 0.22 + 0.04) * side / 2
        across, along = (right - x) / wide, (down - y) / high
        inside = torch.maximum(across.abs(), along.abs()) if number % 2 else across.hypot(along)
        shading = (draw(1) - 0.5) * (right - x) / side
        picture = torch.where(inside < 1, colour[:, None, None] + shading, picture)
    return picture.clamp(0, 1)[None] * 2 - 1


def _shrunk(pixels: Tensor, side: int) -> Tensor:
    return F.interpolate(pixels, (side, side), mode="area")


# ── TAESD ───────────────────────────────────────────────────────────────────────────────────────

_FORMS = (  # the decoder's first name and layers' numbers, and how much higher than ours those are
    (re.compile(r"decoder\.layers\.(\d+)\.(.+)"), 0),  # of diffusers
    (re.compile(r"(?:taesd_)?decoder\.(\d+)\.(.+)"), 1),  # of its author, both halves in one file
    (re.compile(r"(\d+)\.(.+)"), 1),  # the same, the decoder alone
)


def tiny(path: Path, base: Base) -> Decode | None:
    """The decoder in a file of TAESD's kind: diffusers' ``AutoencoderTiny``, whose config.json may
    lie beside it, or as its author publishes it. None for one that holds no decoder, or one for
    other latents than this base's. Raises LoraError(INVALID_FILE)."""
    header = read_header(path)
    names = _names(list(header.tensors))
    first = next((key for key, ours in names.items() if ours == "layers.0.weight"), None)
    if first is None or len(shape := header.tensors[first].shape) != 4:
        return None
    if shape[1] != base.latent_channels:
        return None
    try:
        network = AutoencoderTiny.from_config(_config(path) | {"latent_channels": shape[1]})
        tensors = load_file(path)
        network.decoder.load_state_dict(
            {ours: tensors[theirs].float() for theirs, ours in names.items()}
        )
    except (
        OSError, SafetensorError, RuntimeError, ValueError, TypeError, KeyError, AttributeError
    ):  # fmt: skip
        raise _wrong(path, "holds no decoder of TAESD's kind") from None
    decoder = network.decoder.requires_grad_(False).eval().to(base.device)
    told = torch.zeros(1, base.latent_channels, 1, 1, device=base.device)
    if decoder(told).shape != (1, 3, base.pixels_per_latent, base.pixels_per_latent):
        return None
    if any(not bool(torch.isfinite(one).all()) for one in decoder.parameters()):
        raise _wrong(path, "is broken: it holds numbers that are not finite (NaN)")

    def decode(seen: Tensor) -> Tensor:
        pixels: Tensor = decoder(seen.float())
        return pixels.clamp(-1, 1)

    return decode


def _names(names: list[str]) -> dict[str, str]:
    """Those of a decoder's tensors, by what diffusers' decoder calls them."""
    for form, higher in _FORMS:
        matches = {name: form.fullmatch(name) for name in names}
        found = {
            name: f"layers.{int(match[1]) - higher}.{match[2]}"
            for name, match in matches.items()
            if match
        }
        if found:
            return found
    return {}


def _config(path: Path) -> dict[str, Any]:
    """What lies beside a file of diffusers'."""
    try:
        config = json.loads((path.parent / "config.json").read_text("utf-8"))
    except FileNotFoundError:
        return {}
    return config if config.get("_class_name") == "AutoencoderTiny" else {}


def _wrong(path: Path, what: str) -> LoraError:
    return LoraError(
        Code.INVALID_FILE,
        f"{to_text(path)} {what}: previews go without it. Take it out of that folder.",
        data={"path": to_text(path)},
    )
