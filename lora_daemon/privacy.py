"""Pictures without what their owner would not publish: place, camera, owner, software, comments.

The picture itself is copied bit for bit, unless it is to be turned or cropped; what stays beside it
is how to show it: orientation and colour profile. Runs in threads.
"""

from __future__ import annotations

import io
import struct
from typing import Literal

from lora_daemon import pictures
from shared.framing import Framing

_ORIENTATION = 0x0112
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_DROPPED = (b"tEXt", b"zTXt", b"iTXt", b"tIME", b"eXIf")
_QUALITY = 95  # of a JPEG that has to be made anew, its colours as fine as its light
_JPEG_KEPT = (0xE0, 0xE2, 0xEE)  # JFIF, ICC profile, Adobe's colour transform


class Unreadable(Exception):
    """The bytes are not what their beginning says."""


def without_metadata(data: bytes) -> tuple[bytes, str | None]:
    """The picture without private metadata, and the suffix it must have now if that changed.

    JPEG, PNG and WebP keep every pixel's bits. Others that can carry metadata (TIFF, AVIF, HEIC)
    become PNG, with the same pixels; CMYK and Lab become sRGB. Raises Unreadable.
    """
    try:
        if data.startswith(b"\xff\xd8"):
            return _jpeg(data), None
        if data.startswith(_PNG):
            return _png(data), None
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp(data), None
        if data.startswith((b"GIF8", b"BM")):
            return data, None  # no EXIF there
        return _redrawn(data, pictures.PLAIN, "PNG"), ".png"
    except (struct.error, IndexError, OSError, ValueError, pictures.Unusable) as error:
        raise Unreadable(str(error)) from None


def as_framed(data: bytes, framing: Framing) -> tuple[bytes, str | None]:
    """The picture turned and cropped, without private metadata, and its suffix as above.

    A JPEG is made anew as a JPEG, which costs a little of it; others become PNG, which does not.
    Raises Unreadable.
    """
    jpeg = data.startswith(b"\xff\xd8")
    try:
        return _redrawn(data, framing, "JPEG" if jpeg else "PNG"), None if jpeg else ".png"
    except (OSError, ValueError, pictures.Unusable) as error:
        raise Unreadable(str(error)) from None


def _orientation(data: bytes) -> int:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as picture:
            found = picture.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged EXIF does not make a damaged picture
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _exif(data: bytes) -> bytes:
    """An EXIF block with the orientation alone, without its ``Exif`` mark; empty if upright."""
    from PIL import Image

    turned = _orientation(data)
    if turned == 1:
        return b""
    exif = Image.Exif()
    exif[_ORIENTATION] = turned
    return exif.tobytes().removeprefix(b"Exif\0\0")


def _jpeg(data: bytes) -> bytes:
    out = [b"\xff\xd8"]
    if exif := _exif(data):
        block = b"Exif\0\0" + exif
        out.append(b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block)
    at = 2
    while data[at + 1] != 0xDA:  # start of scan: from there on it is the picture
        if data[at] != 0xFF:
            raise ValueError("no marker where one must be")
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        (size,) = struct.unpack_from(">H", data, at + 2)
        private = (0xE0 <= marker <= 0xEF and marker not in _JPEG_KEPT) or marker == 0xFE
        if marker == 0xE2 and data[at + 4 : at + 15] != b"ICC_PROFILE":
            private = True  # FlashPix, or a second picture's index
        if not private:
            out.append(data[at : at + 2 + size])
        at += 2 + size
    end = data.rfind(b"\xff\xd9")  # what some cameras put behind the picture goes too
    first = _end_of_image(data, at)
    out.append(data[at : first if first > 0 else end + 2 if end > at else len(data)])
    return b"".join(out)


def _end_of_image(data: bytes, at: int) -> int:
    """Where the picture whose scan starts at ``at`` ends; 0 if it has no end."""
    while (at := data.find(b"\xff", at)) >= 0 and at + 1 < len(data):
        marker = data[at + 1]
        if marker == 0xD9:
            return at + 2
        if marker in (0x00, 0xFF) or 0xD0 <= marker <= 0xD7:
            at += 1 if marker == 0xFF else 2
        else:  # another scan, or tables before it
            at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    return 0


def _png(data: bytes) -> bytes:
    from zlib import crc32

    out, at = [_PNG], len(_PNG)
    exif = _exif(data)
    while at < len(data):
        (size,) = struct.unpack_from(">I", data, at)
        kind = data[at + 4 : at + 8]
        if len(kind) < 4:
            raise ValueError("cut short")
        if kind not in _PNG_DROPPED:
            out.append(data[at : at + 12 + size])
        if kind == b"IHDR" and exif:
            chunk = b"eXIf" + exif
            out.append(struct.pack(">I", len(exif)) + chunk + struct.pack(">I", crc32(chunk)))
        at += 12 + size
        if kind == b"IEND":
            break
    return b"".join(out)


def _webp(data: bytes) -> bytes:
    exif = _exif(data)
    body, at = [], 12
    while at + 8 <= len(data):
        kind = data[at : at + 4]
        (size,) = struct.unpack_from("<I", data, at + 4)
        chunk = bytearray(data[at : at + 8 + size + size % 2])
        if kind == b"VP8X":
            chunk[8] = (chunk[8] & ~0b1100) | (0b1000 if exif else 0)  # neither EXIF nor XMP
        if kind not in (b"EXIF", b"XMP "):
            body.append(bytes(chunk))
        at += len(chunk)
    if not any(chunk.startswith(b"VP8") for chunk in body):
        raise ValueError("no picture in it")
    if exif and body[0][:4] == b"VP8X":
        body.append(b"EXIF" + struct.pack("<I", len(exif)) + exif + b"\0" * (len(exif) % 2))
    whole = b"WEBP" + b"".join(body)
    return b"RIFF" + struct.pack("<I", len(whole)) + whole


def _redrawn(data: bytes, framing: Framing, form: Literal["JPEG", "PNG"]) -> bytes:
    """Upright, turned and cropped; in its own colours with their profile where ``form`` has such
    colours, else in sRGB."""
    from lora_daemon import colours

    modes = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16") if form == "PNG" else ("L", "RGB")
    with pictures.opened(io.BytesIO(data)) as picture:
        seen = pictures.framed(picture, framing)
        profile = picture.info.get("icc_profile")
        if form == "PNG" and "transparency" in picture.info:
            seen = seen.convert("RGBA")
        clean = seen if seen.mode in modes else colours.rgb(seen)
        kept = profile if clean.mode == seen.mode else None
        clean.info = {}
        out = io.BytesIO()
        if form == "PNG":
            clean.save(out, "PNG", icc_profile=kept)
        else:
            clean.save(out, "JPEG", quality=_QUALITY, subsampling=0, icc_profile=kept)
    return out.getvalue()
