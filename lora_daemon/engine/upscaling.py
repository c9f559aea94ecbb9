"""Pictures enlarged by a network (ESRGAN and its successors), read by spandrel, tile by tile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from shared.errors import Code, LoraError
from shared.filenames import to_text
from shared.safetensors_file import read_header

TILE = 256  # pixels of a tile's side, without its margin
MARGIN = 16  # pixels around it that are computed and not kept: no seam shows


class Network:
    """A network that makes pictures ``scale`` times as large.

    Raises LoraError: WRONG_STATE if spandrel is not installed; NOT_FOUND; STORAGE; INVALID_FILE.
    """

    def __init__(self, path: Path, device: torch.device) -> None:
        read_header(path)  # says of a pickle or a torn file what it is
        try:
            from spandrel import ImageModelDescriptor, ModelLoader, UnsupportedModelError
        except ImportError as error:
            raise LoraError(
                Code.WRONG_STATE,
                f"{to_text(path)} needs packages that are not installed where the daemon runs "
                f'({error}): pip install "lora-tui[upscale]", then lora-tui daemon restart.',
            ) from None
        try:
            loaded: Any = ModelLoader().load_from_state_dict(load_file(path))
        except OSError as error:
            raise LoraError.storage("read", path, error) from None
        except (UnsupportedModelError, SafetensorError, RuntimeError, KeyError, ValueError):
            raise _wrong(path, "holds no network that enlarges pictures, or a kind that spandrel "
                               "does not know") from None  # fmt: skip
        if not isinstance(loaded, ImageModelDescriptor) or loaded.input_channels != 3:
            raise _wrong(path, "holds a network that does something else than enlarge pictures")
        if loaded.scale < 2:
            raise _wrong(path, "holds a network that leaves pictures as large as they are")
        self.scale: int = loaded.scale
        self._network = loaded.to(device).eval()
        self._device = device
        self._tiles = loaded.tiling.name == "SUPPORTED"

    @torch.no_grad()
    def enlarge(self, pixels: Tensor, check: Callable[[], None]) -> Tensor:
        """Pixels (1, 3, h, w) in 0 … 1 to (1, 3, scale · h, scale · w). ``check`` is called before
        each tile and may raise to give up."""
        height, width = pixels.shape[2:]
        if not self._tiles or max(height, width) <= TILE:
            check()
            return self._through(pixels)
        larger = torch.zeros(1, 3, height * self.scale, width * self.scale)
        for top in range(0, height, TILE):
            for left in range(0, width, TILE):
                check()
                above, before = min(top, MARGIN), min(left, MARGIN)
                bottom, right = min(top + TILE, height), min(left + TILE, width)
                tile = pixels[:, :, top - above : bottom + MARGIN, left - before : right + MARGIN]
                made = self._through(tile)
                inside = [
                    slice(edge * self.scale, (edge + size) * self.scale)
                    for edge, size in ((above, bottom - top), (before, right - left))
                ]
                outside = [
                    slice(begin * self.scale, end * self.scale)
                    for begin, end in ((top, bottom), (left, right))
                ]
                larger[:, :, outside[0], outside[1]] = made[:, :, inside[0], inside[1]]
        return larger

    def _through(self, pixels: Tensor) -> Tensor:
        made: Tensor = self._network(pixels.to(self._device))
        return made.float().clamp(0, 1).cpu()


def _wrong(path: Path, what: str) -> LoraError:
    return LoraError(Code.INVALID_FILE, f"{to_text(path)} {what}.", data={"path": to_text(path)})
