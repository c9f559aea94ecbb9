"""What is known of a run's checkpoints, as rows and sentences for the command line and the UI."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lora_tui.core import words
from shared.which import Candidate, Spread, Which, number

HEAD = ("", "CHECKPOINT", ">KEPT BACK", "95 %", ">TRAINED", ">DRIFT", ">LEAK", ">NEAR", ">WINS")
NOTHING = "Nothing is measured yet."


def rows(found: Which) -> list[Sequence[str]]:
    """One row a candidate: mark, name, and its numbers."""
    return [_row(found, one) for one in found.candidates]


def mark(found: Which, one: Candidate) -> str:
    """★ what to take, ≈ what cannot be told from the best."""
    if found.take is one:
        return "★"
    return "≈" if one.tied else ""


def _row(found: Which, one: Candidate) -> Sequence[str]:
    return (
        mark(found, one),
        one.name,
        number(one.held.mean if one.held else None, "+.1%"),
        _interval(one.held),
        number(one.train.mean if one.train else None, "+.1%"),
        number(one.drift, ".3f"),
        number(one.leak, ".0%"),
        number(one.nearness, "+.1f"),
        f"{one.wins:g}/{one.met}" if one.met else "",
    )


def _interval(spread: Spread | None) -> str:
    return f"{spread.low:+.1%} … {spread.high:+.1%}" if spread else ""


def _takes(found: Which) -> str:
    """How long measuring the rest takes, as a sentence to follow another; empty where nothing
    tells, or nothing is left."""
    if not found.seconds or found.busy:
        return ""
    return f" It takes about {words.duration(found.seconds)}, by what training here took."


def said(found: Which, measures: str = "") -> Iterator[str]:
    """What to take and why, and how to read the columns. ``measures``: what does, where something
    is not measured."""
    if found.take is not None:
        yield found.reason
    elif any(one.train or one.held for one in found.candidates):
        yield "Too little is measured to say which to take."
    else:
        yield f"{NOTHING}{measures}{_takes(found)}"
        return
    if tied := [one for one in found.candidates if one.tied]:
        first, last = tied[0].name, tied[-1].name
        span = first if first == last else f"{first} to {last}"
        if found.held_out:
            yield f"Within one standard error of the best: {span}."
    yield from found.notes
    if missing := sum(not one.measured for one in found.candidates):
        yield f"{words.plural(missing, 'checkpoint')} not measured yet.{measures}{_takes(found)}"
    if found.pairs:
        yield f"{found.pairs} of {found.wanted} pairs were chosen from without names."
    change = "change of the loss from the bare base on"
    trained = f"TRAINED: {change} {found.trained} pictures that it learnt from"
    if found.held_out:
        kept = words.plural(found.held_out, "picture")
        trained = f"KEPT BACK: {change} {kept} not trained on; "
        trained += f"TRAINED: the same on {found.trained} that were"
    parts = [
        trained,
        "DRIFT: how far unrelated prompts are moved, of the prediction's length",
        "LEAK: effect without the trigger word, of that with it",
        "NEAR: likeness to single training pictures, in standard deviations",
    ]
    yield "; ".join(parts) + "."
