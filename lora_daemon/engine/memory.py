"""What a run takes of the device's memory, counted without that memory: on torch's meta device.

The networks are made without their numbers, and one step goes forward and back through them while
every block that torch would have allocated is counted, from the operation that makes it to the last
that needs it. So checkpointing, 16 bits, batch and size count as they are. Attention is counted as
the kernels of today do it, without the square of its length. Not counted: the CUDA context and its
libraries, some 0.5 to 0.9 GiB, and what the allocator leaves unused between blocks.
"""

from __future__ import annotations

import contextlib
import math
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
)

from lora_daemon import base_folder
from lora_daemon.engine import quantized
from lora_daemon.engine.adapters import Adapter
from lora_daemon.engine.bases import DTYPES, Base, checkpointed, flow_alphas
from lora_daemon.engine.denoisers import CLASSES
from lora_daemon.engine.encoders import TOKENS, Encoder
from lora_daemon.engine.sources import File, opened
from lora_daemon.families import Network, TextEncoder
from lora_daemon.names import denoiser_names, text_names
from shared.recipe import Recipe
from shared.wire import Objective

META = torch.device("meta")
# Bytes that an optimiser keeps for each of the LoRA's numbers.
_STATE = {
    "adamw": 8, "adamw8bit": 2, "adafactor": 1, "lion": 4, "prodigy": 16, "came": 5,
    "schedule_free": 8,
}  # fmt: skip


class Need(NamedTuple):
    """Bytes. ``frozen``: the base's weights; ``adapter``: the LoRA, its gradient, the optimiser's
    memory; ``step``: the most that one step has at once; ``encoding``: the VAE's, of one picture,
    before the first step; ``sampling``: a sample's, 0 where none is asked for."""

    frozen: int
    adapter: int
    step: int
    encoding: int
    sampling: int

    @property
    def most(self) -> int:
        """Without which there is no run: a sample for which it is not enough is decoded in tiles,
        and at worst left out."""
        return self.frozen + max(self.adapter + self.step, self.encoding)

    @property
    def peak(self) -> int:
        """What it takes where there is as much."""
        return max(self.most, self.frozen + self.adapter + self.sampling)


class Counted:
    """A base of which nothing is there but its shapes. Raises LoraError as ``bases.load``."""

    def __init__(self, path: Path, predicts: Objective | None = None) -> None:
        self._source = opened(path, predicts)
        self._path = path
        self._bases: dict[tuple[torch.dtype, str], Base] = {}
        self._steps: dict[str, int] = {}
        self._encodings: dict[int, int] = {}

    def need(self, recipe: Recipe, precision: str, pictures: int) -> Need:
        """What a recipe takes. ``precision``: fp32, bf16 or fp16; ``pictures``: in the dataset, for
        no batch is larger than an epoch."""
        base = self._hollow(DTYPES[precision], recipe.base.quantize)
        side = recipe.dataset.resolution or self.resolution
        batch = min(recipe.training.batch_size, max(1, pictures * recipe.dataset.repeats))
        adapter = _adapter(base, recipe)
        try:
            numbers, beside = adapter.vector.numel(), adapter.bytes_beside
            network, training = recipe.network, recipe.training
            twice = recipe.loss.preservation > 0
            key = (precision, recipe.base.quantize, side, batch, training.checkpointing, network,
                   twice, recipe.dataset.windows)  # fmt: skip
            if (known := repr(key)) not in self._steps:
                self._steps[known] = _step(base, adapter, recipe, side, batch)
            sampling = _sampling(base, recipe, side) if recipe.sample.prompts else 0
        finally:
            adapter.remove()
        if side not in self._encodings:
            self._encodings[side] = _encoding(base, side)
        each = 8 + _STATE[recipe.optimizer.kind] + (4 if training.ema else 0)
        kept = numbers * each + beside
        step, encoding = self._steps[known], self._encodings[side]
        return Need(frozen(base)[0], kept, step, encoding, sampling)

    @property
    def resolution(self) -> int:
        """Side in pixels of the pictures the base was made for."""
        source = self._source
        return (source.file.look if isinstance(source, File) else source.look).resolution

    def _hollow(self, dtype: torch.dtype, quantize: str) -> Base:
        if (dtype, quantize) not in self._bases:
            self._bases[dtype, quantize] = self._made(dtype, quantize)
        return self._bases[dtype, quantize]

    def _made(self, dtype: torch.dtype, quantize: str) -> Base:
        source = self._source
        family = source.family
        with META:
            encoders = [self._encoder(use, dtype, quantize) for use in family.encoders]
            denoiser = CLASSES[family.denoiser].from_config(dict(self._config(family.denoiser)))
            vae = AutoencoderKL.from_config(dict(self._config("vae")))
        quantized.settle(denoiser.requires_grad_(False).to(dtype).eval(), quantize, META)
        return Base(
            path=self._path, family=family, encoders=encoders, denoiser=denoiser,
            vae=vae.requires_grad_(False).eval(), scheduler_config={},
            device=META, dtype=dtype, objective="flow" if family.flows else "epsilon",
            alphas_cumprod=flow_alphas(),
            unet_names=denoiser_names(family, denoiser.config), quantize=quantize,
        )  # fmt: skip

    def _config(self, name: Network) -> Mapping[str, Any]:
        if isinstance(self._source, File):
            return self._source.file.configs[name]
        return base_folder.table(self._source.path / name / "config.json")

    def _encoder(self, use: TextEncoder, dtype: torch.dtype, quantize: str) -> Encoder:
        config = dict(self._config(use.network))
        if use.kind == "t5":
            model: Any = T5EncoderModel(T5Config(**config)).requires_grad_(False).to(dtype)
            quantized.settle(model, quantize, META)
            return Encoder(use, None, model, {})
        kind = CLIPTextModelWithProjection if use.pooled == "projected" else CLIPTextModel
        model = kind(CLIPTextConfig(**config)).requires_grad_(False)
        quantized.settle(model, quantize, META)
        prefix = "text_model." if hasattr(model, "text_model") else ""
        names = text_names(model.config.num_hidden_layers, prefix, use.lora_prefix)
        return Encoder(use, None, model, names)


