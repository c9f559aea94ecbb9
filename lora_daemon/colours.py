"""Any picture's colours as sRGB in 8 bits, on white: the same for thumbnails and for training."""

from __future__ import annotations

import functools
import io

from PIL import Image, ImageCms

# CIE XYZ of sRGB's primaries under D50, as its profiles have them (IEC 61966-2-1, ICC.1:2022 annex)
_SRGB = ((0.436, 0.222, 0.014), (0.385, 0.717, 0.097), (0.143, 0.061, 0.714))
_APART = 0.01
_MODES = {"RGB": "RGB", "CMYK": "CMYK", "GRAY": "L", "Lab": "LAB"}  # by a profile's colour space
_DEPTH = 65535 / 255  # of 16-bit values to 8-bit ones


def rgb(picture: Image.Image) -> Image.Image:
    """RGB in 8 bits, converted from the profile the picture carries, what is transparent turned
    white. A profile that cannot be read is passed over."""
    picture = eight_bits(picture)
    profile = picture.info.get("icc_profile") or b""
    alpha = None
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        alpha = picture.getchannel("A")
    if picture.mode in ("P", "PA", "RGBA", "RGBX"):
        picture = picture.convert("RGB")
    seen = _from_profile(picture, profile)
    if alpha is None:
        return seen
    paper = Image.new("RGB", seen.size, "white")
    paper.paste(seen, mask=alpha)
    return paper


def eight_bits(picture: Image.Image) -> Image.Image:
    """A grey picture of 16 or 32 bits in 8; any other as it is. Floats from 0 to 1 are stretched,
    those of 8-bit range are kept."""
    if picture.mode not in ("I", "F") and not picture.mode.startswith("I;16"):
        return picture
    wide = picture.convert("F")
    _, most = wide.getextrema()
    scale = 1.0
    if picture.mode.startswith("I;16") or (isinstance(most, float) and most > 255):
        scale = 1 / _DEPTH
    elif picture.mode == "F" and isinstance(most, float) and most <= 1:
        scale = 255.0
    grey = wide.point(lambda value: value * scale + 0.5).convert("L")
    grey.info = {key: value for key, value in picture.info.items() if key != "transparency"}
    return grey


def _from_profile(picture: Image.Image, profile: bytes) -> Image.Image:
    if picture.mode == "LAB" and not profile:
        return _transformed(_lab(), picture)
    if not profile or not (picture.mode in ("L", "CMYK") or foreign_profile(profile, "RGB")):
        return picture.convert("RGB")
    try:
        parsed = _parsed(profile)
        mode = _MODES.get(parsed.profile.xcolor_space.strip(), "")
        if mode != picture.mode:
            return picture.convert("RGB")
        return _transformed(profile, picture)
    except (OSError, ImageCms.PyCMSError, AttributeError, TypeError, ValueError):
        return picture.convert("RGB")


def _transformed(profile: bytes, picture: Image.Image) -> Image.Image:
    transform = _transform(profile, picture.mode)
    done = ImageCms.applyTransform(picture, transform)
    assert done is not None  # only in place there is nothing to return
    done.info.pop("icc_profile", None)
    return done


@functools.lru_cache(maxsize=32)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform:
    return ImageCms.buildTransform(_parsed(profile), ImageCms.createProfile("sRGB"), mode, "RGB")


def _parsed(profile: bytes) -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(io.BytesIO(profile))


@functools.cache
def _lab() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()


@functools.lru_cache(maxsize=256)
def foreign_profile(profile: bytes, mode: str) -> str:
    """What a picture's colours are where they are not sRGB's; empty where they are, or are grey."""
    if mode in ("CMYK", "LAB"):
        return mode
    if not profile or mode in ("L", "LA", "1", "I", "F") or mode.startswith("I;"):
        return ""
    try:
        parsed = _parsed(profile).profile
        name = " ".join((parsed.profile_description or "").split())
        primaries = [parsed.red_colorant, parsed.green_colorant, parsed.blue_colorant]
    except (OSError, ImageCms.PyCMSError, AttributeError):
        return "a profile that cannot be read"
    space, have = parsed.xcolor_space.strip(), [colour[0] for colour in primaries if colour]
    if space == "GRAY":
        return ""
    if space != "RGB" or len(have) < 3:
        return name or "another"
    pairs = zip(have, _SRGB, strict=True)
    apart = max(abs(a - b) for one, srgb in pairs for a, b in zip(one, srgb, strict=True))
    return "" if apart < _APART else name or "another"
