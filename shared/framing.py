"""How a picture is to be seen: turned, and cropped. Kept as data; the file stays as it is.

Pixels are counted on the picture as its file shows it (EXIF orientation applied), then turned.
"""

from __future__ import annotations

import msgspec

from shared.errors import Code, LoraError

Size = tuple[int, int]  # width and height, in pixels
Box = tuple[int, int, int, int]  # left, top, right, bottom, in pixels; the last two are outside

TURNS = (0, 90, 180, 270)
LEAST = 8  # pixels of a crop's side


class Framing(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``turn``: degrees clockwise, before the crop; ``crop``: what is seen of the turned picture,
    None for all of it."""

    turn: int = 0
    crop: Box | None = None

    @property
    def plain(self) -> bool:
        """Whether the picture is seen as its file has it."""
        return self == Framing()

    def turned_size(self, width: int, height: int) -> Size:
        """Of a picture of these pixels, before the crop."""
        return (height, width) if self.turn % 180 else (width, height)

    def box(self, width: int, height: int) -> Box:
        """The crop, within the turned picture. A crop that lies outside of it (the file was
        replaced by a smaller one) is none."""
        wide, high = self.turned_size(width, height)
        if self.crop is None:
            return (0, 0, wide, high)
        left, top, right, bottom = self.crop
        box = (max(0, left), max(0, top), min(wide, right), min(high, bottom))
        return box if box[0] < box[2] and box[1] < box[3] else (0, 0, wide, high)

    def size(self, width: int, height: int) -> Size:
        """Of what is seen of a picture of these pixels."""
        left, top, right, bottom = self.box(width, height)
        return (right - left, bottom - top)

    def rotated(self, by: int, width: int, height: int) -> Framing:
        """Turned by more degrees, seeing the same part of a picture of these pixels."""
        seen = self
        for _ in range(by % 360 // 90):
            _, high = seen.turned_size(width, height)
            crop = None
            if seen.crop is not None:
                left, top, right, bottom = seen.box(width, height)
                crop = (high - bottom, left, high - top, right)
            seen = Framing(turn=(seen.turn + 90) % 360, crop=crop)
        return seen

    def cropped(self, crop: Box | None, width: int, height: int) -> Framing:
        """With another crop, or none. Raises LoraError(BAD_REQUEST): it is outside the turned
        picture of ``width`` × ``height`` before it is turned, or smaller than ``LEAST``."""
        wide, high = self.turned_size(width, height)
        if crop is None or crop == (0, 0, wide, high):
            return Framing(turn=self.turn)
        left, top, right, bottom = crop
        if not (0 <= left < right <= wide and 0 <= top < bottom <= high):
            raise LoraError(
                Code.BAD_REQUEST,
                f"The crop {written(crop)} is not within the picture, which is {wide} × {high} "
                "pixels. A crop is LEFT,TOP,RIGHT,BOTTOM.",
            )
        if right - left < LEAST or bottom - top < LEAST:
            raise LoraError(
                Code.BAD_REQUEST, f"A crop has at least {LEAST} × {LEAST} pixels; not "
                f"{right - left} × {bottom - top}.",
            )  # fmt: skip
        return Framing(turn=self.turn, crop=crop)


def written(crop: Box | None) -> str:
    """A crop as it is typed: "10,20,300,400"; empty for none."""
    return ",".join(map(str, crop)) if crop is not None else ""


def crop_of(text: str) -> Box:
    """A typed crop. Raises LoraError(BAD_REQUEST)."""
    parts = text.replace(" ", "").split(",")
    if len(parts) != 4 or not all(part.isdecimal() for part in parts):
        raise LoraError(
            Code.BAD_REQUEST,
            f"A crop is LEFT,TOP,RIGHT,BOTTOM in pixels, such as 10,20,300,400; not {text!r}.",
        )
    left, top, right, bottom = map(int, parts)
    return (left, top, right, bottom)


def stored(framing: Framing) -> str:
    """As the database has it: empty, "90", or "90 10,20,300,400"."""
    if framing.plain:
        return ""
    return f"{framing.turn} {written(framing.crop)}".strip()


def read(text: str) -> Framing:
    """What ``stored`` wrote."""
    turn, _, crop = text.partition(" ")
    return Framing(turn=int(turn or 0), crop=crop_of(crop) if crop else None)
