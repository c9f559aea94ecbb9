"""LoRA files live on a base: Y = (W + Σ wᵢ·sᵢ·BᵢAᵢ) X, exactly, with nothing fused.

All low-rank pairs on one module are stacked into one, Y = W X + B (v ⊙ (A X)), so that N LoRAs
cost one extra product each way, and a change of weight writes the vector v in place. v is always
computed anew from the weights, so nothing drifts. Taken off, the base is bit for bit as it was.
Where it pays, the pairs of the denoiser are folded into second weights instead (``folded.py``).
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_daemon.engine import folded, regions
from lora_daemon.engine.bases import Base
from lora_daemon.engine.folded import Folds
from lora_daemon.engine.parts import Dense, Kronecker, LowRank, Part, kronecker
from lora_daemon.pipe import LoraFile
from shared import blocks
from shared.blocks import TEXT
from shared.pictures import LoraUse, steps_between
from shared.regions import Region


@dataclass(frozen=True)
class Placed:
    """One module of a LoRA file, placed on a base. All tensors are float32 on the CPU.

    ``magnitude``: a DoRA's, (out,), or (in,) where ``columns``. ``bias``: what is added to the
    module's own, (out,). ``factors``: what ``part`` was made of, by role.
    """

    network: str  # "unet", "transformer", "text_encoder" or "text_encoder_2"
    path: str
    part: Part
    scale: float  # alpha / rank
    magnitude: Tensor | None = None
    columns: bool = False
    bias: Tensor | None = None
    factors: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Strength:
    """The weight of one LoRA. ``text``: on the text encoders; None: as on the UNet.
    ``values``: per block, as ``shared.blocks`` reads them; they multiply the weights. ``region``:
    where in the picture it acts. Words have no place: with a region, None leaves the text encoders
    alone. ``guidance``: how much further pictures are guided along what it adds."""

    unet: float = 1.0
    text: float | None = None
    values: tuple[float, ...] = ()
    region: Region | None = None
    guidance: float = 0.0


@dataclass(frozen=True)
class Further:
    """A LoRA along which a step goes further: ε + scale · (ε − ε without it), both with the prompt.
    ``without``: the base without it; tells whether prompts may say something else there."""

    scale: float
    without: Callable[[], contextlib.AbstractContextManager[bool]]


@dataclass(frozen=True)
class Turned:
    """What the next step is made with. ``anew``: prompts are to be read again."""

    anew: bool = False
    further: Sequence[Further] = ()


@dataclass(eq=False)
class Site:
    """What is stacked on one module. ``slots``: (LoRA, block) of each entry of ``v``.
    ``name``: the module's path, its network first. ``of_prompt``: the keys or values of a
    cross-attention."""

    target: nn.Module
    name: str = ""
    down: Tensor | None = None  # (Σr, in, *kernel)
    up: Tensor | None = None  # (out, Σr)
    others: list[Part] = field(default_factory=list)
    rows: Tensor | None = None  # (n, out): dᵢ − 1 of row DoRAs
    shifts: Tensor | None = None  # (n, out): biases
    slots: list[tuple[int, str]] = field(default_factory=list)
    scales: list[float] = field(default_factory=list)
    v: Tensor = field(default_factory=lambda: torch.zeros(0))
    active: bool = False
    of_prompt: bool = False

    @property
    def of_text(self) -> bool:
        """Whether it is a text encoder's."""
        return self.slots[0][1] == TEXT


