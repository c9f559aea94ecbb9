"""What an owner would not publish stays behind; the picture stays bit for bit."""

from __future__ import annotations

import io
import random

import pytest
from PIL import Image, ImageOps, PngImagePlugin

from lora_daemon.privacy import Unreadable, without_metadata

PLACE = b"Secret Street 7"


def photo(kind: str, orientation: int = 1, **options: object) -> bytes:
    """A picture with a place in its EXIF, and an ICC profile."""
    dice = random.Random(7)
    picture = Image.new("RGB", (40, 24))
    picture.putdata([(dice.randrange(256), dice.randrange(256), 90) for _ in range(40 * 24)])
    exif = Image.Exif()
    exif[0x010E] = PLACE.decode()
    exif[0x0112] = orientation
    exif.get_ifd(0x8825)[2] = (48.0, 8.0, 11.0)  # GPSLatitude
    exif.get_ifd(0x8825)[29] = PLACE.decode()
    out = io.BytesIO()
    picture.save(out, kind, exif=exif.tobytes(), icc_profile=PROFILE, **options)
    return out.getvalue()


def _profile() -> bytes:
    from PIL import ImageCms

    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


PROFILE = _profile()


def pixels(data: bytes) -> bytes:
    with Image.open(io.BytesIO(data)) as picture:
        return ImageOps.exif_transpose(picture).convert("RGB").tobytes()


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_the_place_is_gone_and_the_picture_is_the_same(kind: str, orientation: int) -> None:
    options: dict[str, object] = {"quality": 90} if kind in ("JPEG", "WEBP", "AVIF") else {}
    if kind == "JPEG":
        options["comment"] = PLACE
    if kind == "PNG":
        text = PngImagePlugin.PngInfo()
        text.add_text("Author", PLACE.decode())
        text.add_itxt("XML:com.adobe.xmp", PLACE.decode())
        options["pnginfo"] = text
    data = photo(kind, orientation, **options)
    assert PLACE in data
    clean, suffix = without_metadata(data)
    assert PLACE not in clean
    assert pixels(clean) == pixels(data)
    assert suffix == (".png" if kind in ("TIFF", "AVIF") else None)
    with Image.open(io.BytesIO(clean)) as picture:
        assert picture.info.get("icc_profile") == PROFILE
        assert not picture.getexif().get_ifd(0x8825)


def test_what_a_camera_appends_behind_the_picture_goes() -> None:
    data = photo("JPEG", quality=90, progressive=True)
    clean, _ = without_metadata(data + b"MotionPhoto" + PLACE + photo("JPEG", quality=10))
    assert clean == without_metadata(data)[0]


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n\0\0", b"RIFF....WEBPx"])
def test_what_is_no_picture_is_said(data: bytes) -> None:
    with pytest.raises(Unreadable):
        without_metadata(data)
