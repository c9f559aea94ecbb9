"""What training sees of a picture, in words: the same on the command line and on the screen."""

from __future__ import annotations

from shared import wire

ENLARGED = 1.05  # times; less is not seen


def told(found: wire.BucketPreview) -> str:
    """ "960 × 640 → bucket 640 × 448, 5 % cropped away"."""
    left, top, right, bottom = found.crop
    wide, high = found.bucket
    said = f"{right - left} × {bottom - top} → bucket {wide} × {high}"
    if found.lost >= 0.005:
        said += f", {found.lost:.0%} cropped away"
    if found.enlarged > ENLARGED:
        said += f", enlarged {found.enlarged:.1f} times"
    return said


def size(item: wire.Item) -> str:
    """ "400 × 300 px, turned 90°, cropped to 200 × 300": of the file, and how it is seen."""
    said = f"{item.width} × {item.height} px"
    if item.framing.turn:
        said += f", turned {item.framing.turn}°"
    if item.framing.crop is not None:
        wide, high = item.framing.size(item.width, item.height)
        said += f", cropped to {wide} × {high}"
    return said
