"""The heat map of a conflict as a PNG."""

from __future__ import annotations

import io

from shared.conflicts import KINDS, Conflict

SIDE, LEFT, TOP = 44, 64, 84  # pixels: of a cell, and around them


def png(told: Conflict, of: int, by: int) -> bytes:
    """What LoRA ``by`` does to ``of``: red is undone, green added to, grey not in both."""
    from PIL import Image, ImageDraw

    from lora_tui.core.conflict_map import number

    kinds = [kind for kind in KINDS if any(cell.kind == kind for cell in told.cells)]
    columns, cells = [*kinds, "all"], {(cell.block, cell.kind): cell for cell in told.cells}
    title = f"{told.loras[by]} on {told.loras[of]}"
    size = (LEFT + SIDE * len(columns) + 12, TOP + SIDE * len(told.blocks) + 12)
    image = Image.new("RGB", (max(size[0], 480), size[1]), "white")
    draw = ImageDraw.Draw(image)
    draw.text((8, 8), title, fill="black", font_size=16)
    for x, kind in enumerate(columns):
        for y, word in enumerate(kind.split()):
            draw.text((LEFT + SIDE * x + 3, TOP - 34 + 14 * y), word, fill="black")
    for y, block in enumerate(told.blocks):
        draw.text((8, TOP + SIDE * y + 15), block.block, fill="black")
        for x, kind in enumerate(columns):
            place = block if kind == "all" else cells.get((block.block, kind))
            both = place is not None and place.energy[of] and place.energy[by]
            share = place.overlap[of][by] if place is not None and both and place.met else None
            corner = (LEFT + SIDE * x, TOP + SIDE * y)
            far = (corner[0] + SIDE - 2, corner[1] + SIDE - 2)
            draw.rectangle([corner, far], fill=_colour(share))
            if share is not None:
                text = number(share).replace("−", "-")
                draw.text((corner[0] + 6, corner[1] + 15), text, fill="black")
    kept = io.BytesIO()
    image.save(kept, "PNG")
    return kept.getvalue()


def _colour(share: float | None) -> tuple[int, int, int]:
    if share is None:
        return 238, 238, 238
    faint = round(255 * (1 - min(abs(share), 1.0) * 0.75))
    return (255, faint, faint) if share < 0 else (faint, 255, faint)
