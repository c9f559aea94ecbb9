"""What LoRAs did to the starter and its kin, counted: pictures with and without, seen by the judge.

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
from lora_daemon.starter.classifiers import Judge, Verdict
from lora_daemon.starter.evaluate import Rate, asked_creatures, contact_sheet
from shared.pictures import PictureSpec


class Shown(msgspec.Struct, frozen=True):
    """One picture of the contact sheet."""

    path: str
    label: str


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """Pictures of creatures in every colour and on every ground, to be counted."""

    base: str = "starter"
    loras: list[tuple[str, float]] = []  # file, weight
    style: str | None = None  # asked for in words too


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What to count and what to lay out."""

    asked: list[Asked]
    number: int  # pictures of each
    settings: PictureSpec  # sampler, steps, cfg and the first seed
    shown: list[Shown]
    columns: int
    sheet: str  # where to write the contact sheet; empty: nowhere


class Counted(msgspec.Struct, frozen=True, kw_only=True, tag="counted"):
    """So many pictures are made."""

    done: int
    total: int


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """``hits`` of ``number`` pictures show it; Wilson's 95 % interval of the rate."""

    hits: int
    number: int
    low: float
    high: float


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen in the pictures of one ``Asked``."""

    creature: Share
    pencil: Share
    both: Share


class Verdicts(msgspec.Struct, frozen=True, kw_only=True, tag="verdicts"):
    """For each that was asked, in its order."""

    seen: list[Seen]


def main() -> None:
    """Obey the order on stdin."""
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    if order.sheet:
        pictures = [Image.open(one.path).convert("RGB") for one in order.shown]
        labels = [one.label for one in order.shown]
        contact_sheet(pictures, labels, Path(order.sheet), order.columns)
    use_threads()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    judge = Judge.load()
    loaded: dict[str, Base] = {}
    combinations = asked_creatures(order.number)
    total = len(order.asked) * order.number
    seen: list[Seen] = []
    for asked in order.asked:
        if asked.base not in loaded:
            loaded[asked.base] = bases.load(base_dir(asked.base), device)
        base = loaded[asked.base]
        prompts = [world.prompt(one, asked.style) for one in combinations]
        files = [(lora_file.load(Path(path), base).modules, weight) for path, weight in asked.loras]
        with applied(base, files):
            painted = _paint(base, order.settings, prompts, len(seen) * order.number, total)
        seen.append(_seen(judge(painted)))
    _tell(Verdicts(seen=seen))


def _paint(
    base: Base, settings: PictureSpec, prompts: Sequence[str], before: int, total: int
) -> list[Image.Image]:
    """One picture a prompt, seeds counting up; tells how far it is."""
    specs = iter(
        msgspec.structs.replace(settings, prompt=prompt, seed=settings.seed + number)
        for number, prompt in enumerate(prompts)
    )
    pictures: list[Image.Image] = []
    while group := list(islice(specs, MAX_BATCH)):
        pictures += paint(base, group, lambda _: None)
        _tell(Counted(done=before + len(pictures), total=total))
    return pictures


def _seen(verdicts: Sequence[Verdict]) -> Seen:
    return Seen(
        creature=_share([verdict.creature for verdict in verdicts]),
        pencil=_share([verdict.pencil for verdict in verdicts]),
        both=_share([verdict.creature and verdict.pencil for verdict in verdicts]),
    )


def _share(seen: Sequence[bool]) -> Share:
    rate = Rate(sum(seen), len(seen))
    low, high = rate.interval()
    return Share(hits=rate.hits, number=rate.number, low=low, high=high)


def _tell(message: Counted | Verdicts) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(message) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
