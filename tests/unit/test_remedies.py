"""What survives of LoRAs, and what would win it back: algebra on inner products alone."""

from __future__ import annotations

import itertools
import random

import pytest

from shared import probes, remedies
from shared.pictures import LoraUse

STARTER = {
    "layers_per_block": 1,
    "down_block_types": ["CrossAttnDownBlock2D"] * 2,
    "up_block_types": ["CrossAttnUpBlock2D"] * 2,
}
Vector = list[float]


def products(*rows: Vector) -> list[list[float]]:
    return [[sum(a * b for a, b in zip(one, other, strict=True)) for other in rows] for one in rows]


def plus(*vectors: Vector) -> Vector:
    return [sum(numbers) for numbers in zip(*vectors, strict=True)]


def draws(count: int, size: int = 12, seed: int = 1) -> list[Vector]:
    draw = random.Random(seed)
    return [[draw.gauss(0, 1) for _ in range(size)] for _ in range(count)]


def test_survival_is_what_is_left_along_the_effect() -> None:
    one, other = [1.0, 0.0, 0.0], [-0.5, 1.0, 0.0]
    sample = products(one, other, plus(one, other))
    assert probes.survival([sample], 2, 2) == pytest.approx([0.5, 1 - 0.5 / 1.25])
    silent = products([0.0], [0.0], [0.0])
    assert probes.survival([silent], 2, 2) == [1, 1]


def test_a_mix_without_something_tells_what_it_adds() -> None:
    one, other, mix = draws(3)
    off = plus(mix, [-2 * number for number in one])  # the mix without 2 · one
    sample = probes.added(products(one, other, mix, off), 2, [3])
    wanted = products(one, other, mix, [2 * number for number in one])
    for row, right in zip(sample, wanted, strict=True):
        assert row == pytest.approx(right)


def test_the_box_holds_and_nothing_in_it_is_better() -> None:
    rows = draws(5, size=9)
    q = products(*rows)
    c = [4.0, -9.0, 0.3, 2.0, -1.0]
    x = remedies.boxed(q, c)

    def value(x: Vector) -> float:
        return sum(c[k] * x[k] for k in range(5)) + 0.5 * sum(
            q[k][j] * x[k] * x[j] for k, j in itertools.product(range(5), repeat=2)
        )

    assert all(-1 <= one <= 1 for one in x) and any(abs(one) == 1 for one in x)
    draw = random.Random(3)
    for _ in range(500):
        other = [min(max(one + draw.gauss(0, 0.1), -1), 1) for one in x]
        assert value(other) >= value(x) - 1e-9


def test_a_linear_fight_is_settled_by_weights() -> None:
    """Two that undo each other: the solution is that of the normal equations."""
    a, b = draws(2, size=40)
    b = plus(b, [-0.6 * number for number in a])  # b undoes part of a
    rows = [a, b, plus(a, b), a, b]  # alone, the mix, what each adds to it
    samples = [products(*rows)]
    before = probes.survival(samples, 2, 2)
    x = remedies.factors(samples, 2, 2, [3, 4])
    after = remedies.predicted(samples, 2, 2, [3, 4], x)
    assert probes.loss(after) < 0.05 * probes.loss(before)
    turned = plus(*([(1 + k) * n for n in v] for k, v in zip(x, (a, b), strict=True)))
    assert probes.survival([products(a, b, turned)], 2, 2) == pytest.approx(after)


def test_blocks_are_turned_where_the_harm_is() -> None:
    """b undoes half of a in one block only, and does its own work in the other."""
    a, work = draws(2, size=40)
    harm = [-0.5 * number for number in a]
    b = plus(work, harm)
    samples = [products(a, b, plus(a, b), a, harm, work, a, b)]
    parts = {(0, "OUT00"): 3, (1, "OUT00"): 4, (1, "OUT01"): 5}
    uses = [LoraUse(lora="a", weight=0.8), LoraUse(lora="b", weight=0.5, text_weight=0.4)]
    ideas = remedies.ideas(samples, [0], uses, 2, [6, 7], parts, STARTER, cfg=5.0)
    before = probes.loss(probes.survival(samples, 2, 2))
    for kind in ("weights", "blocks"):
        best = min(probes.loss(idea.predicted) for idea in ideas if idea.kind == kind)
        assert best < 0.2 * before
    blocks = next(idea for idea in ideas if idea.kind == "blocks").loras
    places = ["BASE", "IN00", "IN01", "IN02", "IN03", "M00", "OUT00", "OUT01", "OUT02", "OUT03"]
    attending = [one for one in places if one not in ("IN00", "IN02")]
    turned = dict(zip(attending, blocks[1].blocks, strict=True))
    assert turned["OUT00"] < turned["OUT01"] and turned["M00"] == 1
    whole = next(idea for idea in ideas if idea.kind == "weights").loras
    assert whole[1].text_weight == pytest.approx(whole[1].weight * 0.8, abs=0.01)


