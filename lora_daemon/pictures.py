"""Reading picture files with distrust: what is in them, what is wrong with them, small versions.

Everything here runs in threads and touches no shared state.
"""

from __future__ import annotations

import functools
import hashlib
import io
import math
import os
import stat
from pathlib import Path
from typing import IO, TYPE_CHECKING

import msgspec

from shared.errors import Code, LoraError
from shared.filenames import to_text
from shared.framing import Framing, Size

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".heic", ".heif",
)  # fmt: skip
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")  # nothing that starts a program
MAX_BYTES = 512 * 1024 * 1024
MAX_PIXELS = 150_000_000
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_ORIENTATION = 0x0112
_TURNED = (5, 6, 7, 8)  # EXIF orientations with width and height exchanged


PLAIN = Framing()


class Examined(msgspec.Struct, frozen=True, kw_only=True):
    """What a file turned out to be. ``problem`` reads on from its name; empty if it is usable."""

    content: str = ""  # SHA-256, hex
    width: int = 0  # pixels as shown
    height: int = 0
    size: int = 0  # bytes
    mtime: int = 0  # ns
    problem: str = ""


def examine(path: Path) -> Examined:
    """Read a picture wholly: hash it and decode it, so that a truncated one is found. Never raises
    for what a file may be or hold."""
    seen, problem = Examined(), ""
    try:
        status = path.stat()
        seen = Examined(size=status.st_size, mtime=status.st_mtime_ns)
        refuse(status)
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
            seen = msgspec.structs.replace(seen, content=content)
            file.seek(0)
            width, height = _decode(file)
            seen = msgspec.structs.replace(seen, width=width, height=height)
    except Unusable as error:
        problem = str(error)
    except OSError as error:
        problem = unreadable(path, error)
    except MemoryError:
        problem = "is too large for this machine's memory"
    except Exception as error:  # decoders raise whatever a hostile file makes them
        problem = f"is damaged ({error})"
    return msgspec.structs.replace(seen, problem=problem)


def shrink(
    data: bytes, width: int, height: int, framing: Framing = PLAIN
) -> tuple[bytes, int, int]:
    """A JPEG that fits ``width`` × ``height`` pixels, upright, as ``framing`` says, never enlarged;
    and its size. Raises LoraError(INVALID_FILE)."""
    return jpeg(small(data, width, height, framing))


def jpeg(picture: Image) -> tuple[bytes, int, int]:
    """An RGB picture as a JPEG, and its size."""
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=88)
    return out.getvalue(), picture.width, picture.height


def small(data: bytes, width: int, height: int, framing: Framing = PLAIN) -> Image:
    """As ``shrink``, the picture itself, in sRGB on white."""
    from PIL import Image

    from lora_daemon import colours

    try:
        with opened(io.BytesIO(data)) as picture:
            full = upright_size(picture)
            wide, high = framing.size(*full)
            share = min(1.0, max(width / wide, height / high))  # of the file's pixels, is enough
            picture.draft("RGB", tuple(math.ceil(side * share) for side in picture.size))  # type: ignore[arg-type]
            upright = framed(colours.eight_bits(picture), framing, full)
            upright.thumbnail((width, height), Image.Resampling.BICUBIC)
            return colours.rgb(upright)
    except Unusable as error:
        raise LoraError(Code.INVALID_FILE, f"That picture {error}.") from None
    except Exception as error:
        raise LoraError(Code.INVALID_FILE, f"That picture cannot be shown: {error}.") from None


def load(path: Path) -> Image:
    """A picture file as it is shown: upright, RGB, what is transparent white. Raises
    LoraError(INVALID_FILE) saying what is wrong with it."""
    from lora_daemon import colours

    try:
        refuse(path.stat())
        with path.open("rb") as file, opened(file) as picture:
            return colours.rgb(framed(picture, PLAIN))
    except Unusable as error:
        problem = str(error)
    except OSError as error:
        problem = unreadable(path, error)
    except Exception as error:  # decoders raise whatever a hostile file makes them
        problem = f"is damaged ({error})"
    raise LoraError(Code.INVALID_FILE, f"{path} {problem}.")


