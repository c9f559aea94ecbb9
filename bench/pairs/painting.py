"""Pictures of the starter with LoRAs, judged, and what was judged kept by all that decides it."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import torch
from msgspec.structs import replace
from torch import Tensor, nn

from bench.pairs.plan import Group
from lora_daemon.engine import lora_file
from lora_daemon.engine.bases import Base
from lora_daemon.engine.generate import paint_latents
from lora_daemon.engine.mix import Mix, Placed, strength, taking_part, turning
from lora_daemon.starter.classifiers import LABELS, Judge, shrink
from lora_daemon.starter.drawing import PICTURE
from shared.pictures import LoraUse, PictureSpec
from shared.recipe import Sampler

# Of 40 creatures asked for in pencil, by the first development LoRA alone, the judge sees 60 % with
# these eight steps, 60 % with ten and 62 % with 20 of Euler; margins 0.4, 0.7 and 0.7 (± 0.4).
SAMPLER: Sampler = "DDIM"
STEPS, CFG = 8, 5.0
FIRST_SEED = 7000
BATCH = {"cpu": 20, "cuda": 200}  # pictures at once


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """What the judge says of a picture: by attribute the label, and the logit of each label."""

    seen: dict[str, str]
    logits: dict[str, list[float]]

    def margin(self, attribute: str, label: str) -> float:
        """The logit of a label less the largest of the others."""
        values = self.logits[attribute]
        at = LABELS[attribute].index(label)
        return values[at] - max(one for other, one in enumerate(values) if other != at)


class Arms:
    """The judged pictures of every arm, on the disk. An arm is what is asked for (``Group``) and
    the LoRAs at their weights; picture k of every arm of a group has the same prompt and seed."""

    def __init__(self, work: Path) -> None:
        self._folder = work / "arms"
        self._folder.mkdir(parents=True, exist_ok=True)

    def file(self, group: Group, uses: Sequence[LoraUse]) -> Path:
        """Where an arm's rows are, a line each, by all that decides them."""
        loras = sorted(
            (_digest(Path(use.lora)), msgspec.to_builtins(replace(use, lora="")))
            for use in counted(uses)
        )
        decides = [SAMPLER, STEPS, CFG, FIRST_SEED, msgspec.to_builtins(group), loras]
        name = hashlib.sha256(msgspec.json.encode(decides)).hexdigest()[:24]
        return self._folder / f"{name}.jsonl"

    def rows(self, group: Group, uses: Sequence[LoraUse] = ()) -> list[Row]:
        """What is judged already."""
        return _read(self.file(group, uses))


def counted(uses: Sequence[LoraUse]) -> list[LoraUse]:
    """Those that are not at 0, in one order."""
    found = (use for use in uses if use.weight or use.text_weight)
    return sorted(found, key=lambda use: use.lora)


@cache
def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _read(file: Path) -> list[Row]:
    """An arm's rows; what a kill cut in two is not one."""
    if not file.exists():
        return []
    whole, newline, torn = file.read_bytes().rpartition(b"\n")
    if torn:
        os.truncate(file, len(whole) + len(newline))
    return [msgspec.json.decode(line, type=Row) for line in whole.splitlines()]


class Painter:
    """Paints on one base."""

    def __init__(self, base: Base, arms: Arms) -> None:
        self.base = base
        self.arms = arms
        self._judge = Judge.load().network.to(base.device)
        self._batch = BATCH[base.device.type]
        self._read = cache(lambda path: lora_file.load(Path(path), base).modules)

    def modules(self, path: str) -> Sequence[Placed]:
        """A LoRA file's, read once."""
        return self._read(path)

    def upto(self, number: int, group: Group, uses: Sequence[LoraUse] = ()) -> int:
        """Paint what an arm lacks of so many pictures; returns how many that were."""
        file = self.arms.file(group, uses)
        done = before = len(_read(file))
        if done >= number:
            return 0
        uses = counted(uses)
        mix = Mix(self.base, [self.modules(use.lora) for use in uses])
        asked = group.asked(number)
        while done < number:
            specs = [
                PictureSpec(
                    prompt=words, seed=FIRST_SEED + done + place, sampler=SAMPLER, steps=STEPS,
                    cfg=CFG, width=PICTURE, height=PICTURE,
                )
                for place, (words, _) in enumerate(asked[done : done + self._batch])
            ]  # fmt: skip
            rows = self._judged(self._painted(specs, mix, uses))
            with file.open("ab") as opened:
                opened.write(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
            done += len(specs)
        return done - before

    def _painted(
        self, specs: Sequence[PictureSpec], mix: Mix, uses: Sequence[LoraUse]
    ) -> Tensor:  # fmt: skip
        """Pixels (n, 3, h, w), 0 … 255."""
        mix.set(list(map(strength, uses)))
        if all(use.span(STEPS) == (0, STEPS) and not use.guidance for use in uses):
            with folded(mix):
                latents = paint_latents(self.base, specs, lambda _: None)
        else:
            with mix.on():
                turn = turning(mix, lambda step: taking_part(uses, step, STEPS))
                latents = paint_latents(self.base, specs, lambda _: None, turn=turn)
        with torch.inference_mode():
            return ((self.base.decode_latents(latents) + 1) * 127.5).round()

    @torch.inference_mode()
    def _judged(self, pixels: Tensor) -> list[Row]:
        judged = self._judge(shrink(pixels / 127.5 - 1))
        logits = {name: of.cpu() for name, of in judged.items()}  # once: each look waits for it
        return [
            Row(
                seen={name: LABELS[name][int(of[row].argmax())] for name, of in logits.items()},
                logits={
                    name: [round(value, 3) for value in of[row].tolist()]
                    for name, of in logits.items()
                },
            )
            for row in range(len(pixels))
        ]


@contextlib.contextmanager
def folded(mix: Mix) -> Iterator[None]:
    """The base with a mix added into its weights, for as long as the context lasts; then every
    weight is the one that was there. Nothing is computed beside the base's own layers."""
    clean: list[tuple[nn.Parameter, Tensor]] = []
    try:
        for site in mix.sites:
            weight: Any = site.target.weight
            clean.append((weight, weight.data))
            weight.data = weight.data + _added(site, weight.data)
            if site.shifts is not None:
                bias: Any = site.target.bias
                clean.append((bias, bias.data))
                bias.data = bias.data + site.v[-len(site.shifts) :] @ site.shifts
        yield
    finally:
        for parameter, data in reversed(clean):
            parameter.data = data


def _added(site: Any, weight: Tensor) -> Tensor:
    """Σ wᵢ ΔWᵢ of a module, as the mix has it stacked."""
    total = torch.zeros_like(weight)
    pairs = 0
    if site.down is not None:
        pairs = len(site.down)
        total += ((site.up * site.v[:pairs]) @ site.down.flatten(1)).view_as(weight)
    for number, part in enumerate(site.others, pairs):
        total += site.v[number] * part.dense()
    if site.rows is not None:
        begin = pairs + len(site.others)
        share = site.v[begin : begin + len(site.rows)] @ site.rows
        total += share.view(-1, *(1 for _ in weight.shape[1:])) * weight
    return total
