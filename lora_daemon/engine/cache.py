"""The latents cache: each version of a training picture, and if wanted its mirror image, through
the VAE once.

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
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from lora_daemon import colours, pictures
from lora_daemon.engine.bases import Base
from lora_daemon.engine.files import sweep
from lora_daemon.engine.versions import PLAIN, Version, recoloured
from lora_daemon.pipe import FrozenPicture
from shared.errors import Code, LoraError
from shared.filenames import from_text
from shared.framing import Framing, Size, stored
from shared.safetensors_file import Tensor as RawTensor
from shared.safetensors_file import read_header, read_tensor, write

VERSION = 2  # of the preprocessing below: raise it when the pixels it gives change
_NAMES = ("mean", "deviation")
_MIRRORED = ("mirrored_mean", "mirrored_deviation")


@dataclass(frozen=True)
class Moments:
    """A picture's latent distribution, and its mirror image's if that is wanted, scaled: each
    float32 (channels, height/8, width/8).

    ``size``: height and width of the picture, turned and cropped by hand, before it was resized and
    cropped for training, in pixels. ``place``: where it was cropped, as ``Version`` has it.
    """

    mean: Tensor
    deviation: Tensor
    mirrored_mean: Tensor | None = None
    mirrored_deviation: Tensor | None = None
    size: tuple[int, int] | None = None
    place: float = PLAIN.place

    def draw(self, mirrored: bool, noise: Tensor) -> Tensor:
        """Latents from the picture's or its mirror image's distribution."""
        if mirrored:
            assert self.mirrored_mean is not None and self.mirrored_deviation is not None
            return self.mirrored_mean + self.mirrored_deviation * noise
        return self.mean + self.deviation * noise


class Seen(NamedTuple):
    """``pixels``: float32 (3, height, width) in -1 … 1; ``whole``: height and width of the picture
    before it was resized and cropped for training; ``place``: where it was cropped."""

    pixels: Tensor
    whole: tuple[int, int]
    place: float = PLAIN.place


class PictureError(Exception):
    """Why a picture cannot be used, in words that follow its name."""


class LatentsCache:
    """Entries under ``root``, one safetensors file each, for one base and one resolution.

    ``mirrored``: whether mirror images are wanted as well; an entry without is then made anew.
    ``insist``: saves so many bytes, and may wait for the room."""

    def __init__(
        self, root: Path, base: Base, resolution: int,
        insist: Callable[[Callable[[], object], int], object] = lambda save, size: save(),
        *, mirrored: bool = True,
    ) -> None:  # fmt: skip
        self._insist = insist
        self._names = (*_NAMES, *_MIRRORED) if mirrored else _NAMES
        self.root = root
        self.base = base
        self.resolution = resolution

    def key(self, picture: FrozenPicture, version: Version = PLAIN) -> str:
        """The name of the entry of a picture's version."""
        decides: dict[str, object] = {
            "content": picture.content,
            "crop": "centre",
            "resolution": self.resolution,
            "vae": self.base.vae_hash,
            "version": VERSION,
        }
        if picture.bucket is not None:
            decides["resolution"] = picture.bucket
        if not picture.framing.plain:
            decides["framing"] = stored(picture.framing)
        if version.place != PLAIN.place:
            decides["crop"] = version.place
        if version.colours != PLAIN.colours:
            decides["colours"] = version.colours
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()

    def size(self, picture: FrozenPicture) -> Size:
        """Width and height that a picture is trained at, in pixels."""
        return picture.bucket or (self.resolution, self.resolution)

    def bytes_of(self, picture: FrozenPicture) -> int:
        """What an entry of a picture takes in memory, and nearly on the disk."""
        wide, high = (side // self.base.pixels_per_latent for side in self.size(picture))
        return 4 * self.base.latent_channels * wide * high * len(self._names)

    def find(self, key: str, size: Size) -> Moments | None:
        """The entry, read and checked; None if it is absent, damaged or not finite. ``size``: what
        it is of, as ``size`` says."""
        path = self._path(key)
        try:
            header = read_header(path)
            with path.open("rb") as file:
                raw = {name: read_tensor(file, header, name) for name in header.tensors}
            if header.metadata.get("checksum") != _checksum(raw):
                return None
            wide, high = (side // self.base.pixels_per_latent for side in size)
            shapes = {header.tensors[name].shape for name in self._names}
            if any(shape[1:] != (high, wide) for shape in shapes) or len(shapes) != 1:
                return None
            height, _, width = header.metadata.get("size", "").partition("×")
            moments = {
                name: torch.frombuffer(bytearray(raw[name]), dtype=torch.float32).reshape(
                    header.tensors[name].shape
                )
                for name in self._names
            }
            if not all(bool(torch.isfinite(one).all()) for one in moments.values()):
                return None
            return Moments(
                **moments,
                size=(int(height), int(width)) if width else None,
                place=float(header.metadata.get("place", PLAIN.place)),
            )
        except (LoraError, KeyError, OSError, ValueError):
            return None

    def read(self, picture: FrozenPicture, version: Version = PLAIN) -> Seen:
        """What is encoded of a picture's version; any thread may ask. Raises PictureError if the
        file is not the picture it was."""
        path = Path(from_text(picture.path))
        whole = load_picture(path, picture.framing, picture.content)
        pixels = recoloured(pixels_of(whole, self.size(picture), version.place), version.colours)
        return Seen(pixels, (whole.height, whole.width), version.place)

    def make(
        self, key: str, picture: FrozenPicture, seen: Seen | None = None,
        encode: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None,
    ) -> Moments:  # fmt: skip
        """Encode a picture, publish its entry, and read it back. ``seen``: as ``read`` gives it of
        the picture's version, if it was asked before. ``encode``: in place of the base's.

        Encoded at batch shape 1, so that an entry made again has the same bytes. Not waited for
        until it is on the disk: what a power cut tears is made again. Raises PictureError if the
        file is not the picture it was, LoraError(STORAGE).
        """
        seen = seen or self.read(picture)
        encode = encode or self.base.encode_pixels
        pixels = seen.pixels
        moments = [one[0].float().cpu().contiguous() for one in encode(pixels[None])]
        if len(self._names) > len(moments):
            mirrored = encode(pixels.flip(-1).contiguous()[None])
            moments += [one[0].float().cpu().contiguous() for one in mirrored]
        if not all(bool(torch.isfinite(one).all()) for one in moments):
            raise PictureError("the base's VAE makes numbers of it that are not finite")
        raw = {name: one.numpy().tobytes() for name, one in zip(self._names, moments, strict=True)}
        sweep(self._path(key).parent, older=3600)  # another worker may be caching beside us
        shape = tuple(moments[0].shape)
        tensors = {name: RawTensor("F32", shape, data) for name, data in raw.items()}
        metadata = {"checksum": _checksum(raw), "size": "{}×{}".format(*seen.whole)}
        if seen.place != PLAIN.place:
            metadata["place"] = str(seen.place)
        self._insist(
            lambda: write(self._path(key), tensors, metadata, durable=False),
            sum(map(len, raw.values())),
        )
        there = self.find(key, self.size(picture))
        if there is None:
            raise LoraError(
                Code.STORAGE,
                f"The latents just written to {self._path(key)} cannot be read back. "
                "Check that disk.",
            )
        return there

    def _path(self, key: str) -> Path:
        return self.root / "latents" / key[:2] / f"{key}.safetensors"


def pixels_of(picture: Image.Image, size: Size, place: float = PLAIN.place) -> Tensor:
    """An RGB picture resized to cover ``size`` (width, height), and cropped to it at a ``place`` as
    ``Version`` has it: float32 (3, height, width) in -1 … 1."""
    fitted = ImageOps.fit(picture, size, Image.Resampling.LANCZOS, centering=(place, place))
    pixels = torch.from_numpy(np.asarray(fitted, dtype=np.float32).copy())
    return (pixels / 127.5 - 1).permute(2, 0, 1).contiguous()


def load_picture(
    path: Path, framing: Framing = pictures.PLAIN, content: str = ""
) -> Image.Image:  # fmt: skip
    """A picture as RGB, upright and on white, turned and cropped. ``content``: the SHA-256 it must
    have, if any. Raises PictureError."""
    data = read_picture(path)
    if content and hashlib.sha256(data).hexdigest() != content:
        raise PictureError("the file has changed since the run was queued")
    return decoded(data, lambda opened: colours.rgb(pictures.framed(opened, framing)))


def read_picture(path: Path) -> bytes:
    """A picture file's bytes. Raises PictureError."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise PictureError("the file is no longer there") from None
    except OSError as error:
        raise PictureError(f"the file cannot be read ({error.strerror})") from None


def decoded(data: bytes, take: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """What ``take`` makes of the picture in these bytes. Raises PictureError."""
    try:
        with pictures.opened(io.BytesIO(data)) as opened:
            return take(opened)
    except pictures.Unusable as error:
        raise PictureError(f"it {error}") from None
    except (OSError, ValueError, SyntaxError, MemoryError) as error:
        raise PictureError(f"it is not a picture that can be read ({error})") from None


def _checksum(raw: dict[str, bytes]) -> str:
    every = (*_NAMES, *_MIRRORED)
    return hashlib.sha256(b"".join(raw[name] for name in every if name in raw)).hexdigest()
