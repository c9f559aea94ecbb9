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
