"""A LoRA's card as cells of text with a tone, for the window and for the command line."""

from __future__ import annotations

from collections.abc import Iterator

from lora_tui.core import words
from lora_tui.core.cells import clean, fit
from shared.lora_cards import LITTLE, LoraCard, Spectrum
from shared.weighing import Advised

Cell = tuple[str, str]  # text, tone
WIDE = 16  # cells of a bar
TAGS = 24  # shown
_NAME = 12
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def lines(card: LoraCard) -> Iterator[list[Cell]]:
    """All of a card; what nobody knows is left out."""
    yield [(clean(card.title or card.name), "bold")]
    for name, value in _facts(card):
        if value:
            yield [(fit(name, _NAME), "muted"), (clean(value), "")]
    if card.advised is not None:
        yield [("", "")]
        yield from weighed(card.advised)
    if card.tags:
        yield [("", "")]
        yield [("It learned, with how often:", "muted")]
        told = ", ".join(f"{clean(one.text)} {one.count}" for one in card.tags[:TAGS])
        more = len(card.tags) - TAGS
        yield [(told + (f" … and {more} more" if more > 0 else ""), "")]
    if card.spectrum is not None:
        yield [("", "")]
        yield from _spectrum(card.spectrum, card.advice)


def weighed(found: Advised) -> Iterator[list[Cell]]:
    """What a weight was recommended by."""
    most = max((one.effect for one in found.weights), default=0.0)
    yield [(clean(found.reason), "")]
    yield [(fit("weight", 7), "muted"), (fit("effect", WIDE + 7), "muted"), ("drift", "muted")]
    for one in found.weights:
        share = max(one.effect, 0.0) / most if most > 0 else 0.0
        yield [
            (fit(f"{one.weight:g}", 7), "bold" if one.weight == found.weight else ""),
            (bar(share), "primary"),
            (fit(f"{share:.0%}", 6, "right") + " ", ""),
            (f"{one.drift:.0%}", ""),
        ]
    if found.leak is not None:
        yield [(f"{found.leak:.0%} of what it does shows without {clean(found.trigger)}.", "")]
    else:
        yield [("What shows without its trigger is not known: lora weigh --trigger WORD.", "muted")]
    yield [("Effect: what the LoRA takes off the base's error on pictures painted at the", "muted")]
    yield [("weight; of the largest. Drift: on unrelated prompts. Nobody looked at them.", "muted")]


def _facts(card: LoraCard) -> Iterator[tuple[str, str]]:
    yield "file", f"{card.path} ({words.size(card.size)})"
    yield "trigger", card.trigger
    yield "trained on", " · ".join(dict.fromkeys(x for x in (card.base, card.base_version) if x))
    yield "rank", ", ".join(map(str, card.ranks))
    yield "alpha", ", ".join(f"{alpha:g}" for alpha in card.alphas)
    yield "modules", ", ".join(f"{number} {kind}" for kind, number in card.kinds.items())
    yield "training", ", ".join(_training(card))
    yield "made", card.made
    yield "from run", card.run
    if card.leak is not None:
        yield "leak", f"{card.leak:.0%} of its effect shows without the trigger word"
    if card.advised is not None:
        yield "weight", f"{card.advised.weight:g} to begin with, on {card.advised.base}"
    yield "picture", card.preview or card.picture
    yield "same as", _twins(card)


def _training(card: LoraCard) -> Iterator[str]:
    if card.pictures:
        yield f"{words.count(card.pictures)} pictures"
    if card.resolution:
        yield f"at {card.resolution}"
    if card.steps:
        yield f"{words.count(card.steps)} steps"
    if card.epochs:
        yield f"{card.epochs} epochs"


def _twins(card: LoraCard) -> str:
    twins = card.twins
    same = ", ".join(twins.same)
    if not twins.unread:
        return same
    unknown = f"{twins.unread} of its shapes not yet compared (lora-tui lora duplicates)"
    return f"{same}; {unknown}" if same else unknown


def _spectrum(found: Spectrum, advice: str) -> Iterator[list[Cell]]:
    enough = (
        f"rank {found.enough} leaves out at most {LITTLE:.0%} of ΔW"
        if found.enough < found.rank
        else f"no smaller rank leaves out less than {LITTLE:.0%} of ΔW"
    )
    yield [(f"Of rank {found.rank}, {found.effective:.1f} are in effect; {enough}.", "bold")]
    if advice:
        yield [(clean(advice), "warning")]
    yield [("", "")]
    yield [(fit("block", 7), "muted"), (fit("in effect", 10, "right"), "muted"),
           (" " + fit("of rank", WIDE + 6), "muted"), ("of ‖ΔW‖²", "muted")]  # fmt: skip
    for one in found.blocks:
        share = one.energy / found.energy if found.energy else 0.0
        yield [
            (fit(one.block, 7), ""),
            (fit(f"{one.effective:.1f}", 10, "right"), ""),
            (f" {bar(one.effective / one.rank)} ", "primary"),
            (fit(str(one.rank), 5), "muted"),
            (f"{share:.0%}", ""),
        ]
    yield [
        ("In effect: exp of the entropy of ΔW's singular values (Roy & Vetterli 2007),", "muted")
    ]
    yield [("the mean over the modules by their ‖ΔW‖².", "muted")]
    yield from ([(clean(note), "warning")] for note in found.notes)


def bar(share: float) -> str:
    """A share of WIDE cells, to an eighth of one."""
    eighths = round(min(max(share, 0.0), 1.0) * WIDE * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (_EIGHTHS[rest] if rest else "")).ljust(WIDE)
