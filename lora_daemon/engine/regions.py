"""LoRAs that act in a part of the picture: their weight at each place of each layer.

A region m(p) in 0 … 1 makes a LoRA's weight w·m(p). A module whose output has places (convolutions,
projections of self-attention, feed-forward) adds what each LoRA adds there, at the layer's own
resolution. The keys and values of a prompt have no places; their queries have: the attention of a
place p is that of the keys K + Σ mᵢ(p) ΔKᵢ and values V + Σ mᵢ(p) ΔVᵢ, exactly,

    logits(p) = q·K + Σᵢ mᵢ(p) q·ΔKᵢ = [q, m₁q, …] · [K, ΔK₁, …]
    out(p) = A(p) V + Σᵢ mᵢ(p) A(p) ΔVᵢ

which is one attention with longer heads. What is the same for all places (the time's embedding)
takes the region's mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from torch import Tensor, nn

from lora_daemon import pictures
from lora_daemon.engine.parts import Dense, Kronecker, kronecker
from shared.filenames import typed
from shared.regions import Region

if TYPE_CHECKING:
    from lora_daemon.engine.mix import Site

Size = tuple[int, int]  # height, width


class Field:
    """Where each LoRA of a mix acts. ``regions``: one a LoRA; None: everywhere. Raises
    LoraError: INVALID_FILE, NOT_FOUND for a mask picture that cannot be read."""

    def __init__(self, regions: Sequence[Region | None]) -> None:
        self.regions = tuple(regions)
        self.distinct = list(dict.fromkeys(one for one in regions if one is not None))
        self._number = [self.distinct.index(one) if one else -1 for one in regions]
        self._masks = {one: _mask(one) for one in self.distinct if one.picture}
        self._whole: Tensor = torch.zeros(0)
        self._levels: dict[Size, Tensor] = {}
        self._spread: dict[tuple[Size | int, tuple[int, ...]], Tensor] = {}

    def look(self, latents: Size, pixels: int, **kind: Any) -> None:
        """The picture that is being made. ``pixels``: of a latent's side."""
        size = (latents[0] * pixels, latents[1] * pixels)
        if tuple(self._whole.shape[1:]) == size and latents in self._levels:
            return
        masks = [drawn(one, size, self._masks.get(one)) for one in self.distinct]
        self._whole = torch.stack(masks)
        self._levels, self._spread = {}, {}
        level = latents
        while level not in self._levels:  # as the UNet's strided convolutions halve it
            self._levels[level] = F.adaptive_avg_pool2d(self._whole, level).to(**kind)
            level = (-(-level[0] // 2), -(-level[1] // 2))

    def at(self, size: Size) -> Tensor:
        """(regions, height, width) at this resolution."""
        return self._levels[size]

    def along(self, tokens: int) -> Tensor:
        """(regions, tokens) of a layer whose places stand in a row."""
        found = [one for size, one in self._levels.items() if size[0] * size[1] == tokens]
        return found[0].flatten(1)

    def spread(self, places: Size | int, loras: tuple[int, ...]) -> Tensor:
        """How much of each slot there is, for slots of these LoRAs; 1 without a region. ``places``:
        a size for (slots, h, w), a number of tokens for (tokens, slots), 0 where there are no
        places for (slots,)."""
        known = self._spread.get((places, loras))
        if known is None:
            if isinstance(places, tuple):
                masks = self.at(places)
            elif places:
                masks = self.along(places)
            else:
                masks = next(iter(self._levels.values())).mean((1, 2))
            every = torch.cat([masks, torch.ones_like(masks[:1])])  # the last is also number -1
            known = every[[self._number[lora] for lora in loras]]
            if places and not isinstance(places, tuple):
                known = known.t().contiguous()
            self._spread[places, loras] = known
        return known

    def of(self, region: int, loras: tuple[int, ...]) -> Tensor:
        """Which slots belong to a region (-1: to none), as 1 and 0."""
        return torch.tensor([float(self._number[lora] == region) for lora in loras])


def drawn(region: Region, size: Size, mask: Image.Image | None = None) -> Tensor:
    """A region in pixels: float32 (height, width) in 0 … 1."""
    height, width = size
    if mask is not None:
        fitted = mask.resize((width, height), Image.Resampling.BILINEAR)
        if region.feather:  # the Gaussian whose slope is that of a ramp of this width
            radius = region.feather * max(size) / (2 * np.pi) ** 0.5
            fitted = fitted.filter(ImageFilter.GaussianBlur(radius))
        return torch.from_numpy(np.array(fitted, dtype=np.float32)) / 255
    rows = _ramp(height, region.top, region.bottom, region.feather)
    columns = _ramp(width, region.left, region.right, region.feather)
    return rows[:, None] * columns


def _ramp(count: int, first: float, last: float, feather: float) -> Tensor:
    """1 between two shares of a side, 0 outside, linear over ``feather`` around each."""
    at = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    soft = max(feather, 1e-9)
    found = torch.ones(count, dtype=torch.float64)
    if first > 0:
        found *= ((at - first) / soft + 0.5).clamp(0, 1)
    if last < 1:
        found *= ((last - at) / soft + 0.5).clamp(0, 1)
    return found.float()


def _mask(region: Region) -> Image.Image:
    return pictures.load(Path(typed(region.picture))).convert("L")


def add(site: Site, field: Field, x: Tensor, output: Tensor) -> Tensor:
    """A module's output with what its LoRAs add, each in its region. Prompts' keys and values: only
    those of LoRAs without a region; ``Attend`` adds the others."""
    loras = tuple(lora for lora, _ in site.slots)
    if site.of_prompt:
        return output + delta(site, x, output, site.v * field.of(-1, loras).to(site.v))
    if isinstance(site.target, nn.Conv2d):
        v = site.v[:, None, None] * field.spread((output.shape[2], output.shape[3]), loras)
    else:
        v = site.v * field.spread(output.shape[1] if output.dim() == 3 else 0, loras)
    return output + delta(site, x, output, v)


def delta(site: Site, x: Tensor, output: Tensor, v: Tensor) -> Tensor:
    """What is stacked on a module adds to its own ``output``. ``v``: the weight of each slot: of
    convolutions (slots, h, w), else (slots,) or (tokens, slots)."""
    target = site.target
    convolves = isinstance(target, nn.Conv2d)
    axis = 0 if convolves else -1

    def through(x: Tensor, matrix: Tensor) -> Tensor:
        if isinstance(target, nn.Conv2d):
            return F.conv2d(x, matrix, None, target.stride, target.padding, target.dilation)
        return F.linear(x, matrix)

    def across(weights: Tensor, vectors: Tensor) -> Tensor:
        """Σᵢ weightᵢ vectorᵢ at each place."""
        if convolves:
            return torch.einsum("nhw,no->ohw", weights, vectors)
        return weights @ vectors

    pairs = 0 if site.up is None else site.up.shape[1]
    rows = 0 if site.rows is None else len(site.rows)
    shifts = 0 if site.shifts is None else len(site.shifts)
    low, others, own, bias = torch.split(v, [pairs, len(site.others), rows, shifts], dim=axis)
    added: list[Tensor] = []
    if site.rows is not None:  # (d − 1) ⊙ W x, without the bias
        wide = (-1, 1, 1) if convolves else (-1,)
        plain: Any = target.bias
        clean = output if plain is None else output - plain.view(wide)
        added.append(across(own, site.rows) * clean)
    if site.shifts is not None:
        added.append(across(bias, site.shifts))
    if site.down is not None and site.up is not None:
        up = site.up[:, :, None, None] if convolves else site.up
        inner = through(x, site.down) * low
        added.append(F.conv2d(inner, up) if convolves else F.linear(inner, up))
    for number, part in enumerate(site.others):
        weight = others.narrow(axis, number, 1)
        if isinstance(part, Dense):
            added.append(weight * through(x, part.delta))
        elif isinstance(part, Kronecker):
            added.append(weight * kronecker(part, x, through, convolves=convolves))
    return sum(added[1:], added[0])


class Attend:
    """In place of a cross-attention's processor, for as long as a LoRA with a region is on its keys
    or values. These have neither norms nor masks of their own in any family that there is."""

    def __init__(self, field: Field, sites: dict[str, Site]) -> None:
        self._field = field
        self._sites = sites  # "to_k", "to_v"

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, **_: Any
    ) -> Tensor:
        heads, said = attn.heads, encoder_hidden_states
        query, key, value = attn.to_q(hidden_states), attn.to_k(said), attn.to_v(said)
        scale = (query.shape[-1] / heads) ** -0.5
        masks = self._field.along(hidden_states.shape[1])[:, :, None]

        def split(x: Tensor) -> Tensor:
            return x.reshape(*x.shape[:-1], heads, -1).transpose(1, 2)

        queries, keys, values, where = [split(query)], [split(key)], [split(value)], []
        for number, mask in enumerate(masks):
            more = self._delta("to_k", key, said, number)
            if more is not None:
                queries.append(split(query * mask))
                keys.append(split(more))
            more = self._delta("to_v", value, said, number)
            if more is not None:
                values.append(split(more))
                where.append(mask)
        found = F.scaled_dot_product_attention(
            torch.cat(queries, -1), torch.cat(keys, -1), torch.cat(values, -1), scale=scale
        )
        plain, *rest = (one.transpose(1, 2).flatten(2) for one in found.chunk(len(values), dim=-1))
        for mask, one in zip(where, rest, strict=True):
            plain = plain + mask * one
        out: Tensor = attn.to_out[1](attn.to_out[0](plain))
        return out

    def _delta(self, name: str, output: Tensor, said: Tensor, region: int) -> Tensor | None:
        """What the LoRAs of a region add to the keys or values; None: nothing."""
        site = self._sites.get(name)
        if site is None or not site.active:
            return None
        own = self._field.of(region, tuple(lora for lora, _ in site.slots))
        if not bool(own.any()):
            return None
        if site.rows is not None:  # then the module's own is asked for, without others' additions
            target: Any = site.target
            output = F.linear(said, target.weight, target.bias)
        return delta(site, said, output, site.v * own.to(site.v))
