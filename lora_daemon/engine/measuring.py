"""What LoRAs do to a base, in numbers: the loss on pictures, drift, leak, nearness to pictures.

Everything is fixed by the seed and what is measured: the same pictures meet the same noise at the
same timesteps under every checkpoint, so that differences are between the checkpoints alone.
Timesteps are stratified, one in each of ``STRATA`` equal stretches, and each noise comes with its
negative (antithetic pairs), which takes most of the chance out of the mean.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from lora_daemon.engine.bases import Base
from lora_daemon.engine.cache import LatentsCache, Moments, PictureError, load_picture, pixels_of
from lora_daemon.engine.encoders import ORDINARY, Reading
from lora_daemon.engine.feed import cached, view
from lora_daemon.engine.generate import paint_latents
from lora_daemon.engine.objectives import wanted
from lora_daemon.engine.randomness import generator
from lora_daemon.measurements import IMAGINED_CFG, IMAGINED_STEPS, STRATA
from lora_daemon.pipe import Measure
from shared.pictures import PictureSpec

CONTROLS = 64  # pictures whose own nearness to the others is the measure of nearness

Check = Callable[[], None]  # raises to give up
On = Callable[[], AbstractContextManager[None]]  # the LoRAs on the base while it lasts
Rows = list[list[float]]


class Measurer:
    """Measures on one base; holds on to the pictures that the bare base makes of the prompts."""

    def __init__(self, base: Base) -> None:
        self.base = base
        self._reading = ORDINARY
        self._imagined: dict[tuple[str, int, int], Tensor] = {}

    @torch.no_grad()
    def rows(self, job: Measure, on: On, check: Check) -> tuple[Rows, list[tuple[str, str]]]:
        """What ``Measured`` answers to an order. Raises LoraError."""
        self._reading = Reading(*job.reading)
        match job.what:
            case "loss":
                return self._of_pictures(job, check, lambda n, m: self._losses(job, on, n, m))
            case "leak":
                return [self._leak(job, on, check, *pair) for pair in job.captions], []
            case "drift":
                return [self._drift(job, on, check, prompt) for prompt in job.texts], []
            case "nearness":
                return self._nearness(job, check)

    def _of_pictures(
        self, job: Measure, check: Check, row: Callable[[int, Moments], list[float]]
    ) -> tuple[Rows, list[tuple[str, str]]]:
        cache = LatentsCache(Path(job.cache_dir), self.base, job.resolution, mirrored=False)
        rows: Rows = []
        skipped = []
        for number, picture in enumerate(job.pictures):
            check()
            try:
                rows.append(row(number, cached(cache, cache.key(picture), picture)))
            except PictureError as error:
                skipped.append((picture.path, str(error)))
                rows.append([])
        return rows, skipped

    def _losses(self, job: Measure, on: On, number: int, moments: Moments) -> list[float]:
        """The mean squared error at each timestep, over both signs of the noise."""
        picture = job.pictures[number]
        timesteps = strata(job, picture.content)
        noise = self._noise(job, picture.content, moments.mean, STRATA)
        signed = torch.cat([noise, -noise])
        t = torch.cat([timesteps, timesteps])
        noisy, target = self._noised(moments.mean, signed, t)
        with on():
            predicted = self._predicted(noisy, t, picture.caption, moments)
        error = ((predicted - target) ** 2).mean(dim=(1, 2, 3))
        return [float(one) for one in error.reshape(2, STRATA).mean(dim=0)]

    def _leak(self, job: Measure, on: On, check: Check, bare: str, caption: str) -> list[float]:
        """How far the LoRA moves the prediction by a caption without and with its trigger word:
        root mean squares over the noisier half of the timesteps. On what the bare base makes of
        the bare caption, for a picture of what was learnt would call for it by itself."""
        latents = self._imagine(job, check, bare)
        check()
        t = strata(job, bare)[STRATA // 2 :]
        noisy, _ = self._noised(latents, self._noise(job, bare, latents, len(t)), t)
        moved = []
        for text in (bare, caption):
            plain = self._predicted(noisy, t, text)
            with on():
                moved.append(self._predicted(noisy, t, text) - plain)
        return [float(one.square().mean().sqrt()) for one in moved]

    def _drift(self, job: Measure, on: On, check: Check, prompt: str) -> list[float]:
        """‖ε_LoRA − ε_base‖ / ‖ε_base‖ at each timestep, on the base's own picture of a prompt."""
        latents = self._imagine(job, check, prompt)
        check()
        t = strata(job, prompt)
        noisy, _ = self._noised(latents, self._noise(job, prompt, latents, STRATA), t)
        plain = self._predicted(noisy, t, prompt)
        with on():
            moved = self._predicted(noisy, t, prompt) - plain
        share = moved.flatten(1).norm(dim=1) / plain.flatten(1).norm(dim=1)
        return [float(one) for one in share]

    def _imagine(self, job: Measure, check: Check, prompt: str) -> Tensor:
        key = (prompt, job.seed, job.resolution)
        if key not in self._imagined:
            seed = int(torch.randint(2**31, (), generator=generator(job.seed, "imagined", prompt)))
            spec = PictureSpec(
                prompt=prompt, seed=seed, steps=IMAGINED_STEPS, cfg=IMAGINED_CFG,
                width=job.resolution, height=job.resolution,
            )  # fmt: skip
            self._imagined[key] = paint_latents(self.base, [spec], lambda _: check())[0].cpu()
        return self._imagined[key]

    def _nearness(self, job: Measure, check: Check) -> tuple[Rows, list[tuple[str, str]]]:
        """How like each painted picture is to the training picture, or its mirror image, that it is
        most like; and of some training pictures to the others. The likeness is the cosine of
        latents less their mean: 1 is the very picture. All are compared as squares, whatever their
        buckets."""
        cache = LatentsCache(Path(job.cache_dir), self.base, job.resolution)
        straight, mirrored = [], []
        for picture in job.pictures:
            check()
            try:
                square = msgspec.structs.replace(picture, bucket=None)
                moments = cached(cache, cache.key(square), square)
            except PictureError:
                continue  # told with the losses, or by the run itself
            assert moments.mirrored_mean is not None
            straight.append(moments.mean.flatten())
            mirrored.append(moments.mirrored_mean.flatten())
        if len(straight) < 2:
            return [[], []], []
        known = torch.stack(straight + mirrored)
        middle = known.mean(dim=0)
        known = torch.nn.functional.normalize(known - middle, dim=1)
        painted = []
        for path in job.painted:
            check()
            pixels = pixels_of(load_picture(Path(path)), (job.resolution, job.resolution))
            painted.append(self.base.encode_pixels(pixels[None])[0].float().cpu().flatten())
        near = []
        if painted:
            seen = torch.nn.functional.normalize(torch.stack(painted) - middle, dim=1)
            near = [float(one) for one in (seen @ known.t()).amax(dim=1)]
        count = len(straight)
        chosen = torch.linspace(0, count - 1, min(count, CONTROLS)).round().long()
        likeness = known[chosen] @ known.t()
        for row, own in enumerate(chosen.tolist()):
            likeness[row, [own, own + count]] = -1.0  # itself, and its mirror image
        return [near, [float(one) for one in likeness.amax(dim=1)]], []

    # ── the base ────────────────────────────────────────────────────────────────────────────────

    def _noise(self, job: Measure, name: str, like: Tensor, number: int) -> Tensor:
        own = generator(job.seed, "measured noise", name)
        return torch.randn((number, *like.shape), generator=own).to(self.base.device)

    def _noised(self, latents: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Noisy latents, and what the base should predict of them."""
        signal, spread = (
            one[t][:, None, None, None].to(self.base.device)
            for one in (self.base.signal, self.base.spread)
        )
        clean = latents.to(self.base.device)
        noisy = signal * clean + spread * noise
        return noisy, wanted(self.base.objective, clean, noise, signal, spread)

    def _predicted(
        self, noisy: Tensor, t: Tensor, text: str, moments: Moments | None = None
    ) -> Tensor:
        base, number = self.base, len(noisy)
        known = (
            base.encode_text(text, self._reading).to(base.device, base.dtype).expand(number, -1, -1)
        )
        views = None
        if base.takes_views and moments is not None:
            high, wide = (side * base.pixels_per_latent for side in noisy.shape[-2:])
            seen = view(moments.size, (wide, high), False)
            views = torch.tensor([seen] * number, device=base.device)
        return base.denoise(noisy, t.to(base.device), known, views)


def strata(job: Measure, name: str) -> Tensor:
    """One timestep in each of ``STRATA`` equal stretches, int64 (STRATA,); others for another
    ``name``."""
    first, end = job.timesteps
    draws = torch.rand(STRATA, generator=generator(job.seed, "measured timesteps", name))
    places = (torch.arange(STRATA) + draws) / STRATA
    return (first + places * (end - first)).long().clamp(max=end - 1)
