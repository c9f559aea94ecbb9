"""A crop under the hand: moved, grown, turned and fitted, and always within its picture."""

from __future__ import annotations

from typing import Literal

from shared.framing import LEAST, Box, Framing, Size

Hand = Literal["all of it", "top left corner", "bottom right corner"]
HANDS: tuple[Hand, ...] = ("all of it", "top left corner", "bottom right corner")
COARSE = 32  # steps along the longer side


class CropDesk:
    """``full``: the picture's width and height in pixels before it is turned."""

    def __init__(self, framing: Framing, full: Size) -> None:
        self.framing = framing
        self._full = full
        self.hand: Hand = "all of it"
        self.fine = False

    @property
    def box(self) -> Box:
        return self.framing.box(*self._full)

    @property
    def _whole(self) -> Size:
        return self.framing.turned_size(*self._full)

    @property
    def step(self) -> int:
        """Pixels that a key moves."""
        return 1 if self.fine else max(1, max(self._whole) // COARSE)

    def next_hand(self) -> None:
        self.hand = HANDS[(HANDS.index(self.hand) + 1) % len(HANDS)]

    def move(self, across: int, down: int) -> None:
        """By steps: the crop, or the corner that is in hand."""
        left, top, right, bottom = self.box
        wide, high = self._whole
        across, down = across * self.step, down * self.step
        if self.hand == "top left corner":
            left = min(max(0, left + across), right - LEAST)
            top = min(max(0, top + down), bottom - LEAST)
        elif self.hand == "bottom right corner":
            right = max(min(wide, right + across), left + LEAST)
            bottom = max(min(high, bottom + down), top + LEAST)
        else:
            across = min(max(across, -left), wide - right)
            down = min(max(down, -top), high - bottom)
            left, top, right, bottom = left + across, top + down, right + across, bottom + down
        self._take((left, top, right, bottom))

    def grow(self, by: int) -> None:
        """By steps along the longer side, in the same shape, about the middle; as far as the
        picture goes."""
        left, top, right, bottom = self.box
        wide, high = self._whole
        have_wide, have_high = right - left, bottom - top
        share = 1 + by * 2 * self.step / max(have_wide, have_high)
        share = min(share, wide / have_wide, high / have_high)
        share = max(share, LEAST / min(have_wide, have_high))
        new_wide, new_high = round(have_wide * share), round(have_high * share)
        left = min(max(0, left + (have_wide - new_wide) // 2), wide - new_wide)
        top = min(max(0, top + (have_high - new_high) // 2), high - new_high)
        self._take((left, top, left + new_wide, top + new_high))

    def turn(self, by: int) -> None:
        self.framing = self.framing.rotated(by, *self._full)

    def whole(self) -> None:
        self._take(None)

    def fit(self, shown: Box) -> None:
        """Crop to what training sees of it, so that the bucket crops nothing more away."""
        self._take(shown)

    def _take(self, box: Box | None) -> None:
        if box is not None and (box[2] - box[0] < LEAST or box[3] - box[1] < LEAST):
            return  # of a picture that is smaller than any crop
        self.framing = self.framing.cropped(box, *self._full)
