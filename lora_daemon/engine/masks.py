"""What each place of a picture counts in the loss, by its alpha channel or a file beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from lora_daemon.engine.cache import PictureError, decoded, read_picture
from lora_daemon.pipe import FrozenPicture
from shared.errors import Code, LoraError
from shared.filenames import from_text
from shared.safetensors_file import Tensor as RawTensor
from shared.safetensors_file import read_header, read_tensor, write

FILE = "masks.safetensors"  # in the run directory


def masks(
    run_dir: Path, pictures: Sequence[FrozenPicture], resolution: int, side: int
) -> Tensor:  # fmt: skip
    """Of each picture at the latents' size, float32 (n, side, side) in 0 … 1.

    Made once a run, so that one taken up again has the same whatever became of the files.
    ``resolution``: that the pictures are cropped to. Raises LoraError: INVALID_FILE, STORAGE.
    """
    path = run_dir / FILE
    if path.exists():
        header = read_header(path)
        with path.open("rb") as file:
            data = read_tensor(file, header, "masks")
        made = torch.frombuffer(bytearray(data), dtype=torch.uint8).view(-1, side, side)
    else:
        made = torch.stack([_mask(picture, resolution, side) for picture in pictures])
        raw = RawTensor("U8", tuple(made.shape), made.numpy().tobytes())
        write(path, {"masks": raw}, {})
    if len(made) != len(pictures):
        raise LoraError(Code.INVALID_FILE, f"{path} is damaged: it is not of this run's pictures.")
    return made.float() / 255


def _mask(picture: FrozenPicture, resolution: int, side: int) -> Tensor:
    """Uint8 (side, side). Without a mask the whole picture counts."""
    path = Path(from_text(picture.mask or picture.path))
    try:
        data = read_picture(path)
        if picture.mask and hashlib.sha256(data).hexdigest() != picture.mask_content:
            raise PictureError("the mask has changed since the run was queued")
        layer = _grey(data) if picture.mask else _alpha(data)
    except PictureError as error:
        raise LoraError(Code.INVALID_FILE, f"{path}: {error}.", data={"path": str(path)}) from None
    fitted = ImageOps.fit(layer, (resolution, resolution), Image.Resampling.LANCZOS)
    small = fitted.resize((side, side), Image.Resampling.BOX)
    return torch.from_numpy(np.asarray(small, dtype=np.uint8).copy())


def _grey(data: bytes) -> Image.Image:
    return decoded(data, lambda opened: ImageOps.exif_transpose(opened).convert("L"))


def _alpha(data: bytes) -> Image.Image:
    return decoded(
        data, lambda opened: ImageOps.exif_transpose(opened).convert("RGBA").getchannel("A")
    )
