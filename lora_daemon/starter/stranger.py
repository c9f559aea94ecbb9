"""The base's UNet in other coordinates: it computes the same, and no LoRA of the base's fits it.

Two networks trained apart differ by such symmetries, and by what they learnt (Entezari et al. 2022,
Ainsworth et al. 2023). A LoRA's factors are numbers in one network's coordinates; in another's they
mean nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

Turn = Callable[[Tensor], Tensor]  # of the rows of a matrix (out, in)


@torch.no_grad()
def estrange(unet: UNet2DConditionModel, words: Tensor, seed: int) -> None:
    """Change every weight of the UNet's attention and none of what it computes.

    In each transformer the channels are put in another order; in each head, queries and keys are
    turned by one random rotation, values by another. ``words``: the order, int64 (width,), in which
    it will be given a text's channels.
    """
    rng = torch.Generator().manual_seed(seed)
    for module in unet.modules():
        if type(module).__name__ == "Transformer2DModel":
            _reorder(module, words, rng)


def _reorder(transformer: nn.Module, words: Tensor, rng: torch.Generator) -> None:
    inner = transformer.get_parameter("proj_in.weight").shape[0]
    order = torch.randperm(inner, generator=rng)
    _rows(transformer, "proj_in", order)
    for block in transformer.get_submodule("transformer_blocks").children():
        for norm in ("norm1", "norm2", "norm3"):
            _rows(block, norm, order)
        _attention(block.get_submodule("attn1"), order, order, rng)
        _attention(block.get_submodule("attn2"), order, words, rng)
        _gated(block.get_submodule("ff"), order, rng)
    _columns(transformer, "proj_out", order)


def _attention(attention: Attention, order: Tensor, context: Tensor, rng: torch.Generator) -> None:
    heads: int = attention.heads
    for name, seen in (("to_q", order), ("to_k", context), ("to_v", context)):
        _columns(attention, name, seen)
    size = attention.get_parameter("to_q.weight").shape[0] // heads
    places = torch.randperm(heads, generator=rng)
    scores, values = _turn(places, size, rng), _turn(places, size, rng)
    for name, turn in (("to_q", scores), ("to_k", scores), ("to_v", values)):
        weight = attention.get_parameter(f"{name}.weight")
        weight.copy_(turn(weight))
    out = attention.get_parameter("to_out.0.weight")
    out.copy_(values(out.T).T)
    _rows(attention, "to_out.0", order)


def _gated(feed_forward: nn.Module, order: Tensor, rng: torch.Generator) -> None:
    """GEGLU: the first half of the rows is gated by the second."""
    _columns(feed_forward, "net.0.proj", order)
    neurons = feed_forward.get_parameter("net.2.weight").shape[1]
    shuffled = torch.randperm(neurons, generator=rng)
    _rows(feed_forward, "net.0.proj", torch.cat([shuffled, shuffled + neurons]))
    _columns(feed_forward, "net.2", shuffled)
    _rows(feed_forward, "net.2", order)


def _turn(places: Tensor, size: int, rng: torch.Generator) -> Turn:
    """Put heads in the order of ``places`` and rotate each, the same for all that it is given."""
    turns, _ = torch.linalg.qr(torch.randn(len(places), size, size, generator=rng))

    def turn(rows: Tensor) -> Tensor:
        return torch.bmm(turns, rows.reshape(len(places), size, -1)[places]).reshape(rows.shape)

    return turn


def _rows(module: nn.Module, name: str, order: Tensor) -> None:
    for what in ("weight", "bias"):
        if hasattr(module.get_submodule(name), what):
            parameter = getattr(module.get_submodule(name), what)
            if parameter is not None:
                parameter.copy_(parameter[order])


def _columns(module: nn.Module, name: str, order: Tensor) -> None:
    weight = module.get_parameter(f"{name}.weight")
    weight.copy_(weight[:, order])
