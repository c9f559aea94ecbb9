"""What a picture's pixels tell of it: measured in one decoding, at the size it is trained at.

Numpy and Pillow, in a process of its own (health_process.py).
"""

from __future__ import annotations

import functools
import hashlib
import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from lora_daemon import colours, pictures
from lora_daemon.picture_measures import Facts
from shared.health import LOOKS

SIDE = 512  # pixels of the longer side that is looked at
HASHED = 32  # pixels of the square that the perceptual hash sees
COLOURS = 4  # pixels of the square that says which colours are where
BLURRED = 0.6  # a Gaussian of 2 to 3 pixels' deviation; what is sharp has 0.2 to 0.4
DARK = 0.3  # brightness
BRIGHT = 0.7
FLAT = 0.04  # brightness from the darkest to the brightest 1 %; with less there is nothing to see
_WINDOW = 9  # pixels of the mean that a sharp picture differs from
_SMOOTH = ("RGB", "RGBA", "L", "LA", "CMYK")  # modes whose neighbouring pixels can be mixed
_ORIENTATION = 0x0112


class Unmeasured(Exception):
    """Why a picture could not be measured, reading on from its name."""


def measure(path: Path, content: str) -> Facts:
    """Raises Unmeasured: it cannot be read, or its SHA-256 is not ``content`` any more."""
    try:
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != content:
            raise Unmeasured("has changed since it was imported: read the folder again")
        return facts_of(data)
    except pictures.Unusable as error:
        raise Unmeasured(str(error)) from None
    except OSError as error:
        raise Unmeasured(f"cannot be read ({error.strerror or error})") from None
    except MemoryError:
        raise Unmeasured("is too large for this machine's memory") from None
    except Unmeasured:
        raise
    except Exception as error:  # decoders raise whatever a hostile file makes them
        raise Unmeasured(f"is damaged ({error})") from None


def facts_of(data: bytes) -> Facts:
    """The facts of a picture file. Raises pictures.Unusable, and what its decoder raises."""
    with pictures.opened(io.BytesIO(data)) as picture:
        turned = _turned(picture)
        profile = colours.foreign_profile(picture.info.get("icc_profile") or b"", picture.mode)
        picture.draft("RGB", (SIDE, SIDE))
        alpha = _seen_through(picture)
        small = picture if picture.mode in _SMOOTH else colours.rgb(picture)
        small.thumbnail((SIDE, SIDE), Image.Resampling.BOX, reducing_gap=2.0)
        seen = colours.rgb(ImageOps.exif_transpose(small) if turned else small)
    grey = seen.convert("L")
    darkest, brightest = _extremes(grey.histogram())
    flat = brightest - darkest < FLAT
    softness = None if flat else blur(np.asarray(grey))
    found = {
        "blur": softness is not None and softness > BLURRED,
        "dark": brightest < DARK,
        "bright": darkest > BRIGHT,
        "profile": bool(profile),
        "alpha": alpha,
        "turned": turned,
    }
    return Facts(
        looks=sum(1 << place for place, name in enumerate(LOOKS) if found[name]),
        profile=profile,
        hash=None if flat else perceptual(grey),
        colours=seen.resize((COLOURS, COLOURS), Image.Resampling.BOX).tobytes(),
    )


def blur(grey: NDArray[np.uint8]) -> float | None:
    """How little is lost by blurring a picture (height, width) once more, 0 … 1: an edge that is
    soft already stays as it is. None where no direction has both room and edges.

    Crété-Roffet et al. 2007, "The blur effect: perception and estimation with a new no-reference
    perceptual blur metric".
    """
    # every second line says as much, in half the time
    along = [_blur_along(grey[::2]), _blur_along(np.ascontiguousarray(grey[:, ::2].T))]
    known = [one for one in along if one is not None]
    return max(known) if known else None


def _blur_along(grey: NDArray[np.uint8]) -> float | None:
    width = grey.shape[1]
    if width <= 2 * _WINDOW:
        return None
    sums = np.zeros((grey.shape[0], width + 1), np.int32)
    np.cumsum(grey, axis=1, dtype=np.int32, out=sums[:, 1:])
    blurred = sums[:, _WINDOW:] - sums[:, :-_WINDOW]  # _WINDOW times the mean
    middle = grey[:, _WINDOW // 2 : width - _WINDOW // 2].astype(np.int32) * _WINDOW
    sharp_steps = np.abs(np.diff(middle, axis=1))
    lost = sharp_steps - np.abs(np.diff(blurred, axis=1))
    whole = int(sharp_steps.sum(dtype=np.int64))
    if whole < grey.size * _WINDOW / 20:  # a step of 1 in 20 pixels: noise at most
        return None
    return 1 - int(np.maximum(lost, 0).sum(dtype=np.int64)) / whole


def perceptual(grey: Image.Image) -> int:
    """64 bits that are nearly the same for pictures that look nearly the same: whether each of the
    lowest 8 × 8 frequencies of a 32 × 32 thumbnail is above their median (pHash)."""
    small = np.asarray(grey.resize((HASHED, HASHED), Image.Resampling.BOX), np.float64)
    basis = _cosines()
    low = (basis @ small @ basis.T).ravel()
    bits = low > np.median(low[1:])  # the first is the mean
    bits[0] = False
    return int(np.packbits(bits).view(">i8")[0])


@functools.cache
def _cosines() -> NDArray[np.float64]:
    """The first 8 rows of the discrete cosine transform (8, HASHED)."""
    place = (np.arange(HASHED) + 0.5) * np.pi / HASHED
    return np.cos(np.arange(8)[:, None] * place)


def _turned(picture: Image.Image) -> bool:
    try:
        return picture.getexif().get(_ORIENTATION, 1) in range(2, 9)
    except Exception:  # damaged EXIF does not make a damaged picture
        return False


def _seen_through(picture: Image.Image) -> bool:
    """Whether any pixel is transparent, not merely whether it could be."""
    if not picture.has_transparency_data:
        return False
    layer = picture if picture.mode in ("RGBA", "LA") else picture.convert("RGBA")
    least, _ = layer.getchannel("A").getextrema()
    return isinstance(least, int | float) and least < 250


def _extremes(histogram: list[int]) -> tuple[float, float]:
    """Brightness, 0 … 1, that 1 % of the pixels are not above, and that 1 % are not below."""
    share = np.cumsum(histogram) / max(sum(histogram), 1)
    return float(np.searchsorted(share, 0.01)) / 255, float(np.searchsorted(share, 0.99)) / 255
