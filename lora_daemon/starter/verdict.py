"""What a LoRA did to the starter, counted: pictures with and without it, seen by the judge.

``lora-tui demo`` runs ``python -m lora_daemon.starter.verdict`` with an ``Order`` in JSON on
stdin. On stdout come lines of ``Counted``, and at last one ``Verdicts``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import lora_daemon.engine  # noqa: F401  before torch: it says how torch's threads wait

# isort: split
import msgspec
import torch
from PIL import Image

from lora_daemon.engine import bases, lora_file
from lora_daemon.engine.bases import Base
from lora_daemon.engine.device import use_threads
from lora_daemon.engine.generate import MAX_BATCH, paint
from lora_daemon.engine.mix import applied
from lora_daemon.starter import base_dir, world
from lora_daemon.starter.classifiers import Judge
from lora_daemon.starter.evaluate import Rate, asked_creatures, contact_sheet
from shared.pictures import PictureSpec


class Shown(msgspec.Struct, frozen=True):
    """One picture of the contact sheet."""

    path: str
    label: str


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What to count and what to lay out."""

    lora: str  # its file
    number: int  # pictures with it, and as many without
    settings: PictureSpec  # sampler, steps, cfg and the first seed
    shown: list[Shown]
    columns: int
    sheet: str  # where to write the contact sheet


class Counted(msgspec.Struct, frozen=True, kw_only=True, tag="counted"):
    """So many pictures are made."""

    done: int
    total: int


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """``hits`` of ``number`` pictures show the creature; Wilson's 95 % interval of the rate."""

    hits: int
    number: int
    low: float
    high: float


class Verdicts(msgspec.Struct, frozen=True, kw_only=True, tag="verdicts"):
    """How often the creature is there."""

    with_it: Share
    without: Share


def main() -> None:
    """Obey the order on stdin."""
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    pictures = [Image.open(one.path).convert("RGB") for one in order.shown]
    labels = [one.label for one in order.shown]
    contact_sheet(pictures, labels, Path(order.sheet), order.columns)
    use_threads()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    base = bases.load(base_dir(), device)
    judge = Judge.load()
    prompts = [world.prompt(asked) for asked in asked_creatures(order.number)]
    without = _share(judge, _paint(base, order.settings, prompts, 0))
    weights = lora_file.load(Path(order.lora), base)
    with applied(base, [(weights.modules, 1.0)]):
        with_it = _share(judge, _paint(base, order.settings, prompts, len(prompts)))
    _tell(Verdicts(with_it=with_it, without=without))


def _paint(
    base: Base, settings: PictureSpec, prompts: Sequence[str], before: int
) -> list[Image.Image]:
    """One picture a prompt, seeds counting up; tells how far it is."""
    specs = iter(
        msgspec.structs.replace(settings, prompt=prompt, seed=settings.seed + number)
        for number, prompt in enumerate(prompts)
    )
    pictures: list[Image.Image] = []
    while group := list(islice(specs, MAX_BATCH)):
        pictures += paint(base, group, lambda _: None)
        _tell(Counted(done=before + len(pictures), total=2 * len(prompts)))
    return pictures


def _share(judge: Judge, pictures: Sequence[Image.Image]) -> Share:
    rate = Rate(sum(verdict.creature for verdict in judge(pictures)), len(pictures))
    low, high = rate.interval()
    return Share(hits=rate.hits, number=rate.number, low=low, high=high)


def _tell(message: Counted | Verdicts) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(message) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
