"""What each place of a picture counts in the loss, by its alpha channel or a file beside it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from lora_daemon.colours import eight_bits
from lora_daemon.engine.cache import PictureError, decoded, read_picture
from lora_daemon.engine.versions import Version
from lora_daemon.pictures import framed
from lora_daemon.pipe import FrozenPicture
from shared.errors import Code, LoraError
from shared.filenames import from_text
from shared.framing import Size
from shared.safetensors_file import Tensor as RawTensor
from shared.safetensors_file import read_header, read_tensor, write

FILE = "masks.safetensors"  # in the run directory


def masks(
    run_dir: Path, seen: Sequence[FrozenPicture], versions: Sequence[Sequence[Version]],
    sizes: Sequence[Size], per_latent: int,
) -> list[list[Tensor]]:  # fmt: skip
    """Of each picture's versions at their latents' size, float32 (height, width) in 0 … 1.

    Made once a run, so that one taken up again has the same whatever became of the files.
    ``sizes``: width and height in pixels that each is trained at. Raises LoraError: INVALID_FILE,
    STORAGE.
    """
    path = run_dir / FILE
    small = [(high // per_latent, wide // per_latent) for wide, high in sizes]
    if path.exists():
        header = read_header(path)
        with path.open("rb") as file:
            data = read_tensor(file, header, "masks")
    else:
        data = b"".join(
            mask.tobytes()
            for picture, several, size, shape in zip(seen, versions, sizes, small, strict=True)
            for mask in _masks(picture, several, size, shape)
        )
        write(path, {"masks": RawTensor("U8", (len(data),), data)}, {})
    shapes = [(len(several), *shape) for several, shape in zip(versions, small, strict=True)]
    counts = [math.prod(shape) for shape in shapes]
    if len(data) != sum(counts):
        raise LoraError(Code.INVALID_FILE, f"{path} is damaged: it is not of this run's pictures.")
    flat = torch.frombuffer(bytearray(data), dtype=torch.uint8).float() / 255
    parts = torch.split(flat, counts)
    return [[*one.view(shape)] for one, shape in zip(parts, shapes, strict=True)]


def _masks(
    picture: FrozenPicture, versions: Sequence[Version], size: Size, shape: tuple[int, int]
) -> Iterator[NDArray[np.uint8]]:
    """Of each version uint8 (height, width), turned and cropped as its picture. Without a mask the
    whole picture counts."""
    path = Path(from_text(picture.mask or picture.path))
    try:
        data = read_picture(path)
        if picture.mask and hashlib.sha256(data).hexdigest() != picture.mask_content:
            raise PictureError("the mask has changed since the run was queued")
        layer = decoded(data, lambda opened: _layer(opened, picture))
    except PictureError as error:
        raise LoraError(Code.INVALID_FILE, f"{path}: {error}.", data={"path": str(path)}) from None
    for place, _ in versions:
        fitted = ImageOps.fit(layer, size, Image.Resampling.LANCZOS, centering=(place, place))
        yield np.asarray(fitted.resize(shape[::-1], Image.Resampling.BOX), dtype=np.uint8)


def _layer(opened: Image.Image, picture: FrozenPicture) -> Image.Image:
    """What counts, L: the mask's brightness, or the picture's alpha."""
    seen = framed(opened, picture.framing)
    if picture.mask:
        return eight_bits(seen).convert("L")
    return eight_bits(seen).convert("RGBA").getchannel("A")
