"""Runs side by side as a PNG: their losses over one another, their samples next to each other."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

from lora_tui.core.run_table import Side, curves, name_of, pairs, settled

WIDTH, HEIGHT, LEFT, LINE = 720, 300, 64, 18  # pixels: the chart, its margin, a line of words
CELL = 192  # of a sample
COLOURS = (
    "#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#7f7f7f", "#8c564b",
    "#e377c2", "#bcbd22",
)  # fmt: skip


def png(sides: Sequence[Side], pictures: dict[str, bytes]) -> bytes:
    """``pictures``: encoded samples, by the picture's id; one that is not there stays empty."""
    from PIL import Image, ImageDraw

    rows = pairs(sides)
    legend = LINE * (len(sides) + 1)
    size = (
        max(WIDTH, LEFT + CELL * len(sides)) + 16,
        HEIGHT + legend + 40 + (CELL + LINE) * len(rows) + (2 * LINE if rows else 0),
    )
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    every = curves(sides)
    lines = [line for line in every if line.xs]
    ys = sorted(y for line in lines for y in settled(line).ys if math.isfinite(y))
    if ys:
        low, high = ys[0], ys[-1] if ys[-1] > ys[0] else ys[0] + 1
        right = max(line.xs[-1] for line in lines)
        box = (LEFT, 12, WIDTH, HEIGHT)
        draw.rectangle(box, outline="#cccccc")
        for share in (0.0, 0.5, 1.0):
            y = box[3] - share * (box[3] - box[1])
            draw.text((8, y - 6), f"{low + share * (high - low):.3g}", fill="black")
            x = box[0] + share * (box[2] - box[0])
            draw.text((x - 10, box[3] + 4), f"{share * right:.0f}", fill="black")
        for number, line in enumerate(every):
            dots = [
                (
                    box[0] + x / right * (box[2] - box[0]),
                    box[3] - min(max((y - low) / (high - low), 0), 1) * (box[3] - box[1]),
                )
                for x, y in zip(line.xs, line.ys, strict=True)
                if math.isfinite(y)
            ]
            if len(dots) > 1:
                draw.line(dots, fill=COLOURS[number % len(COLOURS)], width=2)
    top = HEIGHT + 24
    draw.text((LEFT, top), "smoothed loss by step", fill="black")
    for number, side in enumerate(sides):
        y = top + LINE * (number + 1)
        draw.line([(LEFT, y + 7), (LEFT + 24, y + 7)], fill=COLOURS[number % len(COLOURS)], width=3)
        draw.text((LEFT + 32, y), name_of(side), fill="black")
    top += legend + 16
    for number, side in enumerate(sides if rows else ()):
        draw.text((LEFT + CELL * number, top), side.run.id, fill="black")
    top += LINE
    for prompt, across in rows:
        draw.text((8, top), prompt[:110], fill="black")
        for number, one in enumerate(across):
            corner = (LEFT + CELL * number, top + LINE)
            data = pictures.get(one.id) if one is not None else None
            if data is None:
                draw.text((corner[0] + 8, corner[1] + 8), "no sample", fill="grey")
                continue
            with Image.open(io.BytesIO(data)) as opened:
                fitted = opened.convert("RGB").resize((CELL - 4, CELL - 4))
            image.paste(fitted, corner)
        top += CELL + LINE
    kept = io.BytesIO()
    image.save(kept, "PNG")
    return kept.getvalue()