def framed(picture: Image, framing: Framing, full: Size | None = None) -> Image:
    """A picture upright, turned and cropped. ``full``: its upright size in its file, where what is
    given is a smaller version of it."""
    from PIL import Image, ImageOps

    upright: Image.Image = ImageOps.exif_transpose(picture)
    full = full or upright.size
    turns = {90: Image.Transpose.ROTATE_270, 180: Image.Transpose.ROTATE_180,
             270: Image.Transpose.ROTATE_90}  # fmt: skip
    if framing.turn:
        upright = upright.transpose(turns[framing.turn])
    if framing.crop is None:
        return upright
    across, down = (
        have / whole for have, whole in zip(upright.size, framing.turned_size(*full), strict=True)
    )
    left, top, right, bottom = framing.box(*full)
    box = (round(left * across), round(top * down), round(right * across), round(bottom * down))
    return upright.crop((box[0], box[1], max(box[2], box[0] + 1), max(box[3], box[1] + 1)))


def upright_size(picture: Image) -> Size:
    """Width and height of an opened picture as it is shown."""
    try:
        turned = picture.getexif().get(_ORIENTATION) in _TURNED
    except Exception:  # damaged EXIF does not make a damaged picture
        turned = False
    return (picture.height, picture.width) if turned else picture.size


def size_of(data: bytes) -> tuple[int, int]:
    """Width and height in pixels of one of our own JPEGs."""
    with opened(io.BytesIO(data)) as picture:
        return picture.size


def read_png(path: Path) -> tuple[int, int, str]:
    """Width, height and ``parameters`` text of one of our own PNGs. Raises LoraError."""
    try:
        with path.open("rb") as file, opened(file) as picture:
            return picture.width, picture.height, str(picture.info.get("parameters", ""))
    except (OSError, Unusable) as error:
        raise LoraError(Code.INVALID_FILE, f"{path} cannot be read ({error}).") from None


class Unusable(Exception):
    """Why a picture is not usable, reading on from its name."""


def opened(file: IO[bytes]) -> Image:
    """A picture, not yet decoded. Raises Unusable, and whatever a decoder raises."""
    from PIL import Image, UnidentifiedImageError

    Image.MAX_IMAGE_PIXELS = None  # our own limit below says it in words
    head = file.read(12)
    file.seek(0)
    heif = head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS
    if heif and not _reads_heif():
        raise Unusable("is a HEIC photo, which needs a package: pip install pillow-heif")
    try:
        picture = Image.open(file, formats=(*FORMATS, "HEIF") if heif else FORMATS)
    except UnidentifiedImageError:
        raise Unusable("is not a picture, or of a kind that is not known here") from None
    if picture.width * picture.height > MAX_PIXELS:
        raise Unusable(
            f"is too large: {picture.width} × {picture.height} pixels of at most "
            f"{MAX_PIXELS // 1_000_000} million"
        )
    return picture


@functools.cache
def _reads_heif() -> bool:
    """Teach Pillow HEIC, where the package is; only once such a file is there."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def refuse(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):  # opening a named pipe would wait for ever
        raise Unusable("is not a file but a folder, device, pipe or socket")
    if status.st_size == 0:
        raise Unusable("is empty (0 bytes)")
    if status.st_size > MAX_BYTES:
        raise Unusable(f"is too large: {status.st_size >> 20} MiB of at most {MAX_BYTES >> 20} MiB")


def _decode(file: IO[bytes]) -> Size:
    with opened(file) as picture:
        size = upright_size(picture)
        picture.draft("RGB", (picture.width // 8, picture.height // 8))
        picture.load()  # a JPEG is read to its end all the same
    return size


def unreadable(path: Path, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        if path.is_symlink():
            return f"is a broken link to {to_text(path.readlink())}"
        return "is gone"
    if not error.errno:  # Pillow's own
        return f"is damaged or cut short ({error})"
    return f"cannot be read ({error.strerror or error})"