def _adapter(base: Base, recipe: Recipe) -> Adapter:
    """The recipe's, without its dropouts, which draw numbers and keep next to nothing."""
    network = msgspec.structs.replace(
        recipe.network, dropout=0.0, rank_dropout=0.0, module_dropout=0.0
    )
    return Adapter(
        base, network, recipe.training.seed, recipe.optimizer.text_encoder_rate > 0,
        recipe.training.ema, recipe.optimizer.rates,
    )  # fmt: skip


def frozen(base: Base) -> tuple[int, int]:
    """Bytes of a base's weights, and what they would be without ``quantize``."""
    networks = [base.denoiser, base.vae, *(encoder.model for encoder in base.encoders)]
    weights = [one for network in networks for one in network.parameters()]
    whole = sum(one.numel() * one.element_size() for one in weights)
    return sum(quantized.bytes_of(one) for one in weights), whole


def _step(base: Base, adapter: Adapter, recipe: Recipe, side: int, batch: int) -> int:
    """The most bytes of one step at once, forward and back through the denoiser."""
    with checkpointed(base, recipe.training.checkpointing), _counting() as count:
        noisy, timesteps, text = _given(base, recipe, side, batch)
        target = torch.empty_like(noisy)
        loss = F.mse_loss(base.denoise(noisy, timesteps, text), target)
        if recipe.loss.preservation:
            loss = loss + F.mse_loss(base.denoise(noisy, timesteps, text), target)
        loss.backward()  # type: ignore[no-untyped-call]
    return count.most


@torch.no_grad()
def _encoding(base: Base, side: int) -> int:
    with _counting() as count:
        base.encode_pixels(torch.empty((1, 3, side, side), device=META))
    return count.most


@torch.no_grad()
def _sampling(base: Base, recipe: Recipe, side: int) -> int:
    """The most bytes of one sample at once: a step with guidance, or the VAE, which decodes it
    whole."""
    guided = recipe.sample.cfg > 1 and not base.distilled
    with _counting() as count:
        latents, timesteps, text = _given(base, recipe, side, 1 + guided)
        base.denoise(latents, timesteps, text)
        base.decode_latents(latents[:1])
    return count.most


def _given(base: Base, recipe: Recipe, side: int, batch: int) -> tuple[Tensor, Tensor, Tensor]:
    """What the denoiser is given: latents, timesteps, and what captions say to it."""
    scale = base.pixels_per_latent
    windows = recipe.dataset.windows
    width = sum(one.width for one in base.encoders)
    rows = next(
        (one.use.length for one in base.encoders if one.use.kind == "t5"),
        TOKENS + (windows - 1) * (TOKENS - 2),
    )
    rows += sum(-(-one.pooled_width // width) for one in base.encoders)
    return (
        torch.empty((batch, base.latent_channels, side // scale, side // scale), device=META),
        torch.zeros(batch, dtype=torch.int64, device=META),
        torch.empty((batch, rows, width), device=META, dtype=base.dtype),
    )


class _Allocations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the storages that operations make, for as long as each lives."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = 0
        self._alive: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:  # fmt: skip
        given = {
            one.untyped_storage()._cdata
            for one in tree_leaves((args, kwargs))
            if isinstance(one, Tensor)
        }
        out = func(*args, **(kwargs or {}))
        for one in tree_leaves(out):
            if not isinstance(one, Tensor) or one.device != META:
                continue
            storage = one.untyped_storage()
            if storage._cdata in given or storage._cdata in self._alive:
                continue  # a view, or what was written in place
            self._alive.add(storage._cdata)
            weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())
            self.now += storage.nbytes()
            self.most = max(self.most, self.now)
        return out

    def _gone(self, storage: int, size: int) -> None:
        self._alive.discard(storage)
        self.now -= size


class _Attention(torch.autograd.Function):
    """What a fused attention keeps for going back: its inputs, its output, a number a row."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = query.new_empty((*query.shape[:-1], value.shape[-1]))
        rows = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, out, rows)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        query, key, value, _, _ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
    out: Tensor = _Attention.apply(query, key, value)  # type: ignore[no-untyped-call]
    return out


@contextlib.contextmanager
def _counting() -> Iterator[_Allocations]:
    """Count what is allocated. On the meta device torch would take attention apart, which it does
    on no other; replaced for all, because going back computes it where no mode is seen."""
    real = F.scaled_dot_product_attention
    F.scaled_dot_product_attention = _attention
    try:
        with _Allocations() as count:
            yield count
    finally:
        F.scaled_dot_product_attention = real


def in_words(number: float) -> str:
    """Bytes as GiB, or as MiB where that says more."""
    if number < 0.1 * 2**30:
        return f"{math.ceil(number / 2**20)} MiB"
    return f"{number / 2**30:.1f} GiB"