def test_those_that_work_at_other_times_take_turns() -> None:
    """a does its work in the first half of the steps and b in the second; together they fight."""
    a, b = draws(2, size=40)
    samples = []
    for band in range(probes.BANDS):
        one, other = (a, [0.05 * n for n in b]) if band < 2 else ([0.05 * n for n in a], b)
        mix = [0.3 * n for n in plus(one, other)]
        samples.append(products(one, other, mix))
    chosen, left = remedies.spans(samples, [0, 1, 2, 3], 2, 2)
    assert chosen == [(0, 2), (2, 4)]
    assert min(left) > 0.98


def test_what_does_not_help_is_no_remedy() -> None:
    a, b = draws(2)
    uses = [LoraUse(lora="a"), LoraUse(lora="b")]
    ideas = [
        remedies.Idea("weights", uses, [1.0, 1.0]),
        remedies.Idea("blocks", uses, [1.0, 1.0]),
        remedies.Idea("steps", uses, [1.0, 1.0]),
    ]
    half, most = [0.5 * n for n in plus(a, b)], [0.95 * n for n in plus(a, b)]
    measured = [products(a, b, half, most, most)]
    before = probes.survival([products(a, b, half)], 2, 2)
    found = remedies.chosen(ideas, measured, before)
    assert [one.kind for one in found] == ["blocks", "steps"]  # as good: the simpler first
    assert found[0].measured == probes.survival([products(a, b, most)], 2, 2)


def test_pictures_say_which_remedy_leaves_most_of_the_weakest() -> None:
    uses = [LoraUse(lora="a"), LoraUse(lora="b")]
    one, other = [1.0, 0.0], [0.0, 1.0]
    tried = [remedies.Idea(kind, uses, [1.0, 1.0]) for kind in ("weights", "weights", "blocks",
             "steps", "steps")]  # fmt: skip
    kept = [[0.8, 0.7], [0.9, 0.6], [1.4, 0.75], [1.0, 0.3], [None, 0.5]]
    sample = products(one, other, *[plus(one, other)] * len(tried))
    found = remedies.recognised(tried, [sample], kept, [-0.1, 0.5])
    assert [(best.kind, best.kept) for best in found] == [
        ("blocks", [1.4, 0.75]), ("weights", [0.8, 0.7]),
    ]  # fmt: skip
    assert found[0].measured == pytest.approx([1.0, 1.0])
    guided = [*tried[:3], *[remedies.Idea("guidance", uses, [1.0, 1.0])] * 2]
    found = remedies.recognised(guided, [sample], [*kept[:3], [1.5, 0.9], [1.5, 1.0]], [-0.1, 0.5])
    assert [best.kind for best in found] == ["blocks", "weights", "guidance"]  # its own judge: last
    assert found[2].kept == [1.5, 1.0]
    assert not remedies.recognised(tried, [sample], [[2.0, 2.0]] * 5, [-0.1, 0.0])  # nothing lost


def test_pictures_may_be_guided_along_each_lora_and_along_all() -> None:
    uses = [LoraUse(lora="a", weight=0.5, guidance=1.0), LoraUse(lora="b")]
    a, b = [1.0, 0.0], [0.5, 1.0]
    sample = products(a, b, plus(a, b), a, b)
    found = remedies.ideas([sample], [0], uses, 2, [3, 4], {}, STARTER, cfg=6.0)
    guided = [idea for idea in found if idea.kind == "guidance"]
    assert [[use.guidance for use in idea.loras] for idea in guided] == [[4, 0], [1, 3], [4, 3]]
    assert all([use.weight for use in idea.loras] == [0.5, 1.0] for idea in guided)
    half = [0.5 * number for number in a]
    assert guided[0].predicted == pytest.approx(
        probes.survival([products(a, b, plus(a, b, half))], 2, 2)
    )
    assert len(found) <= remedies.most(2)


def test_plain_weights_are_tried_where_pictures_judge() -> None:
    uses = [LoraUse(lora="a", weight=0.5), LoraUse(lora="b", weight=1.0)]
    one, other = [1.0, 0.0], [0.0, 1.0]  # they do not meet: the algebra has nothing to say
    sample = products(one, other, plus(one, other), one, other)

    def weights(*, plain: bool) -> list[list[float]]:
        found = remedies.ideas([sample], [0], uses, 2, [3, 4], {}, STARTER, cfg=5.0, plain=plain)
        return [[use.weight for use in idea.loras] for idea in found if idea.kind == "weights"]

    assert weights(plain=False) == []
    assert weights(plain=True) == [[0.35, 1.0], [0.65, 1.0], [0.5, 0.7], [0.5, 1.3]]
