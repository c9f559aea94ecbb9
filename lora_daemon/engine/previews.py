"""A picture shown before it is done: on its way now and then, and previews that need not wait for
the VAE. What either costs is measured on this device, picture by picture."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from lora_daemon.engine import approximate
from lora_daemon.engine.approximate import Decode, Decoder, Decoders
from lora_daemon.engine.bases import Base
from lora_daemon.engine.generate import to_picture
from lora_daemon.pipe import Previews
from shared.filenames import to_text, typed

EVERY = 1.0  # seconds between two pictures on the way, at least
SHARE = 0.03  # of the time that a picture takes, for showing it on the way
SLOW = 0.25  # seconds of the VAE that a person notices,
NOTICEABLE = 0.2  # where they are such a part of what the steps took
LARGEST = 512  # pixels of a side of what is shown on the way

Tell = Callable[[str], None]  # of the file with the newest picture on the way


class Previewer:
    """Previews on one base."""

    def __init__(self, base: Base) -> None:
        self.base = base
        self._notes: list[str] = []
        self._whole = 0.0  # seconds of the VAE for a place of the latents; 0: not known yet
        self._known: tuple[object, Decoders] | None = None  # with what they were made from

    def quick(self, previews: Previews) -> Decoders:
        """The quick decoders: made when they are first needed, and when other files are there."""
        folder = Path(typed(previews.folder))
        stamps = []
        for path in approximate.files(folder):
            with contextlib.suppress(OSError):  # it has just gone
                stamps.append((path, path.stat().st_size, path.stat().st_mtime_ns))
        if self._known is None or self._known[0] != stamps:
            found = approximate.decoders(self.base, Path(typed(previews.cache)), folder)
            self._known = (stamps, found)
            self._notes += found.notes
        return self._known[1]

    def told(self) -> list[str]:
        """What is to be said of files that are of no use for previews, in sentences, once."""
        notes, self._notes = self._notes, []
        return notes

    def whole(self, latents: Tensor) -> Tensor:
        """By the base's VAE."""
        self._settle()
        began = time.perf_counter()
        pixels = self.base.decode_latents(latents)
        self._settle()
        self._whole = (time.perf_counter() - began) / _places(latents)
        return pixels

    def decoding(self, previews: Previews | None) -> Decode:
        """How a picture is decoded that begins now: one that is a preview by the nearest of the
        quick decoders, if that is asked for, or if the VAE would make it noticeably later."""
        if previews is None or not previews.itself:
            return self.whole
        began = time.perf_counter()

        def decode(latents: Tensor) -> Tensor:
            self._settle()
            took = time.perf_counter() - began
            known = self._whole or (self.quick(previews).whole if took > EVERY else 0.0)
            wait = known * _places(latents)
            if previews.decoder == "cheap" or wait > max(SLOW, NOTICEABLE * took):
                return self.quick(previews).best.decode(latents)
            return self.whole(latents)

        return decode

    def way(self, previews: Previews, tell: Tell) -> Way:
        """What is shown of a picture that begins now: where the VAE is quick, what it makes."""

        def decoders(latents: Tensor) -> Decoders:
            if previews.decoder == "auto" and 0 < self._whole * _places(latents) <= SLOW:
                own = Decoder("VAE", self.base.decode_latents, math.inf, self._whole)
                return Decoders(own, own, [])
            return self.quick(previews)

        return Way(decoders, Path(typed(previews.way)), tell, self._settle)

    def _settle(self) -> None:
        """Wait for the device, whose work goes on behind the calls."""
        if self.base.device.type == "cuda":
            torch.cuda.synchronize(self.base.device)


class Way:
    """Shows one picture on its way, for a small share of the time that it takes."""

    def __init__(
        self, decoders: Callable[[Tensor], Decoders], out: Path, tell: Tell,
        settle: Callable[[], None],
    ) -> None:  # fmt: skip
        self._decoders, self._out, self._tell, self._settle = decoders, out, tell, settle
        self._began = self._step = time.perf_counter()
        self._due = self._began + EVERY
        self._spent = 0.0
        self._beside = 0.0  # seconds of showing one besides decoding it
        self._number = 0

    def __call__(self, expected: Callable[[], Tensor]) -> None:
        """After a step: show what the picture is expected to become, scaled latents, if it is time
        for that."""
        now = time.perf_counter()
        step, self._step = now - self._step, now
        if now < self._due:
            return
        latents = expected()[:1]
        there = self._decoders(latents)
        self._settle()
        now = time.perf_counter()
        decoder = there.best
        if self._cost(decoder, latents) > SHARE * max(EVERY, step):
            decoder = there.linear
        self._due = self._began + (self._spent + self._cost(decoder, latents)) / SHARE
        if now < self._due:
            return
        self._show(decoder, latents)
        self._step = time.perf_counter()
        self._due = self._step + EVERY
        self._spent += self._step - now
        self._beside = max(self._step - now - decoder.seconds * _places(latents), 0.0)

    def _cost(self, decoder: Decoder, latents: Tensor) -> float:
        return decoder.seconds * _places(latents) + self._beside

    def _show(self, decoder: Decoder, latents: Tensor) -> None:
        picture = to_picture(decoder.decode(latents))
        picture.thumbnail((LARGEST, LARGEST))
        self._number += 1
        path = self._out.with_name(f"{self._out.name}-{self._number}.png")
        with contextlib.suppress(OSError):  # a full disk: the picture itself will say so
            picture.save(path, compress_level=1)
            self._tell(to_text(path))


def _places(latents: Tensor) -> int:
    return latents.shape[0] * latents.shape[2] * latents.shape[3]
