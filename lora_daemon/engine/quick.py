"""What torch does on a GPU in many kernels, in few: group norms with the SiLU after them, gated
units, and maps that keep their layout.

All maps are channels_last, as convolutions on a GPU want them. Torch's own group norm takes and
gives channel by channel, so that each is copied there and back, forward and on the way back, and a
group's sums are one block's work however large the map is. What is frozen has no gradient here.
"""

from __future__ import annotations

import inspect
import sys
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.activations import GEGLU
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn

ELEMENTS = 4096  # that a program has before it at once
PROGRAMS = 1024  # about so many are enough for any device
MOST_PARTS = 64
BLOCK = 1024
_LAST = ("hidden_states", "residual", "batch_size", "height", "width", "inner_dim")


def quicken(network: nn.Module) -> None:
    """Let a frozen network on a GPU compute so, if there is Triton and a compiler for it; else it
    stays as it was."""
    device = next(network.parameters()).device
    if device.type != "cuda" or not _kernels(device):
        return
    for module in network.modules():
        if isinstance(module, ResnetBlock2D) and module.time_embedding_norm == "default":
            if isinstance(module.nonlinearity, nn.SiLU):
                for norm in (module.norm1, module.norm2):
                    _replace(norm, normed, silu=True)
                module.nonlinearity = _OfVectors()
        elif isinstance(module, Transformer2DModel):
            name = "_get_output_for_continuous_inputs"
            own = getattr(module, name, None)
            if own and tuple(inspect.signature(own).parameters) == _LAST:
                setattr(module, name, partial(added, module))
        elif type(module) is GEGLU:
            _replace(module, gated)
    for module in network.modules():
        if isinstance(module, nn.GroupNorm) and "forward" not in vars(module):
            _replace(module, normed, silu=False)


def _replace(module: Any, forward: Any, **options: bool) -> None:
    module.forward = partial(forward, module, **options)


class _OfVectors(nn.Module):
    """SiLU of what is no map: of a timestep's embedding. A map had it with its norm."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.dim() == 4 else F.silu(x)


def normed(norm: nn.GroupNorm, x: Tensor, *, silu: bool) -> Tensor:
    """A map, (n, channels, h, w), normed; in channels_last. Anything else, and what is being
    compiled, which is fused by the compiler, goes through torch's own."""
    if x.dim() != 4 or norm.weight is None or torch.compiler.is_compiling():
        plain = F.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)
        return F.silu(plain) if silu else plain
    run: Any = _Norm.apply
    out: Tensor = run(x, norm.weight, norm.bias, norm.num_groups, norm.eps, silu)
    return out


def gated(unit: Any, x: Tensor, *_: Any, **__: Any) -> Tensor:
    """Rows (…, in) to (…, out): of 2 · out columns the first half, each by GELU of its other."""
    columns = unit.proj(x)
    if torch.compiler.is_compiling():
        first, gate = columns.chunk(2, dim=-1)
        return first * F.gelu(gate)  # type: ignore[no-any-return]
    run: Any = _Gate.apply
    out: Tensor = run(columns)
    return out


def added(
    block: Any, hidden_states: Tensor, residual: Tensor, batch_size: int, height: int, width: int,
    inner_dim: int,
) -> Tensor:  # fmt: skip
    """What the transformer of a UNet gives, added to the map that it was given. Diffusers' own
    copies its rows into a map channel by channel on the way."""
    if block.use_linear_projection:
        hidden_states = block.proj_out(hidden_states)
    rows = hidden_states.reshape(batch_size, height, width, inner_dim).permute(0, 3, 1, 2)
    return (rows if block.use_linear_projection else block.proj_out(rows)) + residual


class _Norm(torch.autograd.Function):
    """y = γ x̂ + β, and its SiLU if wanted."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool
    ) -> Tensor:  # fmt: skip
        kernels = _kernels(x.device)
        x = x.contiguous(memory_format=torch.channels_last)
        out, kept = torch.empty_like(x), x.new_empty((len(x) * groups, 2), dtype=torch.float32)
        grid, sizes, shape = _shared_out(x, groups)
        sums = kept.new_empty((*grid, 2))
        kernels.moments[grid](x, sums, *sizes, **shape)
        kernels.normed[grid](
            x, out, sums, kept, weight, bias, *sizes, eps,
            PARTS=MOST_PARTS, SILU=silu, **shape,
        )  # fmt: skip
        ctx.save_for_backward(x, weight, bias, kept)
        ctx.groups, ctx.silu = groups, silu
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, kept = ctx.saved_tensors
        kernels = _kernels(x.device)
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        out = torch.empty_like(x)
        grid, sizes, shape = _shared_out(x, ctx.groups)
        sums = kept.new_empty((*grid, 2))
        given = (sums, kept, weight, bias, *sizes)
        kernels.gradient_sums[grid](x, gradient, *given, SILU=ctx.silu, **shape)
        kernels.gradients[grid](
            x, gradient, out, *given, PARTS=MOST_PARTS, SILU=ctx.silu, **shape
        )  # fmt: skip
        return out, None, None, None, None, None


def _shared_out(x: Tensor, groups: int) -> tuple[tuple[int, int], tuple[int, ...], dict[str, int]]:
    """The grid of programs, (n groups, parts); groups, channels of a group, places, and parts; and
    how many channels and places a program has before it at once."""
    count, channels, height, width = x.shape
    wide = channels // groups
    padded = 1 << (wide - 1).bit_length()
    rows = max(1, ELEMENTS // padded)
    places = height * width
    parts = min(-(-places // rows), MOST_PARTS, max(1, PROGRAMS // (count * groups)))
    return (count * groups, parts), (groups, wide, places, parts), {
        "PADDED": padded, "ROWS": rows,
    }  # fmt: skip


class _Gate(torch.autograd.Function):
    """y = a · GELU(b) of columns a | b (https://arxiv.org/abs/2002.05202)."""

    @staticmethod
    def forward(ctx: Any, columns: Tensor) -> Tensor:
        columns = columns.contiguous()
        out = columns.new_empty((*columns.shape[:-1], columns.shape[-1] // 2))
        wide = out.shape[-1]
        grid = (out.numel() // wide, -(-wide // BLOCK))
        _kernels(out.device).gate[grid](columns, out, wide, BLOCK=BLOCK)
        ctx.save_for_backward(columns)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (columns,) = ctx.saved_tensors
        gradient, out = gradient.contiguous(), torch.empty_like(columns)
        wide = gradient.shape[-1]
        grid = (gradient.numel() // wide, -(-wide // BLOCK))
        _kernels(out.device).gate_gradient[grid](columns, gradient, out, wide, BLOCK=BLOCK)
        return out


@cache
def _kernels(device: torch.device) -> Any:
    """The kernels; None where they cannot be had, of which the worker's log says why."""
    try:
        from lora_daemon.engine import quick_kernels

        x = torch.ones(2, 4, device=device)
        quick_kernels.gate[(2, 1)](x, torch.empty_like(x[:, :2]), 2, BLOCK=BLOCK)
        torch.cuda.synchronize(device)
    except Exception as error:  # no Triton, no C compiler, no headers: each fails in its way
        print(f"Without kernels of our own: {error!r}.", file=sys.stderr, flush=True)
        return None
    return quick_kernels
