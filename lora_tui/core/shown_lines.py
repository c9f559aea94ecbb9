"""A picture of the gallery in words: what it was made with, line by line."""

from __future__ import annotations

from lora_tui.core import words
from shared.gallery import BEST, Shown
from shared.pictures import tag
from shared.wire import PicturesImported

_ORIGINS = {
    "made": "made here", "sample": "a run's sample", "grid": "a grid's sheet",
    "imported": "imported",
}  # fmt: skip


def about(one: Shown) -> list[tuple[str, str]]:
    """Names and values, those that are known."""
    made = one.made
    second = made.second
    variation = made.variation
    rows = [
        ("prompt", made.prompt),
        ("negative", made.negative),
        ("LoRAs", " ".join(tag(use, made.steps or 20) for use in made.loras)),
        ("model", made.model),
        ("sampler", made.sampler),
        ("steps", _said(made.steps)),
        ("cfg", _said(made.cfg)),
        ("seed", _said(made.seed)),
        ("variation", f"seed {variation.seed} at {variation.strength:g}" if variation else ""),
        ("begun from", f"a picture, strength {made.strength:g}" if made.strength else ""),
        ("second pass", words.second_pass(second) if second else ""),
        ("size", f"{one.width} × {one.height} px"),
        ("rating", stars(one.rating) if one.rating else ""),
        ("from", f"{_ORIGINS[one.origin]}{f', {made.tool}' if made.tool else ''}"),
        ("run", f"{one.run}, step {one.step}" if one.run else ""),
        ("when", words.ago(one.created)),
        ("file", one.path),
        ("note", " ".join(part for part in (one.problem, one.note) if part)),
        *made.rest.items(),
    ]
    return [(name, value) for name, value in rows if value]


def imported(found: PicturesImported) -> str:
    """What an import did, in a sentence."""
    parts = [f"{words.plural(found.added, 'picture')} imported"]
    parts += [f"{found.changed} had changed"] * bool(found.changed)
    parts += [f"{found.same} were known"] * bool(found.same)
    parts += [f"{len(found.skipped)} left out"] * bool(found.skipped)
    return f"{', '.join(parts)}."


def stars(rating: int) -> str:
    return "★" * rating + "☆" * (BEST - rating)


def _said(value: float | None) -> str:
    return "" if value is None else f"{value:.17g}" if isinstance(value, int) else f"{value:g}"
