"""Pictures of every kind come out in sRGB: the same for thumbnails and for training."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from lora_daemon import pictures
from lora_daemon.engine.cache import PictureError, load_picture
from lora_daemon.privacy import without_metadata
from shared.framing import Framing

SRGB = ImageCms.createProfile("sRGB")


def both(path: Path) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The middle pixel as training and as a thumbnail has it."""
    trained = load_picture(path)
    data, *_ = pictures.shrink(path.read_bytes(), 64, 64)
    small = Image.open(io.BytesIO(data)).convert("RGB")
    middle = trained.getpixel((trained.width // 2, trained.height // 2))
    own = small.getpixel((small.width // 2, small.height // 2))
    assert isinstance(middle, tuple) and isinstance(own, tuple)
    return middle, own


def near(path: Path, wanted: tuple[int, int, int], by: int = 6) -> None:
    for seen in both(path):
        assert np.abs(np.subtract(seen, wanted)).max() <= by, (path.name, seen)


def test_grey_of_16_bits_is_not_turned_white(tmp_path: Path) -> None:
    grey = np.full((32, 32), 0x4040, np.uint16)
    Image.fromarray(grey).save(tmp_path / "a.png")
    Image.fromarray(grey).save(tmp_path / "b.tif")
    Image.fromarray(np.full((32, 32), 0.25, np.float32)).save(tmp_path / "c.tif")
    for name in ("a.png", "b.tif", "c.tif"):
        near(tmp_path / name, (64, 64, 64))


def test_palettes_and_what_is_transparent(tmp_path: Path) -> None:
    palette = Image.new("RGB", (32, 32), (200, 40, 40)).quantize(4)
    palette.save(tmp_path / "a.png")
    near(tmp_path / "a.png", (200, 40, 40))
    palette.save(tmp_path / "b.png", transparency=palette.getpixel((0, 0)))
    near(tmp_path / "b.png", (255, 255, 255))
    Image.new("LA", (32, 32), (0, 128)).save(tmp_path / "c.png")
    near(tmp_path / "c.png", (127, 127, 127))


def test_the_first_frame_of_what_moves(tmp_path: Path) -> None:
    first, second = Image.new("RGB", (32, 32), (10, 200, 10)), Image.new("RGB", (32, 32), "black")
    for ending in ("gif", "webp"):
        first.save(tmp_path / f"a.{ending}", save_all=True, append_images=[second])
        near(tmp_path / f"a.{ending}", (10, 200, 10), 10)


def test_colours_follow_the_profile(tmp_path: Path) -> None:
    """A profile that swaps red and blue shows in both, so it was not passed over."""
    swapped = bytearray(ImageCms.ImageCmsProfile(SRGB).tobytes())
    red, blue = swapped.index(b"rXYZ", 128), swapped.index(b"bXYZ", 128)
    swapped[red : red + 4], swapped[blue : blue + 4] = b"bXYZ", b"rXYZ"
    profile = bytes(swapped)
    picture = Image.new("RGB", (32, 32), (220, 30, 60))
    picture.save(tmp_path / "a.png", icc_profile=profile)
    near(tmp_path / "a.png", (60, 30, 220), 12)
    alpha = picture.convert("RGBA")
    alpha.save(tmp_path / "b.png", icc_profile=profile)
    near(tmp_path / "b.png", (60, 30, 220), 12)
    picture.save(tmp_path / "c.png", icc_profile=b"nonsense")
    near(tmp_path / "c.png", (220, 30, 60))


def test_cmyk_and_heic(tmp_path: Path) -> None:
    Image.new("CMYK", (32, 32), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    near(tmp_path / "a.jpg", (254, 0, 0), 8)
    heif = pytest.importorskip("pillow_heif")
    heif.from_pillow(Image.new("RGB", (64, 32), (30, 60, 200))).save(tmp_path / "b.heic")
    near(tmp_path / "b.heic", (30, 60, 200), 10)
    seen = pictures.examine(tmp_path / "b.heic")
    assert (seen.width, seen.height, seen.problem) == (64, 32, "")
    clean, suffix = without_metadata((tmp_path / "b.heic").read_bytes())  # as an export has it
    assert suffix == ".png"
    (tmp_path / "c.png").write_bytes(clean)
    near(tmp_path / "c.png", (30, 60, 200), 10)


def test_a_heic_photo_names_the_package_where_it_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "_reads_heif", lambda: False)
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(64))
    assert "pip install pillow-heif" in pictures.examine(tmp_path / "a.heic").problem
    with pytest.raises(PictureError, match="pillow-heif"):
        load_picture(tmp_path / "a.heic")


def test_a_framed_picture_is_turned_and_cropped_upright(tmp_path: Path) -> None:
    """Four corners of four colours, stored on its side as a camera does."""
    whole = Image.new("RGB", (800, 400))
    for place, colour in enumerate(("red", "lime", "blue", "white")):
        left, top = place % 2 * 400, place // 2 * 200
        whole.paste(colour, (left, top, left + 400, top + 200))
    exif = whole.getexif()
    exif[0x0112] = 6
    whole.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a.jpg", exif=exif, quality=95)
    seen = Framing(turn=90).cropped((0, 0, 200, 800), 800, 400)  # the left half once it is turned
    trained = load_picture(tmp_path / "a.jpg", seen)
    assert trained.size == (200, 800)
    data, wide, high = pictures.shrink((tmp_path / "a.jpg").read_bytes(), 40, 160, seen)
    assert (wide, high) == (40, 160)
    for picture in (trained, Image.open(io.BytesIO(data))):
        colours = [picture.getpixel((picture.width // 2, picture.height * n // 4)) for n in (1, 3)]
        assert np.abs(np.subtract(colours, [(0, 0, 255), (255, 255, 255)])).max() < 12
