"""The table of a campaign, whole or partial."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.pairs.figures import interval_of, reliability, spearman
from bench.pairs.painting import Arms
from bench.pairs.plan import STRENGTHS, Part, pairs
from bench.pairs.product import Known
from bench.pairs.reading import Directed, Reading, Remedied

HALF = 0.5  # of the weaker LoRA's loss: a remedy that wins it back has worked
WORSE = 0.05  # of what was asked for: obedience that falls by more is lost


def found(work: Path, parts: Sequence[Part]) -> dict[str, Any]:
    """By part: ``losses`` at (1, 1) and at all weights, ``remedies``."""
    reading = Reading(work, Arms(work), Known(work))
    told: dict[str, Any] = {}
    for part in parts:
        every = [one for pair in pairs(part) for one in reading.losses(pair)]
        tried = [one for pair in pairs(part) for one in reading.remedied(pair)]
        remedies = [one for one in tried if one.recommended]
        told[part] = {
            "equal": _foretold([one for one in every if one.weights == STRENGTHS[0]]),
            "all": _foretold(every),
            "directed": [_directed(one) for one in every],
            "remedies": [_remedied(one) for one in tried],
            "won_back": sum(_works(one) for one in remedies),
            "nothing_lost": sum(math.isnan(one.won) for one in remedies),
            "of": len(remedies),
        }
    return told


def _works(one: Remedied) -> bool:
    plain, remedy = one.obeys
    return one.won >= HALF and not remedy < plain - WORSE


def _foretold(every: Sequence[Directed]) -> dict[str, Any]:
    """Spearman's ρ of L with the score, and with what else could foretell it."""
    both = [every[at : at + 2] for at in range(0, len(every), 2)]
    known = [
        one for pair in both for one in pair
        if not any(math.isnan(other.told.loss) for other in pair)
    ]  # fmt: skip
    if len(known) < 6:
        return {"values": len(known)}
    low, high = interval_of([(one.told, one.score) for one in known])
    losses = [one.told.loss for one in known]
    others = {}
    for name in known[0].others:
        there = [one for one in known if not math.isnan(one.others[name])]
        rho = spearman([one.told.loss for one in there], [one.others[name] for one in there])
        others[name] = {"spearman": round(rho, 3), "values": len(there)}
    return {
        "values": len(known), "pictures": min(len(one.told) for one in known),
        "spearman": round(spearman(losses, [one.score for one in known]), 3),
        "interval": [round(low, 3), round(high, 3)],
        "reliability": round(reliability([one.told for one in known]), 3), "others": others,
    }  # fmt: skip


def _directed(one: Directed) -> dict[str, Any]:
    low, high = one.told.interval()
    told = one.told
    return {
        "pair": one.pair.name, "of": one.pair.both[one.of].name, "weights": one.weights,
        "loss": round(told.loss, 3), "interval": [round(low, 3), round(high, 3)],
        "apart": round(told.apart, 3),
        "margins": [round(float(part.mean()), 2) for part in (told.base, told.solo, told.mix)],
        "score": round(one.score, 3),
        "others": {name: round(value, 3) for name, value in one.others.items()},
        "pictures": len(told),
    }  # fmt: skip


def _remedied(one: Remedied) -> dict[str, Any]:
    return {
        "pair": one.pair.name, "kind": one.kind, "recommended": one.recommended,
        "plain": one.plain,
        "kept": [[round(value, 3) for value in arm] for arm in one.kept],
        "won": round(one.won, 3), "obeys": [round(value, 3) for value in one.obeys],
        "works": _works(one), "pictures": one.pictures,
    }  # fmt: skip


def lines(told: dict[str, Any]) -> str:
    """For a person."""
    return "\n".join(line for part, one in told.items() for line in _lines(part, one))


def _lines(part: str, told: dict[str, Any]) -> Iterator[str]:
    yield f"── {part}"
    yield (
        f"{'pair':<34}{'weights':<12}{'loses':<18}{'L':>6}  {'95 %':<16}{'apart':>6}{'score':>7}"
        f"{'base':>7}{'solo':>7}{'mix':>7}{'n':>5}"
    )
    for one in told["directed"]:
        low, high = one["interval"]
        base, solo, mix = one["margins"]
        weights = "{:g}, {:g}".format(*one["weights"])
        yield (
            f"{one['pair']:<34}{weights:<12}{one['of']:<18}{one['loss']:6.2f}"
            f"  {f'{low:.2f} … {high:.2f}':<16}{one['apart']:6.2f}{one['score']:7.2f}"
            f"{base:7.1f}{solo:7.1f}{mix:7.1f}{one['pictures']:5}"
        )
    for name in ("equal", "all"):
        one = told[name]
        where = "at equal weights" if name == "equal" else "at all weights"
        if "spearman" not in one:
            yield f"Spearman {where}: too few values yet ({one['values']})"
            continue
        low, high = one["interval"]
        others = ", ".join(
            f"{key} {value['spearman']:.2f} ({value['values']})"
            for key, value in one["others"].items()
        )
        yield (
            f"Spearman {where}: {one['spearman']:.2f} ({low:.2f} … {high:.2f}) over "
            f"{one['values']} values, {one['pictures']} pictures; split-half "
            f"{one['reliability']:.2f}; {others}"
        )
    if not told["remedies"]:
        return
    yield ""
    yield (
        f"{'pair':<34}{'remedy':<11}{'plain':<22}{'as asked':<13}{'plain':<13}{'remedy':<13}"
        f"{'won':>6}  {'obeys':<12}{'n':>4}"
    )
    for one in told["remedies"]:
        plain = " | ".join("{:g}, {:g}".format(*weights) for weights in one["plain"])
        kept = "".join(f"{'{:.0%} {:.0%}'.format(*arm):<13}" for arm in one["kept"])
        obeys = "{:.0%} → {:.0%}".format(*one["obeys"]) if one["obeys"][0] >= 0 else "—"
        kind = one["kind"] if one["recommended"] else f"({one['kind']})"
        yield (
            f"{one['pair']:<34}{kind:<11}{plain:<22}{kept}{one['won']:6.2f}"
            f"  {obeys:<12}{one['pictures']:>4} {'✓' if one['works'] else ''}"
        )
    yield "In brackets: for comparison, not what the product recommends."
    losses = [
        one["won"] for one in told["remedies"]
        if one["recommended"] and not math.isnan(one["won"])
    ]  # fmt: skip
    middle = f", median {statistics.median(losses):.2f}" if losses else ""
    yield (
        f"Won back half or more, without loss of obedience: {told['won_back']} of {told['of']}"
        f" ({told['nothing_lost']} had nothing to win back{middle})"
    )