class Mix:
    """LoRAs stacked on a base, each with a weight that can be changed at any time, between two
    denoising steps as well. All begin at 1.

    ``loras``: the modules of each. Hold on to a Mix only as long as to its base.
    """

    def __init__(self, base: Base, loras: Sequence[Sequence[Placed]]) -> None:
        self.base, self.count = base, len(loras)
        layers, denoiser = base.block_layers, base.family.denoiser
        members: dict[tuple[str, str], list[tuple[int, Placed]]] = {}
        for number, modules in enumerate(loras):
            for module in modules:
                members.setdefault((module.network, module.path), []).append((number, module))
        self.sites: list[Site] = []
        self._attentions: dict[str, dict[str, Site]] = {}  # those whose keys or values are changed
        self._field: regions.Field | None = None  # where they act; None: all everywhere
        self._attending: regions.Field | None = None
        self._plain: dict[str, Any] = {}  # processors that are put aside
        self._folds: Folds | None = None
        self._folding = False
        for (network, path), placed in members.items():
            label = blocks.label(path, layers) if network == denoiser else TEXT
            target = getattr(base, network).get_submodule(path)
            site = _site(target, label, placed)
            site.name = f"{network}.{path}"
            self.sites.append(site)
            around, _, role = path.rpartition(".")
            if network == "unet" and role in ("to_k", "to_v"):
                attention: Any = base.unet.get_submodule(around)
                site.of_prompt = bool(attention.is_cross_attention)
                if site.of_prompt:
                    self._attentions.setdefault(around, {})[role] = site
        self._labels = sorted({label for site in self.sites for _, label in site.slots})
        column = {label: number for number, label in enumerate(self._labels)}
        every = [slot for site in self.sites for slot in site.slots]
        self._slots = torch.tensor([n * len(column) + column[label] for n, label in every])
        self._scales = torch.tensor(
            [scale for site in self.sites for scale in site.scales], dtype=torch.float64
        )
        self._vectors: list[tuple[Tensor, slice]] = []
        self._give_vectors()
        self.set([Strength()] * self.count)

    def _give_vectors(self) -> None:
        """One vector a network (their dtypes may differ); each site's is a view of it."""
        begin = 0
        for _, group in itertools.groupby(self.sites, key=_kind):
            sites = list(group)
            length = sum(len(site.slots) for site in sites)
            vector = torch.zeros(length, **_kind(sites[0]))
            self._vectors.append((vector, slice(begin, begin + length)))
            for site, v in zip(
                sites, torch.split(vector, [len(s.slots) for s in sites]), strict=True
            ):
                site.v = v
            begin += length

    @property
    def further(self) -> list[Further]:
        """The LoRAs along which pictures are guided."""
        return [
            Further(one.guidance, partial(self._without, number))
            for number, one in enumerate(self._given)
            if one.guidance and (one.unet or one.text)
        ]

    @contextlib.contextmanager
    def _without(self, left_out: int) -> Iterator[bool]:
        given = self._given
        self.set(
            [
                replace(one, unet=0.0, text=0.0) if number == left_out else one
                for number, one in enumerate(given)
            ]
        )
        try:
            yield self.speaks
        finally:
            self.set(given)

    @property
    def speaks(self) -> bool:
        """Whether a LoRA changes a text encoder: then a weight changes what a prompt says."""
        return TEXT in self._labels

    def set(self, strengths: Sequence[Strength]) -> None:
        """Give each LoRA its weight. Takes effect at the next denoising step; a text encoder's
        part at the next prompt encoded. Raises LoraError: BAD_REQUEST for block weights that do not
        fit the base, NOT_FOUND or INVALID_FILE for a mask picture; nothing is changed then."""
        table = [self._row(one) for one in strengths]
        if len(table) != self.count:
            raise ValueError(f"{len(table)} weights for {self.count} LoRAs")
        wanted = tuple(one.region for one in strengths)
        if not any(wanted):
            self._field = None
        elif self._field is None or self._field.regions != wanted:
            self._field = regions.Field(wanted)
        values = torch.tensor(table, dtype=torch.float64).flatten()
        vector = values[self._slots] * self._scales if len(self._slots) else values[:0]
        for kept, span in self._vectors:
            kept.copy_(vector[span])
        column = {label: number for number, label in enumerate(self._labels)}
        for site in self.sites:
            site.active = any(table[lora][column[label]] for lora, label in site.slots)
        self._given = list(strengths)
        if self._folds is not None:
            self._folds.stale = True

    def _row(self, strength: Strength) -> list[float]:
        """The weight of one LoRA in each of ``self._labels``."""
        unet = strength.unet
        text = strength.text
        if text is None:
            text = unet if strength.region is None else 0.0
        if not strength.values:
            return [text if label == TEXT else unet for label in self._labels]
        known = blocks.factors(strength.values, self.base.denoiser.config)
        return [
            text * known[blocks.BASE] if label == TEXT else unet * known[label]
            for label in self._labels
        ]

    @contextlib.contextmanager
    def on(self, *, fold: bool = False) -> Iterator[None]:
        """The base with these LoRAs, for as long as the context lasts. ``fold``: what acts in the
        whole picture is folded into the denoiser's weights, if ``folds``."""
        hooks = [site.target.register_forward_hook(self._hook(site)) for site in self.sites]
        hooks.append(self.base.unet.register_forward_pre_hook(self._look))
        self._folding = fold and self.folds
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            self._folding = False
            if self._folds is not None:
                self._folds.take_off()
            self._attend(None)

    @property
    def folds(self) -> bool:
        """Whether it can be folded: there is room for it, and it would not be less exact."""
        if self._folds is None:
            sites = [site for site in self.sites if not site.of_text]
            if not folded.fit(sites):
                return False
            self._folds = Folds(sites)
        return True

    @property
    def size(self) -> tuple[int, int]:
        """Modules that are changed, and entries of their vectors."""
        return len(self.sites), len(self._slots)

    def fold(self) -> None:
        """Fold the present weights in. Otherwise the next denoising step does it."""
        if self._folds is not None:
            self._folds.put()

    def _hook(self, site: Site) -> Any:
        """The forward hook of a module: what is stacked on it, unless that is folded in."""
        stacked = _hook(site, self._field_of)

        def add(target: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            if self._folds is not None and self._folds.on and not site.of_text:
                return None
            found: Tensor | None = stacked(target, inputs, output)
            return found

        return add

    def _look(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Before the UNet runs: where its LoRAs act in a picture of this size, and whether their
        weights are others than those that are folded in."""
        if self._field is not None:
            height, width = inputs[0].shape[2:]
            kind = {"device": self.base.device, "dtype": self.base.dtype}
            self._field.look((height, width), self.base.pixels_per_latent, **kind)
        if self._field is not self._attending:
            self._attend(self._field)
        if self._folds is not None:
            if self._folding and self._field is None:
                self._folds.put()
            else:
                self._folds.take_off()

    def _attend(self, field: regions.Field | None) -> None:
        """Give cross-attentions the way of looking that regions need, or their own again."""
        for path, processor in self._plain.items():
            attention: Any = self.base.unet.get_submodule(path)
            attention.processor = processor
        self._plain = {}
        if field is not None:
            for path, sites in self._attentions.items():
                attention = self.base.unet.get_submodule(path)
                self._plain[path] = attention.processor
                attention.processor = regions.Attend(field, sites)
        self._attending = field

    def _field_of(self, site: Site) -> regions.Field | None:
        """Where the LoRAs act; None: everywhere, and on a text encoder."""
        return None if site.of_text else self._field


def strength(use: LoraFile | LoraUse) -> Strength:
    """At which a LoRA is asked for."""
    return Strength(
        use.weight, use.text_weight, tuple(use.blocks), use.region, use.guidance
    )  # fmt: skip


def taking_part(uses: Sequence[LoraFile | LoraUse], step: int, steps: int) -> list[Strength]:
    """Each LoRA's weight before a step, of so many: 0 outside its part of them."""
    spans = [steps_between(use.begin, use.end, steps) for use in uses]
    return [
        strength(use) if begin <= step < end else Strength(0.0)
        for use, (begin, end) in zip(uses, spans, strict=True)
    ]


def turning(
    mix: Mix, row: Callable[[int], Sequence[Strength]], given: Sequence[Strength] = ()
) -> Callable[[int], Turned]:
    """What is called before each step of a picture: sets the mix to the ``row`` of that step, where
    it is another than before (at first than ``given``)."""
    before = list(given)

    def turn(step: int) -> Turned:
        nonlocal before
        last, before = before, list(row(step))
        if before != last:
            mix.set(before)
        return Turned(before != last and mix.speaks, mix.further)

    return turn


@contextlib.contextmanager
def applied(
    base: Base, loras: Sequence[tuple[Sequence[Placed], float | Strength]]
) -> Iterator[None]:
    """The base with these LoRAs at these weights, for as long as the context lasts.

    A weight of 0 is the same as leaving the LoRA out.
    """
    strengths = [w if isinstance(w, Strength) else Strength(w) for _, w in loras]
    mix = Mix(base, [modules for modules, _ in loras])
    mix.set(strengths)
    with mix.on():
        yield


def _site(target: nn.Module, label: str, members: Sequence[tuple[int, Placed]]) -> Site:
    """Stack the members on their module. The vector's order: pairs, other parts, rows, biases."""
    weight = target.weight
    assert isinstance(weight, Tensor)
    site = Site(target)
    kind = _kind(site)
    found: list[tuple[int, float, Part]] = []
    rows, shifts = [], []
    for number, module in members:
        part, scale, share = _resolved(module, weight)
        found.append((number, scale, part))
        if share is not None:
            rows.append((number, share))
        if module.bias is not None:
            shifts.append((number, module.bias))
    pairs = [(number, scale, part) for number, scale, part in found if isinstance(part, LowRank)]
    others = [one for one in found if not isinstance(one[2], LowRank)]
    if pairs:
        site.down = torch.cat([pair.down for _, _, pair in pairs]).to(**kind)
        site.up = torch.cat([pair.up for _, _, pair in pairs], dim=1).to(**kind)
    for number, scale, pair in pairs:
        rank = pair.up.shape[1]
        site.slots += [(number, label)] * rank
        site.scales += [scale] * rank
    for number, scale, part in others:
        site.others.append(_moved(part, **kind))
        site.slots.append((number, label))
        site.scales.append(scale)
    for name, vectors in (("rows", rows), ("shifts", shifts)):
        if vectors:
            setattr(site, name, torch.stack([one for _, one in vectors]).to(**kind))
            site.slots += [(number, label) for number, _ in vectors]
            site.scales += [1.0] * len(vectors)
    return site


def _kind(site: Site) -> dict[str, Any]:
    weight = site.target.weight
    assert isinstance(weight, Tensor)
    return {"device": weight.device, "dtype": weight.dtype}


def _resolved(module: Placed, weight: Tensor) -> tuple[Part, float, Tensor | None]:
    """What a module adds at weight 1 on this base: a part, its scale and, for a DoRA of rows, the
    share d − 1 of W x itself.

    DoRA (Liu et al., https://arxiv.org/abs/2402.09353): W' = m · (W + s B A) / ‖W + s B A‖. The
    norm is that of the clean base at weight 1, so that the order of LoRAs does not matter.
    """
    if module.magnitude is None:
        return module.part, module.scale, None
    clean = weight.detach().to("cpu", torch.float64)
    changed = clean + module.scale * module.part.dense().double()
    side = 1 if module.columns else 0
    norms = changed.transpose(0, side).flatten(1).norm(dim=1)
    factors = module.magnitude.double() / norms.clamp_min(torch.finfo(torch.float32).tiny)
    if not module.columns and isinstance(module.part, LowRank):
        up = factors[:, None] * module.part.up
        return LowRank(module.part.down, up.float()), module.scale, (factors - 1).float()
    shape = [1] * clean.dim()
    shape[side] = -1
    return Dense((changed * factors.reshape(shape) - clean).float()), 1.0, None


def whole_delta(module: Placed, weight: Tensor) -> Tensor:
    """What a module adds to ``weight`` at weight 1, as one matrix. Float64."""
    part, scale, rows = _resolved(module, weight)
    delta = scale * part.dense().double()
    if rows is not None:
        delta += rows.reshape(-1, *(1 for _ in weight.shape[1:])) * weight.double()
    return delta


def _moved(part: Part, **kind: Any) -> Part:
    match part:
        case Kronecker(left, right):
            return Kronecker(left.to(**kind), right.to(**kind))
        case Dense(delta):
            return Dense(delta.to(**kind))
    raise AssertionError(part)


def _places(x: Tensor) -> Tensor:
    """(n, channels, h, w) as (n, h, w, channels): of channels_last, as all are here, a view."""
    return x.permute(0, 2, 3, 1)


def _hook(site: Site, field_of: Callable[[Site], regions.Field | None]) -> Any:
    """The forward hook that adds what is stacked on a module to the module's own output."""
    target = site.target
    convolves = isinstance(target, nn.Conv2d)
    wide: Any = (-1, 1, 1) if convolves else (-1,)
    pairs = 0 if site.up is None else site.up.shape[1]
    ends = [pairs, pairs + len(site.others)]
    ends.append(ends[-1] + (0 if site.rows is None else len(site.rows)))
    up = None if site.up is None else site.up.t()
    pointwise = isinstance(target, nn.Conv2d) and target.kernel_size == target.stride == (1, 1)

    def through(x: Tensor, matrix: Tensor) -> Tensor:
        if isinstance(target, nn.Conv2d):
            return F.conv2d(x, matrix, None, target.stride, target.padding, target.dilation)
        return F.linear(x, matrix)

    def add(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if not site.active:
            return None
        field = field_of(site)
        if field is not None:
            return regions.add(site, field, inputs[0], output)
        x, v, out = inputs[0], site.v, output
        if site.rows is not None:  # (d − 1) ⊙ W x, without the bias
            bias: Any = target.bias
            own = out if bias is None else out - bias.view(wide)
            out = out + (v[ends[1] : ends[2]] @ site.rows).view(wide) * own
        if site.shifts is not None:
            out = out + (v[ends[2] :] @ site.shifts).view(wide)
        if site.down is not None and up is not None:
            # Products of places by channels, into the output, which is the module's own and nobody
            # else's: a convolution by 1 × 1 costs as many copies again.
            if pointwise:
                low = F.linear(_places(x), site.down.flatten(1)).mul_(v[:pairs])
            elif convolves:
                low = _places(through(x, site.down)) * v[:pairs]
            else:
                low = through(x, site.down).mul_(v[:pairs])
            if convolves:
                out = out.contiguous(memory_format=torch.channels_last)
            flat = _places(out) if convolves else out
            flat.view(-1, flat.shape[-1]).addmm_(low.reshape(-1, pairs), up)
        for number, part in enumerate(site.others):
            factor = v[ends[0] + number]
            if isinstance(part, Dense):
                out = out + factor * through(x, part.delta)
            elif isinstance(part, Kronecker):
                out = out + factor * kronecker(part, x, through, convolves=convolves)
        return out

    return add
