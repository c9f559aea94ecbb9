"""What a probe found, as lines of cells with a tone: readable without any colour."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lora_tui.core.cells import clean, fit
from lora_tui.core.conflict_map import Cell, number, tone
from shared import company
from shared.mixes import part_of_picture, parts_of_steps
from shared.pictures import LoraUse
from shared.probes import WELL, Probe, Remedy

WIDE = 7  # cells of a column
TITLES = {
    "weights": "other weights",
    "blocks": "other weights per block",
    "steps": "each in its part of the steps",
    "guidance": "guided further along what LoRAs add",
}


def lines(found: Probe) -> Iterator[list[Cell]]:
    """The sentence, what survives in each part of the steps, remedies, who takes what where."""
    names = [clean(name) for name in found.loras]
    room = max(map(len, names))
    yield [(clean(found.sentence), "bold")]
    yield [("", "")]
    yield [(f"{'left of each effect':<{max(room, 20)}}", ""), *_heads(found)]
    for lora, name in enumerate(names):
        yield [
            (fit(name, max(room, 20)), ""),
            *(_share(one) for one in [found.survival[lora], *_in_bands(found, lora)]),
        ]
    if found.losses:
        yield [("", "")]
        yield [(f"Losses are {company.worth(found.seen)}", "muted")]
    if found.instead:
        told = ", ".join(f"{n} {one:.0%}" for n, one in zip(names, found.instead, strict=True))
        yield [(f"With the other mix: {told}.", "bold")]
    yield from remedies(found)
    yield from _blocks(found, names)
    yield [("", "")]
    asked = "; ".join(clean(prompt) or "(no prompt)" for prompt in dict.fromkeys(found.prompts))
    yield [(f"{found.samples} moments of pictures without LoRAs: {asked}.", "muted")]
    yield from ([(clean(note), "warning")] for note in found.notes)


def remedies(found: Probe) -> Iterator[list[Cell]]:
    """Each remedy with what it promised and what it holds."""
    for place, one in enumerate(found.remedies, 1):
        yield [("", "")]
        yield [(f"{place} {TITLES[one.kind]}", "bold"), (": ", ""), *_gain(found, one)]
        for use in one.loras:
            yield [(f"  {said(use, found.loras[one.loras.index(use)])}", "muted")]


def said(use: LoraUse, name: str) -> str:
    """A use in words: its weights, its parts of the steps and the picture, its guidance."""
    text = f"{clean(name)} {use.weight:g}"
    if use.text_weight is not None:
        text += f", text {use.text_weight:g}"
    if use.blocks:
        text += f", blocks {','.join(f'{one:g}' for one in use.blocks)}"
    if part := parts_of_steps(use):
        text += f", steps {part}"
    if where := part_of_picture(use):
        text += f", in {where}"
    if use.guidance:
        text += f", guided {use.guidance:g} further"
    return text


def _gain(found: Probe, one: Remedy) -> Iterator[Cell]:
    if one.kept:
        yield from _recognised(found, one)
        return
    rows = zip(found.loras, found.survival, one.measured, one.predicted, strict=True)
    for at, (name, before, after, hoped) in enumerate(rows):
        yield (f"{', ' if at else ''}{clean(name)} {before:.0%} → ", "")
        yield (f"{after:.0%}", "success" if abs(1 - after) < abs(1 - before) else "warning")
        yield (f" (predicted {hoped:.0%})", "muted")


def _recognised(found: Probe, one: Remedy) -> Iterator[Cell]:
    """What of each is in the pictures, as asked and with the remedy."""
    parts = 0
    for name, lost, after in zip(found.loras, found.losses, one.kept, strict=True):
        if lost is None or after is None:
            continue
        yield (f"{', ' if parts else ''}{clean(name)} {1 - lost:.0%} → ", "")
        yield (f"{after:.0%}", "success" if after > 1 - lost else "warning")
        parts += 1
    yield (" of what it shows alone", "muted")


def _heads(found: Probe) -> Iterator[Cell]:
    for text in ("all", *(f"{one.begin:.0%}+" for one in found.bands)):
        yield (fit(text, WIDE, "right"), "muted")


def _in_bands(found: Probe, lora: int) -> list[float]:
    return [band.survival[lora] for band in found.bands]


def _share(left: float) -> Cell:
    well = WELL <= left <= 2 - WELL
    return fit(
        f"{left:.0%}", WIDE, "right"
    ), "success" if well else "error" if left < WELL else "warning"


def _blocks(found: Probe, names: Sequence[str]) -> Iterator[list[Cell]]:
    """A row a block: the share of each LoRA that is there, and what the others do to it there."""
    if not found.blocks:
        return
    yield [("", "")]
    yield [("What each block adds in the mix, as a share of the whole effects:", "")]
    columns = [(of, by) for of in range(len(names)) for by in range(len(names))]
    for of, by in columns:
        what = f"{names[of]} itself" if of == by else f"{names[by]} to {names[of]}"
        yield [(f"  {columns.index((of, by)) + 1} {what}", "muted")]
    head = (fit(str(at), WIDE, "right") for at in range(1, len(columns) + 1))
    yield [(" " * 6, ""), *((text, "muted") for text in head)]
    for place in found.blocks:
        shares = [place.overlap[of][by] for of, by in columns]
        cells = [
            (fit(number(share), WIDE, "right"), "" if of == by else tone(share))
            for share, (of, by) in zip(shares, columns, strict=True)
        ]
        yield [(fit(place.block, 6), ""), *cells]
