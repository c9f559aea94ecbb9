"""Kernels of ``quick``, in Triton, which comes with torch where there is a GPU.

Of norms: maps are (n, h, w, channels) in memory. Programs along the first axis are groups, n of
each picture; those along the second share a group's places (h·w) among them. Two kernels a
direction: sums, of which each program leaves its part, and what is made with them. All sums are in
float32. Of gated units: a program along the first axis is a row.
"""

# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

SIZES = ["groups", "wide", "places", "parts"]  # one kernel for all of them


@triton.jit
def _part(groups, wide, places, parts, PADDED: tl.constexpr):
    """This program's first place, the one after its last, the channels of its group, and where its
    picture and group begin."""
    group = tl.program_id(0)
    share = tl.cdiv(places, parts)
    first = tl.program_id(1) * share
    channel = tl.arange(0, PADDED)
    own = (group % groups) * wide + channel
    begin = (group // groups).to(tl.int64) * places * groups * wide
    return first, tl.minimum(first + share, places), own, channel < wide, begin


@triton.jit
def _rows(row, last, begin, step, own, inside, ROWS: tl.constexpr):
    """Where the next places' numbers of the group lie, and which of them there are."""
    place = row + tl.arange(0, ROWS)
    at = begin + place[:, None].to(tl.int64) * step + own[None, :]
    return at, (place < last)[:, None] & inside[None, :]


@triton.jit
def _sum_up(sums, parts, PARTS: tl.constexpr):
    """The two sums of a group, of those that its programs left."""
    part = tl.arange(0, PARTS)
    at = sums + (tl.program_id(0) * parts + part) * 2
    one = tl.sum(tl.load(at, mask=part < parts, other=0.0))
    other = tl.sum(tl.load(at + 1, mask=part < parts, other=0.0))
    return one, other


@triton.jit
def _near(x, begin, own, inside, wide):
    """A number near the group's mean: of its first place. Squares of what is far from zero would
    lose what it varies by."""
    return tl.sum(tl.load(x + begin + own, mask=inside, other=0.0).to(tl.float32)) / wide


@triton.jit(do_not_specialize=SIZES)
def moments(
    x, sums, groups, wide, places, parts,
    PADDED: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Of each part: Σ (x - near), Σ (x - near)²."""
    first, last, own, inside, begin = _part(groups, wide, places, parts, PADDED)
    near = _near(x, begin, own, inside, wide)
    total = tl.zeros((ROWS, PADDED), tl.float32)
    squares = tl.zeros((ROWS, PADDED), tl.float32)
    for row in range(first, last, ROWS):
        at, valid = _rows(row, last, begin, groups * wide, own, inside, ROWS)
        off = tl.where(valid, tl.load(x + at, mask=valid, other=0.0).to(tl.float32) - near, 0.0)
        total += off
        squares += off * off
    at = sums + (tl.program_id(0) * parts + tl.program_id(1)) * 2
    tl.store(at, tl.sum(total))
    tl.store(at + 1, tl.sum(squares))


@triton.jit(do_not_specialize=SIZES)
def normed(
    x, out, sums, kept, weight, bias, groups, wide, places, parts, eps,
    PADDED: tl.constexpr, ROWS: tl.constexpr, PARTS: tl.constexpr,
    SILU: tl.constexpr,
):  # fmt: skip
    """``out``: γ (x - μ) / σ + β, through SiLU if so said. ``kept``: μ and 1 / σ of each group."""
    first, last, own, inside, begin = _part(groups, wide, places, parts, PADDED)
    total, squares = _sum_up(sums, parts, PARTS)
    count = (places * wide).to(tl.float32)
    off = total / count
    mean = off + _near(x, begin, own, inside, wide)
    inverse = 1 / tl.sqrt(tl.maximum(squares / count - off * off, 0.0) + eps)
    if tl.program_id(1) == 0:
        tl.store(kept + tl.program_id(0) * 2, mean)
        tl.store(kept + tl.program_id(0) * 2 + 1, inverse)
    by = tl.load(weight + own, mask=inside, other=0.0).to(tl.float32) * inverse
    plus = tl.load(bias + own, mask=inside, other=0.0).to(tl.float32) - mean * by
    for row in range(first, last, ROWS):
        at, valid = _rows(row, last, begin, groups * wide, own, inside, ROWS)
        made = tl.load(x + at, mask=valid, other=0.0).to(tl.float32) * by[None, :] + plus[None, :]
        if SILU:
            made = made / (1 + tl.exp(-made))
        tl.store(out + at, made.to(out.dtype.element_ty), mask=valid)


@triton.jit
def _back(x, gradient, at, valid, mean, inverse, scale, shift, SILU: tl.constexpr):
    """x̂, and the loss's gradient with respect to it."""
    hat = (tl.load(x + at, mask=valid, other=0.0).to(tl.float32) - mean) * inverse
    into = tl.load(gradient + at, mask=valid, other=0.0).to(tl.float32)
    if SILU:
        before = hat * scale[None, :] + shift[None, :]
        open_ = 1 / (1 + tl.exp(-before))
        into = into * open_ * (1 + before * (1 - open_))
    return hat, into * scale[None, :]


@triton.jit(do_not_specialize=SIZES)
def gradient_sums(
    x, gradient, sums, kept, weight, bias, groups, wide, places, parts,
    PADDED: tl.constexpr, ROWS: tl.constexpr, SILU: tl.constexpr,
):  # fmt: skip
    """Of each part: Σ g, Σ g x̂, with g as ``_back`` says."""
    first, last, own, inside, begin = _part(groups, wide, places, parts, PADDED)
    mean = tl.load(kept + tl.program_id(0) * 2)
    inverse = tl.load(kept + tl.program_id(0) * 2 + 1)
    scale = tl.load(weight + own, mask=inside, other=0.0).to(tl.float32)
    shift = tl.load(bias + own, mask=inside, other=0.0).to(tl.float32)
    total = tl.zeros((ROWS, PADDED), tl.float32)
    along = tl.zeros((ROWS, PADDED), tl.float32)
    for row in range(first, last, ROWS):
        at, valid = _rows(row, last, begin, groups * wide, own, inside, ROWS)
        hat, into = _back(x, gradient, at, valid, mean, inverse, scale, shift, SILU)
        total += into
        along += into * hat
    at = sums + (tl.program_id(0) * parts + tl.program_id(1)) * 2
    tl.store(at, tl.sum(total))
    tl.store(at + 1, tl.sum(along))


@triton.jit(do_not_specialize=SIZES)
def gradients(
    x, gradient, out, sums, kept, weight, bias, groups, wide, places, parts,
    PADDED: tl.constexpr, ROWS: tl.constexpr, PARTS: tl.constexpr,
    SILU: tl.constexpr,
):  # fmt: skip
    """``out``: the loss's gradient with respect to x, (g - mean g - x̂ mean(g x̂)) / σ."""
    first, last, own, inside, begin = _part(groups, wide, places, parts, PADDED)
    mean = tl.load(kept + tl.program_id(0) * 2)
    inverse = tl.load(kept + tl.program_id(0) * 2 + 1)
    scale = tl.load(weight + own, mask=inside, other=0.0).to(tl.float32)
    shift = tl.load(bias + own, mask=inside, other=0.0).to(tl.float32)
    total, along = _sum_up(sums, parts, PARTS)
    count = (places * wide).to(tl.float32)
    total, along = total / count, along / count
    for row in range(first, last, ROWS):
        at, valid = _rows(row, last, begin, groups * wide, own, inside, ROWS)
        hat, into = _back(x, gradient, at, valid, mean, inverse, scale, shift, SILU)
        made = (into - total - hat * along) * inverse
        tl.store(out + at, made.to(out.dtype.element_ty), mask=valid)


@triton.jit
def _columns(wide, BLOCK: tl.constexpr):
    """Where this program's numbers lie in a row of ``wide`` and in one of twice as many, and which
    of them there are."""
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    row = tl.program_id(0).to(tl.int64)
    return row * wide + column, row * 2 * wide + column, column < wide


@triton.jit(do_not_specialize=["wide"])
def gate(columns, out, wide, BLOCK: tl.constexpr):
    """``out``: a · GELU(b) of rows a | b."""
    at, first, valid = _columns(wide, BLOCK)
    a = tl.load(columns + first, mask=valid, other=0.0).to(tl.float32)
    b = tl.load(columns + first + wide, mask=valid, other=0.0).to(tl.float32)
    made = a * b * 0.5 * (1 + tl.erf(b * 0.7071067811865476))
    tl.store(out + at, made.to(out.dtype.element_ty), mask=valid)


@triton.jit(do_not_specialize=["wide"])
def gate_gradient(columns, gradient, out, wide, BLOCK: tl.constexpr):
    """``out``: the loss's gradient with respect to a | b."""
    at, first, valid = _columns(wide, BLOCK)
    a = tl.load(columns + first, mask=valid, other=0.0).to(tl.float32)
    b = tl.load(columns + first + wide, mask=valid, other=0.0).to(tl.float32)
    into = tl.load(gradient + at, mask=valid, other=0.0).to(tl.float32)
    below = 0.5 * (1 + tl.erf(b * 0.7071067811865476))  # Φ(b)
    density = tl.exp(-0.5 * b * b) * 0.3989422804014327
    of_a, of_b = into * b * below, into * a * (below + b * density)
    tl.store(out + first, of_a.to(out.dtype.element_ty), mask=valid)
    tl.store(out + first + wide, of_b.to(out.dtype.element_ty), mask=valid)
