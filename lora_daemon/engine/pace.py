"""Whether a mix is folded into the weights for a picture: measured on this device, and kept.

What comes out differs in its last bits, so the answer is to be the same from one picture to the
next: it is measured once for LoRAs of a size on a base, not while pictures are painted.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from lora_daemon.engine import wording
from lora_daemon.engine.mix import Mix

GAIN = 0.05  # of a step: what is less is not told from noise
_ROUNDS = 3  # of each kind of step, the first of which warms up
_LARGEST = 32  # side of the latents that are tried


@dataclass(frozen=True)
class Pace:
    """Seconds of a step with what is stacked, of one with what is folded, and of folding."""

    stacked: float
    folded: float
    folding: float
    places: int  # of the latents that were tried

    def pays(self, steps: int, places: int) -> bool:
        """Whether folding once makes so many steps on so many places of latents quicker; those that
        guidance adds count. What a place gains it gains in a larger picture too."""
        gain = self.stacked - self.folded
        return gain > GAIN * self.stacked and steps * gain * places / self.places > self.folding


class Paces:
    """What was measured on one base, by the size of what is stacked on it."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], Pace] = {}

    def pays(self, mix: Mix, steps: int, height: int, width: int, guided: bool) -> bool:
        """Whether to fold the mix for a picture with latents of this size. Where there is no room
        for it, or it would be less exact, it does not pay."""
        if not mix.folds:
            return False
        key = mix.size
        if key not in self._known:
            self._known[key] = measured(mix, min(height, _LARGEST), min(width, _LARGEST))
        return self._known[key].pays(steps, height * width * (2 if guided else 1))


@torch.no_grad()
def measured(mix: Mix, height: int, width: int) -> Pace:
    """Try both ways in turns, one unguided step of latents of this size each."""
    base = mix.base
    text = wording.conditioning(base, [""])
    latents = torch.zeros(1, base.latent_channels, height, width, device=base.device)
    took: dict[str, list[float]] = {"stacked": [], "folded": [], "folding": []}

    def timed(what: str, act: Callable[[], object]) -> None:
        began = time.perf_counter()
        act()
        if base.device.type == "cuda":
            torch.cuda.synchronize(base.device)
        took[what].append(time.perf_counter() - began)

    def step() -> None:
        base.denoise(latents, torch.tensor(500, device=base.device), text)

    for _ in range(_ROUNDS):
        with mix.on():
            timed("stacked", step)
        with mix.on(fold=True):
            timed("folding", mix.fold)
            timed("folded", step)
    least = {what: min(times) for what, times in took.items()}
    return Pace(**least, places=height * width)
