"""What a probe asks: pictures, steps, and settings of the LoRAs, as the worker takes them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from lora_daemon import painting, pipe
from shared import blocks, lora_info, probes, wire
from shared.lora_keys import contents
from shared.lora_names import dotted, is_sdxl
from shared.pictures import LoraUse, PictureSpec, stem
from shared.safetensors_file import read_header

Row = dict[int, LoraUse]  # file → how it is used; the others are off


@dataclass
class Trial:
    """A base, the pictures that it is on the way to, and the files that are stacked on it."""

    base: wire.BaseModel
    specs: list[PictureSpec]
    files: list[pipe.LoraFile]
    notes: dict[str, None] = field(default_factory=dict)

    @property
    def moments(self) -> list[tuple[PictureSpec, int]]:
        """Each picture at each step that is asked."""
        return [(spec, step) for spec in self.specs for step in probes.AT]

    def setting(self, wanted: Row) -> list[LoraUse]:
        """Each file's use; one that does not take part has weight 0."""
        off = (LoraUse(lora=file.name, weight=0.0) for file in self.files)
        return [wanted.get(number, one) for number, one in enumerate(off)]

    @property
    def at(self) -> list[int]:
        """The band of each moment."""
        return [*range(probes.BANDS)] * len(self.specs)

    def row(self, wanted: Row, step: int) -> list[LoraUse]:
        """Each file's use before a step; one that does not take part has weight 0."""
        found = []
        for use in self.setting(wanted):
            begin, end = use.span(probes.STEPS)
            found.append(use if begin <= step < end else LoraUse(lora=use.lora, weight=0.0))
        return found

    def placed(self, uses: Sequence[LoraUse], paths: Sequence[Path]) -> Row:
        """A setting of other files: those that are not stacked yet are added."""
        row: Row = {}
        for use, path in zip(uses, paths, strict=True):
            same = [
                number for number, file in enumerate(self.files)
                if file.path == str(path) and number not in row
            ]  # fmt: skip
            if not same:
                same = [len(self.files)]
                self.files.append(painting.lora_file(use, use.lora, path))
            row[same[0]] = use
        return row


def specs(
    request: wire.ProbeLoras, base: str, prompts: Sequence[str], count: int = 0
) -> list[PictureSpec]:  # fmt: skip
    """The pictures that the base is on the way to, one a prompt, or so many, each of
    another seed."""
    asked = itertools.islice(itertools.cycle(prompts), count or len(prompts))
    return [
        PictureSpec(
            base=base, prompt=prompt, negative=request.negative, sampler=probes.SAMPLER,
            steps=probes.STEPS, cfg=request.cfg, seed=request.seed + number,
            width=request.width, height=request.height,
        )
        for number, prompt in enumerate(asked)
    ]  # fmt: skip


def files(uses: Sequence[LoraUse], paths: Sequence[Path]) -> list[pipe.LoraFile]:
    return [painting.lora_file(use, use.lora, path) for use, path in zip(uses, paths, strict=True)]


def names(uses: Sequence[LoraUse]) -> list[str]:
    """Each LoRA's name, told apart where two are called alike."""
    called = [stem(use.lora) for use in uses]
    return [
        f"{name} ({called[: at + 1].count(name)})" if called.count(name) > 1 else name
        for at, name in enumerate(called)
    ]


def prompts(paths: Sequence[Path]) -> list[str]:
    """What to ask the base for: what each LoRA was trained to show."""
    found: dict[str, None] = {}
    each = max(1, probes.PROMPTS // len(paths))
    for path in paths:
        found |= dict.fromkeys(lora_info.prompts(read_header(path).metadata, each))
    return list(found)[: probes.PROMPTS] or [""]


def rows(
    uses: Sequence[LoraUse], paths: Sequence[Path], config: Mapping[str, Any], *, blocks: bool,
    without: bool,
) -> tuple[list[Row], dict[tuple[int, str], int]]:  # fmt: skip
    """What is asked: each LoRA alone in all steps, the mix, and where wanted the mix without each
    block of each LoRA, then without each LoRA. And (LoRA, block) → its row."""
    found: list[Row] = [{n: replace(use, begin=0.0, end=1.0)} for n, use in enumerate(uses)]
    together: Row = dict(enumerate(uses))
    found.append(together)
    places = {}
    for number, label, use in parts(uses, paths, config) if blocks else ():
        places[number, label] = len(found)
        found.append(together | {number: use})
    if without:
        found += [{n: use for n, use in together.items() if n != one} for one in together]
    return found, places


def parts(
    uses: Sequence[LoraUse], paths: Sequence[Path], config: Mapping[str, Any]
) -> Iterator[tuple[int, str, LoraUse]]:
    """Each block that each LoRA changes: the LoRA's number, the block, and it without that."""
    layers = int(config["layers_per_block"])
    known = blocks.labels(config)
    for number, (use, path) in enumerate(zip(uses, paths, strict=True)):
        header = read_header(path)
        sdxl = is_sdxl(header)
        there = set()
        for module in contents(path, header).modules:
            part, _, inside = (dotted(module.name, sdxl=sdxl) or "").partition(".")
            if part:
                there.add(blocks.label(inside, layers) if part == "unet" else blocks.BASE)
        own = blocks.factors(use.blocks, config) if use.blocks else dict.fromkeys(known, 1.0)
        for label in known:
            if label in there and own[label]:
                rest = blocks.without(label, use.blocks, config)
                yield number, label, replace(use, blocks=rest)
