"""The labelled sheet of a grid: columns along the first axis, rows along the second, blocks of both
along the third."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from shared.files import publish

LARGEST = 60_000_000  # pixels of a sheet; beyond, its pictures are made smaller
LEAST = 96  # px of a column: room for its label
GAP = 6
_PAPER, _INK = "white", "black"


def draw(
    out: Path, labels: list[list[str]], files: dict[tuple[int, ...], Path], parameters: str
) -> tuple[int, int]:
    """Lay out the pictures at their places (x, y, z; fewer where there are fewer axes) and write
    the PNG. Returns the sheet's width and height in pixels. Raises OSError."""
    xs, ys, zs = [*labels, [""], [""]][:3]
    cell = _cell(files, len(xs) * len(ys) * len(zs))
    size = max(min(cell[1] // 10, 40), 14)
    font = ImageFont.load_default(size)
    left = max((_width(font, text) for text in ys), default=0) + 2 * GAP if any(ys) else GAP
    head = (_lines(font, xs, cell[0]) + (1 if any(zs) else 0)) * (size + 4) + GAP
    block = head + len(ys) * (cell[1] + GAP)
    width, height = left + len(xs) * (cell[0] + GAP), GAP + len(zs) * block
    sheet = Image.new("RGB", (width, height), _PAPER)
    pen = ImageDraw.Draw(sheet)
    for z, title in enumerate(zs):
        top = GAP + z * block
        if title:
            pen.text((left, top), title, fill=_INK, font=font)
        for x, text in enumerate(xs):
            place = (left + x * (cell[0] + GAP), top + (size + 4 if any(zs) else 0))
            pen.multiline_text(place, _wrapped(font, text, cell[0]), fill=_INK, font=font)
        for y, text in enumerate(ys):
            row = top + head + y * (cell[1] + GAP)
            pen.text((GAP, row + cell[1] // 2 - size // 2), text, fill=_INK, font=font)
            for x in range(len(xs)):
                with Image.open(files[(x, y, z)[: len(labels)]]) as opened:
                    picture = opened.convert("RGB")
                picture.thumbnail(cell, Image.Resampling.LANCZOS)
                sheet.paste(picture, (left + x * (cell[0] + GAP), row))
    info = PngInfo()
    info.add_text("parameters", parameters)
    content = io.BytesIO()
    sheet.save(content, "PNG", pnginfo=info)
    publish(out, content.getvalue(), mode=0o644)
    return width, height


def _cell(files: dict[tuple[int, ...], Path], number: int) -> tuple[int, int]:
    """The largest picture's size, made smaller where the sheet would be too large."""
    width = height = 1
    for file in files.values():
        with Image.open(file) as opened:
            width, height = max(width, opened.width), max(height, opened.height)
    scale = min(1.0, (LARGEST / (number * width * height)) ** 0.5)
    return max(round(width * scale), LEAST), max(round(height * scale), 1)


def _width(font: ImageFont.FreeTypeFont | ImageFont.ImageFont, text: str) -> int:
    return int(font.getlength(text)) + 1


def _wrapped(font: ImageFont.FreeTypeFont | ImageFont.ImageFont, text: str, width: int) -> str:
    """The text in lines that fit, a word that does not on a line of its own."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and _width(font, longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(lines)


def _lines(font: ImageFont.FreeTypeFont | ImageFont.ImageFont, texts: list[str], width: int) -> int:
    return max((_wrapped(font, text, width).count("\n") + 1 for text in texts), default=1)
