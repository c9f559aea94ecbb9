"""The latents cache: each training picture, and its mirror image, through the VAE once.

An entry holds moments, not one draw, and is named by what decides it: the picture's content, the
preprocessing and the VAE's weights. So an edited picture can never meet stale latents.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from lora_daemon.engine.bases import Base
from lora_daemon.engine.files import sweep
from shared.errors import Code, LoraError
from shared.safetensors_file import Tensor as RawTensor
from shared.safetensors_file import read_header, read_tensor, write

VERSION = 1  # of the preprocessing below: raise it when the pixels it gives change
MAX_PIXELS = 300_000_000  # a picture this large is a mistake or an attack
_NAMES = ("mean", "deviation", "mirrored_mean", "mirrored_deviation")


@dataclass(frozen=True)
class Moments:
    """A picture's latent distribution, scaled: each float32 (channels, height/8, width/8).

    ``size``: height and width of the picture before it was resized and cropped, in pixels.
    """

    mean: Tensor
    deviation: Tensor
    mirrored_mean: Tensor
    mirrored_deviation: Tensor
    size: tuple[int, int] | None = None

    def draw(self, mirrored: bool, noise: Tensor) -> Tensor:
        """Latents from the picture's or its mirror image's distribution."""
        if mirrored:
            return self.mirrored_mean + self.mirrored_deviation * noise
        return self.mean + self.deviation * noise


class PictureError(Exception):
    """Why a picture cannot be used, in words that follow its name."""


class LatentsCache:
    """Entries under ``root``, one safetensors file each, for one base and one resolution."""

    def __init__(self, root: Path, base: Base, resolution: int) -> None:
        self.root = root
        self.base = base
        self.resolution = resolution

    def key(self, content: str) -> str:
        """The entry's name for a picture of this SHA-256."""
        decides = {
            "content": content,
            "crop": "centre",
            "resolution": self.resolution,
            "vae": self.base.vae_hash,
            "version": VERSION,
        }
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()

    def find(self, key: str) -> Moments | None:
        """The entry, read and checked; None if it is absent or damaged."""
        path = self._path(key)
        try:
            header = read_header(path)
            with path.open("rb") as file:
                raw = {name: read_tensor(file, header, name) for name in _NAMES}
            if header.metadata.get("checksum") != _checksum(raw):
                return None
            side = self.resolution // self.base.pixels_per_latent
            shapes = {header.tensors[name].shape for name in _NAMES}
            if any(shape[1:] != (side, side) for shape in shapes) or len(shapes) != 1:
                return None
            height, _, width = header.metadata.get("size", "").partition("×")
            mean, deviation, mirrored_mean, mirrored_deviation = (
                torch.frombuffer(bytearray(raw[name]), dtype=torch.float32).reshape(
                    header.tensors[name].shape
                )
                for name in _NAMES
            )
            size = (int(height), int(width)) if width else None
            return Moments(mean, deviation, mirrored_mean, mirrored_deviation, size)
        except (LoraError, KeyError, OSError, ValueError):
            return None

    def make(self, key: str, path: Path, content: str) -> Moments:
        """Encode the picture at ``path``, publish the entry, and read it back.

        Encoded at batch shape 1, so that an entry made again has the same bytes. Raises
        PictureError if the file is not the picture it was, LoraError(STORAGE).
        """
        pixels = load_pixels(path, content, self.resolution)
        straight = self.base.encode_pixels(pixels[None])
        mirrored = self.base.encode_pixels(pixels.flip(-1).contiguous()[None])
        moments = [one[0].float().cpu().contiguous() for one in (*straight, *mirrored)]
        if not all(bool(torch.isfinite(one).all()) for one in moments):
            raise PictureError("the base's VAE makes numbers of it that are not finite")
        raw = {name: one.numpy().tobytes() for name, one in zip(_NAMES, moments, strict=True)}
        sweep(self._path(key).parent, older=3600)  # another worker may be caching beside us
        shape = tuple(moments[0].shape)
        tensors = {name: RawTensor("F32", shape, data) for name, data in raw.items()}
        height, width = upright_size(path)
        write(self._path(key), tensors, {"checksum": _checksum(raw), "size": f"{height}×{width}"})
        found = self.find(key)
        if found is None:
            raise LoraError(
                Code.STORAGE,
                f"The latents just written to {self._path(key)} cannot be read back. "
                "Check that disk.",
            )
        return found

    def _path(self, key: str) -> Path:
        return self.root / "latents" / key[:2] / f"{key}.safetensors"


def load_pixels(path: Path, content: str, resolution: int) -> Tensor:
    """A picture upright, on white, resized by its shorter side and cropped to its centre.

    Returns float32 (3, resolution, resolution) in -1 … 1. ``content``: the SHA-256 it must have.
    Raises PictureError.
    """
    data = read_picture(path)
    if hashlib.sha256(data).hexdigest() != content:
        raise PictureError("the file has changed since the run was queued")
    return pixels_of(_decoded(data), resolution)


def pixels_of(picture: Image.Image, resolution: int) -> Tensor:
    """An RGB picture as ``load_pixels`` gives it."""
    fitted = ImageOps.fit(picture, (resolution, resolution), Image.Resampling.LANCZOS)
    pixels = torch.from_numpy(np.asarray(fitted, dtype=np.float32).copy())
    return (pixels / 127.5 - 1).permute(2, 0, 1).contiguous()


def load_picture(path: Path) -> Image.Image:
    """A picture as RGB, upright and on white. Raises PictureError."""
    return _decoded(read_picture(path))


def read_picture(path: Path) -> bytes:
    """A picture file's bytes. Raises PictureError."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise PictureError("the file is no longer there") from None
    except OSError as error:
        raise PictureError(f"the file cannot be read ({error.strerror})") from None


def _decoded(data: bytes) -> Image.Image:
    return decoded(data, lambda opened: _on_white(ImageOps.exif_transpose(opened)))


def decoded(data: bytes, take: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """What ``take`` makes of the picture in these bytes. Raises PictureError."""
    try:
        with Image.open(io.BytesIO(data)) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise PictureError(f"it is too large ({opened.width} × {opened.height} pixels)")
            return take(opened)
    except (OSError, ValueError, SyntaxError, MemoryError, Image.DecompressionBombError) as error:
        raise PictureError(f"it is not a picture that can be read ({error})") from None


def upright_size(path: Path) -> tuple[int, int]:
    """Height and width of a picture as it is shown, from its header. Raises PictureError."""
    try:
        with Image.open(path) as opened:
            width, height = opened.size
            turned = opened.getexif().get(ExifTags.Base.Orientation, 1) >= 5
    except (OSError, ValueError, SyntaxError) as error:
        raise PictureError(f"it is not a picture that can be read ({error})") from None
    return (width, height) if turned else (height, width)


def _on_white(picture: Image.Image) -> Image.Image:
    """RGB, with what is transparent turned white."""
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        canvas = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(canvas, layer).convert("RGB")
    return picture.convert("RGB")


def _checksum(raw: dict[str, bytes]) -> str:
    return hashlib.sha256(b"".join(raw[name] for name in _NAMES)).hexdigest()
